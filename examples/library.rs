//! Uses the monitor without gRPC: waits for a node with a custom probe beside its role's own.
//!
//! ```text
//! cargo run --example library --no-default-features --features monitor -- NODE
//! ```

use std::time::Duration;

use readyd::{
    docker::{DockerEngine, DockerHost},
    environment::Environment,
    monitor::{Monitor, Options, WaitEvent, WaitRequest, WaitTarget},
    node::{Identity, NodeName},
    probe::{Outcome, Probe, ProbeError},
    reason::ReasonCode,
};

#[tokio::main]
#[allow(clippy::print_stdout)]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let node: NodeName = std::env::args()
        .nth(1)
        .ok_or("usage: library NODE")?
        .parse()?;
    let monitor = Monitor::new(
        DockerEngine::new(DockerHost::default()),
        Options::default(),
        Environment::tokio(),
    );

    let snapshot = monitor.snapshot(&Identity::Local, &node, None).await?;
    println!(
        "now: ready {}, services {:?}",
        snapshot.ready, snapshot.services
    );

    // A custom check distinguishes a failure, which may pass, from an error, which means that the
    // check could not look.
    let hostname = Probe::custom("hostname", |_node| async {
        match std::fs::metadata("/etc/hostname") {
            Ok(file) if file.len() > 0 => Ok(Outcome::passed()),
            Ok(_) => Ok(Outcome::failed(
                ReasonCode::WrongAnswer,
                "/etc/hostname is empty",
            )),
            Err(error) => Err(ProbeError::new(
                ReasonCode::CommandFailed,
                format!("reading /etc/hostname: {error}"),
            )),
        }
    });
    let mut probes = Probe::of_role(snapshot.role);
    probes.push(hostname);

    let request = WaitRequest {
        nodes: vec![WaitTarget {
            node,
            role: None,
            profile: None,
        }],
        probes,
        limit: Some(Duration::from_secs(60)),
        ..WaitRequest::default()
    };
    let mut wait = monitor.wait(&Identity::Local, request);
    while let Some(event) = wait.next().await {
        match event {
            WaitEvent::Node(report) => println!("{}: {:?}", report.node, report.state),
            WaitEvent::Result(result) => println!("{:?} {}", result.verdict, result.message),
            _ => {}
        }
    }
    Ok(())
}
