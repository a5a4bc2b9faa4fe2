//! The true events of the world, and the history of its nodes.

use super::*;

pub(super) fn unit(kind: &'static str) -> TrueUnit {
    TrueUnit {
        active: "inactive",
        kind,
        pid: 0,
        invocation: 0,
        changed: 1,
        since: Instant::now(),
    }
}

impl World {
    pub(super) fn node(&mut self, name: &str) -> &mut TrueNode {
        self.nodes.get_mut(name).unwrap()
    }

    pub(super) fn create(&mut self, name: &str) {
        self.ids += 1;
        let (ids, tells) = (self.ids, self.random.u8(..4) > 0);
        let restarts = self.random.bool();
        let container = TrueContainer {
            id: ContainerId(format!("{ids:064x}")),
            run: 0,
            state: State::Created,
            restarts,
            created: Instant::now(),
            ended_at: None,
            system: "starting",
            units: BTreeMap::new(),
            rpc: false,
            tells,
            bus: 0,
            ears: Vec::new(),
            last_signal: Instant::now(),
        };
        self.node(name).container = Some(container);
        self.event(name, Action::Create);
    }

    pub(super) fn start(&mut self, name: &str) {
        self.ids += 1;
        let run = self.ids;
        let Some(container) = &mut self.node(name).container else {
            return;
        };
        if matches!(container.state, State::Running | State::Paused) {
            return;
        }
        container.run = run;
        container.state = State::Running;
        container.system = "starting";
        container.rpc = false;
        container.units = [
            ("munge.service", unit("forking")),
            ("slurmctld.service", unit("simple")),
            ("slurmd.service", unit("simple")),
            ("ssh.service", unit("notify")),
        ]
        .into();
        self.event(name, Action::Start);
    }

    pub(super) fn end(&mut self, name: &str, state: State) {
        let Some(container) = &mut self.node(name).container else {
            return;
        };
        if !matches!(container.state, State::Running | State::Paused) {
            return;
        }
        container.state = state;
        container.ended_at = Some(Instant::now());
        let ended = (Instant::now(), container.id.clone());
        if !container.restarts {
            self.node(name).ended.push_back(ended);
        }
        self.hang_up(name);
        self.event(name, Action::Die);
    }

    pub(super) fn destroy(&mut self, name: &str) {
        if self.node(name).container.is_none() {
            return;
        }
        self.end(
            name,
            State::Exited {
                code: 137,
                oom: false,
            },
        );
        self.event(name, Action::Destroy);
        self.node(name).container = None;
        self.note(name);
    }

    pub(super) fn pause(&mut self, name: &str, pause: bool) {
        let Some(container) = &mut self.node(name).container else {
            return;
        };
        let (from, to, action) = if pause {
            (State::Running, State::Paused, Action::Pause)
        } else {
            (State::Paused, State::Running, Action::Unpause)
        };
        if container.state == from {
            container.state = to;
            self.event(name, action);
        }
    }

    pub(super) fn set_unit(&mut self, name: &str, which: &'static str, active: &'static str) {
        let now = Instant::now();
        self.ids += 1;
        let next = self.ids;
        let Some(container) = &mut self.node(name).container else {
            return;
        };
        if container.state != State::Running {
            return;
        }
        let Some(unit) = container.units.get_mut(which) else {
            return;
        };
        let starts = active == "active" && !is_up(unit.active);
        unit.active = active;
        unit.changed = next;
        if starts {
            (unit.pid, unit.invocation, unit.since) = (next as u32, next, now);
        }
        if which == "slurmctld.service" && !is_up(active) {
            container.rpc = false;
        }
        self.signal(name, Some(which));
    }

    pub(super) fn set_system(&mut self, name: &str, system: &'static str) {
        let Some(container) = &mut self.node(name).container else {
            return;
        };
        let told = container.system == "starting";
        if container.state == State::Running && container.system != system && system != "starting" {
            container.system = system;
            if told {
                self.signal(name, None);
            }
            self.note(name);
        }
    }

    /// Sends a signal to the inboxes that listen on the node's bus.
    pub(super) fn signal(&mut self, name: &str, unit: Option<&'static str>) {
        self.note(name);
        let delay = Duration::from_micros(self.random.u64(0..5000));
        let Some(container) = &mut self.node(name).container else {
            return;
        };
        let at = container.last_signal.max(Instant::now() + delay);
        container.last_signal = at;
        let ears = container.ears.clone();
        let signals = self.signals.clone();
        tokio::spawn(async move {
            sleep_until(at).await;
            let number = signals.next();
            for ear in ears.iter().filter_map(Weak::upgrade) {
                match unit {
                    Some(unit) => ear.unit_changed(unit, number),
                    None => ear.systemd_changed(),
                }
            }
        });
    }

    /// Breaks the node's bus. The inboxes that listened learn that signals were lost, and receive
    /// nothing more.
    pub(super) fn hang_up(&mut self, name: &str) {
        let delay = Duration::from_micros(self.random.u64(0..5000));
        let Some(container) = &mut self.node(name).container else {
            return;
        };
        container.bus += 1;
        let ears = std::mem::take(&mut container.ears);
        let at = container.last_signal.max(Instant::now() + delay);
        tokio::spawn(async move {
            sleep_until(at).await;
            ears.iter()
                .filter_map(Weak::upgrade)
                .for_each(|ear| ear.signals_lost());
        });
    }

    pub(super) fn event(&mut self, name: &str, action: Action) {
        self.note(name);
        let Some(container) = &self.nodes[name].container else {
            return;
        };
        self.ids += 1;
        let event = ContainerEvent {
            id: container.id.clone(),
            name: name.to_owned(),
            former_name: None,
            action,
            at: Some(SystemTime::UNIX_EPOCH + Duration::from_nanos(self.ids)),
        };
        self.past.push_back(event.clone());
        if self.past.len() > 256 {
            self.past.pop_front();
        }
        if self.random.u32(0..100) < self.lost {
            self.last_lost = Some(Instant::now());
            return;
        }
        let times = if self.random.u32(0..100) < self.twice {
            2
        } else {
            1
        };
        for _ in 0..times {
            // Events arrive in any order: the first event may arrive last.
            let delay = Duration::from_micros(self.random.u64(0..20_000));
            for subscriber in self.subscribers.clone() {
                let event = event.clone();
                tokio::spawn(async move {
                    sleep(delay).await;
                    let _ = subscriber.send(Ok(event));
                });
            }
        }
    }

    /// Records the state of the node from now on.
    pub(super) fn note(&mut self, name: &str) {
        let now = Instant::now();
        let node = self.node(name);
        let truth = truth(node);
        if node.history.back().is_none_or(|(_, last)| *last != truth) {
            node.history.push_back((now, truth));
        }
        if node.history.len() > 4000 {
            node.history.pop_front();
        }
    }
}

/// Returns whether `systemctl is-active` calls this state active.
pub(super) fn is_up(active: &str) -> bool {
    matches!(active, "active" | "reloading")
}

pub(super) fn truth(node: &TrueNode) -> Truth {
    let Some(container) = &node.container else {
        return Truth {
            up: false,
            system: false,
            rpc: false,
            slurmd_since: None,
            past_help: true,
            may_start_since: None,
        };
    };
    let active = |unit: &str| {
        container
            .units
            .get(unit)
            .is_some_and(|unit| is_up(unit.active))
    };
    let failed = container.units.values().any(|unit| unit.active == "failed");
    let ended = matches!(container.state, State::Exited { .. } | State::Dead);
    Truth {
        up: container.state == State::Running && active("ssh.service") && active("munge.service"),
        system: matches!(container.system, "running" | "degraded"),
        rpc: container.rpc && active("slurmctld.service"),
        slurmd_since: active("slurmd.service").then(|| container.units["slurmd.service"].since),
        past_help: failed || (ended && !container.restarts),
        may_start_since: container.ended_at.filter(|_| ended && container.restarts),
    }
}

impl TrueNode {
    /// Describes the node's latest states, with how long ago each began.
    pub(super) fn of_late(&self) -> String {
        let newest = self.history.iter().rev().take(12);
        let lines = newest.map(|(from, truth)| format!("\n    {:?} ago {truth:?}", from.elapsed()));
        lines.collect()
    }

    /// Returns whether that held at some moment since then.
    pub(super) fn held_since(
        &self,
        then: Instant,
        held: impl Fn(Instant, Instant, &Truth) -> bool,
    ) -> bool {
        let mut until = Instant::now();
        for (from, truth) in self.history.iter().rev() {
            if held((*from).max(then), until, truth) {
                return true;
            }
            until = *from;
            if *from < then {
                return false;
            }
        }
        false
    }

    /// Returns whether trying again could not help at some moment since then. A container that its
    /// policy may start again has to have stayed as it was for a second.
    pub(super) fn was_past_help(&self, then: Instant) -> bool {
        let second = Duration::from_secs(1);
        self.held_since(then, |_, until, truth| {
            let left_so = truth
                .may_start_since
                .is_some_and(|since| until >= since + second);
            truth.past_help || left_so
        })
    }

    /// Returns whether a run ended between these instants that nothing starts again by itself.
    pub(super) fn has_ended(&self, from: Instant, until: Instant) -> bool {
        (self.ended.iter()).any(|(at, _)| (from..=until).contains(at))
    }

    /// Whether that container is there still, and a run of it has ended between these instants that
    /// nothing starts again by itself.
    pub(super) fn has_been_restarted(
        &self,
        id: &ContainerId,
        from: Instant,
        until: Instant,
    ) -> bool {
        let is_there = self.container.as_ref().is_some_and(|now| now.id == *id);
        let ended = |(at, of): &(Instant, ContainerId)| (from..=until).contains(at) && of == id;
        is_there && self.ended.iter().any(ended)
    }

    /// Returns whether the node was ready a moment ago, as far as the probes of its role can tell.
    pub(super) fn was_ready(&self, role: Option<Role>, late: Duration) -> bool {
        let now = Instant::now();
        let start = |late| now.checked_sub(late).unwrap();
        let proven = Duration::from_millis(200);
        if !self.held_since(start(late + UNTOLD), |_, _, truth| truth.system) {
            return false;
        }
        match role {
            Some(Role::Controller) => {
                self.held_since(start(late), |_, _, truth| truth.up)
                    && self.held_since(start(late + UNTOLD), |_, _, truth| truth.rpc)
            }
            Some(Role::Worker) => self.held_since(start(late), |_, until, truth| {
                truth.up
                    && truth
                        .slurmd_since
                        .is_some_and(|since| since + proven <= until)
            }),
            _ => self.held_since(start(late), |_, _, truth| truth.up),
        }
    }
}
