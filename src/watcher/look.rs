//! One look at a node for who asks what is now: its container once, its units once, and whatever else
//! its probes ask.

use std::{collections::BTreeSet, sync::Arc};

use tokio::time::Instant;

use super::{
    sight::Sight,
    step::{Found, Step, step},
    subject::{Answered, Asked, ENGINE, Span, Subject, Trouble},
};
use crate::{
    node::{Identity, NodeName},
    probe::{CouldNotLook, Finding, First, Means, Outcome, Probe, container},
    runtime::Container,
    unit::UnitQuestion,
};

/// How deep a look goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Depth {
    /// sshd by its banner.
    Check,
    /// Units alone, where that is possible: sshd by its unit.
    Snapshot,
}

/// One look at one node.
pub(crate) struct Look {
    subject: Subject,
    /// The container as it was seen last.
    container: Container,
    question: UnitQuestion,
    asked: Option<Asked>,
    /// An answer that was asked for together with systemd's.
    early: Option<Answered>,
    depth: Depth,
    /// The question that may be asked early.
    first: Option<&'static First>,
    /// What `container` says of a label that names no role, where the label was to say it.
    bad_role: Option<Outcome>,
}

/// The units that a look asks for at once.
pub(super) fn units<'a>(
    probes: impl Iterator<Item = &'a Probe>,
    answers_too: bool,
) -> BTreeSet<&'static str> {
    let names = |probe: &Probe| match probe.means() {
        Ok(Means::Unit(names) | Means::UnitAnswers(names, _)) => *names,
        Ok(Means::Answers(names, _)) if answers_too => *names,
        _ => &[],
    };
    // A set: the same unit is asked for once, and always in the same order.
    probes.flat_map(names).copied().collect()
}

impl Look {
    /// Starts a look at a container. All units that these probes need are then asked for at once.
    pub(crate) fn new(
        sight: &Arc<Sight>,
        identity: &Identity,
        node: &NodeName,
        container: Container,
        probes: &[Probe],
        depth: Depth,
        bad_role: Option<Outcome>,
    ) -> Self {
        let seen = container.clone();
        let subject = Subject::new(Arc::clone(sight), identity.clone(), node.clone(), seen);
        let asks = probes.iter().filter_map(|probe| match probe.means() {
            Ok(Means::UnitAnswers(names, ask)) => Some((*names, ask.first.as_ref()?)),
            _ => None,
        });
        // What is told of now alone asks for less; but whose answer stands in for another's
        // has to be told apart from the one that was started before.
        let (known, unknown): (Vec<_>, Vec<_>) =
            asks.partition(|(_, first)| subject.understands(first));
        let proofs = unknown.iter().flat_map(|(names, _)| *names).copied();
        Self {
            question: UnitQuestion {
                units: units(probes.iter(), depth == Depth::Snapshot)
                    .into_iter()
                    .collect(),
                proofs: proofs.collect(),
                journal: sight.journal,
            },
            first: known.first().map(|(_, first)| *first),
            subject,
            container,
            asked: None,
            early: None,
            depth,
            bad_role,
        }
    }

    /// Runs one probe. Whatever the node keeps back is a finding; whatever kept us from looking is an
    /// error.
    pub(crate) async fn probe(
        &mut self,
        probe: &Probe,
        by: Instant,
    ) -> Result<Found, CouldNotLook> {
        let start = self.now();
        let standing = container::judge(&self.subject.node, &self.container);
        if probe.is_container() || !standing.is_passed() {
            let outcome = match &self.bad_role {
                Some(bad_role) if standing.is_passed() => bad_role.clone(),
                _ => standing,
            };
            return Ok(engine(outcome, (start, self.now())));
        }
        let units_only = self.depth == Depth::Snapshot;
        let mut answered = None;
        loop {
            let now = (start, self.now());
            match step(
                probe,
                units_only,
                self.asked.as_ref(),
                answered.as_ref(),
                now,
            ) {
                Step::Found(found) => return Ok(found),
                Step::Unknown(error, _) => return Err(error),
                Step::Ended(Trouble::Ended(outcome, now), span) => {
                    let found = engine(outcome.clone(), span);
                    if let Some(now) = now {
                        self.container = Container::clone(now);
                    }
                    return Ok(found);
                }
                Step::Ended(..) => return Err(CouldNotLook::new("the container ended")),
                Step::AskSystemd => self.ask_systemd(by).await,
                Step::Ask(ask, unit) => {
                    let early = self.early.take();
                    answered = Some(match early {
                        Some(early) => early,
                        None => self.subject.answer(ask, unit, by).await,
                    });
                }
                Step::Check => answered = Some(self.subject.check(probe).await),
            }
        }
    }

    /// Asks systemd, and in a snapshot also what will be asked next in any case, at the same time.
    async fn ask_systemd(&mut self, by: Instant) {
        let systemd = self.subject.systemd(&self.question, None, by);
        match self.first {
            Some(first) if self.depth == Depth::Snapshot => {
                let (asked, early) = tokio::join!(systemd, self.subject.first(first, by));
                (self.asked, self.early) = (Some(asked), early);
            }
            _ => self.asked = Some(systemd.await),
        }
    }

    /// Lets the units be asked for anew, for a second look.
    pub(crate) fn again(&mut self) {
        (self.asked, self.early) = (None, None);
    }

    fn now(&self) -> Instant {
        self.subject.sight.environment.now()
    }
}

fn engine(outcome: Outcome, span: Span) -> Found {
    Found {
        finding: Finding::Clear(outcome),
        via: ENGINE,
        span,
    }
}
