//! readyd tells whether containers that act as Slurm cluster nodes are ready, and what they wait for
//! if they are not.
//!
//! A node is a Docker container that plays a machine of a Slurm cluster: systemd as PID 1, munge,
//! sshd, and slurmctld or slurmd. This crate is three things: the [`monitor`], a library that looks
//! at nodes and waits for them (feature `monitor`); the gRPC service over it (`server`); and a client
//! of that service (`client`), which builds none of the rest.
//!
//! # The crate's rooms
//!
//! Each knows only those below it.
//!
//! | module | what lives there |
//! |---|---|
//! | `cli` | arguments, `serve`, the client commands |
//! | [`grpc`] | the service: requests in, states out, errors to statuses |
//! | [`client`] | the generated client |
//! | [`monitor`] | snapshot, check, wait, list, watch |
//! | [`cluster`] | which containers are nodes, and which a selector means |
//! | `watcher` | following one node for all its clients: what is known, what is asked, what is told |
//! | `link` | reaching into a node |
//! | `systemd` | how systemd is asked, and what its answers say |
//! | [`docker`] | the container engine over bollard |
//! | [`report`] | what is reported of a node |
//! | [`probe`] | what each probe means |
//! | [`engine`], [`container`], [`event`], `inbox`, [`node`], `unit`, `question`, [`text`], [`environment`] | the traits and plain types that the rest share |
//!
//! # From Go's package `probe`
//!
//! The semantics start from those of sind's Go package `probe`. Its names, and ours:
//!
//! | Go | here |
//! |---|---|
//! | `ContainerRunning(ctx, client, name)` | [`Monitor::check`] of [`Probe::named`]`("container")` |
//! | `SystemdReady` | … of `"systemd"` |
//! | `SSHDReady` | … of `"sshd"` |
//! | `MungeReady` | … of `"munge"` |
//! | `SlurmctldReady` | … of `"slurmctld"` |
//! | `SlurmdReady` | … of `"slurmd"` |
//! | `Snapshot` | [`Monitor::snapshot`] |
//! | `UntilReady(ctx, client, name, probes, interval)` | [`Monitor::wait`], or [`Monitor::until_ready`] for one node and no progress |
//! | `UntilReadyWithEvents` | [`Monitor::wait`], which goes by the engine's events by itself; [`Monitor::wait_with_events`] takes the caller's, too |
//! | `Func` | the check of [`Probe::custom`] |
//! | `Probe` | [`Probe`] |
//! | `NodeProbes(role)` | [`Probe::of_role`] |
//! | `ForService(service)` | [`Service::probe`] |
//! | `Service` | [`Service`]; the one that a role adds is [`Service::of_role`] |
//! | `TerminalError` | [`Outcome::Terminal`], and [`NotReady::Terminal`] of [`Monitor::until_ready`] |
//! | an error of a probe | [`Outcome::Failed`] if it is the node's doing, [`ProbeError`] if it could not be looked at |
//! | the context's deadline | [`WaitRequest::limit`], or dropping the future or stream |
//!
//! Where we differ on purpose:
//!
//! - A snapshot of a container that does not run answers `false` for every service, where Go's errs.
//! - munge is among a node's probes, and `services` has it on every node.
//! - A unit that has failed is terminal, once a second look 100 ms later still says so.
//! - A container that is being restarted has failed, and is not terminal: the container's state
//!   decides.
//! - A slurmctld passes by its own answer alone, not by that of another controller of the cluster.
//! - A unit of a type that is active from its fork on counts after 200 ms.
//! - Not having been able to look is never "not ready": it neither fails a probe nor ends a wait.
//!
#![cfg_attr(
    feature = "monitor",
    doc = "
# A wait

```no_run
use readyd::{docker::{DockerHost, DockerEngine}, monitor::{Monitor, Options, WaitEvent, WaitRequest, WaitTarget}};
use readyd::{environment::Environment, node::Identity};

# async fn example() -> Result<(), Box<dyn std::error::Error>> {
let docker = DockerEngine::new(DockerHost::default());
let monitor = Monitor::new(docker, Options::default(), Environment::tokio());
let node = WaitTarget { node: \"sind-dev-controller\".parse()?, role: None, profile: None };
let mut wait = monitor.wait(&Identity::Local, WaitRequest { nodes: vec![node], ..Default::default() });
while let Some(event) = wait.next().await {
    match event {
        WaitEvent::Node(report) => println!(\"{}: {:?}\", report.node, report.state),
        WaitEvent::Result(result) => println!(\"{:?} {}\", result.verdict, result.message),
        _ => {}
    }
}
# Ok(())
# }
```
"
)]
//!
//! [`Monitor::check`]: monitor::Monitor::check
//! [`Monitor::snapshot`]: monitor::Monitor::snapshot
//! [`Monitor::wait`]: monitor::Monitor::wait
//! [`Monitor::wait_with_events`]: monitor::Monitor::wait_with_events
//! [`Monitor::until_ready`]: monitor::Monitor::until_ready
//! [`NotReady::Terminal`]: monitor::NotReady::Terminal
//! [`WaitRequest::limit`]: monitor::WaitRequest::limit
//! [`Probe`]: probe::Probe
//! [`Probe::named`]: probe::Probe::named
//! [`Probe::custom`]: probe::Probe::custom
//! [`Probe::of_role`]: probe::Probe::of_role
//! [`Service`]: probe::Service
//! [`Service::probe`]: probe::Service::probe
//! [`Service::of_role`]: probe::Service::of_role
//! [`Outcome::Terminal`]: probe::Outcome::Terminal
//! [`Outcome::Failed`]: probe::Outcome::Failed
//! [`ProbeError`]: probe::ProbeError

#[cfg(feature = "cli")]
pub mod cli;
#[cfg(feature = "client")]
pub mod client;
#[cfg(feature = "monitor")]
pub mod cluster;
#[cfg(feature = "monitor")]
pub mod container;
#[cfg(feature = "monitor")]
pub mod docker;
#[cfg(feature = "monitor")]
pub mod engine;
#[cfg(feature = "monitor")]
pub mod environment;
#[cfg(feature = "monitor")]
pub mod event;
#[cfg(feature = "monitor")]
mod fair;
#[cfg(fuzzing)]
#[doc(hidden)]
#[allow(missing_docs, clippy::panic)]
pub mod fuzzing;
#[cfg(feature = "server")]
pub mod grpc;
#[cfg(feature = "monitor")]
mod inbox;
#[cfg(feature = "monitor")]
mod link;
#[cfg(feature = "monitor")]
pub mod monitor;
#[cfg(feature = "monitor")]
pub mod node;
#[cfg(feature = "_grpc")]
mod pb;
#[cfg(feature = "monitor")]
pub mod probe;
#[cfg(feature = "monitor")]
mod question;
#[cfg(feature = "monitor")]
mod quota;
#[cfg(feature = "monitor")]
pub mod reason;
#[cfg(feature = "monitor")]
pub mod report;
#[cfg(feature = "monitor")]
mod slurm_conf;
#[cfg(feature = "monitor")]
mod systemd;
#[cfg(feature = "monitor")]
pub mod text;
#[cfg(feature = "monitor")]
mod unit;
#[cfg(feature = "monitor")]
mod watcher;
