//! The Docker Engine, over bollard. No other module uses bollard.

mod error;
mod events;
mod host;
mod running_exec;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use async_trait::async_trait;
use bollard::{
    Docker,
    models::{
        ContainerInspectResponse, ContainerStateStatusEnum, HealthStatusEnum, RestartPolicyNameEnum,
    },
    query_parameters::{
        InspectContainerOptions, ListContainersOptionsBuilder, LogsOptionsBuilder,
        TopOptionsBuilder,
    },
};
use futures_util::TryStreamExt as _;
use tokio::time::{Instant, timeout_at};

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

/// A Docker Engine. It need not run yet: every call tries to reach it. A clone is the same engine.
#[derive(Debug, Clone)]
pub struct DockerEngine {
    host: DockerHost,
    /// The client, once an engine has reported its version of the API. It is dropped when the
    /// engine can no longer be reached, since the next engine to answer may have another version.
    client: Arc<Mutex<Option<Docker>>>,
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
    async fn client(&self) -> Result<Docker, bollard::errors::Error> {
        let known = self.lock().clone();
        if let Some(client) = known {
            return Ok(client);
        }
        let client = self.host.connect()?.negotiate_version().await?;
        tracing::debug!(engine = %self.host, version = %client.client_version(), "the engine's API version is agreed on");
        *self.lock() = Some(client.clone());
        Ok(client)
    }

    /// Makes one call within its time limit.
    async fn call<T, F>(
        &self,
        action: String,
        by: Instant,
        call: impl FnOnce(Docker) -> F,
    ) -> Result<T, EngineError>
    where
        F: Future<Output = Result<T, bollard::errors::Error>>,
    {
        let context = Call {
            action,
            engine: self.host.to_string(),
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

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Docker>> {
        self.client.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl ContainerEngine for DockerEngine {
    async fn inspect(&self, name: &str, by: Instant) -> Result<Option<Container>, EngineError> {
        let action = format!("inspecting container {name}");
        let inspected = self
            .call(action.clone(), by, |docker| async move {
                match docker
                    .inspect_container(name, None::<InspectContainerOptions>)
                    .await
                {
                    Err(bollard::errors::Error::DockerResponseServerError {
                        status_code: 404,
                        ..
                    }) => Ok(None),
                    other => other.map(Some),
                }
            })
            .await?;
        inspected
            .map(|response| container(response, &action))
            .transpose()
    }

    async fn list(&self, by: Instant) -> Result<Vec<ListedContainer>, EngineError> {
        let options = ListContainersOptionsBuilder::default().all(true).build();
        let action = "listing the containers".to_owned();
        let listed = self
            .call(action, by, |docker| async move {
                docker.list_containers(Some(options)).await
            })
            .await?;
        let listed = listed.into_iter().filter_map(|summary| {
            let name = summary.names?.into_iter().next()?;
            Some(ListedContainer {
                id: ContainerId(summary.id?),
                name: name.trim_start_matches('/').to_owned(),
            })
        });
        Ok(listed.collect())
    }

    async fn processes(&self, id: &ContainerId, by: Instant) -> Result<usize, EngineError> {
        let options = TopOptionsBuilder::default().ps_args("-eo pid").build();
        let top = self
            .call(
                format!("listing the processes of container {id}"),
                by,
                |docker| async move { docker.top_processes(&id.0, Some(options)).await },
            )
            .await?;
        Ok(top.processes.unwrap_or_default().len())
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
            |docker| async move {
                let mut chunks = docker.logs(&id.0, Some(options));
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

/// Converts the response of an inspection. If an essential field is missing, this returns an error
/// and never a default.
fn container(response: ContainerInspectResponse, action: &str) -> Result<Container, EngineError> {
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
        Some(("container", other)) => Network::Container(bounded(other)),
        _ if mode == "host" => Network::Host,
        _ => Network::Own,
    };
    let health = state.health.and_then(health);
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
            other => State::Other(other.to_string()),
        },
        restarts,
        started_at: state
            .started_at
            .and_then(|at| humantime::parse_rfc3339(&at).ok()),
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
fn health(health: bollard::models::Health) -> Option<Health> {
    let status = match health.status? {
        HealthStatusEnum::EMPTY | HealthStatusEnum::NONE => return None,
        HealthStatusEnum::STARTING => HealthStatus::Starting,
        HealthStatusEnum::HEALTHY => HealthStatus::Healthy,
        HealthStatusEnum::UNHEALTHY => HealthStatus::Unhealthy,
    };
    let last = health.log.and_then(|mut log| log.pop());
    let output = last.and_then(|check| check.output).unwrap_or_default();
    Some(Health {
        status,
        output: Detail::new(output),
    })
}
