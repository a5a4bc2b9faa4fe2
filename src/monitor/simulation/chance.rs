//! The random events of the simulation.

use super::*;

const UNITS: [&str; 4] = [
    "munge.service",
    "slurmctld.service",
    "slurmd.service",
    "ssh.service",
];

impl World {
    /// Makes one random thing happen.
    pub(super) fn happen(&mut self, faults: bool) {
        let names: Vec<_> = self.nodes.keys().cloned().collect();
        let name = names[self.random.usize(..names.len())].clone();
        let which = UNITS[self.random.usize(..UNITS.len())];
        match self.random.u32(0..100) {
            0..=29 => self.heal(&name),
            30..=39 => {
                let actives = [
                    "active",
                    "active",
                    "inactive",
                    "activating",
                    "failed",
                    "reloading",
                ];
                let active = actives[self.random.usize(..actives.len())];
                self.set_unit(&name, which, active);
            }
            // The unit fails and starts again, as with `Restart=`.
            40..=45 => {
                self.set_unit(&name, which, "failed");
                self.set_unit(&name, which, "activating");
                self.set_unit(&name, which, "active");
            }
            46..=50 => {
                let systems = ["running", "degraded", "maintenance"];
                let system = systems[self.random.usize(..systems.len())];
                self.set_system(&name, system);
            }
            51..=56 => {
                if let Some(container) = &mut self.node(&name).container {
                    container.rpc = !container.rpc;
                }
                self.note(&name);
            }
            57..=60 => self.pause(&name, true),
            61..=66 => self.pause(&name, false),
            67..=69 => {
                let code = i64::from(self.random.u8(..));
                self.end(&name, State::Exited { code, oom: false });
            }
            70..=71 => {
                // The container starts again by its policy, or as after `docker restart`, where its
                // end is over at once.
                let restarts = self.node(&name).container.as_ref();
                let state = if restarts.is_some_and(|now| now.restarts) {
                    State::Restarting
                } else {
                    State::Exited {
                        code: 0,
                        oom: false,
                    }
                };
                self.end(&name, state);
                self.start(&name);
            }
            72..=73 => {
                self.destroy(&name);
                if self.random.bool() {
                    self.create(&name);
                    self.start(&name);
                }
            }
            74..=76 => self.start(&name),
            77..=79 => self.set_unit(&name, "slurmd.service", "active"),
            80..=82 => self.hang_up(&name),
            _ if !faults => {}
            83..=85 => self.subscribers.clear(),
            86 => {
                self.outage = true;
                self.subscribers.clear();
            }
            87..=90 => self.outage = false,
            91 => self.lost = 30,
            92..=93 => self.lost = 0,
            94 => self.twice = 50,
            95 => self.twice = 0,
            96 => self.latency = 1500 * MS,
            _ => {
                if self.latency > MS {
                    self.slow = Some(Instant::now());
                }
                self.latency = MS;
            }
        }
    }

    /// Returns how much later than usual a reply may be.
    pub(super) fn slowness(&self) -> Duration {
        let of_late = |slow: Instant| slow.elapsed() < Duration::from_secs(12);
        if self.latency > MS || self.slow.is_some_and(of_late) {
            Duration::from_secs(6)
        } else {
            4 * MS
        }
    }

    /// Puts everything of a node in order.
    pub(super) fn heal(&mut self, name: &str) {
        if self.node(name).container.is_none() {
            self.create(name);
        }
        self.pause(name, false);
        self.start(name);
        for unit in UNITS {
            let active = self.node(name).container.as_ref();
            let active = active
                .and_then(|now| now.units.get(unit))
                .map(|unit| unit.active);
            if active != Some("active") {
                self.set_unit(name, unit, "active");
            }
        }
        self.set_system(name, "running");
        if let Some(container) = &mut self.node(name).container {
            container.rpc = container.state == State::Running;
        }
        self.note(name);
    }
}
