//! What is known of one node: no I/O, no clock, no task.
//!
//! ```text
//! container ─▶ systemd ─▶ answers          each a cached reply: asked for when a probe needs it,
//!     ▲           ▲          ▲             kept until something invalidates it
//!     │           │          │
//!  engine's    systemd's   its unit has changed, or it is time
//!  events      signals
//!     └───────────┴──────────┴──── where nothing is told: asked for again and again
//! ```
//!
//! Inputs change the state (`handle.rs`), evaluations read it (`evaluate.rs`), and commands follow from
//! it (`plan.rs`). Everything is asked for concurrently: a reply that hangs delays no probe that does
//! not need it.

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    time::Duration,
};

use fastrand::Rng;
use tokio::time::Instant;

use super::{
    cached::Cached,
    clients::WantedSet,
    confirm::Confirmations,
    own_probe::Streak,
    probe_set::ProbeSet,
    probe_set::SetId,
    prompt::Prompt,
    schedule::{Pace, RESYNC},
    session::{ProbeReply, SystemdReply},
    span::Span,
    status::SeenRun,
    watch::Watch,
};
use crate::{
    container::{Container, State},
    engine::EngineError,
    inbox::Pending,
    node::{LabelKeys, NodeKind, NodeName, Profile, Role},
    probe::{Probe, ProbeKey, UnitProof, find_unit},
    unit::{Unit, UnitQuestion},
};

/// The container, or that there is none, or why that could not be told.
pub(super) type Inspected = Result<Option<Container>, EngineError>;

/// Something that a node's actor has learnt.
#[derive(Debug)]
pub(super) enum Input {
    /// The inbox was emptied.
    Inbox(Pending),
    /// These sets are wanted now.
    Wanted(Vec<WantedSet>),
    /// Whether the engine's events are live.
    EventsLive(bool),
    Inspected(Inspected, Span),
    Systemd(SystemdReply),
    /// The reply to a probe's own query of that number.
    Probe(ProbeKey, u64, ProbeReply),
    /// Something has happened that may have changed the reply to a probe's own query of that number.
    Changed(ProbeKey, u64),
    /// It is the turn of a probe's own query that is run by routine.
    Turn(ProbeKey),
    /// A status was published that says something new.
    News,
    /// Nobody wants anything any more.
    Idle,
}

/// Something that a node's actor has to do.
#[derive(Debug)]
pub(super) enum Command {
    /// Drop the session, and every query in it.
    EndSession,
    /// Open a session in this run of the container.
    StartSession(Container),
    /// Make the way into the node anew: it has signalled less than was seen.
    RenewLink,
    /// Subscribe to the engine's events anew: they have told less than was seen.
    DistrustEvents,
    Inspect,
    QuerySystemd(UnitQuestion),
    /// Run a probe's own query, which has that number; with the unit behind it, if there is one, and
    /// when what is known was asked for.
    QueryProbe(Probe, u64, Option<Unit>, Option<Instant>),
    /// Await the turn of a probe's own query that is run by routine; whether it has passed, says how soon.
    AwaitTurn(ProbeKey, bool),
    /// Await what would change the reply to a probe's own query of that number.
    Watch(ProbeKey, u64, Watch, Pacing),
}

/// How often what is only seen at a glance is glanced at.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pacing {
    /// Since when nothing new has been seen.
    pub(super) quiet_since: Instant,
    /// The shortest interval that a client polls at.
    pub(super) poll: Duration,
}

impl fmt::Display for Input {
    /// As an operator reads it in the log: what has arrived, and how long it took.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inbox(pending) => write!(f, "inbox: {pending}"),
            Self::Wanted(wanted) => write!(f, "clients want {} probe sets", wanted.len()),
            Self::EventsLive(live) => {
                write!(f, "events are {}", if *live { "live" } else { "lost" })
            }
            Self::Inspected(Ok(Some(container)), span) => {
                write!(f, "container {:?} after {:?}", container.state, span.took())
            }
            Self::Inspected(Ok(None), span) => write!(f, "no container after {:?}", span.took()),
            Self::Inspected(Err(error), span) => write!(f, "{error} after {:?}", span.took()),
            Self::Systemd(reply) => match &reply.result {
                Ok(state) => {
                    write!(f, "systemd is {} (via {}", state.system, reply.via)?;
                    for (name, unit) in &state.units {
                        write!(f, ", {name} {}", unit.active)?;
                    }
                    write!(f, ") after {:?}", reply.span.took())
                }
                Err(error) => write!(f, "no reply of systemd: {error:?}"),
            },
            Self::Probe(key, _, reply) => {
                let (result, took) = (&reply.result, reply.span.took());
                write!(f, "{key}: {result:?} (via {}) after {took:?}", reply.via)
            }
            Self::Changed(key, _) => write!(f, "{key} may have changed"),
            Self::Turn(key) => write!(f, "it is the turn of {key}"),
            Self::News => f.write_str("news"),
            Self::Idle => f.write_str("no client is left"),
        }
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EndSession => f.write_str("end the session"),
            Self::StartSession(container) => write!(f, "start a session in {}", container.id),
            Self::RenewLink => f.write_str("renew the link"),
            Self::DistrustEvents => f.write_str("subscribe to events anew"),
            Self::Inspect => f.write_str("inspect"),
            Self::QuerySystemd(question) => {
                write!(f, "query systemd: {}", question.units.join(", "))
            }
            Self::QueryProbe(probe, ..) => write!(f, "query {}: {}", probe.name(), probe.asks()),
            Self::AwaitTurn(key, _) => write!(f, "await the turn of {key}"),
            Self::Watch(key, _, watch, _) => write!(f, "await what changes {key}: {watch:?}"),
        }
    }
}

/// What a status says beside an evaluation.
#[derive(Debug, Clone)]
pub(super) struct Facts {
    pub(super) prompt: Prompt,
    pub(super) replies: u64,
    pub(super) sequence: u64,
    pub(super) run: Option<SeenRun>,
}

/// A probe's own reply, and the unit that was behind it when it was asked for.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) probe: Probe,
    pub(super) unit: Option<UnitProof>,
    /// The number of the newest query. A reply to another was asked for by clients that have gone.
    pub(super) query: u64,
    pub(super) cached: Cached<ProbeReply>,
    /// How often in a row it has passed or failed.
    pub(super) streak: Streak,
    pub(super) turn: Turn,
}

/// Whether a command may be run by routine: all nodes together run only so many in a second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Turn {
    #[default]
    NotAsked,
    Awaited,
    Come,
}

/// The container that was seen last, and since when it has been that run.
#[derive(Debug)]
pub(super) struct LastSeen {
    pub(super) container: Container,
    pub(super) asked: Instant,
    pub(super) since: Instant,
}

/// What is known of the engine itself.
#[derive(Debug, Default)]
pub(super) struct EngineState {
    /// Whether events are live, so that whatever happens to the container is told.
    pub(super) events_live: bool,
    /// Whether they were when the container was last asked for.
    pub(super) events_live_at_inspection: bool,
    /// Whether the engine may have been restarted.
    pub(super) back: Option<EngineBack>,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum EngineBack {
    NotYet,
    Since(Instant),
}

/// How often things are asked.
pub(super) struct Schedule {
    /// Since when nothing new has been seen.
    pub(super) quiet_since: Instant,
    pub(super) pace: Pace,
    pub(super) random: Rng,
}

/// What is known of one node.
pub(super) struct NodeState {
    // What it is.
    pub(super) node: NodeName,
    pub(super) labels: LabelKeys,
    pub(super) journal: bool,
    /// The profile of nodes whose labels and clients name none.
    pub(super) profile: Profile,

    // What was replied.
    pub(super) container: Cached<Inspected>,
    pub(super) systemd: Cached<SystemdReply>,
    pub(super) answers: HashMap<ProbeKey, Answer>,
    pub(super) confirmations: Confirmations,
    pub(super) last_seen: Option<LastSeen>,
    /// Whether the run is asked anything.
    pub(super) in_session: bool,

    // Who wants what, and since when that has passed.
    pub(super) wanted: Vec<WantedSet>,
    pub(super) passing: HashMap<SetId, Instant>,

    pub(super) intake: Intake,
    pub(super) engine: EngineState,
    pub(super) schedule: Schedule,
}

/// How far inputs have been taken, and what has come of them.
#[derive(Debug)]
pub(super) struct Intake {
    pub(super) prompt: Prompt,
    pub(super) replies: u64,
    /// The number of the last inbox message.
    pub(super) sequence: u64,
    /// The number of the last signal of a unit.
    pub(super) last_signal: u64,
    /// How many queries of probes have been started.
    pub(super) queries: u64,
    pub(super) commands: Vec<Command>,
}

impl NodeState {
    /// Nothing is known yet. The seed decides what is left to chance.
    pub(super) fn new(
        node: NodeName,
        labels: LabelKeys,
        journal: bool,
        profile: Profile,
        seed: u64,
        now: Instant,
    ) -> Self {
        Self {
            node,
            labels,
            journal,
            profile,
            container: Cached::new(now),
            systemd: Cached::new(now),
            answers: HashMap::new(),
            confirmations: Confirmations::default(),
            last_seen: None,
            in_session: false,
            wanted: Vec::new(),
            passing: HashMap::new(),
            intake: Intake {
                prompt: Prompt::initial(),
                replies: 0,
                sequence: 0,
                last_signal: 0,
                queries: 0,
                commands: Vec::new(),
            },
            engine: EngineState::default(),
            schedule: Schedule {
                quiet_since: now,
                pace: Pace::new(now),
                random: Rng::with_seed(seed),
            },
        }
    }

    /// The unit that a probe goes by, as systemd said last.
    pub(super) fn unit_of(&self, probe: &Probe) -> Option<&Unit> {
        let state = self.systemd.value()?.result.as_ref().ok()?;
        find_unit(state, probe.unit_names())
    }

    pub(super) fn wanted_probes(&self) -> Vec<Probe> {
        let probes = |set: &WantedSet| set.probes.probes(self.kind_of(&set.probes));
        self.wanted.iter().flat_map(probes).collect()
    }

    /// What the node is to this set, by the labels that were seen last.
    pub(super) fn kind_of(&self, set: &ProbeSet) -> NodeKind {
        NodeKind {
            role: set.part.role.or_else(|| self.last_role()),
            profile: set.part.profile.unwrap_or_else(|| self.last_profile()),
        }
    }

    /// The role that the label of the container gave which was seen last.
    pub(super) fn last_role(&self) -> Option<Role> {
        let seen = self.last_seen.as_ref()?;
        self.labels.role_of(&seen.container.labels).named()
    }

    /// The profile in the same way, else the server's own.
    fn last_profile(&self) -> Profile {
        let seen = self.last_seen.as_ref();
        let named = seen.and_then(|seen| self.labels.profile_of(&seen.container.labels).named());
        named.unwrap_or(self.profile)
    }

    /// Whether the last look found no such container.
    pub(super) fn is_absent(&self) -> bool {
        matches!(self.container.value(), Some(Ok(None)))
    }

    /// Whether whatever has happened to the container since it was asked for has been told.
    pub(super) fn container_events_live(&self) -> bool {
        self.engine.events_live_at_inspection && self.engine.events_live
    }

    /// The shortest interval that a client polls at.
    pub(super) fn poll(&self) -> Duration {
        let intervals = self.wanted.iter().map(|set| set.interval);
        intervals.min().unwrap_or(RESYNC)
    }

    /// What a status says beside an evaluation.
    pub(super) fn facts(&self) -> Facts {
        let run = self.last_seen.as_ref().map(|seen| SeenRun {
            run: seen.container.run(),
            is_alive: matches!(seen.container.state, State::Running | State::Paused),
            restarts: seen.container.restarts,
            asked: seen.asked,
            since: seen.since,
        });
        Facts {
            prompt: self.intake.prompt.clone(),
            replies: self.intake.replies,
            sequence: self.intake.sequence,
            run,
        }
    }
}

/// The units that probes go by; those behind a probe's own question, too, or not. Each is named once,
/// and always in the same order.
pub(super) fn units_of(probes: &[Probe], behind_answers: bool) -> Vec<&'static str> {
    let wanted = |probe: &&Probe| behind_answers || !probe.stands_with_its_unit();
    let names = probes.iter().filter(wanted).flat_map(Probe::unit_names);
    names
        .copied()
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect()
}
