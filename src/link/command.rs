//! Commands that have to run in the node: each in an exec of its own, or in the node's shell.
//! Either way, at most one runs at a time, and each has limits.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    LinkError, Target, daemon,
    script::{BOUNDED, DIAL, DIAL_ALONE, OUTPUT_CAP, TIMED_OUT},
    shell::{Shell, ShellCommand},
};
use crate::{
    container::Network,
    engine::{EngineError, Exec, ExecOutput, RunningExec},
    question::{
        About, Answer, CommandQuestion, DaemonQuestion, GreetingEnd, PortQuestion, Question,
        SettingQuestion,
    },
    reason::ReasonCode,
};

/// How long a command may run, unless the caller sets an earlier end. `scontrol ping` alone takes
/// 10 s if a controller's name does not resolve.
const COMMAND_LIMIT: Duration = Duration::from_secs(15);

/// How much longer than the command's own limit the engine has to report the command's end.
const GRACE: Duration = Duration::from_millis(1500);

/// How long a command may already have run when the engine reports that it was started.
const START: Duration = Duration::from_millis(200);

/// The exit code (128 + SIGHUP) of a command that the end of its standard input has ended. If a
/// caller still waits for the command, this means that the connection was lost on the way.
const LOST: i64 = 129;

/// The exit code (128 + SIGTERM) of a command that ended because its node shuts down.
const TERMINATED: i64 = 143;

/// A running command.
enum Running<'a> {
    Exec(Box<dyn RunningExec>),
    Shell(ShellCommand<'a>),
}

/// Runs commands in one container.
pub(crate) struct Commands {
    target: Target,
    /// The shell that commands run in. Without one, each command has an exec of its own.
    shell: Option<Shell>,
}

impl Commands {
    /// Uses an exec for each command.
    pub(super) fn each(target: Target) -> Self {
        Self {
            target,
            shell: None,
        }
    }

    /// Uses one exec for all commands, for as long as this value exists.
    pub(super) fn lasting(target: Target) -> Self {
        let shell = Some(Shell::new(target.clone()));
        Self { target, shell }
    }

    /// Dials a port from within the node, or runs a command.
    pub(super) async fn ask(&self, question: &Question, by: Instant) -> Result<Answer, LinkError> {
        match question {
            Question::Port(question) => self.greeting(question, by).await,
            Question::Daemon(question) => self.daemon(question, by).await,
            Question::Setting(SettingQuestion { script, .. }) => {
                let argv = ["sh", "-c", script];
                let output = self.command(&question.to_string(), &argv, by).await?;
                Ok(Answer::Command {
                    stdout: lossy(&output.stdout),
                    stderr: lossy(&output.stderr),
                    code: output.code,
                })
            }
            Question::Command(CommandQuestion {
                argv,
                arguments,
                name,
            }) => {
                let own = argv.iter().copied();
                let argv: Vec<_> = own.chain(arguments.iter().map(String::as_str)).collect();
                let output = self.command(name, &argv, by).await?;
                Ok(Answer::Command {
                    stdout: lossy(&output.stdout),
                    stderr: lossy(&output.stderr),
                    code: output.code,
                })
            }
        }
    }

    /// Runs a command for at most [`COMMAND_LIMIT`], or until `by` if that is earlier.
    pub(super) async fn command(
        &self,
        what: &str,
        argv: &[&str],
        by: Instant,
    ) -> Result<ExecOutput, LinkError> {
        let due = self.target.environment.now() + COMMAND_LIMIT;
        let output = self.run(what, argv, COMMAND_LIMIT, by).await?;
        if TIMED_OUT.contains(&output.code) {
            return Err(LinkError::Slow {
                what: what.to_owned(),
                limit: (due <= by).then_some(COMMAND_LIMIT),
            });
        }
        Ok(output)
    }

    /// Runs a command for at most `limit`, or until `by` if that is earlier. A command that takes
    /// longer ends with one of [`TIMED_OUT`].
    ///
    /// A kept shell may turn out to have ended. The command then runs once more, in a new shell.
    async fn run(
        &self,
        what: &str,
        argv: &[&str],
        limit: Duration,
        by: Instant,
    ) -> Result<ExecOutput, LinkError> {
        match self.run_once(what, argv, limit, by).await {
            Err(LinkError::Engine(EngineError::Lost { .. })) if self.shell.is_some() => {
                self.run_once(what, argv, limit, by).await
            }
            other => other,
        }
    }

    async fn run_once(
        &self,
        what: &str,
        argv: &[&str],
        limit: Duration,
        by: Instant,
    ) -> Result<ExecOutput, LinkError> {
        let asked = self.target.environment.now();
        let mut pass = self.target.pass(what, by).await?;

        let left = by.saturating_duration_since(self.target.environment.now());
        let given = limit.min(left);
        let seconds = format!("{:.3}", given.as_secs_f64().max(0.001));
        let work = async {
            self.target.settled(by).await?;
            let running = self.start(&seconds, argv, by).await?;
            let started = self.target.environment.now();
            let end = (started + given + GRACE).min(by);
            let output = match running {
                Running::Exec(running) => running.output(end).await,
                Running::Shell(running) => running.output(end).await,
            };
            let ran = self.target.environment.now() - started;
            let late = match &output {
                Err(EngineError::StillRunning { .. }) => true,
                Ok(output) => TIMED_OUT.contains(&output.code),
                Err(_) => false,
            };
            // The node is late only if the limit has passed. Otherwise the command was killed, most
            // likely by the end of its container.
            match output {
                Ok(output) if output.code == LOST => Err(self.lost(what)),
                Ok(output) if output.code == TERMINATED => Err(LinkError::NotRunning),
                Ok(_) if late && ran + START < given => Err(LinkError::NotRunning),
                // The command must also have had its full time, which the queue and the engine may
                // have used up.
                _ if late && ran + START < limit.min(by.saturating_duration_since(asked)) => {
                    Err(LinkError::Busy {
                        what: what.to_owned(),
                        why: "getting to ask took most of the time",
                    })
                }
                Err(EngineError::StillRunning { .. }) => Err(LinkError::Slow {
                    what: what.to_owned(),
                    limit: (end < by).then_some(limit),
                }),
                other => Ok(other?),
            }
        };
        match self.target.gate.drive(&mut pass, work).await {
            Err(LinkError::Engine(EngineError::NotRunning { .. })) => Err(LinkError::NotRunning),
            Err(LinkError::Engine(EngineError::CannotRun { message, .. })) => Err(LinkError::node(
                ReasonCode::CommandFailed,
                format!("the node cannot run {what}: {message}"),
            )),
            Err(LinkError::Engine(EngineError::TooMuch { cap, .. })) => Err(LinkError::node(
                ReasonCode::WrongAnswer,
                format!("{what} printed more than {} KiB", cap / 1024),
            )),
            other => other,
        }
    }

    /// Starts a command with a time limit in seconds.
    async fn start(
        &self,
        seconds: &str,
        argv: &[&str],
        by: Instant,
    ) -> Result<Running<'_>, EngineError> {
        if let Some(shell) = &self.shell {
            return Ok(Running::Shell(shell.start(seconds, argv, by).await?));
        }
        let bounded = ["sh", "-c", BOUNDED, "sh", seconds];
        let words = bounded.iter().chain(argv);
        let exec = Exec {
            argv: words.map(|word| (*word).to_owned()).collect(),
            cap: OUTPUT_CAP,
        };
        let Target {
            engine, container, ..
        } = &self.target;
        let running = engine.exec(&container.id, exec, by).await?;
        Ok(Running::Exec(running))
    }

    fn lost(&self, what: &str) -> LinkError {
        let action = format!("running {what} in container {}", self.target.container.id);
        EngineError::Lost { action }.into()
    }

    async fn greeting(&self, question: &PortQuestion, by: Instant) -> Result<Answer, LinkError> {
        let PortQuestion {
            address,
            port,
            send,
            prefix,
            within,
            cap,
            ..
        } = *question;
        let what = question.to_string();
        let (port, cap) = (format!("{address}/{port}"), cap.to_string());
        let send = escaped(send);
        let dial = [DIAL, port.as_str(), prefix, &cap, &send];
        let argv = match self.shell {
            Some(_) => dial.to_vec(),
            None => [&DIAL_ALONE[..], &dial[1..]].concat(),
        };
        let output = self.run(&what, &argv, within, by).await?;
        let stderr = lossy(&output.stderr);
        let said = output.stdout.strip_prefix(b"connected\n");
        let end = match (output.code, said) {
            (0, Some(_)) => GreetingEnd::Found,
            (3, Some(_)) => GreetingEnd::Closed,
            (4, Some(_)) => GreetingEnd::TooLong,
            (7, _) => return Ok(Answer::Closed(connect_error(&stderr))),
            (127, _) => return Err(no_bash()),
            // Output from before the timeout counts, too.
            (code, Some(_)) if TIMED_OUT.contains(&code) => GreetingEnd::TimedOut,
            (code, None) if TIMED_OUT.contains(&code) => {
                return Ok(Answer::Closed("no answer".to_owned()));
            }
            (code, _) => {
                let said = stderr.lines().next().unwrap_or_default();
                return Err(LinkError::node(
                    ReasonCode::CommandFailed,
                    format!("dialling {what} ended with {code}: {said}"),
                ));
            }
        };
        Ok(Answer::Greeting(said.unwrap_or_default().to_owned(), end))
    }

    async fn daemon(&self, question: &DaemonQuestion, by: Instant) -> Result<Answer, LinkError> {
        let main = question.main_pid.unwrap_or_default().to_string();
        let about = match question.about {
            About::Sockets => "sockets",
            About::Start => "start",
        };
        let own_network = match self.target.container.network {
            Network::Own => "yes",
            Network::Host | Network::Container(_) => "no",
        };
        let argv = [
            "sh",
            "-c",
            daemon::SCRIPT,
            "sh",
            question.process,
            &main,
            about,
            own_network,
        ];
        let what = Question::Daemon(*question).to_string();
        let output = self.command(&what, &argv, by).await?;
        let id = &self.target.container.id;
        Ok(Answer::Daemon(daemon::parse(
            &lossy(&output.stdout),
            question,
            id,
        )))
    }
}

/// Writes a text as the `%b` of printf takes it: an argument cannot contain a zero.
fn escaped(text: &str) -> String {
    let plain = |byte: &u8| matches!(byte, b' '..=b'~') && *byte != b'\\';
    let escape = |byte: u8| {
        if plain(&byte) {
            char::from(byte).to_string()
        } else {
            format!("\\0{byte:03o}")
        }
    };
    text.bytes().map(escape).collect()
}

fn no_bash() -> LinkError {
    LinkError::node(
        ReasonCode::CommandFailed,
        "the node has no bash to dial a port with",
    )
}

pub(super) fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Takes the error out of `bash: connect: Connection refused`; the lines around it repeat the path.
fn connect_error(stderr: &str) -> String {
    let said = stderr.lines().find_map(|line| line.split_once("connect: "));
    said.map_or("it does not accept", |(_, error)| error)
        .to_owned()
}
