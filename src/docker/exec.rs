//! A command in a container.

use std::{pin::Pin, time::Duration};

use async_trait::async_trait;
use bollard::{
    container::LogOutput,
    exec::{CreateExecOptions, StartExecOptions, StartExecResults},
};
use futures_util::{Stream, StreamExt as _};
use tokio::{
    io::AsyncWrite,
    time::{Instant, sleep, timeout_at},
};

use super::{DockerRuntime, error::Call};
use crate::runtime::{
    ContainerId, Exec, ExecOutput, RunningExec, Runtime as _, RuntimeError, State,
};

/// How often the container is looked at while a command in it keeps silent: a paused one would keep
/// it so for ever.
const STILL_RUNNING: Duration = Duration::from_millis(500);

/// How long an engine may take, after a command's output has ended, to say its exit code.
const EXIT_CODE: Duration = Duration::from_secs(2);

pub(super) async fn start(
    engine: &DockerRuntime,
    id: &ContainerId,
    exec: Exec,
    by: Instant,
) -> Result<RunningDockerExec, RuntimeError> {
    let action = format!("starting a command in container {id}");
    let options = CreateExecOptions {
        // Standard input is what tells the command that nobody waits for it any more.
        attach_stdin: Some(true),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        cmd: Some(exec.argv),
        user: Some("0".to_owned()),
        ..CreateExecOptions::default()
    };
    let created = engine
        .call(action.clone(), by, |docker| async move {
            docker.create_exec(&id.0, options).await
        })
        .await?;
    let exec_id = created.id.clone();
    let started = engine
        .call(action.clone(), by, |docker| async move {
            let attached = StartExecOptions {
                detach: false,
                tty: false,
                output_capacity: None,
            };
            docker.start_exec(&exec_id, Some(attached)).await
        })
        .await?;
    let StartExecResults::Attached { output, input } = started else {
        return Err(RuntimeError::Garbled {
            action,
            cause: "the command was started detached".to_owned(),
        });
    };
    Ok(RunningDockerExec {
        engine: engine.clone(),
        container: id.clone(),
        exec: created.id,
        cap: exec.cap,
        output,
        _input: input,
    })
}

pub(super) struct RunningDockerExec {
    engine: DockerRuntime,
    container: ContainerId,
    exec: String,
    cap: usize,
    output: Pin<Box<dyn Stream<Item = Result<LogOutput, bollard::errors::Error>> + Send>>,
    /// Held open for as long as the output is waited for.
    _input: Pin<Box<dyn AsyncWrite + Send>>,
}

#[async_trait]
impl RunningExec for RunningDockerExec {
    async fn output(mut self: Box<Self>, by: Instant) -> Result<ExecOutput, RuntimeError> {
        let call = Call {
            action: format!("running a command in container {}", self.container),
            engine: self.engine.host.to_string(),
        };
        let mut collected = ExecOutput::default();
        let drained = timeout_at(by, self.drain(&mut collected, &call)).await;
        drained.unwrap_or_else(|_| Err(call.timed_out(None)))?;
        collected.code = exit_code(&self.engine, &self.container, &self.exec).await?;
        Ok(collected)
    }
}

impl RunningDockerExec {
    /// Reads to the end, or to the cap: a command that never stops printing is not read for ever.
    async fn drain(&mut self, into: &mut ExecOutput, call: &Call) -> Result<(), RuntimeError> {
        loop {
            let chunk = tokio::select! {
                chunk = self.output.next() => chunk,
                () = sleep(STILL_RUNNING) => {
                    still_running(&self.engine, &self.container, call).await?;
                    continue;
                }
            };
            let (stream, bytes) = match chunk {
                None => return Ok(()),
                Some(Ok(LogOutput::StdErr { message })) => (&mut into.stderr, message),
                Some(Ok(LogOutput::StdOut { message } | LogOutput::Console { message })) => {
                    (&mut into.stdout, message)
                }
                Some(Ok(LogOutput::StdIn { .. })) => continue,
                Some(Err(error)) => return Err(call.clone().error(error)),
            };
            if stream.len() + bytes.len() > self.cap {
                return Err(RuntimeError::TooMuch {
                    action: call.action.clone(),
                    cap: self.cap,
                });
            }
            stream.extend_from_slice(&bytes);
        }
    }
}

async fn still_running(
    engine: &DockerRuntime,
    container: &ContainerId,
    call: &Call,
) -> Result<(), RuntimeError> {
    let by = Instant::now() + crate::runtime::CALL_LIMIT;
    match engine.inspect(&container.0, by).await {
        Ok(Some(now)) if now.state == State::Running => Ok(()),
        Ok(_) => Err(RuntimeError::NotRunning {
            action: call.action.clone(),
        }),
        // The engine's own trouble shows in the output's stream, or ends with the time limit.
        Err(_) => Ok(()),
    }
}

/// The exit code, once the engine knows it. Right after the output's end it may say that the
/// command still runs; and a command that never started has no code at all, which is not zero.
async fn exit_code(
    engine: &DockerRuntime,
    container: &ContainerId,
    exec: &str,
) -> Result<i64, RuntimeError> {
    let action = format!("asking how a command in container {container} ended");
    let by = Instant::now() + EXIT_CODE;
    loop {
        let inspected = engine
            .call(action.clone(), by, |docker| async move {
                docker.inspect_exec(exec).await
            })
            .await?;
        match (inspected.running, inspected.exit_code) {
            // Docker's own code for a command that it could not start.
            (Some(false), Some(126)) => {
                return Err(RuntimeError::CannotRun {
                    action,
                    message: "the command could not be started".to_owned(),
                });
            }
            (Some(false), Some(code)) => return Ok(code),
            _ if Instant::now() < by => sleep(Duration::from_millis(5)).await,
            _ => {
                return Err(RuntimeError::Garbled {
                    action,
                    cause: "it says no exit code".to_owned(),
                });
            }
        }
    }
}
