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
                if report.probes[0].result.is_passed()
                    && let Some(id) = world.surely_seen(report.node.as_str(), started)
                {
                    let now = Instant::now();
                    let seen = alive
                        .entry(report.node.clone())
                        .or_insert((now, id.clone()));
                    if seen.1 != id {
                        *seen = (now, id);
                    }
                }
                if let NodeState::Terminal(reason) = &report.state
                    && policy == FailurePolicy::KeepWaiting
                {
                    world
                        .violations
                        .push(format!("terminal in spite of its policy: {reason}"));
                }
            }
            WaitEvent::Removed(_) | WaitEvent::Cluster(_) => {
                world
                    .violations
                    .push("a wait for nodes tells of a cluster".to_owned());
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
    /// The container that a report of a running one is about, where that is certain: nothing is lost in
    /// this world, the wait has had the time to look for itself, and the container is no new one.
    fn surely_seen(&self, name: &str, started: Instant) -> Option<ContainerId> {
        let container = self.nodes[name].container.as_ref()?;
        let long_enough = |since: Instant| since.elapsed() > LATE + self.slowness();
        let certain = !self.faults && long_enough(started) && long_enough(container.created);
        certain.then(|| container.id.clone())
    }

    /// Checks that no run that the wait had seen has ended. Such an end also ends the wait,
    /// whatever comes after it.
    fn judge_runs(
        &mut self,
        said: &str,
        alive: &BTreeMap<NodeName, (Instant, ContainerId)>,
        slow: Duration,
    ) {
        let until = Instant::now().checked_sub(LATE + slow).unwrap();
        for (name, (seen, id)) in alive {
            let node = &self.nodes[name.as_str()];
            if node.has_been_restarted(id, *seen, until) {
                let of_late = node.of_late();
                let ago = node.ended.iter().rev().take(3).map(|(at, _)| at.elapsed());
                let ago: Vec<_> = ago.collect();
                let wrong = format!(
                    "{said}: {name} was restarted meanwhile: seen {:?} ago, runs ended {ago:?} ago: {of_late}",
                    seen.elapsed()
                );
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
                        && self.last_lost.is_none_or(|lost| lost < start)
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
            profile: None,
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
