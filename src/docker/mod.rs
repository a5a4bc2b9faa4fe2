//! The Docker Engine, over bollard. No other module uses bollard.

mod certificates;
mod choice;
mod error;
mod events;
#[cfg(fuzzing)]
pub(crate) mod fuzzing;
mod host;
mod running_exec;
mod unknown_words;

use std::{
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use bollard::{
    ClientVersion, Docker,
    models::{
        ContainerInspectResponse, ContainerStateStatusEnum, ContainerSummary,
        ContainerSummaryStateEnum, HealthStatusEnum, RestartPolicyNameEnum,
    },
    query_parameters::{
        InspectContainerOptions, ListContainersOptionsBuilder, LogsOptionsBuilder,
        TopOptionsBuilder,
    },
};
use futures_util::TryStreamExt as _;
use tokio::time::{Instant, timeout_at};

pub use choice::{ChosenBy, ChosenHost, InvalidEngine};
pub use host::{DockerHost, InvalidDockerHost};

use crate::text::Detail;
use crate::{
    container::{Container, ContainerId, Health, HealthStatus, Network, State},
    engine::{
        CALL_LIMIT, ContainerEngine, EngineError, ErrorCause, EventStream, Exec, ListedContainer,
        RunningExec,
    },
};
use error::{Call, bounded};
use host::NEWEST;
use unknown_words::OtherWords;

/// A Docker Engine. It need not run yet: every call tries to reach it. A clone is the same engine.
#[derive(Debug, Clone)]
pub struct DockerEngine {
    host: DockerHost,
    /// The client, once an engine has reported its version of the API. It is dropped when the
    /// engine can no longer be reached, since the next engine to answer may have another version.
    client: Arc<Mutex<Option<Client>>>,
}

/// A client that knows which engine answers it.
#[derive(Debug, Clone)]
struct Client {
    docker: Docker,
    /// Whether it is Podman, which differs from Docker in what its API leaves open.
    is_podman: bool,
}

impl DockerEngine {
    /// Creates the engine at this address.
    #[must_use]
    pub fn new(host: DockerHost) -> Self {
        Self {
            host,
            client: Arc::default(),
        }
    }

    /// Returns the client, with the engine's own version of the API.
    ///
    /// bollard by itself uses the newest version that it knows. Older engines refuse that version,
    /// and newer engines refuse the oldest one.
    async fn client(&self) -> Result<Client, bollard::errors::Error> {
        let known = self.lock().clone();
        if let Some(client) = known {
            return Ok(client);
        }
        let said = Arc::new(OnceLock::new());
        let told = Arc::clone(&said);
        let docker = self.host.connect(move |response| {
            let header = |name: &str| response.headers().get(name)?.to_str().ok();
            if let Some(version) = header("api-version").and_then(api_version) {
                let is_podman = header("libpod-api-version").is_some();
                told.get_or_init(|| (version, is_podman));
            }
        })?;
        // An engine says this in each response, also in one that refuses a version. To be asked for its version
        // costs Podman much more: it looks for the packages of its programs then.
        let pinged = docker.ping().await;
        let Some((version, is_podman)) = said.get().copied() else {
            pinged?;
            return Err(bollard::errors::Error::APIVersionParseError {});
        };
        let version = if version < NEWEST { version } else { NEWEST };
        let docker = self.host.observed(&version, |_| ())?;
        tracing::debug!(engine = %self.host, version = %docker.client_version(), is_podman, "the engine's API version is agreed on");
        let client = Client { docker, is_podman };
        *self.lock() = Some(client.clone());
        Ok(client)
    }

    /// Makes one call within its time limit.
    async fn call<T, F>(
        &self,
        action: String,
        by: Instant,
        call: impl FnOnce(Client) -> F,
    ) -> Result<T, EngineError>
    where
        F: Future<Output = Result<T, bollard::errors::Error>>,
    {
        let context = Call {
            action,
            engine: self.host.clone(),
        };
        let start = Instant::now();
        let end = by.min(start + CALL_LIMIT);
        let made = timeout_at(end, async { call(self.client().await?).await }).await;
        let result = match made {
            Ok(result) => result.map_err(|error| context.error(error)),
            Err(_) => Err(context.timed_out((start + CALL_LIMIT <= by).then_some(CALL_LIMIT))),
        };
        // What a caller was too impatient for says nothing about the engine.
        if let Err(EngineError::Unreachable { .. } | EngineError::TimedOut { limit: Some(_), .. }) =
            result
        {
            tracing::debug!(engine = %self.host, "the engine did not answer: its version is asked for again");
            *self.lock() = None;
        }
        result
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Client>> {
        self.client.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What an engine says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct EngineInfo {
    /// The engine's product: Docker or Podman.
    pub product: &'static str,
    /// Its version.
    pub version: String,
    /// The version of the API that is spoken with it.
    pub api: String,
    /// Whether users in containers are other users outside (`userns-remap`, or a rootless engine).
    pub remaps_users: bool,
}

impl DockerEngine {
    /// Asks the engine what it is.
    pub async fn info(&self, by: Instant) -> Result<EngineInfo, EngineError> {
        let action = "asking for the engine's version".to_owned();
        self.call(action, by, |client| async move {
            let Client { docker, is_podman } = client;
            let version = docker.version().await?.version;
            let security = docker.info().await?.security_options.unwrap_or_default();
            let remaps = |option: &String| {
                ["name=userns", "name=rootless"]
                    .iter()
                    .any(|name| option.contains(name))
            };
            Ok(EngineInfo {
                product: if is_podman { "Podman" } else { "Docker" },
                version: bounded(&version.unwrap_or_default()),
                api: docker.client_version().to_string(),
                remaps_users: security.iter().any(remaps),
            })
        })
        .await
    }
}

#[async_trait]
impl ContainerEngine for DockerEngine {
    async fn inspect(&self, name: &str, by: Instant) -> Result<Option<Container>, EngineError> {
        let action = format!("inspecting container {name}");
        let inspected = self
            .call(action.clone(), by, |client| async move {
                let options = None::<InspectContainerOptions>;
                match client.docker.inspect_container(name, options).await {
                    Err(bollard::errors::Error::DockerResponseServerError {
                        status_code: 404,
                        ..
                    }) => Ok(None),
                    Err(error) => unknown_words::inspected(error).map(Some),
                    Ok(response) => Ok(Some((response, OtherWords::default()))),
                }
            })
            .await?;
        inspected
            .map(|(response, other)| container(response, other, &action))
            .transpose()
    }

    async fn list(&self, by: Instant) -> Result<Vec<ListedContainer>, EngineError> {
        let options = ListContainersOptionsBuilder::default().all(true).build();
        let action = "listing the containers".to_owned();
        let listed = self
            .call(action, by, |client| async move {
                let listed = client.docker.list_containers(Some(options)).await;
                listed.or_else(unknown_words::listed)
            })
            .await?;
        Ok(listed.into_iter().filter_map(summarised).collect())
    }

    async fn processes(&self, id: &ContainerId, by: Instant) -> Result<usize, EngineError> {
        let action = format!("listing the processes of container {id}");
        let top = self
            .call(action, by, |client| async move {
                // Podman would run the container's own ps for the arguments of one.
                let columns = if client.is_podman { "pid" } else { "-eo pid" };
                let options = TopOptionsBuilder::default().ps_args(columns).build();
                let top = client.docker.top_processes(&id.0, Some(options)).await;
                match top {
                    Err(bollard::errors::Error::JsonSerdeError { .. }) if client.is_podman => {
                        Ok(None)
                    }
                    top => top.map(Some),
                }
            })
            .await?;
        if let Some(top) = top {
            return Ok(top.processes.unwrap_or_default().len());
        }
        // Podman says nothing, and no error either, where it has no list.
        let action = format!("listing the processes of container {id}");
        match self.inspect(&id.0, by).await? {
            Some(container) if container.state == State::Running => Err(EngineError::Refused {
                action,
                message: "(nothing)".to_owned(),
            }),
            _ => Err(EngineError::NotRunning { action }),
        }
    }

    async fn last_words(
        &self,
        id: &ContainerId,
        lines: usize,
        bytes: usize,
        by: Instant,
    ) -> Result<Vec<u8>, EngineError> {
        let options = LogsOptionsBuilder::default()
            .stdout(true)
            .stderr(true)
            .tail(&lines.to_string())
            .build();
        self.call(
            format!("reading the log of container {id}"),
            by,
            |client| async move {
                let mut chunks = client.docker.logs(&id.0, Some(options));
                let mut log = Vec::new();
                while let Some(chunk) = chunks.try_next().await? {
                    log.extend_from_slice(&chunk.into_bytes());
                    log.drain(..log.len().saturating_sub(bytes));
                }
                Ok(log)
            },
        )
        .await
    }

    async fn exec(
        &self,
        id: &ContainerId,
        exec: Exec,
        by: Instant,
    ) -> Result<Box<dyn RunningExec>, EngineError> {
        let running = running_exec::start(self, id, exec, by).await?;
        Ok(Box::new(running))
    }

    async fn events(
        &self,
        since: Option<SystemTime>,
        by: Instant,
    ) -> Result<EventStream, EngineError> {
        events::subscribe(self, since, by).await
    }
}

/// Converts what a list shows of a container; none if it lacks a name or an id.
fn summarised(summary: ContainerSummary) -> Option<ListedContainer> {
    // Links of other containers to it are names, too: `/other/alias`.
    let name = summary.names?.into_iter().find_map(|name| {
        let name = name.trim_start_matches('/');
        (!name.contains('/')).then(|| name.to_owned())
    })?;
    let networks = summary.network_settings.and_then(|all| all.networks);
    let mut networks: Vec<_> = networks.into_iter().flatten().collect();
    networks.sort_by(|(a, _), (b, _)| a.cmp(b));
    let address = networks.into_iter().next().and_then(|(_, network)| {
        let known = |address: Option<String>| address.filter(|address| !address.is_empty());
        known(network.ip_address).or_else(|| known(network.global_ipv6_address))
    });
    Some(ListedContainer {
        id: ContainerId(summary.id?),
        name,
        labels: summary.labels.unwrap_or_default(),
        // What has another word in bollard's list of states has the engine's own as its status.
        state: match summary.state {
            Some(ContainerSummaryStateEnum::EMPTY) | None => {
                bounded(&summary.status.unwrap_or_default())
            }
            Some(state) => state.to_string(),
        },
        address: bounded(&address.unwrap_or_default()),
    })
}

/// Converts the response of an inspection. If an essential field is missing, this returns an error
/// and never a default.
fn container(
    response: ContainerInspectResponse,
    other: OtherWords,
    action: &str,
) -> Result<Container, EngineError> {
    let missing = |field: &str| EngineError::Garbled {
        action: action.to_owned(),
        cause: ErrorCause::new(format!("it has no {field}")),
    };
    let id = response.id.ok_or_else(|| missing("Id"))?;
    let name = response.name.ok_or_else(|| missing("Name"))?;
    let state = response.state.ok_or_else(|| missing("State"))?;
    let status = state.status.ok_or_else(|| missing("State.Status"))?;
    let host = response.host_config.unwrap_or_default();
    let mode = host.network_mode.as_deref().unwrap_or_default();
    let network = match mode.split_once(':') {
        // Podman can name a namespace by its path, and then others may use it, too.
        Some(("container" | "ns", other)) => Network::Container(bounded(other)),
        _ if mode == "host" => Network::Host,
        _ => Network::Own,
    };
    let health = state.health.and_then(|said| health(said, other.health));
    let restarts = host
        .restart_policy
        .and_then(|policy| policy.name)
        .is_some_and(|name| {
            !matches!(
                name,
                RestartPolicyNameEnum::EMPTY | RestartPolicyNameEnum::NO
            )
        });
    Ok(Container {
        id: ContainerId(id),
        name: name.trim_start_matches('/').to_owned(),
        labels: response
            .config
            .and_then(|config| config.labels)
            .unwrap_or_default(),
        state: match status {
            ContainerStateStatusEnum::CREATED => State::Created,
            ContainerStateStatusEnum::RUNNING => State::Running,
            ContainerStateStatusEnum::PAUSED => State::Paused,
            ContainerStateStatusEnum::RESTARTING => State::Restarting,
            ContainerStateStatusEnum::REMOVING => State::Removing,
            ContainerStateStatusEnum::EXITED => State::Exited {
                code: state.exit_code.ok_or_else(|| missing("State.ExitCode"))?,
                oom: state.oom_killed.unwrap_or(false),
            },
            ContainerStateStatusEnum::DEAD => State::Dead,
            ContainerStateStatusEnum::STOPPING => State::Stopping,
            ContainerStateStatusEnum::EMPTY => State::Other(other.state.unwrap_or_default()),
        },
        restarts,
        started_at: state.started_at.and_then(|at| time_of(&at)),
        pid: state
            .pid
            .and_then(|pid| u32::try_from(pid).ok())
            .filter(|pid| *pid > 0),
        network,
        health,
        last_words: Detail::default(),
    })
}

/// Converts what the engine says of a health check; none where there is no check.
fn health(health: bollard::models::Health, other: Option<String>) -> Option<Health> {
    let status = match (health.status?, other) {
        (_, Some(other)) => HealthStatus::Other(other),
        (HealthStatusEnum::EMPTY | HealthStatusEnum::NONE, None) => return None,
        (HealthStatusEnum::STARTING, None) => HealthStatus::Starting,
        (HealthStatusEnum::HEALTHY, None) => HealthStatus::Healthy,
        (HealthStatusEnum::UNHEALTHY, None) => HealthStatus::Unhealthy,
    };
    let last = health.log.and_then(|mut log| log.pop());
    let output = last.and_then(|check| check.output).unwrap_or_default();
    Some(Health {
        status,
        output: Detail::new(output),
    })
}

/// Reads a version of the API: `1.41`.
fn api_version(text: &str) -> Option<ClientVersion> {
    let (major, minor) = text.split_once('.')?;
    Some(ClientVersion {
        major_version: major.parse().ok()?,
        minor_version: minor.parse().ok()?,
    })
}

/// Reads a time as engines write it (RFC 3339): Podman writes it in its machine's own time zone.
fn time_of(text: &str) -> Option<SystemTime> {
    let zone = text.len().checked_sub("+00:00".len());
    let (local, zone) = zone.and_then(|at| text.split_at_checked(at))?;
    let Some((sign, (hours, minutes))) = zone
        .split_at_checked(1)
        .and_then(|(sign, zone)| Some((sign, zone.split_once(':')?)))
    else {
        return humantime::parse_rfc3339(text).ok();
    };
    let (hours, minutes): (u64, u64) = (hours.parse().ok()?, minutes.parse().ok()?);
    let offset = Duration::from_secs(60 * (60 * hours + minutes));
    let local = humantime::parse_rfc3339(&format!("{local}Z")).ok()?;
    match sign {
        "+" => local.checked_sub(offset),
        "-" => local.checked_add(offset),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_read_in_whatever_zone_it_is_written() {
        let utc = humantime::parse_rfc3339("2026-11-27T07:23:18.25Z").unwrap();
        for text in [
            "2026-11-27T07:23:18.25Z",
            "2026-11-27T07:23:18.25+00:00",
            "2026-11-27T08:23:18.25+01:00",
            "2026-11-27T01:53:18.25-05:30",
            "2026-11-28T07:23:18.25+24:00",
        ] {
            assert_eq!(time_of(text), Some(utc), "{text}");
        }
        // An engine writes this where a container was never started.
        for text in [
            "0001-01-01T00:00:00Z",
            "",
            "Z",
            "é+01:00",
            "2026-11-27",
            "+aa:bb",
        ] {
            assert_eq!(time_of(text), None, "{text}");
        }
    }
}
