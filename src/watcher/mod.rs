//! One node's life, followed by one task for as long as somebody needs it.
//!
//! ```text
//!          ┌──────────── nudged, or the interval is over, or a finding is due ───────────┐
//!          ▼                                                                             │
//!   inspect ─▶ probes in order, up to the first that does not pass ─▶ publish ─▶ sleep ──┘
//! ```
//!
//! What is published is the newest state, through a watch channel: a reader that is slow misses
//! states, never the last. While a probe that has never answered is being asked, that is published
//! too (not `settled`), so that there is a reason at every moment.

pub(crate) mod look;
mod round;
pub(crate) mod second;

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

pub(crate) use look::{Depth, Sight};

use crate::{
    environment::Task,
    node::{Identity, NodeName, Role},
    probe::{CouldNotLook, Means, Outcome, Probe, container},
    report::{ProbeReport, ProbeResult, Trigger},
    runtime::{Container, State},
    text::{Detail, Reason},
};
use look::{ENGINE, Found, Look};
use round::Round;
use second::Memory;

/// How long after an engine's return a container that it starts again may take: until then, having
/// ended is not the end.
const RETURN: Duration = Duration::from_secs(10);

/// How old what systemd has said may be at the end of a round for the round to count as passed.
const FRESH: Duration = Duration::from_secs(1);

/// How long one probe may take in all. Every call that it makes has a shorter limit of its own; this
/// one only keeps a probe from adding up too many.
const PROBE_LIMIT: Duration = Duration::from_secs(30);

/// What to follow.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) identity: Identity,
    pub(crate) node: NodeName,
    /// The role, if the client gave one.
    pub(crate) role: Option<Role>,
    /// The probes, if they are not the role's own.
    pub(crate) probes: Option<Vec<Probe>>,
    /// The delay between two looks.
    pub(crate) interval: Duration,
}

/// The newest state of a node.
#[derive(Debug, Clone)]
pub(crate) struct Published {
    pub(crate) role: Option<Role>,
    pub(crate) probes: Vec<ProbeReport>,
    pub(crate) trigger: Trigger,
    pub(crate) round: u64,
    /// When the look that this comes from started.
    pub(crate) started: Instant,
    /// Since when every look has found every probe passed: the end of the first such look.
    pub(crate) passed_since: Option<Instant>,
    /// Whether the look is over.
    pub(crate) settled: bool,
}

impl Published {
    /// What is left of this when nobody follows the node any more.
    pub(crate) fn abandoned(&self) -> Self {
        let mut left = self.clone();
        left.passed_since = None;
        left.settled = true;
        let reason = Reason::new("nobody looks any more: a check has panicked");
        let open = left
            .probes
            .iter()
            .position(|report| !report.result.is_passed());
        let open = open.or(left.probes.len().checked_sub(1));
        if let Some(report) = open.and_then(|index| left.probes.get_mut(index)) {
            report.result = ProbeResult::Unknown(reason);
        }
        left
    }
}

/// A node that is being followed; dropping this ends that.
#[derive(Debug)]
pub(crate) struct Watcher {
    pub(crate) published: watch::Receiver<Arc<Published>>,
    nudge: Arc<Notify>,
    _task: Task,
}

impl Watcher {
    /// Starts to follow a node.
    pub(crate) fn start(sight: Sight, target: Target) -> Self {
        let environment = sight.environment.clone();
        let mut life = Life::new(sight, target);
        let published = life.published.subscribe();
        let nudge = Arc::clone(&life.nudge);
        let task = environment.spawn(async move { life.run().await });
        Self {
            published,
            nudge,
            _task: task,
        }
    }

    /// Asks for another look, now.
    pub(crate) fn nudge(&self) {
        self.nudge.notify_one();
    }
}

struct Life {
    sight: Sight,
    target: Target,
    published: watch::Sender<Arc<Published>>,
    nudge: Arc<Notify>,
    state: Published,
    /// The container as it was last seen.
    seen: Option<Container>,
    memory: Memory,
    /// Until when a container that has ended may be started again by an engine that came back;
    /// none while the engine has never been out of reach.
    engine_back: Option<EngineBack>,
    /// When a finding of this round wants to be looked at again.
    again: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
enum EngineBack {
    NotYet,
    Since(Instant),
}

impl Life {
    fn new(sight: Sight, target: Target) -> Self {
        let environment = &sight.environment;
        let probes = target
            .probes
            .clone()
            .unwrap_or_else(|| Probe::of_role(target.role));
        let mut state = Published {
            role: target.role,
            probes: Vec::new(),
            trigger: Trigger::Initial,
            round: 0,
            started: environment.now(),
            passed_since: None,
            settled: false,
        };
        state.probes = Round::unanswered(environment, &probes);
        Self {
            published: watch::Sender::new(Arc::new(state.clone())),
            nudge: Arc::default(),
            sight,
            target,
            state,
            seen: None,
            memory: Memory::default(),
            engine_back: None,
            again: None,
        }
    }

    async fn run(&mut self) {
        let environment = self.sight.environment.clone();
        loop {
            self.round().await;
            let mut next = environment.now() + environment.jitter(self.target.interval);
            if let Some(again) = self.again.take() {
                next = next.min(again);
            }
            tokio::select! {
                () = environment.sleep_until(next) => {}
                () = self.nudge.notified() => {}
            }
            self.state.trigger = Trigger::Poll;
        }
    }

    /// One look, from the container to the first probe that does not pass.
    async fn round(&mut self) {
        let environment = self.sight.environment.clone();
        self.state.round += 1;
        self.state.started = environment.now();

        let inspected = self.inspect().await;
        let mut round = match inspected {
            Ok(Ok(container)) => {
                let role = self.role(&container);
                let probes = self.probes(role.clone().ok().flatten());
                let mut round = Round::new(&environment, &self.state.probes, probes);
                self.state.role = role.clone().ok().flatten();
                self.run_probes(&mut round, container, role.err()).await;
                round
            }
            // Nothing of the node can be looked at: the first probe says why.
            other => {
                let probes = self.probes(self.state.role);
                let mut round = Round::new(&environment, &self.state.probes, probes);
                match other {
                    Ok(Err(missing)) => {
                        round.settle(ProbeResult::Looked(missing), Detail::default(), ENGINE);
                    }
                    Err(CouldNotLook(reason)) => {
                        round.settle(ProbeResult::Unknown(reason), Detail::default(), "");
                    }
                    Ok(Ok(_)) => {}
                }
                round
            }
        };
        round.skip_rest();
        self.state.probes = round.reports;

        // A node without a probe would have proved nothing.
        let mut reports = self.state.probes.iter();
        let passed = reports.len() > 0 && reports.all(|report| report.result.is_passed());
        self.state.passed_since = match self.state.passed_since {
            Some(since) if passed => Some(since),
            _ => passed.then(|| environment.now()),
        };
        self.state.settled = true;
        self.publish();
    }

    /// The container, or what stands in its place.
    async fn inspect(&mut self) -> Result<Result<Container, Outcome>, CouldNotLook> {
        let Target { identity, node, .. } = &self.target;
        let by = self.sight.environment.now() + PROBE_LIMIT;
        let found = self.sight.container(identity, node, by).await;
        let now = self.sight.environment.now();
        self.engine_back = match (&found, self.engine_back) {
            (Err(_), _) => Some(EngineBack::NotYet),
            (Ok(_), Some(EngineBack::NotYet)) => Some(EngineBack::Since(now)),
            (Ok(_), kept) => kept,
        };
        let Some(container) = found? else {
            return Ok(Err(container::missing(node, self.seen.is_some())));
        };
        if self
            .seen
            .as_ref()
            .is_none_or(|seen| !seen.is_same_run(&container))
        {
            // Another container under the same name, or the same one started again: nothing of what
            // was before carries over.
            self.seen = Some(container.clone());
            self.memory = Memory::default();
            self.state.passed_since = None;
            self.state.probes.clear();
        }
        if let Some(waiting) = self.starts_again(&container, now) {
            return Ok(Err(waiting));
        }
        Ok(Ok(container))
    }

    /// What an ended container is while an engine that came back may still start it again.
    fn starts_again(&self, container: &Container, now: Instant) -> Option<Outcome> {
        let Some(EngineBack::Since(back)) = self.engine_back else {
            return None;
        };
        let ended = matches!(container.state, State::Exited { .. } | State::Dead);
        if !(ended && container.restarts && now < back + RETURN) {
            return None;
        }
        let outcome = container::judge(&self.target.node, container);
        let ended = outcome.reason().map_or("", Reason::as_str);
        Some(Outcome::failed(format!(
            "{ended}; the engine came back and may start it again"
        )))
    }

    fn role(&self, container: &Container) -> Result<Option<Role>, Outcome> {
        match self.target.role {
            Some(role) => Ok(Some(role)),
            None => self.sight.role(&self.target.node, container),
        }
    }

    fn probes(&self, role: Option<Role>) -> Vec<Probe> {
        self.target
            .probes
            .clone()
            .unwrap_or_else(|| Probe::of_role(role))
    }

    async fn run_probes(
        &mut self,
        round: &mut Round,
        container: Container,
        bad_role: Option<Outcome>,
    ) {
        let environment = self.sight.environment.clone();
        // The look borrows what it needs for as long as it lasts; this publishes besides.
        let sight = self.sight.clone();
        let Target { identity, node, .. } = self.target.clone();
        let probes = &round.probes;
        let depth = Depth::Wait;
        let mut look = sight.look(&identity, &node, container, probes, depth, bad_role);
        while let Some(probe) = round.next() {
            if round.awaits_first_answer() {
                self.state.probes = round.so_far();
                self.state.settled = false;
                self.state.passed_since = None;
                self.publish();
            }
            let start = environment.now();
            let behind = look.behind(&probe);
            let found = if let Some(kept) = self.memory.kept(probe.name(), behind.as_ref(), start) {
                Ok(kept)
            } else {
                let found = look.probe(&probe, start + PROBE_LIMIT).await;
                if let (Ok(found), Some(behind)) = (&found, behind) {
                    self.memory.keep(probe.name(), behind, found);
                }
                found
            };
            round.elapsed = environment.now() - start;
            self.take(round, &probe, found);
        }
        if round.has_passed() {
            self.close(round, &mut look).await;
        }
    }

    fn take(&mut self, round: &mut Round, probe: &Probe, found: Result<Found, CouldNotLook>) {
        match found {
            Err(CouldNotLook(reason)) => {
                round.settle(ProbeResult::Unknown(reason), Detail::default(), "");
            }
            Ok(Found {
                finding,
                via,
                span,
                unit,
            }) => {
                if self.memory.changed(probe.name(), unit.as_ref()) {
                    self.state.passed_since = None;
                }
                let weighed = self.memory.weigh(probe.name(), finding, span);
                self.again = earlier(self.again, weighed.again);
                round.settle(ProbeResult::Looked(weighed.outcome), weighed.detail, via);
            }
        }
    }

    /// Makes sure, at the end of a round in which everything passed, that what was seen first is
    /// still so: probes run one after the other, and a look that had to queue may take long.
    async fn close(&mut self, round: &mut Round, look: &mut Look<'_>) {
        let environment = self.sight.environment.clone();
        let by = environment.now() + PROBE_LIMIT;
        if look
            .asked()
            .is_some_and(|asked| environment.now() - asked > FRESH)
        {
            look.again();
            for (index, probe) in round.probes.clone().iter().enumerate() {
                if matches!(probe.means(), Ok(Means::Systemd | Means::Unit(_))) {
                    round.back_to(index);
                    let found = look.probe(probe, by).await;
                    self.take(round, probe, found);
                    if round.stopped {
                        return;
                    }
                    round.restore();
                }
            }
        }
        match look.holds(by).await {
            Ok(Ok(())) => {}
            Ok(Err(outcome)) => {
                round.back_to(0);
                round.settle(ProbeResult::Looked(outcome), Detail::default(), ENGINE);
            }
            Err(CouldNotLook(reason)) => {
                round.back_to(0);
                round.settle(ProbeResult::Unknown(reason), Detail::default(), "");
            }
        }
    }

    fn publish(&self) {
        self.published.send_replace(Arc::new(self.state.clone()));
    }
}

fn earlier(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}
