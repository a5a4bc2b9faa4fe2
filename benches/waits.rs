//! Measures on real nodes what waiting costs and how soon a wait is over, and compares it with a
//! loop of `docker exec`.
//!
//! Processor time is that of everything: readyd, the engine, the processes that the engine has
//! started for the node, the node's own cgroup, and all that any of them starts. Windows with and
//! without the wait take turns, and the output is their medians.

#![allow(missing_docs, clippy::print_stdout, clippy::unwrap_used, clippy::panic)]
// The figures are for people, and far below the values at which a float loses count.
#![allow(clippy::cast_precision_loss, clippy::cast_sign_loss)]

#[path = "../tests/support/real.rs"]
#[allow(dead_code, unreachable_pub)]
mod real;

use std::{
    fs,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use readyd::client::{
    NodeTarget, ReadinessServiceClient, WaitReadyRequest, WaitReadyResponse,
    wait_ready_response::Event,
};
use real::{BOOKWORM, Node, Serve, booted, docker, unique};
use rustix::time::{ClockId, clock_gettime};
use tokio::runtime::{Builder, Runtime};
use tonic::{Streaming, transport::Channel};

/// How long a measuring window is, and how many windows there are of each kind: a minute in all.
const WINDOW: Duration = Duration::from_secs(10);
const WINDOWS: usize = 6;

type Client = ReadinessServiceClient<Channel>;

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |value| value.parse().unwrap())
}

/// Reads `CLOCK_MONOTONIC`, the clock of systemd's timestamps, which nodes share with the host.
fn monotonic() -> Duration {
    let now = clock_gettime(ClockId::Monotonic);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

/// Reads a timestamp of systemd's own.
fn stamp(node: &Node, unit: &str, property: &str) -> Duration {
    let said = node.sh(&format!(
        "systemctl show {unit} --value --property={property}"
    ));
    Duration::from_micros(said.parse().unwrap())
}

fn sorted(mut times: Vec<Duration>) -> Vec<Duration> {
    times.sort();
    times
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn median(times: Vec<Duration>) -> Duration {
    let times = sorted(times);
    times[times.len() / 2]
}

// --- processor time ------------------------------------------------------------------------------

/// The processes and nodes whose processor time is counted.
struct Meter {
    processes: Vec<u32>,
    nodes: Vec<String>,
}

impl Meter {
    /// Counts readyd, the engine with all that it keeps running, and these nodes.
    fn new(serve: &Serve, nodes: &[&Node]) -> Self {
        let ids = nodes
            .iter()
            .map(|node| docker(&["inspect", "-f", "{{.Id}}", &node.0]));
        Self {
            processes: [vec![serve.child.id()], engine()].concat(),
            nodes: ids.collect(),
        }
    }

    fn spent(&self) -> Duration {
        let processes: Duration = self.processes.iter().map(|pid| threads(*pid)).sum();
        let nodes: Duration = self.nodes.iter().map(|id| cgroup(id)).sum();
        processes + nodes + children()
    }

    /// Returns the processor time that a window of this takes.
    fn window(&self, mut during: impl FnMut(Instant)) -> Duration {
        let before = self.spent();
        let end = Instant::now() + WINDOW;
        during(end);
        std::thread::sleep(end.saturating_duration_since(Instant::now()));
        self.spent().saturating_sub(before)
    }
}

/// Returns the pids of dockerd, containerd and their shims.
fn engine() -> Vec<u32> {
    let processes = fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let pid: u32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
        let engine = ["dockerd", "containerd"]
            .iter()
            .any(|part| name.starts_with(part));
        engine.then_some(pid)
    });
    processes.collect()
}

/// Returns the processor time of a process's threads, which schedstat has in nanoseconds.
fn threads(pid: u32) -> Duration {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return Duration::ZERO;
    };
    let of_task = |task: std::io::Result<fs::DirEntry>| {
        let said = fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
        said.split_ascii_whitespace().next()?.parse::<u64>().ok()
    };
    Duration::from_nanos(tasks.filter_map(of_task).sum())
}

/// Returns the processor time of everything that has run in a container.
fn cgroup(id: &str) -> Duration {
    let v1 = fs::read_to_string(format!("/sys/fs/cgroup/cpuacct/docker/{id}/cpuacct.usage"));
    if let Ok(nanos) = v1 {
        return Duration::from_nanos(nanos.trim().parse().unwrap());
    }
    for path in [
        format!("/sys/fs/cgroup/system.slice/docker-{id}.scope/cpu.stat"),
        format!("/sys/fs/cgroup/docker/{id}/cpu.stat"),
    ] {
        if let Ok(said) = fs::read_to_string(path) {
            let usage = said
                .lines()
                .find_map(|line| line.strip_prefix("usage_usec "));
            return Duration::from_micros(usage.unwrap().parse().unwrap());
        }
    }
    println!("(no cgroup of {id:.12} is found: its time is not counted)");
    Duration::ZERO
}

/// Returns the processor time of the commands that were started here and have ended.
fn children() -> Duration {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let ticks = fields.split_ascii_whitespace().skip(13).take(2);
    Duration::from_millis(
        10 * ticks
            .map(|ticks| ticks.parse::<u64>().unwrap())
            .sum::<u64>(),
    )
}

// --- the client ----------------------------------------------------------------------------------

fn runtime() -> Runtime {
    Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

fn connect(runtime: &Runtime, serve: &Serve) -> Client {
    runtime
        .block_on(Client::connect(serve.url.clone()))
        .unwrap()
}

fn request(nodes: &[&str], probes: &[&str]) -> WaitReadyRequest {
    let target = |node: &&str| NodeTarget {
        node: (*node).to_owned(),
        role: 0,
        profile: 0,
    };
    WaitReadyRequest {
        nodes: nodes.iter().map(target).collect(),
        probes: probes.iter().map(|probe| (*probe).to_owned()).collect(),
        ..WaitReadyRequest::default()
    }
}

/// Returns when the result arrives.
async fn over(mut messages: Streaming<WaitReadyResponse>) -> Duration {
    while let Some(message) = messages.message().await.unwrap() {
        if let Some(Event::Result(_)) = message.event {
            return monotonic();
        }
    }
    panic!("no result");
}

// --- the rows ------------------------------------------------------------------------------------

/// Measures one node that waits for a unit that stays inactive.
fn idle_wait() {
    let node = Node::start(BOOKWORM, &unique("idle"), &[]);
    booted(&node);
    node.sh("systemctl stop munge");
    let serve = Serve::start(&[]);
    let meter = Meter::new(&serve, &[&node]);
    let runtime = runtime();
    let mut client = connect(&runtime, &serve);
    let poll = |end: Instant| {
        // This loop polls as the package from which readyd starts does, with an exec for each
        // probe.
        let probes: [&[&str]; 3] = [
            &["systemctl", "is-system-running"],
            &["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/22; read -r _ <&3"],
            &["systemctl", "is-active", "munge"],
        ];
        while Instant::now() < end {
            let next = Instant::now() + Duration::from_millis(500);
            for probe in probes {
                let mut exec = Command::new("docker");
                exec.args(["exec", &node.0])
                    .args(probe)
                    .stdout(Stdio::null());
                let _ = exec.stderr(Stdio::null()).status();
            }
            std::thread::sleep(next.min(end).saturating_duration_since(Instant::now()));
        }
    };
    let mut spent = [Vec::new(), Vec::new(), Vec::new()];
    for _ in 0..WINDOWS {
        spent[0].push(meter.window(|_| {}));
        // Two seconds let the wait come to rest: another row measures how a wait begins.
        let messages = runtime
            .block_on(client.wait_ready(request(&[&node.0], &[])))
            .unwrap();
        std::thread::sleep(Duration::from_secs(2));
        spent[1].push(meter.window(|_| {}));
        drop(messages);
        std::thread::sleep(Duration::from_secs(4));
        spent[2].push(meter.window(poll));
        std::thread::sleep(Duration::from_secs(2));
    }
    let [idle, waiting, polling] = spent.map(median);
    let over_idle = |time: Duration| ms(time) - ms(idle);
    println!(
        "\nOne node that waits for a unit that stays inactive: medians of {WINDOWS} windows of {WINDOW:?}\n"
    );
    println!("| | CPU of everything, ms a window | more than idle |\n|---|--:|--:|");
    println!("| idle | {:.1} | |", ms(idle));
    println!(
        "| readyd waits | {:.1} | {:.1} |",
        ms(waiting),
        over_idle(waiting)
    );
    println!(
        "| docker exec, every 500 ms | {:.1} | {:.1} |",
        ms(polling),
        over_idle(polling)
    );
    println!(
        "\nratio: {:.0}",
        over_idle(polling) / over_idle(waiting).max(0.1)
    );
}

/// Lets munge be started as often as needed.
fn started_often(node: &Node) {
    node.sh("mkdir -p /run/systemd/system/munge.service.d");
    let often = "[Unit]\nStartLimitIntervalSec=0\n";
    node.write("/run/systemd/system/munge.service.d/often.conf", often);
    node.sh("systemctl daemon-reload");
}

/// Measures the time from the last condition to the result at the client.
fn latency() {
    const ROUNDS: usize = 100;
    let node = Node::start(BOOKWORM, &unique("late"), &[]);
    booted(&node);
    started_often(&node);
    let serve = Serve::start(&[]);
    let runtime = runtime();
    let mut client = connect(&runtime, &serve);
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        node.sh("systemctl stop munge");
        let probes = ["container", "systemd", "munge"];
        let messages = runtime
            .block_on(client.wait_ready(request(&[&node.0], &probes)))
            .unwrap();
        let waiting = runtime.spawn(over(messages.into_inner()));
        std::thread::sleep(Duration::from_millis(100));
        node.sh("systemctl start munge");
        let over = runtime.block_on(waiting).unwrap();
        let active = stamp(&node, "munge", "ActiveEnterTimestampMonotonic");
        times.push(over.saturating_sub(active));
    }
    let times = sorted(times);
    println!(
        "\nLast condition true, by systemd's own timestamp, to the result at the client: {ROUNDS} times, \
         median {:.2} ms, 99th percentile {:.2} ms, longest {:.2} ms",
        ms(times[ROUNDS / 2]),
        ms(times[ROUNDS * 99 / 100]),
        ms(times[ROUNDS - 1]),
    );
}

/// Measures the time from a container's start to READY, less the node's own boot.
fn boot() {
    const ROUNDS: usize = 15;
    let serve = Serve::start(&[]);
    let runtime = runtime();
    let mut client = connect(&runtime, &serve);
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let name = unique("boots");
        let messages = runtime
            .block_on(client.wait_ready(request(&[&name], &[])))
            .unwrap();
        let waiting = runtime.spawn(over(messages.into_inner()));
        std::thread::sleep(Duration::from_millis(300));
        let node = Node::start(BOOKWORM, &name, &[]);
        let over = runtime.block_on(waiting).unwrap();
        let stamps = [
            stamp(&node, "", "FinishTimestampMonotonic"),
            stamp(&node, "ssh", "ActiveEnterTimestampMonotonic"),
            stamp(&node, "munge", "ActiveEnterTimestampMonotonic"),
        ];
        times.push(over.saturating_sub(stamps.into_iter().max().unwrap()));
    }
    let times = sorted(times);
    println!(
        "\nContainer start to READY, base probes, from the end of the node's boot on (systemd's, and of \
         its units): {ROUNDS} times, median {:.1} ms, longest {:.1} ms",
        ms(times[ROUNDS / 2]),
        ms(times[ROUNDS - 1]),
    );
}

/// How many connections the clients of `many` share.
const CONNECTIONS: usize = 100;

/// Measures many nodes that wait, and many more clients.
fn many() {
    let count = number("READYD_BENCH_NODES", 100);
    let clients = number("READYD_BENCH_CLIENTS", 10_000);
    let nodes: Vec<_> = (0..count)
        .map(|_| Node::start(BOOKWORM, &unique("many"), &[]))
        .collect();
    for node in &nodes {
        booted(node);
        node.sh("systemctl stop munge");
    }
    started_often(&nodes[0]);
    let serve = Serve::start(&[]);
    let meter = Meter::new(&serve, &nodes.iter().collect::<Vec<_>>());
    let runtime = runtime();
    let mut client = connect(&runtime, &serve);
    let names: Vec<_> = nodes.iter().map(|node| node.0.as_str()).collect();
    let mut spent = [Vec::new(), Vec::new()];
    for _ in 0..WINDOWS {
        spent[0].push(meter.window(|_| {}));
        let messages = runtime
            .block_on(client.wait_ready(request(&names, &[])))
            .unwrap();
        std::thread::sleep(Duration::from_secs(3));
        spent[1].push(meter.window(|_| {}));
        drop(messages);
        std::thread::sleep(Duration::from_secs(4));
    }
    let [idle, waiting] = spent.map(median);
    let core = (ms(waiting) - ms(idle)) / ms(WINDOW) * 100.0;
    println!(
        "\n{count} nodes that wait at once: {core:.2} % of a core above their own idling, all counted"
    );

    let at_first = serve.status("VmRSS");
    let connections: Vec<_> = (0..CONNECTIONS)
        .map(|_| connect(&runtime, &serve))
        .collect();
    let waits = |node: &dyn Fn(usize) -> usize| -> Vec<_> {
        (0..clients)
            .map(|at| {
                let mut client = connections[at % CONNECTIONS].clone();
                let request = request(&[names[node(at)]], &["container", "systemd", "munge"]);
                runtime.spawn(async move {
                    let mut messages = client.wait_ready(request).await.unwrap().into_inner();
                    // The wait sends the node's first state, and then goes on waiting.
                    messages.message().await.unwrap().unwrap();
                    messages
                })
            })
            .collect()
    };
    let open: Vec<_> = waits(&|at| at % count)
        .into_iter()
        .map(|wait| runtime.block_on(wait).unwrap())
        .collect();
    println!(
        "\n{clients} clients, on {CONNECTIONS} connections, that wait for {count} nodes: server {:.0} MB \
         resident, {:.0} MB before",
        serve.status("VmRSS") as f64 / 1024.0,
        at_first as f64 / 1024.0,
    );
    drop(open);
    std::thread::sleep(Duration::from_secs(4));

    let mut lasts = Vec::new();
    for _ in 0..3 {
        nodes[0].sh("systemctl stop munge");
        let open: Vec<_> = waits(&|_| 0)
            .into_iter()
            .map(|wait| runtime.block_on(wait).unwrap())
            .collect();
        let open: Vec<_> = open
            .into_iter()
            .map(|messages| runtime.spawn(over(messages)))
            .collect();
        std::thread::sleep(Duration::from_secs(1));
        nodes[0].sh("systemctl start munge");
        let overs = open.into_iter().map(|wait| runtime.block_on(wait).unwrap());
        let last = overs.max().unwrap();
        let active = stamp(&nodes[0], "munge", "ActiveEnterTimestampMonotonic");
        lasts.push(last.saturating_sub(active));
    }
    println!(
        "\nOne node's change to the last of {clients} clients of it: {:.0} ms (median of {})",
        ms(median(lasts.clone())),
        lasts.len()
    );
}

/// Runs all rows, or those whose names are given (`cargo bench --bench waits -- latency`).
fn main() {
    let rows: [(&str, fn()); 4] = [
        ("latency", latency),
        ("boot", boot),
        ("idle", idle_wait),
        ("many", many),
    ];
    let wanted: Vec<_> = std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with('-'))
        .collect();
    for (name, row) in rows {
        if wanted.is_empty() || wanted.iter().any(|wanted| wanted == name) {
            row();
        }
    }
}
