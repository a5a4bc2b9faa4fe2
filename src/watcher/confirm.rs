//! Findings that need a second look before they are an outcome: a unit that has only just become
//! active, a unit that has failed, and an exited container that its policy may start again.
//!
//! ```text
//! active, of a type that does not tell ──200 ms, same process──▶ passed
//! failed, no job queued ──100 ms, nothing changed──▶ terminal
//! exited, with a restart policy ──1 s, same run──▶ terminal
//! ```
//!
//! The first rule keeps a daemon that dies 9 ms after its start from being called ready. The other two
//! keep what is started again in every cycle from ending a wait.
//!
//! What was seen first is written down when a reply arrives; judging a finding changes nothing.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    found::Found,
    probe_set::Mode,
    schedule::{PROVEN, RUN_CONFIRMED, UNIT_CONFIRMED},
    span::Span,
};
use crate::probe::{Finding, Judgement, Outcome, Proof};

/// Since when the findings of the newest replies have been the same.
#[derive(Debug, Default)]
pub(super) struct Confirmations {
    units: Vec<FirstSeen>,
    run: Option<FirstSeen>,
}

#[derive(Debug, Clone)]
struct FirstSeen {
    proof: Proof,
    is_dead: bool,
    /// The end of the look that found it first: it was so by then at the latest.
    at: Instant,
}

impl Confirmations {
    /// Writes down what a reply of systemd's found of all its units.
    pub(super) fn note_units(&mut self, findings: impl Iterator<Item = Finding>, span: Span) {
        let noted = findings.filter_map(|finding| Self::first_seen(&self.units, finding, span));
        self.units = noted.collect();
    }

    /// Writes down what an inspection found of the container.
    pub(super) fn note_container(&mut self, finding: Finding, span: Span) {
        self.run = Self::first_seen(self.run.as_slice(), finding, span);
    }

    /// Forgets what was seen of a run that is over.
    pub(super) fn forget_units(&mut self) {
        self.units.clear();
    }

    /// The one place where a finding becomes an outcome. The span is that of the look that found it.
    ///
    /// A snapshot is one look, which cannot be two: it calls dead what has failed. It and a check say
    /// what is now, however young a unit is.
    pub(super) fn judge(
        &self,
        finding: Finding,
        via: &'static str,
        span: Span,
        mode: Mode,
    ) -> Found {
        let Finding {
            judgement,
            evidence,
        } = finding;
        let found = match judgement {
            Judgement::Clear(outcome) => Found::settled(outcome, via, span),
            Judgement::Unproven { proof, age, reason } => {
                let old_enough = age.is_some_and(|age| age >= PROVEN);
                let due = self.since(&Proof::Unit(proof), false, span) + PROVEN;
                // What was seen in a look may be as old as its start.
                if old_enough || mode != Mode::Wait || span.asked >= due {
                    Found::settled(Outcome::passed(), via, span)
                } else {
                    Found {
                        confirm_at: Some(due),
                        ..Found::settled(Outcome::Failed(reason), via, span)
                    }
                }
            }
            Judgement::Dead { proof, reason } => {
                let due = self.since(&proof, true, span) + delay(&proof);
                let outcome = match mode {
                    Mode::Wait | Mode::Check if span.asked >= due => Outcome::Terminal(reason),
                    Mode::Wait | Mode::Check | Mode::Snapshot => Outcome::Failed(reason),
                };
                let is_open = mode != Mode::Snapshot && !matches!(outcome, Outcome::Terminal(_));
                Found {
                    confirm_at: is_open.then_some(due),
                    ..Found::settled(outcome, via, span)
                }
            }
        };
        Found { evidence, ..found }
    }

    fn since(&self, proof: &Proof, is_dead: bool, span: Span) -> Instant {
        let mut all = self.units.iter().chain(&self.run);
        let same = all.find(|seen| seen.proof == *proof && seen.is_dead == is_dead);
        same.map_or(span.answered, |seen| seen.at)
    }

    fn first_seen(before: &[FirstSeen], finding: Finding, span: Span) -> Option<FirstSeen> {
        let (proof, is_dead) = match finding.judgement {
            Judgement::Clear(_) => return None,
            Judgement::Unproven { proof, .. } => (Proof::Unit(proof), false),
            Judgement::Dead { proof, .. } => (proof, true),
        };
        let same = |seen: &&FirstSeen| seen.proof == proof && seen.is_dead == is_dead;
        let at = before
            .iter()
            .find(same)
            .map_or(span.answered, |seen| seen.at);
        Some(FirstSeen { proof, is_dead, at })
    }
}

/// How much later what is dead has to be found unchanged.
fn delay(proof: &Proof) -> Duration {
    match proof {
        Proof::Unit(_) => UNIT_CONFIRMED,
        Proof::Run(_) => RUN_CONFIRMED,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        probe::{Evidence, UnitProof},
        reason::{Reason, ReasonCode},
        report::ProbeResult,
        text::Detail,
    };

    const MS: Duration = Duration::from_millis(1);

    fn unit_proof(changed: u64) -> UnitProof {
        UnitProof {
            unit: "munge.service".to_owned(),
            invocation: "i".to_owned(),
            main_pid: 7,
            changed,
        }
    }

    fn dead(changed: u64) -> Finding {
        Finding {
            judgement: Judgement::Dead {
                proof: Proof::Unit(unit_proof(changed)),
                reason: Reason::new(ReasonCode::UnitFailed, "dead"),
            },
            evidence: Evidence::detail(Detail::new("journal")),
        }
    }

    fn young(changed: u64, age: Option<Duration>) -> Finding {
        Judgement::Unproven {
            proof: unit_proof(changed),
            age,
            reason: Reason::new(ReasonCode::Unproven, "young"),
        }
        .into()
    }

    fn outcome(found: Found) -> Outcome {
        match found.result {
            ProbeResult::Looked(outcome) => outcome,
            other => panic!("{other:?}"),
        }
    }

    /// What findings come to, of looks that start at these milliseconds and take 10 ms each.
    fn outcomes(mode: Mode, looks: Vec<(u32, Finding)>) -> Vec<Outcome> {
        let zero = Instant::now();
        let mut confirmations = Confirmations::default();
        let judge = |(at, finding): (u32, Finding)| {
            let start = zero + MS * at;
            let span = Span::new(start, start + 10 * MS);
            confirmations.note_units([finding.clone()].into_iter(), span);
            outcome(confirmations.judge(finding, "test", span, mode))
        };
        looks.into_iter().map(judge).collect()
    }

    fn failed() -> Outcome {
        Outcome::failed(ReasonCode::UnitFailed, "dead")
    }

    #[test]
    fn a_failed_unit_is_terminal_at_a_second_look_100_ms_later() {
        let looks = vec![(0, dead(1)), (100, dead(1)), (110, dead(1))];
        let terminal = Outcome::terminal(ReasonCode::UnitFailed, "dead");
        assert_eq!(outcomes(Mode::Wait, looks), [failed(), failed(), terminal]);
    }

    #[test]
    fn a_unit_that_was_started_in_between_is_not_terminal() {
        let looks = vec![(0, dead(1)), (500, dead(2)), (550, dead(2))];
        assert_eq!(outcomes(Mode::Wait, looks), [failed(), failed(), failed()]);
        let looks = vec![
            (0, dead(1)),
            (500, Finding::failed(ReasonCode::UnitInactive, "x")),
            (1000, dead(1)),
        ];
        assert_eq!(outcomes(Mode::Wait, looks)[2], failed());
    }

    #[test]
    fn active_counts_after_200_ms_under_the_same_process() {
        let failed = Outcome::failed(ReasonCode::Unproven, "young");
        let looks = vec![
            (0, young(1, None)),
            (200, young(1, None)),
            (210, young(1, None)),
        ];
        let expected = [failed.clone(), failed.clone(), Outcome::passed()];
        assert_eq!(outcomes(Mode::Wait, looks), expected);
        let looks = vec![(0, young(1, None)), (300, young(2, None))];
        assert_eq!(outcomes(Mode::Wait, looks), [failed.clone(), failed]);
    }

    #[test]
    fn the_nodes_own_clock_proves_a_unit_at_the_first_look() {
        let looks = vec![(0, young(1, Some(199 * MS))), (1, young(1, Some(200 * MS)))];
        let expected = [
            Outcome::failed(ReasonCode::Unproven, "young"),
            Outcome::passed(),
        ];
        assert_eq!(outcomes(Mode::Wait, looks), expected);
    }

    #[test]
    fn a_unit_that_was_young_and_has_failed_since_begins_anew() {
        let looks = vec![(0, young(1, None)), (300, dead(1)), (350, dead(1))];
        assert_eq!(outcomes(Mode::Wait, looks)[1..], [failed(), failed()]);
    }

    #[test]
    fn a_snapshot_is_one_look_and_a_check_two() {
        let looks = || vec![(0, dead(1)), (110, dead(1))];
        assert_eq!(outcomes(Mode::Snapshot, looks()), [failed(), failed()]);
        assert_eq!(
            outcomes(Mode::Check, looks())[1],
            Outcome::terminal(ReasonCode::UnitFailed, "dead")
        );
        for mode in [Mode::Snapshot, Mode::Check] {
            let looks = vec![(0, young(1, None))];
            assert_eq!(outcomes(mode, looks), [Outcome::passed()]);
        }
    }

    #[test]
    fn what_is_open_says_from_when_on_a_look_settles_it() {
        let now = Instant::now();
        let span = Span::new(now, now + 10 * MS);
        let confirmations = Confirmations::default();
        let at = |finding| {
            confirmations
                .judge(finding, "test", span, Mode::Wait)
                .confirm_at
        };
        assert_eq!(at(dead(1)), Some(now + 110 * MS));
        assert_eq!(at(young(1, None)), Some(now + 210 * MS));
        assert_eq!(at(Finding::passed()), None);
    }

    #[test]
    fn judging_changes_nothing() {
        let now = Instant::now();
        let confirmations = Confirmations::default();
        let look = |at: u32| {
            let span = Span::new(now + MS * at, now + MS * at);
            outcome(confirmations.judge(dead(1), "test", span, Mode::Wait))
        };
        assert_eq!([look(0), look(500)], [failed(), failed()]);
    }

    #[test]
    fn units_of_equal_numbers_are_told_apart_by_their_names() {
        let now = Instant::now();
        let mut confirmations = Confirmations::default();
        let first = Span::new(now, now);
        confirmations.note_units([dead(1)].into_iter(), first);
        let mut other = unit_proof(1);
        other.unit = "slurmd.service".to_owned();
        let other: Finding = Judgement::Dead {
            proof: Proof::Unit(other),
            reason: Reason::new(ReasonCode::UnitFailed, "dead"),
        }
        .into();
        let later = Span::new(now + 500 * MS, now + 500 * MS);
        confirmations.note_units([dead(1), other.clone()].into_iter(), later);
        let judged = |finding| outcome(confirmations.judge(finding, "test", later, Mode::Wait));
        assert_eq!(
            judged(dead(1)),
            Outcome::terminal(ReasonCode::UnitFailed, "dead")
        );
        assert_eq!(judged(other), failed());
    }
}
