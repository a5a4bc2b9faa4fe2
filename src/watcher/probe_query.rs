//! A probe's own query: a port, a command, a daemon's processes, or a check of the caller's own.
//!
//! Which questions a query is made of is decided here, as they are asked: a shortcut stands in for a
//! command where the node understands it, and a daemon is asked only where one runs.

use std::{convert::Infallible, panic::AssertUnwindSafe};

use futures_util::{
    FutureExt as _,
    future::{BoxFuture, ready},
};
use tokio::time::Instant;

use super::{
    schedule::CONFIGURATION,
    session::{ENGINE, NodeSession, ProbeReply, QueryError},
    span::Span,
    watch::Watch,
};
use crate::{
    link::{LinkError, Reply, Support, Wanted},
    probe::{
        Ask, Custom, Finding, Method, Outcome, Probe, ProbeError, ProbeKind, Shortcut, Understood,
        UnitProof, container, slurm_command,
    },
    question::{About, Answer, DaemonQuestion, PortQuestion, Question},
    reason::ReasonCode,
    unit::Unit,
};

impl NodeSession {
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
        let own = probe.own();
        let by = own.map_or(by, |own| by.min(start + own.timeout));
        let mut watch = Watch::Nothing;
        // One allocation, in place of room for every kind of query in each of them.
        let asking: BoxFuture<'_, Reply<Finding>> = match probe.kind() {
            ProbeKind::Custom(custom) => {
                return ProbeReply {
                    via: "",
                    result: self.check(probe, custom).await,
                    span: Span::new(start, self.now()),
                    again: None,
                    watch: Watch::Nothing,
                };
            }
            ProbeKind::Builtin(method) => match method {
                Method::Daemon(daemon) => {
                    Box::pin(self.daemon(daemon, probe.rpc(), unit, &mut watch, by))
                }
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
                    Box::pin(self.process(daemon, probe.rpc(), unless.as_ref(), &mut watch, by))
                }
                Method::ProcessAndAnswer(process, ask) => {
                    Box::pin(self.process_and_answer(process, ask, &mut watch, by))
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
            again: match own {
                Some(own) if !own.interval.is_zero() => Some(start + own.interval),
                _ => (is_setting && has_answered).then(|| self.now() + CONFIGURATION),
            },
            watch,
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
                watch: Watch::Nothing,
            },
            Err(error) => ProbeReply {
                via,
                result: Err(error),
                span: Span::new(start, self.now()),
                again: None,
                watch: Watch::Nothing,
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
                watch: Watch::Nothing,
            }),
            Understood::Perhaps | Understood::No => None,
        }
    }

    pub(super) async fn answer(
        &self,
        ask: &Ask,
        unit: Option<&Unit>,
        by: Instant,
    ) -> Reply<Finding> {
        let start = unit.map(|unit| unit.invocation.clone()).unwrap_or_default();
        self.answer_of(ask, unit, start, by).await
    }

    /// Asks a daemon whose start has this name, if it has one.
    pub(super) async fn answer_of(
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

    pub(super) async fn judged(
        &self,
        ask: &Ask,
        unit: Option<&Unit>,
        by: Instant,
    ) -> Reply<Finding> {
        let question = ask.question.clone();
        let Reply { via, result } = self.ask_as(ask.as_daemon, question, unit, by).await;
        let judge = |answer: Answer| (ask.judge)(&answer);
        Reply {
            via,
            result: result.map(judge),
        }
    }

    /// Asks a question; a command gets the arguments of that daemon's commands before its own.
    pub(super) async fn ask_as(
        &self,
        daemon: Option<&'static str>,
        mut question: Question,
        unit: Option<&Unit>,
        by: Instant,
    ) -> Reply<Answer> {
        if let (Question::Command(command), Some(daemon)) = (&mut question, daemon) {
            match self.arguments(daemon, unit, by).await {
                Ok(arguments) => drop(command.arguments.splice(0..0, arguments)),
                Err(Reply { via, result }) => {
                    let result = result.map(|never| match never {});
                    return Reply { via, result };
                }
            }
        }
        self.link.ask(&question, self.reply_by(by)).await
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
    pub(super) fn shared_network(&self, question: &Question) -> Option<Outcome> {
        match question {
            Question::Port(PortQuestion { port, .. }) => {
                container::shared_port(&self.node, &self.container, *port)
            }
            Question::Command(_) | Question::Setting(_) | Question::Daemon(_) => None,
        }
    }
}
