//! The probe `systemd`: the node has finished booting.

use super::Outcome;
use crate::{text::Reason, unit::SystemdState};

/// Passes a systemd that is running or degraded, which are systemctl(1)'s words for a boot that is
/// over. Degraded means that units have failed. This is expected of Slurm's units as long as they
/// are not configured. The reason names the failed units.
pub(crate) fn judge(look: &SystemdState) -> Outcome {
    match look.system.as_str() {
        "running" => Outcome::passed(),
        "degraded" => {
            let units = &look.failed_units;
            let failed = if units.is_empty() {
                "units".to_owned()
            } else {
                units.join(", ")
            };
            Outcome::Passed(Some(Reason::new(format!(
                "systemd is degraded: {failed} failed"
            ))))
        }
        "" => Outcome::failed("systemd does not say its state"),
        state => Outcome::failed(format!("systemd is {state:.200}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finished_boot_passes_and_names_what_failed() {
        let judged = |system: &str, failed: &[&str]| {
            judge(&SystemdState {
                system: system.to_owned(),
                failed_units: failed.iter().map(|unit| (*unit).to_owned()).collect(),
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
