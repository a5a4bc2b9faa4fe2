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

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::{Arc, Weak},
    time::Duration,
};

use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use tokio::time::Instant;

use super::{
    Key, Registry,
    fact::{Fact, Pace},
    feed::Subscription,
    look,
    plan::{Desk, Plan, Published},
    round::Round,
    second::Memory,
    sight::Sight,
    step::{Step, behind, step},
    subject::{Answered, Asked, ENGINE, Span, Subject, Trouble},
};
use crate::{
    environment::after,
    event::Doubt,
    node::Role,
    probe::{Ask, CouldNotLook, Means, Outcome, Probe, ProbeKey, Proof, container, find_unit},
    report::{ProbeResult, Trigger},
    runtime::{Container, State},
    text::{Detail, Reason},
    unit::{Unit, UnitQuestion},
};

/// How long after an engine's return a container that it starts again may take: until then, having
/// ended is not the end.
const RETURN: Duration = Duration::from_secs(10);

/// How old what systemd or an answer has said may be for a plan to pass.
const FRESH: Duration = Duration::from_secs(1);

/// How long one question may take in all. Every call that it makes has a shorter limit of its own;
/// this one only keeps a question from adding up too many.
const ASK_LIMIT: Duration = Duration::from_secs(30);

/// How often what is told is looked at all the same.
const RESYNC: Duration = Duration::from_secs(30);

/// How soon what no event tells is asked for again, at first.
const EAGER: Duration = Duration::from_millis(10);

/// And later: after a sixteenth of the time for which nothing has changed, so that whatever comes is
/// found out late by no more than that, and asking gets ever more seldom.
const PATIENCE: u32 = 16;

/// For how long a banner counts while its unit is unchanged, where changes are not told.
///
/// sshd locks out who reads its banner more often than once in a second and never logs in
/// (`sshd_config(5)`, `PerSourcePenalties`).
const KEPT: Duration = Duration::from_secs(1);

/// The container, or that there is none, or why that could not be told.
type Inspected = Result<Option<Container>, CouldNotLook>;

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

/// What going through the plans has shown to be needed.
#[derive(Default)]
struct Needs {
    container: bool,
    systemd: bool,
    answers: Vec<Probe>,
    /// When something will have to be asked for again.
    due: Vec<(What, Instant)>,
    /// When going through the plans again will come to something else.
    wake: Option<Instant>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum What {
    Container,
    Systemd,
    Answer(ProbeKey),
}

/// What one plan has gone by.
struct Used {
    /// The earliest that any of it was asked for.
    started: Instant,
    /// The latest that any of it but the container was answered.
    latest: Option<Instant>,
    systemd: bool,
    /// The answers that only time can make old.
    answers: Vec<ProbeKey>,
    certain: bool,
    stale: bool,
}

impl Used {
    fn span(&mut self, span: Span) {
        self.started = self.started.min(span.0);
        self.latest = self.latest.max(Some(span.1));
    }
}

/// How far a probe came.
enum Came {
    Settled(ProbeResult, Detail, &'static str, Duration),
    /// There is no answer yet.
    Open,
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

    // --- what comes in --------------------------------------------------------------------------

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
            (Err(_), _) => Some(EngineBack::NotYet),
            (Ok(_), Some(EngineBack::NotYet)) => Some(EngineBack::Since(span.1)),
            (Ok(_), kept) => kept,
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
                self.seen = Some((container, span.0));
            }
            Ok(None) => self.forget(),
            Err(_) => {}
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

    // --- what is made of it ---------------------------------------------------------------------

    /// Goes through the probes of every plan, publishes what is new, and tells what is needed.
    fn go_through(&mut self, now: Instant) -> Needs {
        let mut needs = Needs::default();
        for plan in self.plans.clone() {
            self.go_through_plan(&plan, &mut needs, now);
        }
        needs
    }

    fn go_through_plan(&mut self, plan: &Plan, needs: &mut Needs, now: Instant) {
        let before = Arc::clone(&plan.published.borrow());
        let environment = self.sight.environment.clone();
        let wanted = &plan.wanted;
        let mut used = Used {
            started: now,
            latest: None,
            systemd: false,
            answers: Vec::new(),
            certain: true,
            stale: false,
        };
        let Some(found) = self.container.value.clone() else {
            needs.container = true;
            return;
        };
        let container_span = self.container.span;
        used.started = used.started.min(container_span.0);
        needs.container = self.container.needs_asking();
        used.certain = self.container.counts();
        used.stale = self.container.is_stale();

        let mut role = before.role;
        let mut absent = false;
        let mut open = false;
        let mut round = match found {
            Err(CouldNotLook(reason)) => {
                let mut round = Round::new(&environment, &before.probes, wanted.probes(role));
                round.settle(ProbeResult::Unknown(reason), Detail::default(), "");
                needs
                    .due
                    .push((What::Container, self.retry(container_span)));
                round
            }
            Ok(None) => {
                absent = true;
                let missing = container::missing(&self.key.node, self.seen.is_some());
                let mut round = Round::new(&environment, &before.probes, wanted.probes(role));
                round.settle(ProbeResult::Looked(missing), Detail::default(), ENGINE);
                let due = self.container_due(None);
                needs.due.push((What::Container, due));
                round
            }
            Ok(Some(container)) => {
                let labelled = match wanted.role {
                    Some(role) => Ok(Some(role)),
                    None => self.sight.role(&self.key.node, &container),
                };
                role = labelled.clone().ok().flatten();
                // Reports of an earlier run say nothing of how long something has been so.
                let same_run = before.started >= self.run_since;
                let known: &[_] = if same_run { &before.probes } else { &[] };
                let mut round = Round::new(&environment, known, wanted.probes(role));
                let due = self.container_due(Some(&container));
                needs.due.push((What::Container, due));
                let standing = self.standing(&container, labelled.err());
                open = self.run_probes(&mut round, &standing, needs, &mut used);
                round
            }
        };
        if open {
            let unsettled = Published {
                role,
                probes: round.so_far().into(),
                settled: false,
                passed_since: None,
                ..self.published(&before, &used, absent)
            };
            publish(plan, &before, unsettled);
            return;
        }
        // A node without a probe would have proved nothing.
        let passed = round.has_passed() && !round.probes.is_empty();
        if passed && !self.closes(&used, needs, before.passed_since.is_none()) {
            hold(plan, !used.certain);
            return;
        }
        round.skip_rest();
        let passed_since = passed.then(|| before.passed_since.unwrap_or(now));
        let next = Published {
            role,
            probes: round.reports.into(),
            settled: true,
            passed_since,
            ..self.published(&before, &used, absent)
        };
        if !next.says_the_same(&before) {
            self.quiet_since = now;
        }
        publish(plan, &before, next);
    }

    fn published(&self, before: &Published, used: &Used, absent: bool) -> Published {
        let (trigger, detail) = match (before.trigger, before.settled) {
            (Trigger::Initial, false) => (Trigger::Initial, Arc::from("")),
            _ => self.trigger.clone(),
        };
        Published {
            trigger,
            detail,
            round: self.rounds.max(1),
            started: used.started,
            doubtful: !used.certain,
            stale: used.stale,
            absent,
            last_present: self.seen.as_ref().map(|(_, at)| *at),
            observed: self.sight.environment.wall(),
            ..before.clone()
        }
    }

    /// What the container itself is to every probe; passed if they have to be asked.
    fn standing(&self, container: &Container, bad_role: Option<Outcome>) -> Standing {
        if let Some(waiting) = self.starts_again(container) {
            return Standing::Every(waiting);
        }
        match container::judge(&self.key.node, container) {
            Outcome::Passed(_) => Standing::Runs(bad_role),
            outcome => Standing::Every(outcome),
        }
    }

    /// What an ended container is while an engine that came back may still start it again.
    fn starts_again(&self, container: &Container) -> Option<Outcome> {
        // What was seen before the time was over does not count after it.
        if self.container.span.0 >= self.returned_by(container)? {
            return None;
        }
        let outcome = container::judge(&self.key.node, container);
        let ended = outcome.reason().map_or("", Reason::as_str);
        Some(Outcome::failed(format!(
            "{ended}; the engine came back and may start it again"
        )))
    }

    fn returned_by(&self, container: &Container) -> Option<Instant> {
        let back = match self.engine_back? {
            EngineBack::Since(back) => back,
            // What was seen before it went away does not count, either.
            EngineBack::NotYet => self.container.span.0,
        };
        let ended = matches!(container.state, State::Exited { .. } | State::Dead);
        (ended && container.restarts).then(|| back + RETURN)
    }

    /// Goes through a plan's probes, up to the first that has not passed; true if that one has no
    /// answer yet.
    fn run_probes(
        &mut self,
        round: &mut Round,
        standing: &Standing,
        needs: &mut Needs,
        used: &mut Used,
    ) -> bool {
        while let Some(probe) = round.next() {
            let came = match standing {
                Standing::Every(outcome) => engine(outcome.clone(), self.container.span),
                Standing::Runs(bad_role) if probe.is_container() => {
                    let outcome = bad_role.clone().unwrap_or_else(Outcome::passed);
                    engine(outcome, self.container.span)
                }
                Standing::Runs(_) => self.run_probe(&probe, needs, used),
            };
            match came {
                Came::Settled(result, detail, via, elapsed) => {
                    round.elapsed = elapsed;
                    round.settle(result, detail, via);
                }
                Came::Open => return true,
            }
        }
        false
    }

    fn run_probe(&mut self, probe: &Probe, needs: &mut Needs, used: &mut Used) -> Came {
        let key = probe.key();
        let span = self.container.span;
        let asked = self.systemd.value.as_ref();
        let names = names_of(probe);
        let needs_systemd = !names.is_empty() || matches!(probe.means(), Ok(Means::Systemd));
        if needs_systemd {
            used.systemd = true;
            needs.systemd |= self.systemd.needs_asking();
            used.certain &= self.systemd.counts();
            used.stale |= self.systemd.is_stale();
            match asked {
                None => return Came::Open,
                Some(asked) if stands_no_longer(&self.systemd, asked.said.is_ok(), self.now()) => {
                    return Came::Open;
                }
                Some(_) => {}
            }
        }
        let answered = self
            .answers
            .get(&key)
            .and_then(|known| known.fact.value.as_ref());
        let (found, elapsed) = match step(probe, false, asked, answered, span) {
            Step::AskSystemd => {
                needs.systemd = true;
                return Came::Open;
            }
            Step::Ask(..) | Step::Check => {
                needs.answers.push(probe.clone());
                return Came::Open;
            }
            Step::Unknown(CouldNotLook(reason), span) => {
                used.span(span);
                let answers = answered.is_some_and(|answered| answered.span == span);
                let what = if answers {
                    What::Answer(key)
                } else {
                    What::Systemd
                };
                needs.due.push((what, self.retry(span)));
                let unknown = ProbeResult::Unknown(reason);
                return Came::Settled(unknown, Detail::default(), "", span.1 - span.0);
            }
            // It is not kept: the container is looked at instead.
            Step::Ended(..) => return Came::Open,
            Step::Found(found) => {
                let elapsed = found.span.1 - found.span.0;
                (found, elapsed)
            }
        };
        let via = found.via;
        if needs_systemd {
            used.span(self.systemd.span);
        }
        let weighed = self.memory.weigh(probe.name(), found.finding, found.span);
        if let Some(again) = weighed.again {
            needs.due.push((What::Systemd, again));
        }
        let passes = weighed.outcome.is_passed();
        let mut kept = false;
        if let Some(known) = self.answers.get(&key)
            && known.fact.value.is_some()
        {
            used.certain &= known.fact.counts();
            used.stale |= known.fact.is_stale();
            if known.fact.needs_asking() {
                needs.answers.push(probe.clone());
                if stands_no_longer(&known.fact, passes, self.now()) {
                    return Came::Open;
                }
                needs.wake = earlier(needs.wake, known.fact.stands_until());
            }
            kept = passes && known.keeps() && known.behind.is_some();
            if !kept {
                used.span(known.fact.span);
                used.answers.push(key.clone());
            }
        }
        let (of_systemd, of_answer) = self.next_due(probe, !passes, kept);
        let of_systemd = of_systemd.filter(|_| needs_systemd);
        needs.due.extend(of_systemd.map(|due| (What::Systemd, due)));
        needs
            .due
            .extend(of_answer.map(|due| (What::Answer(key), due)));
        let outcome = ProbeResult::Looked(weighed.outcome);
        Came::Settled(outcome, weighed.detail, via, elapsed)
    }

    /// When systemd, and the probe's own answer, have to be asked again though nothing is told.
    fn next_due(
        &self,
        probe: &Probe,
        stops: bool,
        kept: bool,
    ) -> (Option<Instant>, Option<Instant>) {
        let poll = after(self.systemd.span.1, self.poll());
        let of_systemd = self.systemd.value.as_ref().map(|asked| match &asked.said {
            Ok(look) if look.told => {
                let is_systemd = matches!(probe.means(), Ok(Means::Systemd));
                // The end of a boot is told; how else it changes is not.
                let boots = matches!(look.system.as_str(), "starting" | "initializing");
                if stops && is_systemd && !boots {
                    self.retry(self.systemd.span)
                } else {
                    self.systemd.span.1 + RESYNC
                }
            }
            _ if stops => self.retry(self.systemd.span),
            _ => poll,
        });
        let Some(known) = self.answers.get(&probe.key()) else {
            return (of_systemd, None);
        };
        let end = known.fact.span.1;
        let told = self.systemd.value.as_ref().is_some_and(is_told);
        let of_answer = match (stops, kept) {
            // Of those whose unit stops them, the answer was not gone by.
            (true, _) => Some(self.retry(known.fact.span)),
            (false, true) if told => None,
            (false, true) => Some(after(end, self.poll().max(KEPT))),
            (false, false) => Some(after(end, self.poll())),
        };
        (of_systemd, of_answer)
    }

    fn container_due(&self, container: Option<&Container>) -> Instant {
        let span = self.container.span;
        let back = container.and_then(|container| self.returned_by(container));
        let back = back.filter(|back| self.container.span.0 < *back);
        let runs = container.is_some_and(|container| container.state == State::Running);
        let due = match (self.live && self.feed.is_live(), runs) {
            (true, _) => span.1 + RESYNC,
            (false, true) => after(span.1, self.poll()),
            (false, false) => self.retry(span),
        };
        back.map_or(due, |back| due.min(back))
    }

    /// Whether a plan that has passed may say so: nothing that it goes by is in doubt, and what was
    /// seen first was still so at the end.
    fn closes(&mut self, used: &Used, needs: &mut Needs, newly: bool) -> bool {
        if !used.certain {
            return false;
        }
        if !newly {
            return true;
        }
        let latest = used.latest.unwrap_or(self.container.span.0);
        // Of systemd as a whole, not all is told.
        let fresh = self.systemd.span.1 + FRESH;
        if used.systemd && fresh < latest.max(self.container.span.0) {
            self.systemd.want_anew();
            needs.systemd = true;
            return false;
        }
        // Nor is it told when an answer would be another; those that were behind a probe that did not
        // pass have not been asked for since.
        let looked = self.container.span.0;
        let mut old = false;
        for key in &used.answers {
            if let Some(known) = self.answers.get_mut(key)
                && known.fact.span.1 + FRESH < looked
            {
                known.fact.want_anew();
                needs.answers.push(known.probe.clone());
                old = true;
            }
        }
        if old {
            return false;
        }
        // Events may be late, and an exec goes by an id that a restart keeps. But who has just answered
        // over the node's own bus runs.
        let told = self.systemd.value.as_ref().is_some_and(is_told);
        let live = self.live && self.feed.is_live() && self.container.counts();
        let runs = used.systemd && told && live && self.systemd.span.1 >= latest;
        if !runs && self.container.span.0 < latest {
            self.container.want_anew();
            needs.container = true;
            return false;
        }
        true
    }

    // --- what is asked --------------------------------------------------------------------------

    /// Asks for what is needed, and tells when to wake though nothing comes.
    fn ask(&mut self, mut needs: Needs, now: Instant) -> Option<Instant> {
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
            (found.map_err(CouldNotLook::from), span)
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
    fn question(&self) -> UnitQuestion {
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

    // --- time -----------------------------------------------------------------------------------

    fn now(&self) -> Instant {
        self.sight.environment.now()
    }

    /// The shortest interval that a client polls at.
    fn poll(&self) -> Duration {
        let intervals = self.plans.iter().filter_map(|plan| plan.interval());
        intervals.min().unwrap_or(RESYNC)
    }

    /// When what no event tells is asked for again: often at first, and ever more seldom; and never
    /// so often that asking is all that is done.
    fn retry(&self, span: Span) -> Instant {
        let quiet = span.1.saturating_duration_since(self.quiet_since);
        let took = span.1 - span.0;
        let delay = EAGER.max(quiet / PATIENCE).max(took).min(self.poll());
        span.1 + self.sight.environment.jitter(delay)
    }

    // --- the end --------------------------------------------------------------------------------

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

/// What the container itself is to its probes.
enum Standing {
    /// This, to every one.
    Every(Outcome),
    /// It runs; its label may name no role.
    Runs(Option<Outcome>),
}

impl Known {
    /// Whether the answer counts for as long as the unit behind it is unchanged, as a banner does.
    fn keeps(&self) -> bool {
        matches!(self.probe.means(), Ok(Means::Answers(names, _)) if !names.is_empty())
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

fn engine(outcome: Outcome, span: Span) -> Came {
    let result = ProbeResult::Looked(outcome);
    Came::Settled(result, Detail::default(), ENGINE, span.1 - span.0)
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

/// Says nothing new, but whether something has happened that is not in the newest state.
fn hold(plan: &Plan, doubtful: bool) {
    plan.published.send_if_modified(|published| {
        if published.doubtful != doubtful {
            Arc::make_mut(published).doubtful = doubtful;
        }
        false
    });
}

fn publish(plan: &Plan, before: &Published, next: Published) {
    let passes = next.passed_since.is_some();
    // Who waits for the moment in which all nodes are ready acts on these, too.
    let clear = before.doubtful && !next.doubtful || before.stale && !next.stale;
    let moved = passes && next.started > before.started || clear;
    let first = !(before.settled || next.settled) && before.round == 0;
    let news = moved || first || !next.says_the_same(before);
    plan.published.send_if_modified(|published| {
        *published = Arc::new(next);
        news
    });
}

/// Whether a passed fact has been asked for once more for too long to be taken for granted.
fn stands_no_longer<T>(fact: &Fact<T>, passed: bool, now: Instant) -> bool {
    passed && fact.stands_until().is_some_and(|until| now >= until)
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

fn earlier(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
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
