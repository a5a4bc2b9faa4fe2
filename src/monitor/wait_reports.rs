//! What there is to tell of the nodes of a wait: the report of each under the wait's policy, if that is news.

use std::{collections::BTreeSet, sync::Arc};

use tokio::time::Instant;

use super::{
    wait::{FailurePolicy, NodeReport, NodeState, reached},
    wait_node::{Refusal, WaitNode, end, explain, soften},
    wait_nodes::WaitNodes,
};
use crate::{
    engine::seconds,
    environment::after,
    probe::{Outcome, container},
    reason::{Reason, ReasonCode},
    watcher::NodeStatus,
};

impl WaitNodes {
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
        if let Refusal::Explained(hint) = &node.refusal {
            explain(&mut probes, hint);
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
