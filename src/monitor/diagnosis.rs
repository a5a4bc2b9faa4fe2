//! Why a node's authentication is refused: found out beside the wait, once for each node of which that is so.

use std::{sync::Arc, time::Duration};

use futures_util::future::BoxFuture;

use super::{wait_node::WaitNode, wait_nodes::WaitNodes};
use crate::{
    node::Role,
    probe::credential::Diagnosis,
    report::ProbeReport,
    watcher::{Caller, Context, compare_credentials},
};

/// How long it may take to find out.
const LIMIT: Duration = Duration::from_secs(5);

/// What is wrong between a node and another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hint {
    /// What is wrong, in a line.
    pub(super) text: String,
    /// What shows it.
    pub(super) diagnosis: Diagnosis,
}

/// The place of a node, and what was found.
pub(super) type Found = (usize, Option<Hint>);

/// Finds out about one node after another.
pub(super) struct Diagnoses {
    context: Arc<Context>,
    caller: Caller,
    running: Option<BoxFuture<'static, Found>>,
}

impl Diagnoses {
    pub(super) fn new(context: Arc<Context>, caller: Caller) -> Self {
        Self {
            context,
            caller,
            running: None,
        }
    }

    /// Starts with the next node, if there is one and a controller whose munged runs.
    pub(super) fn start(&mut self, nodes: &mut WaitNodes) {
        if self.running.is_some() || !nodes.has_refused() {
            return;
        }
        let has_munge = |probes: &[ProbeReport]| {
            let mut probes = probes.iter();
            probes.any(|report| report.probe == "munge" && report.result.is_passed())
        };
        let can_tell = |node: &&WaitNode| {
            node.newest.role == Some(Role::Controller) && has_munge(&node.newest.probes)
        };
        let other = nodes.iter().map(|(_, node)| node).find(can_tell);
        let Some(to) = other.map(|node| node.node.clone()) else {
            return;
        };
        let Some((place, from)) = nodes.next_refused() else {
            return;
        };
        let by = self.context.environment.now() + LIMIT;
        let (context, caller) = (Arc::clone(&self.context), self.caller.clone());
        self.running = Some(Box::pin(async move {
            let found = compare_credentials(context, caller, from, to.clone(), by).await;
            let hint = |diagnosis: Diagnosis| Hint {
                text: diagnosis.with(to.as_str()),
                diagnosis,
            };
            (place, found.map(hint))
        }));
    }

    /// Completes once something was found out; never, if nothing is being looked into.
    pub(super) async fn found(&mut self) -> Found {
        let Some(running) = &mut self.running else {
            return std::future::pending().await;
        };
        let found = running.await;
        self.running = None;
        found
    }
}
