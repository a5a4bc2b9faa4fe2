//! The way in from outside, for root on the engine's own machine: through the host's view of the
//! container's first process.
//!
//! ```text
//! pid (inspect) ─▶ /proc/PID, held open: every file below is this process's, or cannot be opened
//!                    ├─ cgroup   names the container's id, else the process is not the container's
//!                    ├─ root     the system bus's socket below it, resolved inside it only
//!                    └─ ns/net   ports are dialled from a thread in it
//! ```
//!
//! A container owns everything below its root. Symbolic links there must lead nowhere else, a
//! listener there must be the container's own, and a dead mount there may hang any thread that
//! resolves a path. Hence `openat2` with `RESOLVE_IN_ROOT`, a check of the peer's credentials, and
//! separate threads.

mod daemon;
mod listeners;
mod port;
mod process;
mod settings;
mod threads;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use rustix::time::{ClockId, clock_gettime};
use tokio::{
    net::UnixStream,
    sync::{Mutex, OnceCell},
    time::Instant,
};
use zbus::conn::AuthMechanism;

use super::{
    BRIDGE, HOST, Link, LinkError, Reply, Target,
    bus::{BUS_LIMIT, BusSlot},
    command::Commands,
    journal::Journals,
};
use crate::{
    inbox::Inbox,
    question::{Answer, DaemonQuestion, PortQuestion, Question, SettingQuestion},
    systemd::{
        dbus::{Bus, MonotonicNow},
        signals::Listeners,
        stream::ByteStream,
    },
    text::said,
    unit::{SystemdState, UnitQuestion},
};
use process::Process;
pub(super) use threads::Threads;

/// The system bus's socket (D-Bus specification, "Well-known Message Bus Instances"), below the
/// node's root. `/var/run` is a symbolic link to `/run` where systemd runs.
const BUS_SOCKET: &str = "run/dbus/system_bus_socket";

/// How long the resolution of a path below a node's root may take.
const RESOLVE_LIMIT: Duration = Duration::from_secs(1);

/// The way into one container from outside.
pub(crate) struct HostLink {
    target: Target,
    threads: Arc<Threads>,
    process: OnceCell<Arc<Process>>,
    proc: daemon::NodeProc,
    bus: BusSlot,
    /// Held while a port is dialled. sshd refuses bursts (`MaxStartups`), so one banner at a time
    /// is read from a node.
    dialling: Mutex<()>,
    commands: Commands,
    journals: Journals,
}

impl HostLink {
    pub(super) fn new(target: Target, threads: Arc<Threads>) -> Self {
        Self {
            threads,
            process: OnceCell::new(),
            proc: daemon::NodeProc::default(),
            bus: BusSlot::default(),
            dialling: Mutex::default(),
            commands: Commands::lasting(target.clone()),
            journals: Journals::default(),
            target,
        }
    }

    /// The container's first process.
    async fn process(&self) -> Result<&Arc<Process>, LinkError> {
        let open = async {
            let container = &self.target.container;
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

    async fn look(
        &self,
        question: &UnitQuestion,
        listener: Option<&Arc<Inbox>>,
        by: Instant,
    ) -> Result<SystemdState, LinkError> {
        let process = self.process().await?;
        // The clock is read before the query: see `MonotonicNow`. A node with a clock of its own
        // gets no ages.
        let now = process.shares_clock().then(monotonic);
        let connect = || self.connect(process, by);
        let mut look = self
            .bus
            .look(&self.target, question, now, listener, by, connect)
            .await?;
        self.journals
            .read(&self.commands, question, &mut look, by)
            .await;
        Ok(look)
    }

    async fn connect(&self, process: &Arc<Process>, by: Instant) -> Result<Bus, LinkError> {
        let (held, id) = (Arc::clone(process), self.target.container.id.clone());
        let connect = move || held.connect(BUS_SOCKET, &id);
        let due = by.min(self.target.environment.now() + RESOLVE_LIMIT);
        let connected = self.threads.among_paths(&self.target, due, connect);
        let what = "the path of the node's D-Bus socket";
        let stream = self
            .target
            .within(what, RESOLVE_LIMIT, by, async { connected.await? });
        let stream = stream.await.map_err(|error| match error {
            // The path leads to a dead mount, but a process in the node may still see it otherwise.
            error @ LinkError::Slow { .. } => LinkError::Unusable(error.to_string()),
            other => other,
        })?;
        // The opened socket is still this container's only if its process lives.
        if process.has_ended() {
            return Err(LinkError::NotRunning);
        }
        let stream = UnixStream::from_std(stream)
            .map_err(|error| LinkError::Broken(format!("the node's D-Bus: {}", said(&error))))?;
        let (read, write) = stream.into_split();
        let stream = ByteStream {
            read: Box::pin(read),
            write: Box::pin(write),
            auth: AuthMechanism::External,
            listeners: Arc::new(Listeners::new(self.target.signals.clone())),
        };
        let connect = async { Ok(Bus::connect(stream).await?) };
        self.target
            .within("the node's D-Bus", BUS_LIMIT, by, connect)
            .await
    }

    async fn setting(&self, question: &SettingQuestion, by: Instant) -> Result<Answer, LinkError> {
        let process = self.process().await?;
        settings::ask(&self.target, &self.threads, process, question.key, by).await
    }

    async fn daemon(&self, question: &DaemonQuestion, by: Instant) -> Result<Answer, LinkError> {
        let process = self.process().await?;
        daemon::ask(
            &self.target,
            &self.threads,
            process,
            &self.proc,
            question,
            by,
        )
        .await
    }

    /// Dials a port, when no other caller does.
    async fn dial(&self, question: &PortQuestion, by: Instant) -> Result<Answer, LinkError> {
        let process = self.process().await?;
        let busy = |why| LinkError::Busy {
            what: question.to_string(),
            why,
        };
        let start = self.target.environment.now();
        let _turn = tokio::select! {
            biased;
            turn = self.dialling.lock() => turn,
            () = self.target.environment.sleep_until(by) => {
                return Err(busy("others who asked the node have not had their answers yet"));
            }
        };
        let now = self.target.environment.now();
        let answered = port::ask(&self.target, &self.threads, process, question, by).await;
        // If other callers took most of the time, the node is not to blame for a late reply.
        match answered {
            Err(LinkError::Slow { limit: None, .. }) if now - start > by - now => {
                Err(busy("getting to ask took most of the time"))
            }
            other => other,
        }
    }
}

fn monotonic() -> MonotonicNow {
    let now = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanos = u32::try_from(now.tv_nsec).unwrap_or(0);
    MonotonicNow(Duration::new(seconds, nanos))
}

#[async_trait]
impl Link for HostLink {
    async fn systemd(
        &self,
        question: &UnitQuestion,
        listener: Option<&Arc<Inbox>>,
        by: Instant,
    ) -> Reply<SystemdState> {
        Reply::by(HOST, self.look(question, listener, by).await)
    }

    async fn ask(&self, question: &Question, by: Instant) -> Reply<Answer> {
        match question {
            Question::Port(question) => Reply::by(HOST, self.dial(question, by).await),
            Question::Daemon(question) => Reply::by(HOST, self.daemon(question, by).await),
            Question::Setting(question) => Reply::by(HOST, self.setting(question, by).await),
            // The command runs in the node's shell, which is the bridge's way.
            Question::Command(_) => Reply::by(BRIDGE, self.commands.ask(question, by).await),
        }
    }

    fn is_surely_missing(&self, process: &'static str) -> bool {
        let Some((first, proc)) = self.process.get().zip(self.proc.get()) else {
            return false;
        };
        // A node that has ended has no processes, but that is not what was asked.
        daemon::is_surely_missing(proc, process, &self.target.container.id) && !first.has_ended()
    }

    async fn process_end(&self, pid: u32) {
        if let Some(process) = self.process.get()
            && let Some(own) = process.find(pid, &self.target.container.id)
            && own.end().await.is_ok()
        {
            return;
        }
        std::future::pending::<()>().await;
    }
}
