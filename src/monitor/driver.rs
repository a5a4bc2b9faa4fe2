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
    wait::{
        FailurePolicy, NodeReport, NodeState, Verdict, View, WaitRequest, WaitResult, WaitTarget,
    },
    wait_node::{WaitNode, end, is_settled, soften},
};
use crate::{
    engine::seconds,
    environment::{Environment, after},
    event::ContainerEvent,
    node::Identity,
    probe::{Outcome, container},
    text::Reason,
    watcher::{Freshness, NodeStatus, ProbeSet, Watchers},
};

/// What somebody else than the engine tells of containers.
pub(super) type Events = BoxStream<'static, ContainerEvent>;

/// For how long a probe that has never answered may be asked before that is told: most answer
/// sooner, and their answer is worth more than the news that it is being waited for.
const UNANSWERED: Duration = Duration::from_secs(1);

/// One wait under way.
pub(super) struct Driver {
    environment: Environment,
    request: WaitRequest,
    started: Instant,
    deadline: Option<Instant>,
    nodes: Vec<WaitNode>,
    events: Events,
    view: watch::Sender<View>,
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
    ) -> (Self, watch::Receiver<View>) {
        let (view, views) = watch::channel(View {
            nodes: vec![None; request.nodes.len()],
            result: None,
        });
        let started = environment.now();
        let interval = match request.poll_interval {
            Duration::ZERO => POLL_INTERVAL,
            interval => interval,
        };
        let follow = |target: &WaitTarget| {
            let probes = ProbeSet::wait(target.role, request.probes.clone());
            let watcher = watchers.follow(identity, &target.node, probes, interval);
            let newest = watcher.status();
            WaitNode {
                node: target.node.clone(),
                watcher,
                newest,
                passed_since: None,
                unsettled_since: started,
                told: None,
                refreshed_for: None,
                run: None,
                ended: None,
            }
        };
        let driver = Self {
            nodes: request.nodes.iter().map(follow).collect(),
            deadline: request.limit.map(|limit| after(started, limit)),
            environment,
            request,
            started,
            events,
            view,
        };
        (driver, views)
    }

    pub(super) async fn run(&mut self) {
        tracing::debug!(
            limit = ?self.request.limit,
            stable_for = ?self.request.stable_for,
            policy = ?self.request.failure_policy,
            "the wait begins"
        );
        let receivers = self
            .nodes
            .iter()
            .map(|followed| followed.watcher.statuses());
        let mut changes: FuturesUnordered<Change> = receivers.enumerate().map(change).collect();
        loop {
            let now = self.environment.now();
            let next = match self.verdict(now) {
                Decision::Over(verdict) => return self.end(verdict, now),
                Decision::Next(next) => next,
            };
            self.tell(now, false);
            let wake = [next, self.deadline, self.unsettled_due()]
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
                    self.nodes.iter().for_each(|followed| followed.watcher.take(&event));
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
        self.note(index, newest);
        changes.push(change((index, receiver)));
    }

    /// Takes the statuses as they are at this instant, also those whose news has not been waited for
    /// yet: what was drained before may be older.
    fn catch_up(&mut self) {
        for index in 0..self.nodes.len() {
            let newest = self.nodes[index].watcher.status();
            if !Arc::ptr_eq(&newest, &self.nodes[index].newest) {
                self.note(index, newest);
            }
        }
    }

    fn note(&mut self, index: usize, newest: Arc<NodeStatus>) {
        let node = &mut self.nodes[index];
        let was_settled = is_settled(&node.newest, self.started);
        if was_settled && !is_settled(&newest, self.started) {
            node.unsettled_since = self.environment.now();
        }
        node.passed_since = match newest.passed_since {
            Some(since) if newest.started >= self.started => {
                let first = node.passed_since.unwrap_or(newest.started);
                Some(first.max(since))
            }
            // It has passed all the time, as others have seen; this wait has not looked yet.
            Some(_) | None => None,
        };
        if self.request.failure_policy == FailurePolicy::Stop {
            node.follow_run(newest.run.as_ref(), self.started);
        }
        node.newest = newest;
    }

    /// Whether the wait is over; if not, when time alone will change something.
    fn verdict(&mut self, now: Instant) -> Decision {
        let passed = |moment: Option<Instant>| moment.is_some_and(|moment| moment <= now);
        if passed(self.all_passed_from()) {
            self.catch_up();
        }
        if self.request.failure_policy == FailurePolicy::Stop && self.first_terminal().is_some() {
            return Decision::Over(Verdict::Terminal);
        }
        let next = match self.all_passed_from() {
            Some(moment) if moment > now => Some(moment),
            Some(moment) => {
                if self.confirm(moment) {
                    return Decision::Over(Verdict::Ready);
                }
                None
            }
            None => None,
        };
        if self.deadline.is_some_and(|deadline| now >= deadline) {
            return Decision::Over(Verdict::TimedOut);
        }
        Decision::Next(next)
    }

    /// The moment from which on every node has passed for as long as was asked, as far as the newest
    /// looks tell.
    fn all_passed_from(&self) -> Option<Instant> {
        let mut moment = None;
        for followed in &self.nodes {
            let passed = after(followed.passed_since?, self.request.stable_for);
            moment = moment.max(Some(passed));
        }
        moment
    }

    /// Whether every node has been seen to pass at that moment: by a look that started no earlier, or
    /// by the one look that made the moment. The others are asked to be looked at once more, since a
    /// node that passed a poll interval ago need not pass now.
    fn confirm(&mut self, moment: Instant) -> bool {
        let stable_for = self.request.stable_for;
        let mut all = true;
        for followed in &mut self.nodes {
            let newest = &followed.newest;
            let made_it = stable_for.is_zero() && newest.passed_since == Some(moment);
            if !followed.watcher.is_current(newest) {
                tracing::debug!(
                    node = %followed.node,
                    freshness = ?newest.freshness,
                    sequence = newest.sequence,
                    "not confirmed: something has happened that its status does not include yet"
                );
                // What comes of it is news.
                all = false;
            } else if !made_it && newest.started < moment {
                all = false;
                if followed.refreshed_for != Some(moment) {
                    tracing::debug!(node = %followed.node, "not confirmed: it is looked at once more");
                    followed.refreshed_for = Some(moment);
                    followed.watcher.refresh();
                }
            }
        }
        all
    }

    /// The first node that can no longer become ready, as far as this wait has seen for itself.
    fn first_terminal(&self) -> Option<usize> {
        self.nodes.iter().position(|followed| {
            let newest = &followed.newest;
            let counts = newest.is_settled && newest.freshness != Freshness::Stale;
            let own = counts && newest.started >= self.started;
            let mut probes = newest.probes.iter();
            let terminal = probes.any(|report| report.result.is_terminal());
            followed.ended.is_some() || (own && !self.never_saw(newest) && terminal)
        })
    }

    /// Whether there is no such container, and this wait has never seen one: others may have.
    fn never_saw(&self, newest: &NodeStatus) -> bool {
        newest.is_absent
            && newest
                .run
                .as_ref()
                .is_none_or(|seen| seen.asked < self.started)
    }

    /// When a probe that has never answered has to be told of.
    fn unsettled_due(&self) -> Option<Instant> {
        let due = |followed: &WaitNode| {
            let told = || {
                followed
                    .told
                    .as_ref()
                    .is_some_and(|told| told.says_the_same(&self.state(followed)))
            };
            (!is_settled(&followed.newest, self.started) && !told())
                .then(|| followed.unsettled_since + UNANSWERED)
        };
        self.nodes.iter().filter_map(due).min()
    }

    /// Leaves the newest states for the stream.
    fn tell(&mut self, now: Instant, all: bool) {
        let mut news = Vec::new();
        for (index, followed) in self.nodes.iter().enumerate() {
            let settled = is_settled(&followed.newest, self.started)
                || now >= followed.unsettled_since + UNANSWERED;
            if !(settled || all) {
                continue;
            }
            let state = self.state(followed);
            if followed
                .told
                .as_ref()
                .is_none_or(|told| !told.says_the_same(&state))
            {
                news.push((index, Arc::new(state)));
            }
        }
        if news.is_empty() {
            return;
        }
        self.view.send_modify(|view| {
            for (index, state) in &news {
                view.nodes[*index] = Some(Arc::clone(state));
            }
        });
        for (index, state) in news {
            tracing::debug!(node = %state.node, state = ?state.state, "told");
            self.nodes[index].told = Some(state);
        }
    }

    /// A node's state under this wait's policy.
    fn state(&self, followed: &WaitNode) -> NodeReport {
        let newest = &followed.newest;
        let mut probes = Arc::clone(&newest.probes);
        if self.request.failure_policy == FailurePolicy::KeepWaiting {
            soften(&mut probes, Clone::clone);
        }
        if self.never_saw(newest)
            && let Outcome::Failed(missing) = container::missing(&followed.node, false)
        {
            soften(&mut probes, |_| missing.clone());
        }
        if let Some(ended) = &followed.ended {
            end(&mut probes, ended);
        }
        let failing = probes.iter().find(|report| !report.result.is_passed());
        let state = match (failing, followed.passed_since) {
            (Some(report), _) => {
                let why = report.result.reason().map_or("", Reason::as_str);
                let reason = Reason::new(format!("{}: {why}", report.probe));
                if report.result.is_terminal() {
                    NodeState::Terminal(reason)
                } else {
                    NodeState::Waiting(reason)
                }
            }
            (None, Some(since)) if self.is_stable(newest, since) => NodeState::Ready,
            (None, None) => {
                // A wait that has only just begun has to look for itself: at the container first.
                let blocked_by = newest.blocked_by.as_ref();
                let probe = blocked_by.map_or("container", |blocked| blocked.probe.as_str());
                NodeState::Waiting(Reason::new(format!(
                    "every probe has passed, and {probe} is looked at once more"
                )))
            }
            (None, _) => NodeState::Waiting(Reason::new(format!(
                "every probe has passed, and has to stay so for {}",
                seconds(self.request.stable_for)
            ))),
        };
        NodeReport {
            node: followed.node.clone(),
            role: newest.role,
            state,
            probes,
            trigger: newest.prompt.trigger,
            trigger_detail: Arc::clone(&newest.prompt.detail),
            round: newest.round,
            observed: newest.observed,
        }
    }

    fn is_stable(&self, newest: &NodeStatus, since: Instant) -> bool {
        self.request.stable_for.is_zero() || newest.started >= after(since, self.request.stable_for)
    }

    fn end(&mut self, verdict: Verdict, now: Instant) {
        self.tell(now, true);
        let about = match verdict {
            Verdict::Ready => None,
            Verdict::Terminal => self.first_terminal(),
            Verdict::TimedOut => {
                // Who fails comes before who passes, but not for long enough yet.
                let failing = |followed: &WaitNode| {
                    let told = followed.told.as_ref();
                    told.is_some_and(|told| told.failing().is_some())
                };
                let waiting = |followed: &WaitNode| match &followed.told {
                    Some(told) => told.state != NodeState::Ready,
                    None => true,
                };
                let mut nodes = self.nodes.iter();
                // All nodes ready, but not yet seen so in the same moment: the first stands for all.
                let failing = nodes.clone().position(failing);
                failing.or_else(|| nodes.position(waiting)).or(Some(0))
            }
        };
        let message = about
            .and_then(|index| self.message(index, verdict))
            .unwrap_or_default();
        let nodes = self
            .nodes
            .iter()
            .filter_map(|followed| followed.told.clone())
            .collect();
        tracing::debug!(?verdict, why = message, elapsed = ?(now - self.started), "the wait has ended");
        let result = WaitResult {
            verdict,
            message,
            about,
            elapsed: now - self.started,
            nodes,
            observed: self.environment.wall(),
        };
        self.view
            .send_modify(|view| view.result = Some(Arc::new(result)));
        // Nobody needs them any more, however long the reader takes.
        self.nodes.clear();
    }

    fn message(&self, index: usize, verdict: Verdict) -> Option<String> {
        let told = self.nodes.get(index)?.told.as_ref()?;
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
