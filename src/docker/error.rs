//! Sorts bollard's errors by their meaning for readyd.

use std::time::Duration;

use bollard::errors::Error;

use super::host::DockerHost;
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
    pub(super) engine: DockerHost,
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
        let engine = || engine.to_string();
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
                    _ if is_not_running(&message) => EngineError::NotRunning { action },
                    _ if is_of_runtime(&message) => EngineError::NotStarted { action, message },
                    _ => EngineError::Refused { action, message },
                }
            }
            Error::RequestTimeoutError => EngineError::TimedOut {
                action,
                limit: None,
            },
            Error::SocketNotFoundError(path) => EngineError::Unreachable {
                action,
                engine: engine(),
                cause: ErrorCause::new(format!("there is no socket {path}")),
            },
            error @ (Error::JsonDataError { .. }
            | Error::JsonSerdeError { .. }
            | Error::APIVersionParseError { .. }
            | Error::StrParseError { .. }) => EngineError::Garbled {
                action,
                cause: ErrorCause::new(bounded(&innermost(&error))),
            },
            error => {
                let cause = match innermost(&error) {
                    denied if denied.starts_with("Permission denied") => {
                        "Permission denied: readyd has to run as root, or as a member of the socket's \
                         group"
                            .to_owned()
                    }
                    cause => cause,
                };
                EngineError::Unreachable {
                    action,
                    engine: engine(),
                    cause: ErrorCause::new(bounded(&cause)),
                }
            }
        }
    }
}

/// Returns whether the container does not run, by the words of Docker and of Podman.
fn is_not_running(message: &str) -> bool {
    ["is not running", "container state improper"]
        .iter()
        .any(|words| message.contains(words))
}

/// Returns whether the container has no such command or cannot run it, by the words of runc and
/// crun. Any other failure to start one (because of a limit of the host, of its cgroups, or of a container
/// that is just ending) is not the node's fault, although it may say that some file does not exist.
pub(super) fn not_startable(message: &str) -> bool {
    let words = |signs: &[&str]| signs.iter().any(|sign| message.contains(sign));
    // runc names the command after these; crun has words of its own for it.
    let names_command = words(&["exec: \"", ": exec /", "executable file", "open executable"]);
    names_command
        && words(&[
            "not found",
            "o such file or directory",
            "ermission denied",
            "xec format error",
            "s a directory",
        ])
}

/// Returns whether the words are those of an engine that could not start a command.
pub(super) fn is_of_runtime(message: &str) -> bool {
    ["OCI runtime exec failed", "Error: runc: ", "Error: crun: "]
        .iter()
        .any(|words| message.starts_with(words))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_command_that_cannot_run_is_the_nodes_fault() {
        for nodes in [
            "OCI runtime exec failed: exec failed: unable to start container process: exec: \"sh\": \
             executable file not found in $PATH: unknown",
            "OCI runtime exec failed: exec failed: container_linux.go:380: starting container process \
             caused: exec: \"/a\": stat /a: no such file or directory: unknown",
            "OCI runtime exec failed: exec failed: unable to start container process: exec /bin/sh: exec \
             format error: unknown",
            "OCI runtime exec failed: exec failed: unable to start container process: exec: \"/a\": \
             permission denied: unknown",
            "Error: crun: executable file `sh` not found in $PATH: No such file or directory: OCI runtime \
             attempted to invoke a command that was not found",
            "Error: crun: open executable: Permission denied: OCI permission denied",
        ] {
            assert!(not_startable(nodes), "{nodes}");
            assert!(is_of_runtime(nodes), "{nodes}");
        }
        for engines in [
            "OCI runtime exec failed: exec failed: unable to start container process: error adding pid 7 \
             to cgroups: failed to write 7: open /sys/fs/cgroup/a/cgroup.procs: no such file or directory: \
             unknown",
            "OCI runtime exec failed: exec failed: unable to start container process: error setting \
             rlimits for ready process: permission denied: unknown",
            "Error: runc: exec failed: unable to start container process: error setting cgroup config for \
             procHooks process: openat2 /sys/fs/cgroup/pids.max: no such file or directory: OCI runtime \
             attempted to invoke a command that was not found",
            "Error: crun: write to `/sys/fs/cgroup/a/cgroup.procs`: No such file or directory: OCI runtime \
             attempted to invoke a command that was not found",
        ] {
            assert!(!not_startable(engines), "{engines}");
            assert!(is_of_runtime(engines), "{engines}");
        }
        let shells = "sh: 1: /a: Permission denied";
        assert!(!not_startable(shells) && !is_of_runtime(shells));
    }
}
