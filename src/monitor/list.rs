//! The nodes that there are, a page at a time, and one look at each.

use std::sync::Arc;

use super::{CHECK_LIMIT, Monitor, MonitorError, NodeReport, NodeState};
use crate::{
    cluster::{Discovery, ListedNode, NodeSelector, Position},
    engine::CALL_LIMIT,
    environment::after,
    node::{Identity, NodeKind, Part},
    probe::{Level, ProbeError, container},
    report::{ProbeReport, ProbeResult, Trigger},
    watcher::{Caller, EvaluatedProbe, Mode, OneShot, ProbeSet, unreached},
};

/// A page of nodes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct NodePage {
    /// The nodes, in their order.
    pub nodes: Vec<ListedNode>,
    /// Where the last of them stands; none if no node comes after it.
    pub next: Option<Position>,
}

impl Monitor {
    /// Lists nodes: so many of those that the selector means, from the first behind a position on.
    pub async fn list(
        &self,
        identity: &Identity,
        selector: &NodeSelector,
        behind: Option<&Position>,
        size: usize,
    ) -> Result<NodePage, MonitorError> {
        let context = &self.context;
        let by = after(context.environment.now(), CALL_LIMIT);
        let listed = context.engine.list(by).await;
        let listed = listed.map_err(|error| MonitorError::NoList {
            source: error.into(),
        })?;
        let mut nodes = Discovery::of(context).nodes(&listed, identity, selector);
        if let Some(behind) = behind {
            nodes.retain(|node| Position::of(node) > *behind);
        }
        let has_more = nodes.len() > size;
        nodes.truncate(size);
        let next = nodes.last().filter(|_| has_more).map(Position::of);
        Ok(NodePage { nodes, next })
    }

    /// Looks at a node of a list once, as [`Monitor::check`] looks, for this level. That it could not be
    /// looked at is in the report, too.
    pub async fn look(&self, identity: &Identity, node: &ListedNode, level: Level) -> NodeReport {
        let environment = &self.context.environment;
        let set = ProbeSet::of_level(Part::default(), level, Mode::Check);
        let name = &node.name;
        let caller = Caller::new(identity, environment);
        let by = after(environment.now(), CHECK_LIMIT);
        let kind = NodeKind {
            role: node.role,
            profile: node.profile.unwrap_or(self.context.profile),
        };
        let reports = match self.container(&caller, name, by).await {
            Ok((container, span)) => {
                let mut look =
                    OneShot::new(&self.context, &caller, name, container, span, set.clone());
                let mut evaluation = look.run(|| by).await;
                if let Some(at) = evaluation.confirm_at.filter(|at| *at < by) {
                    match look.look_again(at, || by).await {
                        Ok(again) => evaluation = again,
                        Err(error) => {
                            let ProbeError(why) = error.into();
                            let reports = unreached(&set, kind, ProbeResult::Unknown(why));
                            return self.report_of(node, level, reports);
                        }
                    }
                }
                evaluation.reports
            }
            Err(MonitorError::CouldNotTell { source, .. }) => {
                let ProbeError(why) = source;
                unreached(&set, kind, ProbeResult::Unknown(why))
            }
            Err(_) => {
                let missing = container::missing(name, false);
                unreached(&set, kind, ProbeResult::Looked(missing))
            }
        };
        self.report_of(node, level, reports)
    }

    fn report_of(
        &self,
        node: &ListedNode,
        level: Level,
        reports: Vec<EvaluatedProbe>,
    ) -> NodeReport {
        let observed = self.context.environment.wall();
        let reports = reports
            .into_iter()
            .map(|report| report.into_report(observed));
        let probes: Arc<[ProbeReport]> = reports.collect();
        let failing = probes.iter().find(|report| !report.result.is_passed());
        NodeReport {
            node: node.name.clone(),
            role: node.role,
            state: failing.map_or(NodeState::Ready, NodeState::blocked_by),
            level: level.reached(&probes),
            listed: None,
            probes,
            trigger: Trigger::Initial,
            trigger_detail: Arc::from(""),
            round: 1,
            observed,
        }
    }
}
