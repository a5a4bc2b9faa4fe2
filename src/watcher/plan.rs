//! What the clients of one node want to know, and what they are told: clients who want the same share
//! one state.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use tokio::{sync::watch, time::Instant};

use super::round::Round;
use crate::{
    environment::Environment,
    event::Doubts,
    node::Role,
    probe::{Probe, ProbeKey},
    report::{ProbeReport, ProbeResult, Trigger},
    runtime::{Container, Run, State},
    text::Reason,
};

/// What a client wants to know of a node.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    /// The role, if the client gave one.
    pub(crate) role: Option<Role>,
    /// The probes, if they are not the role's own.
    pub(crate) probes: Option<Vec<Probe>>,
}

impl Wanted {
    /// The probes to run on a node of that role.
    pub(super) fn probes(&self, role: Option<Role>) -> Vec<Probe> {
        let own = || Probe::of_role(role);
        self.probes.clone().unwrap_or_else(own)
    }

    fn is_same(&self, other: &Self) -> bool {
        let keys = |wanted: &Self| -> Option<Vec<ProbeKey>> {
            let probes = wanted.probes.as_ref()?;
            Some(probes.iter().map(Probe::key).collect())
        };
        self.role == other.role && keys(self) == keys(other)
    }
}

/// The run of a node's container that was last seen.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) run: Run,
    /// Whether its processes are there: it runs, or is paused.
    pub(crate) is_alive: bool,
    /// Whether it has a restart policy.
    pub(crate) restarts: bool,
    /// When it was asked for.
    pub(crate) at: Instant,
}

impl Seen {
    pub(super) fn new(container: &Container, at: Instant) -> Self {
        Self {
            run: container.run(),
            is_alive: matches!(container.state, State::Running | State::Paused),
            restarts: container.restarts,
            at,
        }
    }
}

/// The newest state of a node, for who wants to know that much.
#[allow(
    clippy::struct_excessive_bools,
    reason = "each says something of its own"
)]
#[derive(Debug, Clone)]
pub(crate) struct Published {
    pub(crate) role: Option<Role>,
    pub(crate) probes: Arc<[ProbeReport]>,
    pub(crate) trigger: Trigger,
    /// What happened, where something did: the engine's word, or a unit's name.
    pub(crate) detail: Arc<str>,
    pub(crate) round: u64,
    /// No part of this was asked for earlier than then, but a banner that still counts.
    pub(crate) started: Instant,
    /// Since when every probe has been found passed, and nothing has happened that may have undone
    /// one: the end of the first such look.
    pub(crate) passed_since: Option<Instant>,
    /// Whether there is an answer to everything that was asked.
    pub(crate) settled: bool,
    /// Whether something has happened that is not in here yet.
    pub(crate) doubtful: bool,
    /// Whether something has happened since the answers came that this was made of.
    pub(crate) stale: bool,
    /// Whether there is no such container.
    pub(crate) absent: bool,
    /// The container as it was last seen.
    pub(crate) seen: Option<Seen>,
    /// When it was so.
    pub(crate) observed: SystemTime,
}

impl Published {
    /// What is left of this when nobody follows the node any more.
    fn abandoned(&self) -> Self {
        let mut left = self.clone();
        left.passed_since = None;
        left.settled = true;
        let reason = Reason::new("readyd has stopped looking: a fault of its own");
        let mut probes = left.probes.to_vec();
        let open = probes.iter().position(|report| !report.result.is_passed());
        let open = open.or(probes.len().checked_sub(1));
        if let Some(report) = open.and_then(|index| probes.get_mut(index)) {
            report.result = ProbeResult::Unknown(reason);
        }
        left.probes = probes.into();
        left
    }

    /// Whether who follows this has to act on the difference.
    pub(super) fn says_the_same(&self, other: &Self) -> bool {
        let says = |published: &Self| {
            (
                published.role,
                published.passed_since,
                published.settled,
                published.absent,
            )
        };
        says(self) == says(other)
            && self.probes.len() == other.probes.len()
            && self
                .probes
                .iter()
                .zip(other.probes.iter())
                .all(|(a, b)| a.says_the_same(b))
    }
}

/// What clients want who want the same.
pub(super) struct Plan {
    pub(super) wanted: Wanted,
    pub(super) published: watch::Sender<Arc<Published>>,
    /// How many clients poll at which interval.
    intervals: Mutex<BTreeMap<Duration, usize>>,
}

/// All that is wanted of one node.
pub(super) struct Desk {
    pub(super) doubts: Arc<Doubts>,
    plans: Mutex<Vec<Arc<Plan>>>,
}

/// A client's place at the desk, given back when this is dropped.
pub(crate) struct Place {
    desk: Arc<Desk>,
    plan: Arc<Plan>,
    interval: Duration,
}

impl Desk {
    pub(super) fn new() -> Self {
        Self {
            doubts: Arc::default(),
            plans: Mutex::default(),
        }
    }

    /// Takes a client in. Everything is looked at once more for it, since what was seen before it
    /// came does not count for it.
    pub(super) fn join(
        self: &Arc<Self>,
        wanted: Wanted,
        interval: Duration,
        environment: &Environment,
    ) -> Place {
        let mut plans = self.plans();
        let plan = if let Some(plan) = plans.iter().find(|plan| plan.wanted.is_same(&wanted)) {
            Arc::clone(plan)
        } else {
            let plan = Arc::new(Plan::new(wanted, environment));
            plans.push(Arc::clone(&plan));
            plan
        };
        *plan.intervals().entry(interval).or_default() += 1;
        self.doubts.clients();
        self.doubts.ask();
        Place {
            desk: Arc::clone(self),
            plan,
            interval,
        }
    }

    /// Nobody looks any more.
    pub(super) fn abandon(&self) {
        for plan in self.plans().iter() {
            let left = plan.published.borrow().abandoned();
            plan.published.send_replace(Arc::new(left));
        }
    }

    pub(super) fn all(&self) -> Vec<Arc<Plan>> {
        self.plans().clone()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.plans().is_empty()
    }

    fn plans(&self) -> MutexGuard<'_, Vec<Arc<Plan>>> {
        // A std lock: it is never held across an await.
        self.plans.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// The newest state, and each that follows.
    pub(super) fn published(&self) -> watch::Receiver<Arc<Published>> {
        self.plan.published.subscribe()
    }

    pub(super) fn doubts(&self) -> &Doubts {
        &self.desk.doubts
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut plans = self.desk.plans();
        let mut intervals = self.plan.intervals();
        if let Some(count) = intervals.get_mut(&self.interval) {
            *count -= 1;
            if *count == 0 {
                intervals.remove(&self.interval);
            }
        }
        if intervals.is_empty() {
            plans.retain(|plan| !Arc::ptr_eq(plan, &self.plan));
        }
        drop(intervals);
        drop(plans);
        self.desk.doubts.clients();
    }
}

impl Plan {
    fn new(wanted: Wanted, environment: &Environment) -> Self {
        let probes = wanted.probes(wanted.role);
        let unanswered = Published {
            role: wanted.role,
            probes: Round::unanswered(environment, &probes).into(),
            trigger: Trigger::Initial,
            detail: Arc::from(""),
            round: 0,
            started: environment.now(),
            passed_since: None,
            settled: false,
            doubtful: false,
            stale: false,
            absent: false,
            seen: None,
            observed: environment.wall(),
        };
        Self {
            wanted,
            published: watch::Sender::new(Arc::new(unanswered)),
            intervals: Mutex::default(),
        }
    }

    /// The shortest interval that a client polls at.
    pub(super) fn interval(&self) -> Option<Duration> {
        self.intervals().keys().next().copied()
    }

    fn intervals(&self) -> MutexGuard<'_, BTreeMap<Duration, usize>> {
        self.intervals
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
