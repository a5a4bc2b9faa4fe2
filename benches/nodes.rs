//! readyd beside the `docker exec` commands that it replaces, on real nodes, in one run.
//!
//! Each row runs both in turn, so that whatever else the machine does falls on both alike; what is
//! told is the median of each and their ratio, never a verdict.

#![allow(missing_docs, clippy::print_stdout, clippy::unwrap_used)]

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
use real::{Cluster, Serve, docker};
use tokio::runtime::Runtime;
use tonic::transport::Channel;

const ROUNDS: usize = 15;

const BANNER: &str =
    "exec 3<>/dev/tcp/127.0.0.1/22; read -r line <&3; case $line in SSH-*) ;; *) exit 1 ;; esac";

struct Bench {
    runtime: Runtime,
    client: ReadinessServiceClient<Channel>,
}

impl Bench {
    fn snapshot(&mut self, node: &str) {
        let request = SnapshotRequest {
            node: node.to_owned(),
            role: 0,
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

/// `docker exec` of each command, one after the other, as a loop of shell would.
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
    // One of each goes uncounted: caches, connections.
    ours();
    theirs();
    let (ours, theirs): (Vec<_>, Vec<_>) = (0..ROUNDS)
        .map(|_| (time(&mut ours), time(&theirs)))
        .unzip();
    let (ours, theirs) = (median(ours), median(theirs));
    println!(
        "| {name:<36} | {ours:>9.2} | {theirs:>14.2} | {:>6.2} |",
        theirs / ours
    );
}

fn main() {
    let cluster = Cluster::named("bench");
    cluster.up();
    let (controller, worker) = (cluster.node("controller"), cluster.node("worker-0"));
    let serve = Serve::start(&[]);
    let runtime = Runtime::new().unwrap();
    let client = runtime
        .block_on(ReadinessServiceClient::connect(serve.url.clone()))
        .unwrap();
    let mut bench = Bench { runtime, client };
    bench.wait(&controller);
    bench.wait(&worker);

    println!("medians of {ROUNDS} rounds in turn, in ms; over gRPC on loopback\n");
    println!(
        "| {:<36} | {:>9} | {:>14} | {:>6} |",
        "what", "readyd", "docker exec", "ratio"
    );
    println!("|{:-<38}|{:->11}|{:->16}|{:->8}|", "", ":", ":", ":");
    let active = |unit| ["systemctl", "is-active", unit];
    let ping = ["scontrol", "ping"];
    let units = ["systemctl", "is-active", "munge", "sshd", "slurmd"];
    let base = ["systemctl", "is-active", "munge", "sshd"];
    let banner = ["bash", "-c", BANNER];
    let booted = ["systemctl", "is-system-running"];
    row(
        "snapshot of a worker",
        || bench.snapshot(&worker),
        || exec(&worker, &[&units]),
    );
    row(
        "snapshot of a controller",
        || bench.snapshot(&controller),
        || exec(&controller, &[&base, &ping]),
    );
    row(
        "check munge",
        || bench.check(&worker, "munge"),
        || exec(&worker, &[&active("munge")]),
    );
    row(
        "check sshd",
        || bench.check(&worker, "sshd"),
        || exec(&worker, &[&banner]),
    );
    row(
        "check slurmctld",
        || bench.check(&controller, "slurmctld"),
        || exec(&controller, &[&ping]),
    );
    row(
        "wait on a worker that is ready",
        || bench.wait(&worker),
        || {
            docker(&["inspect", "-f", "{{.State.Status}}", &worker]);
            exec(
                &worker,
                &[&booted, &banner, &active("munge"), &active("slurmd")],
            );
        },
    );
    row(
        "wait on a controller that is ready",
        || bench.wait(&controller),
        || {
            docker(&["inspect", "-f", "{{.State.Status}}", &controller]);
            exec(&controller, &[&booted, &banner, &active("munge"), &ping]);
        },
    );
}
