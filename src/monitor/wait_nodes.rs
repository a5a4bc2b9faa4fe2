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
    diagnosis::Hint,
    wait::{FailurePolicy, WaitRequest},
    wait_node::{Refusal, WaitNode, is_refused, is_settled},
};
use crate::{
    cluster::ListedNode,
    environment::after,
    node::NodeName,
    probe::Level,
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
    pub(super) nodes: BTreeMap<usize, WaitNode>,
    next: usize,
    pub(super) policy: FailurePolicy,
    pub(super) stable_for: Duration,
    /// How far the nodes have to come; none where probes are named.
    pub(super) level: Option<Level>,
    /// Whether the wait's job has succeeded.
    pub(super) has_run: bool,
    /// Only what is seen from then on makes the nodes ready.
    not_before: Option<Instant>,
    /// Whether nobody waits for an end. Then a run that is over is none, either.
    is_endless: bool,
    started: Instant,
    /// The nodes that pass, by since when.
    passing: BTreeSet<(Instant, usize)>,
    terminal: BTreeSet<usize>,
    /// How many were told to be ready.
    pub(super) ready: usize,
    /// The nodes of which it is open whether they leave, by when their containers were seen to have ended.
    ending: BTreeSet<(Instant, usize)>,
    /// The nodes whose authentication is refused, and of which nobody has found out why.
    refused: BTreeSet<usize>,
    /// The nodes of which there may be something to tell.
    pub(super) untold: BTreeSet<usize>,
    /// The nodes that have not been looked at to an end, by when that is told.
    pub(super) unsettled_due: BTreeSet<(Instant, usize)>,
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
            not_before: None,
            is_endless: false,
            started,
            passing: BTreeSet::new(),
            terminal: BTreeSet::new(),
            ready: 0,
            ending: BTreeSet::new(),
            refused: BTreeSet::new(),
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

    /// Whether there is a node whose authentication is refused for a reason that nobody has looked into.
    pub(super) fn has_refused(&self) -> bool {
        !self.refused.is_empty()
    }

    /// The next such node, which is looked into now.
    pub(super) fn next_refused(&mut self) -> Option<(usize, NodeName)> {
        let index = self.refused.pop_first()?;
        let node = self.nodes.get_mut(&index)?;
        node.refusal = Refusal::Unexplained;
        Some((index, node.node.clone()))
    }

    /// Takes what was found out about a node, unless it is not so any more.
    pub(super) fn set_hint(&mut self, index: usize, hint: Hint) {
        if let Some(node) = self.nodes.get_mut(&index)
            && node.refusal == Refusal::Unexplained
        {
            node.refusal = Refusal::Explained(hint);
            self.untold.insert(index);
        }
    }

    /// The wait's job has succeeded then, and every node has come as far; or it has to run once more. What was
    /// seen before it ended does not count.
    pub(super) fn set_has_run(&mut self, ended: Option<Instant>) {
        self.has_run = ended.is_some();
        self.not_before = ended;
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
        self.refused.remove(&index);
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
        if !node.newest.probes.iter().any(is_refused) {
            node.refusal = Refusal::Unexplored;
            self.refused.remove(&index);
        } else if node.refusal == Refusal::Unexplored {
            self.refused.insert(index);
        }
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
        Some(after(*latest, self.stable_for)).max(self.not_before)
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
    pub(super) fn never_saw(&self, newest: &NodeStatus) -> bool {
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
