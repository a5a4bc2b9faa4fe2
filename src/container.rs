//! A container, as its engine describes it: plain types.

use std::{fmt, time::SystemTime};

use crate::node::Labels;

/// A container's full id. A name can be given to another container; an id never is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ContainerId(pub String);

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.get(..12).unwrap_or(&self.0))
    }
}

/// What the engine says of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// Its id.
    pub id: ContainerId,
    /// Its name, without the slash that Docker puts before it.
    pub name: String,
    /// Its labels.
    pub labels: Labels,
    /// Its state.
    pub state: State,
    /// Whether it has a restart policy, so that an engine that starts may start it again.
    pub restarts: bool,
    /// When it was last started, by the engine's clock.
    pub started_at: Option<SystemTime>,
    /// The number of its first process on the engine's machine, which need not be this one.
    pub pid: Option<u32>,
    /// Whose network it uses.
    pub network: Network,
}

/// Whose network a container uses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Network {
    /// Its own: what listens there is the container's.
    #[default]
    Own,
    /// That of the engine's machine.
    Host,
    /// Another container's, by its name or id.
    Container(String),
}

impl Container {
    /// Whether both are the same run of the same container: neither another one of its name, nor the
    /// same one started again.
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

/// A run of a container: from one start of it to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) id: ContainerId,
    started_at: Option<SystemTime>,
    pid: Option<u32>,
}

impl Run {
    /// Whether both are the same run. A container that has ended has no process any more, so that a
    /// missing number tells nothing; two different ones are two runs, whatever the times say.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        let other_process = matches!((self.pid, other.pid), (Some(a), Some(b)) if a != b);
        self.id == other.id && self.started_at == other.started_at && !other_process
    }
}

/// A container's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Made, and not started yet.
    Created,
    /// Its processes run.
    Running,
    /// Its processes are frozen.
    Paused,
    /// It ended, and the engine is about to start it again.
    Restarting,
    /// Its files are being removed.
    Removing,
    /// It ended.
    Exited {
        /// The exit code of its first process.
        code: i64,
        /// Whether the kernel killed a process of it for want of memory.
        oom: bool,
    },
    /// It ended, and could not be cleaned up.
    Dead,
    /// A state that this version does not know; never taken for running.
    Other(String),
}
