//! The probes `munge`, `slurmd`, `slurmdbd` and `sackd`: the unit is active.

use super::{Evidence, Finding, Judgement, Outcome, Proof, UnitProof};
use crate::{
    reason::{Reason, ReasonCode},
    unit::{SystemdState, Unit},
};

/// Returns the unit of the first name that exists in the node, or the unit of the first name if
/// none exists.
pub(crate) fn find<'a>(look: &'a SystemdState, names: &[&str]) -> Option<&'a Unit> {
    let unit = |name: &&str| look.units.get(*name);
    let exists = |name: &&&str| unit(name).is_some_and(Unit::exists);
    names
        .iter()
        .find(exists)
        .or_else(|| names.first())
        .and_then(unit)
}

/// Judges a unit. An active unit passes, at once if its type reports when the daemon is up. A
/// failed unit is terminal once a second look has confirmed it.
pub(crate) fn judge(unit: &Unit) -> Finding {
    let reason = unit.describe();
    let proof = || UnitProof::of(unit);
    if unit.load == "masked" {
        Outcome::Failed(reason).into()
    } else if unit.is_failed() {
        Finding {
            judgement: Judgement::Dead {
                proof: Proof::Unit(proof()),
                reason,
            },
            evidence: Evidence::detail(unit.journal.clone()),
        }
    } else if !unit.is_active() {
        Outcome::Failed(reason).into()
    } else if unit.tells() {
        Finding::passed()
    } else {
        Judgement::Unproven {
            proof: proof(),
            age: unit.age,
            reason: Reason::new(
                ReasonCode::Unproven,
                format!(
                    "{} has only just become active; being of type {}, that proves nothing for the \
                 first 200 ms",
                    unit.id, unit.kind
                ),
            ),
        }
        .into()
    }
}

/// Judges an active socket unit, by which systemd starts a daemon once somebody connects.
pub(crate) fn judge_socket(unit: &Unit, daemon: &str) -> Outcome {
    let id = &unit.id;
    Outcome::passed_with(format!(
        "{id} listens: systemd starts {daemon} once somebody connects"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(load: &str, active: &str, sub: &str, kind: &str) -> Unit {
        Unit {
            id: "slurmd.service".to_owned(),
            load: load.to_owned(),
            active: active.to_owned(),
            sub: sub.to_owned(),
            kind: kind.to_owned(),
            ..Unit::default()
        }
    }

    #[test]
    fn active_is_not_up_unless_the_unit_tells() {
        for kind in ["notify", "notify-reload", "forking", "dbus", "oneshot"] {
            assert_eq!(
                judge(&unit("loaded", "active", "running", kind)),
                Finding::passed()
            );
        }
        for kind in ["simple", "exec", "idle"] {
            let finding = judge(&unit("loaded", "active", "running", kind));
            let judgement = finding.judgement;
            assert!(matches!(judgement, Judgement::Unproven { .. }), "{kind}");
        }
    }

    #[test]
    fn what_is_not_active_fails_with_the_units_own_words() {
        for (load, active, sub, code, reason) in [
            (
                "loaded",
                "inactive",
                "dead",
                ReasonCode::UnitInactive,
                "slurmd.service is inactive (dead)",
            ),
            (
                "loaded",
                "activating",
                "start",
                ReasonCode::UnitActivating,
                "slurmd.service is activating (start)",
            ),
            (
                "loaded",
                "activating",
                "auto-restart",
                ReasonCode::UnitActivating,
                "slurmd.service is activating (auto-restart)",
            ),
            (
                "masked",
                "inactive",
                "dead",
                ReasonCode::UnitMasked,
                "slurmd.service is masked",
            ),
            (
                "masked",
                "failed",
                "failed",
                ReasonCode::UnitMasked,
                "slurmd.service is masked",
            ),
            (
                "not-found",
                "inactive",
                "dead",
                ReasonCode::UnitMissing,
                "slurmd.service does not exist in the node",
            ),
            (
                "bad-setting",
                "inactive",
                "dead",
                ReasonCode::UnitInactive,
                "slurmd.service cannot be loaded (bad-setting)",
            ),
        ] {
            assert_eq!(
                judge(&unit(load, active, sub, "simple")),
                Finding::failed(code, reason)
            );
        }
    }

    #[test]
    fn a_failed_unit_is_dead_unless_a_job_is_queued_for_it() {
        let mut failed = unit("loaded", "failed", "failed", "simple");
        assert!(matches!(judge(&failed).judgement, Judgement::Dead { .. }));
        failed.job = true;
        assert_eq!(
            judge(&failed),
            Finding::failed(ReasonCode::UnitFailed, "slurmd.service is failed")
        );
    }

    #[test]
    fn an_alias_counts_where_the_first_name_is_no_unit() {
        let mut ssh = unit("loaded", "active", "running", "notify");
        ssh.id = "ssh.service".to_owned();
        let look = SystemdState {
            system: "running".to_owned(),
            failed_units: None,
            jobs: Vec::new(),
            subscribed: false,
            last_signal: 0,
            units: [
                (
                    "sshd.service".to_owned(),
                    unit("not-found", "inactive", "dead", ""),
                ),
                ("ssh.service".to_owned(), ssh),
            ]
            .into(),
        };
        let found = find(&look, &["sshd.service", "ssh.service"]).unwrap();
        assert_eq!(found.id, "ssh.service");
        assert!(find(&look, &["munge.service"]).is_none());
    }
}
