//! One shell in a node, kept for as long as it is needed. Commands run in it without an exec for
//! each.
//!
//! ```text
//! readyd ──▶ run NONCE LIMIT 'command' 'argument' …   (to a line with a dot)
//!        ◀── the command's output, then NONCE and its exit code, on both streams
//! ```
//!
//! A command that prints too much, or that nobody waits for any more, ends with its shell: readyd
//! closes the shell's standard input, and the shell sends SIGHUP to the command. The next command
//! gets a new shell.

use std::fmt::Write as _;

use futures_util::{FutureExt as _, StreamExt as _};
use tokio::{
    io::AsyncWriteExt as _,
    sync::{Mutex, MutexGuard},
    time::Instant,
};

use super::{
    Target,
    script::{OUTPUT_CAP, SHELL, START, TIMED_OUT},
};
use crate::engine::{EngineError, Exec, ExecChunk, ExecOutput, ExecStreams};

/// The shell of one node. The first command starts it.
pub(super) struct Shell {
    target: Target,
    /// `None` while a command runs: a command that is given up ends its shell, too.
    streams: Mutex<Option<ExecStreams>>,
}

/// A running command. Dropping it hangs up on the command.
pub(super) struct ShellCommand<'a> {
    shell: &'a Shell,
    slot: MutexGuard<'a, Option<ExecStreams>>,
    streams: ExecStreams,
    nonce: String,
}

impl Shell {
    pub(super) fn new(target: Target) -> Self {
        Self {
            target,
            streams: Mutex::default(),
        }
    }

    /// Starts a command with a time limit in seconds.
    pub(super) async fn start(
        &self,
        seconds: &str,
        argv: &[&str],
        by: Instant,
    ) -> Result<ShellCommand<'_>, EngineError> {
        let mut slot = self.streams.lock().await;
        let mut streams = match slot.take().and_then(alive) {
            Some(streams) => streams,
            None => self.open(by).await?,
        };
        let nonce = self.target.environment.nonce();
        let request = request(&nonce, seconds, argv);
        let sent = async {
            streams.input.write_all(request.as_bytes()).await?;
            streams.input.flush().await
        };
        tokio::select! {
            sent = sent => sent.map_err(|_| self.lost())?,
            () = self.target.environment.sleep_until(by) => return Err(self.lost()),
        }
        Ok(ShellCommand {
            shell: self,
            slot,
            streams,
            nonce,
        })
    }

    async fn open(&self, by: Instant) -> Result<ExecStreams, EngineError> {
        let exec = Exec {
            argv: ["sh", "-c", START, "sh", SHELL].map(str::to_owned).to_vec(),
            cap: OUTPUT_CAP,
        };
        let Target {
            engine, container, ..
        } = &self.target;
        Ok(engine.exec(&container.id, exec, by).await?.streams())
    }

    fn action(&self) -> String {
        format!(
            "running a command in container {}",
            self.target.container.id
        )
    }

    fn lost(&self) -> EngineError {
        EngineError::Lost {
            action: self.action(),
        }
    }
}

impl ShellCommand<'_> {
    /// Waits for the command's end, as [`crate::engine::RunningExec::output`] does.
    pub(super) async fn output(mut self, by: Instant) -> Result<ExecOutput, EngineError> {
        let mut output = ExecOutput::default();
        let code = tokio::select! {
            read = read(&mut self.streams, &self.nonce, &mut output) => match read {
                Ok(code) => code,
                Err(End::Lost) => return Err(self.shell.lost()),
                Err(End::Runtime(error)) => return Err(error),
                Err(End::TooMuch) => {
                    let action = self.shell.action();
                    return Err(EngineError::TooMuch { action, cap: OUTPUT_CAP });
                }
            },
            () = self.shell.target.environment.sleep_until(by) => {
                let action = self.shell.action();
                return Err(EngineError::StillRunning { action });
            }
        };
        output.code = code;
        // Only now can the shell take another command. It is not kept after a timeout, because
        // processes that the command left behind could still print into the next command's output.
        if !TIMED_OUT.contains(&code) {
            *self.slot = Some(self.streams);
        }
        Ok(output)
    }
}

/// The reason why a command's output ended without its marks.
enum End {
    Lost,
    TooMuch,
    Runtime(EngineError),
}

/// Reads up to the marks, removes them, and returns the exit code.
async fn read(streams: &mut ExecStreams, nonce: &str, into: &mut ExecOutput) -> Result<i64, End> {
    let mark = format!("\n{nonce} ");
    loop {
        if let (Some((end, code)), Some((stderr_end, _))) =
            (marked(&into.stdout, &mark), marked(&into.stderr, &mark))
        {
            into.stdout.truncate(end);
            into.stderr.truncate(stderr_end);
            return Ok(code);
        }
        let (stream, bytes) = match streams.output.next().await {
            Some(Ok(ExecChunk::Stdout(bytes))) => (&mut into.stdout, bytes),
            Some(Ok(ExecChunk::Stderr(bytes))) => (&mut into.stderr, bytes),
            Some(Err(error)) => return Err(End::Runtime(error)),
            None => return Err(End::Lost),
        };
        if stream.len() + bytes.len() > OUTPUT_CAP {
            return Err(End::TooMuch);
        }
        stream.extend_from_slice(&bytes);
    }
}

/// Where the mark at the end of the output starts, and the exit code in it.
fn marked(output: &[u8], mark: &str) -> Option<(usize, i64)> {
    let line = output.strip_suffix(b"\n")?;
    let start = line.iter().rposition(|byte| *byte == b'\n')?;
    let code = line[start..].strip_prefix(mark.as_bytes())?;
    let code = std::str::from_utf8(code).ok()?.parse().ok()?;
    Some((start, code))
}

/// The streams, if the shell has not ended since. Output that a command has left in them is
/// discarded.
fn alive(mut streams: ExecStreams) -> Option<ExecStreams> {
    loop {
        match streams.output.next().now_or_never() {
            None => return Some(streams),
            Some(Some(Ok(_))) => {}
            Some(None | Some(Err(_))) => return None,
        }
    }
}

fn request(nonce: &str, seconds: &str, argv: &[&str]) -> String {
    let mut request = format!("run {nonce} {seconds}");
    for word in argv {
        // In single quotes, every character but a single quote stands for itself (POSIX, 2.2.2).
        let quoted = word.replace('\'', r"'\''");
        let _ = write!(request, " '{quoted}'");
    }
    request.push_str("\n.\n");
    request
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead as _, BufReader, Read as _, Write as _},
        process::{Command, Stdio},
    };

    use super::*;

    #[test]
    fn a_mark_counts_only_at_the_end_and_whole() {
        assert_eq!(marked(b"a\nb\n\nn1 7\n", "\nn1 "), Some((4, 7)));
        assert_eq!(marked(b"\nn1 0\n", "\nn1 "), Some((0, 0)));
        for other in [
            &b"\nn1 7"[..],
            b"\nn2 7\n",
            b"\nn1 7\nx\n",
            b"\nn1 x\n",
            b"n1 7\n",
            b"",
        ] {
            assert_eq!(marked(other, "\nn1 "), None);
        }
    }

    #[test]
    fn a_real_shell_takes_any_word_and_one_command_after_the_other() {
        talk_to(&["sh", "-c", SHELL]);
        talk_to(&["sh", "-c", START, "sh", SHELL]);
    }

    fn talk_to(argv: &[&str]) {
        let mut shell = Command::new(argv[0])
            .args(&argv[1..])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = shell.stdin.take().unwrap();
        let mut lines = BufReader::new(shell.stdout.take().unwrap()).lines();
        let mut until = |mark: &str| -> Vec<String> {
            let lines = lines.by_ref().map(Result::unwrap);
            lines.take_while(|line| !line.starts_with(mark)).collect()
        };
        let word = "it's $HOME `id` \\n\n\"two\" lines";
        let ask = |nonce: &str, argv: &[&str]| request(nonce, "5", argv);
        input
            .write_all(ask("n1", &["printf", "%s", word]).as_bytes())
            .unwrap();
        assert_eq!(until("n1 0").join("\n"), word);
        // A command cannot read the next request.
        input.write_all(ask("n2", &["cat"]).as_bytes()).unwrap();
        assert_eq!(until("n2 0"), [""]);
        input
            .write_all(ask("n3", &["sh", "-c", "exit 3"]).as_bytes())
            .unwrap();
        assert_eq!(until("n3 3"), [""]);
        let timed = request("n5", "0.100", &["sleep", "60"]);
        input.write_all(timed.as_bytes()).unwrap();
        assert_eq!(until("n5 124"), [""]);
        // The end of the input ends the command and the shell.
        let endless = request("n4", "5", &["sh", "-c", "echo started; exec sleep 60"]);
        input.write_all(endless.as_bytes()).unwrap();
        assert_eq!(until("started"), [""; 0]);
        drop(input);
        let start = std::time::Instant::now();
        let mut said = String::new();
        shell
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut said)
            .unwrap();
        shell.wait().unwrap();
        // A SIGHUP that comes just before the shell becomes `sleep` is lost, and a SIGKILL follows.
        assert!(said.contains("n4 129") || said.contains("n4 137"), "{said}");
        assert!(start.elapsed().as_secs() < 30, "{:?}", start.elapsed());
    }
}
