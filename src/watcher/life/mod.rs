//! One node's life, followed by one task for all who wait for it.
//!
//! ```text
//! container ─▶ systemd ─▶ answers          each a fact: asked for when a probe needs it,
//!     ▲           ▲          ▲             kept until something puts it in doubt
//!     │           │          │
//!  engine's    systemd's   its unit has changed, or it is time
//!  events      signals
//!     └───────────┴──────────┴──── where nothing is told: asked for again and again
//! ```
//!
//! Each turn takes what has come (an answer, an event, a client, the time), goes through the probes of
//! every plan as far as the facts carry, asks for what is missing, and publishes what is new. Nothing
//! waits for anything else: a hung answer keeps nobody from what does not need it.
//!
//! A plan has passed when everything that it goes by is beyond doubt, and the container was looked at
//! once more after all the rest.
//!
//! Here is what comes in; what is made of it is in `verdict.rs`, what is asked in `question.rs`.

mod question;
mod verdict;

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::{Arc, Weak},
    time::Duration,
};

use futures_util::{StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use tokio::time::Instant;

use super::{
    Key, Registry,
    fact::{Fact, Pace},
    feed::Subscription,
    plan::{Desk, Plan},
    second::Memory,
    sight::Sight,
    step::behind,
    subject::{Answered, Asked, Span, Subject, Trouble},
};
use crate::{
    environment::after,
    event::Doubt,
    probe::{Means, Probe, ProbeKey, Proof, find_unit},
    report::Trigger,
    runtime::{Container, Run, RuntimeError, State},
    unit::Unit,
};

/// The container, or that there is none, or why that could not be told.
type Inspected = Result<Option<Container>, RuntimeError>;

/// An answer, the probe that it is for, and the unit that was behind it when it was asked for.
struct Known {
    probe: Probe,
    behind: Option<Proof>,
    fact: Fact<Answered>,
}

#[derive(Debug, Clone, Copy)]
enum EngineBack {
    NotYet,
    Since(Instant),
}

/// Follows one node.
pub(super) struct Life {
    sight: Arc<Sight>,
    registry: Weak<Registry>,
    key: Key,
    desk: Arc<Desk>,
    feed: Subscription,
    linger: Duration,

    container: Fact<Inspected>,
    /// Whether the container's changes were told when it was last asked for.
    live: bool,
    /// The container as it was last seen, and when.
    seen: Option<(Container, Instant)>,
    /// When its run was first seen.
    run_since: Instant,
    /// The run that was found to have ended though its policy may start it again, and the end of the
    /// look that found it first.
    ended: Option<(Run, Instant)>,
    /// The run that is asked now.
    subject: Option<Arc<Subject>>,
    systemd: Fact<Asked>,
    answers: HashMap<ProbeKey, Known>,
    memory: Memory,
    engine_back: Option<EngineBack>,

    inspecting: Option<BoxFuture<'static, (Inspected, Span)>>,
    asking: Option<BoxFuture<'static, Asked>>,
    answering: FuturesUnordered<BoxFuture<'static, (ProbeKey, Answered)>>,

    plans: Vec<Arc<Plan>>,
    trigger: (Trigger, Arc<str>),
    rounds: u64,
    /// The last signal of a unit.
    signal: u64,
    /// Since when nothing new has been seen.
    quiet_since: Instant,
    pace: Pace,
}

impl Life {
    pub(super) fn new(
        sight: Arc<Sight>,
        registry: Weak<Registry>,
        key: Key,
        desk: Arc<Desk>,
        feed: Subscription,
        linger: Duration,
    ) -> Self {
        let now = sight.environment.now();
        Self {
            sight,
            registry,
            key,
            desk,
            feed,
            linger,
            container: Fact::new(now),
            live: false,
            seen: None,
            run_since: now,
            ended: None,
            subject: None,
            systemd: Fact::new(now),
            answers: HashMap::new(),
            memory: Memory::default(),
            engine_back: None,
            inspecting: None,
            asking: None,
            answering: FuturesUnordered::new(),
            plans: Vec::new(),
            trigger: (Trigger::Initial, Arc::from("")),
            rounds: 0,
            signal: 0,
            quiet_since: now,
            pace: Pace::new(now),
        }
    }

    pub(super) async fn run(mut self) {
        let environment = self.sight.environment.clone();
        loop {
            self.take_doubts();
            if self.plans.is_empty() {
                if self.linger().await {
                    return;
                }
                continue;
            }
            let now = environment.now();
            let needs = self.go_through(now);
            let wake = self.ask(needs, now);
            let timer = async {
                match wake {
                    Some(at) => environment.sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                inspected = next(&mut self.inspecting) => self.inspected(inspected),
                asked = next(&mut self.asking) => self.systemd_said(asked),
                Some(answered) = self.answering.next(), if !self.answering.is_empty() => {
                    self.answered(answered);
                }
                () = self.desk.doubts.told() => {}
                () = timer => {}
            }
        }
    }

    fn take_doubts(&mut self) {
        let Doubt {
            container,
            undone,
            systemd,
            every_unit,
            units,
            asked,
            clients,
            cause,
        } = self.desk.doubts.take();
        if clients {
            self.plans = self.desk.all();
            let plans = &self.plans;
            let wanted: HashSet<_> = plans
                .iter()
                .flat_map(|plan| plan.wanted.probes(plan.published.borrow().role))
                .map(|probe| probe.key())
                .collect();
            self.answers.retain(|key, _| wanted.contains(key));
        }
        if let Some((trigger, what)) = cause {
            self.trigger = (trigger, what.into());
            self.quiet_since = self.now();
        }
        if container {
            self.container.doubt();
        }
        if container && self.live && !self.feed.is_live() {
            // Events end when an engine does.
            self.engine_back = Some(EngineBack::NotYet);
        }
        if undone {
            for plan in &self.plans {
                restart(plan);
            }
        }
        let units = Doubt {
            units,
            ..Doubt::default()
        };
        let signal = units.of_units(self.unit_names().iter().map(String::as_str));
        self.signal = self.signal.max(signal);
        if systemd || every_unit {
            self.systemd.doubt();
        } else if signal > self.heard() {
            self.systemd.outdate();
        }
        if asked {
            self.container.want_anew();
            self.systemd.want_anew();
            for known in self.answers.values_mut() {
                // What has sent its banner is not asked for it again: see KEPT.
                if !(known.keeps() && known.behind.is_some()) {
                    known.fact.want_anew();
                }
            }
        }
    }

    /// The last signal that what systemd has said knows of.
    fn heard(&self) -> u64 {
        let look = self.systemd.value.as_ref();
        match look.map(|asked| &asked.said) {
            Some(Ok(look)) if look.told => look.heard,
            // Where nothing is told, nothing is waited for.
            _ => u64::MAX,
        }
    }

    /// The names by which units are told of: those that were asked for, and their real ones.
    fn unit_names(&self) -> BTreeSet<String> {
        let look = self.systemd.value.as_ref();
        let look = look.and_then(|asked| asked.said.as_ref().ok());
        let units = look.iter().flat_map(|look| &look.units);
        let names = units.flat_map(|(name, unit)| [name.clone(), unit.id.clone()]);
        let wanted = self.question();
        names
            .chain(wanted.units.iter().map(|unit| (*unit).to_owned()))
            .collect()
    }

    fn inspected(&mut self, (found, span): (Inspected, Span)) {
        self.rounds += 1;
        self.engine_back = match (&found, self.engine_back) {
            // An engine that is only slow, or makes no sense, was not restarted.
            (Err(RuntimeError::Unreachable { .. }), _) => Some(EngineBack::NotYet),
            (Ok(_), Some(EngineBack::NotYet)) => Some(EngineBack::Since(span.1)),
            (_, kept) => kept,
        };
        let by_time = self.container.is_asked_by_time();
        let untold = by_time && self.live && self.feed.is_live() && self.is_news(&found);
        let runs = |found: &Inspected| match found {
            Ok(Some(container)) => container.state == State::Running,
            _ => false,
        };
        let back = self
            .container
            .value
            .as_ref()
            .is_some_and(|before| !runs(before));
        self.container.come(found.clone(), span);
        if back {
            // Nothing in it was asked meanwhile.
            self.systemd.doubt();
            self.answers
                .values_mut()
                .for_each(|known| known.fact.doubt());
        }
        if untold && self.container.counts() {
            self.feed.distrust();
        }
        match found {
            Ok(Some(container)) => {
                let same = |(seen, _): &(Container, _)| seen.is_same_run(&container);
                if !self.seen.as_ref().is_some_and(same) {
                    // Another container under the same name, or the same one started again: nothing
                    // of what was before carries over.
                    self.forget();
                    self.run_since = span.0;
                    for plan in &self.plans {
                        restart(plan);
                    }
                }
                let state = &container.state;
                match state {
                    State::Running if self.subject.is_none() => {
                        self.subject = Some(Arc::new(Subject::new(
                            Arc::clone(&self.sight),
                            self.key.identity.clone(),
                            self.key.node.clone(),
                            container.clone(),
                        )));
                    }
                    // A paused one goes on as it was.
                    State::Running | State::Paused => {}
                    _ => self.forget(),
                }
                self.note_end(&container, span);
                self.seen = Some((container, span.0));
            }
            Ok(None) => self.forget(),
            Err(_) => {}
        }
    }

    /// Writes down since when a run is known to have ended that a policy may follow with another.
    fn note_end(&mut self, container: &Container, span: Span) {
        let ended = matches!(container.state, State::Exited { .. }) && container.restarts;
        let run = container.run();
        let known = |(before, _): &(Run, Instant)| before.is_same(&run);
        if !ended {
            self.ended = None;
        } else if !self.ended.as_ref().is_some_and(known) {
            self.ended = Some((run, span.1));
        }
    }

    /// Whether an inspection tells another state than the one before.
    fn is_news(&self, found: &Inspected) -> bool {
        let before = self.container.value.as_ref();
        let (Some(Ok(before)), Ok(now)) = (before, found) else {
            return false;
        };
        match (before, now) {
            (Some(before), Some(now)) => !before.is_same_run(now) || before.state != now.state,
            (None, None) => false,
            _ => true,
        }
    }

    /// Forgets all that was seen in a run of the container, and asks it nothing more.
    fn forget(&mut self) {
        self.subject = None;
        self.memory = Memory::default();
        self.systemd = Fact::new(self.now());
        self.answers.clear();
        self.asking = None;
        self.answering = FuturesUnordered::new();
    }

    fn systemd_said(&mut self, asked: Asked) {
        self.rounds += 1;
        if self.ended(asked.said.as_ref().err()) {
            self.systemd.give_up();
            return;
        }
        let before = self.systemd.value.take();
        let by_time = self.systemd.is_asked_by_time();
        let span = asked.span;
        self.systemd.come(asked, span);
        if self.signal > self.heard() {
            self.systemd.outdate();
        }
        let Some(now) = &self.systemd.value else {
            return;
        };
        let changed = changed_units(before.as_ref(), now);
        if !changed.is_empty() {
            self.quiet_since = self.now();
            for plan in &self.plans {
                let probes = plan.wanted.probes(plan.published.borrow().role);
                if probes
                    .iter()
                    .any(|probe| names_of(probe).iter().any(|name| changed.contains(*name)))
                {
                    restart(plan);
                }
            }
            let told = before.is_some_and(|asked| is_told(&asked));
            if by_time && told && self.systemd.counts() {
                tracing::warn!(node = %self.key.node, "a unit has changed, and systemd has not told: listening anew");
                if let Some(subject) = &self.subject {
                    subject.renew_link();
                }
            }
        }
        for known in self.answers.values_mut() {
            let behind = proof_behind(&known.probe, self.systemd.value.as_ref());
            if behind != known.behind {
                known.fact.doubt();
            }
        }
    }

    fn answered(&mut self, (key, answered): (ProbeKey, Answered)) {
        self.rounds += 1;
        let ended = self.ended(answered.said.as_ref().err());
        let Some(known) = self.answers.get_mut(&key) else {
            return;
        };
        if ended {
            known.fact.give_up();
            return;
        }
        let span = answered.span;
        known.fact.come(answered, span);
    }

    /// Whether there was no answer because the container has ended. What it is now is known then, or
    /// soon will be.
    fn ended(&mut self, trouble: Option<&Trouble>) -> bool {
        let Some(Trouble::Ended(..)) = trouble else {
            return false;
        };
        self.container.doubt();
        true
    }

    /// Stays for a while after the last client, and asks the node nothing; true if nobody came.
    async fn linger(&mut self) -> bool {
        let environment = self.sight.environment.clone();
        self.inspecting = None;
        self.asking = None;
        self.answering = FuturesUnordered::new();
        self.container.give_up();
        self.systemd.give_up();
        self.answers.retain(|_, known| {
            known.fact.give_up();
            known.fact.value.is_some()
        });
        let end = after(environment.now(), self.linger);
        loop {
            tokio::select! {
                biased;
                () = self.desk.doubts.told() => self.take_doubts(),
                () = environment.sleep_until(end) => {}
            }
            if !self.desk.is_empty() {
                return false;
            }
            if environment.now() >= end {
                let Some(registry) = self.registry.upgrade() else {
                    return true;
                };
                if registry.remove(&self.desk) {
                    return true;
                }
            }
        }
    }
}

impl Known {
    /// Whether the answer counts for as long as the unit behind it is unchanged, as a banner does.
    fn keeps(&self) -> bool {
        matches!(self.probe.means(), Ok(Means::Answers(names, _)) if !names.is_empty())
    }
}

/// Starts the time anew for which a plan has passed.
fn restart(plan: &Plan) {
    plan.published.send_if_modified(|published| {
        if published.passed_since.is_some() {
            Arc::make_mut(published).passed_since = None;
        }
        // Who waits is told with what is seen next.
        false
    });
}

fn is_told(asked: &Asked) -> bool {
    asked.said.as_ref().is_ok_and(|look| look.told)
}

/// The units that a probe goes by.
fn names_of(probe: &Probe) -> &'static [&'static str] {
    match probe.means() {
        Ok(Means::Unit(names) | Means::UnitAnswers(names, _) | Means::Answers(names, _)) => names,
        _ => &[],
    }
}

/// The unit behind an answer: active for those that only go by the answer, as it is for others.
fn proof_behind(probe: &Probe, asked: Option<&Asked>) -> Option<Proof> {
    match probe.means() {
        Ok(Means::UnitAnswers(names, _)) => {
            let look = asked?.said.as_ref().ok()?;
            find_unit(look, names).map(Proof::of)
        }
        _ => behind(probe, asked),
    }
}

/// The units that are not as they were, by the names that were asked for.
fn changed_units(before: Option<&Asked>, now: &Asked) -> BTreeSet<String> {
    let (Some(Ok(before)), Ok(now)) = (before.map(|asked| &asked.said), &now.said) else {
        return BTreeSet::new();
    };
    let differs = |name: &String, unit: &Unit| {
        let earlier = before.units.get(name);
        earlier.is_some_and(|earlier| {
            Proof::of(earlier) != Proof::of(unit) || earlier.active != unit.active
        })
    };
    let units = now.units.iter();
    let changed = units.filter(|(name, unit)| differs(name, unit));
    changed.map(|(name, _)| name.clone()).collect()
}

/// Completes with what is being asked for; never, if nothing is.
async fn next<T>(asking: &mut Option<BoxFuture<'static, T>>) -> T {
    let Some(future) = asking else {
        return std::future::pending().await;
    };
    let came = future.await;
    *asking = None;
    came
}
