//! Findings that need a second look: a unit that has only just become active, and one that has
//! failed.
//!
//! ```text
//! active, of a type that does not tell ──200 ms, same process──▶ passed
//! failed, no job queued ──100 ms, nothing changed──▶ terminal
//! ```
//!
//! The first rule keeps a daemon that dies 9 ms after its start from being called ready; the second
//! keeps a unit with `Restart=`, which passes through failed on every cycle, from ending a wait.

use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;

use crate::{
    probe::{Finding, Outcome, Proof},
    text::Detail,
};

/// For how long a unit that does not tell has to have been active.
pub(crate) const PROVEN: Duration = Duration::from_millis(200);

/// How much later a failed unit has to be found unchanged.
pub(crate) const CONFIRMED: Duration = Duration::from_millis(100);

/// What earlier looks left open, by probe.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    open: HashMap<String, Open>,
}

#[derive(Debug)]
struct Open {
    proof: Proof,
    dead: bool,
    /// The end of the look that found it first: it was so by then at the latest.
    seen: Instant,
}

/// A finding after time has had its say.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Weighed {
    pub(crate) outcome: Outcome,
    pub(crate) detail: Detail,
    /// When another look can settle it.
    pub(crate) again: Option<Instant>,
}

impl Memory {
    /// Weighs a finding of a look that took place between these instants.
    pub(crate) fn weigh(
        &mut self,
        probe: &str,
        finding: Finding,
        (start, end): (Instant, Instant),
    ) -> Weighed {
        match finding {
            Finding::Clear(outcome) => {
                self.open.remove(probe);
                Weighed {
                    outcome,
                    detail: Detail::default(),
                    again: None,
                }
            }
            Finding::Unproven { age, .. } if age.is_some_and(|age| age >= PROVEN) => {
                self.open.remove(probe);
                Weighed {
                    outcome: Outcome::passed(),
                    detail: Detail::default(),
                    again: None,
                }
            }
            Finding::Unproven { proof, reason, .. } => {
                let due = self.since(probe, proof, false, end) + PROVEN;
                // The look's start counts: what was seen in it may be as old as that.
                let (outcome, again) = if start >= due {
                    (Outcome::passed(), None)
                } else {
                    (Outcome::Failed(reason), Some(due))
                };
                Weighed {
                    outcome,
                    detail: Detail::default(),
                    again,
                }
            }
            Finding::Dead {
                proof,
                reason,
                detail,
            } => {
                let due = self.since(probe, proof, true, end) + CONFIRMED;
                let (outcome, again) = if start >= due {
                    (Outcome::Terminal(reason), None)
                } else {
                    (Outcome::Failed(reason), Some(due))
                };
                Weighed {
                    outcome,
                    detail,
                    again,
                }
            }
        }
    }

    /// Since when just this has been found.
    fn since(&mut self, probe: &str, proof: Proof, dead: bool, end: Instant) -> Instant {
        match self.open.get(probe) {
            Some(open) if open.proof == proof && open.dead == dead => open.seen,
            _ => {
                self.open.insert(
                    probe.to_owned(),
                    Open {
                        proof,
                        dead,
                        seen: end,
                    },
                );
                end
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::Reason;

    const MS: Duration = Duration::from_millis(1);

    fn proof(changed: u64) -> Proof {
        Proof {
            invocation: "i".to_owned(),
            main_pid: 7,
            changed,
        }
    }

    fn dead(changed: u64) -> Finding {
        Finding::Dead {
            proof: proof(changed),
            reason: Reason::new("dead"),
            detail: Detail::new("journal"),
        }
    }

    fn unproven(changed: u64, age: Option<Duration>) -> Finding {
        Finding::Unproven {
            proof: proof(changed),
            age,
            reason: Reason::new("young"),
        }
    }

    /// Weighs findings of looks that start at these milliseconds and take 10 ms each.
    fn weighed(looks: Vec<(u32, Finding)>) -> Vec<Outcome> {
        let zero = Instant::now();
        let mut memory = Memory::default();
        let weigh = |(at, finding)| {
            let start = zero + MS * at;
            memory
                .weigh("munge", finding, (start, start + 10 * MS))
                .outcome
        };
        looks.into_iter().map(weigh).collect()
    }

    #[test]
    fn a_failed_unit_is_terminal_at_a_second_look_100_ms_later() {
        let failed = Outcome::failed("dead");
        let terminal = Outcome::terminal("dead");
        assert_eq!(
            weighed(vec![(0, dead(1)), (100, dead(1)), (110, dead(1))]),
            [failed.clone(), failed, terminal]
        );
    }

    #[test]
    fn a_unit_that_was_started_in_between_is_not() {
        let failed = Outcome::failed("dead");
        assert_eq!(
            weighed(vec![(0, dead(1)), (500, dead(2)), (550, dead(2))]),
            [failed.clone(), failed.clone(), failed.clone()]
        );
        assert_eq!(
            weighed(vec![
                (0, dead(1)),
                (500, Finding::failed("x")),
                (1000, dead(1))
            ])[2],
            failed
        );
    }

    #[test]
    fn active_counts_after_200_ms_under_the_same_process() {
        let young = Outcome::failed("young");
        assert_eq!(
            weighed(vec![
                (0, unproven(1, None)),
                (200, unproven(1, None)),
                (210, unproven(1, None))
            ]),
            [young.clone(), young.clone(), Outcome::passed()]
        );
        assert_eq!(
            weighed(vec![(0, unproven(1, None)), (300, unproven(2, None))]),
            [young.clone(), young.clone()]
        );
        assert_eq!(
            weighed(vec![
                (0, unproven(1, Some(199 * MS))),
                (1, unproven(1, Some(200 * MS)))
            ]),
            [young, Outcome::passed()]
        );
    }
}
