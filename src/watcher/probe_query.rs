//! A probe's own query: a port, a command, a daemon's processes, or a check of the caller's own.
//!
//! Which questions a query is made of is decided here, as they are asked: a shortcut stands in for a
//! command where the node understands it, and a daemon is asked only where one runs.

use std::{convert::Infallible, panic::AssertUnwindSafe, sync::PoisonError};

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
        Ask, Custom, Finding, Judgement, Method, Outcome, Probe, ProbeError, ProbeKind, Shortcut,
        Understood, UnitProof, container,
        daemon::{self, Daemon, Listening},
        slurm_command,
    },
    question::{About, Answer, DaemonProcess, DaemonQuestion, PortQuestion, Question},
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
                Method::Daemon(daemon) => Box::pin(self.daemon(daemon, unit, &mut watch, by)),
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
                    Box::pin(self.process(daemon, unless.as_ref(), &mut watch, by))
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
            again: (is_setting && has_answered).then(|| self.now() + CONFIGURATION),
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
    async fn process(
        &self,
        daemon: &Daemon,
        unless: Option<&Ask>,
        watch: &mut Watch,
        by: Instant,
    ) -> Reply<Finding> {
        self.link.expect_no_systemd();
        let found = self.daemon(daemon, None, watch, by).await;
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
            Ok(finding) if finding.has_passed() => {
                *watch = Watch::Nothing;
                setting
            }
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
        watch: &mut Watch,
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
                let answered = self.answer_of(ask, None, start, by).await;
                if answered.result.as_ref().is_ok_and(Finding::has_passed) {
                    *watch = Watch::End(pid);
                }
                answered
            }
            Ok(None) => {
                *watch = Watch::for_start(&self.link, &[process]);
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
    async fn daemon(
        &self,
        daemon: &Daemon,
        unit: Option<&Unit>,
        watch: &mut Watch,
        by: Instant,
    ) -> Reply<Finding> {
        let active = unit.filter(|unit| unit.is_active() && unit.main_pid > 0);
        let main_pid = active.map(|unit| unit.main_pid);
        let Reply { via, result } = self.processes_of(daemon, main_pid, by).await;
        let processes = match result {
            Ok(processes) => processes,
            Err(error) => {
                let result = Err(error);
                return Reply { via, result };
            }
        };
        let Listening {
            finding,
            address,
            process,
        } = daemon.judge(unit, &processes);
        *watch = match process {
            // systemd signals the end of a unit's process.
            _ if unit.is_some() => Watch::Nothing,
            Some(pid) => Watch::End(pid),
            None if processes.is_empty() => Watch::for_start(&self.link, daemon.processes),
            None => Watch::Nothing,
        };
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

    /// The processes of a daemon, by the first of its names that any has.
    async fn processes_of(
        &self,
        daemon: &Daemon,
        main_pid: Option<u32>,
        by: Instant,
    ) -> Reply<Vec<DaemonProcess>> {
        let mut found = Reply {
            via: "",
            result: Ok(Vec::new()),
        };
        for process in daemon.processes {
            let question = DaemonQuestion {
                process,
                main_pid,
                about: About::Sockets,
            };
            found = self.processes(question, by).await;
            if !found.result.as_ref().is_ok_and(Vec::is_empty) {
                break;
            }
        }
        found
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
}
