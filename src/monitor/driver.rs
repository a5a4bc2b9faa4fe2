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
    causes::Why,
    diagnosis::Diagnoses,
    members::{Changes, Members},
    outbox::{self, outbox},
    wait::{ClusterReport, FailurePolicy, Verdict, WaitRequest, WaitResult, WaitTarget},
    wait_job::WaitJob,
    wait_node::WaitNode,
    wait_nodes::WaitNodes,
};
use crate::{
    cluster::{NodeSelector, Position, directory::Directory},
    environment::{Environment, after},
    event::{ContainerEvent, NodeIndex},
    node::{Identity, NodeName, Part},
    probe::{Level, Probe},
    watcher::{Caller, EvaluatedProbe, Mode, NodeStatus, ProbeSet, Watchers},
};

/// How often what no event tells is asked of nodes that are only watched.
const WATCHED: Duration = Duration::from_secs(15);

/// What somebody else than the engine tells of containers.
pub(super) type Events = BoxStream<'static, ContainerEvent>;

/// One wait under way.
pub(super) struct Driver {
    environment: Environment,
    request: WaitRequest,
    started: Instant,
    deadline: Option<Instant>,
    nodes: WaitNodes,
    /// The cluster whose nodes they are, if one is waited for.
    members: Option<Members>,
    /// What the cluster was told to be.
    told_of_cluster: Option<Arc<ClusterReport>>,
    follower: Follower,
    diagnoses: Diagnoses,
    /// The job that has to succeed, if one was asked for.
    job: Option<WaitJob>,
    watch: Option<Watching>,
    events: Events,
    /// The places of the nodes, for events.
    places: NodeIndex<usize>,
    outbox: outbox::Sender,
}

/// How far somebody is who only watches.
#[derive(Debug, Default)]
struct Watching {
    /// The nodes that were there at first and are untold; none until they are known.
    first: Option<Vec<usize>>,
    is_synced: bool,
}

/// Follows nodes for a wait.
struct Follower {
    watchers: Watchers,
    caller: Caller,
    probes: Vec<Probe>,
    level: Level,
    interval: Duration,
}

impl Follower {
    fn follow(&self, node: &NodeName, part: Part) -> WaitNode {
        let probes = if self.probes.is_empty() {
            ProbeSet::of_level(
                part,
                self.level,
                &self.watchers.context().settings.own,
                Mode::Wait,
            )
        } else {
            ProbeSet::wait(part, self.probes.clone())
        };
        let watcher = self
            .watchers
            .follow(&self.caller, node, probes, self.interval);
        WaitNode::new(node.clone(), watcher)
    }
}

/// A node's newest state; none once nothing comes any more.
type Change = BoxFuture<'static, Option<(usize, watch::Receiver<Arc<NodeStatus>>)>>;

impl Driver {
    /// A driver, and where it leaves what there is to tell.
    pub(super) fn new(
        watchers: &Watchers,
        directory: &Directory,
        environment: Environment,
        identity: &Identity,
        request: WaitRequest,
        events: Events,
    ) -> (Self, outbox::Receiver) {
        let (outbox, told) = outbox();
        let started = environment.now();
        let interval = match request.poll_interval {
            Duration::ZERO => POLL_INTERVAL,
            interval => interval,
        };
        let follower = Follower {
            watchers: watchers.clone(),
            caller: Caller::new(identity, &environment),
            probes: request.probes.clone(),
            level: request.level,
            interval,
        };
        let follow = |target: &WaitTarget| follower.follow(&target.node, target.part());
        let nodes = request.nodes.iter().map(follow).collect();
        let members = request.cluster.clone().map(|target| {
            let selector = NodeSelector {
                realm: Some(target.realm.clone()),
                cluster: Some(target.cluster.clone()),
                roles: Vec::new(),
            };
            Members::new(directory, identity, selector, Some(target), started)
        });
        let mut places = NodeIndex::default();
        for (place, target) in request.nodes.iter().enumerate() {
            places.insert(target.node.clone(), place);
        }
        let request_level = request.level;
        let driver = Self {
            nodes: WaitNodes::new(nodes, &request, started),
            deadline: request.limit.map(|limit| after(started, limit)),
            environment,
            request,
            started,
            members,
            told_of_cluster: None,
            diagnoses: Diagnoses::new(Arc::clone(watchers.context()), follower.caller.clone()),
            job: (request_level == Level::Jobs)
                .then(|| WaitJob::new(Arc::clone(watchers.context()), follower.caller.clone())),
            follower,
            watch: None,
            events,
            places,
            outbox,
        };
        (driver, told)
    }

    /// A driver for somebody who watches the nodes that a selector means, without an end.
    pub(super) fn watching(
        watchers: &Watchers,
        directory: &Directory,
        environment: Environment,
        identity: &Identity,
        selector: NodeSelector,
        level: Level,
    ) -> (Self, outbox::Receiver) {
        let request = WaitRequest {
            level,
            poll_interval: WATCHED,
            ..WaitRequest::default()
        };
        let (mut driver, told) = Self::new(
            watchers,
            directory,
            environment,
            identity,
            request,
            futures_util::stream::pending().boxed(),
        );
        let started = driver.started;
        driver.members = Some(Members::new(directory, identity, selector, None, started));
        driver.nodes = driver.nodes.endless();
        driver.watch = Some(Watching::default());
        // Whoever only watches runs none.
        driver.job = None;
        (driver, told)
    }

    pub(super) async fn run(&mut self) {
        tracing::debug!(
            limit = ?self.request.limit,
            stable_for = ?self.request.stable_for,
            policy = ?self.request.failure_policy,
            "the wait begins"
        );
        let nodes = self.nodes.iter();
        let receivers = nodes.map(|(index, node)| (index, node.watcher.statuses()));
        let mut changes: FuturesUnordered<Change> = receivers.map(change).collect();
        loop {
            let now = self.environment.now();
            self.take_members(&mut changes, now);
            if let Some(job) = &mut self.job {
                job.choose(&mut self.nodes);
            }
            self.diagnoses.start(&mut self.nodes);
            let next = match self.verdict(now) {
                Decision::Over(verdict) => return self.end(verdict, now),
                Decision::Next(next) => next,
            };
            let news = self.nodes.news(now);
            if !news.is_empty() {
                self.outbox.put(news);
            }
            self.tell_of_cluster();
            self.tell_synced();
            let leaves = self.nodes.end_due().filter(|due| *due > now);
            let wake = [next, self.deadline, self.nodes.unsettled_due(), leaves]
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
                // These are few, and many nodes may always have news.
                ended = ended(&mut self.job) => {
                    if let Some(job) = &mut self.job {
                        job.take(ended, &mut self.nodes, self.environment.now());
                    }
                }
                (place, hint) = self.diagnoses.found() => {
                    if let Some(hint) = hint {
                        self.nodes.set_hint(place, hint);
                    }
                }
                Some(news) = changes.next() => self.take(news, &mut changes),
                () = changed(&mut self.members) => {}
                // Once they have ended, nothing is told: then nodes are only polled.
                Some(event) = self.events.next() => {
                    for place in self.places.about(&event) {
                        if let Some(node) = self.nodes.get(*place) {
                            node.watcher.take(&event);
                        }
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

    /// Takes the nodes that have come to the cluster, and lets those go that have left it.
    fn take_members(&mut self, changes: &mut FuturesUnordered<Change>, now: Instant) {
        let Some(members) = &mut self.members else {
            return;
        };
        let Changes {
            joined,
            changed,
            left,
        } = members.take();
        for (place, node) in left {
            tracing::debug!(%node, "the node has left");
            self.places.remove(&node, |other| *other == place);
            self.nodes.remove(place);
            self.outbox.remove(place, node);
        }
        for listed in joined {
            tracing::debug!(node = %listed.name, "a node has joined");
            let mut node = self.follower.follow(&listed.name, Part::default());
            node.may_leave = true;
            let receiver = node.watcher.statuses();
            let listed = Arc::new(listed);
            // What a list shows of a node is told to who watches.
            node.listed = self.watch.is_some().then(|| Arc::clone(&listed));
            let place = self.nodes.add(node, now);
            self.places.insert(listed.name.clone(), place);
            changes.push(change((place, receiver)));
            members.note(listed, place);
        }
        for (place, listed) in changed.into_iter().filter(|_| self.watch.is_some()) {
            self.nodes.set_listed(place, listed);
        }
        if let Some(due) = self.nodes.end_due().filter(|due| *due <= now) {
            members.refresh_for(due);
        }
        if let Some(asked) = members.asked() {
            self.nodes
                .settle_ends(asked, |place| members.stays(place), now);
        }
    }

    /// Leaves that all nodes that were there at first have been told of, once.
    fn tell_synced(&mut self) {
        let (Some(watch), Some(members)) = (&mut self.watch, &self.members) else {
            return;
        };
        if watch.is_synced || members.asked().is_none() {
            return;
        }
        let nodes = &self.nodes;
        let all = || nodes.iter().map(|(place, _)| place).collect();
        let first = watch.first.get_or_insert_with(all);
        // Each is looked at until it has been told of, and no longer.
        let is_told = |place: usize| nodes.get(place).is_none_or(|node| node.told.is_some());
        while first.pop_if(|place| is_told(*place)).is_some() {}
        if first.is_empty() {
            watch.is_synced = true;
            self.outbox.put_synced();
        }
    }

    /// Leaves what there is to say of the cluster, if that is news.
    fn tell_of_cluster(&mut self) {
        let Some(members) = self.members.as_ref().filter(|_| self.watch.is_none()) else {
            return;
        };
        let report = ClusterReport {
            present: members.present(),
            ready: u32::try_from(self.nodes.ready()).unwrap_or(u32::MAX),
            min_nodes: members.min_nodes(),
            reason: members.blocked(),
            observed: self.environment.wall(),
        };
        let told = self.told_of_cluster.as_ref();
        if told.is_none_or(|told| !told.says_the_same(&report)) {
            let report = Arc::new(report);
            self.told_of_cluster = Some(Arc::clone(&report));
            self.outbox.put_cluster(report);
        }
    }

    fn take(
        &mut self,
        news: Option<(usize, watch::Receiver<Arc<NodeStatus>>)>,
        changes: &mut FuturesUnordered<Change>,
    ) {
        let Some((index, receiver)) = news else {
            return;
        };
        let newest = Arc::clone(&receiver.borrow());
        self.nodes.note(index, newest, self.environment.now());
        changes.push(change((index, receiver)));
    }

    /// Whether the wait is over; if not, when time alone will change something.
    fn verdict(&mut self, now: Instant) -> Decision {
        if self.watch.is_some() {
            return Decision::Next(None);
        }
        // In this order: to be ready takes the statuses of this instant, and they may be terminal.
        let ready = self.nodes.are_ready(now) && self.is_whole();
        if self.request.failure_policy == FailurePolicy::Stop
            && self.nodes.first_terminal().is_some()
        {
            return Decision::Over(Verdict::Terminal);
        }
        if ready && let Some(job) = self.job.as_mut().filter(|job| !job.has_run()) {
            job.start(&mut self.nodes, now);
        } else if ready {
            return Decision::Over(Verdict::Ready);
        }
        if self.deadline.is_some_and(|deadline| now >= deadline) {
            return Decision::Over(Verdict::TimedOut);
        }
        let moment = self.nodes.all_passed_from();
        let job = self.job.as_ref().and_then(WaitJob::due);
        let next = [moment, job].into_iter().flatten();
        Decision::Next(next.filter(|next| *next > now).min())
    }

    /// Whether no node can have been left out: a cluster has to be listed once more, after all of its nodes
    /// have passed.
    fn is_whole(&mut self) -> bool {
        match (&mut self.members, self.nodes.all_passed_from()) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(members), Some(moment)) => members.are_complete_since(moment),
        }
    }

    fn end(&mut self, verdict: Verdict, now: Instant) {
        let news = self.nodes.last_news();
        self.outbox.put(news);
        self.tell_of_cluster();
        let told = |(place, node): (usize, &WaitNode)| Some((place, node.told.clone()?));
        let mut told: Vec<_> = self.nodes.iter().filter_map(told).collect();
        if self.members.is_some() {
            // In which order they came means nothing.
            told.sort_by_cached_key(|(_, report)| Position::within(report.role, &report.node));
        }
        let terminal = self.nodes.first_terminal();
        let terminal = told.iter().position(|(place, _)| Some(*place) == terminal);
        let nodes: Vec<_> = told.into_iter().map(|(_, report)| report).collect();
        let blocked = self.members.as_ref().and_then(Members::blocked);
        let why = match verdict {
            Verdict::Ready => Why::default(),
            Verdict::Terminal => Why::of_terminal(&nodes, terminal),
            Verdict::TimedOut => Why::of_timeout(&nodes, blocked, self.request.limit),
        };
        let Why {
            message,
            about,
            causes,
        } = why;
        let result = WaitResult {
            verdict,
            message,
            about,
            elapsed: now - self.started,
            nodes,
            causes,
            observed: self.environment.wall(),
        };
        tracing::debug!(?verdict, why = result.message, elapsed = ?result.elapsed, "the wait has ended");
        self.outbox.end(result);
        // Nobody needs them any more, however long the reader takes.
        self.nodes.clear();
    }
}

enum Decision {
    Over(Verdict),
    Next(Option<Instant>),
}

fn change((index, mut receiver): (usize, watch::Receiver<Arc<NodeStatus>>)) -> Change {
    Box::pin(async move {
        // It ends when the node is followed no longer.
        receiver.changed().await.ok()?;
        Some((index, receiver))
    })
}

/// Completes once the wait's job has ended; never, if none runs.
async fn ended(job: &mut Option<WaitJob>) -> EvaluatedProbe {
    match job {
        Some(job) => job.ended().await,
        None => std::future::pending().await,
    }
}

/// Completes once there is another list of the cluster's nodes; never, if no cluster is waited for.
async fn changed(members: &mut Option<Members>) {
    match members {
        Some(members) => members.changed().await,
        None => std::future::pending().await,
    }
}
