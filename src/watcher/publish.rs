//! What is told of a node: the newest status for each probe set, and what of it is news.
//!
//! The publisher alone decides what is news, and wakes only for news. Nothing is kept in the channel
//! that is not kept here: a status is made from the one before and an evaluation, and then sent.
//!
//! Each status has the number of the last inbox message that it was made with. A reader compares it
//! with the inbox, and so can tell whether anything has come since that is not in it.

use std::{sync::Arc, time::SystemTime};

use tokio::sync::watch;

use super::{
    evaluation::{Evaluation, Progress},
    prompt::Prompt,
    state::Facts,
    status::{NodeStatus, stamped},
};
use crate::report::{ProbeReport, Trigger};

/// Publishes the status of a node for one probe set.
#[derive(Debug)]
pub(super) struct StatusPublisher {
    status: Arc<NodeStatus>,
    channel: watch::Sender<Arc<NodeStatus>>,
}

impl StatusPublisher {
    pub(super) fn new(channel: watch::Sender<Arc<NodeStatus>>) -> Self {
        let status = Arc::clone(&channel.borrow());
        Self { status, channel }
    }

    /// Publishes what an evaluation comes to. True if the node is found otherwise than before.
    pub(super) fn publish(
        &mut self,
        evaluation: Evaluation,
        facts: Facts,
        observed: SystemTime,
    ) -> bool {
        let before = &*self.status;
        let settled_news;
        let (next, wakes) = match evaluation.progress {
            // Nothing is known yet, and nothing new.
            Progress::NotLooked => return false,
            // What was told stands until the confirmation is there, but for whether it counts.
            Progress::Confirming => {
                settled_news = false;
                let next = NodeStatus {
                    passed_since: evaluation.passed_since,
                    freshness: evaluation.freshness,
                    sequence: facts.sequence,
                    blocked_by: evaluation.blocked_by,
                    ..before.clone()
                };
                (next, false)
            }
            Progress::Open | Progress::Blocked | Progress::Passed => {
                let next = next_status(before, evaluation, facts, observed);
                let differs = !next.says_the_same(before);
                settled_news = next.is_settled && differs;
                let wakes = differs || acts_on(before, &next);
                (next, wakes)
            }
        };
        if wakes {
            tracing::debug!(
                round = next.round,
                settled = next.is_settled,
                passed = next.passed_since.is_some(),
                freshness = ?next.freshness,
                blocked_by = next.blocked_by.as_ref().map(|blocked| blocked.probe.as_str()),
                reason = next.blocked_by.as_ref().map(|blocked| blocked.reason.as_str()),
                "published"
            );
        }
        self.status = Arc::new(next);
        let status = Arc::clone(&self.status);
        self.channel.send_if_modified(|newest| {
            *newest = status;
            wakes
        });
        settled_news
    }
}

fn next_status(
    before: &NodeStatus,
    evaluation: Evaluation,
    facts: Facts,
    observed: SystemTime,
) -> NodeStatus {
    // What was reported of an earlier run says nothing about how long something has been so.
    let same_run = match &facts.run {
        Some(run) if evaluation.is_present => before.started >= run.since,
        _ => true,
    };
    let known: &[ProbeReport] = if same_run { &before.probes } else { &[] };
    // The first look goes on until there is a reply to everything.
    let prompt = if before.prompt.trigger == Trigger::Initial && !before.is_settled {
        Prompt::initial()
    } else {
        facts.prompt
    };
    NodeStatus {
        role: evaluation.kind.role,
        probes: stamped(evaluation.reports, known, observed).into(),
        prompt,
        round: facts.replies.max(1),
        started: evaluation.started,
        passed_since: evaluation.passed_since,
        is_settled: evaluation.progress != Progress::Open,
        freshness: evaluation.freshness,
        is_absent: evaluation.is_absent,
        run: facts.run,
        observed,
        sequence: facts.sequence,
        blocked_by: evaluation.blocked_by,
    }
}

/// Whether clients act on a status though it says the same: those that wait for the moment in which
/// all nodes are ready.
fn acts_on(before: &NodeStatus, next: &NodeStatus) -> bool {
    let passes = next.passed_since.is_some();
    let is_first = !before.is_settled && !next.is_settled && before.round == 0;
    let counts_again = next.freshness < before.freshness;
    let looked_again = passes && next.started > before.started;
    let caught_up = passes && next.sequence > before.sequence;
    is_first || counts_again || looked_again || caught_up
}
