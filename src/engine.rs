//! The container engine as the rest of the crate sees it: a trait, and plain types.

use std::{
    pin::Pin,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use futures_util::Stream;
use tokio::{io::AsyncWrite, time::Instant};

use crate::{
    container::{Container, ContainerId},
    event::ContainerEvent,
};

/// How long a call to the engine may take until it answers.
pub const CALL_LIMIT: Duration = Duration::from_secs(5);

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

/// Events as they come. An error, or the end, means that some may have been missed since.
pub type EventStream = Pin<Box<dyn Stream<Item = Result<ContainerEvent, EngineError>> + Send>>;

/// A container engine.
///
/// Every call has a time limit of its own and honours an earlier `by`. Dropping a call's future
/// gives it up.
#[async_trait]
pub trait ContainerEngine: Send + Sync + 'static {
    /// The container of that name or id; `None` if there is none.
    async fn inspect(&self, name: &str, by: Instant) -> Result<Option<Container>, EngineError>;

    /// How many processes run in the container, without starting one.
    async fn processes(&self, id: &ContainerId, by: Instant) -> Result<usize, EngineError>;

    /// Starts a command in a running container, as root.
    async fn exec(
        &self,
        id: &ContainerId,
        exec: Exec,
        by: Instant,
    ) -> Result<Box<dyn RunningExec>, EngineError>;

    /// Subscribes to what happens to containers, and answers once the subscription stands: whatever
    /// happens from then on is told. Of what has happened since that time, by the engine's clock, as
    /// much is told as the engine still knows.
    ///
    /// An engine without events answers with an error, as it does by default: it is polled then.
    async fn events(
        &self,
        since: Option<SystemTime>,
        by: Instant,
    ) -> Result<EventStream, EngineError> {
        let _ = (since, by);
        Err(EngineError::Refused {
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
    /// [`EngineError::StillRunning`] if it has not ended by then.
    async fn output(self: Box<Self>, by: Instant) -> Result<ExecOutput, EngineError>;

    /// The command's streams, for one that is talked to. It has no time limit and no cap.
    fn streams(self: Box<Self>) -> ExecStreams;
}

/// The streams of a command. Dropping the input closes the command's standard input.
pub struct ExecStreams {
    /// Its standard input.
    pub input: Pin<Box<dyn AsyncWrite + Send>>,
    /// What it prints; ends when it does, or with the connection to it.
    pub output: Pin<Box<dyn Stream<Item = Result<ExecChunk, EngineError>> + Send>>,
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
pub enum EngineError {
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
