//! Runs a command in a container.

use std::{pin::Pin, time::Duration};

use async_trait::async_trait;
use bollard::{
    container::LogOutput,
    exec::{CreateExecOptions, StartExecOptions, StartExecResults},
};
use futures_util::{Stream, StreamExt as _};
use tokio::{
    io::AsyncWrite,
    time::{Instant, sleep, sleep_until},
};

use super::{
    Client, DockerEngine,
    error::{Call, bounded, is_of_runtime, not_startable},
};
use crate::container::ContainerId;
use crate::engine::{
    EngineError, ErrorCause, Exec, ExecChunk, ExecOutput, ExecStreams, RunningExec,
};

/// The exit code of a command that cannot be executed. Docker and shells both use it.
const CANNOT_EXECUTE: i64 = 126;

/// The exit code of a command that does not exist, by Podman. A shell's own commands end with it, too.
const NO_COMMAND: i64 = 127;

/// How long an engine may take to report the exit code after a command's output has ended.
const EXIT_CODE: Duration = Duration::from_secs(2);

pub(super) async fn start(
    engine: &DockerEngine,
    id: &ContainerId,
    exec: Exec,
    by: Instant,
) -> Result<RunningDockerExec, EngineError> {
    let action = format!("starting a command in container {id}");
    let options = CreateExecOptions {
        // The end of standard input shows the command that no client waits for it any more.
        attach_stdin: Some(true),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        cmd: Some(exec.argv),
        user: Some("0".to_owned()),
        ..CreateExecOptions::default()
    };
    let created = engine
        .call(action.clone(), by, |client| async move {
            client.docker.create_exec(&id.0, options).await
        })
        .await?;
    let exec_id = created.id.clone();
    let started = engine
        .call(action.clone(), by, |client| async move {
            let attached = StartExecOptions {
                detach: false,
                tty: false,
                output_capacity: None,
            };
            client.docker.start_exec(&exec_id, Some(attached)).await
        })
        .await?;
    let StartExecResults::Attached { output, input } = started else {
        return Err(EngineError::Garbled {
            action,
            cause: ErrorCause::new("the command was started detached"),
        });
    };
    Ok(RunningDockerExec {
        engine: engine.clone(),
        container: id.clone(),
        exec: created.id,
        cap: exec.cap,
        output,
        input,
    })
}

pub(super) struct RunningDockerExec {
    engine: DockerEngine,
    container: ContainerId,
    exec: String,
    cap: usize,
    output: Output,
    /// The standard input, which stays open while a client waits for the output.
    input: Pin<Box<dyn AsyncWrite + Send>>,
}

#[async_trait]
impl RunningExec for RunningDockerExec {
    async fn output(self: Box<Self>, by: Instant) -> Result<ExecOutput, EngineError> {
        let Self {
            engine,
            container,
            exec,
            cap,
            mut output,
            input: _input,
        } = *self;
        let call = Call {
            action: format!("running a command in container {container}"),
            engine: engine.host.clone(),
        };
        let mut collected = ExecOutput::default();
        tokio::select! {
            drained = drain(&mut output, cap, &mut collected, &call) => drained?,
            () = sleep_until(by) => {
                return Err(EngineError::StillRunning { action: call.action });
            }
        }
        collected.code = exit_code(&engine, &container, &exec, by).await?;
        match collected.code {
            CANNOT_EXECUTE | NO_COMMAND => executed(collected, call.action),
            _ => Ok(collected),
        }
    }

    fn streams(self: Box<Self>) -> ExecStreams {
        let call = Call {
            action: format!("running a command in container {}", self.container),
            engine: self.engine.host.clone(),
        };
        let mut is_first = true;
        let chunk = move |chunk| {
            // An engine that could not start the command says so in the command's place.
            let may_be_engines = std::mem::take(&mut is_first);
            match chunk {
                Ok(LogOutput::StdErr { message } | LogOutput::StdOut { message })
                    if may_be_engines && is_of_runtime(&String::from_utf8_lossy(&message)) =>
                {
                    Err(not_started(
                        &String::from_utf8_lossy(&message),
                        call.action.clone(),
                    ))
                }
                Ok(LogOutput::StdErr { message }) => Ok(ExecChunk::Stderr(message.into())),
                Ok(LogOutput::StdOut { message } | LogOutput::Console { message }) => {
                    Ok(ExecChunk::Stdout(message.into()))
                }
                Ok(LogOutput::StdIn { .. }) => Ok(ExecChunk::Stdout(Vec::new())),
                Err(error) => Err(call.clone().error(error)),
            }
        };
        ExecStreams {
            input: self.input,
            output: Box::pin(self.output.map(chunk)),
        }
    }
}

type Output = Pin<Box<dyn Stream<Item = Result<LogOutput, bollard::errors::Error>> + Send>>;

/// The error of a command that the engine could not start, by its own words.
fn not_started(said: &str, action: String) -> EngineError {
    let message = bounded(said);
    if not_startable(said) {
        EngineError::CannotRun { action, message }
    } else {
        EngineError::NotStarted { action, message }
    }
}

/// Tells a command that has ended with [`CANNOT_EXECUTE`] or [`NO_COMMAND`] from one that was never executed,
/// whose output has the reason, in the words of the engine or of the node's own shell. An engine gives the
/// former code, without such words, to a command whose connection broke.
fn executed(output: ExecOutput, action: String) -> Result<ExecOutput, EngineError> {
    let said = [output.stderr.as_slice(), output.stdout.as_slice()].concat();
    let said = String::from_utf8_lossy(&said);
    let line = |is_it: fn(&str) -> bool| said.lines().find(|line| is_it(line)).map(bounded);
    if let Some(line) = line(is_of_runtime) {
        return Err(not_started(&line, action));
    }
    if output.code == NO_COMMAND {
        return Ok(output);
    }
    match line(|line| line.contains("Permission denied")) {
        Some(message) => Err(EngineError::CannotRun { action, message }),
        None => Err(EngineError::Lost { action }),
    }
}

/// Reads to the end of the output, or to the cap: a command that never stops printing is not read
/// for ever.
async fn drain(
    output: &mut Output,
    cap: usize,
    into: &mut ExecOutput,
    call: &Call,
) -> Result<(), EngineError> {
    while let Some(chunk) = output.next().await {
        let (stream, bytes) = match chunk {
            Ok(LogOutput::StdErr { message }) => (&mut into.stderr, message),
            Ok(LogOutput::StdOut { message } | LogOutput::Console { message }) => {
                (&mut into.stdout, message)
            }
            Ok(LogOutput::StdIn { .. }) => continue,
            Err(error) => return Err(call.clone().error(error)),
        };
        if stream.len() + bytes.len() > cap {
            return Err(EngineError::TooMuch {
                action: call.action.clone(),
                cap,
            });
        }
        stream.extend_from_slice(&bytes);
    }
    Ok(())
}

/// Returns the exit code, once the engine knows it. Right after the end of the output, the engine
/// may still report that the command runs. A command that never started has no code at all, which
/// differs from zero.
async fn exit_code(
    engine: &DockerEngine,
    container: &ContainerId,
    exec: &str,
    by: Instant,
) -> Result<i64, EngineError> {
    let action = format!("asking how a command in container {container} ended");
    let patience = by.min(Instant::now() + EXIT_CODE);
    loop {
        let ask = |client: Client| async move { client.docker.inspect_exec(exec).await };
        let inspected = match engine.call(action.clone(), by, ask).await {
            // The engine does not know this command any more, because the engine was restarted.
            Err(EngineError::NotRunning { action }) => return Err(EngineError::Lost { action }),
            other => other?,
        };
        match (inspected.running, inspected.exit_code) {
            (Some(false), Some(code)) => return Ok(code),
            _ if Instant::now() < patience => sleep(Duration::from_millis(5)).await,
            _ => {
                let cause = ErrorCause::new("it says no exit code");
                return Err(EngineError::Garbled { action, cause });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(code: i64, said: &str) -> Result<ExecOutput, EngineError> {
        let output = ExecOutput {
            stderr: said.into(),
            code,
            ..ExecOutput::default()
        };
        executed(output, "running".to_owned())
    }

    #[test]
    fn what_was_never_executed_is_told_from_what_has_ended() {
        use EngineError::{CannotRun, Lost, NotStarted};
        let cgroups = "OCI runtime exec failed: exec failed: unable to start container process: error \
                       adding pid 7 to cgroups: open /a/cgroup.procs: no such file or directory: unknown";
        let missing = "OCI runtime exec failed: exec failed: unable to start container process: exec: \
                       \"sh\": executable file not found in $PATH: unknown";
        for code in [CANNOT_EXECUTE, NO_COMMAND] {
            assert!(matches!(ended(code, cgroups), Err(NotStarted { .. })));
            assert!(matches!(ended(code, missing), Err(CannotRun { .. })));
        }
        let shells = "sh: 1: /a: Permission denied";
        assert!(matches!(
            ended(CANNOT_EXECUTE, shells),
            Err(CannotRun { .. })
        ));
        assert!(matches!(ended(CANNOT_EXECUTE, ""), Err(Lost { .. })));
        assert!(ended(NO_COMMAND, "sh: 1: a: not found").is_ok());
    }
}
