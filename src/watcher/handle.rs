//! What follows from each input for what is known of a node.

use std::collections::{BTreeSet, HashSet};

use tokio::time::Instant;

use super::{
    cached::Cached,
    clients::WantedSet,
    interpret::unit_behind,
    prompt::Prompt,
    schedule::BANNER_AGES,
    session::{ProbeReply, QueryError, SystemdReply},
    span::Span,
    state::{Command, EngineBack, Input, Inspected, LastSeen, NodeState, Pacing, Turn},
    watch::Watch,
};
use crate::{
    container::{Container, State},
    engine::EngineError,
    environment::{after, jitter},
    inbox::{ContainerChange, Pending},
    probe::{Probe, ProbeKey, UnitProof, container, judge_unit},
    unit::Unit,
};

impl NodeState {
    /// Takes an input.
    pub(super) fn handle(&mut self, input: Input, now: Instant) {
        match input {
            Input::Inbox(pending) => self.handle_inbox(pending, now),
            Input::Wanted(wanted) => self.handle_wanted(wanted),
            Input::EventsLive(live) => self.engine.events_live = live,
            Input::Inspected(inspected, span) => self.handle_inspected(inspected, span, now),
            Input::Systemd(reply) => self.handle_systemd(reply, now),
            Input::Probe(key, query, reply) => self.handle_probe(&key, query, reply),
            Input::Changed(key, query) => self.handle_change(&key, query),
            Input::Turn(key) => {
                if let Some(answer) = self.answers.get_mut(&key)
                    && answer.turn == Turn::Awaited
                {
                    answer.turn = Turn::Come;
                }
            }
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
        let prompt = cause.map(|(trigger, detail)| Prompt {
            trigger,
            detail: detail.into(),
        });
        if prompt.is_some() {
            self.schedule.quiet_since = now;
        }
        if container.is_some() {
            self.container.invalidate(prompt.as_ref());
            if self.engine.events_live_at_inspection && !self.engine.events_live {
                // Events end when an engine does.
                tracing::debug!("the engine may have been restarted: its events have ended");
                self.engine.back = Some(EngineBack::NotYet);
            }
        }
        if container == Some(ContainerChange::Undone) {
            self.passing.clear();
        }
        self.intake.last_signal = self.intake.last_signal.max(signal);
        if systemd {
            self.systemd.invalidate(prompt.as_ref());
        } else if signal > self.included_signal() {
            self.systemd.invalidate_value(prompt.as_ref());
        }
        if refresh {
            self.refresh(now);
        }
    }

    /// Everything is asked for once more, but for banners that stand and are not old: sshd shuts out who
    /// reads its banner too often.
    fn refresh(&mut self, now: Instant) {
        self.container.refresh();
        self.systemd.refresh();
        for answer in self.answers.values_mut() {
            let stands = answer.probe.stands_with_its_unit() && answer.unit.is_some();
            let is_old = after(answer.cached.span().answered, BANNER_AGES) < now;
            if !stands || is_old {
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
        let factor = jitter(&mut self.schedule.random);
        let prompt = self.container.store(inspected, span, factor);
        self.set_prompt(prompt);
    }

    fn follow_run(&mut self, container: Container, span: Span, now: Instant) {
        let is_same = |seen: &LastSeen| seen.container.is_same_run(&container);
        let since = match &self.last_seen {
            Some(seen) if is_same(seen) => seen.since,
            // Another container under the same name, or the same one started again: nothing of what
            // was before carries over.
            before => {
                let (run, known) = (container.run(), before.is_some());
                tracing::debug!(container = %run.id, known, "a run that was not seen before");
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
        let (span, factor) = (reply.span, jitter(&mut self.schedule.random));
        let prompt = self.systemd.store(reply, span, factor);
        self.set_prompt(prompt);
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
            let probes = set.probes.probes(self.kind_of(&set.probes));
            let mut names = probes.iter().flat_map(Probe::unit_names);
            if names.any(|name| changed.contains(*name)) {
                self.passing.remove(&set.id);
            }
        }
    }

    fn handle_probe(&mut self, key: &ProbeKey, query: u64, reply: ProbeReply) {
        self.intake.replies += 1;
        let ended = matches!(reply.result, Err(QueryError::Ended(_)));
        let factor = jitter(&mut self.schedule.random);
        if ended {
            self.container.invalidate(None);
        }
        let answer = self.answers.get_mut(key);
        let Some(answer) = answer.filter(|answer| answer.query == query) else {
            tracing::debug!(probe = %key, "the reply came for clients that have gone");
            return;
        };
        if ended {
            answer.cached.abandon();
            return;
        }
        if let Some(own) = answer.probe.own() {
            answer.streak.note(own, &reply);
        }
        let (span, watch) = (reply.span, reply.watch.clone());
        let prompt = answer.cached.store(reply, span, factor);
        self.set_prompt(prompt);
        if watch != Watch::Nothing {
            let pacing = Pacing {
                quiet_since: self.schedule.quiet_since,
                poll: self.poll(),
            };
            let watch = Command::Watch(key.clone(), query, watch, pacing);
            self.intake.commands.push(watch);
        }
    }

    /// What a probe's own query was answered need not be so any more.
    fn handle_change(&mut self, key: &ProbeKey, query: u64) {
        let answer = self.answers.get_mut(key);
        if let Some(answer) = answer.filter(|answer| answer.query == query) {
            answer.cached.invalidate(Some(&Prompt::poll()));
        }
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
            answer.turn = Turn::default();
            answer.cached.value().is_some()
        });
    }

    fn set_prompt(&mut self, prompt: Option<Prompt>) {
        if let Some(prompt) = prompt {
            self.intake.prompt = prompt;
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
