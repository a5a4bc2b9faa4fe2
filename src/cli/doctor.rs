//! The command `readyd doctor`: what this machine and its engine can do for readyd, what they cannot, and
//! what to do about it.

use std::{fmt, time::Duration};

use tokio::time::Instant;

use super::{DoctorArguments, Exit, FILES, MonitorArguments, render};
use crate::{
    container::{Container, State},
    docker::{ChosenHost, DockerEngine, EngineInfo},
    engine::{CALL_LIMIT, ContainerEngine as _, EngineError},
    environment::Environment,
    link::NO_OTHER_WAY,
    monitor::{LinkChoice, Monitor, MonitorError, Options},
    node::{Identity, NodeName, Part, Profile},
    probe::Probe,
};

/// How many containers are inspected to find one that runs.
const CONTAINERS: usize = 64;

/// How long a way into a node may take to be tried.
const TRY: Duration = Duration::from_secs(5);

/// The limits that many nodes need, and how many nodes with systemd the usual one is enough for.
const INOTIFY: u64 = 1024;
const INOTIFY_PER_NODE: u64 = 6;

/// How much something can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ability {
    /// All that readyd wants of it.
    Can,
    /// Enough for readyd to work, more slowly or with less.
    Limited,
    /// Too little: readyd does not work.
    Cannot,
    /// Nobody could tell.
    Untried,
}

impl fmt::Display for Ability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Can => "ok",
            Self::Limited => "limited",
            Self::Cannot => "FAILS",
            Self::Untried => "untried",
        })
    }
}

/// What was found out about something.
struct Diagnosis {
    ability: Ability,
    what: &'static str,
    said: String,
    /// What to do about it; empty if nothing has to be done.
    remedy: String,
}

impl Diagnosis {
    fn new(ability: Ability, what: &'static str, said: impl Into<String>) -> Self {
        Self {
            ability,
            what,
            said: said.into(),
            remedy: String::new(),
        }
    }

    fn remedy(self, remedy: impl Into<String>) -> Self {
        let remedy = remedy.into();
        Self { remedy, ..self }
    }
}

impl fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            ability,
            what,
            said,
            remedy,
        } = self;
        write!(f, "{ability:<7}  {what:<8}  {said}")?;
        if !remedy.is_empty() {
            write!(f, "\n{:19}{remedy}", "")?;
        }
        Ok(())
    }
}

pub(super) async fn run(arguments: DoctorArguments) -> anyhow::Result<Exit> {
    let DoctorArguments { node, monitor } = arguments;
    let mut diagnoses = engine(&monitor, node).await?;
    diagnoses.extend(machine());
    let lines: Vec<_> = diagnoses.iter().map(Diagnosis::to_string).collect();
    render::print(&lines.join("\n"))?;
    let fails = diagnoses
        .iter()
        .any(|diagnosis| diagnosis.ability == Ability::Cannot);
    Ok(if fails { Exit::NotReady } else { Exit::Ready })
}

/// Examines the engine, and the ways into a node.
async fn engine(
    arguments: &MonitorArguments,
    node: Option<NodeName>,
) -> anyhow::Result<Vec<Diagnosis>> {
    let ChosenHost { host, by } = arguments.host()?;
    let engine = DockerEngine::new(host.clone());
    let by_now = || Instant::now() + CALL_LIMIT;
    let EngineInfo {
        product,
        version,
        api,
        remaps_users,
    } = match engine.info(by_now()).await {
        Ok(about) => about,
        Err(error) => {
            let said = format!("{:#} ({by})", anyhow::Error::from(error));
            let remedy =
                "see to that, start the engine, or name another one (--docker-host, DOCKER_HOST)";
            return Ok(vec![
                Diagnosis::new(Ability::Cannot, "engine", said).remedy(remedy),
            ]);
        }
    };
    let said = format!("{product} {version} (API {api}) at {host} ({by})");
    let mut diagnoses = vec![Diagnosis::new(Ability::Can, "engine", said)];
    diagnoses.push(match engine.events(None, by_now()).await {
        Ok(_) => Diagnosis::new(
            Ability::Can,
            "events",
            "what happens to containers is told at once",
        ),
        Err(error) => Diagnosis::new(
            Ability::Limited,
            "events",
            format!("{:#}", anyhow::Error::from(error)),
        )
        .remedy("waits poll the engine instead: nothing has to be done"),
    });
    let (found, wanted) = match node {
        Some(node) => (running(&engine, node.as_str()).await, node.to_string()),
        None => (
            any_running(&engine, &arguments.options()?).await,
            "with the label of a role".to_owned(),
        ),
    };
    let container = match found {
        Ok(Some(container)) => container,
        Ok(None) => {
            let said = format!("no container {wanted} runs, so no way into one was tried");
            let remedy = "start one, or name a container that runs: readyd doctor NODE";
            diagnoses.push(Diagnosis::new(Ability::Untried, "nodes", said).remedy(remedy));
            return Ok(diagnoses);
        }
        Err(error) => {
            let said = format!("{:#}", anyhow::Error::from(error));
            let remedy = "see to that: readyd cannot look at containers";
            diagnoses.push(Diagnosis::new(Ability::Cannot, "nodes", said).remedy(remedy));
            return Ok(diagnoses);
        }
    };
    diagnoses.extend(ways(&engine, arguments, &container, remaps_users).await);
    Ok(diagnoses)
}

async fn running(engine: &DockerEngine, name: &str) -> Result<Option<Container>, EngineError> {
    let found = engine.inspect(name, Instant::now() + CALL_LIMIT).await?;
    Ok(found.filter(|container| container.state == State::Running))
}

/// A node that runs, if there is one among the first containers.
async fn any_running(
    engine: &DockerEngine,
    options: &Options,
) -> Result<Option<Container>, EngineError> {
    let listed = engine.list(Instant::now() + CALL_LIMIT).await?;
    for container in listed.iter().take(CONTAINERS) {
        let is_node = |container: &Container| {
            container.labels.contains_key(&options.labels.role)
                && options
                    .visibility
                    .allows(&Identity::Local, &container.labels)
        };
        if let Some(found) = running(engine, &container.id.0).await?.filter(is_node) {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// Tries each way into a node.
async fn ways(
    engine: &DockerEngine,
    arguments: &MonitorArguments,
    container: &Container,
    remaps_users: bool,
) -> Vec<Diagnosis> {
    let mut diagnoses = Vec::new();
    for (link, what, good) in [
        (
            LinkChoice::Host,
            "host",
            "nodes are looked at from outside, without starting a process in them",
        ),
        (
            LinkChoice::Bridge,
            "bridge",
            "nodes are looked at through two long-lived commands in each",
        ),
        (
            LinkChoice::Exec,
            "exec",
            "nodes are looked at by a command for each question",
        ),
    ] {
        diagnoses.push(match way(engine, arguments, container, link).await {
            Ok(()) => Diagnosis::new(Ability::Can, what, good),
            Err(said) => Diagnosis::new(Ability::Limited, what, said).remedy(match link {
                LinkChoice::Host if remaps_users => {
                    "the engine remaps users (userns-remap): the next way is taken by itself"
                }
                LinkChoice::Host => {
                    "run readyd as root on the engine's own machine; until then the next way is taken by \
                     itself"
                }
                _ => "the next way is taken by itself, if there is one",
            }),
        });
    }
    if diagnoses.iter().all(|way| way.ability != Ability::Can) {
        for diagnosis in &mut diagnoses {
            diagnosis.ability = Ability::Cannot;
            diagnosis.remedy = format!("no way leads into {}: see the causes", container.name);
        }
    }
    diagnoses
}

/// Tries a way into a node, by a question that every node can answer.
async fn way(
    engine: &DockerEngine,
    arguments: &MonitorArguments,
    container: &Container,
    link: LinkChoice,
) -> Result<(), String> {
    let options = Options {
        link,
        ..arguments.options().map_err(|error| error.to_string())?
    };
    let monitor = Monitor::new(engine.clone(), options, Environment::tokio());
    let node: NodeName = container.name.parse().map_err(|_| {
        format!(
            "the container {} has a name that is no node's",
            container.name
        )
    })?;
    let munge = Probe::named("munge").ok_or("there is no probe munge")?;
    let part = Part {
        role: None,
        profile: Some(Profile::Process),
    };
    let looked = monitor
        .check(&Identity::Local, &node, &munge, part, TRY)
        .await;
    match looked {
        Ok(report) if report.via == link.to_string() => Ok(()),
        Ok(report) => Err(format!(
            "{} was looked at by {} instead",
            container.name, report.via
        )),
        Err(MonitorError::CouldNotTell { source, .. }) => {
            let said = source.to_string();
            // That no other way was to be taken is the point here.
            let cause = said.split(NO_OTHER_WAY).next();
            Err(cause.unwrap_or_default().to_owned())
        }
        Err(error) => Err(error.to_string()),
    }
}

/// Examines the limits of this machine.
fn machine() -> Vec<Diagnosis> {
    let mut diagnoses = Vec::new();
    let limit = std::fs::read_to_string("/proc/sys/fs/inotify/max_user_instances");
    if let Some(limit) = limit
        .ok()
        .and_then(|limit| limit.trim().parse::<u64>().ok())
    {
        let said = format!("fs.inotify.max_user_instances is {limit} on this machine");
        diagnoses.push(if limit >= INOTIFY {
            Diagnosis::new(Ability::Can, "inotify", said)
        } else {
            let nodes = limit / INOTIFY_PER_NODE;
            let said =
                format!("{said}: more than {nodes} nodes with systemd do not finish their boot");
            Diagnosis::new(Ability::Limited, "inotify", said)
                .remedy("on the engine's machine: sysctl -w fs.inotify.max_user_instances=8192")
        });
    }
    if let Ok(limit) = rlimit::getrlimit(rlimit::Resource::NOFILE) {
        let (soft, _) = limit;
        let said = format!("readyd may open {soft} files");
        diagnoses.push(if soft >= FILES {
            Diagnosis::new(Ability::Can, "files", said)
        } else {
            Diagnosis::new(Ability::Limited, "files", said).remedy(format!(
                "for 20,000 waits, raise the hard limit to {FILES} (ulimit -n, or LimitNOFILE= of the unit)"
            ))
        });
    }
    diagnoses
}
