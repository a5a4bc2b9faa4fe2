//! The core under test without a task: inputs and times go in, and what comes out is looked at.

mod evaluate;
mod handle;
mod levels;
mod plan;
mod properties;
mod publish;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{sync::watch, time::Instant};

use super::{
    clients::WantedSet,
    evaluation::{Evaluation, Progress},
    plan::Plan,
    probe_set::{ProbeSet, SetId},
    session::{ProbeReply, QueryError, SystemdReply},
    span::Span,
    state::{Command, Input, NodeState},
    status::NodeStatus,
    watch::Watch,
};
use crate::{
    container::{Container, ContainerId, Network, State},
    engine::{EngineError, ErrorCause},
    environment::Environment,
    inbox::{ContainerChange, Pending},
    node::{LabelKeys, Profile, Role},
    probe::{Finding, Probe},
    reason::ReasonCode,
    report::Trigger,
    unit::{SystemdState, Unit},
};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const POLL: Duration = Duration::from_millis(500);

fn probe(name: &str) -> Probe {
    Probe::named(name).unwrap()
}

fn base() -> ProbeSet {
    ProbeSet::wait(None, vec![])
}

fn only(name: &str) -> ProbeSet {
    ProbeSet::wait(None, vec![probe(name)])
}

/// A container in that state, in its first run, without a restart policy.
fn container(state: State) -> Container {
    Container {
        id: ContainerId("a".repeat(64)),
        name: "n".to_owned(),
        labels: [].into(),
        state,
        restarts: false,
        started_at: Some(SystemTime::UNIX_EPOCH),
        pid: Some(7),
        network: Network::Own,
        health: None,
        last_words: crate::text::Detail::default(),
    }
}

fn running() -> Container {
    container(State::Running)
}

fn exited() -> Container {
    container(State::Exited {
        code: 1,
        oom: false,
    })
}

/// The same container, started again.
fn restarted() -> Container {
    Container {
        started_at: Some(SystemTime::UNIX_EPOCH + SECOND),
        pid: Some(8),
        ..running()
    }
}

fn unit(name: &str, active: &str, kind: &str, changed: u64) -> (String, Unit) {
    let unit = Unit {
        id: name.to_owned(),
        load: "loaded".to_owned(),
        active: active.to_owned(),
        sub: active.to_owned(),
        kind: kind.to_owned(),
        invocation: format!("{name}-{changed}"),
        changed,
        ..Unit::default()
    };
    (name.to_owned(), unit)
}

/// systemd with everything up, which signals changes.
fn all_up() -> SystemdState {
    SystemdState {
        system: "running".to_owned(),
        failed_units: None,
        jobs: Vec::new(),
        units: [
            unit("sshd.service", "active", "notify", 1),
            unit("ssh.service", "active", "notify", 1),
            unit("munge.service", "active", "forking", 1),
            unit("slurmd.service", "active", "notify", 1),
            unit("sackd.service", "active", "notify", 1),
            unit("slurmctld.service", "active", "notify", 1),
        ]
        .into(),
        subscribed: true,
        last_signal: 0,
    }
}

/// The same, over a bus that signals nothing.
fn unsubscribed() -> SystemdState {
    SystemdState {
        subscribed: false,
        ..all_up()
    }
}

/// The same, with munge in another state.
fn with_munge(active: &str, changed: u64) -> SystemdState {
    let mut state = all_up();
    state
        .units
        .extend([unit("munge.service", active, "forking", changed)]);
    state
}

/// The core of one node, and a clock.
struct Core {
    state: NodeState,
    zero: Instant,
    now: Instant,
}

impl Core {
    /// Somebody wants these sets, and events are live.
    fn wanting(sets: Vec<ProbeSet>) -> Self {
        let zero = Instant::now();
        let labels = LabelKeys::default();
        let state = NodeState::new(
            "n".parse().unwrap(),
            labels,
            true,
            Profile::Systemd,
            1,
            zero,
        );
        let mut core = Self {
            state,
            zero,
            now: zero,
        };
        core.want(sets);
        core.handle(Input::EventsLive(true));
        core
    }

    /// Somebody wants these sets now.
    fn want(&mut self, sets: Vec<ProbeSet>) {
        let wanted = sets.into_iter().enumerate().map(|(id, probes)| WantedSet {
            id: SetId::new(id as u64),
            channel: watch::Sender::new(Arc::new(NodeStatus::unanswered(
                &probes,
                &Environment::tokio(),
            ))),
            probes,
            interval: POLL,
        });
        self.handle(Input::Wanted(wanted.collect()));
    }

    /// A node with everything up, that has passed.
    fn passed(set: ProbeSet) -> Self {
        let mut core = Self::wanting(vec![set]);
        core.bring_up();
        if core.turn().progress() == Progress::Confirming {
            core.inspected(running());
        }
        assert_eq!(core.turn().progress(), Progress::Passed);
        core
    }

    /// Replies to everything as a node does that is up.
    fn bring_up(&mut self) {
        self.turn();
        self.inspected(running());
        let mut commands = self.turn().commands;
        if commands
            .iter()
            .any(|command| matches!(command, Command::QuerySystemd(_)))
        {
            self.systemd(all_up());
            commands.extend(self.turn().commands);
        }
        for command in commands {
            if let Command::QueryProbe(probe, query, ..) = command {
                self.answered(&probe, query, Finding::passed());
            }
        }
    }

    fn at(&mut self, ms: u64) -> &mut Self {
        self.now = self.zero + Duration::from_millis(ms);
        self
    }

    fn handle(&mut self, input: Input) {
        self.state.handle(input, self.now);
    }

    /// A reply that took a millisecond.
    fn span(&mut self) -> Span {
        let asked = self.now;
        self.now += MS;
        Span::new(asked, self.now)
    }

    fn inspected(&mut self, container: Container) {
        let span = self.span();
        self.handle(Input::Inspected(Ok(Some(container)), span));
    }

    fn not_found(&mut self) {
        let span = self.span();
        self.handle(Input::Inspected(Ok(None), span));
    }

    fn engine_error(&mut self, error: EngineError) {
        let span = self.span();
        self.handle(Input::Inspected(Err(error), span));
    }

    fn systemd(&mut self, state: SystemdState) {
        self.systemd_reply(Ok(state));
    }

    fn systemd_reply(&mut self, result: Result<SystemdState, QueryError>) {
        let span = self.span();
        let via = "test";
        self.handle(Input::Systemd(SystemdReply { via, result, span }));
    }

    fn answered(&mut self, probe: &Probe, query: u64, finding: Finding) {
        let span = self.span();
        let reply = ProbeReply {
            via: "test",
            result: Ok(finding),
            span,
            again: None,
            watch: Watch::Nothing,
        };
        self.handle(Input::Probe(probe.key(), query, reply));
    }

    /// Something arrives in the inbox.
    fn inbox(&mut self, pending: Pending) {
        self.handle(Input::Inbox(pending));
    }

    fn event(&mut self, action: &str) {
        self.inbox(Pending {
            container: Some(ContainerChange::Undone),
            cause: Some((Trigger::ContainerEvent, action.to_owned())),
            sequence: self.state.facts().sequence + 1,
            ..Pending::default()
        });
    }

    fn signal(&mut self, unit: &str, number: u64) {
        self.inbox(Pending {
            signal: number,
            cause: Some((Trigger::UnitEvent, unit.to_owned())),
            sequence: self.state.facts().sequence + 1,
            ..Pending::default()
        });
    }

    /// Evaluates and plans, as the actor does at each turn. The node's slurm.conf says, at once, that it
    /// needs munge.
    fn turn(&mut self) -> Turn {
        let mut turn = self.one_turn();
        let asks_munge = |command: &Command| match command {
            Command::QueryProbe(probe, query, ..) if probe.name() == "munge" => {
                Some((probe.key(), *query))
            }
            _ => None,
        };
        let Some((key, query)) = turn.commands.iter().find_map(asks_munge) else {
            return turn;
        };
        let reply = ProbeReply {
            via: "test",
            result: Ok(Finding::failed(ReasonCode::UnitInactive, "it needs munge")),
            span: Span::new(self.now, self.now),
            again: Some(self.now + 5 * SECOND),
            watch: Watch::Nothing,
        };
        self.handle(Input::Probe(key, query, reply));
        turn.commands
            .retain(|command| asks_munge(command).is_none());
        let next = self.turn();
        turn.commands.extend(next.commands);
        Turn {
            commands: turn.commands,
            ..next
        }
    }

    fn one_turn(&mut self) -> Turn {
        let evaluations = self.state.evaluate_all(self.now);
        let Plan { commands, wake } = self.state.plan(&evaluations, self.now);
        Turn {
            evaluations: evaluations
                .into_iter()
                .map(|(_, evaluation)| evaluation)
                .collect(),
            commands,
            wake: wake.map(|wake| wake - self.now),
        }
    }
}

/// What one turn came to.
struct Turn {
    evaluations: Vec<Evaluation>,
    commands: Vec<Command>,
    wake: Option<Duration>,
}

impl Turn {
    fn first(&self) -> &Evaluation {
        &self.evaluations[0]
    }

    fn progress(&self) -> Progress {
        self.first().progress
    }

    /// The first query of a probe that was started, and its number.
    fn probe_query(&self) -> (Probe, u64) {
        let query = self.commands.iter().find_map(|command| match command {
            Command::QueryProbe(probe, query, ..) => Some((probe.clone(), *query)),
            _ => None,
        });
        query.unwrap_or_else(|| panic!("no probe is asked: {:?}", self.said()))
    }

    /// The commands, as the log has them.
    fn said(&self) -> Vec<String> {
        self.commands.iter().map(ToString::to_string).collect()
    }

    fn blocked_by(&self) -> String {
        let blocked = self.first().blocked_by.as_ref();
        blocked.map_or_else(String::new, |blocked| {
            format!("{}: {}", blocked.probe, blocked.reason)
        })
    }

    /// What each probe has come to: a letter for each.
    fn outcomes(&self) -> String {
        use crate::{probe::Outcome, report::ProbeResult};
        let letter = |result: &ProbeResult| match result {
            ProbeResult::Looked(Outcome::Passed(_)) => 'P',
            ProbeResult::Looked(Outcome::Failed(_)) => 'F',
            ProbeResult::Looked(Outcome::Terminal(_)) => 'T',
            ProbeResult::Unknown(_) => 'U',
            ProbeResult::Skipped(_) => '-',
        };
        self.first()
            .reports
            .iter()
            .map(|report| letter(&report.found.result))
            .collect()
    }
}

fn unreachable() -> EngineError {
    EngineError::Unreachable {
        action: "inspecting container n".to_owned(),
        engine: "test://".to_owned(),
        cause: ErrorCause::new("refused"),
    }
}

fn slow() -> EngineError {
    EngineError::TimedOut {
        action: "inspecting container n".to_owned(),
        limit: Some(5 * SECOND),
    }
}

fn with_role(value: &str) -> Container {
    Container {
        labels: [("sind.role".to_owned(), value.to_owned())].into(),
        ..running()
    }
}

const WORKER: Option<Role> = Some(Role::Worker);
