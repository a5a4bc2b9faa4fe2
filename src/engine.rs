//! The interface to the container engine: a trait, and plain types.

use std::{
    error::Error,
    fmt,
    pin::Pin,
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use futures_util::Stream;
use tokio::{io::AsyncWrite, time::Instant};

use crate::{
    container::{Container, ContainerId},
    event::ContainerEvent,
    node::Labels,
    reason::ReasonCode,
};

/// How long the engine may take to answer a call.
pub const CALL_LIMIT: Duration = Duration::from_secs(5);

/// A command to run in a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exec {
    /// The command and its arguments.
    pub argv: Vec<String>,
    /// How many bytes the command may print to each stream. A command that prints more is given up.
    pub cap: usize,
}

/// The result of a command.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecOutput {
    /// The command's standard output, up to the cap.
    pub stdout: Vec<u8>,
    /// The command's standard error, up to the cap.
    pub stderr: Vec<u8>,
    /// The command's exit code. If the engine reports none (the command never started), the call
    /// returns an error instead.
    pub code: i64,
}

/// A stream of events. After an error or the end of the stream, events may have been missed.
pub type EventStream = Pin<Box<dyn Stream<Item = Result<ContainerEvent, EngineError>> + Send>>;

/// A container, as a list shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedContainer {
    /// The container's id.
    pub id: ContainerId,
    /// The container's name.
    pub name: String,
    /// Its labels.
    pub labels: Labels,
    /// Its state, in the engine's own word; it says nothing that decides.
    pub state: String,
    /// Its address in the first of its networks, by the network's name; empty if it has none.
    pub address: String,
}

/// A container engine.
///
/// Every call has a time limit of its own and honours an earlier `by`. Dropping a call's future
/// gives the call up.
#[async_trait]
pub trait ContainerEngine: Send + Sync + 'static {
    /// Returns the container of that name or id; `None` if there is none.
    async fn inspect(&self, name: &str, by: Instant) -> Result<Option<Container>, EngineError>;

    /// Lists all containers, in whatever state they are.
    async fn list(&self, by: Instant) -> Result<Vec<ListedContainer>, EngineError>;

    /// Returns how many processes run in the container, without starting one.
    async fn processes(&self, id: &ContainerId, by: Instant) -> Result<usize, EngineError>;

    /// Returns the end of the container's own log: that many lines, and no more than so many bytes. An engine
    /// without logs returns nothing, as this default implementation does.
    async fn last_words(
        &self,
        id: &ContainerId,
        lines: usize,
        bytes: usize,
        by: Instant,
    ) -> Result<Vec<u8>, EngineError> {
        let _ = (id, lines, bytes, by);
        Ok(Vec::new())
    }

    /// Starts a command in a running container, as root.
    async fn exec(
        &self,
        id: &ContainerId,
        exec: Exec,
        by: Instant,
    ) -> Result<Box<dyn RunningExec>, EngineError>;

    /// Subscribes to the events of containers, and returns once the subscription is active: the
    /// stream contains every event from then on. With `since`, a time by the engine's clock, it
    /// also contains the events since that time, as far as the engine still knows them.
    ///
    /// An engine without events returns an error, as this default implementation does. Its
    /// containers are polled then.
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
/// which shows the command that no client waits for it any more: an engine cannot end an exec
/// (moby#35703).
#[async_trait]
pub trait RunningExec: Send {
    /// Waits for the command's end.
    ///
    /// Returns [`EngineError::StillRunning`] if the command has not ended by that time.
    async fn output(self: Box<Self>, by: Instant) -> Result<ExecOutput, EngineError>;

    /// Returns the command's streams, for an interactive command. The command then has no time
    /// limit and no cap.
    fn streams(self: Box<Self>) -> ExecStreams;
}

/// The streams of a command. Dropping the input closes the command's standard input.
pub struct ExecStreams {
    /// The command's standard input.
    pub input: Pin<Box<dyn AsyncWrite + Send>>,
    /// The command's output. The stream ends with the command, or with the connection to it.
    pub output: Pin<Box<dyn Stream<Item = Result<ExecChunk, EngineError>> + Send>>,
}

/// A piece of a command's output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExecChunk {
    /// A piece of the standard output.
    Stdout(Vec<u8>),
    /// A piece of the standard error.
    Stderr(Vec<u8>),
}

/// What an error of the engine's was caused by, in words. A clone shares it.
#[derive(Debug, Clone)]
pub struct ErrorCause(Arc<dyn Error + Send + Sync>);

impl ErrorCause {
    /// Makes a cause of an error, or of text.
    pub fn new(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self(Arc::from(cause.into()))
    }
}

impl fmt::Display for ErrorCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Error for ErrorCause {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source()
    }
}

/// The error of a call to the engine.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The engine cannot be reached.
    #[error("{action}: the engine at {engine} cannot be reached")]
    Unreachable {
        /// The action that failed, with the container's name if it has one.
        action: String,
        /// The engine's address.
        engine: String,
        /// The error of the connection.
        #[source]
        cause: ErrorCause,
    },
    /// The engine did not answer in time.
    #[error("{action}: the engine has not answered {}", within(*limit))]
    TimedOut {
        /// The action that failed, with the container's name if it has one.
        action: String,
        /// The call's own limit; `None` if the caller set an earlier end. The time that was left
        /// then differs from call to call, and a reason must not contain such a time.
        limit: Option<Duration>,
    },
    /// The engine answered with an error.
    #[error("{action}: the engine says: {message}")]
    Refused {
        /// The action that failed, with the container's name if it has one.
        action: String,
        /// The engine's own message.
        message: String,
    },
    /// The engine could not start a command, for reasons that are not the command's: perhaps because the
    /// container is just ending.
    #[error("{action}: the engine says: {message}")]
    NotStarted {
        /// The action that failed, with the container's name if it has one.
        action: String,
        /// The engine's own message.
        message: String,
    },
    /// The engine's answer is malformed.
    #[error("{action}: the engine's answer makes no sense")]
    Garbled {
        /// The action that failed, with the container's name if it has one.
        action: String,
        /// The error in the answer.
        #[source]
        cause: ErrorCause,
    },
    /// The container does not exist, is not running, or stopped running in the middle of the call.
    #[error("{action}: the container is not running")]
    NotRunning {
        /// The action that failed, with the container's name if it has one.
        action: String,
    },
    /// The command has not ended: the node or the engine is slow.
    #[error("{action}: the command has not ended")]
    StillRunning {
        /// The action that failed, with the container's name if it has one.
        action: String,
    },
    /// The connection to a command was lost, or the engine has forgotten the command.
    #[error("{action}: the connection to the command was lost")]
    Lost {
        /// The action that failed, with the container's name if it has one.
        action: String,
    },
    /// The command printed more than its cap.
    #[error("{action}: it printed more than {} KiB", cap / 1024)]
    TooMuch {
        /// The action that failed, with the container's name if it has one.
        action: String,
        /// The cap, in bytes.
        cap: usize,
    },
    /// The container has no such command, or cannot run it.
    #[error("{action}: {message}")]
    CannotRun {
        /// The action that failed, with the container's name if it has one.
        action: String,
        /// The engine's own message.
        message: String,
    },
}

impl EngineError {
    /// Returns the code of a reason that this error is.
    pub(crate) fn code(&self) -> ReasonCode {
        match self {
            Self::Unreachable { .. }
            | Self::Refused { .. }
            | Self::NotStarted { .. }
            | Self::Garbled { .. }
            | Self::Lost { .. } => ReasonCode::EngineUnreachable,
            Self::TimedOut { .. } => ReasonCode::EngineSlow,
            Self::NotRunning { .. } => ReasonCode::ContainerEnded,
            Self::StillRunning { .. } => ReasonCode::NoAnswer,
            Self::TooMuch { .. } => ReasonCode::WrongAnswer,
            Self::CannotRun { .. } => ReasonCode::CommandFailed,
        }
    }
}

/// Formats the time in which a call was not answered: its own limit, or the time that was left to
/// it.
pub(crate) fn within(limit: Option<Duration>) -> String {
    limit.map_or_else(
        || "in time".to_owned(),
        |limit| format!("within {}", seconds(limit)),
    )
}

/// Formats a duration for people: `10s`, `0.25s`.
pub(crate) fn seconds(duration: Duration) -> String {
    format!("{}s", (duration.as_secs_f64() * 1000.0).round() / 1000.0)
}
