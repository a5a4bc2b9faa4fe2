//! What is known of one node, and what follows from each input. No I/O, no clock, no task: inputs and
//! times go in, commands come out.
//!
//! ```text
//! container ─▶ systemd ─▶ answers          each a cached reply: asked for when a probe needs it,
//!     ▲           ▲          ▲             kept until something invalidates it
//!     │           │          │
//!  engine's    systemd's   its unit has changed, or it is time
//!  events      signals
//!     └───────────┴──────────┴──── where nothing is told: asked for again and again
//! ```
//!
//! Everything is asked for concurrently: a reply that hangs delays no probe that does not need it.

use std::collections::{BTreeSet, HashMap, HashSet};

use fastrand::Rng;
use tokio::time::Instant;

use super::{
    cached::Cached,
    clients::{SetId, WantedSet},
    confirm::Confirmations,
    evaluate::{Evaluation, Needs, Subject, evaluate},
    interpret::unit_behind,
    publish::{Cause, SeenRun},
    schedule::{ENGINE_RETURN, Pace, RESYNC, earlier},
    session::{ProbeReply, QueryError, SystemdReply},
    span::Span,
};
use crate::{
    container::{Container, State},
    engine::EngineError,
    inbox::{ContainerChange, Pending},
    node::{LabelKeys, NodeName, Role, RoleLabel},
    probe::{Probe, ProbeKey, UnitProof, container, find_unit, judge_unit},
    unit::{Unit, UnitQuestion},
};

/// The container, or that there is none, or why that could not be told.
pub(super) type Inspected = Result<Option<Container>, EngineError>;

/// Something that a node's actor has learnt.
#[derive(Debug)]
pub(super) enum Input {
    /// The inbox was emptied.
    Inbox(Pending),
    /// These sets are wanted now.
    Wanted(Vec<WantedSet>),
    /// Whether the engine's events are live.
    EventsLive(bool),
    Inspected(Inspected, Span),
    Systemd(SystemdReply),
    /// The reply to a probe's own query of that number.
    Probe(ProbeKey, u64, ProbeReply),
    /// A status was published that says something new.
    News,
    /// Nobody wants anything any more.
    Idle,
}

/// Something that a node's actor has to do.
#[derive(Debug)]
pub(super) enum Command {
    /// Drop the session, and every query in it.
    EndSession,
    /// Open a session in this run of the container.
    StartSession(Container),
    /// Make the way into the node anew: it has signalled less than was seen.
    RenewLink,
    /// Subscribe to the engine's events anew: they have told less than was seen.
    DistrustEvents,
    Inspect,
    QuerySystemd(UnitQuestion),
    /// Run a probe's own query, which has that number; with the unit behind it, if there is one.
    QueryProbe(Probe, u64, Option<Unit>),
}

/// What a node's actor does next.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) commands: Vec<Command>,
    /// When to evaluate again though nothing arrives.
    pub(super) wake: Option<Instant>,
}

/// What a status says beside an evaluation.
#[derive(Debug, Clone)]
pub(super) struct Facts {
    pub(super) cause: Cause,
    pub(super) replies: u64,
    pub(super) sequence: u64,
    pub(super) run: Option<SeenRun>,
}

/// A probe's own reply, and the unit that was behind it when it was asked for.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) probe: Probe,
    pub(super) unit: Option<UnitProof>,
    /// The number of the newest query. A reply to another was asked for by clients that have gone.
    query: u64,
    pub(super) cached: Cached<ProbeReply>,
}

/// The container that was seen last, and since when it has been that run.
#[derive(Debug)]
pub(super) struct LastSeen {
    container: Container,
    asked: Instant,
    since: Instant,
}

/// What is known of the engine itself.
#[derive(Debug, Default)]
struct EngineState {
    /// Whether events are live, so that whatever happens to the container is told.
    events_live: bool,
    /// Whether they were when the container was last asked for.
    events_live_at_inspection: bool,
    /// Whether the engine may have been restarted.
    back: Option<EngineBack>,
}

#[derive(Debug, Clone, Copy)]
enum EngineBack {
    NotYet,
    Since(Instant),
}

/// How often things are asked.
struct Schedule {
    /// Since when nothing new has been seen.
    quiet_since: Instant,
    pace: Pace,
    random: Rng,
}

/// What is known of one node.
pub(super) struct NodeState {
    // What it is.
    pub(super) node: NodeName,
    pub(super) labels: LabelKeys,
    journal: bool,

    // What was replied.
    pub(super) container: Cached<Inspected>,
    pub(super) systemd: Cached<SystemdReply>,
    pub(super) answers: HashMap<ProbeKey, Answer>,
    pub(super) confirmations: Confirmations,
    pub(super) last_seen: Option<LastSeen>,
    /// Whether the run is asked anything.
    in_session: bool,

    // Who wants what, and since when that has passed.
    wanted: Vec<WantedSet>,
    pub(super) passing: HashMap<SetId, Instant>,

    intake: Intake,
    engine: EngineState,
    schedule: Schedule,
}

/// How far inputs have been taken, and what has come of them.
#[derive(Debug)]
struct Intake {
    cause: Cause,
    replies: u64,
    /// The number of the last inbox message.
    sequence: u64,
    /// The number of the last signal of a unit.
    last_signal: u64,
    /// How many queries of probes have been started.
    queries: u64,
    commands: Vec<Command>,
}

impl NodeState {
    /// Nothing is known yet. The seed decides what is left to chance.
    pub(super) fn new(
        node: NodeName,
        labels: LabelKeys,
        journal: bool,
        seed: u64,
        now: Instant,
    ) -> Self {
        Self {
            node,
            labels,
            journal,
            container: Cached::new(now),
            systemd: Cached::new(now),
            answers: HashMap::new(),
            confirmations: Confirmations::default(),
            last_seen: None,
            in_session: false,
            wanted: Vec::new(),
            passing: HashMap::new(),
            intake: Intake {
                cause: Cause::initial(),
                replies: 0,
                sequence: 0,
                last_signal: 0,
                queries: 0,
                commands: Vec::new(),
            },
            engine: EngineState::default(),
            schedule: Schedule {
                quiet_since: now,
                pace: Pace::new(now),
                random: Rng::with_seed(seed),
            },
        }
    }

    /// Takes an input.
    pub(super) fn handle(&mut self, input: Input, now: Instant) {
        match input {
            Input::Inbox(pending) => self.handle_inbox(pending, now),
            Input::Wanted(wanted) => self.handle_wanted(wanted),
            Input::EventsLive(live) => self.engine.events_live = live,
            Input::Inspected(inspected, span) => self.handle_inspected(inspected, span, now),
            Input::Systemd(reply) => self.handle_systemd(reply, now),
            Input::Probe(key, query, reply) => self.handle_probe(&key, query, reply),
            Input::News => self.schedule.quiet_since = now,
            Input::Idle => self.abandon_queries(),
        }
    }

    fn handle_inbox(&mut self, pending: Pending, now: Instant) {
        let Pending {
            container,
            systemd,
            signal,
            refresh,
            clients: _,
            cause,
            sequence,
        } = pending;
        self.intake.sequence = sequence;
        let cause = cause.map(|(trigger, detail)| Cause {
            trigger,
            detail: detail.into(),
        });
        if cause.is_some() {
            self.schedule.quiet_since = now;
        }
        if container.is_some() {
            self.container.invalidate(cause.as_ref());
            if self.engine.events_live_at_inspection && !self.engine.events_live {
                // Events end when an engine does.
                self.engine.back = Some(EngineBack::NotYet);
            }
        }
        if container == Some(ContainerChange::Undone) {
            self.passing.clear();
        }
        self.intake.last_signal = self.intake.last_signal.max(signal);
        if systemd {
            self.systemd.invalidate(cause.as_ref());
        } else if signal > self.included_signal() {
            self.systemd.invalidate_value(cause.as_ref());
        }
        if refresh {
            self.refresh();
        }
    }

    /// Everything is asked for once more, but for banners that stand: sshd shuts out who reads its
    /// banner too often.
    fn refresh(&mut self) {
        self.container.refresh();
        self.systemd.refresh();
        for answer in self.answers.values_mut() {
            if !(answer.probe.stands_with_its_unit() && answer.unit.is_some()) {
                answer.cached.refresh();
            }
        }
    }

    fn handle_wanted(&mut self, wanted: Vec<WantedSet>) {
        self.wanted = wanted;
        let ids: HashSet<_> = self.wanted.iter().map(|set| set.id).collect();
        self.passing.retain(|id, _| ids.contains(id));
        let keys: HashSet<_> = self.wanted_probes().iter().map(Probe::key).collect();
        self.answers.retain(|key, _| keys.contains(key));
    }

    /// The number of the last signal that what systemd has said includes.
    fn included_signal(&self) -> u64 {
        match self.systemd.value().map(|reply| &reply.result) {
            Some(Ok(state)) if state.subscribed => state.last_signal,
            // Where nothing is signalled, no signal is waited for.
            _ => u64::MAX,
        }
    }

    fn handle_inspected(&mut self, inspected: Inspected, span: Span, now: Instant) {
        self.intake.replies += 1;
        self.engine.back = match (&inspected, self.engine.back) {
            // An engine that is only slow, or makes no sense, was not restarted.
            (Err(EngineError::Unreachable { .. }), _) => Some(EngineBack::NotYet),
            (Ok(_), Some(EngineBack::NotYet)) => Some(EngineBack::Since(span.answered)),
            (_, back) => back,
        };
        let before = self.container.value();
        let is_untold = self.container.is_routine()
            && self.container_events_live()
            && before.is_some_and(|before| is_another_state(before, &inspected));
        let was_stopped = before.is_some_and(|before| !runs(before));
        self.store_container(inspected.clone(), span);
        if was_stopped {
            // Nothing in it was asked meanwhile.
            self.systemd.invalidate(None);
            let answers = self.answers.values_mut();
            answers.for_each(|answer| answer.cached.invalidate(None));
        }
        if is_untold && self.container.is_valid() {
            self.intake.commands.push(Command::DistrustEvents);
        }
        match inspected {
            Ok(Some(container)) => self.follow_run(container, span, now),
            Ok(None) => self.end_session(now),
            Err(_) => {}
        }
    }

    fn store_container(&mut self, inspected: Inspected, span: Span) {
        if let Ok(Some(container)) = &inspected {
            let finding = container::judge(&self.node, container);
            self.confirmations.note_container(finding, span);
        }
        let jitter = self.jitter();
        let cause = self.container.store(inspected, span, jitter);
        self.set_cause(cause);
    }

    fn follow_run(&mut self, container: Container, span: Span, now: Instant) {
        let is_same = |seen: &LastSeen| seen.container.is_same_run(&container);
        let since = match &self.last_seen {
            Some(seen) if is_same(seen) => seen.since,
            // Another container under the same name, or the same one started again: nothing of what
            // was before carries over.
            _ => {
                self.end_session(now);
                self.passing.clear();
                span.asked
            }
        };
        match &container.state {
            State::Running if !self.in_session => {
                self.in_session = true;
                let start = Command::StartSession(container.clone());
                self.intake.commands.push(start);
            }
            // A paused one goes on as it was.
            State::Running | State::Paused => {}
            _ => self.end_session(now),
        }
        self.last_seen = Some(LastSeen {
            container,
            asked: span.asked,
            since,
        });
    }

    /// Forgets all that was seen in a run of the container, and asks it nothing more.
    fn end_session(&mut self, now: Instant) {
        self.confirmations.forget_units();
        self.systemd = Cached::new(now);
        self.answers.clear();
        if std::mem::take(&mut self.in_session) {
            self.intake.commands.push(Command::EndSession);
        }
    }

    fn handle_systemd(&mut self, reply: SystemdReply, now: Instant) {
        self.intake.replies += 1;
        if let Err(QueryError::Ended(_)) = reply.result {
            self.container.invalidate(None);
            self.systemd.abandon();
            return;
        }
        let is_routine = self.systemd.is_routine();
        let before = self.systemd.value();
        let was_subscribed = before.is_some_and(SystemdReply::is_subscribed);
        let changed = before.map(|before| changed_units(before, &reply));
        let changed = changed.unwrap_or_default();
        if let Ok(state) = &reply.result {
            let findings = state.units.values().map(judge_unit);
            self.confirmations.note_units(findings, reply.span);
        }
        let (span, jitter) = (reply.span, self.jitter());
        let cause = self.systemd.store(reply, span, jitter);
        self.set_cause(cause);
        if self.intake.last_signal > self.included_signal() {
            self.systemd.invalidate_value(None);
        }
        if !changed.is_empty() {
            tracing::debug!(units = ?changed, "units have changed");
            self.schedule.quiet_since = now;
            self.undo(&changed);
            if is_routine && was_subscribed && self.systemd.is_valid() {
                tracing::warn!(node = %self.node, units = ?changed, "units have changed, and systemd has not signalled that: listening anew");
                self.intake.commands.push(Command::RenewLink);
            }
        }
        let systemd = self.systemd.value();
        for answer in self.answers.values_mut() {
            if unit_behind(&answer.probe, systemd) != answer.unit {
                answer.cached.invalidate(None);
            }
        }
    }

    /// What has passed by one of these units begins anew.
    fn undo(&mut self, changed: &BTreeSet<String>) {
        for set in &self.wanted {
            let probes = set.probes.probes(self.role_of(set));
            let mut names = probes.iter().flat_map(Probe::unit_names);
            if names.any(|name| changed.contains(*name)) {
                self.passing.remove(&set.id);
            }
        }
    }

    fn handle_probe(&mut self, key: &ProbeKey, query: u64, reply: ProbeReply) {
        self.intake.replies += 1;
        let ended = matches!(reply.result, Err(QueryError::Ended(_)));
        let jitter = self.jitter();
        if ended {
            self.container.invalidate(None);
        }
        let answer = self.answers.get_mut(key);
        let Some(answer) = answer.filter(|answer| answer.query == query) else {
            return;
        };
        if ended {
            answer.cached.abandon();
            return;
        }
        let span = reply.span;
        let cause = answer.cached.store(reply, span, jitter);
        self.set_cause(cause);
    }

    /// Stores a reply that was asked for without a plan, by a look of its own.
    pub(super) fn store_answer(&mut self, probe: &Probe, reply: ProbeReply, now: Instant) {
        let _ = self.start_query(probe, now);
        let query = self.intake.queries;
        self.handle_probe(&probe.key(), query, reply);
    }

    fn abandon_queries(&mut self) {
        self.container.abandon();
        self.systemd.abandon();
        self.answers.retain(|_, answer| {
            answer.cached.abandon();
            answer.cached.value().is_some()
        });
    }

    fn set_cause(&mut self, cause: Option<Cause>) {
        if let Some(cause) = cause {
            self.intake.cause = cause;
        }
    }

    /// Evaluates every set that is wanted.
    pub(super) fn evaluate_all(&self, now: Instant) -> Vec<(SetId, Evaluation)> {
        let evaluated = |set: &WantedSet| (set.id, evaluate(set.id, &set.probes, self, now));
        self.wanted.iter().map(evaluated).collect()
    }

    /// What to do next, after these evaluations. Queries are in flight from then on.
    pub(super) fn plan(&mut self, evaluations: &[(SetId, Evaluation)], now: Instant) -> Plan {
        let mut needs = Needs::default();
        for (id, evaluation) in evaluations {
            match evaluation.passed_since {
                Some(since) => self.passing.insert(*id, since),
                None => self.passing.remove(id),
            };
            needs.container |= evaluation.needs.container;
            needs.systemd |= evaluation.needs.systemd;
            needs.wake = earlier(needs.wake, evaluation.needs.wake);
            needs.probes.extend(evaluation.needs.probes.iter().cloned());
            needs.due.extend(evaluation.needs.due.iter().cloned());
            for subject in &evaluation.needs.refresh {
                self.refresh_subject(subject, &mut needs);
            }
        }
        let mut wake = needs.wake.filter(|at| *at > now);
        for (subject, due) in std::mem::take(&mut needs.due) {
            if due > now {
                wake = earlier(wake, Some(due));
            } else if !self.container.is_in_flight() && !needs.container {
                // While the container is inspected nothing new begins: that has to be the last look.
                self.expire(subject, &mut needs);
            }
        }
        let mut commands = std::mem::take(&mut self.intake.commands);
        if needs.container && !self.container.is_in_flight() {
            self.engine.events_live_at_inspection = self.engine.events_live;
            self.container.start(now);
            commands.push(Command::Inspect);
        }
        if needs.systemd && !self.systemd.is_in_flight() && !self.must_queue() {
            match self.start_systemd(now) {
                Ok(command) => commands.extend(command),
                Err(later) => wake = earlier(wake, Some(later)),
            }
        }
        for probe in needs.probes {
            if !self.must_queue() {
                commands.extend(self.start_probe(&probe, now));
            }
        }
        Plan { commands, wake }
    }

    fn refresh_subject(&mut self, subject: &Subject, needs: &mut Needs) {
        match subject {
            Subject::Container => {
                self.container.refresh();
                needs.container = true;
            }
            Subject::Systemd => {
                self.systemd.refresh();
                needs.systemd = true;
            }
            Subject::Probe(key) => {
                if let Some(answer) = self.answers.get_mut(key) {
                    answer.cached.refresh();
                    needs.probes.push(answer.probe.clone());
                }
            }
        }
    }

    fn expire(&mut self, subject: Subject, needs: &mut Needs) {
        match subject {
            Subject::Container if !self.container.needs_query() => {
                self.container.expire();
                needs.container = true;
            }
            Subject::Systemd if !self.systemd.needs_query() && !self.must_queue() => {
                self.systemd.expire();
                needs.systemd = true;
            }
            Subject::Probe(key) => {
                if let Some(answer) = self.answers.get_mut(&key)
                    && !answer.cached.needs_query()
                {
                    answer.cached.expire();
                    needs.probes.push(answer.probe.clone());
                }
            }
            Subject::Container | Subject::Systemd => {}
        }
    }

    /// Whether another query would only wait for a command in the node, of which there is one at a
    /// time: then what is being waited for is that command's reply.
    fn must_queue(&self) -> bool {
        let systemd = self.systemd.value();
        let by_command = systemd.is_some_and(|reply| !reply.is_subscribed());
        by_command
            && self
                .answers
                .values()
                .any(|answer| answer.cached.is_in_flight())
    }

    /// Starts a query of systemd; or tells when one may be started: a storm of signals is followed in
    /// step.
    fn start_systemd(&mut self, now: Instant) -> Result<Option<Command>, Instant> {
        if !self.in_session {
            return Ok(None);
        }
        if !self.systemd.is_valid() {
            self.schedule.pace.take(now)?;
        }
        self.systemd.start(now);
        Ok(Some(Command::QuerySystemd(self.question())))
    }

    fn start_probe(&mut self, probe: &Probe, now: Instant) -> Option<Command> {
        if !self.in_session {
            return None;
        }
        let query = self.start_query(probe, now)?;
        let unit = self.unit_of(probe).cloned();
        Some(Command::QueryProbe(probe.clone(), query, unit))
    }

    /// Notes that a probe's query is in flight, and gives its number; none if one already is.
    fn start_query(&mut self, probe: &Probe, now: Instant) -> Option<u64> {
        let behind = unit_behind(probe, self.systemd.value());
        let answer = self.answers.entry(probe.key()).or_insert_with(|| Answer {
            probe: probe.clone(),
            unit: None,
            query: 0,
            cached: Cached::new(now),
        });
        if answer.cached.is_in_flight() {
            return None;
        }
        self.intake.queries += 1;
        answer.cached.start(now);
        answer.unit = behind;
        answer.query = self.intake.queries;
        Some(answer.query)
    }

    /// The unit that a probe goes by, as systemd said last.
    pub(super) fn unit_of(&self, probe: &Probe) -> Option<&Unit> {
        let state = self.systemd.value()?.result.as_ref().ok()?;
        find_unit(state, probe.unit_names())
    }

    /// All units that any set goes by, in one question.
    fn question(&self) -> UnitQuestion {
        let units = units_of(&self.wanted_probes(), true);
        UnitQuestion {
            proofs: units.clone(),
            units,
            journal: self.journal,
        }
    }

    fn wanted_probes(&self) -> Vec<Probe> {
        let probes = |set: &WantedSet| set.probes.probes(self.role_of(set));
        self.wanted.iter().flat_map(probes).collect()
    }

    fn role_of(&self, set: &WantedSet) -> Option<Role> {
        set.probes.role.or_else(|| self.last_role())
    }

    /// The role that the label of the container gave which was seen last.
    pub(super) fn last_role(&self) -> Option<Role> {
        let seen = self.last_seen.as_ref()?;
        match self.labels.role_of(&seen.container.labels) {
            RoleLabel::Is(role) => Some(role),
            RoleLabel::Missing | RoleLabel::Invalid { .. } => None,
        }
    }

    /// Whether whatever has happened to the container since it was asked for has been told.
    pub(super) fn container_events_live(&self) -> bool {
        self.engine.events_live_at_inspection && self.engine.events_live
    }

    /// Until when an ended container may still be started again by an engine that has come back.
    pub(super) fn engine_return(&self, container: &Container) -> Option<Instant> {
        let back = match self.engine.back? {
            EngineBack::Since(back) => back,
            // What was seen before it went away does not count, either.
            EngineBack::NotYet => self.container.span().asked,
        };
        let ended = matches!(container.state, State::Exited { .. } | State::Dead);
        (ended && container.restarts).then(|| back + ENGINE_RETURN)
    }

    /// The shortest interval that a client polls at.
    pub(super) fn poll(&self) -> std::time::Duration {
        let intervals = self.wanted.iter().map(|set| set.interval);
        intervals.min().unwrap_or(RESYNC)
    }

    /// When something is asked for again that no event tells of.
    pub(super) fn retry_at<T>(&self, cached: &Cached<T>) -> Instant {
        cached.retry_at(self.schedule.quiet_since, self.poll())
    }

    /// A factor within a tenth of one.
    fn jitter(&mut self) -> f64 {
        0.9 + 0.2 * self.schedule.random.f64()
    }

    /// What a status says beside an evaluation.
    pub(super) fn facts(&self) -> Facts {
        let run = self.last_seen.as_ref().map(|seen| SeenRun {
            run: seen.container.run(),
            is_alive: matches!(seen.container.state, State::Running | State::Paused),
            restarts: seen.container.restarts,
            asked: seen.asked,
            since: seen.since,
        });
        Facts {
            cause: self.intake.cause.clone(),
            replies: self.intake.replies,
            sequence: self.intake.sequence,
            run,
        }
    }
}

fn runs(inspected: &Inspected) -> bool {
    matches!(inspected, Ok(Some(container)) if container.state == State::Running)
}

/// Whether an inspection tells another state than the one before.
fn is_another_state(before: &Inspected, now: &Inspected) -> bool {
    match (before, now) {
        (Ok(Some(before)), Ok(Some(now))) => !before.is_same_run(now) || before.state != now.state,
        (Ok(before), Ok(now)) => before.is_some() != now.is_some(),
        _ => false,
    }
}

/// The units that are not as they were, by the names that were asked for.
fn changed_units(before: &SystemdReply, now: &SystemdReply) -> BTreeSet<String> {
    let (Ok(before), Ok(now)) = (&before.result, &now.result) else {
        return BTreeSet::new();
    };
    let differs = |(name, unit): &(&String, &Unit)| {
        let earlier = before.units.get(*name);
        earlier.is_some_and(|earlier| {
            UnitProof::of(earlier) != UnitProof::of(unit) || earlier.active != unit.active
        })
    };
    let changed = now.units.iter().filter(differs);
    changed.map(|(name, _)| name.clone()).collect()
}

/// The units that probes go by; those behind a probe's own question, too, or not. Each is named once,
/// and always in the same order.
pub(super) fn units_of(probes: &[Probe], behind_answers: bool) -> Vec<&'static str> {
    let wanted = |probe: &&Probe| behind_answers || !probe.stands_with_its_unit();
    let names = probes.iter().filter(wanted).flat_map(Probe::unit_names);
    names
        .copied()
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect()
}
