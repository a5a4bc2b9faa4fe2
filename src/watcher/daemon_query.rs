//! The query of a daemon: whether its process runs, whether it listens, and what it answers.

use std::{net::SocketAddr, sync::PoisonError};

use tokio::time::Instant;

use super::{
    schedule::CONFIGURATION,
    session::{ENGINE, NodeSession},
    watch::Watch,
};
use crate::{
    link::{LinkError, Reply, Support},
    probe::{
        Ask, Finding, Judgement, Probe, Rpc, Understood,
        daemon::{self, Daemon, Listening},
    },
    question::{About, Answer, DaemonProcess, DaemonQuestion, ListeningSocket, Question},
    reason::ReasonCode,
    unit::Unit,
};

impl NodeSession {
    /// Asks a daemon whose unit is down, if one runs all the same: a command that asks a daemon that does
    /// not run may take many seconds to say so.
    pub(super) async fn started_by_hand(
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
    pub(super) async fn process(
        &self,
        daemon: &Daemon,
        rpc: Option<Rpc>,
        unless: Option<&Ask>,
        watch: &mut Watch,
        by: Instant,
    ) -> Reply<Finding> {
        self.link.expect_no_systemd();
        let found = self.daemon(daemon, rpc, None, watch, by).await;
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
    pub(super) async fn process_and_answer(
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
    pub(super) async fn daemon(
        &self,
        daemon: &Daemon,
        rpc: Option<Rpc>,
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
            socket,
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
        let (Some(socket), Some(pid)) = (socket, process) else {
            return listens;
        };
        // What was asked of a start of the daemon is no news of another.
        let own = || format!("process {pid}");
        let start = active.map_or_else(own, |unit| unit.invocation.clone());
        let answer = match &socket {
            ListeningSocket::Tcp(address) if daemon.readyz => {
                self.readyz(daemon.name(), *address, &start, by).await
            }
            _ => None,
        };
        match (answer, rpc) {
            (Some(answer), _) if !answer.result.as_ref().is_ok_and(Finding::has_passed) => answer,
            (None, Some(rpc)) => {
                let Reply { via, result } =
                    self.rpc(daemon.name(), rpc, &socket, pid, unit, by).await;
                match result {
                    Ok(finding) if finding.has_passed() => listens,
                    result => Reply { via, result },
                }
            }
            _ => listens,
        }
    }

    /// Asks a daemon that listens there whether it serves; nothing where it cannot tell.
    async fn readyz(
        &self,
        daemon: &'static str,
        listens: SocketAddr,
        start: &str,
        by: Instant,
    ) -> Option<Reply<Finding>> {
        let question = Question::Port(daemon::readyz(listens));
        // An older daemon logs an error for each question that it does not understand, so each start is
        // asked once.
        let useless = Support::Useless {
            start: start.to_owned(),
            surely: true,
        };
        if self.link.support(daemon) == useless || self.shared_network(&question).is_some() {
            return None;
        }
        let Reply { via, result } = self.link.ask(&question, self.reply_by(by)).await;
        match daemon::judge_readyz(daemon, &result.ok()?) {
            Understood::Yes(finding) => Some(Reply {
                via,
                result: Ok(finding),
            }),
            Understood::No => {
                self.link.remember(daemon, useless);
                None
            }
            Understood::Perhaps => None,
        }
    }

    /// Asks a process that listens to answer in its own protocol.
    async fn rpc(
        &self,
        daemon: &'static str,
        rpc: Rpc,
        socket: &ListeningSocket,
        pid: u32,
        unit: Option<&Unit>,
        by: Instant,
    ) -> Reply<Finding> {
        let question = rpc.question(socket, pid);
        let up = |mut finding: Finding| {
            finding.evidence.is_up = !finding.has_passed();
            finding
        };
        if let Some(why) = self.shared_network(&question) {
            let result = Ok(up(why.into()));
            return Reply {
                via: ENGINE,
                result,
            };
        }
        let asks_as = (rpc == Rpc::Status).then_some(daemon);
        let Reply { via, result } = self.ask_as(asks_as, question, unit, by).await;
        let judge = |answer: Answer| up(rpc.judge(daemon, pid, &answer));
        Reply {
            via,
            result: result.map(judge),
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

    pub(super) async fn processes(
        &self,
        question: DaemonQuestion,
        by: Instant,
    ) -> Reply<Vec<DaemonProcess>> {
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
}
