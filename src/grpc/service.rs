//! Implements the RPCs.

use std::{
    pin::Pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::{Stream, stream};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};
use tonic::{Request, Response, Status};

use super::{
    convert, deadline,
    drain::{DRAIN_LIMIT, Drain},
    http2_stream,
    page_token::PageTokens,
    status,
    validate::{self, ValidWait},
    watch,
};
use crate::{
    environment::after,
    monitor::{Monitor, MonitorError, NodePage, Wait, WaitEvent, WaitRequest, WaitResult},
    node::{Identity, NodeName},
    pb::{self, readiness_service_server::ReadinessService},
    probe::Level,
    quota::Quota,
};

/// How long a snapshot or a check may go on once a drain has started. The time that remains is for
/// the error that reports the drain to the client.
const LAST_ANSWERS: Duration = DRAIN_LIMIT.saturating_sub(Duration::from_secs(1));

/// The limits of a server.
#[derive(Debug, Clone)]
pub struct Limits {
    /// The longest time that a wait may take; 10 minutes by default.
    pub longest_wait: Duration,
    /// How many waits the server serves at once; 20,000 by default.
    pub waits: usize,
    /// How many nodes all waits together may follow, whether or not they exist; 20,000 by default.
    pub followed_nodes: usize,
    /// How many snapshots and checks the server serves at once; 1,000 by default.
    pub looks: usize,
    /// How many snapshots and checks of one node it serves at once; 16 by default.
    pub looks_per_node: usize,
    /// How many connections the server has open at once, on all its sockets; 1,000 by default.
    pub connections: usize,
    /// How long a client has to begin with HTTP/2 once it has connected, and to send a call's
    /// request; 10 s by default.
    pub handshake: Duration,
    /// How long after its wait's limit a client has to read the result; 10 s by default. Its stream is
    /// reset then.
    pub unread: Duration,
    /// How long a watch may be left unread while something is due; 60 s by default.
    pub unread_watch: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            longest_wait: Duration::from_secs(600),
            waits: 20_000,
            followed_nodes: 20_000,
            looks: 1_000,
            looks_per_node: 16,
            connections: 1_000,
            handshake: Duration::from_secs(10),
            unread: Duration::from_secs(10),
            unread_watch: Duration::from_secs(60),
        }
    }
}

/// `readyd.v1.ReadinessService` over a monitor.
#[derive(Debug)]
pub struct Readiness {
    monitor: Monitor,
    limits: Limits,
    waits: Arc<Semaphore>,
    looks: Arc<Semaphore>,
    looks_per_node: Quota<NodeName>,
    /// Held while a wait begins to follow its nodes: they are counted before.
    following: Mutex<()>,
    drain: Drain,
    tokens: PageTokens,
    /// Whether a wait may run a job.
    jobs: bool,
}

impl Readiness {
    /// Creates a service that refuses new calls and ends its waits once the drain has started.
    #[must_use]
    pub fn new(monitor: Monitor, limits: Limits, drain: Drain) -> Self {
        Self {
            monitor,
            waits: Arc::new(Semaphore::new(limits.waits.min(Semaphore::MAX_PERMITS))),
            looks: Arc::new(Semaphore::new(limits.looks.min(Semaphore::MAX_PERMITS))),
            looks_per_node: Quota::new(limits.looks_per_node),
            following: Mutex::default(),
            limits,
            drain,
            tokens: PageTokens::default(),
            jobs: false,
        }
    }

    /// Lets waits run jobs in their clusters, as the level JOBS asks for. By default none may.
    #[must_use]
    pub fn allow_jobs(self, jobs: bool) -> Self {
        Self { jobs, ..self }
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }

    pub(super) fn drain(&self) -> &Drain {
        &self.drain
    }

    fn admit(
        &self,
        to: &Arc<Semaphore>,
        what: &str,
        limit: usize,
    ) -> Result<OwnedSemaphorePermit, Status> {
        if self.drain.has_started() {
            return Err(status::draining());
        }
        Arc::clone(to)
            .try_acquire_owned()
            .map_err(|_| status::full(what, limit))
    }

    /// Starts a wait, if there is room for its nodes.
    fn follow(&self, identity: &Identity, wait: WaitRequest) -> Result<Wait, Status> {
        let limit = self.limits.followed_nodes;
        let _following = self.following.lock();
        if self.monitor.followed_with(identity, &wait.nodes) > limit {
            return Err(status::full("nodes in waits", limit));
        }
        Ok(self.monitor.wait(identity, wait))
    }

    /// Runs a snapshot or a check within the caller's deadline.
    async fn look<T>(
        &self,
        left: Option<Duration>,
        node: &NodeName,
        probe: Option<&str>,
        look: impl Future<Output = Result<T, MonitorError>>,
    ) -> Result<T, Status> {
        let _permit = self.admit(&self.looks, "snapshots and checks", self.limits.looks)?;
        let of_node = self.looks_per_node.take(node);
        let _of_node = of_node.ok_or_else(|| {
            let what = format!("snapshots and checks of {node}");
            status::full(&what, self.limits.looks_per_node)
        })?;
        let late = |left| status::deadline(Some(node), probe, left);
        let looked = self.within(left, late, look).await?;
        looked.map_err(|error| status::monitor(&error, probe))
    }

    /// Runs a unary call within the caller's deadline, and as long as a drain leaves.
    async fn within<T>(
        &self,
        left: Option<Duration>,
        late: impl Fn(Duration) -> Status,
        call: impl Future<Output = T>,
    ) -> Result<T, Status> {
        let mut drain = self.drain.clone();
        let drained = async {
            drain.started().await;
            tokio::time::sleep(LAST_ANSWERS).await;
        };
        tokio::select! {
            biased;
            ended = call => Ok(ended),
            () = deadline::passed(left) => Err(late(left.unwrap_or_default())),
            () = drained => Err(status::draining()),
        }
    }

    /// Lists a page of nodes, and looks at each if that is wanted.
    async fn page(
        &self,
        identity: &Identity,
        list: &validate::List,
    ) -> Result<pb::ListNodesResponse, Status> {
        let page = self
            .monitor
            .list(identity, &list.selector, list.behind.as_ref(), list.size)
            .await;
        let NodePage { nodes, next, .. } = page.map_err(|error| status::monitor(&error, None))?;
        let next = next.map(|next| self.tokens.write(&next, &list.selector));
        let mut reports = Vec::new();
        if list.is_full {
            reports = self
                .monitor
                .look_at(identity, &nodes, Level::Services)
                .await;
        }
        let report = |place: usize| reports.get(place);
        let nodes = nodes.iter().enumerate();
        let nodes = nodes.map(|(place, node)| convert::node(node, report(place)));
        Ok(convert::page(nodes.collect(), next.unwrap_or_default()))
    }
}

/// Returns the only identity: there is no authentication yet.
fn identity<T>(_request: &Request<T>) -> Identity {
    Identity::Local
}

#[tonic::async_trait]
impl ReadinessService for Readiness {
    async fn snapshot(
        &self,
        request: Request<pb::SnapshotRequest>,
    ) -> Result<Response<pb::SnapshotResponse>, Status> {
        http2_stream::end_at(None);
        let (node, part) =
            validate::snapshot(request.get_ref()).map_err(|bad| status::invalid(&bad))?;
        let identity = identity(&request);
        let look = Box::pin(self.monitor.snapshot(&identity, &node, part));
        let left = deadline::of_caller(request.metadata());
        let snapshot = self.look(left, &node, None, look).await?;
        Ok(Response::new(convert::snapshot(&snapshot)))
    }

    async fn check(
        &self,
        request: Request<pb::CheckRequest>,
    ) -> Result<Response<pb::CheckResponse>, Status> {
        http2_stream::end_at(None);
        let check = validate::check(request.get_ref(), self.monitor.own_probes())
            .map_err(|bad| status::invalid(&bad))?;
        let identity = identity(&request);
        // A look is large, and most of a call is spent in it.
        let look = Box::pin(self.monitor.check(
            &identity,
            &check.node,
            &check.probe,
            check.part,
            check.limit,
        ));
        let left = deadline::of_caller(request.metadata());
        let report = self
            .look(left, &check.node, Some(check.probe.name()), look)
            .await?;
        let report = Some(convert::probe_report(&report));
        Ok(Response::new(pb::CheckResponse { report }))
    }

    type WaitReadyStream = WaitStream;

    async fn wait_ready(
        &self,
        request: Request<pb::WaitReadyRequest>,
    ) -> Result<Response<WaitStream>, Status> {
        let left = deadline::of_caller(request.metadata());
        let longest = left.map_or(self.limits.longest_wait, |left| {
            left.min(self.limits.longest_wait)
        });
        let ValidWait { wait, heartbeat } =
            validate::wait(request.get_ref(), longest, self.monitor.own_probes())
                .map_err(|bad| status::invalid(&bad))?;
        if wait.level == Level::Jobs && !self.jobs {
            return Err(status::jobs_not_allowed());
        }
        let permit = self.admit(&self.waits, "waits", self.limits.waits)?;
        let limit = wait.limit.unwrap_or(longest);
        let read = limit.saturating_add(self.limits.unread);
        http2_stream::end_at(Some(after(Instant::now(), read)));
        let wait = self.follow(&identity(&request), wait)?;
        Ok(Response::new(messages(
            wait,
            heartbeat,
            self.drain.clone(),
            permit,
        )))
    }

    type WatchNodesStream = watch::WatchStream;

    async fn watch_nodes(
        &self,
        request: Request<pb::WatchNodesRequest>,
    ) -> Result<Response<watch::WatchStream>, Status> {
        let watch = validate::watch(request.get_ref()).map_err(|bad| status::invalid(&bad))?;
        let permit = self.admit(&self.waits, "waits and watches", self.limits.waits)?;
        http2_stream::end_at(None);
        let identity = identity(&request);
        let watching = self.monitor.watch(&identity, watch.selector, watch.level);
        Ok(Response::new(watch::messages(
            watching,
            watch.heartbeat,
            deadline::of_caller(request.metadata()),
            self.limits.unread_watch,
            self.drain.clone(),
            permit,
        )))
    }

    async fn list_nodes(
        &self,
        request: Request<pb::ListNodesRequest>,
    ) -> Result<Response<pb::ListNodesResponse>, Status> {
        http2_stream::end_at(None);
        let list = validate::list(request.get_ref(), &self.tokens);
        let list = list.map_err(|bad| status::invalid(&bad))?;
        let _permit = self.admit(
            &self.looks,
            "snapshots, checks and lists",
            self.limits.looks,
        )?;
        let identity = identity(&request);
        let left = deadline::of_caller(request.metadata());
        let late = |left| status::deadline(None, None, left);
        let page = Box::pin(self.page(&identity, &list));
        Ok(Response::new(self.within(left, late, page).await??))
    }

    async fn list_probes(
        &self,
        _request: Request<pb::ListProbesRequest>,
    ) -> Result<Response<pb::ListProbesResponse>, Status> {
        http2_stream::end_at(None);
        let probes = self.monitor.probes();
        let probes = probes.map(|probe| convert::probe(&probe)).collect();
        Ok(Response::new(pb::ListProbesResponse { probes }))
    }
}

/// The messages of a wait, followed by its status. Dropping the stream ends the wait; this happens
/// when the client goes away.
type WaitStream = Pin<Box<dyn Stream<Item = Result<pb::WaitReadyResponse, Status>> + Send>>;

/// The stage of a stream of messages.
enum Stage {
    Waiting(Box<Wait>),
    /// The result was sent, and its status comes next.
    Ending(Arc<WaitResult>),
    Over,
}

/// What one turn of a stream of messages ends with.
enum Turn {
    Event(Option<WaitEvent>),
    Heartbeat,
}

fn messages(
    wait: Wait,
    heartbeat: Option<Duration>,
    drain: Drain,
    permit: OwnedSemaphorePermit,
) -> WaitStream {
    let start = (Stage::Waiting(Box::new(wait)), drain, permit);
    Box::pin(stream::unfold(
        start,
        move |(stage, mut drain, permit)| async move {
            let (item, stage) = match stage {
                Stage::Over => return None,
                Stage::Ending(result) => (Err(status::wait(&result)?), Stage::Over),
                Stage::Waiting(mut wait) => {
                    let turn = tokio::select! {
                        biased;
                        event = wait.next() => Turn::Event(event),
                        () = drain.started() => Turn::Event(None),
                        () = deadline::passed(heartbeat) => Turn::Heartbeat,
                    };
                    match turn {
                        Turn::Heartbeat => (Ok(convert::heartbeat()), Stage::Waiting(wait)),
                        Turn::Event(None) => (Err(status::draining()), Stage::Over),
                        Turn::Event(Some(event)) => {
                            let message = Ok(convert::wait_event(&event));
                            let stage = match event {
                                WaitEvent::Result(result) => Stage::Ending(result),
                                WaitEvent::Node(_)
                                | WaitEvent::Removed(_)
                                | WaitEvent::Cluster(_) => Stage::Waiting(wait),
                            };
                            (message, stage)
                        }
                    }
                }
            };
            Some((item, (stage, drain, permit)))
        },
    ))
}
