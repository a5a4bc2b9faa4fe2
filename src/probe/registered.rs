//! The probe `registered`: the controller reports this worker up.
//!
//! slurmd can be active while the controller still reports the node as `unknown*`, and then jobs
//! hang.

use super::{Ask, Finding, Outcome};
use crate::{
    question::{Answer, CommandQuestion, Question},
    text::Reason,
};

pub(super) const ASK: Ask = Ask {
    question: Question::Command(CommandQuestion {
        argv: &[
            "sh",
            "-c",
            r#"read -r host </proc/sys/kernel/hostname; exec sinfo --noheader --Node --nodes="${host%%.*}" --format=%T"#,
        ],
        name: "sinfo",
    }),
    judge,
    alone: true,
    shortcut: None,
};

/// Judges a node's extended state (sinfo(1), NODE STATE CODES), which is a word with a sign behind
/// it.
fn judge(answer: &Answer) -> Finding {
    let Answer::Command {
        stdout,
        stderr,
        code,
    } = answer
    else {
        return Finding::failed("sinfo gave no answer");
    };
    let Some(state) = stdout.split_ascii_whitespace().next() else {
        return Finding::failed(match (code, stderr.lines().next()) {
            (0, _) => "the controller knows no node of this host name".to_owned(),
            (127, _) => "the node has no sinfo".to_owned(),
            (_, said) => format!(
                "sinfo failed (exit code {code}): {:.200}",
                said.unwrap_or_default()
            ),
        });
    };
    let reported = || format!("the controller reports the node {state:.64}");
    let base = state.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
    // A node with one of these signs is not up: `*` not responding, `~` powered off, `#` powering
    // up or configuring, `%` powering down, `^` rebooting. A node with another sign (`$` reserved,
    // `@` and `!` pending, `-` planned) is up.
    if state[base.len()..].contains(['*', '~', '#', '%', '^']) {
        return Finding::failed(reported());
    }
    match base {
        "idle" | "allocated" | "mixed" | "completing" | "planned" | "reserved" => Finding::passed(),
        "drained" | "draining" => Finding::Clear(Outcome::Passed(Some(Reason::new(format!(
            "{}: no jobs start there",
            reported()
        ))))),
        _ => Finding::failed(reported()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(stdout: &str, code: i64) -> Finding {
        judge(&Answer::Command {
            stdout: stdout.to_owned(),
            stderr: "x".to_owned(),
            code,
        })
    }

    #[test]
    fn a_worker_that_is_up_passes() {
        for state in [
            "idle\n",
            "allocated\n",
            "mixed\n",
            "completing\n",
            "idle-\n",
            "idle\nidle\n",
        ] {
            assert_eq!(judged(state, 0), Finding::passed(), "{state}");
        }
        for state in ["drained\n", "draining\n"] {
            assert!(
                matches!(judged(state, 0), Finding::Clear(Outcome::Passed(Some(_)))),
                "{state}"
            );
        }
    }

    #[test]
    fn one_that_is_not_up_fails() {
        for state in [
            "unknown\n",
            "unknown*\n",
            "down\n",
            "down*\n",
            "idle*\n",
            "drained*\n",
            "idle~\n",
            "inval\n",
            "future\n",
        ] {
            let reason = format!("the controller reports the node {}", state.trim());
            assert_eq!(judged(state, 0), Finding::failed(reason));
        }
        assert_eq!(
            judged("", 0),
            Finding::failed("the controller knows no node of this host name")
        );
        assert_eq!(
            judged("", 1),
            Finding::failed("sinfo failed (exit code 1): x")
        );
    }
}
