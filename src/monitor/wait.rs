//! A wait: the states of some nodes, and the one moment in which they are all ready.
//!
//! ```text
//! watcher ─┐
//! watcher ─┼─▶ driver: states, verdict, limit ─▶ watch channel, newest wins ─▶ Wait, a stream
//! watcher ─┘
//! ```
//!
//! Here are what is asked and told, and the stream; the driver is a task of its own (`driver.rs`),
//! so that a reader that is slow neither delays a verdict nor keeps watchers alive.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use futures_util::{Stream, StreamExt as _};
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;

use crate::{
    environment::Task,
    node::{NodeName, Role},
    probe::Probe,
    report::{ProbeReport, Trigger},
    text::Reason,
};

/// What to wait for.
#[derive(Debug, Clone, Default)]
pub struct WaitRequest {
    /// The nodes. Without any, the wait is never ready.
    pub nodes: Vec<WaitTarget>,
    /// The probes of every node, instead of its role's own; empty for the role's own. They run in
    /// the table's order, whatever theirs is.
    pub probes: Vec<Probe>,
    /// When to give up; never by default.
    pub limit: Option<Duration>,
    /// The delay between two looks at a node; zero, the default, means [`super::POLL_INTERVAL`].
    pub poll_interval: Duration,
    /// For how long every probe has to have stayed passed, from this wait's own first passing look.
    pub stable_for: Duration,
    /// What a terminal node does.
    pub failure_policy: FailurePolicy,
}

/// A node to wait for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitTarget {
    /// The container's name or id.
    pub node: NodeName,
    /// The node's role; its label's if this is none.
    pub role: Option<Role>,
}

/// What a terminal node does to a wait.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum FailurePolicy {
    /// The first one ends it.
    #[default]
    Stop,
    /// What would be terminal is a failure like others.
    KeepWaiting,
}

/// Where a node is on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeState {
    /// Not ready yet, for this reason.
    Waiting(Reason),
    /// Ready.
    Ready,
    /// It can no longer become ready, for this reason.
    Terminal(Reason),
}

/// The state of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeReport {
    /// The node, as the request named it.
    pub node: NodeName,
    /// Its role: as given, else its label's.
    pub role: Option<Role>,
    /// Where it is on its way.
    pub state: NodeState,
    /// Its probes, in the order in which they run.
    pub probes: Arc<[ProbeReport]>,
    /// What made readyd look.
    pub trigger: Trigger,
    /// What happened, where that was an event: the engine's word for it (`die`), or a unit's name.
    pub trigger_detail: Arc<str>,
    /// How many answers the engine and the node have given, to whoever follows the node.
    pub round: u64,
    /// When it was so.
    pub observed: SystemTime,
}

impl NodeReport {
    /// The probe that the state is about, which is the first that has not passed.
    #[must_use]
    pub fn failing(&self) -> Option<&ProbeReport> {
        self.probes.iter().find(|report| !report.result.is_passed())
    }

    /// Whether a client has to be told of the difference.
    pub(super) fn says_the_same(&self, other: &Self) -> bool {
        self.role == other.role
            && self.state == other.state
            && self.probes.len() == other.probes.len()
            && self
                .probes
                .iter()
                .zip(other.probes.iter())
                .all(|(a, b)| a.says_the_same(b))
    }
}

/// How a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// All nodes are ready.
    Ready,
    /// A node can no longer become ready.
    Terminal,
    /// The limit came first.
    TimedOut,
}

/// How a wait ended, and how everything was then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitResult {
    /// The verdict.
    pub verdict: Verdict,
    /// The node, the probe and its reason; empty when ready.
    pub message: String,
    /// The node that the message is about, by its place in the request.
    pub about: Option<usize>,
    /// How long the wait took.
    pub elapsed: Duration,
    /// The last state of each node, in the order of the request.
    pub nodes: Vec<Arc<NodeReport>>,
    /// When it was so.
    pub observed: SystemTime,
}

/// What a wait tells.
#[derive(Debug, Clone)]
pub enum WaitEvent {
    /// The state of a node: the first, or one that differs from the one told before.
    Node(Arc<NodeReport>),
    /// How the wait ended; always the last.
    Result(Arc<WaitResult>),
}

/// A wait under way, as a stream of [`WaitEvent`]. Dropping it ends it.
pub struct Wait {
    views: WatchStream<View>,
    view: View,
    told: Vec<Option<Arc<NodeReport>>>,
    /// Where the search for news goes on: every node has its turn before any has another.
    turn: usize,
    over: bool,
    _task: Task,
}

/// What the driver has left for the stream.
#[derive(Debug, Clone, Default)]
pub(super) struct View {
    pub(super) nodes: Vec<Option<Arc<NodeReport>>>,
    pub(super) result: Option<Arc<WaitResult>>,
}

impl Wait {
    /// The stream over what a driver leaves there; the task is the driver's.
    pub(super) fn new(views: watch::Receiver<View>, task: Task) -> Self {
        let view = views.borrow().clone();
        Self {
            told: vec![None; view.nodes.len()],
            views: WatchStream::from_changes(views),
            view,
            turn: 0,
            over: false,
            _task: task,
        }
    }

    /// The next event; `None` after the result.
    pub async fn next(&mut self) -> Option<WaitEvent> {
        futures_util::StreamExt::next(self).await
    }

    /// Waits for the result, whatever is told on the way; `None` only if it was told already.
    pub async fn result(mut self) -> Option<Arc<WaitResult>> {
        while let Some(event) = self.next().await {
            if let WaitEvent::Result(result) = event {
                return Some(result);
            }
        }
        None
    }

    /// What there is to tell of the newest view: states first, so that the result comes after the
    /// states that it was made from.
    fn news(&mut self) -> Option<WaitEvent> {
        let count = self.told.len();
        for index in (self.turn..count).chain(0..self.turn) {
            let Some(newest) = &self.view.nodes[index] else {
                continue;
            };
            let told = self.told[index].as_ref();
            if told.is_none_or(|told| !told.says_the_same(newest)) {
                self.turn = (index + 1) % count;
                self.told[index] = Some(Arc::clone(newest));
                return Some(WaitEvent::Node(Arc::clone(newest)));
            }
        }
        let result = self.view.result.clone()?;
        self.over = true;
        Some(WaitEvent::Result(result))
    }
}

impl Stream for Wait {
    type Item = WaitEvent;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<WaitEvent>> {
        if self.over {
            return Poll::Ready(None);
        }
        // The driver ends only with a result; without one, its runtime is shutting down.
        let mut gone = false;
        while !gone && let Poll::Ready(view) = self.views.poll_next_unpin(context) {
            match view {
                Some(view) => self.view = view,
                None => gone = true,
            }
        }
        match self.news() {
            Some(event) => Poll::Ready(Some(event)),
            None if gone => Poll::Ready(None),
            None => Poll::Pending,
        }
    }
}

impl std::fmt::Debug for Wait {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wait")
            .field("over", &self.over)
            .finish_non_exhaustive()
    }
}
