//! One node of a wait: what the wait itself has seen of it, and what its policy makes of the reports.

use std::sync::Arc;

use tokio::time::Instant;

use super::{
    diagnosis::Hint,
    wait::{NodeReport, NodeState},
};
use crate::{
    cluster::ListedNode,
    container::Run,
    node::NodeName,
    probe::{Evidence, Outcome, container, slurm_command::REFUSED},
    reason::{Reason, ReasonCode},
    report::{ProbeReport, ProbeResult},
    text::Line,
    watcher::{NodeStatus, SeenRun, Watcher},
};

/// A node of the wait.
pub(super) struct WaitNode {
    pub(super) node: NodeName,
    pub(super) watcher: Watcher,
    pub(super) newest: Arc<NodeStatus>,
    /// Since when it has passed for this wait, by its own looks: none that started before the wait did
    /// counts.
    pub(super) passed_since: Option<Instant>,
    /// While it has not been looked at to an end, when that is told.
    pub(super) unsettled_due: Option<Instant>,
    /// The node as the engine's list shows it, where that is told.
    pub(super) listed: Option<Arc<ListedNode>>,
    pub(super) told: Option<Arc<NodeReport>>,
    /// The moment for which another look has been asked.
    pub(super) refreshed_for: Option<Instant>,
    /// The run that this wait has seen alive.
    pub(super) run: Option<Run>,
    /// Why that is over for good, though the container runs again.
    pub(super) ended: Option<Reason>,
    /// Whether the node leaves when its container is removed, as one of a cluster does.
    pub(super) may_leave: bool,
    /// When its container was seen to have ended, as long as it may leave.
    pub(super) end_seen: Option<Instant>,
    /// Whether its container was still there later, so that the end counts.
    pub(super) end_stands: bool,
    /// What is wrong where its authentication is refused.
    pub(super) refusal: Refusal,
    /// How the wait's job went, on the node that it runs from.
    pub(super) job: Option<ProbeReport>,
}

impl WaitNode {
    pub(super) fn new(node: NodeName, watcher: Watcher) -> Self {
        let newest = watcher.status();
        Self {
            node,
            watcher,
            newest,
            passed_since: None,
            unsettled_due: None,
            listed: None,
            told: None,
            refreshed_for: None,
            run: None,
            ended: None,
            may_leave: false,
            end_seen: None,
            end_stands: false,
            refusal: Refusal::default(),
            job: None,
        }
    }

    /// Whether the last that was told of it is that it is ready.
    pub(super) fn is_told_ready(&self) -> bool {
        let told = self.told.as_ref();
        told.is_some_and(|told| told.state == NodeState::Ready)
    }

    /// Whether the container has ended, or is not there any more.
    pub(super) fn has_ended(&self) -> bool {
        let ended = [ReasonCode::ContainerEnded, ReasonCode::ContainerMissing];
        let mut codes = self
            .newest
            .probes
            .iter()
            .filter_map(|report| report.result.code());
        self.ended.is_some() || codes.any(|code| ended.contains(&code))
    }

    /// Holds the run that was seen last against the one that this wait has seen alive.
    ///
    /// A container that ends and is started again at once need not be found exited by any look, but
    /// its other start cannot be missed. Without a restart policy nothing but somebody's `docker
    /// restart`, or stop and start, does that, and what was waited for is over.
    pub(super) fn follow_run(&mut self, seen: Option<&SeenRun>, started: Instant) {
        let Some(seen) = seen.filter(|seen| seen.asked >= started) else {
            return;
        };
        let another = |run: &Run| run.id == seen.run.id && !run.is_same(&seen.run);
        if self.run.as_ref().is_some_and(another) && !seen.restarts {
            tracing::debug!(node = %self.node, "its run is over, and another has begun");
            self.ended = Some(container::started_again(&self.node));
        }
        if seen.is_alive {
            self.run = Some(seen.run.clone());
        }
    }
}

/// Whether the state is more than the news that something is being waited for: that it has passed
/// only counts once this wait has looked for itself.
pub(super) fn is_settled(newest: &NodeStatus, started: Instant) -> bool {
    let passed = || newest.probes.iter().all(|report| report.result.is_passed());
    newest.is_settled && (newest.started >= started || !passed())
}

/// Why a node's authentication is refused.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Nobody has looked into it, if it is.
    #[default]
    Unexplored,
    /// It was looked into, without a finding so far.
    Unexplained,
    Explained(Hint),
}

/// Whether the node's authentication is refused.
pub(super) fn is_refused(report: &ProbeReport) -> bool {
    report.result.code() == Some(ReasonCode::AuthFailed)
}

/// Says why it is.
pub(super) fn explain(probes: &mut Arc<[ProbeReport]>, hint: &Hint) {
    let mut explained = probes.to_vec();
    for report in explained.iter_mut().filter(|report| is_refused(report)) {
        if let ProbeResult::Looked(Outcome::Failed(why)) = &report.result {
            let why = why.as_str().trim_end_matches(REFUSED);
            let why = format!("{}; {why}", hint.text);
            report.result = ProbeResult::Looked(Outcome::failed(ReasonCode::AuthFailed, why));
            report.evidence.detail = hint.diagnosis.shown.clone();
        }
    }
    *probes = explained.into();
}

/// Makes failures of what is terminal.
pub(super) fn soften(probes: &mut Arc<[ProbeReport]>, reason: impl Fn(&Reason) -> Reason) {
    if !probes.iter().any(|report| report.result.is_terminal()) {
        return;
    }
    let mut softened = probes.to_vec();
    for report in &mut softened {
        if let ProbeResult::Looked(Outcome::Terminal(why)) = &report.result {
            report.result = ProbeResult::Looked(Outcome::Failed(reason(why)));
        }
    }
    *probes = softened.into();
}

/// Makes the reports those of a container that has ended.
pub(super) fn end(probes: &mut Arc<[ProbeReport]>, ended: &Reason) {
    let mut reports = probes.to_vec();
    let mut reports_in_order = reports.iter_mut();
    if let Some(first) = reports_in_order.next() {
        first.result = ProbeResult::Looked(Outcome::Terminal(ended.clone()));
        first.evidence = Evidence::default();
        let why = Line::new(format!("not looked at: {} has not passed", first.probe));
        for report in reports_in_order {
            report.result = ProbeResult::Skipped(why.clone());
            report.evidence = Evidence::default();
        }
    }
    *probes = reports.into();
}
