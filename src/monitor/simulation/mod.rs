//! Tests the promises of a wait in a random simulation: a seed determines what the engine, the
//! nodes and the clock do, and the real monitor runs in the middle of them.
//!
//! The world knows the true state of each node at every moment. The simulation compares everything
//! that a wait reports with it:
//!
//! - A wait is READY only if every node truly was ready a moment ago (law 1).
//! - A wait always has a reason, and the first within about a second (law 2).
//! - A wait is READY in time, once every node truly is ready and stays so.
//! - A wait is TERMINAL only if a node truly was past help.
//! - Nothing is left once the last client has gone (law 4).
//!
//! The test prints a seed that breaks a promise. `READYD_SEED=N` runs that seed again,
//! `READYD_STEPS=N` sets the number of steps, and `READYD_SECONDS=N` how long they may take: a run that
//! plays fewer steps fails.

mod chance;
mod link;
mod waiter;
mod world;

use std::{
    collections::{BTreeMap, VecDeque},
    panic::{catch_unwind, resume_unwind},
    sync::{
        Arc, Mutex, MutexGuard, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering},
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
    FailurePolicy, LINGER, Monitor, NodeState, Options, Verdict, WaitEvent, WaitRequest, WaitTarget,
};
use crate::{
    container::{Container, ContainerId, Network, State},
    engine::{ContainerEngine, EngineError, EventStream, Exec, ListedContainer, RunningExec},
    environment::{Clock, Environment, Spawner, Task, TaskFuture},
    event::{Action, ContainerEvent},
    inbox::Inbox,
    link::{Link, LinkError, Links, Reply},
    node::{Identity, NodeName, Role},
    question::{Answer, DaemonProcess, GreetingEnd, ListeningSocket, PortQuestion, Question},
    systemd::signals::SignalCounter,
    unit::{SystemdState, Unit, UnitQuestion},
};

use link::SimLink;

const MS: Duration = Duration::from_millis(1);

/// How old a reported state may be: as long as a look takes here.
const LATE: Duration = Duration::from_millis(250);

/// How old a reported state may be if no signal announces its changes: it is queried again after a
/// poll interval.
const UNTOLD: Duration = Duration::from_millis(1500);

/// The time in which a node that is ready and stays so has to be reported ready: events may have
/// been lost, and then the resync makes up for them.
const IN_TIME: Duration = Duration::from_secs(45);

/// The same time for a world in which nothing is lost.
const SOON: Duration = Duration::from_secs(2);

const ROLES: [Option<Role>; 3] = [None, Some(Role::Worker), Some(Role::Controller)];

/// The true state of a unit.
#[derive(Debug, Clone)]
struct TrueUnit {
    active: &'static str,
    kind: &'static str,
    pid: u32,
    invocation: u64,
    changed: u64,
    since: Instant,
}

/// The true state of a container.
struct TrueContainer {
    id: ContainerId,
    run: u64,
    state: State,
    restarts: bool,
    created: Instant,
    ended_at: Option<Instant>,
    system: &'static str,
    units: BTreeMap<&'static str, TrueUnit>,
    rpc: bool,
    /// Whether the container's bus sends signals about changes.
    tells: bool,
    /// The number of the current bus: each break of the bus makes a new one.
    bus: u64,
    ears: Vec<Weak<Inbox>>,
    /// When the last signal arrives. Signals arrive in order.
    last_signal: Instant,
}

/// A node, and the history of its state.
struct TrueNode {
    role: Option<Role>,
    container: Option<TrueContainer>,
    history: VecDeque<(Instant, Truth)>,
    /// When a run ended that nothing starts again by itself, and the container that it was a run
    /// of.
    ended: VecDeque<(Instant, ContainerId)>,
}

/// The state of a node, as far as a wait can know it.
#[allow(clippy::struct_excessive_bools, reason = "each is so by itself")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Truth {
    /// Whether everything is up that the other fields do not cover.
    up: bool,
    /// Whether systemd as a whole is up. It does not send a signal for each of these changes.
    system: bool,
    rpc: bool,
    slurmd_since: Option<Instant>,
    past_help: bool,
    /// When the container ended, if its policy may start it again.
    may_start_since: Option<Instant>,
}

struct World {
    random: fastrand::Rng,
    nodes: BTreeMap<String, TrueNode>,
    /// Whether events are lost and engines go away.
    faults: bool,
    ids: u64,
    /// Whether the engine is unreachable.
    outage: bool,
    /// How long the engine takes to reply.
    latency: Duration,
    /// When the engine was slow last: calls from then may still be in flight.
    slow: Option<Instant>,
    subscribers: Vec<mpsc::UnboundedSender<Result<ContainerEvent, EngineError>>>,
    past: VecDeque<ContainerEvent>,
    /// How many of a hundred events are lost, and how many arrive twice.
    lost: u32,
    /// When an event was lost last: a pause that nobody is told of need not be noticed.
    last_lost: Option<Instant>,
    twice: u32,
    links: Arc<AtomicUsize>,
    signals: SignalCounter,
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
            faults: seed.is_multiple_of(2),
            ids: 0,
            outage: false,
            latency: MS,
            slow: None,
            subscribers: Vec::new(),
            past: VecDeque::new(),
            lost: 0,
            last_lost: None,
            twice: 0,
            links: Arc::default(),
            signals: SignalCounter::default(),
            violations: Vec::new(),
            waits: 0,
            verdicts: BTreeMap::new(),
        })))
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap()
    }

    /// Returns the number of the last signal.
    fn signals(&self) -> u64 {
        self.world().signals.last()
    }

    /// Returns a random time up to that.
    fn some(&self, most: Duration) -> Duration {
        let micros = most.as_micros() as u64;
        Duration::from_micros(self.world().random.u64(0..=micros))
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
/// Runs one seed for that many steps. Returns the violations, and how often each verdict came.
async fn play(seed: u64, steps: u64) -> (Vec<String>, BTreeMap<&'static str, u64>) {
    // The clock starts late enough that the code can subtract from its first instants.
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
                ended: VecDeque::new(),
            };
            world.nodes.insert(name.clone(), node);
            world.note(&name);
        }
    }
    let environment = Environment::new(Paused, Paused, seed);
    let maker = sim.clone();
    let engine: Arc<dyn ContainerEngine> = Arc::new(sim.clone());
    let options = Options::default();
    let links = Links::new(
        Arc::clone(&engine),
        environment.clone(),
        options.link,
        options.keep_links,
    );
    let links = links.made_by(Arc::new(move |container| {
        Arc::new(SimLink::new(&maker, container))
    }));
    let monitor = Monitor::over(engine, links, options, environment.clone());

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
                clients.push(tokio::spawn(waiter::follow(
                    sim.clone(),
                    monitor.clone(),
                    request,
                )));
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

    // Everything works from now on, so a wait has to become ready in time.
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
        profile: None,
    };
    let request = WaitRequest {
        nodes: nodes.into_iter().map(target).collect(),
        failure_policy: FailurePolicy::KeepWaiting,
        ..WaitRequest::default()
    };
    let in_time = if faults { IN_TIME } else { SOON };
    let wait = monitor.wait(&Identity::Local, request);
    // By then the wait only waits for the last unit, and queries nothing that a signal announces.
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
    let seeds = steps.div_ceil(EACH);
    let end = base + seeds;
    println!("seeds from {base} on, {EACH} steps each");
    let budget = Duration::from_secs(variable("READYD_SECONDS").unwrap_or(600));
    let start = std::time::Instant::now();
    let next = AtomicU64::new(base);
    let verdicts = Mutex::new(BTreeMap::new());
    // Each seed has a world and a clock of its own, so that one core more plays one seed more.
    let play_all = || {
        loop {
            let seed = next.fetch_add(1, Ordering::SeqCst);
            if seed >= end {
                return;
            }
            assert!(
                start.elapsed() < budget,
                "{budget:?} were too short for {seeds} seeds: {} were begun",
                seed - base
            );
            let played = catch_unwind(|| played(seed, EACH)).unwrap_or_else(|violation| {
                // The other threads need not play on.
                next.store(end, Ordering::SeqCst);
                resume_unwind(violation)
            });
            for (verdict, count) in played {
                *verdicts.lock().unwrap().entry(verdict).or_insert(0) += count;
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(play_all);
        }
    });
    let verdicts = verdicts.into_inner().unwrap();
    println!("{} steps, without a violation: {verdicts:?}", seeds * EACH);
    // A world in which no node is ever ready would prove nothing.
    for verdict in ["ready", "terminal", "timed out"] {
        assert!(verdicts.contains_key(verdict), "{verdicts:?}");
    }
}
