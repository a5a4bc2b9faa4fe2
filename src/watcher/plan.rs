//! What has to be done next: commands, and when to look again though nothing arrives.

use tokio::time::Instant;

use super::{
    cached::Cached,
    clients::WantedSet,
    evaluate::evaluate,
    evaluation::{Evaluation, Needs, Subject},
    interpret::unit_behind,
    own_probe::Streak,
    probe_set::SetId,
    schedule::{SLOW_BOOT, earlier},
    session::ProbeReply,
    state::{Answer, Command, NodeState, Turn, units_of},
};
use crate::{probe::Probe, unit::UnitQuestion};

/// What a node's actor does next.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) commands: Vec<Command>,
    /// When to evaluate again though nothing arrives.
    pub(super) wake: Option<Instant>,
}

impl NodeState {
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
            needs.probes.extend(evaluation.needs.probes.iter().cloned());
            needs.due.extend(evaluation.needs.due.iter().cloned());
            for subject in &evaluation.needs.refresh {
                self.refresh_subject(subject, &mut needs);
            }
        }
        let mut wake = None;
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
            self.container.start();
            commands.push(Command::Inspect);
        }
        if needs.systemd && !self.systemd.is_in_flight() && !self.must_queue() {
            match self.start_systemd(now) {
                Ok(command) => commands.extend(command),
                Err(later) => {
                    tracing::debug!("systemd signals faster than it is asked");
                    wake = earlier(wake, Some(later));
                }
            }
        }
        for probe in needs.probes {
            if let Some(again) = self.again_at(&probe).filter(|again| *again > now) {
                wake = earlier(wake, Some(again));
            } else if self.must_take_turns(&probe) {
                commands.extend(self.await_turn(&probe));
            } else if !self.must_queue() {
                commands.extend(self.start_probe(&probe, now));
            }
        }
        Plan { commands, wake }
    }

    /// Whether a command would be run by routine, and its turn has not come.
    fn must_take_turns(&self, probe: &Probe) -> bool {
        let Some(answer) = self.answers.get(&probe.key()) else {
            return false;
        };
        let is_routine = probe.is_command() && answer.cached.is_due_by_routine();
        is_routine && answer.turn != Turn::Come && !answer.cached.is_in_flight()
    }

    /// Awaits the turn of a probe, unless that is awaited.
    fn await_turn(&mut self, probe: &Probe) -> Option<Command> {
        let key = probe.key();
        let answer = self.answers.get_mut(&key)?;
        if answer.turn == Turn::Awaited {
            return None;
        }
        answer.turn = Turn::Awaited;
        let passes = answer.cached.value().is_some_and(ProbeReply::has_passed);
        Some(Command::AwaitTurn(key, passes))
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
        self.systemd.start();
        Ok(Some(Command::QuerySystemd(self.question(now))))
    }

    fn start_probe(&mut self, probe: &Probe, now: Instant) -> Option<Command> {
        if !self.in_session {
            return None;
        }
        let known = self.answers.get(&probe.key());
        let known = known.filter(|answer| answer.cached.value().is_some());
        let newer_than = known.map(|answer| answer.cached.span().asked);
        let query = self.start_query(probe, now)?;
        let unit = self.unit_of(probe).cloned();
        let probe = probe.clone();
        Some(Command::QueryProbe(probe, query, unit, newer_than))
    }

    /// When a probe's own query may be run again; `None` if at any time. The daemon of another start has
    /// not been asked yet, and the interval of an operator's own probe is that of its routine.
    fn again_at(&self, probe: &Probe) -> Option<Instant> {
        let answer = self.answers.get(&probe.key())?;
        let is_same = unit_behind(probe, self.systemd.value()) == answer.unit;
        let is_wanted = probe.own().is_some() && !answer.cached.is_due_by_routine();
        let again = answer.cached.value()?.again;
        again.filter(|_| is_same && !is_wanted)
    }

    /// Notes that a probe's query is in flight, and gives its number; none if one already is.
    pub(super) fn start_query(&mut self, probe: &Probe, now: Instant) -> Option<u64> {
        let behind = unit_behind(probe, self.systemd.value());
        let answer = self.answers.entry(probe.key()).or_insert_with(|| Answer {
            probe: probe.clone(),
            unit: None,
            query: 0,
            cached: Cached::new(now),
            streak: Streak::default(),
            turn: Turn::default(),
        });
        if answer.cached.is_in_flight() {
            return None;
        }
        self.intake.queries += 1;
        answer.cached.start();
        answer.turn = Turn::NotAsked;
        answer.unit = behind;
        answer.query = self.intake.queries;
        Some(answer.query)
    }

    /// Whether a boot that is not over has taken longer than one does. Till then, what it waits for changes
    /// all the time.
    fn boots_slowly(&self, now: Instant) -> bool {
        let seen = self.last_seen.as_ref();
        seen.is_some_and(|seen| seen.since + SLOW_BOOT <= now)
    }

    /// All units that any set goes by, in one question.
    fn question(&self, now: Instant) -> UnitQuestion {
        let units = units_of(&self.wanted_probes(), true);
        UnitQuestion {
            proofs: units.clone(),
            units,
            journal: self.journal,
            jobs: self.boots_slowly(now),
        }
    }
}
