//! A fake container engine, whose nodes exist only here, for tests of time and of faults.
//!
//! A fake node answers the scripts that a link runs, as a real node does. The test sets the
//! answers.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use readyd::container::{Container, ContainerId, Network, State};
use readyd::engine::{
    CALL_LIMIT, ContainerEngine, EngineError, ErrorCause, EventStream, Exec, ExecOutput,
    ExecStreams, ListedContainer, RunningExec,
};
use readyd::event::{Action, ContainerEvent};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_stream::wrappers::UnboundedReceiverStream;

/// A unit of a fake node: its states, its type, and its pid.
#[derive(Debug, Clone)]
pub struct FakeUnit {
    pub active: &'static str,
    pub sub: &'static str,
    pub kind: &'static str,
    pub pid: u32,
    /// The time of the unit's last change in microseconds: a new number for each change.
    pub changed: u64,
    /// For how long it has been active, if the node tells.
    pub age: Option<Duration>,
}

impl FakeUnit {
    pub fn new(active: &'static str, sub: &'static str, kind: &'static str) -> Self {
        Self {
            active,
            sub,
            kind,
            pid: 7,
            changed: 1,
            age: None,
        }
    }
}

/// A fake node.
#[derive(Debug, Clone)]
pub struct FakeNode {
    pub container: Container,
    pub system: &'static str,
    pub units: BTreeMap<&'static str, FakeUnit>,
    pub greeting: &'static str,
    /// The output of `scontrol ping`; `None` for a command that hangs.
    pub ping: Option<&'static str>,
    /// The daemons that run without their units.
    pub by_hand: Vec<&'static str>,
    /// The daemons that run and do not listen.
    pub silent: Vec<&'static str>,
    /// How long each command takes.
    pub delay: Duration,
    /// The journal of each unit that has failed.
    pub last_words: String,
}

impl FakeNode {
    /// Makes a running node on which everything is up.
    pub fn ready(name: &str, role: Option<&str>) -> Self {
        let label = role.map(|role| ("sind.role".to_owned(), role.to_owned()));
        let active = |kind| FakeUnit::new("active", "running", kind);
        Self {
            container: Container {
                id: ContainerId(id_of(name)),
                name: name.to_owned(),
                labels: label.into_iter().collect(),
                state: State::Running,
                restarts: false,
                started_at: None,
                pid: None,
                network: Network::Own,
                health: None,
                last_words: readyd::text::Detail::default(),
            },
            system: "running",
            units: [
                (
                    "ssh.service",
                    FakeUnit {
                        age: Some(Duration::from_secs(60)),
                        ..active("notify")
                    },
                ),
                ("munge.service", active("forking")),
                ("slurmctld.service", active("notify")),
                ("slurmd.service", active("notify")),
            ]
            .into(),
            greeting: "SSH-2.0-Fake\r",
            ping: Some("Slurmctld(primary) at fake is UP"),
            by_hand: Vec::new(),
            silent: Vec::new(),
            delay: Duration::ZERO,
            last_words: "it died".to_owned(),
        }
    }
}

/// Returns an id that belongs to this name only: the bytes of the name in hexadecimal.
fn id_of(name: &str) -> String {
    let hex: Vec<_> = name.bytes().map(|byte| format!("{byte:02x}")).collect();
    format!("{:0>64}", hex.concat())
}

#[derive(Debug, Default)]
struct World {
    nodes: BTreeMap<String, FakeNode>,
    /// The names of the nodes, by their ids.
    names: BTreeMap<String, String>,
    /// The reason why the engine cannot be reached; `None` while it can.
    outage: Option<&'static str>,
    /// The containers whose inspection never gets an answer.
    hung: Vec<String>,
    inspections: usize,
    lists: usize,
    /// How long an inspection takes.
    inspection: Duration,
    /// Whether there are events. Without them, containers are polled.
    has_events: bool,
    subscribers: Vec<mpsc::UnboundedSender<Result<ContainerEvent, EngineError>>>,
    /// The containers whose next inspection panics.
    cursed: Vec<String>,
    /// How often a port's greeting was read.
    greetings: usize,
}

impl World {
    /// Returns the node whose id begins so.
    fn by_id(&self, prefix: &str) -> Option<&FakeNode> {
        let (id, name) = self.names.range(prefix.to_owned()..).next()?;
        let node = self.nodes.get(name)?;
        (id.starts_with(prefix) && node.container.id.0 == *id).then_some(node)
    }
}

/// A fake engine. A clone is the same engine.
#[derive(Debug, Clone, Default)]
pub struct FakeEngine {
    world: Arc<Mutex<World>>,
    execs: Arc<AtomicUsize>,
}

impl FakeEngine {
    pub fn new(nodes: impl IntoIterator<Item = FakeNode>) -> Self {
        let engine = Self::default();
        for node in nodes {
            engine.put(node);
        }
        engine
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    /// Adds a node, or replaces the one of its name.
    pub fn put(&self, node: FakeNode) {
        let name = node.container.name.clone();
        let mut world = self.world();
        world
            .names
            .insert(node.container.id.0.clone(), name.clone());
        world.nodes.insert(name, node);
    }

    pub fn remove(&self, name: &str) {
        self.world().nodes.remove(name);
    }

    /// Changes a node.
    pub fn change(&self, name: &str, change: impl FnOnce(&mut FakeNode)) {
        change(self.world().nodes.get_mut(name).unwrap());
    }

    /// Changes a unit as systemd would, with a new time of change.
    pub fn set_unit(
        &self,
        name: &str,
        unit: &'static str,
        active: &'static str,
        sub: &'static str,
    ) {
        self.change(name, |node| {
            let unit = node.units.get_mut(unit).unwrap();
            (unit.active, unit.sub) = (active, sub);
            unit.changed += 1;
        });
    }

    pub fn set_outage(&self, outage: Option<&'static str>) {
        self.world().outage = outage;
    }

    /// Makes the inspection of a container hang from now on.
    pub fn hang(&self, name: &str) {
        self.world().hung.push(name.to_owned());
    }

    /// Returns how many commands are running.
    pub fn execs(&self) -> usize {
        self.execs.load(Ordering::SeqCst)
    }

    pub fn greetings(&self) -> usize {
        self.world().greetings
    }

    /// Has the engine tell what happens, where a test says that it does.
    pub fn with_events(self) -> Self {
        self.world().has_events = true;
        self
    }

    /// Tells an event of a node.
    pub fn tell(&self, name: &str, action: Action) {
        let event = ContainerEvent {
            id: ContainerId(id_of(name)),
            name: name.to_owned(),
            former_name: None,
            action,
            at: None,
        };
        let mut world = self.world();
        world
            .subscribers
            .retain(|subscriber| subscriber.send(Ok(event.clone())).is_ok());
    }

    /// Makes the next inspection of a container panic, as a fault of readyd's own would.
    pub fn curse(&self, name: &str) {
        self.world().cursed.push(name.to_owned());
    }

    pub fn set_inspection(&self, takes: Duration) {
        self.world().inspection = takes;
    }

    pub fn lists(&self) -> usize {
        self.world().lists
    }

    pub fn inspections(&self) -> usize {
        self.world().inspections
    }

    fn reachable(&self, action: &str) -> Result<(), EngineError> {
        match self.world().outage {
            None => Ok(()),
            Some(cause) => Err(EngineError::Unreachable {
                action: action.to_owned(),
                engine: "fake://".to_owned(),
                cause: ErrorCause::new(cause),
            }),
        }
    }
}

#[async_trait]
impl ContainerEngine for FakeEngine {
    async fn inspect(&self, name: &str, by: Instant) -> Result<Option<Container>, EngineError> {
        let action = format!("inspecting container {name}");
        let hangs = {
            let mut world = self.world();
            world.inspections += 1;
            if let Some(index) = world.cursed.iter().position(|cursed| cursed == name) {
                world.cursed.remove(index);
                drop(world);
                panic!("{name} is cursed");
            }
            world.hung.iter().any(|hung| hung == name)
        };
        if hangs {
            let start = Instant::now();
            let end = by.min(start + CALL_LIMIT);
            tokio::time::sleep_until(end).await;
            return Err(EngineError::TimedOut {
                action,
                limit: (start + CALL_LIMIT <= by).then_some(CALL_LIMIT),
            });
        }
        let takes = self.world().inspection;
        if !takes.is_zero() {
            // Even the shortest sleep takes a millisecond.
            if timeout_at(by, sleep(takes)).await.is_err() {
                let limit = None;
                return Err(EngineError::TimedOut { action, limit });
            }
        }
        self.reachable(&action)?;
        let world = self.world();
        // Docker finds a container by its name, or else by any prefix of its id.
        let by_name = world.nodes.get(name);
        let found = by_name.or_else(|| world.by_id(name));
        Ok(found.map(|node| node.container.clone()))
    }

    async fn list(&self, _by: Instant) -> Result<Vec<ListedContainer>, EngineError> {
        self.reachable("listing the containers")?;
        let mut world = self.world();
        world.lists += 1;
        let listed = world.nodes.values().map(|node| ListedContainer {
            id: node.container.id.clone(),
            name: node.container.name.clone(),
            labels: node.container.labels.clone(),
            state: format!("{:?}", node.container.state).to_lowercase(),
            address: String::new(),
        });
        Ok(listed.collect())
    }

    async fn events(
        &self,
        _since: Option<SystemTime>,
        _by: Instant,
    ) -> Result<EventStream, EngineError> {
        let mut world = self.world();
        if !world.has_events {
            return Err(EngineError::Refused {
                action: "subscribing to events".to_owned(),
                message: "this fake has none".to_owned(),
            });
        }
        let (sender, receiver) = mpsc::unbounded_channel();
        world.subscribers.push(sender);
        Ok(Box::pin(UnboundedReceiverStream::new(receiver)))
    }

    async fn processes(&self, _id: &ContainerId, _by: Instant) -> Result<usize, EngineError> {
        Ok(2)
    }

    async fn exec(
        &self,
        id: &ContainerId,
        exec: Exec,
        _by: Instant,
    ) -> Result<Box<dyn RunningExec>, EngineError> {
        self.reachable("starting a command")?;
        if exec.argv.iter().any(|word| word.contains("stdio-bridge")) {
            return Err(EngineError::CannotRun {
                action: "starting a command".to_owned(),
                message: "a fake node has no systemd-stdio-bridge".to_owned(),
            });
        }
        self.execs.fetch_add(1, Ordering::SeqCst);
        Ok(Box::new(FakeExec {
            engine: self.clone(),
            id: id.clone(),
            argv: exec.argv,
        }))
    }
}

struct FakeExec {
    engine: FakeEngine,
    id: ContainerId,
    argv: Vec<String>,
}

impl Drop for FakeExec {
    fn drop(&mut self) {
        self.engine.execs.fetch_sub(1, Ordering::SeqCst);
    }
}

#[async_trait]
impl RunningExec for FakeExec {
    async fn output(self: Box<Self>, by: Instant) -> Result<ExecOutput, EngineError> {
        let action = "running a command".to_owned();
        let node = {
            let world = self.engine.world();
            world.by_id(&self.id.0).cloned()
        };
        let node = match node {
            Some(node) if node.container.state == State::Running => node,
            _ => return Err(EngineError::NotRunning { action }),
        };
        let asked = self.argv.join(" ");
        let output = async {
            sleep(node.delay).await;
            if asked.contains("systemctl show") {
                return systemctl(&node, &self.argv);
            }
            if asked.contains("/net/tcp") {
                return processes(&node, &self.argv);
            }
            if asked.contains("/dev/tcp") {
                self.engine.world().greetings += 1;
                return format!("connected\n{}\n", node.greeting);
            }
            // The node's configuration says nothing.
            if asked.contains("authtype") || asked.contains("storagehost") {
                return String::new();
            }
            match node.ping {
                Some(ping) => format!("fake\n{ping}\n"),
                None => std::future::pending().await,
            }
        };
        let stdout = timeout_at(by, output)
            .await
            .map_err(|_| EngineError::StillRunning {
                action: action.clone(),
            })?;
        self.engine.reachable(&action)?;
        Ok(ExecOutput {
            stdout: stdout.into_bytes(),
            ..ExecOutput::default()
        })
    }

    fn streams(self: Box<Self>) -> ExecStreams {
        unreachable!("a fake command is not talked to")
    }
}

/// Returns what the script that looks for a daemon's processes prints on this node. The last arguments
/// are the daemon's name, the main process of its unit, what is asked of it, and whether the network is the
/// node's own.
fn processes(node: &FakeNode, argv: &[String]) -> String {
    let [.., name, main, about, _] = argv else {
        unreachable!("{argv:?}")
    };
    let unit = node.units.get(format!("{name}.service").as_str());
    let is_active = unit.is_some_and(|unit| unit.active == "active");
    let pid = match main.as_str() {
        "0" if node.by_hand.contains(&name.as_str()) => "99",
        "0" if !is_active => return "own\n0::/\n".to_owned(),
        main => main,
    };
    if about == "start" {
        return format!(
            "own\n0::/\nprocess {pid} ({name}) S 1 {pid}\n0::/a\nstart\n\narguments\n{name}\n"
        );
    }
    let inode = if node.silent.contains(&name.as_str()) {
        2
    } else {
        1
    };
    format!(
        "own\n0::/\nprocess {pid} ({name}) S 1 {pid}\n0::/a\nfiles\nlrwx 3 -> socket:[{inode}]\nsockets\n   \
         0: 00000000:1AA2 00000000:0000 0A 0:0 0:0 0 0 0 1 1 0 100\n"
    )
}

/// How long a fake node has been up, in seconds.
const UPTIME: u64 = 1000;

/// Returns what the script of a look prints on this node. The last arguments of the script are the
/// units.
fn systemctl(node: &FakeNode, argv: &[String]) -> String {
    let units = argv
        .iter()
        .skip_while(|word| *word != "yes" && *word != "no")
        .skip(2);
    let mut printed = format!("uptime {UPTIME}.00\nsystem {}\n", node.system);
    for name in units {
        let block = match node.units.get(name.as_str()) {
            None => format!("Id={name}\nLoadState=not-found\nActiveState=inactive\n"),
            Some(unit) => format!(
                "Id={name}\nLoadState=loaded\nActiveState={}\nSubState={}\nType={}\nMainPID={}\n\
                 StateChangeTimestampMonotonic={}\n",
                unit.active, unit.sub, unit.kind, unit.pid, unit.changed
            ),
        };
        for line in block.lines() {
            printed.push_str("unit ");
            printed.push_str(line);
            printed.push('\n');
        }
        if let Some(age) = node.units.get(name.as_str()).and_then(|unit| unit.age) {
            let since = Duration::from_secs(UPTIME).saturating_sub(age);
            let entered = format!("unit ActiveEnterTimestampMonotonic={}\n", since.as_micros());
            let ticks = since.as_millis() / 10;
            let stat =
                format!("stat 7 (daemon) S 1 7 7 0 -1 0 1 0 0 0 0 0 0 0 20 0 1 0 {ticks} 1 1\n");
            printed.extend([entered, stat]);
        }
        printed.push_str("unit \n");
        if node
            .units
            .get(name.as_str())
            .is_some_and(|unit| unit.active == "failed")
        {
            printed.extend(["journal ", &node.last_words, "\n"]);
        }
    }
    printed
}
