//! The probe `slurmctld`: this node's slurmctld answers RPCs.
//!
//! An active unit is not enough, since slurmctld is active long before it serves. The reply of
//! another controller is not enough either, although `scontrol ping` exits with 0 for it.

use super::{
    Ask, Finding, Shortcut, Understood, readyz,
    slurm_command::{complaint, prelude, resolve},
};
use crate::{
    question::{Answer, CommandQuestion, GreetingEnd, Question},
    reason::ReasonCode,
};

pub(super) const ASK: Ask = Ask {
    question: Question::Command(CommandQuestion {
        argv: &[
            "sh",
            "-c",
            concat!(
                prelude!("scontrol"),
                "echo \"$host\"\n",
                resolve!(),
                "exec scontrol ping"
            ),
            "sh",
        ],
        arguments: Vec::new(),
        name: "scontrol ping",
    }),
    as_daemon: Some("slurmctld"),
    judge,
    shortcut: Some(Shortcut {
        name: "readyz",
        question: readyz::question(PORT),
        judge: judge_readyz,
    }),
};

/// The default of `SlurmctldPort` (slurm.conf(5)).
const PORT: u16 = 6817;

/// Judges the reply to `/readyz`. slurmctld of Slurm 25.11 and later reports on its own port
/// whether it serves RPCs. It answers 204 while it serves; otherwise it delays its reply or answers
/// 500. A backup that stands by answers 500, too, although it does all that a backup has to do.
/// After a 500, after any other reply, and where nothing listens (an older slurmctld, TLS, another
/// port in slurm.conf, or a slurmctld that has only just started), `scontrol ping` has to answer.
fn judge_readyz(answer: &Answer) -> Understood {
    let sent = match answer {
        Answer::Greeting(sent, GreetingEnd::Found) => sent,
        Answer::Greeting(_, GreetingEnd::TimedOut) => return Understood::Perhaps,
        _ => return Understood::No,
    };
    match readyz::status(sent) {
        Some(204) => Understood::Yes(Finding::passed()),
        Some(500..=599) => Understood::Perhaps,
        _ => Understood::No,
    }
}

/// Judges lines such as `Slurmctld(primary) at controller is UP`. There is one for each controller
/// of slurm.conf.
fn judge(answer: &Answer) -> Finding {
    let Answer::Command {
        stdout,
        stderr,
        code,
    } = answer
    else {
        return Finding::failed(ReasonCode::NoAnswer, "scontrol ping gave no answer");
    };
    let mut lines = stdout.lines();
    let host = lines.next().unwrap_or_default().trim();
    let controllers: Vec<_> = lines.flat_map(controllers_of).collect();
    let mine = controllers.iter().find(|(name, _)| same_host(name, host));
    match mine {
        Some((_, "UP")) => Finding::passed(),
        Some((name, state)) => Finding::failed(
            ReasonCode::RpcDown,
            format!("scontrol ping says that slurmctld at {name} is {state}"),
        ),
        None if controllers.is_empty() => {
            let said = stdout.lines().skip(1).collect::<Vec<_>>().join("\n");
            let complaint = complaint("scontrol", stderr, &said, *code);
            let mut text = complaint.text;
            if *code != 127 {
                text = format!("scontrol ping names no controller (exit code {code}): {text}");
            }
            Finding::failed(complaint.code, text.trim_end_matches(": "))
        }
        None => {
            let names: Vec<_> = controllers.iter().take(4).map(|(name, _)| *name).collect();
            Finding::failed(
                ReasonCode::WrongAnswer,
                format!(
                    "scontrol ping names no controller on this node ({host:.64}), only {:.200}",
                    names.join(", ")
                ),
            )
        }
    }
}

/// Returns the host and the state of each controller of a line. Before 20.11, one line told of all:
/// `Slurmctld(primary/backup) at a/b are UP/DOWN`.
fn controllers_of(line: &str) -> Vec<(&str, &str)> {
    let read = || {
        let rest = line.trim().strip_prefix("Slurmctld(")?;
        let (_, rest) = rest.split_once(") at ")?;
        if let Some((hosts, states)) = rest.rsplit_once(" are ") {
            let (hosts, states) = (hosts.split('/'), states.split('/'));
            return Some(hosts.zip(states).collect());
        }
        Some(vec![rest.rsplit_once(" is ")?])
    };
    read().unwrap_or_default()
}

/// Compares a controller's name with the node's host name. Slurm names a controller by its short
/// host name or by its full one, as slurm.conf does.
fn same_host(configured: &str, host: &str) -> bool {
    let short = |name: &str| {
        name.split('.')
            .next()
            .unwrap_or_default()
            .to_ascii_lowercase()
    };
    let equal = |a: &str, b: &str| !a.is_empty() && a.eq_ignore_ascii_case(b);
    equal(configured, host) || equal(configured, &short(host)) || equal(&short(configured), host)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn judged(stdout: &str, code: i64) -> Finding {
        judge(&Answer::Command {
            stdout: stdout.to_owned(),
            stderr: String::new(),
            code,
        })
    }

    #[test]
    fn only_this_nodes_controller_counts() {
        for (stdout, code, means, reason) in [
            (
                "c1\nSlurmctld(primary) at c1 is DOWN\n",
                1,
                ReasonCode::RpcDown,
                "scontrol ping says that slurmctld at c1 is DOWN",
            ),
            // The backup answers, so that scontrol exits with 0.
            (
                "c1\nSlurmctld(primary) at c1 is DOWN\nSlurmctld(backup) at c2 is UP\n",
                0,
                ReasonCode::RpcDown,
                "scontrol ping says that slurmctld at c1 is DOWN",
            ),
            (
                "w1\nSlurmctld(primary) at c1 is UP\n",
                0,
                ReasonCode::WrongAnswer,
                "scontrol ping names no controller on this node (w1), only c1",
            ),
            (
                "c1\n",
                1,
                ReasonCode::CommandFailed,
                "scontrol ping names no controller (exit code 1)",
            ),
            (
                "\nSlurmctld(primary) at  is UP\n",
                0,
                ReasonCode::WrongAnswer,
                "scontrol ping names no controller on this node (), only ",
            ),
        ] {
            assert_eq!(judged(stdout, code), Finding::failed(means, reason));
        }
        for stdout in [
            "c1\nSlurmctld(primary) at c1 is UP\n",
            "c1.hpc.example\nSlurmctld(primary) at c1 is UP\n",
            "c2\nSlurmctld(primary) at c1 is DOWN\nSlurmctld(backup) at c2 is UP\n",
        ] {
            assert_eq!(judged(stdout, 0), Finding::passed());
        }
    }

    #[test]
    fn an_old_line_tells_of_all_controllers() {
        let said = "Slurmctld(primary/backup) at c1/c2 are UP/DOWN\n";
        assert_eq!(judged(&format!("c1\n{said}"), 0), Finding::passed());
        assert_eq!(
            judged(&format!("c2\n{said}"), 0),
            Finding::failed(
                ReasonCode::RpcDown,
                "scontrol ping says that slurmctld at c2 is DOWN"
            )
        );
        let one = "c1\nSlurmctld(primary) at c1 is UP\n";
        assert_eq!(judged(one, 0), Finding::passed());
    }

    #[test]
    fn readyz_counts_where_it_is_answered() {
        let judged = |sent: &str, end| judge_readyz(&Answer::Greeting(sent.into(), end));
        let found = |sent: &str| judged(sent, GreetingEnd::Found);
        let served = Understood::Yes(Finding::passed());
        assert_eq!(found("HTTP/1.1 204 No Content\r"), served);
        // slurmctld is starting, or it is a backup that stands by.
        let error = found("HTTP/1.1 500 Internal Server Error\r");
        assert_eq!(error, Understood::Perhaps);
        // If the path is unknown, the reply is not HTTP or there is no reply, another query has to
        // follow.
        for sent in [
            "HTTP/1.1 404 Not Found",
            "HTTP/",
            "HTTP/1.1 x",
            "HTTP/1.1 99999",
        ] {
            assert_eq!(found(sent), Understood::No, "{sent}");
        }
        assert_eq!(judged("", GreetingEnd::Closed), Understood::No);
        let refused = Answer::Closed("refused".to_owned());
        assert_eq!(judge_readyz(&refused), Understood::No);
        // slurmctld delays its reply until it serves.
        assert_eq!(judged("", GreetingEnd::TimedOut), Understood::Perhaps);
        assert_eq!(
            judged("HTTP/1.1 204", GreetingEnd::TimedOut),
            Understood::Perhaps
        );
    }

    #[test]
    fn an_error_of_scontrol_is_quoted() {
        let answer = Answer::Command {
            stdout: "c1\n".to_owned(),
            stderr: "scontrol: error: resolve_ctls_from_dns_srv: res_nsearch error\n".to_owned(),
            code: 1,
        };
        assert_eq!(
            judge(&answer),
            Finding::failed(
                ReasonCode::CommandFailed,
                "scontrol ping names no controller (exit code 1): resolve_ctls_from_dns_srv: res_nsearch \
                 error (slurm.conf was looked for where the daemon was told to, by -f or SLURM_CONF, and \
                 else where scontrol looks)"
            )
        );
    }

    proptest! {
        #[test]
        fn nothing_passes_without_its_own_line(stdout in "(c1|Slurmctld\\(primary\\) at |c2| is | are |UP|DOWN|\n|\\PC){0,30}") {
            if judged(&stdout, 0).has_passed() {
                prop_assert!(stdout.contains(" is UP") || stdout.contains(" are "));
            }
        }
    }
}
