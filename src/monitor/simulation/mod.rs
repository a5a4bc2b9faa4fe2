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

mod chance;
mod client;
mod link;
mod world;

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
    FailurePolicy, LINGER, Monitor, NodeState, Options, Verdict, WaitEvent, WaitRequest, WaitTarget,
};
use crate::{
    container::{Container, ContainerId, Network, State},
    engine::{ContainerEngine, EngineError, EventStream, Exec, RunningExec},
    environment::{Clock, Environment, Spawner, Task, TaskFuture},
    event::{Action, ContainerEvent},
    inbox::Inbox,
    link::{Link, LinkError, Links, Reply},
    node::{Identity, NodeName, Role},
    question::{Answer, GreetingEnd, PortQuestion, Question},
    systemd::signals::SignalCounter,
    unit::{SystemdState, Unit, UnitQuestion},
};

use link::SimLink;

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
    ended_at: Option<Instant>,
    system: &'static str,
    units: BTreeMap<&'static str, TrueUnit>,
    rpc: bool,
    /// Whether its bus tells of changes.
    tells: bool,
    /// Which of its buses is the one now: another one after each break.
    bus: u64,
    ears: Vec<Weak<Inbox>>,
    /// When the last signal arrives: they come in order.
    last_signal: Instant,
}

/// A node, and how it has been.
struct TrueNode {
    role: Option<Role>,
    container: Option<TrueContainer>,
    history: VecDeque<(Instant, Truth)>,
    /// When runs ended, of which container: those that nothing starts again by itself.
    ended: VecDeque<(Instant, ContainerId)>,
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
    /// Since when it has ended, where its policy may start it again.
    may_start_since: Option<Instant>,
}

struct World {
    random: fastrand::Rng,
    nodes: BTreeMap<String, TrueNode>,
    ids: u64,
    /// Why nothing can be asked of the engine, while it cannot.
    outage: bool,
    /// When the last such time ended.
    out: Option<Instant>,
    /// How long the engine takes.
    latency: Duration,
    /// When it was slow last: calls from then may still be on their way.
    slow: Option<Instant>,
    subscribers: Vec<mpsc::UnboundedSender<Result<ContainerEvent, EngineError>>>,
    past: VecDeque<ContainerEvent>,
    /// How many of a hundred events are lost, and told twice.
    lost: u32,
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
            ids: 0,
            outage: false,
            out: None,
            latency: MS,
            slow: None,
            subscribers: Vec::new(),
            past: VecDeque::new(),
            lost: 0,
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

    /// The number of the last signal.
    fn signals(&self) -> u64 {
        self.world().signals.last()
    }

    /// Some time up to that.
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
                clients.push(tokio::spawn(client::follow(
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
    let wait = monitor.wait(&Identity::Local, request);
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
