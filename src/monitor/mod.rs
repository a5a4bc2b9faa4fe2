//! The library's front door: snapshot, check and wait over nodes, free of gRPC and of Docker types.

mod causes;
mod diagnosis;
mod driver;
mod list;
mod members;
mod outbox;
#[cfg(test)]
mod simulation;
mod wait;
mod wait_job;
mod wait_node;
mod wait_nodes;
mod wait_reports;
mod watch;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::{Stream, StreamExt as _, stream};
use tokio::time::Instant;
use tracing::Instrument as _;

pub use crate::link::{InvalidLinkChoice, LinkChoice};
pub use causes::Cause;
use driver::Driver;
pub use list::NodePage;
pub use wait::{
    ClusterReport, ClusterTarget, FailurePolicy, NodeReport, NodeState, Verdict, Wait, WaitEvent,
    WaitRequest, WaitResult, WaitTarget,
};
pub use watch::{Watch, WatchEvent};

use crate::{
    cluster::directory::Directory,
    container::Container,
    engine::ContainerEngine,
    environment::{Environment, after},
    event::ContainerEvent,
    link::Links,
    node::{Identity, LabelKeys, NodeName, Part, Profile, Role, Visibility},
    probe::{Probe, ProbeError, Service},
    reason::ReasonCode,
    report::{ProbeReport, ProbeResult},
    watcher::{
        Caller, Context, EvaluatedProbe, Evaluation, OneShot, ProbeSet, Settings, Span, Watchers,
    },
};

/// How long a check may take, unless who asks says otherwise.
pub const CHECK_LIMIT: Duration = Duration::from_secs(10);

/// The delay between two looks of a wait, unless who asks says otherwise.
pub const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// For how long the way into a node is kept open for the next look, unless a monitor is told
/// otherwise. No more than 256 are kept.
pub const KEEP_LINKS: Duration = Duration::from_secs(10);

/// For how long a node is followed after its last client has gone, unless a monitor is told otherwise.
/// It is asked nothing meanwhile.
pub const LINGER: Duration = Duration::from_secs(2);

/// What a monitor goes by.
#[derive(Debug, Clone)]
pub struct Options {
    /// The keys of the labels that say what a container plays.
    pub labels: LabelKeys,
    /// Which containers exist for those who ask; all by default.
    pub visibility: Visibility,
    /// Whether the end of a failed unit's journal is read and told; it is by default.
    pub journal: bool,
    /// The profile of nodes whose labels and clients name none; systemd by default.
    pub profile: Profile,
    /// Which ways into a node may be taken; the best that works by default.
    pub link: LinkChoice,
    /// For how long the way into a node is kept open for the next look; [`KEEP_LINKS`] by default.
    pub keep_links: Duration,
    /// Whether the engine's events are subscribed to while anybody waits, as they are by default;
    /// without them, containers are polled.
    pub events: bool,
    /// For how long a node is followed after its last client has gone; [`LINGER`] by default.
    pub linger: Duration,
    /// The operator's own probes ([`Probe::own_ones`]), which nodes of their roles have to pass as well; none by
    /// default.
    pub probes: Vec<Probe>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            labels: LabelKeys::default(),
            visibility: Visibility::default(),
            journal: true,
            profile: Profile::default(),
            link: LinkChoice::default(),
            keep_links: KEEP_LINKS,
            events: true,
            linger: LINGER,
            probes: Vec::new(),
        }
    }
}

/// Looks at nodes. A clone shares everything.
#[derive(Clone)]
pub struct Monitor {
    context: Arc<Context>,
    watchers: Watchers,
    directory: Directory,
}

/// Why a monitor has nothing to tell of a node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MonitorError {
    /// There is no such container, or none that may be looked at.
    #[error("there is no container {node}")]
    NodeNotFound {
        /// The node.
        node: NodeName,
    },
    /// It could not be looked at, which says nothing about the node.
    #[error("{node}: {probe}: could not tell")]
    CouldNotTell {
        /// The node.
        node: NodeName,
        /// The probe.
        probe: String,
        /// Why.
        source: ProbeError,
    },
    /// The engine could not be asked for its containers.
    #[error("the nodes could not be listed")]
    NoList {
        /// Why.
        source: ProbeError,
    },
}

/// Why [`Monitor::until_ready`] gave up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotReady {
    /// The node can no longer become ready: the node, the probe and its reason.
    #[error("{0}")]
    Terminal(String),
    /// The engine that the wait ran on is shutting down.
    #[error("the wait's tasks have ended")]
    Ended,
}

/// What one look at a node found.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Snapshot {
    /// The node.
    pub node: NodeName,
    /// The role that was looked for: as given, else the label's.
    pub role: Option<Role>,
    /// Container and systemd passed, and every service is true.
    pub ready: bool,
    /// Whether each of the node's services is up.
    pub services: BTreeMap<Service, bool>,
    /// The reports of container, systemd and each service.
    pub probes: Vec<ProbeReport>,
    /// When the look was over.
    pub observed: SystemTime,
}

impl Monitor {
    /// A monitor over a container engine.
    pub fn new(engine: impl ContainerEngine, options: Options, environment: Environment) -> Self {
        let engine: Arc<dyn ContainerEngine> = Arc::new(engine);
        let links = Links::new(
            Arc::clone(&engine),
            environment.clone(),
            options.link,
            options.keep_links,
        );
        Self::over(engine, links, options, environment)
    }

    fn over(
        engine: Arc<dyn ContainerEngine>,
        links: Links,
        options: Options,
        environment: Environment,
    ) -> Self {
        let context = Arc::new(Context::new(
            engine,
            links,
            environment,
            Settings {
                labels: options.labels,
                visibility: options.visibility,
                journal: options.journal,
                profile: options.profile,
                own: options.probes.into(),
            },
        ));
        let watchers = Watchers::new(Arc::clone(&context), options.events, options.linger);
        Self {
            directory: Directory::new(Arc::clone(&context), watchers.feed().clone()),
            watchers,
            context,
        }
    }

    /// Returns the probes that can be named: the built-in ones in the order in which they run, then the
    /// operator's own.
    pub fn probes(&self) -> impl Iterator<Item = Probe> {
        let builtin = Probe::names().filter_map(Probe::named);
        builtin.chain(self.context.settings.own.iter().cloned())
    }

    /// Returns the operator's own probes.
    #[must_use]
    pub fn own_probes(&self) -> &[Probe] {
        &self.context.settings.own
    }

    /// Returns how many nodes would be followed if these were, too. A node is followed while a wait
    /// names it, and for a while after the last one.
    #[must_use]
    pub fn followed_with(&self, identity: &Identity, nodes: &[WaitTarget]) -> usize {
        let names = nodes.iter().map(|target| &target.node);
        self.watchers.followed_with(identity, names)
    }

    /// What the monitor takes from the world around it.
    #[must_use]
    pub fn environment(&self) -> &Environment {
        &self.context.environment
    }

    /// Looks at a node once: at all its units in one question, and on a controller at slurmctld's
    /// RPC answer in another. Role and profile are the labels' unless given.
    ///
    /// A failed unit is `Failed` here, not `Terminal`: that takes a second look.
    pub async fn snapshot(
        &self,
        identity: &Identity,
        node: &NodeName,
        part: impl Into<Part>,
    ) -> Result<Snapshot, MonitorError> {
        let environment = &self.context.environment;
        let limit = || environment.now() + CHECK_LIMIT;
        let caller = Caller::new(identity, environment);
        let (container, span) = self.container(&caller, node, limit()).await?;
        let set = ProbeSet::snapshot(part);
        let mut look = OneShot::new(&self.context, &caller, node, container, span, set);
        let looking = tracing::debug_span!("snapshot", %node);
        let Evaluation { kind, reports, .. } = look.run(limit).instrument(looking).await;
        let probes = reports.into_iter().map(|report| self.report(node, report));
        let probes = probes.collect::<Result<Vec<_>, _>>()?;
        let passed = |service: Service| {
            let mut reports = probes.iter();
            reports.any(|report| report.probe == service.as_str() && report.result.is_passed())
        };
        Ok(Snapshot {
            node: node.clone(),
            role: kind.role,
            ready: probes.iter().all(|report| report.result.is_passed()),
            services: Service::of(kind.role, kind.profile)
                .map(|service| (service, passed(service)))
                .collect(),
            probes,
            observed: environment.wall(),
        })
    }

    /// Runs one probe of a node once, and answers what is now. It takes at most `limit`, which is for
    /// the caller to choose; [`CHECK_LIMIT`] is usual. When that is over, the outcome is `Failed` if
    /// the node was slow, and [`MonitorError::CouldNotTell`] if the engine was.
    ///
    /// A unit that has failed is looked at once more, 100 ms later, before it is called `Terminal`; an
    /// exited container that its restart policy may start again, 1 s later.
    pub async fn check(
        &self,
        identity: &Identity,
        node: &NodeName,
        probe: &Probe,
        part: impl Into<Part>,
        limit: Duration,
    ) -> Result<ProbeReport, MonitorError> {
        let by = after(self.context.environment.now(), limit);
        let caller = Caller::new(identity, &self.context.environment);
        let (container, span) = self.container(&caller, node, by).await?;
        let set = ProbeSet::check(part, probe.clone());
        let mut look = OneShot::new(&self.context, &caller, node, container, span, set);
        let looking = tracing::debug_span!("check", %node, probe = probe.name());
        let evaluation = look.settle(by).instrument(looking).await;
        let evaluation =
            evaluation.map_err(|error| could_not_tell(node, "container", error.into()))?;
        let report = evaluation.reports.into_iter().next();
        let report = report.ok_or_else(|| {
            could_not_tell(
                node,
                probe.name(),
                ProbeError::new(ReasonCode::NotAnsweredYet, "it was not run"),
            )
        })?;
        self.report(node, report)
    }

    /// Waits until nodes are ready. The wait goes on by itself until it has a result or is dropped;
    /// dropping it ends everything that it started.
    ///
    /// The request's limit is the only one: without it, the wait ends when its nodes are ready or one
    /// of them is terminal.
    #[must_use]
    pub fn wait(&self, identity: &Identity, request: WaitRequest) -> Wait {
        self.start(identity, request, stream::pending().boxed())
    }

    /// Waits as [`Monitor::wait`] does, and is also told of events by the caller, beside the engine's
    /// own or, with [`Options::events`] off, instead of them.
    ///
    /// An event has its node looked at, at once; it decides nothing. Those of other containers are
    /// ignored. What the caller tells is never taken to be all that happens, so nodes are polled as if
    /// there were no such events; once the stream has ended, that is all.
    #[must_use]
    pub fn wait_with_events(
        &self,
        identity: &Identity,
        request: WaitRequest,
        events: impl Stream<Item = ContainerEvent> + Send + 'static,
    ) -> Wait {
        self.start(identity, request, events.boxed())
    }

    fn start(&self, identity: &Identity, request: WaitRequest, events: driver::Events) -> Wait {
        let environment = self.environment().clone();
        let names = names(&request.nodes);
        let (mut driver, told) = Driver::new(
            &self.watchers,
            &self.directory,
            environment,
            identity,
            request,
            events,
        );
        // The identifier tells waits apart in the log; the nodes' own spans tell the rest.
        let id = self.environment().seed() >> 32;
        let span = tracing::debug_span!("wait", id = format_args!("{id:08x}"), nodes = names);
        let run = async move { driver.run().await };
        let task = self.environment().spawn(run.instrument(span));
        Wait::new(told, task)
    }

    /// Waits until one node is ready, polling it at an interval (zero means [`POLL_INTERVAL`]); for
    /// more nodes, progress or a limit there is [`Monitor::wait`]. Without probes, those of the node's
    /// role are run.
    ///
    /// It has no limit of its own: dropping the future ends it.
    pub async fn until_ready(
        &self,
        identity: &Identity,
        target: WaitTarget,
        probes: Vec<Probe>,
        interval: Duration,
    ) -> Result<(), NotReady> {
        let request = WaitRequest {
            nodes: vec![target],
            probes,
            poll_interval: interval,
            ..WaitRequest::default()
        };
        match self.wait(identity, request).result().await {
            Some(result) if result.verdict == Verdict::Ready => Ok(()),
            Some(result) => Err(NotReady::Terminal(result.message.clone())),
            None => Err(NotReady::Ended),
        }
    }

    /// The container, and when it was inspected.
    async fn container(
        &self,
        caller: &Caller,
        node: &NodeName,
        by: Instant,
    ) -> Result<(Container, Span), MonitorError> {
        let (asked, found) = self.context.container(caller, node, by).await;
        match found {
            Ok(Some(container)) => {
                let span = Span::new(asked, self.context.environment.now());
                Ok((container, span))
            }
            Ok(None) => Err(MonitorError::NodeNotFound { node: node.clone() }),
            Err(error) => Err(could_not_tell(node, "container", error.into())),
        }
    }

    /// A report; an error where the probe could not be looked at.
    fn report(&self, node: &NodeName, report: EvaluatedProbe) -> Result<ProbeReport, MonitorError> {
        match &report.found.result {
            ProbeResult::Unknown(reason) => {
                let error = ProbeError(reason.clone());
                Err(could_not_tell(node, &report.probe, error))
            }
            ProbeResult::Looked(_) | ProbeResult::Skipped(_) => Ok(self.dated(report)),
        }
    }

    /// The report, of what has been so since it was answered: to somebody else just before, maybe.
    fn dated(&self, report: EvaluatedProbe) -> ProbeReport {
        let environment = &self.context.environment;
        let answered = report.found.span.map(|span| span.answered);
        let age = answered.map(|answered| environment.now() - answered);
        report.into_report(environment.wall() - age.unwrap_or_default())
    }
}

impl std::fmt::Debug for Monitor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Monitor").finish_non_exhaustive()
    }
}

/// The nodes of a wait, as its span names them: the first few, and how many more there are.
fn names(targets: &[WaitTarget]) -> String {
    const NAMED: usize = 3;
    let named: Vec<_> = targets
        .iter()
        .take(NAMED)
        .map(|target| target.node.as_str())
        .collect();
    match targets.len().saturating_sub(NAMED) {
        0 => named.join(","),
        more => format!("{} and {more} more", named.join(",")),
    }
}

fn could_not_tell(node: &NodeName, probe: &str, source: ProbeError) -> MonitorError {
    MonitorError::CouldNotTell {
        node: node.clone(),
        probe: probe.to_owned(),
        source,
    }
}
