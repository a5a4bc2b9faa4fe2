//! The probe `systemd`: the node has finished booting.

use super::Outcome;
use crate::{
    text::{REASON_BYTES, Reason},
    unit::{FAILED_UNITS, SystemdState},
};

/// Passes a systemd that is running or degraded, which are systemctl(1)'s words for a boot that is
/// over. Degraded means that units have failed. This is expected of Slurm's units as long as they
/// are not configured. The reason names the failed units.
pub(crate) fn judge(look: &SystemdState) -> Outcome {
    match look.system.as_str() {
        "running" => Outcome::passed(),
        "degraded" => Outcome::Passed(Some(Reason::new(format!(
            "systemd is degraded: {} failed",
            failed(look)
        )))),
        "" => Outcome::failed("systemd does not say its state"),
        state => Outcome::failed(format!("systemd is {state:.200}")),
    }
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
                subscribed: false,
                last_signal: 0,
            })
        };
        assert_eq!(judged("running", &[]), Outcome::passed());
        assert_eq!(
            judged("degraded", &["slurmd.service", "a.mount"]),
            Outcome::Passed(Some(Reason::new(
                "systemd is degraded: slurmd.service, a.mount failed"
            )))
        );
        // A few are named where all do not fit.
        let many: Vec<_> = (0..FAILED_UNITS)
            .map(|n| format!("{n:060}.mount"))
            .collect();
        let many: Vec<_> = many.iter().map(String::as_str).collect();
        let judged_many = judged("degraded", &many);
        let reason = judged_many.reason().unwrap().as_str();
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
            subscribed: false,
            last_signal: 0,
        });
        assert_eq!(
            too_many.reason().unwrap().as_str(),
            "systemd is degraded: munge.service and more failed"
        );
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
