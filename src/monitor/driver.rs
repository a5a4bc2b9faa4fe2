//! What drives a wait: the states of its nodes under its policy, and the one moment in which all of
//! them are ready.
//!
//! READY needs more than that every node passed when it was looked at last, which may have been a
//! poll interval ago for one and just now for another:
//!
//! ```text
//! a   ──passes────────────────────?──  looked at once more, at T or later
//! b   ───────────fails──passes at T──  the look that made the moment
//! ```

use std::{sync::Arc, time::Duration};

use futures_util::{
    FutureExt as _, StreamExt as _,
    future::BoxFuture,
    stream::{BoxStream, FuturesUnordered},
};
use tokio::{sync::watch, time::Instant};

use super::{
    POLL_INTERVAL,
    outbox::{self, outbox},
    wait::{FailurePolicy, NodeState, Verdict, WaitRequest, WaitResult, WaitTarget},
    wait_node::WaitNode,
    wait_nodes::WaitNodes,
};
use crate::{
    engine::seconds,
    environment::{Environment, after},
    event::{ContainerEvent, NodeIndex},
    node::Identity,
    watcher::{Caller, Mode, NodeStatus, ProbeSet, Watchers},
};

/// What somebody else than the engine tells of containers.
pub(super) type Events = BoxStream<'static, ContainerEvent>;

/// One wait under way.
pub(super) struct Driver {
    environment: Environment,
    request: WaitRequest,
    started: Instant,
    deadline: Option<Instant>,
    nodes: WaitNodes,
    events: Events,
    /// The places of the nodes, for events.
    places: NodeIndex<usize>,
    outbox: outbox::Sender,
}

/// A node's newest state.
type Change = BoxFuture<'static, (usize, watch::Receiver<Arc<NodeStatus>>)>;

impl Driver {
    /// A driver, and where it leaves what there is to tell.
    pub(super) fn new(
        watchers: &Watchers,
        environment: Environment,
        identity: &Identity,
        request: WaitRequest,
        events: Events,
    ) -> (Self, outbox::Receiver) {
        let (outbox, told) = outbox(request.nodes.len());
        let started = environment.now();
        let interval = match request.poll_interval {
            Duration::ZERO => POLL_INTERVAL,
            interval => interval,
        };
        let caller = Caller::new(identity, &environment);
        let follow = |target: &WaitTarget| {
            let probes = if request.probes.is_empty() {
                ProbeSet::of_level(target.part(), request.level, Mode::Wait)
            } else {
                ProbeSet::wait(target.part(), request.probes.clone())
            };
            let watcher = watchers.follow(&caller, &target.node, probes, interval);
            WaitNode::new(target.node.clone(), watcher)
        };
        let nodes = request.nodes.iter().map(follow).collect();
        let mut places = NodeIndex::default();
        for (place, target) in request.nodes.iter().enumerate() {
            places.insert(target.node.clone(), place);
        }
        let driver = Self {
            nodes: WaitNodes::new(nodes, &request, started),
            deadline: request.limit.map(|limit| after(started, limit)),
            environment,
            request,
            started,
            events,
            places,
            outbox,
        };
        (driver, told)
    }

    pub(super) async fn run(&mut self) {
        tracing::debug!(
            limit = ?self.request.limit,
            stable_for = ?self.request.stable_for,
            policy = ?self.request.failure_policy,
            "the wait begins"
        );
        let nodes = self.nodes.as_slice().iter();
        let receivers = nodes.map(|node| node.watcher.statuses());
        let mut changes: FuturesUnordered<Change> = receivers.enumerate().map(change).collect();
        loop {
            let now = self.environment.now();
            let next = match self.verdict(now) {
                Decision::Over(verdict) => return self.end(verdict, now),
                Decision::Next(next) => next,
            };
            let news = self.nodes.news(now);
            if !news.is_empty() {
                self.outbox.put(news);
            }
            let wake = [next, self.deadline, self.nodes.unsettled_due()]
                .into_iter()
                .flatten()
                .min();
            let wake = async {
                match wake {
                    Some(at) => self.environment.sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                Some(news) = changes.next() => self.take(news, &mut changes),
                // Once they have ended, nothing is told: then nodes are only polled.
                Some(event) = self.events.next() => {
                    for place in self.places.about(&event) {
                        self.nodes.as_slice()[*place].watcher.take(&event);
                    }
                }
                () = wake => {}
            }
            // Whatever else has changed by now belongs to the same moment.
            while let Some(Some(news)) = changes.next().now_or_never() {
                self.take(news, &mut changes);
            }
        }
    }

    fn take(
        &mut self,
        (index, receiver): (usize, watch::Receiver<Arc<NodeStatus>>),
        changes: &mut FuturesUnordered<Change>,
    ) {
        let newest = Arc::clone(&receiver.borrow());
        self.nodes.note(index, newest, self.environment.now());
        changes.push(change((index, receiver)));
    }

    /// Whether the wait is over; if not, when time alone will change something.
    fn verdict(&mut self, now: Instant) -> Decision {
        // In this order: to be ready takes the statuses of this instant, and they may be terminal.
        let ready = self.nodes.are_ready(now);
        if self.request.failure_policy == FailurePolicy::Stop
            && self.nodes.first_terminal().is_some()
        {
            return Decision::Over(Verdict::Terminal);
        }
        if ready {
            return Decision::Over(Verdict::Ready);
        }
        if self.deadline.is_some_and(|deadline| now >= deadline) {
            return Decision::Over(Verdict::TimedOut);
        }
        let moment = self.nodes.all_passed_from();
        Decision::Next(moment.filter(|moment| *moment > now))
    }

    fn end(&mut self, verdict: Verdict, now: Instant) {
        let news = self.nodes.last_news();
        self.outbox.put(news);
        let about = match verdict {
            Verdict::Ready => None,
            Verdict::Terminal => self.nodes.first_terminal(),
            Verdict::TimedOut => Some(self.first_waiting()),
        };
        let message = about
            .and_then(|index| self.message(index, verdict))
            .unwrap_or_default();
        let nodes = self.nodes.as_slice().iter();
        let result = WaitResult {
            verdict,
            message,
            about,
            elapsed: now - self.started,
            nodes: nodes.filter_map(|node| node.told.clone()).collect(),
            observed: self.environment.wall(),
        };
        tracing::debug!(?verdict, why = result.message, elapsed = ?result.elapsed, "the wait has ended");
        self.outbox.end(result);
        // Nobody needs them any more, however long the reader takes.
        self.nodes.clear();
    }

    /// The first node that is not ready. Who fails comes before who passes, but not for long enough yet.
    fn first_waiting(&self) -> usize {
        let failing = |node: &WaitNode| {
            let told = node.told.as_ref();
            told.is_some_and(|told| told.failing().is_some())
        };
        let waiting = |node: &WaitNode| match &node.told {
            Some(told) => told.state != NodeState::Ready,
            None => true,
        };
        let mut nodes = self.nodes.as_slice().iter();
        // All nodes ready, but not yet seen so in the same moment: the first stands for all.
        let failing = nodes.clone().position(failing);
        failing.or_else(|| nodes.position(waiting)).unwrap_or(0)
    }

    fn message(&self, index: usize, verdict: Verdict) -> Option<String> {
        let told = self.nodes.as_slice().get(index)?.told.as_ref()?;
        let why = match &told.state {
            NodeState::Waiting(reason) | NodeState::Terminal(reason) => reason.as_str(),
            NodeState::Ready => "ready, but the nodes were not seen ready at the same moment",
        };
        let node = &told.node;
        Some(match verdict {
            Verdict::TimedOut => {
                format!(
                    "not ready within {}: {node}: {why}",
                    seconds(self.request.limit?)
                )
            }
            _ => format!("{node}: {why}"),
        })
    }
}

enum Decision {
    Over(Verdict),
    Next(Option<Instant>),
}

fn change((index, mut receiver): (usize, watch::Receiver<Arc<NodeStatus>>)) -> Change {
    Box::pin(async move {
        if receiver.changed().await.is_err() {
            // Never, while the node is followed.
            std::future::pending::<()>().await;
        }
        (index, receiver)
    })
}
