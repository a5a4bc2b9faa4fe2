//! Sorts bollard's errors by their meaning for readyd.

use std::time::Duration;

use bollard::errors::Error;

use crate::{
    engine::{EngineError, ErrorCause},
    text::{clean, truncate},
};

/// How many bytes of an engine's own message an error contains at most.
const MESSAGE_BYTES: usize = 400;

/// The action of a call, and the engine's address.
#[derive(Debug, Clone)]
pub(super) struct Call {
    pub(super) action: String,
    pub(super) engine: String,
}

impl Call {
    pub(super) fn timed_out(self, limit: Option<Duration>) -> EngineError {
        EngineError::TimedOut {
            action: self.action,
            limit,
        }
    }

    pub(super) fn error(self, error: Error) -> EngineError {
        let Self { action, engine } = self;
        match error {
            Error::DockerResponseServerError {
                status_code,
                message,
            } => {
                let message = bounded(&message);
                // 409 means that the container is paused, restarting or not running. 404 means that
                // it was removed in the meantime.
                match status_code {
                    404 | 409 => EngineError::NotRunning { action },
                    _ if not_startable(&message) => EngineError::CannotRun { action, message },
                    _ if message.contains("is not running") => EngineError::NotRunning { action },
                    _ => EngineError::Refused { action, message },
                }
            }
            Error::RequestTimeoutError => EngineError::TimedOut {
                action,
                limit: None,
            },
            Error::SocketNotFoundError(path) => EngineError::Unreachable {
                action,
                engine,
                cause: ErrorCause::new(format!("there is no socket {path}")),
            },
            error @ (Error::JsonDataError { .. }
            | Error::JsonSerdeError { .. }
            | Error::APIVersionParseError { .. }
            | Error::StrParseError { .. }) => EngineError::Garbled {
                action,
                cause: ErrorCause::new(bounded(&innermost(&error))),
            },
            error => EngineError::Unreachable {
                action,
                engine,
                cause: ErrorCause::new(bounded(&innermost(&error))),
            },
        }
    }
}

/// Returns whether the container has no such command or cannot run it, by the words of runc and
/// crun. Any other "OCI runtime exec failed" (because of a limit of the host, or of a container
/// that is just ending) is not the node's fault.
pub(super) fn not_startable(message: &str) -> bool {
    message.contains("exec failed")
        && [
            "executable file not found",
            "no such file or directory",
            "permission denied",
        ]
        .iter()
        .any(|words| message.contains(words))
}

/// Returns the error's innermost cause, which is the informative one: `Connection refused` and the
/// like.
fn innermost(error: &Error) -> String {
    let mut innermost: &dyn std::error::Error = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    let cause = innermost.to_string();
    if cause.is_empty() {
        error.to_string()
    } else {
        cause
    }
}

/// Cleans and shortens an engine's own message for an error.
pub(super) fn bounded(text: &str) -> String {
    let mut line = clean(text, false);
    truncate(&mut line, MESSAGE_BYTES);
    line
}
