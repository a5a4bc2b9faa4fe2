//! What is asked, and when: a question at a time for each fact.

use std::{sync::Arc, time::Duration};

use futures_util::{FutureExt as _, future::BoxFuture};
use tokio::time::Instant;

use super::{
    super::{
        Key,
        fact::Fact,
        look,
        subject::{Answered, Subject},
    },
    Known, Life, is_told, proof_behind,
    verdict::{Needs, What, earlier},
};
use crate::{
    node::Role,
    probe::{Ask, Means, Probe, find_unit},
    report::Trigger,
    unit::{Unit, UnitQuestion},
};

/// How long one question may take in all. Every call that it makes has a shorter limit of its own;
/// this one only keeps a question from adding up too many.
const ASK_LIMIT: Duration = Duration::from_secs(30);

impl Life {
    /// Asks for what is needed, and tells when to wake though nothing comes.
    pub(super) fn ask(&mut self, mut needs: Needs, now: Instant) -> Option<Instant> {
        let mut wake = needs.wake.filter(|at| *at > now);
        for (what, due) in std::mem::take(&mut needs.due) {
            if due > now {
                wake = earlier(wake, Some(due));
                continue;
            }
            // While the container is looked at, nothing new begins: the last look has to be that.
            if self.inspecting.is_some() || needs.container {
                continue;
            }
            let poll = || (Trigger::Poll, Arc::from(""));
            match what {
                What::Container if !self.container.needs_asking() => {
                    self.container.expire();
                    needs.container = true;
                    self.trigger = poll();
                }
                What::Systemd if !self.systemd.needs_asking() && !self.must_queue() => {
                    self.systemd.expire();
                    needs.systemd = true;
                    self.trigger = poll();
                }
                What::Answer(key) => {
                    if let Some(known) = self.answers.get_mut(&key)
                        && !known.fact.needs_asking()
                    {
                        known.fact.expire();
                        needs.answers.push(known.probe.clone());
                        self.trigger = poll();
                    }
                }
                _ => {}
            }
        }
        if needs.container && self.inspecting.is_none() {
            self.inspect();
        }
        if needs.systemd && self.asking.is_none() && !self.must_queue() {
            wake = earlier(wake, self.ask_systemd(now));
        }
        for probe in needs.answers {
            if !self.must_queue() {
                self.ask_answer(&probe);
            }
        }
        wake
    }

    /// Whether another question would only wait for a command in the node, of which there
    /// is one at a time: then what is being waited for is that command's answer.
    fn must_queue(&self) -> bool {
        let told = self.systemd.value.as_ref().is_none_or(is_told);
        !told && !self.answering.is_empty()
    }

    fn inspect(&mut self) {
        let sight = Arc::clone(&self.sight);
        let Key { identity, node } = self.key.clone();
        self.live = self.feed.is_live();
        let start = self.now();
        self.container.ask(start);
        self.inspecting = Some(Box::pin(async move {
            let by = start + ASK_LIMIT;
            let found = sight.container(&identity, &node, by).await;
            let span = (start, sight.environment.now());
            (found, span)
        }));
    }

    /// Asks systemd now, or tells when it may be asked: a storm of signals is answered in step.
    fn ask_systemd(&mut self, now: Instant) -> Option<Instant> {
        let subject = Arc::clone(self.subject.as_ref()?);
        if !self.systemd.counts()
            && let Err(later) = self.pace.take(now)
        {
            return Some(later);
        }
        let question = self.question();
        let doubts = Arc::clone(&self.desk.doubts);
        self.systemd.ask(now);
        self.asking = Some(Box::pin(async move {
            subject
                .systemd(&question, Some(&doubts), now + ASK_LIMIT)
                .await
        }));
        None
    }

    /// All units that any plan needs, in one question.
    pub(super) fn question(&self) -> UnitQuestion {
        let probes: Vec<_> = self
            .plans
            .iter()
            .flat_map(|plan| {
                let role = plan.wanted.role.or_else(|| self.labelled());
                plan.wanted.probes(role)
            })
            .collect();
        let units: Vec<_> = look::units(probes.iter(), true).into_iter().collect();
        UnitQuestion {
            proofs: units.clone(),
            units,
            journal: self.sight.journal,
        }
    }

    fn labelled(&self) -> Option<Role> {
        let (container, _) = self.seen.as_ref()?;
        self.sight.role(&self.key.node, container).ok().flatten()
    }

    fn ask_answer(&mut self, probe: &Probe) {
        let Some(subject) = self.subject.as_ref().map(Arc::clone) else {
            return;
        };
        let key = probe.key();
        let now = self.now();
        let behind = proof_behind(probe, self.systemd.value.as_ref());
        let known = self.answers.entry(key.clone()).or_insert_with(|| Known {
            probe: probe.clone(),
            behind: None,
            fact: Fact::new(now),
        });
        if known.fact.is_asked() {
            return;
        }
        known.fact.ask(now);
        known.behind = behind;
        let by = now + ASK_LIMIT;
        let asking: BoxFuture<'static, Answered> = match probe.means() {
            Ok(Means::UnitAnswers(names, ask)) => {
                let unit = self.unit(names);
                answer(subject, ask, unit, by)
            }
            Ok(Means::Answers(_, ask)) => answer(subject, ask, None, by),
            _ => {
                let probe = probe.clone();
                Box::pin(async move { subject.check(&probe).await })
            }
        };
        self.answering
            .push(Box::pin(asking.map(move |answered| (key, answered))));
    }

    fn unit(&self, names: &[&str]) -> Option<Unit> {
        let asked = self.systemd.value.as_ref()?;
        find_unit(asked.said.as_ref().ok()?, names).cloned()
    }
}

fn answer(
    subject: Arc<Subject>,
    ask: &'static Ask,
    unit: Option<Unit>,
    by: Instant,
) -> BoxFuture<'static, Answered> {
    Box::pin(async move { subject.answer(ask, unit.as_ref(), by).await })
}
