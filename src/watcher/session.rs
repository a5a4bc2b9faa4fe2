//! One run of one node's container: what can be asked of it, and what it means that there is no reply.
//!
//! Here the difference is made between what the node keeps back ([`QueryError::Node`]), what readyd or
//! the engine could not look at ([`QueryError::Unknown`]), and a container that ended under the query
//! ([`QueryError::Ended`]).

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::time::Instant;

use super::{
    confirm::Confirmations,
    context::{Caller, Context},
    probe_set::Mode,
    schedule::{ENGINE_LAG, STILL_RUNNING},
    span::Span,
    watch::Watch,
};
use crate::{
    container::{Container, State},
    engine::{CALL_LIMIT, EngineError},
    environment::margin,
    inbox::Inbox,
    link::{HOST, Lease, LinkError, Reply},
    node::NodeName,
    probe::{Finding, Outcome, ProbeError, container},
    reason::{Reason, ReasonCode},
    report::ProbeResult,
    text::chain,
    unit::{SystemdState, UnitQuestion},
};

/// The way of a finding that only asked the engine.
pub(crate) const ENGINE: &str = "engine";

/// A run of a node's container, and the way into it.
pub(crate) struct NodeSession {
    pub(super) context: Arc<Context>,
    caller: Caller,
    pub(super) node: NodeName,
    pub(super) container: Container,
    pub(super) link: Lease,
    /// When no setting was found to say that the node does without a daemon, by the daemon's name.
    pub(super) no_setting: Mutex<HashMap<&'static str, Instant>>,
}

/// What systemd said.
#[derive(Debug)]
pub(super) struct SystemdReply {
    pub(super) via: &'static str,
    pub(super) result: Result<SystemdState, QueryError>,
    pub(super) span: Span,
}

impl SystemdReply {
    /// Whether signals will tell of every change since.
    pub(super) fn is_subscribed(&self) -> bool {
        self.result.as_ref().is_ok_and(|state| state.subscribed)
    }
}

/// What a port, a command or a custom check said, and what it means.
#[derive(Debug, Clone)]
pub(super) struct ProbeReply {
    pub(super) via: &'static str,
    pub(super) result: Result<Finding, QueryError>,
    pub(super) span: Span,
    /// When it may be asked for again; `None` if at any time.
    pub(super) again: Option<Instant>,
    pub(super) watch: Watch,
}

impl ProbeReply {
    pub(super) fn has_passed(&self) -> bool {
        self.result.as_ref().is_ok_and(Finding::has_passed)
    }
}

/// Why there is no reply.
#[derive(Debug, Clone)]
pub(super) enum QueryError {
    /// The node keeps it back.
    Node(Reason),
    /// It could not be looked at.
    Unknown(ProbeError),
    /// The container is no longer the run that was asked, or does not run any more: what has become of
    /// it.
    Ended(Outcome),
}

impl QueryError {
    fn node(error: &LinkError) -> Self {
        Self::Node(Reason::new(error.code(), chain(error)))
    }

    fn unknown(error: &LinkError) -> Self {
        Self::Unknown(ProbeError::new(error.code(), chain(error)))
    }
}

impl From<EngineError> for QueryError {
    fn from(error: EngineError) -> Self {
        Self::Unknown(error.into())
    }
}

impl NodeSession {
    pub(super) fn new(
        context: Arc<Context>,
        caller: Caller,
        node: NodeName,
        container: Container,
    ) -> Self {
        Self {
            link: context.links.lease(&container),
            context,
            caller,
            node,
            container,
            no_setting: Mutex::default(),
        }
    }

    /// The same of a container that is inspected first, and has to run.
    pub(super) async fn of_running(
        context: &Arc<Context>,
        caller: &Caller,
        node: NodeName,
        by: Instant,
    ) -> Result<Self, QueryError> {
        let (_, found) = context.container(caller, &node, by).await;
        let why = match found? {
            Some(container) if container.state == State::Running => {
                return Ok(Self::new(
                    Arc::clone(context),
                    caller.clone(),
                    node,
                    container,
                ));
            }
            Some(_) => format!("container {node} does not run any more"),
            None => format!("container {node} does not exist any more"),
        };
        let ended = Outcome::failed(ReasonCode::ContainerEnded, why);
        Err(QueryError::Ended(ended))
    }

    /// Asks systemd. Signals of changes since then reach the inbox, if there is one.
    pub(super) async fn systemd(
        &self,
        question: &UnitQuestion,
        inbox: Option<&Arc<Inbox>>,
        by: Instant,
    ) -> SystemdReply {
        let start = self.now();
        let asking = self.link.systemd(question, inbox, self.reply_by(by));
        let (via, result) = self.guarded(asking, by).await;
        let span = Span::new(start, self.now());
        SystemdReply { via, result, span }
    }

    /// The way into the node has signalled less than was seen: it is made anew.
    pub(super) fn renew_link(&self) {
        self.link.renew();
    }

    /// Waits for a reply for as long as the container runs, and tells what it means if there is none.
    pub(super) async fn guarded<T>(
        &self,
        asking: impl Future<Output = Reply<T>>,
        by: Instant,
    ) -> (&'static str, Result<T, QueryError>) {
        let trouble = Mutex::new(None);
        let reply = tokio::select! {
            biased;
            reply = asking => reply,
            () = self.stops_running(&trouble) => Reply {
                via: ENGINE,
                result: Err(LinkError::NotRunning),
            },
        };
        let via = reply.via;
        let error = match reply.result {
            Ok(value) => return (via, Ok(value)),
            Err(error) => error,
        };
        let trouble = trouble.into_inner().unwrap_or_else(PoisonError::into_inner);
        let said = chain(&error);
        let explained = self.explain(error, via, trouble, by).await;
        tracing::debug!(node = %self.node, via, error = said, means = ?explained, "no reply");
        (via, Err(explained))
    }

    async fn explain(
        &self,
        error: LinkError,
        via: &'static str,
        trouble: Option<ProbeError>,
        by: Instant,
    ) -> QueryError {
        match (error, trouble) {
            (LinkError::NotRunning, _) => match self.ended(by).await {
                Ok(Some(ended)) => QueryError::Ended(ended),
                Ok(None) => QueryError::Node(Reason::new(
                    ReasonCode::NoAnswer,
                    "the way into the node ended in the node",
                )),
                Err(error) => error.into(),
            },
            // What broke may have done so because the container ended.
            (
                error @ (LinkError::Broken(_)
                | LinkError::Engine(
                    EngineError::Lost { .. } | EngineError::NotStarted { .. },
                )),
                _,
            ) => match self.ended(by).await {
                Ok(Some(ended)) => QueryError::Ended(ended),
                Ok(None) => QueryError::unknown(&error),
                Err(error) => error.into(),
            },
            // What is late while the engine does not answer is not the node's fault.
            (LinkError::Slow { .. }, Some(trouble)) => QueryError::Unknown(trouble),
            // Nor is what went through an engine that has just stopped answering.
            (error @ LinkError::Slow { .. }, None) if via != HOST => match self.inspect(by).await {
                Ok(_) => QueryError::node(&error),
                Err(error) => error.into(),
            },
            (
                error @ (LinkError::Slow { .. } | LinkError::Node(_) | LinkError::NoBus { .. }),
                _,
            ) => QueryError::node(&error),
            (
                error @ (LinkError::Engine(_) | LinkError::Busy { .. } | LinkError::Unusable(_)),
                _,
            ) => QueryError::unknown(&error),
        }
    }

    /// Until when the node may reply. What is left then is for the engine, which has to answer for it to
    /// be the node that was slow.
    pub(super) fn reply_by(&self, by: Instant) -> Instant {
        let now = self.now();
        let left = by.saturating_duration_since(now);
        now + left.saturating_sub(margin(left))
    }

    /// What the container is now, if it is seen to have stopped running under the query.
    async fn ended(&self, by: Instant) -> Result<Option<Outcome>, EngineError> {
        let environment = &self.context.environment;
        let patience = environment.now() + ENGINE_LAG;
        let now = loop {
            let now = self.inspect(by).await?;
            if environment.now() >= patience || now.as_ref() != Some(&self.container) {
                break now;
            }
            environment.sleep(ENGINE_LAG / 10).await;
        };
        Ok(self.no_longer(now.as_ref()))
    }

    /// Completes once the container is seen not to run any more: a paused one would never reply.
    /// Leaves the last error that kept readyd from seeing it.
    async fn stops_running(&self, trouble: &Mutex<Option<ProbeError>>) {
        let environment = &self.context.environment;
        loop {
            environment.sleep(STILL_RUNNING).await;
            let now = self.inspect(environment.now() + CALL_LIMIT).await;
            let mut trouble = trouble.lock().unwrap_or_else(PoisonError::into_inner);
            match now {
                Ok(now) if self.no_longer(now.as_ref()).is_none() => *trouble = None,
                Ok(_) => return,
                Err(error) => *trouble = Some(error.into()),
            }
        }
    }

    async fn inspect(&self, by: Instant) -> Result<Option<Container>, EngineError> {
        let (_, found) = self.context.container(&self.caller, &self.node, by).await;
        found
    }

    /// What has become of the run that was asked, unless it still is the same and runs.
    fn no_longer(&self, now: Option<&Container>) -> Option<Outcome> {
        let node = &self.node;
        let Some(now) = now else {
            return Some(container::missing(node, true));
        };
        let span = Span::new(self.now(), self.now());
        let finding = container::judge(node, now);
        let found = Confirmations::default().judge(finding, ENGINE, span, Mode::Snapshot);
        match found.result {
            result if result.is_passed() && now.is_same_run(&self.container) => None,
            result if result.is_passed() => Some(Outcome::failed(
                ReasonCode::ContainerRestarting,
                format!("container {node} was started again while it was looked at"),
            )),
            ProbeResult::Looked(outcome) => Some(outcome),
            ProbeResult::Unknown(_) | ProbeResult::Skipped(_) => None,
        }
    }

    pub(super) fn now(&self) -> Instant {
        self.context.environment.now()
    }
}
