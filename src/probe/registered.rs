//! The probe `registered`: the controller has this worker registered, in a state that runs jobs.
//!
//! slurmd can be active while the controller still has the node as UNKNOWN, and then jobs hang. The
//! record of the node decides, by its base state and flags: what sinfo(1) prints is one word for many of
//! them, and leaves out nodes in no partition and in hidden ones.
//!
//! A record may be of an earlier slurmd: of one in a container of the same name that was removed, say.
//! Until the controller notices, it reads the same. So a registration counts only if it is not older
//! than the slurmd that runs now.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{
    Ask, Evidence, Finding, Outcome,
    job::SlurmNode,
    node_record::NodeRecord,
    slurm_command::{complaint, prelude, resolve},
};
use crate::{
    question::{Answer, CommandQuestion, Question},
    reason::ReasonCode,
    text::Line,
};

/// Prints the host's name; the clock, for how long the machine has been up, and the line of slurmd in
/// /proc (proc(5)); then the node's record, by each name that it may have.
///
/// The clock is read before the time since boot, so that slurmd never seems to have started later than
/// it has.
const SCRIPT: &str = concat!(
    prelude!("scontrol"),
    r#"echo "$host"
[ -n "$4" ] || exit 3
date +%s.%N
cat /proc/uptime "/proc/$4/stat" 2>/dev/null || exit 3
"#,
    resolve!(),
    r#"show() { scontrol --oneliner show node "$@"; }
[ -z "$3" ] || { show "$3"; exit; }
short=${host%%.*}
for name in "$short" "$host"; do
  shown=$(show "$name" 2>&1) && code=0 || code=$?
  case $code$shown in
    0*" NodeHostName=$short"[\ .]* | 0*" NodeHostName=$host "*) echo "$shown"; exit ;;
    0* | *" not found"*) ;;
    *) echo "$shown" >&2; exit "$code" ;;
  esac
done
show | grep -i -F -e " NodeHostName=$short " -e " NodeHostName=$short." -e " NodeHostName=$host "
exit 0
"#
);

pub(super) const ASK: Ask = Ask {
    question: Question::Command(CommandQuestion {
        argv: &["sh", "-c", SCRIPT, "sh"],
        arguments: Vec::new(),
        name: "scontrol show node",
    }),
    as_daemon: Some("slurmd"),
    judge,
    shortcut: None,
};

/// The exit code of the script where no slurmd runs.
const NO_SLURMD: i64 = 3;

/// The flags with which a node runs no jobs, though its base state says that it does.
const UNUSABLE: [&str; 7] = [
    "NOT_RESPONDING",
    "INVALID_REG",
    "FAIL",
    "POWERED_DOWN",
    "POWERING_UP",
    "POWERING_DOWN",
    "REBOOT_ISSUED",
];

/// What a reason of Slurm's asks for, by its beginning.
const REMEDIES: [(&str, &str); 5] = [
    (
        "Low RealMemory",
        "RealMemory of this node in slurm.conf is more than it has; `slurmd -C` prints what it has",
    ),
    (
        "Low socket",
        "the sockets, cores or threads of this node in slurm.conf are more than it has; `slurmd -C` \
         prints what it has",
    ),
    (
        "Low CPUs",
        "CPUs of this node in slurm.conf are more than it has; `slurmd -C` prints what it has",
    ),
    (
        "Not responding",
        "the controller cannot reach slurmd at the node's NodeAddr",
    ),
    (
        "Node unexpectedly rebooted",
        "`scontrol update nodename=… state=resume` makes it usable again, as ReturnToService=2 in \
         slurm.conf does by itself",
    ),
];

fn judge(answer: &Answer) -> Finding {
    let Answer::Command {
        stdout,
        stderr,
        code,
    } = answer
    else {
        return Finding::failed(ReasonCode::NoAnswer, "scontrol show node gave no answer");
    };
    if *code == NO_SLURMD {
        return Finding::failed(
            ReasonCode::ProcessMissing,
            "no process of slurmd runs in the node, so that a registration would be that of an earlier one",
        );
    }
    let host = stdout.lines().next().unwrap_or_default().trim();
    let records: Vec<_> = stdout.lines().filter_map(NodeRecord::read).collect();
    match records.as_slice() {
        [record] => Finding {
            evidence: Evidence {
                slurm_node: SlurmNode::new(record.name, &record.partitions).map(Box::new),
                slurm_state: (!record.state.is_empty()).then(|| Line::new(record.state)),
                ..Evidence::default()
            },
            ..judge_record(record, slurmd_start(stdout)).into()
        },
        [] if stderr.trim().is_empty() && (*code == 0 || stdout.contains(" not found")) => {
            Finding::failed(
                ReasonCode::NotRegistered,
                format!(
                    "the controller knows no node of this host's name ({host:.64}), neither as NodeName nor \
                 as NodeHostName, and slurmd was started without -N"
                ),
            )
        }
        [] => {
            let said = stdout.lines().skip(4).collect::<Vec<_>>().join("\n");
            let complaint = complaint("scontrol", stderr, &said, *code);
            Finding::failed(
                complaint.code,
                format!("scontrol show node: {}", complaint.text),
            )
        }
        many => {
            let names: Vec<_> = many.iter().take(8).map(|record| record.name).collect();
            Finding::failed(
                ReasonCode::NotRegistered,
                format!(
                    "the controller has more than one node on this host ({host:.64}): {:.400}; which of \
                     them this one is can only be told where slurmd is started with -N",
                    names.join(", ")
                ),
            )
        }
    }
}

fn judge_record(record: &NodeRecord<'_>, slurmd_start: Option<SystemTime>) -> Outcome {
    let NodeRecord {
        name,
        state,
        reason,
        ..
    } = record;
    let its_reason = match *reason {
        "" | "none" => String::new(),
        reason => format!(" (its reason: {reason:.300})"),
    };
    let reported = format!("the controller reports the node {name:.64} {state:.100}{its_reason}");
    let remedy = REMEDIES.iter().find(|(start, _)| reason.starts_with(start));
    let advice = remedy.map_or(String::new(), |(_, remedy)| format!("; {remedy}"));
    let registered = record.slurmd_start;
    if matches!(record.base(), "UNKNOWN" | "FUTURE" | "") {
        return Outcome::failed(
            ReasonCode::NotRegistered,
            format!("{reported}: it has not registered there"),
        );
    }
    let is_base = matches!(record.base(), "IDLE" | "ALLOCATED" | "MIXED");
    if !is_base || UNUSABLE.iter().any(|flag| record.has(flag)) {
        return Outcome::failed(ReasonCode::NodeUnusable, reported + &advice);
    }
    match (registered, slurmd_start) {
        (None, _) => Outcome::failed(
            ReasonCode::NotRegistered,
            format!("{reported}, but no slurmd has registered there"),
        ),
        (Some(registered), Some(started)) if registered < started => Outcome::failed(
            ReasonCode::NotRegistered,
            format!(
                "{reported}, which is of a slurmd that started at {}; the one that runs now started at \
                 {} and has not registered yet",
                humantime::format_rfc3339_seconds(registered),
                humantime::format_rfc3339_seconds(started)
            ),
        ),
        _ if record.has("DRAIN") || record.has("MAINTENANCE") => {
            Outcome::passed_with(format!("{reported}: no other jobs start there"))
        }
        _ => Outcome::passed(),
    }
}

/// When slurmd started, in whole seconds, as it tells the controller itself; `None` where the node does
/// not tell: with a virtual time since boot, say.
fn slurmd_start(stdout: &str) -> Option<SystemTime> {
    /// The times in /proc/PID/stat are hundredths of a second for every program on Linux (proc(5)).
    const TICK: Duration = Duration::from_millis(10);
    let mut lines = stdout.lines().skip(1);
    let seconds = |text: &str| {
        let whole = text.split('.').next()?.parse::<u64>().ok()?;
        let nanos = text.parse::<f64>().ok()?.fract();
        (0.0..1.0)
            .contains(&nanos)
            .then(|| Duration::from_secs(whole) + Duration::from_secs_f64(nanos))
    };
    // A clock without nanoseconds prints the format's letters behind the point.
    let now = lines.next()?;
    let now = seconds(now).or_else(|| seconds(now.split('.').next()?))?;
    let up = seconds(lines.next()?.split_ascii_whitespace().next()?)?;
    let (_, stat) = lines.next()?.rsplit_once(") ")?;
    let ticks: u32 = stat.split_ascii_whitespace().nth(19)?.parse().ok()?;
    let age = up.checked_sub(TICK.checked_mul(ticks)?)?;
    UNIX_EPOCH.checked_add(Duration::from_secs(now.checked_sub(age)?.as_secs()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::Judgement;
    use proptest::prelude::*;

    /// What the script prints: slurmd started at second 1000.
    fn printed(records: &str) -> Answer {
        let stat = format!("44 (slurmd) S 1 {} 100000 1 1", "0 ".repeat(17).trim());
        Answer::Command {
            stdout: format!("w1\n1500.250000000\n1500.00 2.00\n{stat}\n{records}"),
            stderr: String::new(),
            code: 0,
        }
    }

    fn record(state: &str, started: u64, reason: &str) -> String {
        let started = UNIX_EPOCH + Duration::from_secs(started);
        let started = humantime::format_rfc3339_seconds(started).to_string();
        let started = started.trim_end_matches('Z');
        let reason = if reason.is_empty() {
            String::new()
        } else {
            format!(" Reason={reason} [root@x]")
        };
        format!("NodeName=w1 NodeHostName=w1 State={state} SlurmdStartTime={started}{reason}\n")
    }

    fn outcome(answer: &Answer) -> Outcome {
        match judge(answer).judgement {
            Judgement::Clear(outcome) => outcome,
            other => panic!("{other:?}"),
        }
    }

    fn judged(state: &str) -> Outcome {
        outcome(&printed(&record(state, 1000, "")))
    }

    #[test]
    fn base_and_flags_decide() {
        for state in [
            "IDLE",
            "ALLOCATED",
            "MIXED+PLANNED",
            "IDLE+COMPLETING",
            "IDLE+CLOUD",
            "MIXED-",
        ] {
            assert_eq!(judged(state), Outcome::passed(), "{state}");
        }
        for state in [
            "IDLE+DRAIN",
            "ALLOCATED+DRAIN",
            "IDLE+MAINTENANCE+RESERVED",
            "IDLE$",
        ] {
            let judged = judged(state);
            assert!(judged.is_passed() && judged.reason().unwrap().contains(state));
        }
        for state in [
            "DOWN",
            "DOWN+DRAIN",
            "IDLE+NOT_RESPONDING",
            "IDLE*",
            "IDLE+DRAIN+NOT_RESPONDING",
            "IDLE~",
            "IDLE+INVALID_REG",
            "MIXED+FAIL",
            "IDLE+POWERED_DOWN",
            "IDLE+POWERING_UP",
            "ERROR",
            "IDLE^",
            "IDLE+POWERING_DOWN",
            "IDLE+REBOOT_ISSUED",
        ] {
            assert_eq!(
                judged(state).code(),
                Some(ReasonCode::NodeUnusable),
                "{state}"
            );
        }
        for state in [
            "UNKNOWN",
            "UNKNOWN+DRAIN",
            "UNKNOWN*",
            "UNKNOWN+MAINTENANCE",
            "FUTURE",
        ] {
            assert_eq!(
                judged(state).code(),
                Some(ReasonCode::NotRegistered),
                "{state}"
            );
        }
    }

    #[test]
    fn a_predecessors_registration_does_not_count() {
        let at = |second| outcome(&printed(&record("IDLE", second, "")));
        assert!(at(1000).is_passed() && at(1001).is_passed());
        let earlier = at(999);
        assert_eq!(earlier.code(), Some(ReasonCode::NotRegistered));
        assert!(
            earlier
                .reason()
                .unwrap()
                .contains("1970-01-01T00:16:40Z and has not registered")
        );
        let never = outcome(&printed("NodeName=w1 State=IDLE SlurmdStartTime=None\n"));
        assert_eq!(never.code(), Some(ReasonCode::NotRegistered));
    }

    #[test]
    fn slurms_state_and_reason_are_told() {
        let answer = printed(&record(
            "DOWN+DRAIN",
            1000,
            "Low RealMemory (reported:1 < 100.00% of configured:2)",
        ));
        let finding = judge(&answer);
        assert_eq!(
            finding.evidence.slurm_state.as_ref().map(Line::as_str),
            Some("DOWN+DRAIN")
        );
        let outcome = outcome(&answer);
        let reason = outcome.reason().unwrap();
        assert!(
            reason.contains("Low RealMemory (reported:1") && reason.contains("slurmd -C"),
            "{reason}"
        );
    }

    #[test]
    fn no_record_and_many_say_why() {
        let unknown = outcome(&printed(""));
        assert_eq!(unknown.code(), Some(ReasonCode::NotRegistered));
        let two =
            record("IDLE", 1000, "") + &record("IDLE", 1000, "").replace("=w1 NodeH", "=w2 NodeH");
        let two = outcome(&printed(&two));
        assert!(two.reason().unwrap().contains("w1, w2"), "{two:?}");
        let failed = |code, stderr: &str| {
            outcome(&Answer::Command {
                stdout: "w1\n".to_owned(),
                stderr: stderr.to_owned(),
                code,
            })
        };
        assert_eq!(failed(3, "").code(), Some(ReasonCode::ProcessMissing));
        let auth = failed(1, "slurm_load_node error: Protocol authentication error\n");
        assert_eq!(auth.code(), Some(ReasonCode::AuthFailed));
        assert_eq!(failed(1, "x\n").reason(), Some("scontrol show node: x"));
        assert_eq!(
            failed(127, "/bin\n").code(),
            Some(ReasonCode::CommandFailed)
        );
    }

    proptest! {
        #[test]
        fn nothing_passes_without_a_usable_base(
            stdout in "(w1\n|1500\\.5\n|NodeName=w1 |State=|IDLE|DOWN|\\+|FAIL|SlurmdStartTime=2026-11-26T16:46:13|\n|\\PC){0,24}"
        ) {
            let answer = Answer::Command { stdout: stdout.clone(), stderr: String::new(), code: 0 };
            if judge(&answer).has_passed() {
                prop_assert!(stdout.contains("State=IDLE") && stdout.contains("SlurmdStartTime=2026"));
            }
        }
    }
}
