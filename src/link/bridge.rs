//! The way in through long-lived execs: `systemd-stdio-bridge` leads to the node's system bus, and
//! a shell runs the commands that have to run in the node.

use std::{
    collections::HashMap,
    io::{self, Cursor},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use futures_util::StreamExt as _;
use tokio::time::Instant;
use tokio_util::io::StreamReader;
use zbus::conn::AuthMechanism;

use super::{
    BRIDGE, Link, LinkError, Reply, Target,
    bus::{BUS_LIMIT, BusSlot},
    command::{Commands, lossy},
    journal::Journals,
};
use crate::{
    engine::{EngineError, Exec, ExecChunk, ExecStreams},
    inbox::Inbox,
    question::{Answer, Question},
    systemd::{
        dbus::Bus,
        signals::{Listeners, SignalCounter},
        stream::ByteStream,
        systemctl,
    },
    text::{clean, truncate},
    unit::{SystemdState, Unit, UnitQuestion},
};

/// Starts the bridge. A node without one prints a phrase that no engine uses. The bridge ends with
/// its standard input; if that never ends (the network was cut), `timeout` ends the bridge after an
/// hour.
const START: &str = "\
command -v systemd-stdio-bridge >/dev/null 2>&1 || { echo 'no such bridge' >&2; exit 127; }
export SYSTEMD_LOG_TARGET=console
command -v timeout >/dev/null 2>&1 && exec timeout -k 1 3600 systemd-stdio-bridge
exec systemd-stdio-bridge";

/// How much of the bridge's output beside D-Bus is kept for an error, and how much is read.
const COMPLAINT_CAP: usize = 1024;
const COMPLAINT_READ: usize = 64 * 1024;

/// From this age on, a unit's age is kept; a younger unit's age is worth measuring anew.
const AGED: Duration = Duration::from_secs(1);

/// The way into one container through its bridge and its shell.
pub(crate) struct BridgeLink {
    target: Target,
    bus: BusSlot,
    commands: Commands,
    journals: Journals,
    ages: Mutex<HashMap<String, Aged>>,
}

/// A unit that has been active under the same process for at least this long.
#[derive(Debug, Clone)]
struct Aged {
    unit: Unit,
    age: Duration,
}

impl BridgeLink {
    pub(super) fn new(target: Target) -> Self {
        Self {
            bus: BusSlot::default(),
            commands: Commands::lasting(target.clone()),
            journals: Journals::default(),
            ages: Mutex::default(),
            target,
        }
    }

    async fn look(
        &self,
        question: &UnitQuestion,
        listener: Option<&Arc<Inbox>>,
        by: Instant,
    ) -> Result<SystemdState, LinkError> {
        let look = || {
            let connect = || self.connect(by);
            self.bus
                .look(&self.target, question, None, listener, by, connect)
        };
        let mut first = look().await?;
        // The type of an active unit is unknown, too, if its proof is not wanted.
        let ageless = |(name, unit): &(&String, &Unit)| {
            let unproven = unit.is_active() && !unit.kind.is_empty() && !unit.tells();
            unproven && self.age(name, unit).is_none()
        };
        let mut fresh = HashMap::new();
        if first.units.iter().any(|unit| ageless(&unit))
            && let Some((uptime, starts)) = self.clock(&first, by).await
        {
            // The clock was read before this query, so a unit can only seem younger than it is.
            let second = look().await?;
            for (name, unit) in second.units.iter().filter(ageless) {
                let start = starts.get(&unit.main_pid);
                let age = start.and_then(|start| systemctl::age(uptime, unit.since, *start));
                if let Some(age) = age {
                    fresh.insert(name.clone(), age);
                }
                if let Some(age) = age.filter(|age| *age >= AGED) {
                    let unit = unit.clone();
                    self.ages().insert(name.clone(), Aged { unit, age });
                }
            }
            first = second;
        }
        for (name, unit) in &mut first.units {
            unit.age = self.age(name, unit).or_else(|| fresh.remove(name));
        }
        self.journals
            .read(&self.commands, question, &mut first, by)
            .await;
        Ok(first)
    }

    /// For how long the unit has been active, if an earlier query measured that.
    fn age(&self, name: &str, unit: &Unit) -> Option<Duration> {
        let known = self.ages();
        let Aged { unit: seen, age } = known.get(name)?;
        seen.is_same_start(unit).then_some(*age)
    }

    fn ages(&self) -> std::sync::MutexGuard<'_, HashMap<String, Aged>> {
        self.ages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The node's uptime, and when the units' processes started; `None` if the clock cannot be
    /// read.
    async fn clock(&self, look: &SystemdState, by: Instant) -> Option<(u64, HashMap<u32, u64>)> {
        let pids = look.units.values().map(|unit| unit.main_pid.to_string());
        let pids: Vec<_> = pids.collect();
        let mut argv = vec!["sh", "-c", systemctl::CLOCK, "sh"];
        argv.extend(pids.iter().map(String::as_str));
        let output = self.commands.command("the clock", &argv, by).await.ok()?;
        systemctl::clock(&lossy(&output.stdout))
    }

    async fn connect(&self, by: Instant) -> Result<Bus, LinkError> {
        // The queue is readyd's own: waiting too long in it means busy, not slow.
        let queue = by.min(self.target.environment.now() + BUS_LIMIT);
        let mut pass = self.target.pass("systemd", queue).await?;
        self.target.gate.drive(&mut pass, self.open(by)).await
    }

    async fn open(&self, by: Instant) -> Result<Bus, LinkError> {
        self.target.settled(by).await?;
        let Target {
            engine, container, ..
        } = &self.target;
        let exec = Exec {
            argv: ["sh", "-c", START].map(str::to_owned).to_vec(),
            cap: COMPLAINT_CAP,
        };
        let started = engine.exec(&container.id, exec, by).await;
        let streams = match started {
            Ok(running) => running.streams(),
            Err(EngineError::NotRunning { .. }) => return Err(LinkError::NotRunning),
            Err(EngineError::CannotRun { message, .. }) => {
                return Err(LinkError::Unusable(format!(
                    "the node cannot run systemd-stdio-bridge: {message}"
                )));
            }
            Err(error) => return Err(error.into()),
        };
        let complaint = Arc::default();
        let signals = self.target.signals.clone();
        let stream = stream(streams, Arc::clone(&complaint), signals);
        let connected = self
            .target
            .within("systemd-stdio-bridge", BUS_LIMIT, by, async {
                Ok(Bus::connect(stream).await?)
            });
        connected.await.map_err(|error| {
            let said = complaint.lock().unwrap_or_else(PoisonError::into_inner);
            self::complaint(error, &lossy(&said))
        })
    }
}

/// The error for a bridge that did not lead to the bus.
fn complaint(error: LinkError, said: &str) -> LinkError {
    if said.contains("no such bridge") {
        return LinkError::Unusable("the node has no systemd-stdio-bridge".to_owned());
    }
    let mut said = clean(said, false);
    truncate(&mut said, 200);
    match error {
        LinkError::Broken(_) if !said.is_empty() => LinkError::NoBus {
            reached_nobody: ["No such file", "refused"]
                .iter()
                .any(|words| said.contains(words)),
            why: said,
        },
        // The output was not D-Bus. Mostly it is an engine's message that nothing could be run.
        LinkError::Node(error) => {
            LinkError::Unusable(format!("systemd-stdio-bridge does not answer: {error}"))
        }
        other => other,
    }
}

/// A command's standard output as a stream of bytes; its standard error is kept apart.
fn stream(
    streams: ExecStreams,
    complaint: Arc<Mutex<Vec<u8>>>,
    signals: SignalCounter,
) -> ByteStream {
    let mut complained = 0;
    let bytes = streams.output.filter_map(move |chunk| {
        let bytes = match chunk {
            Ok(ExecChunk::Stdout(bytes)) => Some(Ok(Cursor::new(bytes))),
            Ok(ExecChunk::Stderr(bytes)) => {
                complained += bytes.len();
                let mut kept = complaint.lock().unwrap_or_else(PoisonError::into_inner);
                let room = COMPLAINT_CAP.saturating_sub(kept.len());
                kept.extend(bytes.into_iter().take(room));
                let endless = || io::Error::other("it never stops complaining");
                (complained > COMPLAINT_READ).then(|| Err(endless()))
            }
            Err(error) => Some(Err(io::Error::other(error.to_string()))),
        };
        std::future::ready(bytes)
    });
    ByteStream {
        read: Box::pin(StreamReader::new(bytes)),
        write: streams.input,
        // The bus cannot see who sends queries through the bridge, and the bridge lets in anyone
        // who could start it.
        auth: AuthMechanism::External,
        listeners: Arc::new(Listeners::new(signals)),
    }
}

#[async_trait]
impl Link for BridgeLink {
    async fn systemd(
        &self,
        question: &UnitQuestion,
        listener: Option<&Arc<Inbox>>,
        by: Instant,
    ) -> Reply<SystemdState> {
        Reply::by(BRIDGE, self.look(question, listener, by).await)
    }

    async fn ask(&self, question: &Question, by: Instant) -> Reply<Answer> {
        Reply::by(BRIDGE, self.commands.ask(question, by).await)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bridge_that_reached_nobody_has_started_no_bus() {
        let reached_nobody = |said: &str| {
            let broken = LinkError::Broken("its connection ended".to_owned());
            match complaint(broken, said) {
                LinkError::NoBus { reached_nobody, .. } => reached_nobody,
                other => panic!("{other:?}"),
            }
        };
        for nobody in [
            "Failed to connect to bus: No such file or directory",
            "Failed to connect to bus: Connection refused",
        ] {
            assert!(reached_nobody(nobody), "{nobody}");
        }
        assert!(!reached_nobody("it closed the connection"));
    }
}
