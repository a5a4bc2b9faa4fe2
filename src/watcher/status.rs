//! What is told of a node.

use std::{sync::Arc, time::SystemTime};

use tokio::time::Instant;

use super::{
    cached::Freshness,
    probe_set::ProbeSet,
    prompt::Prompt,
    report_builder::{EvaluatedProbe, ReportBuilder},
};
use crate::{
    container::Run,
    environment::Environment,
    node::Role,
    reason::{Reason, ReasonCode},
    report::{ProbeReport, ProbeResult},
};

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
    pub(crate) prompt: Prompt,
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
        let probes = ReportBuilder::unanswered(set.probes(set.part.into()));
        Self {
            role: set.part.role,
            blocked_by: blocked_by(&probes),
            probes: stamped(probes, &[], observed).into(),
            prompt: Prompt::initial(),
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
        let why = "readyd has stopped looking: a fault of its own";
        let reason = Reason::new(ReasonCode::NotAnsweredYet, why);
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
    pub(super) fn says_the_same(&self, other: &Self) -> bool {
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

/// The first probe that has not passed, and its reason.
pub(super) fn blocked_by(reports: &[EvaluatedProbe]) -> Option<BlockedBy> {
    let open = reports.iter().find(|report| !report.found.passes())?;
    Some(BlockedBy {
        probe: open.probe.clone(),
        reason: open.found.result.blocking()?,
    })
}

/// Reports with the time since when they have been so, as far as was seen.
pub(super) fn stamped(
    reports: Vec<EvaluatedProbe>,
    known: &[ProbeReport],
    now: SystemTime,
) -> Vec<ProbeReport> {
    let stamp = |report: EvaluatedProbe| {
        let before = known.iter().find(|before| before.probe == report.probe);
        let same = before.filter(|before| before.result.is_same_kind(&report.found.result));
        report.into_report(same.map_or(now, |before| before.since))
    };
    reports.into_iter().map(stamp).collect()
}
