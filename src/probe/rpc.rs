//! What a daemon that listens has to answer besides, at the level RPC and above.
//!
//! A daemon that hangs still listens: the kernel accepts in its place. So each is asked something that it
//! answers in its own protocol, and that changes nothing.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use super::{
    Finding, readyz,
    slurm_command::{complaint, prelude},
};
use crate::{
    question::{Answer, CommandQuestion, GreetingEnd, ListeningSocket, PortQuestion, Question},
    reason::ReasonCode,
};

/// What a daemon that listens is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rpc {
    /// slurmd is asked for its status by scontrol, which names the process that has answered.
    Status,
    /// slurmdbd is asked to open a connection.
    Opening,
    /// slurmrestd is asked for anything by HTTP.
    Http,
}

/// Prints the status of the slurmd to which the node's own configuration leads.
const STATUS: &str = concat!(
    prelude!("scontrol"),
    r#"if [ -n "$3" ]; then scontrol show slurmd "$3"; else scontrol show slurmd; fi
"#
);

/// Prints what answers a request by HTTP at the Unix sockets on which a process listens, by the first program
/// of the node that can ask.
const HTTP: &str = r#"
for file in "/proc/$1/fd"/*; do
  inode=$(readlink "$file") && case $inode in socket:*) ;; *) continue ;; esac
  inode=${inode#socket:[} inode=${inode%]}
  while read -r _ _ _ flags _ _ own path; do
    [ "$own" = "$inode" ] && [ "$flags" = 00010000 ] || continue
    if command -v curl >/dev/null; then
      exec curl --silent --show-error --include --max-time 2 --unix-socket "$path" http://localhost/
    fi
    command -v perl >/dev/null || exit 127
    exec perl -e '
      use Socket;
      alarm 2;
      socket(my $to, PF_UNIX, SOCK_STREAM, 0) && connect($to, pack_sockaddr_un($ARGV[0])) or die "$!\n";
      syswrite $to, "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n" or die "$!\n";
      sysread $to, my $answer, 4096;
      print $answer;
    ' "$path"
  done <"/proc/$1/net/unix"
done
exit 3
"#;

/// The opening of a connection without anything in it: its length and its type, `REQUEST_PERSIST_INIT`. The
/// answer tells that it could not be read.
const OPENING: &str = "\0\0\0\x02\x19\x64";

/// The type of an answer that holds no more than a return code, `PERSIST_RC`.
const RETURN_CODE: [u8; 2] = [0x05, 0x99];

/// The exit code of the script that asks by HTTP where nobody may see the sockets of the process.
const NO_SOCKET: i64 = 3;

/// The exit code of a shell whose command does not exist.
const NOT_FOUND: i64 = 127;

impl Rpc {
    /// The question to a process that listens on that socket.
    pub(crate) fn question(self, socket: &ListeningSocket, pid: u32) -> Question {
        match (self, socket) {
            (Self::Opening, ListeningSocket::Tcp(address)) => {
                let opening = PortQuestion {
                    send: OPENING,
                    // No line has it: the answer is none.
                    prefix: "\n",
                    cap: 6,
                    ..ANYTHING
                };
                Question::Port(opening.reaching(*address))
            }
            (Self::Http, ListeningSocket::Tcp(address)) => {
                Question::Port(ANYTHING.reaching(*address))
            }
            (Self::Status, _) => Question::Command(CommandQuestion {
                argv: &["sh", "-c", STATUS, "sh"],
                arguments: Vec::new(),
                name: "scontrol show slurmd",
            }),
            (Self::Opening | Self::Http, ListeningSocket::Unix(_)) => {
                Question::Command(CommandQuestion {
                    argv: &["sh", "-c", HTTP, "sh"],
                    arguments: vec![pid.to_string()],
                    name: "a request to its Unix socket",
                })
            }
        }
    }

    /// Judges the answer of a process.
    pub(crate) fn judge(self, daemon: &str, pid: u32, answer: &Answer) -> Finding {
        let (said, end) = match answer {
            Answer::Command {
                stdout,
                stderr,
                code,
            } => match self {
                Self::Status => return status(daemon, pid, stdout, stderr, *code),
                Self::Opening | Self::Http => match *code {
                    NO_SOCKET | NOT_FOUND => {
                        let why = if *code == NO_SOCKET {
                            "nobody in the node may see which"
                        } else {
                            "the node has neither curl nor perl to ask it there"
                        };
                        let why = format!("{daemon} listens on a Unix socket, and {why}");
                        return Finding::failed(ReasonCode::Unproven, why);
                    }
                    _ => (stdout.as_bytes(), stderr.trim()),
                },
            },
            Answer::Greeting(said, GreetingEnd::TimedOut) => (&said[..], "it says nothing"),
            Answer::Greeting(said, _) => (&said[..], "it closes the connection"),
            Answer::Closed(error) => (&[][..], &error[..]),
            Answer::Daemon(_) => (&[][..], ""),
        };
        // A shell ends with a line what has said nothing.
        if said.iter().all(|byte| matches!(byte, b'\n' | 0)) {
            let why = format!("{daemon} listens, but does not answer: {end}");
            return Finding::failed(ReasonCode::NoAnswer, why);
        }
        let is_answer = match self {
            Self::Status => false,
            Self::Opening => {
                // A shell reads no zeros.
                let said: Vec<u8> = said.iter().copied().filter(|byte| *byte != 0).collect();
                said.windows(2).any(|bytes| bytes == RETURN_CODE)
            }
            Self::Http => first_line(said).is_some_and(|line| readyz::status(line).is_some()),
        };
        if is_answer {
            return Finding::passed();
        }
        let protocol = match self {
            Self::Http => "HTTP",
            Self::Status | Self::Opening => "Slurm's protocol",
        };
        let why = format!("{daemon} listens, but what it answers is not {protocol}");
        Finding::failed(ReasonCode::WrongAnswer, why)
    }
}

fn first_line(said: &[u8]) -> Option<&[u8]> {
    said.split(|byte| *byte == b'\n').next()
}

/// Judges what scontrol has printed of a slurmd's status: it has to be of this process.
fn status(daemon: &str, pid: u32, stdout: &str, stderr: &str, code: i64) -> Finding {
    let own = stdout.lines().find_map(|line| {
        let (key, value) = line.split_once('=')?;
        (key.trim() == "Slurmd PID").then(|| value.trim())
    });
    match own {
        Some(own) if code == 0 && own == pid.to_string() => Finding::passed(),
        Some(own) if code == 0 => {
            let why = format!(
                "{daemon} listens (process {pid}), but scontrol show slurmd is answered by process \
                 {own:.20}: slurm.conf leads to another slurmd"
            );
            Finding::failed(ReasonCode::WrongAnswer, why)
        }
        _ => {
            let complaint = complaint("scontrol", stderr, stdout, code);
            let code = match complaint.code {
                // It is slurmd that was asked, and no controller.
                ReasonCode::CommandFailed if own.is_none() && code == 1 => ReasonCode::NoAnswer,
                other => other,
            };
            let why = format!("{daemon} listens, but does not answer: {}", complaint.text);
            Finding::failed(code, why)
        }
    }
}

/// The request to slurmrestd's port.
const ANYTHING: PortQuestion = PortQuestion {
    address: IpAddr::V4(Ipv4Addr::LOCALHOST),
    port: 0,
    process: None,
    send: "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    prefix: "HTTP/",
    within: Duration::from_secs(1),
    cap: 4 * 1024,
    pause: Duration::ZERO,
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::Judgement;

    fn code(finding: Finding) -> Option<ReasonCode> {
        match finding.judgement {
            Judgement::Clear(outcome) => outcome.code(),
            other => panic!("{other:?}"),
        }
    }

    fn greeting(said: &[u8]) -> Answer {
        Answer::Greeting(said.to_vec(), GreetingEnd::TooLong)
    }

    fn command(stdout: &str, stderr: &str, code: i64) -> Answer {
        Answer::Command {
            stdout: stdout.to_owned(),
            stderr: stderr.to_owned(),
            code,
        }
    }

    #[test]
    fn an_opening_is_answered_by_a_return_code() {
        let judge = |said: &[u8]| code(Rpc::Opening.judge("slurmdbd", 7, &greeting(said)));
        // As it comes from a socket, and as a shell reads it.
        assert_eq!(judge(b"\0\0\0\x3a\x05\x99"), None);
        assert_eq!(judge(b"\x3a\x05\x99\x2cFa"), None);
        assert_eq!(judge(b"SSH-2."), Some(ReasonCode::WrongAnswer));
        assert_eq!(judge(b""), Some(ReasonCode::NoAnswer));
        assert_eq!(judge(b"\n"), Some(ReasonCode::NoAnswer));
        let closed = Answer::Closed("Connection refused".to_owned());
        assert_eq!(
            code(Rpc::Opening.judge("slurmdbd", 7, &closed)),
            Some(ReasonCode::NoAnswer)
        );
    }

    #[test]
    fn any_status_is_an_answer_by_http() {
        for answer in [
            greeting(b"HTTP/1.1 401 UNAUTHORIZED"),
            command("HTTP/1.1 404 Not Found\r\nServer: x\r\n", "", 0),
        ] {
            assert_eq!(code(Rpc::Http.judge("slurmrestd", 7, &answer)), None);
        }
        for (answer, why) in [
            (greeting(b"hello"), ReasonCode::WrongAnswer),
            (
                command("", "curl: (28) Operation timed out\n", 28),
                ReasonCode::NoAnswer,
            ),
            (command("", "", NOT_FOUND), ReasonCode::Unproven),
            (command("", "", NO_SOCKET), ReasonCode::Unproven),
        ] {
            assert_eq!(code(Rpc::Http.judge("slurmrestd", 7, &answer)), Some(why));
        }
    }

    #[test]
    fn a_status_is_of_the_process_that_listens() {
        let status =
            |pid| format!("Hostname = w\nSlurmd PID               = {pid}\nVersion = 22\n");
        let judge = |answer| code(Rpc::Status.judge("slurmd", 51, &answer));
        assert_eq!(judge(command(&status(51), "", 0)), None);
        assert_eq!(
            judge(command(&status(52), "", 0)),
            Some(ReasonCode::WrongAnswer)
        );
        let silent = "slurm_slurmd_info: Unable to contact slurmd\n";
        assert_eq!(judge(command("", silent, 1)), Some(ReasonCode::NoAnswer));
        let keys = "slurm_load_slurmd_status error: Protocol authentication error\n";
        assert_eq!(judge(command("", keys, 1)), Some(ReasonCode::AuthFailed));
    }
}
