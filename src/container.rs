//! Plain types for a container, as the engine describes it.

use std::{fmt, time::SystemTime};

use crate::{node::Labels, text::Detail};

/// A container's full id. A name can be given to another container, but an id cannot.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContainerId(pub String);

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.get(..12).unwrap_or(&self.0))
    }
}

/// A container, as the engine describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// The container's id.
    pub id: ContainerId,
    /// The container's name, without the slash that Docker puts before it.
    pub name: String,
    /// The container's labels.
    pub labels: Labels,
    /// The container's state.
    pub state: State,
    /// Whether the container has a restart policy. An engine that starts may then start the
    /// container again.
    pub restarts: bool,
    /// When the container was last started, by the engine's clock.
    pub started_at: Option<SystemTime>,
    /// The pid of the container's first process on the engine's machine, which need not be this
    /// machine.
    pub pid: Option<u32>,
    /// The network that the container uses.
    pub network: Network,
    /// The engine's own health status of the container; `None` if the container has no health check.
    pub health: Option<Health>,
    /// The end of the container's own log, if its run has ended and that is to be shown.
    pub last_words: Detail,
}

/// What the engine's own health check of a container says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// The status.
    pub status: HealthStatus,
    /// The output of the last check; empty if none has run, or if it is not to be shown.
    pub output: Detail,
}

/// The status of a health check, as the engine names it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum HealthStatus {
    /// No check has succeeded yet, and the container still has time.
    Starting,
    /// The last check has succeeded.
    Healthy,
    /// So many checks in a row have failed that the engine gives the container up.
    Unhealthy,
    /// A status that this version does not know. It never counts as healthy.
    Other(String),
}

/// The network that a container uses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Network {
    /// Its own network: a process that listens there is the container's.
    #[default]
    Own,
    /// The network of the engine's machine.
    Host,
    /// The network of another container, by that container's name or id.
    Container(String),
}

impl Container {
    /// Returns whether both are the same run of the same container. Another container of the same
    /// name is not, and neither is the same container after it was started again.
    #[must_use]
    pub fn is_same_run(&self, other: &Self) -> bool {
        self.run().is_same(&other.run())
    }

    pub(crate) fn run(&self) -> Run {
        Run {
            id: self.id.clone(),
            started_at: self.started_at,
            pid: self.pid,
        }
    }
}

/// A run of a container, from one start to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) id: ContainerId,
    started_at: Option<SystemTime>,
    pid: Option<u32>,
}

impl Run {
    /// Returns whether both are the same run. A container that has ended has no process any more,
    /// so a missing pid proves nothing. Two different pids are two runs, even if the times are
    /// equal.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        let other_process = matches!((self.pid, other.pid), (Some(a), Some(b)) if a != b);
        self.id == other.id && self.started_at == other.started_at && !other_process
    }
}

/// A container's state.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum State {
    /// The container was created and not started yet.
    Created,
    /// The container's processes run.
    Running,
    /// The container's processes are frozen.
    Paused,
    /// The container ended, and the engine is about to start it again.
    Restarting,
    /// The container is being ended (Podman).
    Stopping,
    /// The container's files are being removed.
    Removing,
    /// The container ended.
    Exited {
        /// The exit code of its first process.
        code: i64,
        /// Whether the kernel killed a process of the container for lack of memory.
        oom: bool,
    },
    /// The container ended and could not be cleaned up.
    Dead,
    /// A state that this version does not know. It never counts as running.
    Other(String),
}
