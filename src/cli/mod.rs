//! The command line: `serve`, and the client commands of the same service. A client command that
//! names no server embeds the service in its own process.

mod commands;
mod config;
mod connect;
mod doctor;
mod progress;
mod render;
mod serve;
mod signals;
mod table;

use std::{process::ExitCode, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};
use futures_util::future::BoxFuture;

use crate::{
    docker::{ChosenHost, DockerEngine, DockerHost},
    environment::Environment,
    grpc::ListenAddress,
    monitor::{LinkChoice, Monitor, Options},
    node::{LabelKeys, NodeName, Profile, Visibility},
};

/// The exit code of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// The node is ready, or the probe has passed.
    Ready = 0,
    /// readyd could not tell: there is no such node, no server or no engine.
    CouldNotTell = 1,
    /// The command line or the request is wrong.
    Usage = 2,
    /// The node can no longer become ready.
    Terminal = 3,
    /// The time limit ended the wait.
    TimedOut = 4,
    /// The node is not ready, or the probe has failed.
    NotReady = 5,
    /// SIGINT or SIGTERM ended a client command.
    Interrupted = 130,
}

/// Tells whether containers that act as Slurm cluster nodes are ready.
#[derive(Debug, Parser)]
#[command(version, about, after_help = EXIT_CODES)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "\
Exit codes: 0 ready or passed; 1 could not tell; 2 usage or invalid request; 3 terminal; \
4 timed out; 5 not ready or failed; 130 ended by a signal.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gRPC server.
    Serve(ServeArguments),
    /// Look at one node, once.
    Snapshot(SnapshotArguments),
    /// Run one probe of one node, once.
    Check(CheckArguments),
    /// Wait until nodes are ready.
    Wait(WaitArguments),
    /// List the probes that can be named.
    Probes(ClientArguments),
    /// List the nodes that readyd can see.
    Nodes(NodesArguments),
    /// Tell what this machine and its container engine can and cannot do for readyd, and what to do
    /// about it; 5 if readyd cannot work.
    Doctor(DoctorArguments),
}

#[derive(Debug, Args)]
struct MonitorArguments {
    /// The URL of the container engine, `unix:///PATH` or `tcp://HOST:PORT` [default: that of
    /// --docker-context, else `DOCKER_HOST`, else that of the context `DOCKER_CONTEXT`, else that of the
    /// current context of Docker's config.json, else whichever of the usual sockets is there]
    #[arg(long, value_name = "URL")]
    docker_host: Option<DockerHost>,
    /// The Docker context that names the engine
    #[arg(long, value_name = "NAME")]
    docker_context: Option<String>,
    /// Serve only containers with this label, as if no others existed (repeatable: a container
    /// needs all of the labels)
    #[arg(long, value_name = "LABEL=VALUE", value_parser = label)]
    select: Vec<(String, String)>,
    /// A file (TOML) with probes of your own
    #[arg(long, value_name = "FILE")]
    config: Option<std::path::PathBuf>,
    /// Send no text of journals to clients
    #[arg(long)]
    no_journal: bool,
    /// Let waits run a job in their clusters, as the level jobs asks for
    #[arg(long)]
    allow_jobs: bool,
    /// The link to nodes: host (from outside, as root on the engine's machine), bridge (two
    /// long-lived execs in a node), exec (one for each query), or auto (the best that works)
    #[arg(long, value_name = "auto|host|bridge|exec", default_value_t)]
    link: LinkChoice,
    /// How long an unused link to a node stays open for the next look
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    keep_links: Duration,
    /// How long readyd goes on following a node after the last client that waited for it has gone
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = duration)]
    linger: Duration,
    /// The key of the label that holds a node's realm
    #[arg(long, value_name = "KEY", default_value = "sind.realm")]
    realm_label: String,
    /// The key of the label that holds a node's cluster
    #[arg(long, value_name = "KEY", default_value = "sind.cluster")]
    cluster_label: String,
    /// The key of the label that holds a node's role
    #[arg(long, value_name = "KEY", default_value = "sind.role")]
    role_label: String,
    /// The key of the label that holds a node's profile
    #[arg(long, value_name = "KEY", default_value = "readyd.profile")]
    profile_label: String,
    /// How nodes run their daemons: systemd, or process (as plain processes). A server goes by it where
    /// neither the request nor the node's label says anything; a client's request says it [default:
    /// systemd]
    #[arg(long, value_name = "systemd|process")]
    profile: Option<Profile>,
}

/// An error in the command line or in a variable that clap does not detect.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Usage(String);

/// Reads a variable of the environment. An empty one counts as unset, as in Docker.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

impl MonitorArguments {
    /// Returns the engine's address. Only a command that needs an engine reads the variables: a client
    /// of a remote server ignores them.
    fn host(&self) -> Result<ChosenHost, Usage> {
        let context = self.docker_context.as_deref();
        DockerHost::choose(self.docker_host.clone(), context, variable)
            .map_err(|error| Usage(error.to_string()))
    }

    fn monitor(&self) -> Result<Monitor, Usage> {
        let ChosenHost { host, by: _ } = self.host()?;
        let docker = DockerEngine::new(host);
        Ok(Monitor::new(docker, self.options()?, Environment::tokio()))
    }

    fn options(&self) -> Result<Options, Usage> {
        let own = self.config.as_deref().map(config::read).transpose()?;
        Ok(Options {
            labels: LabelKeys {
                realm: self.realm_label.clone(),
                cluster: self.cluster_label.clone(),
                role: self.role_label.clone(),
                profile: self.profile_label.clone(),
            },
            visibility: Visibility::select(self.select.clone()),
            journal: !self.no_journal,
            profile: self.profile.unwrap_or_default(),
            link: self.link,
            keep_links: self.keep_links,
            linger: self.linger,
            events: true,
            probes: own.unwrap_or_default(),
        })
    }
}

#[derive(Debug, Args)]
struct ServeArguments {
    /// Where to listen: HOST:PORT or unix:PATH (repeatable)
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7323")]
    listen: Vec<ListenAddress>,
    /// Listen on addresses that other machines can reach, although nothing encrypts or
    /// authenticates the connections
    #[arg(long)]
    insecure: bool,
    /// The longest time that a wait may take
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = duration)]
    longest_wait: Duration,
    /// How many waits are served at once
    #[arg(long, value_name = "COUNT", default_value_t = 20_000)]
    max_waits: usize,
    #[command(flatten)]
    monitor: MonitorArguments,
}

#[derive(Debug, Args)]
struct ClientArguments {
    /// The server to connect to: http://HOST:PORT or unix:PATH [default: `READYD_SERVER`, else a
    /// server embedded in this process]
    #[arg(long, value_name = "URL", value_parser = connect::server)]
    server: Option<connect::ServerUrl>,
    /// What to print
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
    #[command(flatten)]
    monitor: MonitorArguments,
}

/// What to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// Lines for people.
    Text,
    /// One message of the service a line, in protobuf's JSON.
    Json,
}

#[derive(Debug, Args)]
struct SnapshotArguments {
    /// The container's name or id
    node: String,
    /// The node's role, if its label does not say it
    #[arg(long)]
    role: Option<crate::node::Role>,
    #[command(flatten)]
    client: ClientArguments,
}

#[derive(Debug, Args)]
struct CheckArguments {
    /// The container's name or id
    node: String,
    /// The probe's name
    probe: String,
    /// The node's role, if its label does not say it
    #[arg(long)]
    role: Option<crate::node::Role>,
    /// How long the probe may take, up to 60s [default: 10s]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    timeout: Option<Duration>,
    #[command(flatten)]
    client: ClientArguments,
}

#[derive(Debug, Args)]
struct WaitArguments {
    /// The containers' names or ids
    #[arg(required_unless_present = "cluster", conflicts_with = "cluster")]
    nodes: Vec<String>,
    /// Wait for the nodes of a cluster instead
    #[arg(long, value_name = "REALM/NAME", value_parser = cluster)]
    cluster: Option<(String, String)>,
    /// How many nodes the cluster has at least
    #[arg(long, value_name = "COUNT", requires = "cluster")]
    min_nodes: Option<u32>,
    /// The nodes' role, if their labels do not say it
    #[arg(long, conflicts_with = "cluster")]
    role: Option<crate::node::Role>,
    /// A probe that the nodes have to pass, instead of their role's own (repeatable)
    #[arg(long, value_name = "PROBE")]
    probe: Vec<String>,
    /// How long to wait [default: as long as the server allows]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    timeout: Option<Duration>,
    /// The delay between two looks at a node [default: 500ms]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    poll_interval: Option<Duration>,
    /// How long every probe has to stay passed
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    stable_for: Option<Duration>,
    /// How far to wait, in place of probes: booted (the node's boot is over), services (the daemons
    /// of its role are up), rpc (they answer in their own protocols), or registered (the controller has
    /// each worker in a state that runs jobs), or jobs (a job has run on the workers; only with
    /// --allow-jobs) [default: services; of a cluster, registered]
    #[arg(long, value_name = "LEVEL", conflicts_with = "probe", value_parser = level)]
    level: Option<crate::client::Level>,
    /// Go on waiting for nodes that have failed for good
    #[arg(long)]
    keep_waiting: bool,
    #[command(flatten)]
    client: ClientArguments,
}

#[derive(Debug, Args)]
struct NodesArguments {
    /// List only the nodes of this cluster
    #[arg(long, value_name = "REALM/NAME", value_parser = cluster)]
    cluster: Option<(String, String)>,
    /// Go on, and print each change: a line for each (text), or the messages of the watch (json)
    #[arg(long)]
    watch: bool,
    /// List only the nodes of this role (repeatable)
    #[arg(long)]
    role: Vec<crate::node::Role>,
    #[command(flatten)]
    client: ClientArguments,
}

#[derive(Debug, Args)]
struct DoctorArguments {
    /// The container in which ways into nodes are tried [default: one that has the label of a role]
    node: Option<NodeName>,
    #[command(flatten)]
    monitor: MonitorArguments,
}

/// The limit of open files that readyd sets for itself, if the system allows it: a server carries
/// 20,000 waits.
const FILES: u64 = 65_536;

/// Runs a command and returns its exit code.
#[must_use]
pub fn run(arguments: Arguments) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            render::error(&anyhow::Error::from(error).context("starting the async runtime"));
            return ExitCode::from(Exit::CouldNotTell as u8);
        }
    };
    // Each connection takes a file, and the usual soft limit is made for a shell. A hard limit that
    // is as low was chosen by somebody, and it stays.
    let _ = rlimit::increase_nofile_limit(FILES);
    let ended = runtime.block_on(async {
        let command: BoxFuture<'_, anyhow::Result<Exit>> = match arguments.command {
            // These two have more to say of a signal.
            Command::Serve(arguments) => return serve::run(arguments).await,
            Command::Wait(arguments) => return commands::wait(arguments).await,
            Command::Snapshot(arguments) => Box::pin(commands::snapshot(arguments)),
            Command::Check(arguments) => Box::pin(commands::check(arguments)),
            Command::Probes(arguments) => Box::pin(commands::probes(arguments)),
            Command::Nodes(arguments) => Box::pin(commands::nodes(arguments)),
            Command::Doctor(arguments) => Box::pin(doctor::run(arguments)),
        };
        let ended = signals::unless_received(command).await?;
        ended.unwrap_or(Ok(Exit::Interrupted))
    });
    let exit = ended.unwrap_or_else(|error| {
        render::error(&error);
        commands::exit_of(&error)
    });
    // Tasks that still run (for example for a silent peer) have had their time.
    runtime.shutdown_background();
    ExitCode::from(exit as u8)
}

/// Says what an argument's value should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
struct InvalidValue(String);

fn duration(text: &str) -> Result<Duration, InvalidValue> {
    humantime::parse_duration(text)
        .map_err(|error| InvalidValue(format!("{error} (such as 90s, 500ms or 1m30s)")))
}

fn label(text: &str) -> Result<(String, String), InvalidValue> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(InvalidValue("it should be LABEL=VALUE".to_owned())),
    }
}

fn level(text: &str) -> Result<crate::client::Level, InvalidValue> {
    let name = format!("LEVEL_{}", text.to_uppercase());
    let level = crate::client::Level::from_str_name(&name);
    level
        .filter(|level| *level != crate::client::Level::Unspecified)
        .ok_or_else(|| {
            InvalidValue("it should be booted, services, rpc, registered or jobs".to_owned())
        })
}

fn cluster(text: &str) -> Result<(String, String), InvalidValue> {
    match text.split_once('/') {
        Some((realm, name)) if !realm.is_empty() && !name.is_empty() => {
            Ok((realm.to_owned(), name.to_owned()))
        }
        _ => Err(InvalidValue("it should be REALM/NAME".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn wrong_values_are_told_what_would_be_right() {
        for (line, hint) in [
            ("readyd wait n --timeout 5x", "such as 90s"),
            ("readyd wait n --cluster r/c", "cannot be used with"),
            ("readyd wait", "required"),
            ("readyd wait --cluster r", "REALM/NAME"),
            ("readyd snapshot n --role boss", "the roles are"),
            ("readyd wait n --level up", "booted, services"),
            (
                "readyd wait n --level booted --probe sshd",
                "cannot be used with",
            ),
            ("readyd nodes --cluster c", "REALM/NAME"),
            (
                "readyd snapshot n --server ftp://x",
                "http://HOST:PORT or unix:PATH",
            ),
            (
                "readyd snapshot n --docker-host ssh://x",
                "ssh:// is not supported",
            ),
            ("readyd serve --listen 7323", "HOST:PORT or unix:PATH"),
            ("readyd serve --select x", "LABEL=VALUE"),
        ] {
            let error = Arguments::try_parse_from(line.split(' ')).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().contains(hint), "{line}: {error}");
        }
    }
}
