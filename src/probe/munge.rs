//! The probe `munge`: its unit is active, or the cluster authenticates without it.

use super::{Ask, Finding, Outcome};
use crate::{
    question::{Answer, Question, SettingQuestion},
    reason::ReasonCode,
    slurm_conf::{find_slurm_conf, setting},
};

pub(super) const ASK: Ask = Ask {
    question: Question::Setting(SettingQuestion {
        key: "AuthType",
        script: concat!(
            find_slurm_conf!(),
            r#"[ -z "$conf" ] || grep -i 'authtype' "$conf"; exit 0"#
        ),
    }),
    as_daemon: None,
    judge,
    shortcut: None,
};

/// Judges the lines of slurm.conf that set `AuthType`. With auth/slurm, no node needs munge.
fn judge(answer: &Answer) -> Finding {
    let Answer::Command { stdout, .. } = answer else {
        return Finding::failed(ReasonCode::NoAnswer, "slurm.conf could not be read");
    };
    match setting(stdout, "AuthType") {
        Some(kind) if kind.eq_ignore_ascii_case("auth/slurm") => {
            Outcome::passed_with("slurm.conf says AuthType=auth/slurm: the node does without munge")
                .into()
        }
        _ => Finding::failed(
            ReasonCode::UnitInactive,
            "slurm.conf does not say AuthType=auth/slurm",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_auth_slurm_does_without() {
        let judged = |stdout: &str| {
            judge(&Answer::Command {
                stdout: stdout.to_owned(),
                stderr: String::new(),
                code: 0,
            })
        };
        assert!(judged("AuthType=auth/slurm\n").has_passed());
        for lines in [
            "",
            "AuthType=auth/munge\n",
            "AuthAltTypes=auth/slurm\n",
            "# AuthType=auth/slurm\n",
        ] {
            assert!(!judged(lines).has_passed(), "{lines}");
        }
    }
}
