//! The library's front door: snapshot, check and wait over nodes, free of gRPC and of Docker types.

mod driver;
#[cfg(test)]
mod simulation;
mod wait;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::{Stream, StreamExt as _, stream};
use tokio::time::Instant;

pub use crate::link::LinkChoice;
use driver::Driver;
pub use wait::{
    FailurePolicy, NodeReport, NodeState, Verdict, Wait, WaitEvent, WaitRequest, WaitResult,
    WaitTarget,
};

use crate::{
    environment::{Environment, after},
    event::ContainerEvent,
    link::Links,
    node::{Identity, LabelKeys, NodeName, Role, Visibility},
    probe::{CouldNotLook, Finding, Outcome, Probe, Service},
    report::{ProbeReport, ProbeResult},
    runtime::{Container, Runtime},
    text::Detail,
    watcher::{Depth, Look, Sight, Watchers, second::CONFIRMED, step::Found},
};

/// How long a check may take, unless who asks says otherwise.
pub const CHECK_LIMIT: Duration = Duration::from_secs(10);

/// The delay between two looks of a wait, unless who asks says otherwise.
pub const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// For how long the way into a node is kept open for the next look, unless an engine is told
/// otherwise. No more than 256 are kept.
pub const KEEP_LINKS: Duration = Duration::from_secs(10);

/// For how long a node is followed after its last client has gone, unless an engine is told otherwise.
/// It is asked nothing meanwhile.
pub const LINGER: Duration = Duration::from_secs(2);

/// What an engine goes by.
#[derive(Debug, Clone)]
pub struct Options {
    /// The keys of the labels that say what a container plays.
    pub labels: LabelKeys,
    /// Which containers exist for those who ask; all by default.
    pub visibility: Visibility,
    /// Whether the end of a failed unit's journal is read and told; it is by default.
    pub journal: bool,
    /// Which ways into a node may be taken; the best that works by default.
    pub link: LinkChoice,
    /// For how long the way into a node is kept open for the next look; [`KEEP_LINKS`] by default.
    pub keep_links: Duration,
    /// Whether the runtime's events are subscribed to while anybody waits, as they are by default;
    /// without them, containers are polled.
    pub events: bool,
    /// For how long a node is followed after its last client has gone; [`LINGER`] by default.
    pub linger: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            labels: LabelKeys::default(),
            visibility: Visibility::default(),
            journal: true,
            link: LinkChoice::default(),
            keep_links: KEEP_LINKS,
            events: true,
            linger: LINGER,
        }
    }
}

/// Looks at nodes. A clone shares everything.
#[derive(Clone)]
pub struct Engine {
    sight: Arc<Sight>,
    watchers: Watchers,
}

/// Why an engine has nothing to tell of a node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// There is no such container, or none that may be looked at.
    #[error("there is no container {node}")]
    NodeNotFound {
        /// The node.
        node: NodeName,
    },
    /// It could not be looked at, which says nothing about the node.
    #[error("{node}: {probe}: could not tell: {source}")]
    CouldNotLook {
        /// The node.
        node: NodeName,
        /// The probe.
        probe: String,
        /// Why.
        source: CouldNotLook,
    },
}

/// Why [`Engine::until_ready`] gave up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotReady {
    /// The node can no longer become ready: the node, the probe and its reason.
    #[error("{0}")]
    Terminal(String),
    /// The runtime that the wait ran on is shutting down.
    #[error("the wait's tasks have ended")]
    Ended,
}

/// What one look at a node found.
#[derive(Debug, Clone, PartialEq, Eq)]
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

impl Engine {
    /// An engine over a container runtime.
    pub fn new(runtime: impl Runtime, options: Options, environment: Environment) -> Self {
        let runtime: Arc<dyn Runtime> = Arc::new(runtime);
        let links = Links::new(
            Arc::clone(&runtime),
            environment.clone(),
            options.link,
            options.keep_links,
        );
        Self::over(runtime, links, options, environment)
    }

    fn over(
        runtime: Arc<dyn Runtime>,
        links: Links,
        options: Options,
        environment: Environment,
    ) -> Self {
        let sight = Arc::new(Sight {
            runtime,
            links,
            environment,
            labels: options.labels,
            visibility: options.visibility,
            journal: options.journal,
        });
        Self {
            watchers: Watchers::new(Arc::clone(&sight), options.events, options.linger),
            sight,
        }
    }

    /// What the engine takes from the world around it.
    #[must_use]
    pub fn environment(&self) -> &Environment {
        &self.sight.environment
    }

    /// Looks at a node once: at all its units in one question, and on a controller at slurmctld's
    /// RPC answer in another. The role is the label's unless given.
    ///
    /// A failed unit is `Failed` here, not `Terminal`: that takes a second look.
    pub async fn snapshot(
        &self,
        identity: &Identity,
        node: &NodeName,
        role: Option<Role>,
    ) -> Result<Snapshot, EngineError> {
        let now = || self.sight.environment.now();
        let start = now();
        let container = self.container(identity, node, start + CHECK_LIMIT).await?;
        let labelled = self.sight.role(node, &container);
        let role = role.map(Ok).or(labelled.transpose()).transpose();
        let known = role.clone().ok().flatten();

        let probes = snapshot_probes(known);
        let mut look = Look::new(
            &self.sight,
            identity,
            node,
            container,
            &probes,
            Depth::Snapshot,
            role.err(),
        );
        let mut reports = Vec::with_capacity(probes.len());
        for probe in &probes {
            // The inspection is part of the first report.
            let started = if reports.is_empty() { start } else { now() };
            let found = look.probe(probe, now() + CHECK_LIMIT).await;
            let found = found.map_err(|source| could_not_look(node, probe, source))?;
            let (outcome, detail) = match found.finding {
                Finding::Clear(outcome) => (outcome, Detail::default()),
                Finding::Unproven { .. } => (Outcome::passed(), Detail::default()),
                Finding::Dead { reason, detail, .. } => (Outcome::Failed(reason), detail),
            };
            reports.push(self.report(probe, outcome, detail, found.via, started));
        }

        let passed = |name: &str| {
            let report = reports
                .iter()
                .find(|report: &&ProbeReport| report.probe == name);
            report.is_some_and(|report| report.result.is_passed())
        };
        let services: BTreeMap<_, _> = Service::of_node(known)
            .map(|service| (service, passed(service.as_str())))
            .collect();
        Ok(Snapshot {
            node: node.clone(),
            role: known,
            ready: reports.iter().all(|report| report.result.is_passed()),
            services,
            probes: reports,
            observed: self.sight.environment.wall(),
        })
    }

    /// Runs one probe of a node once, and answers what is now. It takes at most `limit`, which is for
    /// the caller to choose; [`CHECK_LIMIT`] is usual. When that is over, the outcome is `Failed` if
    /// the node was slow, and [`EngineError::CouldNotLook`] if the engine was.
    ///
    /// A unit that has failed is looked at once more, 100 ms later, before it is called `Terminal`.
    pub async fn check(
        &self,
        identity: &Identity,
        node: &NodeName,
        probe: &Probe,
        role: Option<Role>,
        limit: Duration,
    ) -> Result<ProbeReport, EngineError> {
        let start = self.sight.environment.now();
        let by = after(start, limit);
        let container = self.container(identity, node, by).await?;
        let bad_role = match role {
            None => self.sight.role(node, &container).err(),
            Some(_) => None,
        };
        let probes = std::slice::from_ref(probe);
        let depth = Depth::Check;
        let mut look = Look::new(
            &self.sight,
            identity,
            node,
            container,
            probes,
            depth,
            bad_role,
        );
        let could_not = |source| could_not_look(node, probe, source);
        let first = look.probe(probe, by).await.map_err(could_not)?;
        let (outcome, detail, via) = match first.finding {
            Finding::Clear(outcome) => (outcome, Detail::default(), first.via),
            Finding::Unproven { .. } => (Outcome::passed(), Detail::default(), first.via),
            Finding::Dead { .. } => self
                .confirm(&mut look, probe, first, by)
                .await
                .map_err(could_not)?,
        };
        Ok(self.report(probe, outcome, detail, via, start))
    }

    /// The second look at a unit that has failed; without time for one, it is no more than failed.
    async fn confirm(
        &self,
        look: &mut Look,
        probe: &Probe,
        first: Found,
        by: Instant,
    ) -> Result<(Outcome, Detail, &'static str), CouldNotLook> {
        let Finding::Dead {
            proof,
            reason,
            detail,
        } = first.finding
        else {
            return Ok((Outcome::failed("not failed"), Detail::default(), first.via));
        };
        let environment = &self.sight.environment;
        if environment.now() + CONFIRMED >= by {
            return Ok((Outcome::Failed(reason), detail, first.via));
        }
        environment.sleep(CONFIRMED).await;
        look.again();
        let second = look.probe(probe, by).await?;
        Ok(match second.finding {
            Finding::Dead {
                proof: now,
                reason,
                detail,
            } if now == proof => (Outcome::Terminal(reason), detail, second.via),
            Finding::Dead { reason, detail, .. } => (Outcome::Failed(reason), detail, second.via),
            Finding::Clear(outcome) => (outcome, Detail::default(), second.via),
            Finding::Unproven { .. } => (Outcome::passed(), Detail::default(), second.via),
        })
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

    /// Waits as [`Engine::wait`] does, and is also told of events by the caller, beside the runtime's
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
        let (mut driver, views) =
            Driver::new(&self.watchers, environment, identity, request, events);
        let task = self.environment().spawn(async move { driver.run().await });
        Wait::new(views, task)
    }

    /// Waits until one node is ready, polling it at an interval (zero means [`POLL_INTERVAL`]); for
    /// more nodes, progress or a limit there is [`Engine::wait`]. Without probes, those of the node's
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

    async fn container(
        &self,
        identity: &Identity,
        node: &NodeName,
        by: Instant,
    ) -> Result<Container, EngineError> {
        match self.sight.container(identity, node, by).await {
            Ok(Some(container)) => Ok(container),
            Ok(None) => Err(EngineError::NodeNotFound { node: node.clone() }),
            Err(error) => Err(EngineError::CouldNotLook {
                node: node.clone(),
                probe: "container".to_owned(),
                source: error.into(),
            }),
        }
    }

    fn report(
        &self,
        probe: &Probe,
        outcome: Outcome,
        detail: Detail,
        via: &'static str,
        started: Instant,
    ) -> ProbeReport {
        ProbeReport {
            probe: probe.name().to_owned(),
            result: ProbeResult::Looked(outcome),
            detail,
            via,
            elapsed: self.sight.environment.now() - started,
            since: self.sight.environment.wall(),
        }
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").finish_non_exhaustive()
    }
}

/// Container, systemd, and each of the node's services.
fn snapshot_probes(role: Option<Role>) -> Vec<Probe> {
    let mut probes: Vec<_> = ["container", "systemd"]
        .into_iter()
        .filter_map(Probe::named)
        .collect();
    probes.extend(Service::of_node(role).map(Service::probe));
    probes
}

fn could_not_look(node: &NodeName, probe: &Probe, source: CouldNotLook) -> EngineError {
    EngineError::CouldNotLook {
        node: node.clone(),
        probe: probe.name().to_owned(),
        source,
    }
}
