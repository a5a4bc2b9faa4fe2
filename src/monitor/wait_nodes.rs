//! The nodes of a wait, and what they come to together: the moment in which all are ready, the first
//! that is past help, and what there is to tell of each.
//!
//! A change of one node costs as much as one node, however many others there are.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use super::{
    wait::{FailurePolicy, NodeReport, NodeState, WaitRequest, reached},
    wait_node::{WaitNode, end, is_settled, soften},
};
use crate::{
    cluster::ListedNode,
    engine::seconds,
    environment::after,
    probe::{Level, Outcome, container},
    reason::{Reason, ReasonCode},
    report::ProbeReport,
    watcher::{Freshness, NodeStatus},
};

/// For how long a probe that has never answered may be asked before that is told: most answer
/// sooner, and their answer is worth more than the news that it is being waited for.
const UNANSWERED: Duration = Duration::from_secs(1);

/// The same for who only watches: a node that could not be looked at for so long counts as known.
const UNKNOWN: Duration = Duration::from_secs(5);

/// How much later a container of a cluster that has ended has to be there still: whoever takes a node away ends it
/// first.
const LEAVES: Duration = Duration::from_secs(1);

/// The nodes of a wait.
pub(super) struct WaitNodes {
    /// The nodes, each by its place, which stays its own when others leave.
    nodes: BTreeMap<usize, WaitNode>,
    next: usize,
    policy: FailurePolicy,
    stable_for: Duration,
    /// How far the nodes have to come; none where probes are named.
    level: Option<Level>,
    /// Whether the wait's job has succeeded.
    has_run: bool,
    /// Whether nobody waits for an end. Then a run that is over is none, either.
    is_endless: bool,
    started: Instant,
    /// The nodes that pass, by since when.
    passing: BTreeSet<(Instant, usize)>,
    terminal: BTreeSet<usize>,
    /// How many were told to be ready.
    ready: usize,
    /// The nodes of which it is open whether they leave, by when their containers were seen to have ended.
    ending: BTreeSet<(Instant, usize)>,
    /// The nodes of which there may be something to tell.
    untold: BTreeSet<usize>,
    /// The nodes that have not been looked at to an end, by when that is told.
    unsettled_due: BTreeSet<(Instant, usize)>,
    confirmation: Confirmation,
}

/// How far the confirmation of a moment is, in which all nodes passed.
#[derive(Default)]
struct Confirmation {
    moment: Option<Instant>,
    /// The nodes that have to be held against the moment.
    unchecked: BTreeSet<usize>,
    /// Those of which something else has to be seen first.
    open: BTreeSet<usize>,
}

impl WaitNodes {
    pub(super) fn new(nodes: Vec<WaitNode>, request: &WaitRequest, started: Instant) -> Self {
        let mut all = Self {
            nodes: BTreeMap::new(),
            next: 0,
            policy: request.failure_policy,
            stable_for: request.stable_for,
            level: request.probes.is_empty().then_some(request.level),
            has_run: false,
            is_endless: false,
            started,
            passing: BTreeSet::new(),
            terminal: BTreeSet::new(),
            ready: 0,
            ending: BTreeSet::new(),
            untold: BTreeSet::new(),
            unsettled_due: BTreeSet::new(),
            confirmation: Confirmation::default(),
        };
        for node in nodes {
            all.add(node, started);
        }
        all
    }

    /// The nodes of somebody who only watches.
    pub(super) fn endless(self) -> Self {
        Self {
            is_endless: true,
            ..self
        }
    }

    /// Takes how the engine's list shows a node.
    pub(super) fn set_listed(&mut self, index: usize, listed: Arc<ListedNode>) {
        if let Some(node) = self.nodes.get_mut(&index) {
            node.listed = Some(listed);
            if node.told.is_some() {
                self.untold.insert(index);
            }
        }
    }

    /// Takes how the wait's job went, on the node that it runs from.
    pub(super) fn set_job(&mut self, index: usize, job: Option<ProbeReport>) {
        if let Some(node) = self.nodes.get_mut(&index) {
            node.job = job;
            self.untold.insert(index);
        }
    }

    /// The wait's job has succeeded, and every node has come as far.
    pub(super) fn set_has_run(&mut self) {
        self.has_run = true;
        self.untold.extend(self.nodes.keys());
    }

    /// Takes another node, and returns its place.
    pub(super) fn add(&mut self, node: WaitNode, now: Instant) -> usize {
        let index = self.next;
        self.next += 1;
        let newest = Arc::clone(&node.newest);
        self.nodes.insert(index, node);
        self.note(index, newest, now);
        index
    }

    /// Lets a node go that is no longer one of the wait's.
    pub(super) fn remove(&mut self, index: usize) {
        let Some(node) = self.nodes.remove(&index) else {
            return;
        };
        self.ready -= usize::from(node.is_told_ready());
        if let Some(since) = node.passed_since {
            self.passing.remove(&(since, index));
        }
        if let Some(due) = node.unsettled_due {
            self.unsettled_due.remove(&(due, index));
        }
        if let Some(seen) = node.end_seen {
            self.ending.remove(&(seen, index));
        }
        self.terminal.remove(&index);
        self.untold.remove(&index);
        self.confirmation.unchecked.remove(&index);
        self.confirmation.open.remove(&index);
    }

    /// The nodes, with their places.
    pub(super) fn iter(&self) -> impl Iterator<Item = (usize, &WaitNode)> + Clone {
        self.nodes.iter().map(|(index, node)| (*index, node))
    }

    pub(super) fn get(&self, index: usize) -> Option<&WaitNode> {
        self.nodes.get(&index)
    }

    /// How many nodes were told to be ready.
    pub(super) fn ready(&self) -> usize {
        self.ready
    }

    /// Nobody needs the nodes any more.
    pub(super) fn clear(&mut self) {
        self.nodes.clear();
    }

    /// Takes a node's newest status.
    pub(super) fn note(&mut self, index: usize, newest: Arc<NodeStatus>, now: Instant) {
        let Some(node) = self.nodes.get_mut(&index) else {
            return;
        };
        if let Some(since) = node.passed_since {
            self.passing.remove(&(since, index));
        }
        node.passed_since = match newest.passed_since {
            Some(since) if newest.started >= self.started => {
                let first = node.passed_since.unwrap_or(newest.started);
                Some(first.max(since))
            }
            // It has passed all the time, as others have seen; this wait has not looked yet.
            Some(_) | None => None,
        };
        if let Some(since) = node.passed_since {
            self.passing.insert((since, index));
        }
        if self.policy == FailurePolicy::Stop && !self.is_endless {
            node.follow_run(newest.run.as_ref(), self.started);
        }
        node.newest = newest;
        self.note_end(index, now);
        self.settle(index, now);
        if self.confirmation.moment.is_some() {
            self.confirmation.unchecked.insert(index);
        }
    }

    /// Notes whether a node is past help, and since when its container has been seen to have ended.
    fn note_end(&mut self, index: usize, now: Instant) {
        let is_terminal = self.is_terminal(index);
        let Some(node) = self.nodes.get_mut(&index) else {
            return;
        };
        let has_ended = is_terminal && node.may_leave && node.has_ended();
        if has_ended && node.end_seen.is_none() {
            node.end_seen = Some(now);
            self.ending.insert((now, index));
        } else if !has_ended && let Some(seen) = node.end_seen.take() {
            self.ending.remove(&(seen, index));
            node.end_stands = false;
        }
        if is_terminal && (!has_ended || node.end_stands) {
            self.terminal.insert(index);
        } else {
            self.terminal.remove(&index);
        }
    }

    /// From when on it is settled whether a node whose container has ended leaves the cluster.
    pub(super) fn end_due(&self) -> Option<Instant> {
        self.ending.first().map(|(seen, _)| *seen + LEAVES)
    }

    /// Takes what a list shows that was asked for then: who is there, and not about to be removed, does not
    /// leave.
    pub(super) fn settle_ends(
        &mut self,
        asked: Instant,
        stays: impl Fn(usize) -> bool,
        now: Instant,
    ) {
        let due: Vec<_> = self
            .ending
            .iter()
            .take_while(|(seen, _)| *seen + LEAVES <= asked)
            .copied()
            .collect();
        for (seen, index) in due {
            if stays(index) {
                self.ending.remove(&(seen, index));
                if let Some(node) = self.nodes.get_mut(&index) {
                    node.end_stands = true;
                }
                self.note_end(index, now);
                self.untold.insert(index);
            }
        }
    }

    /// Notes whether there is something to tell of a node, or when there will be.
    fn settle(&mut self, index: usize, now: Instant) {
        let Some(node) = self.nodes.get_mut(&index) else {
            return;
        };
        if is_settled(&node.newest, self.started) {
            if let Some(due) = node.unsettled_due.take() {
                self.unsettled_due.remove(&(due, index));
            }
            self.untold.insert(index);
            return;
        }
        let unanswered = if self.is_endless { UNKNOWN } else { UNANSWERED };
        let due = *node.unsettled_due.get_or_insert(now + unanswered);
        if due <= now {
            self.untold.insert(index);
        } else {
            self.unsettled_due.insert((due, index));
        }
    }

    /// Takes the statuses as they are at this instant, also those whose news has not been waited for
    /// yet: what was drained before may be older.
    fn catch_up(&mut self, now: Instant) {
        let newer = |(index, node): (&usize, &WaitNode)| {
            let newest = node.watcher.status();
            (!Arc::ptr_eq(&newest, &node.newest)).then_some((*index, newest))
        };
        let newer: Vec<_> = self.nodes.iter().filter_map(newer).collect();
        for (index, newest) in newer {
            self.note(index, newest, now);
        }
    }

    /// The moment from which on every node has passed for as long as was asked, as far as the newest
    /// looks tell.
    pub(super) fn all_passed_from(&self) -> Option<Instant> {
        if self.passing.len() < self.nodes.len() {
            return None;
        }
        let (latest, _) = self.passing.last()?;
        Some(after(*latest, self.stable_for))
    }

    /// Whether every node is ready at this instant: each has been seen to pass at the moment from
    /// which on all have, by a look that started no earlier, or by the one look that made the moment;
    /// and nothing has happened since. The others are asked to be looked at once more, since a node
    /// that passed a poll interval ago need not pass now.
    pub(super) fn are_ready(&mut self, now: Instant) -> bool {
        loop {
            let Some(moment) = self.all_passed_from().filter(|moment| *moment <= now) else {
                return false;
            };
            self.check(moment);
            if !self.confirmation.open.is_empty() {
                return false;
            }
            self.catch_up(now);
            if self.all_passed_from() == Some(moment) && self.confirmation.unchecked.is_empty() {
                // The statuses of all are the newest, and have been held against the moment. What has
                // arrived at a node meanwhile is not in them.
                let current = |node: &WaitNode| node.watcher.is_current(&node.newest);
                let open = self.nodes.iter().filter(|(_, node)| !current(node));
                let open: BTreeSet<_> = open.map(|(index, _)| *index).collect();
                let ready = open.is_empty();
                self.confirmation.open = open;
                return ready;
            }
        }
    }

    /// Holds against the moment what has not been held against it.
    fn check(&mut self, moment: Instant) {
        let confirmation = &mut self.confirmation;
        if confirmation.moment != Some(moment) {
            confirmation.moment = Some(moment);
            confirmation.unchecked = self.nodes.keys().copied().collect();
            confirmation.open.clear();
        }
        for index in std::mem::take(&mut confirmation.unchecked) {
            let Some(node) = self.nodes.get_mut(&index) else {
                continue;
            };
            if confirms(node, moment, self.stable_for) {
                confirmation.open.remove(&index);
            } else {
                confirmation.open.insert(index);
            }
        }
    }

    /// The first node that can no longer become ready, as far as this wait has seen for itself.
    pub(super) fn first_terminal(&self) -> Option<usize> {
        self.terminal.first().copied()
    }

    fn is_terminal(&self, index: usize) -> bool {
        let Some(node) = self.nodes.get(&index) else {
            return false;
        };
        let newest = &node.newest;
        let counts = newest.is_settled && newest.freshness != Freshness::Stale;
        let own = counts && newest.started >= self.started;
        let mut probes = newest.probes.iter();
        let terminal = probes.any(|report| report.result.is_terminal());
        node.ended.is_some() || (own && !self.never_saw(newest) && terminal)
    }

    /// Whether there is no such container, and this wait has never seen one: others may have.
    fn never_saw(&self, newest: &NodeStatus) -> bool {
        newest.is_absent
            && newest
                .run
                .as_ref()
                .is_none_or(|seen| seen.asked < self.started)
    }

    /// When a probe that has never answered has to be told of.
    pub(super) fn unsettled_due(&self) -> Option<Instant> {
        self.unsettled_due.first().map(|(due, _)| *due)
    }

    /// The reports that differ from what was told of their nodes.
    pub(super) fn news(&mut self, now: Instant) -> Vec<(usize, Arc<NodeReport>)> {
        while let Some((due, index)) = self.unsettled_due.first().copied()
            && due <= now
        {
            self.unsettled_due.pop_first();
            self.untold.insert(index);
        }
        let untold = std::mem::take(&mut self.untold);
        self.tell(untold)
    }

    /// The reports of all nodes that differ from what was told, also of those that have not been looked
    /// at to an end.
    pub(super) fn last_news(&mut self) -> Vec<(usize, Arc<NodeReport>)> {
        self.tell(self.nodes.keys().copied().collect())
    }

    fn tell(&mut self, indices: BTreeSet<usize>) -> Vec<(usize, Arc<NodeReport>)> {
        let mut news = Vec::new();
        for index in indices {
            let Some(node) = self.nodes.get(&index) else {
                continue;
            };
            let report = self.report(node);
            let told = node.told.as_ref();
            if told.is_some_and(|told| told.says_the_same(&report)) {
                continue;
            }
            tracing::debug!(node = %report.node, state = ?report.state, "told");
            let report = Arc::new(report);
            if let Some(node) = self.nodes.get_mut(&index) {
                self.ready -= usize::from(node.is_told_ready());
                node.told = Some(Arc::clone(&report));
                self.ready += usize::from(node.is_told_ready());
            }
            news.push((index, report));
        }
        news
    }

    /// A node's report under this wait's policy.
    fn report(&self, node: &WaitNode) -> NodeReport {
        let newest = &node.newest;
        let mut probes = Arc::clone(&newest.probes);
        if self.policy == FailurePolicy::KeepWaiting {
            soften(&mut probes, Clone::clone);
        }
        if self.never_saw(newest)
            && let Outcome::Failed(missing) = container::missing(&node.node, false)
        {
            soften(&mut probes, |_| missing.clone());
        }
        if let Some(ended) = &node.ended {
            end(&mut probes, ended);
        }
        if node.end_seen.is_some() && !node.end_stands {
            // It may be about to leave.
            soften(&mut probes, Clone::clone);
        }
        if let Some(job) = &node.job {
            probes = probes.iter().chain([job]).cloned().collect();
        }
        let failing = probes.iter().find(|report| !report.result.is_passed());
        let state = match (failing, node.passed_since) {
            (Some(report), _) => NodeState::blocked_by(report),
            (None, Some(since)) if self.is_stable(newest, since) => NodeState::Ready,
            (None, None) => {
                // A wait that has only just begun has to look for itself: at the container first.
                let blocked_by = newest.blocked_by.as_ref();
                let probe = blocked_by.map_or("container", |blocked| blocked.probe.as_str());
                NodeState::Waiting(Reason::new(
                    ReasonCode::Confirming,
                    format!("every probe has passed, and {probe} is looked at once more"),
                ))
            }
            (None, _) => NodeState::Waiting(Reason::new(
                ReasonCode::Confirming,
                format!(
                    "every probe has passed, and has to stay so for {}",
                    seconds(self.stable_for)
                ),
            )),
        };
        NodeReport {
            node: node.node.clone(),
            role: newest.role,
            state,
            level: self
                .level
                .and_then(|level| reached(level, &probes, self.has_run)),
            listed: node.listed.clone(),
            probes,
            trigger: newest.prompt.trigger,
            trigger_detail: Arc::clone(&newest.prompt.detail),
            round: newest.round,
            observed: newest.observed,
        }
    }

    fn is_stable(&self, newest: &NodeStatus, since: Instant) -> bool {
        self.stable_for.is_zero() || newest.started >= after(since, self.stable_for)
    }
}

/// Whether a node has been seen to pass at the moment; if not, it is asked to be looked at.
fn confirms(node: &mut WaitNode, moment: Instant, stable_for: Duration) -> bool {
    let newest = &node.newest;
    let made_it = stable_for.is_zero() && newest.passed_since == Some(moment);
    if !node.watcher.is_current(newest) {
        // What comes of it is news.
        tracing::debug!(
            node = %node.node,
            freshness = ?newest.freshness,
            sequence = newest.sequence,
            "not confirmed: something has happened that its status does not include yet"
        );
        return false;
    }
    if made_it || newest.started >= moment {
        return true;
    }
    if node.refreshed_for != Some(moment) {
        tracing::debug!(node = %node.node, "not confirmed: it is looked at once more");
        node.refreshed_for = Some(moment);
        node.watcher.refresh();
    }
    false
}
