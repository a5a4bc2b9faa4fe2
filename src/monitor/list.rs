//! The nodes that there are, a page at a time, and one look at each.

use std::sync::Arc;

use futures_util::{FutureExt as _, StreamExt as _, stream};
use tracing::Instrument as _;

use super::{
    CHECK_LIMIT, Monitor, MonitorError, NodeReport, NodeState, could_not_tell, wait::reached,
};
use crate::{
    cluster::{Discovery, ListedNode, NodeSelector, Position},
    engine::CALL_LIMIT,
    environment::after,
    node::{Identity, NodeKind, Part},
    probe::{Level, container},
    report::{ProbeReport, ProbeResult, Trigger},
    watcher::{Caller, EvaluatedProbe, Mode, OneShot, ProbeSet, unreached},
};

/// How many nodes are looked at at once.
const LOOKS: usize = 32;

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

    /// Looks at each of these nodes once, as [`Monitor::check`] looks, for this level. That one could not be
    /// looked at is in its report, too.
    pub async fn look_at(
        &self,
        identity: &Identity,
        nodes: &[ListedNode],
        level: Level,
    ) -> Vec<NodeReport> {
        // However many nodes there are, they are one caller's.
        let caller = Caller::new(identity, &self.context.environment);
        let looks = nodes
            .iter()
            .map(|node| self.look(&caller, node, level).boxed());
        let looks: Vec<_> = looks.collect();
        stream::iter(looks).buffered(LOOKS).collect().await
    }

    async fn look(&self, caller: &Caller, node: &ListedNode, level: Level) -> NodeReport {
        let environment = &self.context.environment;
        let name = &node.name;
        let set = ProbeSet::of_level(
            Part::default(),
            level,
            &self.context.settings.own,
            Mode::Check,
        );
        let by = after(environment.now(), CHECK_LIMIT);
        let looked = async {
            let (container, span) = self.container(caller, name, by).await?;
            let set = set.clone();
            let mut look = OneShot::new(&self.context, caller, name, container, span, set);
            let settled = look.settle(by).await;
            settled.map_err(|error| could_not_tell(name, "container", error.into()))
        };
        let looking = tracing::debug_span!("look", node = %name);
        let container = match looked.instrument(looking).await {
            Ok(evaluation) => return self.report_of(node, level, evaluation.reports),
            Err(MonitorError::CouldNotTell { source, .. } | MonitorError::NoList { source }) => {
                ProbeResult::Unknown(source.0)
            }
            Err(MonitorError::NodeNotFound { .. }) => {
                ProbeResult::Looked(container::missing(name, false))
            }
        };
        let kind = NodeKind {
            role: node.role,
            profile: node.profile.unwrap_or(self.context.settings.profile),
        };
        self.report_of(node, level, unreached(&set, kind, container))
    }

    fn report_of(
        &self,
        node: &ListedNode,
        level: Level,
        reports: Vec<EvaluatedProbe>,
    ) -> NodeReport {
        let reports = reports.into_iter().map(|report| self.dated(report));
        let probes: Arc<[ProbeReport]> = reports.collect();
        let failing = probes.iter().find(|report| !report.result.is_passed());
        NodeReport {
            node: node.name.clone(),
            role: node.role,
            state: failing.map_or(NodeState::Ready, NodeState::blocked_by),
            level: reached(level, &probes, false),
            listed: None,
            probes,
            trigger: Trigger::Initial,
            trigger_detail: Arc::from(""),
            round: 1,
            observed: self.context.environment.wall(),
        }
    }
}
