//! The interfaces of the simulated world: an engine, and the links to its nodes.

use super::*;

#[async_trait]
impl ContainerEngine for Sim {
    async fn inspect(&self, name: &str, by: Instant) -> Result<Option<Container>, EngineError> {
        let latency = self.world().latency;
        sleep(self.some(latency)).await;
        let (seen, outage) = {
            let world = self.world();
            let seen = world.nodes.get(name).and_then(|node| {
                let container = node.container.as_ref()?;
                Some(Container {
                    id: container.id.clone(),
                    name: name.to_owned(),
                    labels: [].into(),
                    state: container.state.clone(),
                    restarts: container.restarts,
                    started_at: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(container.run)),
                    pid: Some(container.run as u32),
                    network: Network::Own,
                    health: None,
                    last_words: crate::text::Detail::default(),
                })
            });
            (seen, world.outage)
        };
        sleep(self.some(latency)).await;
        let action = format!("inspecting container {name}");
        if Instant::now() > by {
            return Err(EngineError::TimedOut {
                action,
                limit: None,
            });
        }
        if outage {
            Err(unreachable(action))
        } else {
            Ok(seen)
        }
    }

    async fn list(&self, _: Instant) -> Result<Vec<ListedContainer>, EngineError> {
        let latency = self.world().latency;
        sleep(self.some(latency)).await;
        let world = self.world();
        if world.outage {
            return Err(unreachable("listing the containers".to_owned()));
        }
        let listed = world.nodes.iter().filter_map(|(name, node)| {
            let container = node.container.as_ref()?;
            Some(ListedContainer {
                id: container.id.clone(),
                name: name.clone(),
                labels: [].into(),
                state: format!("{:?}", container.state),
                address: String::new(),
            })
        });
        Ok(listed.collect())
    }

    async fn processes(&self, _: &ContainerId, _: Instant) -> Result<usize, EngineError> {
        Ok(2)
    }

    async fn exec(
        &self,
        _: &ContainerId,
        _: Exec,
        _: Instant,
    ) -> Result<Box<dyn RunningExec>, EngineError> {
        Err(unreachable("starting a command".to_owned()))
    }

    async fn events(
        &self,
        since: Option<SystemTime>,
        _: Instant,
    ) -> Result<EventStream, EngineError> {
        sleep(self.some(MS)).await;
        let mut world = self.world();
        if world.outage {
            return Err(unreachable("subscribing to events".to_owned()));
        }
        let (sender, receiver) = mpsc::unbounded_channel();
        for event in world
            .past
            .iter()
            .filter(|event| since.is_some() && event.at >= since)
        {
            let _ = sender.send(Ok(event.clone()));
        }
        world.subscribers.push(sender);
        Ok(Box::pin(UnboundedReceiverStream::new(receiver)))
    }
}

pub(super) fn unreachable(action: String) -> EngineError {
    EngineError::Unreachable {
        action,
        engine: "sim://".to_owned(),
        cause: crate::engine::ErrorCause::new("an outage"),
    }
}

/// A link to one run of one node.
pub(super) struct SimLink {
    sim: Sim,
    node: String,
    run: u64,
    bus: u64,
}

impl SimLink {
    pub(super) fn new(sim: &Sim, container: &Container) -> Self {
        let mut world = sim.world();
        world.links.fetch_add(1, Ordering::SeqCst);
        let bus = world
            .node(&container.name)
            .container
            .as_ref()
            .map_or(0, |now| now.bus);
        let started = container.started_at.unwrap();
        let run = started.duration_since(SystemTime::UNIX_EPOCH).unwrap();
        Self {
            sim: sim.clone(),
            node: container.name.clone(),
            run: run.as_secs(),
            bus,
        }
    }

    /// Reads from the node's container, if the container is still in that run and can reply.
    pub(super) fn read<T>(
        &self,
        world: &mut World,
        read: impl FnOnce(&mut TrueContainer) -> T,
    ) -> Result<T, LinkError> {
        match &mut world.node(&self.node).container {
            Some(now) if now.run == self.run && now.state == State::Running => Ok(read(now)),
            Some(now) if now.run == self.run && now.state == State::Paused => {
                Err(LinkError::Slow {
                    what: "systemd".to_owned(),
                    limit: None,
                })
            }
            _ => Err(LinkError::NotRunning),
        }
    }

    pub(super) async fn look(
        &self,
        question: &UnitQuestion,
        listener: Option<&Arc<Inbox>>,
    ) -> Result<SystemdState, LinkError> {
        sleep(self.sim.some(2 * MS)).await;
        let bus = self.bus;
        let broken = || LinkError::Broken("the bus broke".to_owned());
        let told = self.read(&mut self.sim.world(), |now| {
            if now.bus != bus {
                return Err(broken());
            }
            let told = now.tells && listener.is_some();
            if let Some(listener) = listener.filter(|_| told) {
                let ear = Arc::downgrade(listener);
                now.ears.retain(|ear| ear.strong_count() > 0);
                if !now.ears.iter().any(|other| Weak::ptr_eq(other, &ear)) {
                    now.ears.push(ear);
                }
            }
            Ok(told)
        })??;
        sleep(self.sim.some(2 * MS)).await;
        let last_signal = self.sim.signals();
        let look = self.read(&mut self.sim.world(), |now| SystemdState {
            jobs: Vec::new(),
            last_signal,
            system: now.system.to_owned(),
            failed_units: None,
            units: question
                .units
                .iter()
                .map(|name| ((*name).to_owned(), now.unit(name)))
                .collect(),
            subscribed: told,
        })?;
        sleep(self.sim.some(2 * MS)).await;
        let bus_now = self.read(&mut self.sim.world(), |now| now.bus)?;
        if bus_now == bus {
            Ok(look)
        } else {
            Err(broken())
        }
    }
}

impl TrueContainer {
    pub(super) fn unit(&self, name: &str) -> Unit {
        let real = if name == "sshd.service" {
            "ssh.service"
        } else {
            name
        };
        let Some(unit) = self.units.get(real) else {
            return Unit {
                load: "not-found".to_owned(),
                ..Unit::default()
            };
        };
        Unit {
            id: real.to_owned(),
            load: "loaded".to_owned(),
            active: unit.active.to_owned(),
            kind: unit.kind.to_owned(),
            main_pid: unit.pid,
            invocation: unit.invocation.to_string(),
            changed: unit.changed,
            age: self.tells.then(|| unit.since.elapsed()),
            ..Unit::default()
        }
    }
}

impl Drop for SimLink {
    fn drop(&mut self) {
        let links = Arc::clone(&self.sim.world().links);
        links.fetch_sub(1, Ordering::SeqCst);
    }
}

#[async_trait]
impl Link for SimLink {
    async fn systemd(
        &self,
        question: &UnitQuestion,
        listener: Option<&Arc<Inbox>>,
        by: Instant,
    ) -> Reply<SystemdState> {
        let result = loop {
            match self.look(question, listener).await {
                // A paused node replies once it is unpaused.
                Err(LinkError::Slow { .. }) if Instant::now() < by => sleep(20 * MS).await,
                other => break other,
            }
        };
        Reply { via: "sim", result }
    }

    async fn ask(&self, question: &Question, by: Instant) -> Reply<Answer> {
        sleep(self.sim.some(12 * MS)).await;
        let read = || {
            self.read(&mut self.sim.world(), |now| match question {
                Question::Port(PortQuestion { port: 22, .. }) => {
                    match now.units["ssh.service"].active {
                        "active" | "reloading" => {
                            Answer::Greeting(b"SSH-2.0-sim".to_vec(), GreetingEnd::Found)
                        }
                        _ => Answer::Closed("Connection refused".to_owned()),
                    }
                }
                Question::Command(_) if now.rpc => Answer::Command {
                    stdout: "c\nSlurmctld(primary) at c is UP\n".to_owned(),
                    stderr: String::new(),
                    code: 0,
                },
                Question::Command(_) => Answer::Command {
                    stdout: "c\nSlurmctld(primary) at c is DOWN\n".to_owned(),
                    stderr: String::new(),
                    code: 1,
                },
                // It needs munge.
                Question::Setting(_) => Answer::Command {
                    stdout: String::new(),
                    stderr: String::new(),
                    code: 0,
                },
                Question::Daemon(question) => {
                    let unit = now
                        .units
                        .get(format!("{}.service", question.process).as_str());
                    let runs = unit.filter(|unit| unit.active == "active");
                    let process = runs.map(|unit| DaemonProcess {
                        pid: unit.pid,
                        parent: 1,
                        name: question.process.to_owned(),
                        unit: None,
                        start: None,
                        listens: Some(vec![ListeningSocket::Tcp(([0; 4], 6818).into())]),
                    });
                    Answer::Daemon(process.into_iter().collect())
                }
                Question::Port(_) => Answer::Closed("Connection refused".to_owned()),
            })
        };
        let result = loop {
            match read() {
                Err(LinkError::Slow { .. }) if Instant::now() < by => sleep(20 * MS).await,
                other => break other,
            }
        };
        Reply { via: "sim", result }
    }
}
