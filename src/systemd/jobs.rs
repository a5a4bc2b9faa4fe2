//! The jobs that systemd runs, as systemctl prints them: what a boot waits for.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::{
    text::clean,
    unit::{JOBS, Job},
};

/// A part of a shell script that prints a line for each property of the units whose jobs run; the lines of
/// one unit end with an empty one. Times are UTC.
macro_rules! jobs_script {
    () => {
        r#"
running=$(systemctl list-jobs --plain --no-legend --no-pager 2>/dev/null | head -n 64 |
  while read -r _ unit _ state; do [ "$state" != running ] || echo "$unit"; done | head -n 8)
[ -z "$running" ] ||
  { TZ=UTC systemctl show --property=Id,InactiveExitTimestamp -- $running 2>/dev/null; echo; } | sed 's/^/job /'
"#
    };
}
pub(super) use jobs_script;

/// The jobs in the making, from lines of the script.
#[derive(Debug, Default)]
pub(super) struct Jobs {
    done: Vec<Job>,
    unit: String,
    since: Option<SystemTime>,
}

impl Jobs {
    /// Takes a line.
    pub(super) fn line(&mut self, line: &str) {
        match line.split_once('=') {
            Some(("Id", id)) => self.unit = clean(id, false),
            Some(("InactiveExitTimestamp", at)) => self.since = timestamp(at),
            _ if line.trim().is_empty() => {
                let (unit, since) = (std::mem::take(&mut self.unit), self.since.take());
                if !unit.is_empty() && self.done.len() < JOBS {
                    self.done.push(Job { unit, since });
                }
            }
            _ => {}
        }
    }

    pub(super) fn finish(mut self) -> Vec<Job> {
        self.done.sort();
        self.done
    }
}

/// Reads a time in the form `Thu 2026-11-26 17:37:56 UTC`.
fn timestamp(text: &str) -> Option<SystemTime> {
    let mut words = text.split_ascii_whitespace().skip(1);
    let (day, time) = (words.next()?, words.next()?);
    humantime::parse_rfc3339_weak(&format!("{day} {time}")).ok()
}

/// Makes a time of microseconds since the epoch; zero is none.
pub(super) fn microseconds(number: u64) -> Option<SystemTime> {
    let since = Duration::from_secs(number / 1_000_000);
    (number > 0)
        .then(|| UNIX_EPOCH.checked_add(since))
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_are_read_as_systemctl_prints_them() {
        let mut jobs = Jobs::default();
        for line in [
            "Id=b.service",
            "InactiveExitTimestamp=Thu 2026-11-26 17:37:56 UTC",
            "",
            "InactiveExitTimestamp=",
            "Id=a.device",
            "",
            "",
        ] {
            jobs.line(line);
        }
        let at = humantime::parse_rfc3339("2026-11-26T17:37:56Z").unwrap();
        let job = |unit: &str, since| Job {
            unit: unit.to_owned(),
            since,
        };
        assert_eq!(
            jobs.finish(),
            [job("a.device", None), job("b.service", Some(at))]
        );
        assert_eq!(microseconds(0), None);
        assert_eq!(
            microseconds(1_500_000),
            Some(UNIX_EPOCH + Duration::from_secs(1))
        );
    }
}
