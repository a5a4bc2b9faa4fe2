//! Watching nodes without an end: their states now, and each change.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::Stream;
use tracing::Instrument as _;

use super::{
    Monitor,
    driver::Driver,
    outbox::{self, Told},
    wait::NodeReport,
};
use crate::{
    cluster::{ListedNode, NodeSelector},
    environment::Task,
    node::{Identity, NodeName},
    probe::Level,
};

/// An event of a watch.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum WatchEvent {
    /// The first state of a node, or one that differs from the state before it.
    Node {
        /// The node, as the engine's list shows it.
        node: Arc<ListedNode>,
        /// Its report.
        report: Arc<NodeReport>,
    },
    /// A node is no longer there.
    Removed(NodeName),
    /// Every node that was there when the watch began has been told of. It comes once.
    Synced,
}

/// A watch in progress, as a stream of [`WatchEvent`]. It does not end by itself; dropping it ends it.
pub struct Watch {
    told: outbox::Receiver,
    _task: Task,
}

impl Monitor {
    /// Watches the nodes that a selector means, those included that are still to come: their states, for this
    /// level, and each change. Whoever is slow misses states, never the last.
    ///
    /// A node whose container ends is terminal if the container is still there 1 s later. An engine that cannot
    /// be reached ends no watch.
    #[must_use]
    pub fn watch(&self, identity: &Identity, selector: NodeSelector, level: Level) -> Watch {
        let environment = self.environment().clone();
        let (mut driver, told) = Driver::watching(
            &self.watchers,
            &self.directory,
            environment.clone(),
            identity,
            selector,
            level,
        );
        let id = environment.seed() >> 32;
        let span = tracing::debug_span!("watch", id = format_args!("{id:08x}"));
        let run = async move { driver.run().await };
        let task = environment.spawn(run.instrument(span));
        Watch { told, _task: task }
    }
}

impl Watch {
    /// Returns the next event; `None` if the async runtime is shutting down.
    pub async fn next(&mut self) -> Option<WatchEvent> {
        futures_util::StreamExt::next(self).await
    }
}

impl Stream for Watch {
    type Item = WatchEvent;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<WatchEvent>> {
        loop {
            let event = match std::task::ready!(self.told.poll_next(context)) {
                Some(Told::Node(report)) => {
                    // Each node of a watch is one of a list.
                    let Some(node) = report.listed.clone() else {
                        continue;
                    };
                    WatchEvent::Node { node, report }
                }
                Some(Told::Removed(node)) => WatchEvent::Removed(node),
                Some(Told::Synced) => WatchEvent::Synced,
                Some(Told::Cluster(_) | Told::Result(_)) => continue,
                None => return Poll::Ready(None),
            };
            return Poll::Ready(Some(event));
        }
    }
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").finish_non_exhaustive()
    }
}
