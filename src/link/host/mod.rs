//! The way in from outside, for root on the engine's own machine: through the host's view of the
//! container's first process.
//!
//! ```text
//! pid (inspect) ─▶ /proc/PID, held open: all below is this process's, or nothing
//!                    ├─ cgroup   names the container's id, else it is not the container's
//!                    ├─ root     the system bus socket below it, resolved inside it only
//!                    └─ ns/net   ports are dialled from a thread in it
//! ```
//!
//! A container owns what is below its root: links there must lead nowhere else, what listens there
//! must be its own, and a dead mount there may hang whoever looks. Hence `openat2` with
//! `RESOLVE_IN_ROOT`, the peer's credentials, and threads of their own.

mod port;
mod process;
mod threads;

use std::{
    os::fd::{AsRawFd as _, OwnedFd},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use rustix::time::{ClockId, clock_gettime};
use tokio::{
    net::UnixStream,
    sync::{Mutex, OnceCell},
    time::Instant,
};
use zbus::conn::AuthMechanism;

use super::{
    BRIDGE, HOST, Link, LinkError, Place, Told,
    bus::{BUS_LIMIT, BusSlot},
    command::Commands,
    journal::Journals,
};
use crate::{
    question::{Answer, Question},
    runtime::ContainerId,
    systemd::{
        dbus::{Bus, MonotonicNow},
        stream::ByteStream,
    },
    text::said,
    unit::{SystemdLook, UnitQuestion},
};
use process::Process;
pub(super) use threads::Threads;

/// The system bus's socket (D-Bus specification, "Well-known Message Bus Instances"), below the
/// node's root. `/var/run` is a link to `/run` where systemd runs.
const BUS_SOCKET: &str = "run/dbus/system_bus_socket";

/// How long a path below a node's root may take to be resolved.
const RESOLVE_LIMIT: Duration = Duration::from_secs(1);

/// The way into one container from outside.
pub(crate) struct HostLink {
    place: Place,
    threads: Arc<Threads>,
    process: OnceCell<Arc<Process>>,
    bus: BusSlot,
    /// sshd refuses bursts (`MaxStartups`): one banner at a time is read of a node.
    dialling: Mutex<()>,
    commands: Commands,
    journals: Journals,
}

impl HostLink {
    pub(super) fn new(place: Place, threads: Arc<Threads>) -> Self {
        Self {
            threads,
            process: OnceCell::new(),
            bus: BusSlot::default(),
            dialling: Mutex::default(),
            commands: Commands::lasting(place.clone()),
            journals: Journals::default(),
            place,
        }
    }

    /// The container's first process.
    async fn process(&self) -> Result<&Arc<Process>, LinkError> {
        let open = async {
            let container = &self.place.container;
            let pid = container.pid.ok_or_else(|| {
                LinkError::Unusable("the engine tells no process of the container".to_owned())
            })?;
            Process::open(pid, &container.id).map(Arc::new)
        };
        let process = self.process.get_or_try_init(|| open).await?;
        if process.has_ended() {
            return Err(LinkError::NotRunning);
        }
        Ok(process)
    }

    async fn look(&self, question: &UnitQuestion, by: Instant) -> Result<SystemdLook, LinkError> {
        let process = self.process().await?;
        // Before the look: see MonotonicNow. A node with a clock of its own tells no ages.
        let now = process.shares_clock().then(monotonic);
        let connect = || self.connect(process, by);
        let mut look = self
            .bus
            .look(&self.place, question, now, by, connect)
            .await?;
        self.journals
            .read(&self.commands, question, &mut look, by)
            .await;
        Ok(look)
    }

    async fn connect(&self, process: &Arc<Process>, by: Instant) -> Result<Bus, LinkError> {
        let root = Arc::clone(process);
        let id = &self.place.container.id;
        let resolve = self.threads.run(id, move || root.below(BUS_SOCKET));
        let what = "resolving the path of the node's D-Bus socket";
        let socket = self
            .place
            .within(what, RESOLVE_LIMIT, by, async { resolve.await? });
        let socket = socket.await.map_err(|error| match error {
            // A dead mount: what is in the node may still see it otherwise.
            error @ LinkError::Slow { .. } => LinkError::Unusable(error.to_string()),
            other => other,
        })?;
        let stream = dial(&socket, id).await?;
        // What was opened is still this container's only if its process lives.
        if process.has_ended() {
            return Err(LinkError::NotRunning);
        }
        let connect = async { Ok(Bus::connect(stream).await?) };
        self.place
            .within("the node's D-Bus", BUS_LIMIT, by, connect)
            .await
    }
}

/// Connects to a socket that is held open, if its peer is the container's.
async fn dial(socket: &OwnedFd, id: &ContainerId) -> Result<ByteStream, LinkError> {
    // The link in /proc leads to the socket itself, whatever its path leads to by now. The
    // connection never blocks: where nobody accepts, it is refused.
    let path = format!("/proc/self/fd/{}", socket.as_raw_fd());
    let stream = UnixStream::connect(path)
        .await
        .map_err(|error| LinkError::NoBus(format!("its socket: {}", said(&error))))?;
    let peer = stream.peer_cred().ok().and_then(|peer| peer.pid());
    let own = peer.is_some_and(|pid| process::is_of(pid, id));
    if !own {
        return Err(LinkError::NoBus(
            "its socket leads out of the container".to_owned(),
        ));
    }
    let (read, write) = stream.into_split();
    Ok(ByteStream {
        read: Box::pin(read),
        write: Box::pin(write),
        auth: AuthMechanism::External,
    })
}

fn monotonic() -> MonotonicNow {
    let now = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanos = u32::try_from(now.tv_nsec).unwrap_or(0);
    MonotonicNow(Duration::new(seconds, nanos))
}

#[async_trait]
impl Link for HostLink {
    async fn systemd(&self, question: &UnitQuestion, by: Instant) -> Told<SystemdLook> {
        Told::by(HOST, self.look(question, by).await)
    }

    async fn ask(&self, question: &Question, by: Instant) -> Told<Answer> {
        if matches!(question, Question::Command { .. }) {
            // It runs in the node's shell, which is the bridge's way.
            return Told::by(BRIDGE, self.commands.ask(question, by).await);
        }
        let dialled = async {
            let process = self.process().await?;
            let _turn = self.dialling.lock().await;
            port::ask(&self.place, &self.threads, process, question, by).await
        };
        Told::by(HOST, dialled.await)
    }
}
