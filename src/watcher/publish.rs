//! What is told of a node: the newest status for each probe set, and what of it is news.
//!
//! The publisher alone decides what is news, and wakes only for news. Nothing is kept in the channel
//! that is not kept here: a status is made from the one before and an evaluation, and then sent.
//!
//! Each status has the number of the last inbox message that it was made with. A reader compares it
//! with the inbox, and so can tell whether anything has come since that is not in it.

use std::{sync::Arc, time::SystemTime};

use tokio::{sync::watch, time::Instant};

use super::{
    cached::Freshness,
    clients::ProbeSet,
    evaluate::{Evaluation, Progress},
    report_builder::{EvaluatedProbe, ReportBuilder},
    state::Facts,
};
use crate::{
    container::Run,
    environment::Environment,
    node::Role,
    report::{ProbeReport, ProbeResult, Trigger},
    text::Reason,
};

/// What made readyd look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cause {
    pub(crate) trigger: Trigger,
    /// What happened, where something did: the engine's word, or a unit's name.
    pub(crate) detail: Arc<str>,
}

impl Cause {
    pub(super) fn initial() -> Self {
        Self::without_detail(Trigger::Initial)
    }

    pub(super) fn poll() -> Self {
        Self::without_detail(Trigger::Poll)
    }

    fn without_detail(trigger: Trigger) -> Self {
        let detail = Arc::from("");
        Self { trigger, detail }
    }
}

/// The run of a node's container that was seen last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SeenRun {
    pub(crate) run: Run,
    /// Whether its processes are there: it runs, or is paused.
    pub(crate) is_alive: bool,
    /// Whether it has a restart policy.
    pub(crate) restarts: bool,
    /// When it was asked for.
    pub(crate) asked: Instant,
    /// Since when it has been this run.
    pub(crate) since: Instant,
}

/// The probe that keeps a node from being ready, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BlockedBy {
    pub(crate) probe: String,
    pub(crate) reason: Reason,
}

/// The newest state of a node, for clients that want one probe set.
#[derive(Debug, Clone)]
pub(crate) struct NodeStatus {
    pub(crate) role: Option<Role>,
    pub(crate) probes: Arc<[ProbeReport]>,
    pub(crate) cause: Cause,
    /// How many replies the engine and the node have given.
    pub(crate) round: u64,
    /// No part of this was asked for earlier than then, but a banner that still stands.
    pub(crate) started: Instant,
    /// Since when every probe has been found passed, and nothing has happened that may have undone
    /// one: the end of the first such look.
    pub(crate) passed_since: Option<Instant>,
    /// Whether there is a reply to everything that was asked.
    pub(crate) is_settled: bool,
    /// Whether the replies that this was made of still count.
    pub(crate) freshness: Freshness,
    /// Whether there is no such container.
    pub(crate) is_absent: bool,
    /// The container's run that was seen last.
    pub(crate) run: Option<SeenRun>,
    /// When it was so.
    pub(crate) observed: SystemTime,
    /// The number of the last inbox message that was known when this was made.
    pub(crate) sequence: u64,
    /// What keeps the node from being ready, also while all probes have passed and are confirmed.
    pub(crate) blocked_by: Option<BlockedBy>,
}

impl NodeStatus {
    /// The status of a node that has not been looked at.
    pub(super) fn unanswered(set: &ProbeSet, environment: &Environment) -> Self {
        let observed = environment.wall();
        let probes = ReportBuilder::unanswered(set.probes(set.role));
        Self {
            role: set.role,
            blocked_by: blocked_by(&probes),
            probes: stamped(probes, &[], observed).into(),
            cause: Cause::initial(),
            round: 0,
            started: environment.now(),
            passed_since: None,
            is_settled: false,
            freshness: Freshness::Valid,
            is_absent: false,
            run: None,
            observed,
            sequence: 0,
        }
    }

    /// What is left of this when the node's actor has gone wrong.
    pub(super) fn abandoned(&self) -> Self {
        let reason = Reason::new("readyd has stopped looking: a fault of its own");
        let mut probes = self.probes.to_vec();
        let open = probes.iter().position(|report| !report.result.is_passed());
        let open = open.or(probes.len().checked_sub(1));
        if let Some(report) = open.and_then(|index| probes.get_mut(index)) {
            report.result = ProbeResult::Unknown(reason);
        }
        Self {
            probes: probes.into(),
            passed_since: None,
            is_settled: true,
            ..self.clone()
        }
    }

    /// Whether a client need not act on the difference.
    fn says_the_same(&self, other: &Self) -> bool {
        let say = |status: &Self| {
            (
                status.role,
                status.passed_since,
                status.is_settled,
                status.is_absent,
            )
        };
        let mut reports = self.probes.iter().zip(other.probes.iter());
        say(self) == say(other)
            && self.probes.len() == other.probes.len()
            && reports.all(|(a, b)| a.says_the_same(b))
    }
}

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
    let cause = if before.cause.trigger == Trigger::Initial && !before.is_settled {
        Cause::initial()
    } else {
        facts.cause
    };
    NodeStatus {
        role: evaluation.role,
        probes: stamped(evaluation.reports, known, observed).into(),
        cause,
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

/// The first probe that has not passed, and its reason.
pub(super) fn blocked_by(reports: &[EvaluatedProbe]) -> Option<BlockedBy> {
    let open = reports.iter().find(|report| !report.result.is_passed())?;
    Some(BlockedBy {
        probe: open.probe.clone(),
        reason: open.result.reason()?.clone(),
    })
}

/// Reports with the time since when they have been so, as far as was seen.
fn stamped(
    reports: Vec<EvaluatedProbe>,
    known: &[ProbeReport],
    now: SystemTime,
) -> Vec<ProbeReport> {
    let stamp = |report: EvaluatedProbe| {
        let before = known.iter().find(|before| before.probe == report.probe);
        let same = before.filter(|before| before.result.is_same_kind(&report.result));
        report.into_report(same.map_or(now, |before| before.since))
    };
    reports.into_iter().map(stamp).collect()
}
