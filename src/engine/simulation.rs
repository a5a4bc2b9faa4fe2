//! The promises of a wait, held against chance: an engine, nodes and a clock that do whatever a seed
//! says, and the real thing in the middle of them.
//!
//! The world knows how each node truly is at every moment. Whatever a wait says is held against that:
//!
//! - READY only if every node truly was, a moment ago (law 1);
//! - a reason, always, and the first within about a second (law 2);
//! - READY in time, once a node truly is and stays so;
//! - TERMINAL only if a node truly was past help;
//! - nothing left once the last client has gone (law 4).
//!
//! A seed that breaks one is printed. `READYD_SEED=N` plays it again, `READYD_STEPS=N` plays as many
//! steps as wanted, `READYD_SECONDS=N` for no longer than that.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, sleep, sleep_until},
};
use tokio_stream::wrappers::UnboundedReceiverStream;

use super::{
    Engine, FailurePolicy, LINGER, NodeState, Options, Verdict, WaitEvent, WaitRequest, WaitTarget,
};
use crate::{
    environment::{Clock, Environment, Spawner, Task, TaskFuture},
    event::{Action, ContainerEvent, Doubts, EventStream, heard},
    link::{Link, LinkError, Links, Told},
    node::{Identity, Role},
    question::{Answer, GreetingEnd, Question},
    runtime::{Container, ContainerId, Exec, Network, RunningExec, Runtime, RuntimeError, State},
    unit::{SystemdLook, Unit, UnitQuestion},
};

const MS: Duration = Duration::from_millis(1);

/// How long ago what is said may have been true: as long as looking takes here.
const LATE: Duration = Duration::from_millis(250);

/// How long ago what nobody tells may have been: it is asked for again after a poll interval.
const UNTOLD: Duration = Duration::from_millis(1500);

/// Within which time a node that is ready, and stays so, is said to be: events may have been lost, and
/// the resync makes good for them.
const IN_TIME: Duration = Duration::from_secs(45);

/// The same where nothing is lost.
const SOON: Duration = Duration::from_secs(2);

const ROLES: [Option<Role>; 3] = [None, Some(Role::Worker), Some(Role::Controller)];

/// A unit as it truly is.
#[derive(Debug, Clone)]
struct TrueUnit {
    active: &'static str,
    kind: &'static str,
    pid: u32,
    invocation: u64,
    changed: u64,
    since: Instant,
}

/// A container as it truly is.
struct TrueContainer {
    id: ContainerId,
    run: u64,
    state: State,
    restarts: bool,
    system: &'static str,
    units: BTreeMap<&'static str, TrueUnit>,
    rpc: bool,
    /// Whether its bus tells of changes.
    tells: bool,
    /// Which of its buses is the one now: another one after each break.
    bus: u64,
    ears: Vec<Weak<Doubts>>,
    /// When the last signal arrives: they come in order.
    last_signal: Instant,
}

/// A node, and how it has been.
struct TrueNode {
    role: Option<Role>,
    container: Option<TrueContainer>,
    history: VecDeque<(Instant, Truth)>,
}

/// How a node is, as far as a wait can tell.
#[allow(clippy::struct_excessive_bools, reason = "each is so by itself")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Truth {
    /// All but what follows.
    up: bool,
    /// systemd as a whole, which does not tell of all its changes.
    system: bool,
    rpc: bool,
    slurmd_since: Option<Instant>,
    past_help: bool,
}

struct World {
    random: fastrand::Rng,
    nodes: BTreeMap<String, TrueNode>,
    ids: u64,
    /// Why nothing can be asked of the engine, while it cannot.
    outage: bool,
    /// How long the engine takes.
    latency: Duration,
    /// When it was slow last: calls from then may still be on their way.
    slow: Option<Instant>,
    subscribers: Vec<mpsc::UnboundedSender<Result<ContainerEvent, RuntimeError>>>,
    past: VecDeque<ContainerEvent>,
    /// How many of a hundred events are lost, and told twice.
    lost: u32,
    twice: u32,
    links: Arc<AtomicUsize>,
    violations: Vec<String>,
    waits: usize,
    verdicts: BTreeMap<&'static str, u64>,
}

#[derive(Clone)]
struct Sim(Arc<Mutex<World>>);

impl Sim {
    fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(World {
            random: fastrand::Rng::with_seed(seed),
            nodes: BTreeMap::new(),
            ids: 0,
            outage: false,
            latency: MS,
            slow: None,
            subscribers: Vec::new(),
            past: VecDeque::new(),
            lost: 0,
            twice: 0,
            links: Arc::default(),
            violations: Vec::new(),
            waits: 0,
            verdicts: BTreeMap::new(),
        })))
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap()
    }

    /// Some time up to that.
    fn some(&self, most: Duration) -> Duration {
        let micros = most.as_micros() as u64;
        Duration::from_micros(self.world().random.u64(0..=micros))
    }
}

// --- what truly happens -----------------------------------------------------------------------------

fn unit(kind: &'static str) -> TrueUnit {
    TrueUnit {
        active: "inactive",
        kind,
        pid: 0,
        invocation: 0,
        changed: 1,
        since: Instant::now(),
    }
}

impl World {
    fn node(&mut self, name: &str) -> &mut TrueNode {
        self.nodes.get_mut(name).unwrap()
    }

    fn create(&mut self, name: &str) {
        self.ids += 1;
        let (ids, tells) = (self.ids, self.random.u8(..4) > 0);
        let restarts = self.random.bool();
        let container = TrueContainer {
            id: ContainerId(format!("{ids:064x}")),
            run: 0,
            state: State::Created,
            restarts,
            system: "starting",
            units: BTreeMap::new(),
            rpc: false,
            tells,
            bus: 0,
            ears: Vec::new(),
            last_signal: Instant::now(),
        };
        self.node(name).container = Some(container);
        self.event(name, Action::Create);
    }

    fn start(&mut self, name: &str) {
        self.ids += 1;
        let run = self.ids;
        let Some(container) = &mut self.node(name).container else {
            return;
        };
        if matches!(container.state, State::Running | State::Paused) {
            return;
        }
        container.run = run;
        container.state = State::Running;
        container.system = "starting";
        container.rpc = false;
        container.units = [
            ("munge.service", unit("forking")),
            ("slurmctld.service", unit("simple")),
            ("slurmd.service", unit("simple")),
            ("ssh.service", unit("notify")),
        ]
        .into();
        self.event(name, Action::Start);
    }

    fn end(&mut self, name: &str, state: State) {
        let Some(container) = &mut self.node(name).container else {
            return;
        };
        if !matches!(container.state, State::Running | State::Paused) {
            return;
        }
        container.state = state;
        self.hang_up(name);
        self.event(name, Action::Die);
    }

    fn destroy(&mut self, name: &str) {
        if self.node(name).container.is_none() {
            return;
        }
        self.end(
            name,
            State::Exited {
                code: 137,
                oom: false,
            },
        );
        self.event(name, Action::Destroy);
        self.node(name).container = None;
        self.note(name);
    }

    fn pause(&mut self, name: &str, pause: bool) {
        let Some(container) = &mut self.node(name).container else {
            return;
        };
        let (from, to, action) = if pause {
            (State::Running, State::Paused, Action::Pause)
        } else {
            (State::Paused, State::Running, Action::Unpause)
        };
        if container.state == from {
            container.state = to;
            self.event(name, action);
        }
    }

    fn set_unit(&mut self, name: &str, which: &'static str, active: &'static str) {
        let now = Instant::now();
        self.ids += 1;
        let next = self.ids;
        let Some(container) = &mut self.node(name).container else {
            return;
        };
        if container.state != State::Running {
            return;
        }
        let Some(unit) = container.units.get_mut(which) else {
            return;
        };
        let starts = active == "active" && !is_up(unit.active);
        unit.active = active;
        unit.changed = next;
        if starts {
            (unit.pid, unit.invocation, unit.since) = (next as u32, next, now);
        }
        if which == "slurmctld.service" && !is_up(active) {
            container.rpc = false;
        }
        self.signal(name, Some(which));
    }

    fn set_system(&mut self, name: &str, system: &'static str) {
        let Some(container) = &mut self.node(name).container else {
            return;
        };
        let told = container.system == "starting";
        if container.state == State::Running && container.system != system && system != "starting" {
            container.system = system;
            if told {
                self.signal(name, None);
            }
            self.note(name);
        }
    }

    /// Tells whoever listens on the node's bus.
    fn signal(&mut self, name: &str, unit: Option<&'static str>) {
        self.note(name);
        let delay = Duration::from_micros(self.random.u64(0..5000));
        let Some(container) = &mut self.node(name).container else {
            return;
        };
        let at = container.last_signal.max(Instant::now() + delay);
        container.last_signal = at;
        let ears = container.ears.clone();
        tokio::spawn(async move {
            sleep_until(at).await;
            for ear in ears.iter().filter_map(Weak::upgrade) {
                match unit {
                    Some(unit) => ear.unit(unit),
                    None => ear.systemd(false),
                }
            }
        });
    }

    /// Breaks the node's bus: who listened hears that, and nothing more.
    fn hang_up(&mut self, name: &str) {
        let delay = Duration::from_micros(self.random.u64(0..5000));
        let Some(container) = &mut self.node(name).container else {
            return;
        };
        container.bus += 1;
        let ears = std::mem::take(&mut container.ears);
        let at = container.last_signal.max(Instant::now() + delay);
        tokio::spawn(async move {
            sleep_until(at).await;
            ears.iter()
                .filter_map(Weak::upgrade)
                .for_each(|ear| ear.deaf());
        });
    }

    fn event(&mut self, name: &str, action: Action) {
        self.note(name);
        let Some(container) = &self.nodes[name].container else {
            return;
        };
        self.ids += 1;
        let event = ContainerEvent {
            id: container.id.clone(),
            name: name.to_owned(),
            former_name: None,
            action,
            at: Some(SystemTime::UNIX_EPOCH + Duration::from_nanos(self.ids)),
        };
        self.past.push_back(event.clone());
        if self.past.len() > 256 {
            self.past.pop_front();
        }
        if self.random.u32(0..100) < self.lost {
            return;
        }
        let times = if self.random.u32(0..100) < self.twice {
            2
        } else {
            1
        };
        for _ in 0..times {
            // In any order: what came first may be told last.
            let delay = Duration::from_micros(self.random.u64(0..20_000));
            for subscriber in self.subscribers.clone() {
                let event = event.clone();
                tokio::spawn(async move {
                    sleep(delay).await;
                    let _ = subscriber.send(Ok(event));
                });
            }
        }
    }

    /// Writes down how the node is from now on.
    fn note(&mut self, name: &str) {
        let now = Instant::now();
        let node = self.node(name);
        let truth = truth(node);
        if node.history.back().is_none_or(|(_, last)| *last != truth) {
            node.history.push_back((now, truth));
        }
        if node.history.len() > 4000 {
            node.history.pop_front();
        }
    }
}

/// What `systemctl is-active` calls active.
fn is_up(active: &str) -> bool {
    matches!(active, "active" | "reloading")
}

fn truth(node: &TrueNode) -> Truth {
    let Some(container) = &node.container else {
        return Truth {
            up: false,
            system: false,
            rpc: false,
            slurmd_since: None,
            past_help: true,
        };
    };
    let active = |unit: &str| {
        container
            .units
            .get(unit)
            .is_some_and(|unit| is_up(unit.active))
    };
    let failed = container.units.values().any(|unit| unit.active == "failed");
    let ended = matches!(container.state, State::Exited { .. } | State::Dead);
    Truth {
        up: container.state == State::Running && active("ssh.service") && active("munge.service"),
        system: matches!(container.system, "running" | "degraded"),
        rpc: container.rpc && active("slurmctld.service"),
        slurmd_since: active("slurmd.service").then(|| container.units["slurmd.service"].since),
        past_help: ended || failed,
    }
}

impl TrueNode {
    /// How it has been of late, by how long ago.
    fn of_late(&self) -> String {
        let newest = self.history.iter().rev().take(12);
        let lines = newest.map(|(from, truth)| format!("\n    {:?} ago {truth:?}", from.elapsed()));
        lines.collect()
    }

    /// Whether that held at some moment from then on.
    fn held_since(&self, then: Instant, held: impl Fn(Instant, Instant, &Truth) -> bool) -> bool {
        let mut until = Instant::now();
        for (from, truth) in self.history.iter().rev() {
            if held((*from).max(then), until, truth) {
                return true;
            }
            until = *from;
            if *from < then {
                return false;
            }
        }
        false
    }

    /// Whether it was ready a moment ago, as far as these probes go.
    fn was_ready(&self, role: Option<Role>, late: Duration) -> bool {
        let now = Instant::now();
        let start = |late| now.checked_sub(late).unwrap();
        let proven = Duration::from_millis(200);
        if !self.held_since(start(late + UNTOLD), |_, _, truth| truth.system) {
            return false;
        }
        match role {
            Some(Role::Controller) => {
                self.held_since(start(late), |_, _, truth| truth.up)
                    && self.held_since(start(late + UNTOLD), |_, _, truth| truth.rpc)
            }
            Some(Role::Worker) => self.held_since(start(late), |_, until, truth| {
                truth.up
                    && truth
                        .slurmd_since
                        .is_some_and(|since| since + proven <= until)
            }),
            _ => self.held_since(start(late), |_, _, truth| truth.up),
        }
    }
}

// --- what is asked of it ----------------------------------------------------------------------------

#[async_trait]
impl Runtime for Sim {
    async fn inspect(&self, name: &str, by: Instant) -> Result<Option<Container>, RuntimeError> {
        let latency = self.world().latency;
        sleep(self.some(latency)).await;
        let (seen, outage) = {
            let world = self.world();
            let seen = world.nodes.get(name).and_then(|node| {
                let container = node.container.as_ref()?;
                Some(Container {
                    id: container.id.clone(),
                    name: name.to_owned(),
                    labels: [].into(),
                    state: container.state.clone(),
                    restarts: container.restarts,
                    started_at: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(container.run)),
                    pid: Some(container.run as u32),
                    network: Network::Own,
                })
            });
            (seen, world.outage)
        };
        sleep(self.some(latency)).await;
        let action = format!("inspecting container {name}");
        if Instant::now() > by {
            return Err(RuntimeError::TimedOut {
                action,
                limit: None,
            });
        }
        if outage {
            Err(unreachable(action))
        } else {
            Ok(seen)
        }
    }

    async fn processes(&self, _: &ContainerId, _: Instant) -> Result<usize, RuntimeError> {
        Ok(2)
    }

    async fn exec(
        &self,
        _: &ContainerId,
        _: Exec,
        _: Instant,
    ) -> Result<Box<dyn RunningExec>, RuntimeError> {
        Err(unreachable("starting a command".to_owned()))
    }

    async fn events(
        &self,
        since: Option<SystemTime>,
        _: Instant,
    ) -> Result<EventStream, RuntimeError> {
        sleep(self.some(MS)).await;
        let mut world = self.world();
        if world.outage {
            return Err(unreachable("subscribing to events".to_owned()));
        }
        let (sender, receiver) = mpsc::unbounded_channel();
        for event in world
            .past
            .iter()
            .filter(|event| since.is_some() && event.at >= since)
        {
            let _ = sender.send(Ok(event.clone()));
        }
        world.subscribers.push(sender);
        Ok(Box::pin(UnboundedReceiverStream::new(receiver)))
    }
}

fn unreachable(action: String) -> RuntimeError {
    RuntimeError::Unreachable {
        action,
        engine: "sim://".to_owned(),
        cause: "an outage".to_owned(),
    }
}

/// A way into one run of one node.
struct SimLink {
    sim: Sim,
    node: String,
    run: u64,
    bus: u64,
}

impl SimLink {
    fn new(sim: &Sim, container: &Container) -> Self {
        let mut world = sim.world();
        world.links.fetch_add(1, Ordering::SeqCst);
        let bus = world
            .node(&container.name)
            .container
            .as_ref()
            .map_or(0, |now| now.bus);
        let started = container.started_at.unwrap();
        let run = started.duration_since(SystemTime::UNIX_EPOCH).unwrap();
        Self {
            sim: sim.clone(),
            node: container.name.clone(),
            run: run.as_secs(),
            bus,
        }
    }

    /// What is read in the node's container, if it is still that run and can answer.
    fn read<T>(
        &self,
        world: &mut World,
        read: impl FnOnce(&mut TrueContainer) -> T,
    ) -> Result<T, LinkError> {
        match &mut world.node(&self.node).container {
            Some(now) if now.run == self.run && now.state == State::Running => Ok(read(now)),
            Some(now) if now.run == self.run && now.state == State::Paused => {
                Err(LinkError::Slow {
                    what: "systemd".to_owned(),
                    limit: None,
                })
            }
            _ => Err(LinkError::NotRunning),
        }
    }

    async fn look(
        &self,
        question: &UnitQuestion,
        listener: Option<&Arc<Doubts>>,
    ) -> Result<SystemdLook, LinkError> {
        sleep(self.sim.some(2 * MS)).await;
        let bus = self.bus;
        let broken = || LinkError::Broken("the bus broke".to_owned());
        let told = self.read(&mut self.sim.world(), |now| {
            if now.bus != bus {
                return Err(broken());
            }
            let told = now.tells && listener.is_some();
            if let Some(listener) = listener.filter(|_| told) {
                let ear = Arc::downgrade(listener);
                now.ears.retain(|ear| ear.strong_count() > 0);
                if !now.ears.iter().any(|other| Weak::ptr_eq(other, &ear)) {
                    now.ears.push(ear);
                }
            }
            Ok(told)
        })??;
        sleep(self.sim.some(2 * MS)).await;
        let look = self.read(&mut self.sim.world(), |now| SystemdLook {
            heard: heard(),
            system: now.system.to_owned(),
            failed_units: Vec::new(),
            units: question
                .units
                .iter()
                .map(|name| ((*name).to_owned(), now.unit(name)))
                .collect(),
            told,
        })?;
        sleep(self.sim.some(2 * MS)).await;
        let bus_now = self.read(&mut self.sim.world(), |now| now.bus)?;
        if bus_now == bus {
            Ok(look)
        } else {
            Err(broken())
        }
    }
}

impl TrueContainer {
    fn unit(&self, name: &str) -> Unit {
        let real = if name == "sshd.service" {
            "ssh.service"
        } else {
            name
        };
        let Some(unit) = self.units.get(real) else {
            return Unit {
                load: "not-found".to_owned(),
                ..Unit::default()
            };
        };
        Unit {
            id: real.to_owned(),
            load: "loaded".to_owned(),
            active: unit.active.to_owned(),
            kind: unit.kind.to_owned(),
            main_pid: unit.pid,
            invocation: unit.invocation.to_string(),
            changed: unit.changed,
            age: self.tells.then(|| unit.since.elapsed()),
            ..Unit::default()
        }
    }
}

impl Drop for SimLink {
    fn drop(&mut self) {
        let links = Arc::clone(&self.sim.world().links);
        links.fetch_sub(1, Ordering::SeqCst);
    }
}

#[async_trait]
impl Link for SimLink {
    async fn systemd(
        &self,
        question: &UnitQuestion,
        listener: Option<&Arc<Doubts>>,
        by: Instant,
    ) -> Told<SystemdLook> {
        let said = loop {
            match self.look(question, listener).await {
                // A paused node answers once it goes on.
                Err(LinkError::Slow { .. }) if Instant::now() < by => sleep(20 * MS).await,
                other => break other,
            }
        };
        Told { via: "sim", said }
    }

    async fn ask(&self, question: &Question, by: Instant) -> Told<Answer> {
        sleep(self.sim.some(12 * MS)).await;
        let read = || {
            self.read(&mut self.sim.world(), |now| match question {
                Question::Greeting { port: 22, .. } => match now.units["ssh.service"].active {
                    "active" | "reloading" => {
                        Answer::Greeting(b"SSH-2.0-sim".to_vec(), GreetingEnd::Found)
                    }
                    _ => Answer::Closed("Connection refused".to_owned()),
                },
                Question::Command { .. } if now.rpc => Answer::Command {
                    stdout: "c\nSlurmctld(primary) at c is UP\n".to_owned(),
                    stderr: String::new(),
                    code: 0,
                },
                Question::Command { .. } => Answer::Command {
                    stdout: "c\nSlurmctld(primary) at c is DOWN\n".to_owned(),
                    stderr: String::new(),
                    code: 1,
                },
                _ => Answer::Closed("Connection refused".to_owned()),
            })
        };
        let said = loop {
            match read() {
                Err(LinkError::Slow { .. }) if Instant::now() < by => sleep(20 * MS).await,
                other => break other,
            }
        };
        Told { via: "sim", said }
    }
}

// --- what happens by chance -------------------------------------------------------------------------

const UNITS: [&str; 4] = [
    "munge.service",
    "slurmctld.service",
    "slurmd.service",
    "ssh.service",
];

impl World {
    /// One thing that happens.
    fn happen(&mut self, faults: bool) {
        let names: Vec<_> = self.nodes.keys().cloned().collect();
        let name = names[self.random.usize(..names.len())].clone();
        let which = UNITS[self.random.usize(..UNITS.len())];
        match self.random.u32(0..100) {
            0..=29 => self.heal(&name),
            30..=39 => {
                let actives = [
                    "active",
                    "active",
                    "inactive",
                    "activating",
                    "failed",
                    "reloading",
                ];
                let active = actives[self.random.usize(..actives.len())];
                self.set_unit(&name, which, active);
            }
            // As `Restart=` does.
            40..=45 => {
                self.set_unit(&name, which, "failed");
                self.set_unit(&name, which, "activating");
                self.set_unit(&name, which, "active");
            }
            46..=50 => {
                let systems = ["running", "degraded", "maintenance"];
                let system = systems[self.random.usize(..systems.len())];
                self.set_system(&name, system);
            }
            51..=56 => {
                if let Some(container) = &mut self.node(&name).container {
                    container.rpc = !container.rpc;
                }
                self.note(&name);
            }
            57..=60 => self.pause(&name, true),
            61..=66 => self.pause(&name, false),
            67..=69 => {
                let code = i64::from(self.random.u8(..));
                self.end(&name, State::Exited { code, oom: false });
            }
            70..=71 => {
                self.end(&name, State::Restarting);
                self.start(&name);
            }
            72..=73 => {
                self.destroy(&name);
                if self.random.bool() {
                    self.create(&name);
                    self.start(&name);
                }
            }
            74..=76 => self.start(&name),
            77..=79 => self.set_unit(&name, "slurmd.service", "active"),
            80..=82 => self.hang_up(&name),
            _ if !faults => {}
            83..=85 => self.subscribers.clear(),
            86 => {
                self.outage = true;
                self.subscribers.clear();
            }
            87..=90 => self.outage = false,
            91 => self.lost = 30,
            92..=93 => self.lost = 0,
            94 => self.twice = 50,
            95 => self.twice = 0,
            96 => self.latency = 1500 * MS,
            _ => {
                if self.latency > MS {
                    self.slow = Some(Instant::now());
                }
                self.latency = MS;
            }
        }
    }

    /// How much later than usual answers may be.
    fn slowness(&self) -> Duration {
        let of_late = |slow: Instant| slow.elapsed() < Duration::from_secs(12);
        if self.latency > MS || self.slow.is_some_and(of_late) {
            Duration::from_secs(6)
        } else {
            4 * MS
        }
    }

    /// Everything of a node is as it should be.
    fn heal(&mut self, name: &str) {
        if self.node(name).container.is_none() {
            self.create(name);
        }
        self.pause(name, false);
        self.start(name);
        for unit in UNITS {
            let active = self.node(name).container.as_ref();
            let active = active
                .and_then(|now| now.units.get(unit))
                .map(|unit| unit.active);
            if active != Some("active") {
                self.set_unit(name, unit, "active");
            }
        }
        self.set_system(name, "running");
        if let Some(container) = &mut self.node(name).container {
            container.rpc = container.state == State::Running;
        }
        self.note(name);
    }
}

/// Follows a wait, and holds what it says against the truth.
async fn client(sim: Sim, engine: Engine, request: WaitRequest) {
    let started = Instant::now();
    let policy = request.failure_policy;
    let stable_for = request.stable_for;
    let targets = request.nodes.clone();
    sim.world().waits += 1;
    let mut wait = engine.wait(&Identity::Local, request);
    let mut first = true;
    while let Some(event) = wait.next().await {
        let mut world = sim.world();
        let slow = world.slowness();
        if first {
            first = false;
            let took = started.elapsed();
            if took > 1100 * MS + slow {
                world
                    .violations
                    .push(format!("the first message took {took:?}"));
            }
        }
        match event {
            WaitEvent::Node(report) => {
                if let NodeState::Terminal(reason) = &report.state
                    && policy == FailurePolicy::KeepWaiting
                {
                    world
                        .violations
                        .push(format!("terminal in spite of its policy: {reason}"));
                }
            }
            WaitEvent::Result(result) => {
                let said = format!("{:?} {}", result.verdict, result.message);
                let verdict = match result.verdict {
                    Verdict::Ready => "ready",
                    Verdict::Terminal => "terminal",
                    Verdict::TimedOut => "timed out",
                };
                *world.verdicts.entry(verdict).or_default() += 1;
                world.judge(result.verdict, &said, &targets, stable_for, started);
            }
        }
    }
    sim.world().waits -= 1;
}

impl World {
    fn judge(
        &mut self,
        verdict: Verdict,
        said: &str,
        targets: &[WaitTarget],
        stable_for: Duration,
        started: Instant,
    ) {
        let mut wrong = Vec::new();
        let slow = self.slowness();
        match verdict {
            Verdict::Ready => {
                for target in targets {
                    let node = &self.nodes[target.node.as_str()];
                    let untold = node.container.as_ref().is_none_or(|now| !now.tells);
                    let late = if untold { LATE + UNTOLD } else { LATE };
                    if !node.was_ready(target.role, late + slow) {
                        wrong.push(format!("{} was not ready: {}", target.node, node.of_late()));
                    }
                    // Some moment of the window in which it was not up would have been seen.
                    let undone = |from: Instant, until: Instant, truth: &Truth| {
                        !truth.up && until.saturating_duration_since(from) > LATE + UNTOLD
                    };
                    let now = Instant::now();
                    if let Some(start) = now.checked_sub(stable_for)
                        && !stable_for.is_zero()
                        && slow < MS * 10
                        && node.held_since(start, undone)
                    {
                        wrong.push(format!(
                            "{} did not stay ready: {}",
                            target.node,
                            node.of_late()
                        ));
                    }
                }
                if started.elapsed() < stable_for {
                    wrong.push("ready before it could be stable".to_owned());
                }
            }
            Verdict::Terminal => {
                let late = LATE + UNTOLD + slow;
                let start = Instant::now().checked_sub(late).unwrap();
                let past_help = targets.iter().any(|target| {
                    let node = &self.nodes[target.node.as_str()];
                    node.held_since(start, |_, _, truth| truth.past_help)
                });
                if !past_help {
                    let nodes = targets
                        .iter()
                        .map(|target| &self.nodes[target.node.as_str()]);
                    let of_late: Vec<_> = nodes.map(TrueNode::of_late).collect();
                    wrong.push(format!("no node was past help: {}", of_late.concat()));
                }
            }
            Verdict::TimedOut => {
                let named = |target: &WaitTarget| said.contains(&format!("{}: ", target.node));
                if !targets.iter().any(named) {
                    wrong.push("no node is named".to_owned());
                }
            }
        }
        for wrong in wrong {
            self.violations.push(format!("{said}: {wrong}"));
        }
    }

    fn request(&mut self) -> WaitRequest {
        let mut nodes: Vec<_> = self
            .nodes
            .iter()
            .map(|(name, node)| (name.clone(), node.role))
            .collect();
        let count = self.random.usize(1..=nodes.len());
        self.random.shuffle(&mut nodes);
        nodes.truncate(count);
        let target = |(name, role): (String, Option<Role>)| WaitTarget {
            node: name.parse().unwrap(),
            role,
        };
        WaitRequest {
            nodes: nodes.into_iter().map(target).collect(),
            limit: Some(Duration::from_millis(self.random.u64(50..60_000))),
            poll_interval: [Duration::ZERO, 100 * MS, 1000 * MS][self.random.usize(..3)],
            stable_for: [Duration::ZERO, Duration::ZERO, 300 * MS, 3000 * MS]
                [self.random.usize(..4)],
            failure_policy: if self.random.bool() {
                FailurePolicy::Stop
            } else {
                FailurePolicy::KeepWaiting
            },
            ..WaitRequest::default()
        }
    }
}

/// tokio's paused clock.
struct Paused;

impl Clock for Paused {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn wall(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH
    }

    fn sleep_until(&self, deadline: Instant) -> TaskFuture {
        Box::pin(sleep_until(deadline))
    }
}

impl Spawner for Paused {
    fn spawn(&self, future: TaskFuture) -> Task {
        let handle = tokio::spawn(future).abort_handle();
        Task::new(move || handle.abort())
    }
}

#[allow(
    clippy::too_many_lines,
    reason = "one play, from the first act to the last"
)]
/// Plays one seed for that many steps; tells what went wrong, and the verdicts that there were.
async fn play(seed: u64, steps: u64) -> (Vec<String>, BTreeMap<&'static str, u64>) {
    // The clock begins late enough for the past to be reckoned with.
    tokio::time::advance(Duration::from_secs(600)).await;
    let sim = Sim::new(seed);
    let faults = seed.is_multiple_of(2);
    {
        let mut world = sim.world();
        for (at, role) in ROLES.into_iter().enumerate() {
            let name = format!("n{at}");
            let node = TrueNode {
                role,
                container: None,
                history: VecDeque::new(),
            };
            world.nodes.insert(name.clone(), node);
            world.note(&name);
        }
    }
    let environment = Environment::new(Paused, Paused, seed);
    let maker = sim.clone();
    let runtime: Arc<dyn Runtime> = Arc::new(sim.clone());
    let options = Options::default();
    let links = Links::new(
        Arc::clone(&runtime),
        environment.clone(),
        options.link,
        options.keep_links,
    );
    let links = links.made_by(Arc::new(move |container| {
        Arc::new(SimLink::new(&maker, container))
    }));
    let engine = Engine::over(runtime, links, options, environment.clone());

    let mut clients: Vec<JoinHandle<()>> = Vec::new();
    for _ in 0..steps {
        let (chance, pause) = {
            let mut world = sim.world();
            let pause = match world.random.u8(..8) {
                0..=3 => world.random.u64(0..3_000),
                4..=6 => world.random.u64(0..100_000),
                _ => world.random.u64(0..3_000_000),
            };
            (world.random.u32(0..100), pause)
        };
        clients.retain(|client| !client.is_finished());
        match chance {
            0..=11 if clients.len() < 12 => {
                let request = sim.world().request();
                clients.push(tokio::spawn(client(sim.clone(), engine.clone(), request)));
            }
            12..=15 if !clients.is_empty() => {
                let at = sim.world().random.usize(..clients.len());
                clients.swap_remove(at).abort();
            }
            _ => sim.world().happen(faults),
        }
        sleep(Duration::from_micros(pause)).await;
        if !sim.world().violations.is_empty() {
            break;
        }
    }

    // Everything is well from now on: whoever waits is told so in time.
    for client in clients {
        client.abort();
    }
    let names: Vec<_> = sim.world().nodes.keys().cloned().collect();
    {
        let mut world = sim.world();
        (world.outage, world.lost, world.latency) = (false, 0, MS);
        for name in &names {
            world.heal(name);
            world.set_unit(name, "munge.service", "inactive");
        }
    }
    let nodes: Vec<_> = sim
        .world()
        .nodes
        .iter()
        .map(|(name, node)| (name.clone(), node.role))
        .collect();
    let target = |(name, role): (String, Option<Role>)| WaitTarget {
        node: name.parse().unwrap(),
        role,
    };
    let request = WaitRequest {
        nodes: nodes.into_iter().map(target).collect(),
        failure_policy: FailurePolicy::KeepWaiting,
        ..WaitRequest::default()
    };
    let in_time = if faults { IN_TIME } else { SOON };
    let wait = engine.wait(&Identity::Local, request);
    // By then it waits for the last unit, and asks for nothing that is told.
    sleep(Duration::from_secs(10)).await;
    for name in &names {
        sim.world().heal(name);
    }
    match tokio::time::timeout(in_time, wait.result()).await {
        Ok(Some(result)) if result.verdict == Verdict::Ready => {}
        other => {
            let said = format!("not ready within {in_time:?}: {other:?}");
            sim.world().violations.push(said);
        }
    }
    sleep(LINGER + super::KEEP_LINKS + 100 * MS).await;
    let links = sim.world().links.load(Ordering::SeqCst);
    let mut world = sim.world();
    world
        .subscribers
        .retain(|subscriber| !subscriber.is_closed());
    let left = (environment.tasks(), links, world.subscribers.len());
    if left != (0, 0, 0) {
        world
            .violations
            .push(format!("left behind: tasks, links, subscriptions {left:?}"));
    }
    (
        std::mem::take(&mut world.violations),
        std::mem::take(&mut world.verdicts),
    )
}

fn played(seed: u64, steps: u64) -> BTreeMap<&'static str, u64> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let (violations, verdicts) = runtime.block_on(play(seed, steps));
    assert!(
        violations.is_empty(),
        "seed {seed} (READYD_SEED={seed} READYD_STEPS={steps} plays it again): {violations:#?}"
    );
    verdicts
}

fn variable(name: &str) -> Option<u64> {
    Some(std::env::var(name).ok()?.parse().unwrap())
}

#[test]
fn whatever_happens_the_promises_hold() {
    const EACH: u64 = 1_000;
    if let Some(seed) = variable("READYD_SEED") {
        println!(
            "{:?}",
            played(seed, variable("READYD_STEPS").unwrap_or(EACH))
        );
        return;
    }
    let steps = variable("READYD_STEPS").unwrap_or(40_000);
    let base = fastrand::u64(..u64::from(u32::MAX));
    let mut verdicts = BTreeMap::new();
    println!("seeds from {base} on, {EACH} steps each");
    let budget = Duration::from_secs(variable("READYD_SECONDS").unwrap_or(120));
    let start = std::time::Instant::now();
    let mut done = 0;
    for seed in (base..base + steps / EACH).take_while(|_| start.elapsed() < budget) {
        for (verdict, count) in played(seed, EACH) {
            *verdicts.entry(verdict).or_insert(0) += count;
        }
        done += EACH;
    }
    println!("{done} steps, without a violation: {verdicts:?}");
    // A world in which nothing is ever ready would prove nothing.
    for verdict in ["ready", "terminal", "timed out"] {
        assert!(verdicts.contains_key(verdict), "{verdicts:?}");
    }
}
