//! The clients of the simulation, which wait and compare the events with the truth.

use super::*;

/// Follows a wait, and compares its events with the truth.
pub(super) async fn follow(sim: Sim, monitor: Monitor, request: WaitRequest) {
    let started = Instant::now();
    let policy = request.failure_policy;
    let stable_for = request.stable_for;
    let targets = request.nodes.clone();
    sim.world().waits += 1;
    let mut wait = monitor.wait(&Identity::Local, request);
    let mut first = true;
    // Since when the wait has seen each node's container run.
    let mut alive = BTreeMap::new();
    while let Some(event) = wait.next().await {
        let mut world = sim.world();
        let slow = world.slowness();
        if first {
            first = false;
            let took = started.elapsed();
            if took > 1100 * MS + slow {
                world
                    .violations
                    .push(format!("the first message took {took:?}"));
            }
        }
        match event {
            WaitEvent::Node(report) => {
                // The first report may contain what the watcher saw for other waits. Soon the wait
                // has a look of its own.
                let has_looked = started.elapsed() > LATE + slow && !world.was_out_since(started);
                if report.probes[0].result.is_passed() && has_looked {
                    let now = Instant::now();
                    alive.entry(report.node.clone()).or_insert(now);
                }
                if let NodeState::Terminal(reason) = &report.state
                    && policy == FailurePolicy::KeepWaiting
                {
                    world
                        .violations
                        .push(format!("terminal in spite of its policy: {reason}"));
                }
            }
            WaitEvent::Result(result) => {
                let said = format!("{:?} {}", result.verdict, result.message);
                let verdict = match result.verdict {
                    Verdict::Ready => "ready",
                    Verdict::Terminal => "terminal",
                    Verdict::TimedOut => "timed out",
                };
                *world.verdicts.entry(verdict).or_default() += 1;
                if result.verdict == Verdict::Ready && policy == FailurePolicy::Stop {
                    world.judge_runs(&said, &alive, slow);
                }
                world.judge(result.verdict, &said, &targets, stable_for, started);
            }
        }
    }
    sim.world().waits -= 1;
}

impl World {
    /// Checks that no run that the wait had seen has ended. Such an end also ends the wait,
    /// whatever comes after it.
    fn judge_runs(&mut self, said: &str, alive: &BTreeMap<NodeName, Instant>, slow: Duration) {
        let until = Instant::now().checked_sub(LATE + slow).unwrap();
        for (name, seen) in alive {
            let node = &self.nodes[name.as_str()];
            if node.has_been_restarted(*seen, until) {
                let wrong = format!("{said}: {name} was restarted meanwhile");
                self.violations.push(wrong);
            }
        }
    }

    pub(super) fn judge(
        &mut self,
        verdict: Verdict,
        said: &str,
        targets: &[WaitTarget],
        stable_for: Duration,
        started: Instant,
    ) {
        let mut wrong = Vec::new();
        let slow = self.slowness();
        match verdict {
            Verdict::Ready => {
                for target in targets {
                    let node = &self.nodes[target.node.as_str()];
                    let untold = node.container.as_ref().is_none_or(|now| !now.tells);
                    let late = if untold { LATE + UNTOLD } else { LATE };
                    if !node.was_ready(target.role, late + slow) {
                        wrong.push(format!("{} was not ready: {}", target.node, node.of_late()));
                    }
                    // The wait would have seen any moment of the window in which the node was not
                    // up for long enough.
                    let undone = |from: Instant, until: Instant, truth: &Truth| {
                        !truth.up && until.saturating_duration_since(from) > LATE + UNTOLD
                    };
                    let now = Instant::now();
                    if let Some(start) = now.checked_sub(stable_for)
                        && !stable_for.is_zero()
                        && slow < MS * 10
                        && node.held_since(start, undone)
                    {
                        wrong.push(format!(
                            "{} did not stay ready: {}",
                            target.node,
                            node.of_late()
                        ));
                    }
                }
                if started.elapsed() < stable_for {
                    wrong.push("ready before it could be stable".to_owned());
                }
            }
            Verdict::Terminal => {
                let late = LATE + UNTOLD + slow;
                let start = Instant::now().checked_sub(late).unwrap();
                let past_help = targets.iter().any(|target| {
                    let node = &self.nodes[target.node.as_str()];
                    node.was_past_help(start) || node.has_ended(started, Instant::now())
                });
                if !past_help {
                    let nodes = targets
                        .iter()
                        .map(|target| &self.nodes[target.node.as_str()]);
                    let of_late: Vec<_> = nodes.map(TrueNode::of_late).collect();
                    wrong.push(format!("no node was past help: {}", of_late.concat()));
                }
            }
            Verdict::TimedOut => {
                let named = |target: &WaitTarget| said.contains(&format!("{}: ", target.node));
                if !targets.iter().any(named) {
                    wrong.push("no node is named".to_owned());
                }
            }
        }
        for wrong in wrong {
            self.violations.push(format!("{said}: {wrong}"));
        }
    }

    pub(super) fn request(&mut self) -> WaitRequest {
        let mut nodes: Vec<_> = self
            .nodes
            .iter()
            .map(|(name, node)| (name.clone(), node.role))
            .collect();
        let count = self.random.usize(1..=nodes.len());
        self.random.shuffle(&mut nodes);
        nodes.truncate(count);
        let target = |(name, role): (String, Option<Role>)| WaitTarget {
            node: name.parse().unwrap(),
            role,
        };
        WaitRequest {
            nodes: nodes.into_iter().map(target).collect(),
            limit: Some(Duration::from_millis(self.random.u64(50..60_000))),
            poll_interval: [Duration::ZERO, 100 * MS, 1000 * MS][self.random.usize(..3)],
            stable_for: [Duration::ZERO, Duration::ZERO, 300 * MS, 3000 * MS]
                [self.random.usize(..4)],
            failure_policy: if self.random.bool() {
                FailurePolicy::Stop
            } else {
                FailurePolicy::KeepWaiting
            },
            ..WaitRequest::default()
        }
    }
}
