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

use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use tokio::{sync::watch, time::Instant};

use super::{
    POLL_INTERVAL,
    wait::{
        FailurePolicy, NodeReport, NodeState, Verdict, View, WaitRequest, WaitResult, WaitTarget,
    },
};
use crate::{
    environment::{Environment, after},
    node::{Identity, NodeName},
    probe::{Outcome, Probe},
    report::ProbeResult,
    runtime::seconds,
    text::Reason,
    watcher::{Published, Sight, Target, Watcher},
};

/// For how long a probe that has never answered may be asked before that is told: most answer
/// sooner, and their answer is worth more than the news that it is being waited for.
const UNANSWERED: Duration = Duration::from_secs(1);

/// One wait under way.
pub(super) struct Driver {
    environment: Environment,
    request: WaitRequest,
    started: Instant,
    deadline: Option<Instant>,
    nodes: Vec<Followed>,
    view: watch::Sender<View>,
}

/// A node of the wait.
struct Followed {
    node: NodeName,
    watcher: Watcher,
    newest: Arc<Published>,
    /// Since when the newest state has not been settled.
    unsettled_since: Instant,
    told: Option<Arc<NodeReport>>,
    /// The moment for which another look has been asked.
    nudged_for: Option<Instant>,
}

/// A node's newest state, and whether its watcher goes on.
type Change = BoxFuture<'static, (usize, watch::Receiver<Arc<Published>>, bool)>;

impl Driver {
    /// A driver, and where it leaves what there is to tell.
    pub(super) fn new(
        sight: &Sight,
        identity: &Identity,
        request: WaitRequest,
    ) -> (Self, watch::Receiver<View>) {
        let (view, views) = watch::channel(View {
            nodes: vec![None; request.nodes.len()],
            result: None,
        });
        let environment = sight.environment.clone();
        let started = environment.now();
        let interval = match request.poll_interval {
            Duration::ZERO => POLL_INTERVAL,
            interval => interval,
        };
        let mut probes = request.probes.clone();
        Probe::sort(&mut probes);
        let follow = |target: &WaitTarget| {
            let watcher = Watcher::start(
                sight.clone(),
                Target {
                    identity: identity.clone(),
                    node: target.node.clone(),
                    role: target.role,
                    probes: (!probes.is_empty()).then(|| probes.clone()),
                    interval,
                },
            );
            let newest = Arc::clone(&watcher.published.borrow());
            Followed {
                node: target.node.clone(),
                watcher,
                newest,
                unsettled_since: started,
                told: None,
                nudged_for: None,
            }
        };
        let driver = Self {
            nodes: request.nodes.iter().map(follow).collect(),
            deadline: request.limit.map(|limit| after(started, limit)),
            environment,
            request,
            started,
            view,
        };
        (driver, views)
    }

    pub(super) async fn run(&mut self) {
        let receivers = self
            .nodes
            .iter()
            .map(|followed| followed.watcher.published.clone());
        let mut changes: FuturesUnordered<Change> = receivers.enumerate().map(change).collect();
        loop {
            let now = self.environment.now();
            let next = match self.verdict(now) {
                Progress::Over(verdict) => return self.end(verdict, now),
                Progress::Next(next) => next,
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
                Some(news) = changes.next() => self.take(news, &mut changes),
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
        (index, receiver, alive): (usize, watch::Receiver<Arc<Published>>, bool),
        changes: &mut FuturesUnordered<Change>,
    ) {
        let followed = &mut self.nodes[index];
        let newest = Arc::clone(&receiver.borrow());
        if !alive {
            // Only a panic ends a watcher that is held: that of a check of the caller's own, say.
            followed.newest = Arc::new(newest.abandoned());
            return;
        }
        if followed.newest.settled && !newest.settled {
            followed.unsettled_since = self.environment.now();
        }
        followed.newest = newest;
        changes.push(change((index, receiver)));
    }

    /// Whether the wait is over; if not, when time alone will change something.
    fn verdict(&mut self, now: Instant) -> Progress {
        if self.request.failure_policy == FailurePolicy::Stop && self.first(is_terminal).is_some() {
            return Progress::Over(Verdict::Terminal);
        }
        let next = match self.all_passed_from() {
            Some(moment) if moment > now => Some(moment),
            Some(moment) => {
                if self.confirm(moment) {
                    return Progress::Over(Verdict::Ready);
                }
                None
            }
            None => None,
        };
        if self.deadline.is_some_and(|deadline| now >= deadline) {
            return Progress::Over(Verdict::TimedOut);
        }
        Progress::Next(next)
    }

    /// The moment from which on every node has passed for as long as was asked, as far as the newest
    /// looks tell.
    fn all_passed_from(&self) -> Option<Instant> {
        let mut moment = None;
        for followed in &self.nodes {
            let passed = after(followed.newest.passed_since?, self.request.stable_for);
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
            if !made_it && newest.started < moment {
                all = false;
                if followed.nudged_for != Some(moment) {
                    followed.nudged_for = Some(moment);
                    followed.watcher.nudge();
                }
            }
        }
        all
    }

    fn first(&self, which: impl Fn(&Published) -> bool) -> Option<usize> {
        self.nodes
            .iter()
            .position(|followed| which(&followed.newest))
    }

    /// When a probe that has never answered has to be told of.
    fn unsettled_due(&self) -> Option<Instant> {
        let due = |followed: &Followed| {
            let told = || {
                followed
                    .told
                    .as_ref()
                    .is_some_and(|told| told.says_the_same(&self.state(followed)))
            };
            (!followed.newest.settled && !told()).then(|| followed.unsettled_since + UNANSWERED)
        };
        self.nodes.iter().filter_map(due).min()
    }

    /// Leaves the newest states for the stream.
    fn tell(&mut self, now: Instant, all: bool) {
        let mut news = Vec::new();
        for (index, followed) in self.nodes.iter().enumerate() {
            let settled = followed.newest.settled || now >= followed.unsettled_since + UNANSWERED;
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
            self.nodes[index].told = Some(state);
        }
    }

    /// A node's state under this wait's policy.
    fn state(&self, followed: &Followed) -> NodeReport {
        let newest = &followed.newest;
        let mut probes = newest.probes.clone();
        if self.request.failure_policy == FailurePolicy::KeepWaiting {
            for report in &mut probes {
                if let ProbeResult::Looked(Outcome::Terminal(reason)) = &report.result {
                    report.result = ProbeResult::Looked(Outcome::Failed(reason.clone()));
                }
            }
        }
        let failing = probes.iter().find(|report| !report.result.is_passed());
        let state = match (failing, newest.passed_since) {
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
            trigger: newest.trigger,
            round: newest.round,
            observed: self.environment.wall(),
        }
    }

    fn is_stable(&self, newest: &Published, since: Instant) -> bool {
        self.request.stable_for.is_zero() || newest.started >= after(since, self.request.stable_for)
    }

    fn end(&mut self, verdict: Verdict, now: Instant) {
        self.tell(now, true);
        let about = match verdict {
            Verdict::Ready => None,
            Verdict::Terminal => self.first(is_terminal),
            Verdict::TimedOut => {
                // Who fails comes before who passes, but not for long enough yet.
                let failing = |followed: &Followed| {
                    let told = followed.told.as_ref();
                    told.is_some_and(|told| told.failing().is_some())
                };
                let waiting = |followed: &Followed| match &followed.told {
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

enum Progress {
    Over(Verdict),
    Next(Option<Instant>),
}

fn is_terminal(newest: &Published) -> bool {
    newest.settled
        && newest
            .probes
            .iter()
            .any(|report| report.result.is_terminal())
}

fn change((index, mut receiver): (usize, watch::Receiver<Arc<Published>>)) -> Change {
    Box::pin(async move {
        let alive = receiver.changed().await.is_ok();
        (index, receiver, alive)
    })
}
