//! Compares readyd with the `docker exec` commands that it replaces, on real nodes, in one run.
//!
//! Each row runs both in turn, so that any other load of the machine affects both alike. The output
//! is the median of each and their ratio, never a verdict.

#![allow(missing_docs, clippy::print_stdout, clippy::unwrap_used)]
// The figures are for people, and far below the values at which a float loses count.
#![allow(clippy::cast_precision_loss)]

#[path = "../tests/support/real.rs"]
#[allow(dead_code, unreachable_pub)]
mod real;

use std::{
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use readyd::client::{
    CheckRequest, NodeTarget, ReadinessServiceClient, SnapshotRequest, Verdict, WaitReadyRequest,
    wait_ready_response::Event,
};
use real::{Cluster, SUITES, Serve, docker};
use tokio::runtime::{Builder, Runtime};
use tonic::transport::Channel;

/// How many turns each side has, and how many calls a turn has. A single call would measure, on
/// both sides, how long an idle machine takes to wake up.
const ROUNDS: usize = 7;
const EACH: usize = 7;

/// How long an engine takes at most to clean up after an exec.
const CLEARED: Duration = Duration::from_millis(200);

const BANNER: &str =
    "exec 3<>/dev/tcp/127.0.0.1/22; read -r line <&3; case $line in SSH-*) ;; *) exit 1 ;; esac";

struct Bench {
    runtime: Runtime,
    client: ReadinessServiceClient<Channel>,
}

impl Bench {
    fn of(serve: &Serve) -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let connect = ReadinessServiceClient::connect(serve.url.clone());
        let client = runtime.block_on(connect).unwrap();
        Self { runtime, client }
    }

    fn snapshot(&mut self, node: &str) {
        let request = SnapshotRequest {
            node: node.to_owned(),
            role: 0,
            profile: 0,
        };
        let response = self
            .runtime
            .block_on(self.client.snapshot(request))
            .unwrap();
        assert!(response.into_inner().ready);
    }

    fn check(&mut self, node: &str, probe: &str) {
        let request = CheckRequest {
            node: node.to_owned(),
            probe: probe.to_owned(),
            ..Default::default()
        };
        let response = self.runtime.block_on(self.client.check(request)).unwrap();
        assert_eq!(response.into_inner().report.unwrap().reason, "");
    }

    fn wait(&mut self, node: &str) {
        let request = WaitReadyRequest {
            nodes: vec![NodeTarget {
                node: node.to_owned(),
                role: 0,
                profile: 0,
            }],
            ..Default::default()
        };
        let verdict = self.runtime.block_on(async {
            let mut messages = self.client.wait_ready(request).await.unwrap().into_inner();
            let mut verdict = Verdict::Unspecified;
            while let Some(message) = messages.message().await.unwrap() {
                if let Some(Event::Result(result)) = message.event {
                    verdict = result.verdict();
                }
            }
            verdict
        });
        assert_eq!(verdict, Verdict::Ready);
    }
}

/// Runs `docker exec` of each command, one after the other, as a shell loop would.
fn exec(node: &str, commands: &[&[&str]]) {
    for command in commands {
        let status = Command::new("docker")
            .args(["exec", node])
            .args(*command)
            .stdout(Stdio::null())
            .status();
        assert!(status.unwrap().success(), "{command:?}");
    }
}

fn time(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort();
    times[times.len() / 2].as_secs_f64() * 1000.0
}

fn row(name: &str, mut ours: impl FnMut(), theirs: impl Fn()) {
    // The first call of each side is not counted, because of caches and connections.
    ours();
    theirs();
    let (mut our_times, mut their_times) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        our_times.extend((0..EACH).map(|_| time(&mut ours)));
        their_times.extend((0..EACH).map(|_| time(&theirs)));
        // The engine cleans up after an exec has ended, and that must not delay readyd's calls.
        std::thread::sleep(CLEARED);
    }
    let (ours, theirs) = (median(our_times), median(their_times));
    println!(
        "| {name:<36} | {ours:>9.2} | {theirs:>14.2} | {:>6.2} |",
        theirs / ours
    );
}

fn head(what: &str) {
    println!(
        "\n{what}: medians of {ROUNDS} rounds of {EACH} in turn, in ms; over gRPC on loopback\n"
    );
    println!(
        "| {:<36} | {:>9} | {:>14} | {:>6} |",
        "what", "readyd", "docker exec", "ratio"
    );
    println!("|{:-<38}|{:->11}|{:->16}|{:->8}|", "", ":", ":", ":");
}

const ACTIVE: [&str; 2] = ["systemctl", "is-active"];
const PING: [&str; 2] = ["scontrol", "ping"];

/// Prints the rows of one link.
fn rows(bench: &mut Bench, clusters: &[Cluster; 2]) {
    let units = [&ACTIVE[..], &["munge", "sshd", "slurmd"]].concat();
    let base = [&ACTIVE[..], &["munge", "sshd"]].concat();
    let banner = ["bash", "-c", BANNER];
    let booted = ["systemctl", "is-system-running"];
    let active = |unit| [&ACTIVE[..], &[unit]].concat();
    let state = |node: &str| docker(&["inspect", "-f", "{{.State.Status}}", node]);

    let worker = &clusters[0].node("worker-0");
    row(
        "snapshot of a worker",
        || bench.snapshot(worker),
        || exec(worker, &[&units]),
    );
    for (cluster, slurm) in clusters.iter().zip(SLURM) {
        let controller = &cluster.node("controller");
        row(
            &format!("snapshot of a controller, {slurm}"),
            || bench.snapshot(controller),
            || exec(controller, &[&base, &PING]),
        );
    }
    row(
        "check munge",
        || bench.check(worker, "munge"),
        || exec(worker, &[&active("munge")]),
    );
    row(
        "check sshd",
        || bench.check(worker, "sshd"),
        || exec(worker, &[&banner]),
    );
    for (cluster, slurm) in clusters.iter().zip(SLURM) {
        let controller = &cluster.node("controller");
        row(
            &format!("check slurmctld, {slurm}"),
            || bench.check(controller, "slurmctld"),
            || exec(controller, &[&PING]),
        );
    }
    row(
        "wait on a worker that is ready",
        || bench.wait(worker),
        || {
            state(worker);
            exec(
                worker,
                &[&booted, &banner, &active("munge"), &active("slurmd")],
            );
        },
    );
    // This row is for 22.05 only: sshd of the newer suite locks out a client that reads its banner
    // as often as this and never logs in (`PerSourcePenalties` in sshd_config(5)).
    let controller = &clusters[0].node("controller");
    row(
        "wait on a ready controller, 22.05",
        || bench.wait(controller),
        || {
            state(controller);
            exec(controller, &[&booted, &banner, &active("munge"), &PING]);
        },
    );
}

/// Prints the server's memory and processor time while it answers.
fn steady(bench: &mut Bench, serve: &Serve, node: &str) {
    const PARTS: usize = 5;
    const EACH: usize = 2000;
    println!(
        "\n{} snapshots of a worker, one after the other\n",
        PARTS * EACH
    );
    println!(
        "| snapshots | resident, MB | threads | open files | ms each | CPU of the server, ms each |"
    );
    println!("|--:|--:|--:|--:|--:|--:|");
    for part in 0..=PARTS {
        let (before, start) = (serve.cpu(), Instant::now());
        let count = if part == 0 { 100 } else { EACH };
        for _ in 0..count {
            bench.snapshot(node);
        }
        let (cpu, wall) = (serve.cpu().saturating_sub(before), start.elapsed());
        let each = |time: Duration| time.as_secs_f64() * 1000.0 / count as f64;
        println!(
            "| {} | {:.1} | {} | {} | {:.2} | {:.2} |",
            part * EACH + 100,
            serve.status("VmRSS") as f64 / 1024.0,
            serve.status("Threads"),
            serve.files(),
            each(wall),
            each(cpu),
        );
    }
}

/// The versions of Slurm in the two suites.
const SLURM: [&str; 2] = ["22.05", "26.05"];

fn main() {
    let clusters = SUITES.map(|suite| Cluster::named(suite, &format!("bench-{suite}")));
    clusters.iter().for_each(Cluster::up);
    for link in ["host", "bridge", "exec"] {
        let serve = Serve::start(&["--link", link]);
        let mut bench = Bench::of(&serve);
        for cluster in &clusters {
            bench.wait(&cluster.node("controller"));
            bench.wait(&cluster.node("worker-0"));
        }
        head(&format!("the {link} link"));
        rows(&mut bench, &clusters);
        if link == "host" {
            steady(&mut bench, &serve, &clusters[0].node("worker-0"));
        }
    }
}
