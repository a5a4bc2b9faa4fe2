//! A wait, which follows the states of some nodes until the moment in which all of them are ready.
//!
//! ```text
//! watcher ─┐
//! watcher ─┼─▶ driver: states, verdict, limit ─▶ outbox, newest wins ─▶ Wait, a stream
//! watcher ─┘
//! ```
//!
//! This file contains the request, the events and the stream. The driver is a task of its own
//! (`driver.rs`), so that a slow reader neither delays a verdict nor keeps watchers alive.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use futures_util::Stream;

use super::{
    causes::Cause,
    outbox::{self, Told},
};
use crate::{
    cluster::ListedNode,
    environment::Task,
    node::{NodeName, Part, Profile, Role},
    probe::{Level, Probe, Reached},
    reason::{Reason, ReasonCode},
    report::{ProbeReport, Trigger},
};

/// The request for a wait.
#[derive(Debug, Clone, Default)]
pub struct WaitRequest {
    /// The nodes to wait for. A wait without nodes is never ready.
    pub nodes: Vec<WaitTarget>,
    /// The probes of every node, instead of its role's own. If this is empty, each node has its
    /// role's own. The probes run in the order of the table, whatever their order here.
    pub probes: Vec<Probe>,
    /// The time limit of the wait; none by default.
    pub limit: Option<Duration>,
    /// The delay between two looks at a node; zero, the default, means [`super::POLL_INTERVAL`].
    pub poll_interval: Duration,
    /// How long every probe has to stay passed, from this wait's own first passing look.
    pub stable_for: Duration,
    /// The effect of a terminal node on the wait.
    pub failure_policy: FailurePolicy,
    /// How far the nodes have to come, where no probes are named.
    pub level: Level,
    /// The cluster whose nodes are waited for, in place of named ones.
    pub cluster: Option<ClusterTarget>,
}

/// A cluster to wait for: whatever nodes it has, and will have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClusterTarget {
    /// The realm, as the nodes' labels say it.
    pub realm: String,
    /// The cluster's name, in the same way.
    pub cluster: String,
    /// How many nodes there have to be at least; zero counts as one.
    pub min_nodes: u32,
}

impl std::fmt::Display for ClusterTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.realm, self.cluster)
    }
}

/// What a cluster wait has to say of its cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClusterReport {
    /// How many nodes there are, in whatever state their containers are.
    pub present: u32,
    /// How many of them are ready.
    pub ready: u32,
    /// How many there have to be at least.
    pub min_nodes: u32,
    /// Why the cluster itself keeps the wait from being over; none if its nodes alone decide.
    pub reason: Option<Reason>,
    /// When this was so.
    pub observed: SystemTime,
}

impl ClusterReport {
    pub(super) fn says_the_same(&self, other: &Self) -> bool {
        let says = |report: &Self| (report.present, report.ready, report.min_nodes);
        says(self) == says(other) && self.reason == other.reason
    }
}

/// A node to wait for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitTarget {
    /// The container's name or id.
    pub node: NodeName,
    /// The node's role; `None` means the role of its label.
    pub role: Option<Role>,
    /// The node's profile; `None` means the profile of its label, else the server's own.
    pub profile: Option<Profile>,
}

impl WaitTarget {
    pub(super) fn part(&self) -> Part {
        Part {
            role: self.role,
            profile: self.profile,
        }
    }
}

/// The effect of a terminal node on a wait.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum FailurePolicy {
    /// The first terminal node ends the wait.
    #[default]
    Stop,
    /// A terminal outcome counts as a failure like others.
    KeepWaiting,
}

/// The state of a node in a wait.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum NodeState {
    /// The node is not ready yet, for this reason.
    Waiting(Reason),
    /// The node is ready.
    Ready,
    /// The node can no longer become ready, for this reason.
    Terminal(Reason),
}

/// The report of a node: its state, and the probes behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct NodeReport {
    /// The node, as the request named it.
    pub node: NodeName,
    /// The node's role: the one in the request, else the one of its label.
    pub role: Option<Role>,
    /// The node's state.
    pub state: NodeState,
    /// The node's probes, in the order in which they run.
    pub probes: Arc<[ProbeReport]>,
    /// The reason why readyd looked at the node.
    pub trigger: Trigger,
    /// The event or signal behind the trigger, if there was one: the engine's word for it (`die`),
    /// or a unit's name.
    pub trigger_detail: Arc<str>,
    /// How many replies the engine and the node have given, counted for all waits that follow the
    /// node together.
    pub round: u64,
    /// The highest level that holds, never above the one that was asked for; none where probes are named.
    pub level: Option<Level>,
    /// The node as the engine's list shows it; in a watch alone.
    pub listed: Option<Arc<ListedNode>>,
    /// When readyd observed this.
    pub observed: SystemTime,
}

/// The highest level that holds by these reports, if this one was asked for. Whether the wait's job has run is
/// for the wait to say.
pub(super) fn reached(level: Level, probes: &[ProbeReport], has_run: bool) -> Option<Level> {
    let held = level.reached(&probes.iter().map(|report| Reached {
        probe: &report.probe,
        passed: report.result.is_passed(),
        is_up: report.evidence.is_up,
    }))?;
    let is_last = level == Level::Jobs && held == Level::Registered;
    Some(if is_last && has_run {
        Level::Jobs
    } else {
        held
    })
}

impl NodeState {
    /// The state of a node whose probe has not passed.
    pub(super) fn blocked_by(report: &ProbeReport) -> Self {
        let why = report.result.blocking();
        let (code, why) = why
            .as_ref()
            .map_or((ReasonCode::NotAnsweredYet, ""), |why| {
                (why.code(), why.as_str())
            });
        let reason = Reason::new(code, format!("{}: {why}", report.probe));
        if report.result.is_terminal() {
            Self::Terminal(reason)
        } else {
            Self::Waiting(reason)
        }
    }
}

impl NodeReport {
    /// Returns the probe that the state is about, which is the first that has not passed.
    #[must_use]
    pub fn failing(&self) -> Option<&ProbeReport> {
        self.probes.iter().find(|report| !report.result.is_passed())
    }

    /// Returns whether both reports say the same to a client, so that it needs no new one.
    pub(super) fn says_the_same(&self, other: &Self) -> bool {
        self.role == other.role
            && self.level == other.level
            && self.state == other.state
            && self.listed == other.listed
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
#[non_exhaustive]
pub enum Verdict {
    /// All nodes are ready.
    Ready,
    /// A node can no longer become ready.
    Terminal,
    /// The time limit ended the wait.
    TimedOut,
}

/// The result of a wait, with the last state of each node.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct WaitResult {
    /// The verdict.
    pub verdict: Verdict,
    /// The node, the probe and its reason; empty if the verdict is ready.
    pub message: String,
    /// The node that the message is about, by its place in the request.
    pub about: Option<usize>,
    /// How long the wait took.
    pub elapsed: Duration,
    /// The last state of each node, in the order of the request.
    pub nodes: Vec<Arc<NodeReport>>,
    /// Why it has not ended ready: the first cause first; 64 at most. Empty if the verdict is ready.
    pub causes: Vec<Cause>,
    /// When the wait ended.
    pub observed: SystemTime,
}

/// An event of a wait.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum WaitEvent {
    /// The first report of a node, or one that differs from the report before it.
    Node(Arc<NodeReport>),
    /// A node has left the cluster.
    Removed(NodeName),
    /// The first report of a cluster, or one that differs from the report before it.
    Cluster(Arc<ClusterReport>),
    /// The result of the wait, which is always the last event.
    Result(Arc<WaitResult>),
}

/// A wait in progress, as a stream of [`WaitEvent`]. Dropping the stream ends the wait.
pub struct Wait {
    told: outbox::Receiver,
    over: bool,
    _task: Task,
}

impl Wait {
    /// Creates the stream over what a driver leaves to tell. The task is the driver's.
    pub(super) fn new(told: outbox::Receiver, task: Task) -> Self {
        Self {
            told,
            over: false,
            _task: task,
        }
    }

    /// Returns the next event; `None` after the result.
    pub async fn next(&mut self) -> Option<WaitEvent> {
        futures_util::StreamExt::next(self).await
    }

    /// Waits for the result and skips all other events. Returns `None` if the stream has already
    /// returned the result, or if the async runtime is shutting down.
    pub async fn result(mut self) -> Option<Arc<WaitResult>> {
        while let Some(event) = self.next().await {
            if let WaitEvent::Result(result) = event {
                return Some(result);
            }
        }
        None
    }
}

impl Stream for Wait {
    type Item = WaitEvent;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<WaitEvent>> {
        if self.over {
            return Poll::Ready(None);
        }
        loop {
            let event = match std::task::ready!(self.told.poll_next(context)) {
                Some(Told::Node(report)) => WaitEvent::Node(report),
                Some(Told::Removed(node)) => WaitEvent::Removed(node),
                Some(Told::Cluster(report)) => WaitEvent::Cluster(report),
                // A wait is over when it is.
                Some(Told::Synced) => continue,
                Some(Told::Result(result)) => {
                    self.over = true;
                    WaitEvent::Result(result)
                }
                // The driver ends only with a result: the async runtime is shutting down.
                None => {
                    self.over = true;
                    return Poll::Ready(None);
                }
            };
            return Poll::Ready(Some(event));
        }
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        if !self.over {
            tracing::debug!(
                nodes = self.told.nodes(),
                "the client of a wait has gone before its result"
            );
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
