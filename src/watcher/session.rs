//! One run of one node's container: what can be asked of it, and what it means that there is no reply.
//!
//! Here the difference is made between what the node keeps back ([`QueryError::Node`]), what readyd or
//! the engine could not look at ([`QueryError::Unknown`]), and a container that ended under the query
//! ([`QueryError::Ended`]).

use std::{
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, PoisonError},
};

use futures_util::FutureExt as _;
use tokio::time::Instant;

use super::{
    confirm::Confirmations,
    context::{Caller, Context},
    probe_set::Mode,
    schedule::{ENGINE_LAG, STILL_RUNNING},
    span::Span,
};
use crate::{
    container::Container,
    engine::{CALL_LIMIT, EngineError},
    environment::margin,
    inbox::Inbox,
    link::{HOST, Lease, LinkError, Reply, Support, Wanted},
    node::NodeName,
    probe::{
        Ask, Custom, Finding, Method, Outcome, Probe, ProbeError, ProbeKind, Shortcut, Understood,
        UnitProof, container,
    },
    question::{Answer, PortQuestion, Question},
    report::ProbeResult,
    text::{Reason, chain},
    unit::{SystemdState, Unit, UnitQuestion},
};

/// The way of a finding that only asked the engine.
pub(crate) const ENGINE: &str = "engine";

/// A run of a node's container, and the way into it.
pub(crate) struct NodeSession {
    pub(super) context: Arc<Context>,
    caller: Caller,
    pub(super) node: NodeName,
    pub(super) container: Container,
    link: Lease,
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
    fn node(why: impl AsRef<str>) -> Self {
        Self::Node(Reason::new(why))
    }

    fn unknown(error: &LinkError) -> Self {
        Self::Unknown(ProbeError::new(chain(error)))
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
        }
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

    /// Runs a probe's own query: its question, or the shortcut that stands in for it, or the custom
    /// check. The unit is the one behind the question, if there is one. Where the question must not be
    /// asked often, what was answered to somebody else counts if it was asked later than `newer_than`.
    pub(super) async fn probe(
        &self,
        probe: &Probe,
        unit: Option<&Unit>,
        newer_than: Option<Instant>,
        by: Instant,
    ) -> ProbeReply {
        if let Some((ask, port)) = probe.sparing()
            && self.shared_network(&ask.question).is_none()
        {
            return self.greeting(ask, port, unit, newer_than, by).await;
        }
        let start = self.now();
        let (via, result) = match probe.kind() {
            ProbeKind::Builtin(Method::UnitAndAnswer(_, ask) | Method::Answer(_, ask)) => {
                match self.shared_network(&ask.question) {
                    Some(why) => (ENGINE, Ok(Finding::Clear(why))),
                    None => self.guarded(self.answer(ask, unit, by), by).await,
                }
            }
            ProbeKind::Builtin(Method::Container | Method::Systemd | Method::Unit(_)) => {
                (ENGINE, Ok(Finding::passed()))
            }
            ProbeKind::Custom(custom) => ("", self.check(probe, custom).await),
        };
        ProbeReply {
            via,
            result,
            span: Span::new(start, self.now()),
            again: None,
        }
    }

    /// Whether the probe's question was asked only just now, so that it is spared.
    pub(super) fn is_spared(&self, probe: &Probe) -> bool {
        let sparing = probe.sparing();
        sparing.is_some_and(|(_, port)| self.link.is_spared(port))
    }

    async fn greeting(
        &self,
        ask: &Ask,
        port: PortQuestion,
        unit: Option<&Unit>,
        newer_than: Option<Instant>,
        by: Instant,
    ) -> ProbeReply {
        let start = self.now();
        let unit = unit.filter(|unit| unit.exists());
        let proof = unit.map(UnitProof::of);
        let age = unit.and_then(|unit| unit.age);
        let wanted = Wanted {
            start: &proof.map_or_else(String::new, |proof| proof.to_string()),
            since: age.and_then(|age| start.checked_sub(age)),
            newer_than,
            pause: port.pause,
        };
        let reading = async {
            let by = self.reply_by(by);
            let Some(greeting) = self.link.greeting(port, wanted, by).await else {
                let (what, limit) = (port.to_string(), None);
                let result = Err(LinkError::Slow { what, limit });
                return Reply { via: "", result };
            };
            let span = Span::new(greeting.asked, greeting.answered);
            let Reply { via, result } = greeting.reply;
            let result = result.map(|answer| ((ask.judge)(&answer), span, greeting.again));
            Reply { via, result }
        };
        let (via, result) = self.guarded(reading, by).await;
        match result {
            Ok((finding, span, again)) => ProbeReply {
                via,
                result: Ok(finding),
                span,
                again,
            },
            Err(error) => ProbeReply {
                via,
                result: Err(error),
                span: Span::new(start, self.now()),
                again: None,
            },
        }
    }

    async fn check(&self, probe: &Probe, custom: &Custom) -> Result<Finding, QueryError> {
        let check = async { custom.check(self.node.clone()).await };
        // A custom check that panics is the trouble of those alone who brought it.
        if let Ok(checked) = AssertUnwindSafe(check).catch_unwind().await {
            return checked.map(Finding::Clear).map_err(QueryError::Unknown);
        }
        let why = format!("the check {} has panicked", probe.name());
        Err(QueryError::Unknown(ProbeError::new(why)))
    }

    /// The way into the node has signalled less than was seen: it is made anew.
    pub(super) fn renew_link(&self) {
        self.link.renew();
    }

    /// Whether the shortcut is known to be understood.
    pub(super) fn understands(&self, shortcut: &Shortcut) -> bool {
        self.link.support(shortcut.name) == Support::Works
    }

    /// Asks only the shortcut; no reply where it is not understood.
    pub(super) async fn shortcut(&self, shortcut: &Shortcut, by: Instant) -> Option<ProbeReply> {
        let start = self.now();
        let question = Question::Port(shortcut.question);
        if self.shared_network(&question).is_some() {
            return None;
        }
        let Reply { via, result } = self.link.ask(&question, by).await;
        match (shortcut.judge)(&result.ok()?) {
            Understood::Yes(finding) => Some(ProbeReply {
                via,
                result: Ok(finding),
                span: Span::new(start, self.now()),
                again: None,
            }),
            Understood::Perhaps | Understood::No => None,
        }
    }

    async fn answer(&self, ask: &Ask, unit: Option<&Unit>, by: Instant) -> Reply<Finding> {
        let Some(shortcut) = &ask.shortcut else {
            return self.judged(ask, by).await;
        };
        let question = Question::Port(shortcut.question);
        let start = unit.map(|unit| unit.invocation.clone()).unwrap_or_default();
        let useless = |surely| Support::Useless {
            start: start.clone(),
            surely,
        };
        let known = self.link.support(shortcut.name);
        let mut understood = Understood::No;
        if known != useless(true) && self.shared_network(&question).is_none() {
            let Reply { via, result } = self.link.ask(&question, by).await;
            understood = match result {
                Ok(answer) => (shortcut.judge)(&answer),
                Err(_) => Understood::Perhaps,
            };
            if let Understood::Yes(finding) = understood {
                self.link.remember(shortcut.name, Support::Works);
                let result = Ok(finding);
                return Reply { via, result };
            }
        }
        let reply = self.judged(ask, by).await;
        // What does not understand while it starts may later: only one that serves is known not to.
        let serves = matches!(reply.result, Ok(Finding::Clear(Outcome::Passed(_))));
        if serves && understood == Understood::No && !start.is_empty() {
            let surely = known == useless(false) || known == useless(true);
            self.link.remember(shortcut.name, useless(surely));
        }
        reply
    }

    async fn judged(&self, ask: &Ask, by: Instant) -> Reply<Finding> {
        let Reply { via, result } = self.link.ask(&ask.question, self.reply_by(by)).await;
        let judge = |answer: Answer| (ask.judge)(&answer);
        Reply {
            via,
            result: result.map(judge),
        }
    }

    /// Why a port of this node proves nothing, if the question is about one.
    fn shared_network(&self, question: &Question) -> Option<Outcome> {
        match question {
            Question::Port(PortQuestion { port, .. }) => {
                container::shared_port(&self.node, &self.container, *port)
            }
            Question::Command(_) => None,
        }
    }

    /// Waits for a reply for as long as the container runs, and tells what it means if there is none.
    async fn guarded<T>(
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
                Ok(None) => QueryError::node("the way into the node ended in the node"),
                Err(error) => error.into(),
            },
            // What broke may have done so because the container ended.
            (error @ (LinkError::Broken(_) | LinkError::Engine(EngineError::Lost { .. })), _) => {
                match self.ended(by).await {
                    Ok(Some(ended)) => QueryError::Ended(ended),
                    Ok(None) => QueryError::unknown(&error),
                    Err(error) => error.into(),
                }
            }
            // What is late while the engine does not answer is not the node's fault.
            (LinkError::Slow { .. }, Some(trouble)) => QueryError::Unknown(trouble),
            // Nor is what went through an engine that has just stopped answering.
            (error @ LinkError::Slow { .. }, None) if via != HOST => match self.inspect(by).await {
                Ok(_) => QueryError::node(chain(&error)),
                Err(error) => error.into(),
            },
            (error @ (LinkError::Slow { .. } | LinkError::Node(_) | LinkError::NoBus(_)), _) => {
                QueryError::node(chain(&error))
            }
            (
                error @ (LinkError::Engine(_) | LinkError::Busy { .. } | LinkError::Unusable(_)),
                _,
            ) => QueryError::unknown(&error),
        }
    }

    /// Until when the node may reply. What is left then is for the engine, which has to answer for it to
    /// be the node that was slow.
    fn reply_by(&self, by: Instant) -> Instant {
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
            result if result.is_passed() => Some(Outcome::failed(format!(
                "container {node} was started again while it was looked at"
            ))),
            ProbeResult::Looked(outcome) => Some(outcome),
            ProbeResult::Unknown(_) | ProbeResult::Skipped(_) => None,
        }
    }

    fn now(&self) -> Instant {
        self.context.environment.now()
    }
}
