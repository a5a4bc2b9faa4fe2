//! The probe `systemd`: the node has finished booting.

use super::Outcome;
use crate::{
    reason::ReasonCode,
    text::REASON_BYTES,
    unit::{FAILED_UNITS, JOBS, Job, SystemdState},
};

/// Passes a systemd that is running or degraded, which are systemctl(1)'s words for a boot that is
/// over. Degraded means that units have failed. This is expected of Slurm's units as long as they
/// are not configured. The reason names the failed units.
pub(crate) fn judge(look: &SystemdState) -> Outcome {
    match look.system.as_str() {
        "running" => Outcome::passed(),
        "degraded" => Outcome::passed_with(format!("systemd is degraded: {} failed", failed(look))),
        "" => Outcome::failed(ReasonCode::WrongAnswer, "systemd does not say its state"),
        state => Outcome::failed(
            ReasonCode::Booting,
            format!("systemd is {state:.200}{}", waits_for(&look.jobs)),
        ),
    }
}

/// Names the jobs that a boot waits for, each with the time since when its unit has been on its way.
fn waits_for(jobs: &[Job]) -> String {
    if jobs.is_empty() {
        return String::new();
    }
    let name = |job: &Job| {
        let since = job.since.map(|since| {
            let since = humantime::format_rfc3339_seconds(since);
            format!(" (since {since})")
        });
        format!("{:.80}{}", job.unit, since.unwrap_or_default())
    };
    let named: Vec<_> = jobs.iter().map(name).collect();
    let more = if jobs.len() < JOBS { "" } else { " and more" };
    format!(": it waits for {}{more}", named.join(", "))
}

/// Names the failed units, as many as fit into a reason: first those that readyd asked for, which are
/// those of interest. How many others there are is not said, since that would be news with each.
fn failed(look: &SystemdState) -> String {
    let own = look.units.values().filter(|unit| unit.is_failed());
    let mut units: Vec<&str> = own.map(|unit| unit.id.as_str()).collect();
    units.sort_unstable();
    for name in look.failed_units.iter().flatten() {
        if !units.contains(&name.as_str()) {
            units.push(name);
        }
    }
    units.dedup();
    let room = REASON_BYTES - 100;
    let mut named = String::new();
    for (index, name) in units.iter().enumerate() {
        if named.len() + name.len() > room {
            named.push_str(" and more");
            return named;
        }
        if index > 0 {
            named.push_str(", ");
        }
        named.push_str(name);
    }
    match (units.is_empty(), &look.failed_units) {
        (true, Some(_)) => "units".to_owned(),
        (true, None) => "many units".to_owned(),
        (false, Some(all)) if all.len() < FAILED_UNITS => named,
        (false, _) => named + " and more",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unit::Unit;

    #[test]
    fn a_finished_boot_passes_and_names_what_failed() {
        let judged = |system: &str, failed: &[&str]| {
            judge(&SystemdState {
                system: system.to_owned(),
                failed_units: Some(failed.iter().map(|unit| (*unit).to_owned()).collect()),
                units: [].into(),
                jobs: Vec::new(),
                subscribed: false,
                last_signal: 0,
            })
        };
        assert_eq!(judged("running", &[]), Outcome::passed());
        assert_eq!(
            judged("degraded", &["slurmd.service", "a.mount"]),
            Outcome::passed_with("systemd is degraded: slurmd.service, a.mount failed")
        );
        // A few are named where all do not fit.
        let many: Vec<_> = (0..FAILED_UNITS)
            .map(|n| format!("{n:060}.mount"))
            .collect();
        let many: Vec<_> = many.iter().map(String::as_str).collect();
        let judged_many = judged("degraded", &many);
        let reason = judged_many.reason().unwrap();
        assert!(reason.contains(many[10]) && reason.ends_with(".mount and more failed"));
        assert!(reason.len() > 800 && reason.len() <= REASON_BYTES);
        let munge = Unit {
            id: "munge.service".to_owned(),
            active: "failed".to_owned(),
            ..Unit::default()
        };
        let too_many = judge(&SystemdState {
            system: "degraded".to_owned(),
            failed_units: None,
            units: [("munge.service".to_owned(), munge)].into(),
            jobs: Vec::new(),
            subscribed: false,
            last_signal: 0,
        });
        assert_eq!(
            too_many.reason().unwrap(),
            "systemd is degraded: munge.service and more failed"
        );
        let mut booting = SystemdState {
            system: "starting".to_owned(),
            failed_units: None,
            jobs: vec![Job {
                unit: "a.service".to_owned(),
                since: Some(std::time::SystemTime::UNIX_EPOCH),
            }],
            units: [].into(),
            subscribed: false,
            last_signal: 0,
        };
        assert_eq!(
            judge(&booting).reason().unwrap(),
            "systemd is starting: it waits for a.service (since 1970-01-01T00:00:00Z)"
        );
        let long = |n| Job {
            unit: format!("{n:0200}.device"),
            since: None,
        };
        booting.jobs = (0..JOBS).map(long).collect();
        let outcome = judge(&booting);
        assert!(outcome.reason().unwrap().ends_with(" and more"));
        for state in [
            "initializing",
            "starting",
            "maintenance",
            "stopping",
            "offline",
            "unknown",
            "",
        ] {
            assert!(matches!(judged(state, &[]), Outcome::Failed(_)), "{state}");
        }
    }
}
