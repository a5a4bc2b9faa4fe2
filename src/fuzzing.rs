//! Entrances for fuzzing, which only a build for fuzzing has (`cfg(fuzzing)`).
//!
//! Each takes bytes as a peer may send them that is not trusted, hands them to the parser that reads them, and
//! panics where what comes out is not what the rest relies on.

use crate::{
    probe::{Ask, Finding, Judgement, Method, Understood},
    question::{Answer, GreetingEnd},
    systemd::systemctl,
    text::{Detail, Line},
};

#[cfg(feature = "server")]
pub use crate::grpc::fuzzing::{authority, requests};
pub use crate::{docker::fuzzing::engine, link::fuzzing::processes, systemd::fuzzing::bus};

/// The longest reason and the longest detail, in bytes.
const REASON: usize = 1024;
const DETAIL: usize = 8 * 1024;

/// What a command in a node prints: scontrol, a setting of slurm.conf, a record of a node.
pub fn commands(bytes: &[u8]) {
    let Some((code, printed)) = bytes.split_first() else {
        return;
    };
    let text = String::from_utf8_lossy(printed).into_owned();
    // Standard error is what comes behind the first NUL.
    let (stdout, stderr) = text.split_once('\0').unwrap_or((&text, ""));
    let answer = Answer::Command {
        stdout: stdout.to_owned(),
        stderr: stderr.to_owned(),
        code: i64::from(*code),
    };
    for (name, ask) in asks() {
        let finding = (ask.judge)(&answer);
        if finding.has_passed() {
            assert!(!stdout.trim().is_empty(), "{name} passes by nothing");
        }
        check(&finding);
    }
}

/// What a port sends: a banner, or an answer to HTTP.
pub fn ports(bytes: &[u8]) {
    let Some((which, sent)) = bytes.split_first() else {
        return;
    };
    let end = match which % 4 {
        0 => GreetingEnd::Found,
        1 => GreetingEnd::Closed,
        2 => GreetingEnd::TimedOut,
        _ => GreetingEnd::TooLong,
    };
    let answer = Answer::Greeting(sent.to_vec(), end);
    for (name, ask) in asks() {
        let finding = (ask.judge)(&answer);
        if finding.has_passed() {
            let begins = |line: &[u8]| line.starts_with(b"SSH-");
            assert!(
                sent.split(|byte| *byte == b'\n').any(begins),
                "{name} passes"
            );
        }
        check(&finding);
        if let Some(shortcut) = &ask.shortcut {
            understood((shortcut.judge)(&answer), sent);
        }
    }
    understood(crate::probe::daemon::judge_readyz("slurmd", &answer), sent);
}

fn understood(understood: Understood, sent: &[u8]) {
    if let Understood::Yes(finding) = understood {
        let has = |word: &[u8]| sent.windows(word.len()).any(|part| part == word);
        assert!(!finding.has_passed() || (has(b"HTTP/") && has(b" 2")));
        check(&finding);
    }
}

/// What systemctl and journalctl print.
pub fn systemctl(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let asked = ["munge.service", "slurmd.service"];
    match systemctl::parse(&text, &asked) {
        Ok(state) => {
            assert_eq!(state.units.len(), asked.len());
            for unit in state.units.values() {
                assert!(unit.journal.as_str().len() <= DETAIL);
                check(&crate::probe::judge_unit(unit));
            }
        }
        Err(missing) => drop(Line::new(missing.said)),
    }
    let _ = systemctl::clock(&text);
}

/// Any text that is shown: a journal, a log.
pub fn text(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    clean(Line::new(&text).as_str(), REASON, false);
    clean(Detail::new(&text).as_str(), DETAIL, true);
}

/// The questions of all probes, by the name of each.
fn asks() -> Vec<(&'static str, &'static Ask)> {
    let ask = |row: &'static crate::probe::Row| {
        let ask = match &row.method {
            Method::UnitUnless(_, ask)
            | Method::UnitAndAnswer(_, ask)
            | Method::Answer(_, ask)
            | Method::Process(_, Some(ask)) => ask,
            _ => return None,
        };
        Some((row.name, ask))
    };
    crate::probe::TABLE.into_iter().filter_map(ask).collect()
}

fn check(finding: &Finding) {
    let reason = match &finding.judgement {
        Judgement::Clear(outcome) => outcome.reason().unwrap_or_default(),
        Judgement::Unproven { reason, .. } | Judgement::Dead { reason, .. } => reason.as_str(),
    };
    clean(reason, REASON, false);
    clean(finding.evidence.detail.as_str(), DETAIL, true);
    if let Some(state) = &finding.evidence.slurm_state {
        clean(state.as_str(), REASON, false);
    }
}

fn clean(text: &str, most: usize, lines: bool) {
    assert!(text.len() <= most, "{} bytes", text.len());
    let is_dirty = |c: char| c.is_control() && !(lines && c == '\n');
    assert!(!text.contains(is_dirty), "{text:?}");
}
