//! The container engine as the rest of the crate sees it: a trait, and plain types.

use std::{
    fmt,
    pin::Pin,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use futures_util::Stream;
use tokio::{io::AsyncWrite, time::Instant};

use crate::{event::EventStream, node::Labels};

/// How long a call to the engine may take until it answers.
pub const CALL_LIMIT: Duration = Duration::from_secs(5);

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

/// A command to run in a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exec {
    /// The command and its arguments.
    pub argv: Vec<String>,
    /// How many bytes it may print, to each stream; one that prints more is given up.
    pub cap: usize,
}

/// What a command did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecOutput {
    /// Its standard output, up to the cap.
    pub stdout: Vec<u8>,
    /// Its standard error, up to the cap.
    pub stderr: Vec<u8>,
    /// Its exit code. An engine that says none (the command never started) is an error instead.
    pub code: i64,
}

/// A container engine.
///
/// Every call has a time limit of its own and honours an earlier `by`. Dropping a call's future
/// gives it up.
#[async_trait]
pub trait Runtime: Send + Sync + 'static {
    /// The container of that name or id; `None` if there is none.
    async fn inspect(&self, name: &str, by: Instant) -> Result<Option<Container>, RuntimeError>;

    /// How many processes run in the container, without starting one.
    async fn processes(&self, id: &ContainerId, by: Instant) -> Result<usize, RuntimeError>;

    /// Starts a command in a running container, as root.
    async fn exec(
        &self,
        id: &ContainerId,
        exec: Exec,
        by: Instant,
    ) -> Result<Box<dyn RunningExec>, RuntimeError>;

    /// Subscribes to what happens to containers, and answers once the subscription stands: whatever
    /// happens from then on is told. Of what has happened since that time, by the engine's clock, as
    /// much is told as the engine still knows.
    ///
    /// An engine without events answers with an error, as it does by default: it is polled then.
    async fn events(
        &self,
        since: Option<SystemTime>,
        by: Instant,
    ) -> Result<EventStream, RuntimeError> {
        let _ = (since, by);
        Err(RuntimeError::Refused {
            action: "subscribing to events".to_owned(),
            message: "it has no events".to_owned(),
        })
    }
}

/// A command that was started in a container. Dropping this closes the command's standard input,
/// which is how a command learns that nobody waits for it any more: an engine cannot end an exec
/// (moby#35703).
#[async_trait]
pub trait RunningExec: Send {
    /// Waits for the command's end.
    ///
    /// [`RuntimeError::StillRunning`] if it has not ended by then.
    async fn output(self: Box<Self>, by: Instant) -> Result<ExecOutput, RuntimeError>;

    /// The command's streams, for one that is talked to. It has no time limit and no cap.
    fn streams(self: Box<Self>) -> ExecStreams;
}

/// The streams of a command. Dropping the input closes the command's standard input.
pub struct ExecStreams {
    /// Its standard input.
    pub input: Pin<Box<dyn AsyncWrite + Send>>,
    /// What it prints; ends when it does, or with the connection to it.
    pub output: Pin<Box<dyn Stream<Item = Result<ExecChunk, RuntimeError>> + Send>>,
}

/// A piece of what a command prints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExecChunk {
    /// To its standard output.
    Stdout(Vec<u8>),
    /// To its standard error.
    Stderr(Vec<u8>),
}

/// Why a call to the engine gave no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RuntimeError {
    /// Nobody answers.
    #[error("{action}: the engine at {engine} cannot be reached: {cause}")]
    Unreachable {
        /// What was asked, and of what.
        action: String,
        /// The engine's address.
        engine: String,
        /// What the connection died of.
        cause: String,
    },
    /// No answer in time.
    #[error("{action}: the engine has not answered {}", within(*limit))]
    TimedOut {
        /// What was asked, and of what.
        action: String,
        /// The call's own limit; none if who asked set an earlier end. What was left then differs
        /// from call to call, and a reason holds no clocks.
        limit: Option<Duration>,
    },
    /// The engine answered with an error.
    #[error("{action}: the engine says: {message}")]
    Refused {
        /// What was asked, and of what.
        action: String,
        /// The engine's own words.
        message: String,
    },
    /// The engine answered something that is no answer.
    #[error("{action}: the engine's answer makes no sense: {cause}")]
    Garbled {
        /// What was asked, and of what.
        action: String,
        /// What is wrong with it.
        cause: String,
    },
    /// The container is not there, is not running, or stopped doing so in the middle of the call.
    #[error("{action}: the container is not running")]
    NotRunning {
        /// What was asked, and of what.
        action: String,
    },
    /// The command has not ended: the node is slow, or the engine.
    #[error("{action}: the command has not ended")]
    StillRunning {
        /// What was asked, and of what.
        action: String,
    },
    /// The connection to a command was lost, or the engine has forgotten the command.
    #[error("{action}: the connection to the command was lost")]
    Lost {
        /// What was asked, and of what.
        action: String,
    },
    /// The command printed more than its cap.
    #[error("{action}: it printed more than {} KiB", cap / 1024)]
    TooMuch {
        /// What was asked, and of what.
        action: String,
        /// The cap, in bytes.
        cap: usize,
    },
    /// The container has no such command, or cannot run it.
    #[error("{action}: {message}")]
    CannotRun {
        /// What was asked, and of what.
        action: String,
        /// The engine's own words.
        message: String,
    },
}

/// What a call has not answered in: its own limit, or the time that it was left.
pub(crate) fn within(limit: Option<Duration>) -> String {
    limit.map_or_else(
        || "in time".to_owned(),
        |limit| format!("within {}", seconds(limit)),
    )
}

/// A duration for people: `10s`, `0.25s`.
pub(crate) fn seconds(duration: Duration) -> String {
    format!("{}s", (duration.as_secs_f64() * 1000.0).round() / 1000.0)
}
