//! One run of one node's container: what can be asked of it, and what it means that there is no reply.
//!
//! Here the difference is made between what the node keeps back ([`QueryError::Node`]), what readyd or
//! the engine could not look at ([`QueryError::Unknown`]), and a container that ended under the query
//! ([`QueryError::Ended`]).

use std::{
    collections::HashMap,
    convert::Infallible,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, PoisonError},
};

use futures_util::{
    FutureExt as _,
    future::{BoxFuture, ready},
};
use tokio::time::Instant;

use super::{
    confirm::Confirmations,
    context::{Caller, Context},
    probe_set::Mode,
    schedule::{CONFIGURATION, ENGINE_LAG, STILL_RUNNING},
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
        Ask, Custom, Finding, Judgement, Method, Outcome, Probe, ProbeError, ProbeKind, Shortcut,
        Understood, UnitProof, container,
        daemon::{self, Daemon, Listening},
        slurm_command,
    },
    question::{About, Answer, DaemonProcess, DaemonQuestion, PortQuestion, Question},
    reason::{Reason, ReasonCode},
    report::ProbeResult,
    text::chain,
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
    /// When no setting was found to say that the node does without a daemon, by the daemon's name.
    no_setting: Mutex<HashMap<&'static str, Instant>>,
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
        // One allocation, in place of room for every kind of query in each of them.
        let asking: BoxFuture<'_, Reply<Finding>> = match probe.kind() {
            ProbeKind::Custom(custom) => {
                return ProbeReply {
                    via: "",
                    result: self.check(probe, custom).await,
                    span: Span::new(start, self.now()),
                    again: None,
                };
            }
            ProbeKind::Builtin(method) => match method {
                Method::Daemon(daemon) => Box::pin(self.daemon(daemon, unit, by)),
                Method::UnitAndAnswer(_, ask) if unit.is_some_and(Unit::is_at_rest) => {
                    Box::pin(self.started_by_hand(probe, ask, unit, by))
                }
                Method::UnitAndAnswer(_, ask)
                | Method::Answer(_, ask)
                | Method::UnitUnless(_, ask) => match self.shared_network(&ask.question) {
                    Some(why) => Box::pin(ready(Reply {
                        via: ENGINE,
                        result: Ok(why.into()),
                    })),
                    None => Box::pin(self.answer(ask, unit, by)),
                },
                Method::Process(daemon, unless) => {
                    Box::pin(self.process(daemon, unless.as_ref(), by))
                }
                Method::ProcessAndAnswer(process, ask) => {
                    Box::pin(self.process_and_answer(process, ask, by))
                }
                Method::Container
                | Method::Healthcheck
                | Method::Systemd
                | Method::Unit(_)
                | Method::NotInProfile => Box::pin(ready(Reply {
                    via: ENGINE,
                    result: Ok(Finding::passed()),
                })),
            },
        };
        let (via, result) = self.guarded(asking, by).await;
        let has_answered = result.is_ok();
        let is_setting = matches!(probe.kind(), ProbeKind::Builtin(Method::UnitUnless(..)));
        ProbeReply {
            via,
            result,
            span: Span::new(start, self.now()),
            again: (is_setting && has_answered).then(|| self.now() + CONFIGURATION),
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
            return checked.map(Finding::from).map_err(QueryError::Unknown);
        }
        let why = format!("the check {} has panicked", probe.name());
        Err(QueryError::Unknown(ProbeError::new(
            ReasonCode::CommandFailed,
            why,
        )))
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
        let start = unit.map(|unit| unit.invocation.clone()).unwrap_or_default();
        self.answer_of(ask, unit, start, by).await
    }

    /// Asks a daemon whose start has this name, if it has one.
    async fn answer_of(
        &self,
        ask: &Ask,
        unit: Option<&Unit>,
        start: String,
        by: Instant,
    ) -> Reply<Finding> {
        let Some(shortcut) = &ask.shortcut else {
            return self.judged(ask, unit, by).await;
        };
        let question = Question::Port(shortcut.question);
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
        let reply = self.judged(ask, unit, by).await;
        // What does not understand while it starts may later: only one that serves is known not to.
        let serves = reply.result.as_ref().is_ok_and(Finding::has_passed);
        if serves && understood == Understood::No && !start.is_empty() {
            let surely = known == useless(false) || known == useless(true);
            self.link.remember(shortcut.name, useless(surely));
        }
        reply
    }

    /// Asks a daemon whose unit is down, if one runs all the same: a command that asks a daemon that does
    /// not run may take many seconds to say so.
    async fn started_by_hand(
        &self,
        probe: &Probe,
        ask: &Ask,
        unit: Option<&Unit>,
        by: Instant,
    ) -> Reply<Finding> {
        let question = DaemonQuestion {
            process: probe.process(),
            main_pid: None,
            about: About::Start,
        };
        let Reply { via, result } = self.processes(question, by).await;
        match result {
            Ok(processes) if processes.is_empty() => {
                let why = format!("no process of {} runs", question.process);
                let result = Ok(Finding::failed(ReasonCode::ProcessMissing, why));
                Reply { via, result }
            }
            Ok(_) => self.answer(ask, unit, by).await,
            Err(error) => Reply {
                via,
                result: Err(error),
            },
        }
    }

    /// Looks for the process of a daemon without a unit. Where none runs, a setting may say that the node
    /// does without it.
    async fn process(&self, daemon: &Daemon, unless: Option<&Ask>, by: Instant) -> Reply<Finding> {
        self.link.expect_no_systemd();
        let found = self.daemon(daemon, None, by).await;
        let is_missing = |finding: &Finding| {
            matches!(&finding.judgement, Judgement::Clear(outcome)
                if outcome.code() == Some(ReasonCode::ProcessMissing))
        };
        let Some(unless) = unless.filter(|_| found.result.as_ref().is_ok_and(is_missing)) else {
            return found;
        };
        let known = || {
            self.no_setting
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
        };
        let read = known().get(daemon.name()).copied();
        if read.is_some_and(|read| self.now() < read + CONFIGURATION) {
            return found;
        }
        let setting = self.judged(unless, None, by).await;
        match &setting.result {
            Ok(finding) if finding.has_passed() => setting,
            Ok(_) | Err(LinkError::Node(_)) => {
                known().insert(daemon.name(), self.now());
                found
            }
            Err(_) => setting,
        }
    }

    /// Asks a daemon without a unit, if a process of it runs.
    async fn process_and_answer(
        &self,
        process: &'static str,
        ask: &Ask,
        by: Instant,
    ) -> Reply<Finding> {
        self.link.expect_no_systemd();
        let question = DaemonQuestion {
            process,
            main_pid: None,
            about: About::Start,
        };
        let Reply { via, result } = self.processes(question, by).await;
        match result.map(|processes| processes.first().map(|process| process.pid)) {
            Ok(Some(pid)) => {
                let start = format!("process {pid}");
                self.answer_of(ask, None, start, by).await
            }
            Ok(None) => {
                let why = format!("no process of {process} runs");
                let result = Ok(Finding::failed(ReasonCode::ProcessMissing, why));
                Reply { via, result }
            }
            Err(error) => {
                let result = Err(error);
                Reply { via, result }
            }
        }
    }

    /// Looks for the processes of a daemon and for where they listen, and asks the daemon there if it
    /// serves, where it can tell.
    async fn daemon(&self, daemon: &Daemon, unit: Option<&Unit>, by: Instant) -> Reply<Finding> {
        let active = unit.filter(|unit| unit.is_active() && unit.main_pid > 0);
        let (mut via, mut processes) = ("", Vec::new());
        for process in daemon.processes {
            let question = DaemonQuestion {
                process,
                main_pid: active.map(|unit| unit.main_pid),
                about: About::Sockets,
            };
            let found = self.processes(question, by).await;
            via = found.via;
            match found.result {
                Ok(found) => processes.extend(found),
                Err(error) => {
                    let result = Err(error);
                    return Reply { via, result };
                }
            }
            if !processes.is_empty() {
                break;
            }
        }
        let Listening { finding, address } = daemon.judge(unit, &processes);
        let listens = Reply {
            via,
            result: Ok(finding),
        };
        let Some(address) = address.filter(|_| daemon.readyz) else {
            return listens;
        };
        let question = Question::Port(daemon::readyz(address));
        // An older daemon logs an error for each question that it does not understand, so each start is
        // asked once.
        let own = || {
            processes
                .first()
                .map(|process| format!("process {}", process.pid))
        };
        let start = unit.map(|unit| unit.invocation.clone()).or_else(own);
        let start = start.unwrap_or_default();
        let useless = Support::Useless {
            start,
            surely: true,
        };
        if self.link.support(daemon.name()) == useless || self.shared_network(&question).is_some() {
            return listens;
        }
        let answered = self.link.ask(&question, self.reply_by(by)).await;
        match answered
            .result
            .map(|answer| daemon::judge_readyz(daemon.name(), &answer))
        {
            Ok(Understood::Yes(finding)) if !finding.has_passed() => Reply {
                via: answered.via,
                result: Ok(finding),
            },
            Ok(Understood::No) => {
                self.link.remember(daemon.name(), useless);
                listens
            }
            Ok(_) | Err(_) => listens,
        }
    }

    async fn processes(&self, question: DaemonQuestion, by: Instant) -> Reply<Vec<DaemonProcess>> {
        let question = Question::Daemon(question);
        let Reply { via, result } = self.link.ask(&question, self.reply_by(by)).await;
        let processes = |answer| match answer {
            Answer::Daemon(processes) => processes,
            _ => Vec::new(),
        };
        Reply {
            via,
            result: result.map(processes),
        }
    }

    async fn judged(&self, ask: &Ask, unit: Option<&Unit>, by: Instant) -> Reply<Finding> {
        let mut question = ask.question.clone();
        if let (Question::Command(command), Some(process)) = (&mut question, ask.as_daemon) {
            match self.arguments(process, unit, by).await {
                Ok(arguments) => command.arguments = arguments,
                Err(Reply { via, result }) => {
                    let result = result.map(|never| match never {});
                    return Reply { via, result };
                }
            }
        }
        let Reply { via, result } = self.link.ask(&question, self.reply_by(by)).await;
        let judge = |answer: Answer| (ask.judge)(&answer);
        Reply {
            via,
            result: result.map(judge),
        }
    }

    /// What a command of Slurm has to be told to ask as that daemon of the node would. It stays the same for
    /// as long as the daemon's unit keeps its main process.
    async fn arguments(
        &self,
        process: &'static str,
        unit: Option<&Unit>,
        by: Instant,
    ) -> Result<Vec<String>, Reply<Infallible>> {
        let active = unit.filter(|unit| unit.is_active() && unit.main_pid > 0);
        let named = active.filter(|unit| !unit.invocation.is_empty());
        let start = named.map(|unit| format!("{} {}", unit.invocation, unit.main_pid));
        let start = start.unwrap_or_default();
        if let Some(known) = self.link.arguments(process, &start) {
            return Ok(known);
        }
        let question = DaemonQuestion {
            process,
            main_pid: active.map(|unit| unit.main_pid),
            about: About::Start,
        };
        let Reply { via, result } = self.processes(question, by).await;
        let processes = result.map_err(|error| Reply {
            via,
            result: Err(error),
        })?;
        let daemon = slurm_command::daemon(process, &processes);
        let arguments = slurm_command::arguments(daemon);
        if daemon.is_some_and(|daemon| slurm_command::is_daemon(process, daemon)) {
            self.link.remember_arguments(process, &start, &arguments);
        }
        Ok(arguments)
    }

    /// Why a port of this node proves nothing, if the question is about one.
    fn shared_network(&self, question: &Question) -> Option<Outcome> {
        match question {
            Question::Port(PortQuestion { port, .. }) => {
                container::shared_port(&self.node, &self.container, *port)
            }
            Question::Command(_) | Question::Setting(_) | Question::Daemon(_) => None,
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
            result if result.is_passed() => Some(Outcome::failed(
                ReasonCode::ContainerRestarting,
                format!("container {node} was started again while it was looked at"),
            )),
            ProbeResult::Looked(outcome) => Some(outcome),
            ProbeResult::Unknown(_) | ProbeResult::Skipped(_) => None,
        }
    }

    fn now(&self) -> Instant {
        self.context.environment.now()
    }
}
