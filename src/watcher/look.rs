//! One look at a node: its container once, its units once, and whatever else its probes ask.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::time::Instant;

use crate::{
    environment::Environment,
    link::{ExecGate, Link, LinkError, exec::ExecLink},
    node::{Identity, LabelKeys, NodeName, Role, Visibility},
    probe::{
        Ask, CouldNotLook, Finding, Means, Outcome, Probe, Proof, container, find_unit,
        judge_systemd, judge_unit,
    },
    runtime::{Container, Runtime, RuntimeError},
    unit::{SystemdLook, Unit, UnitQuestion},
};

/// For how long after a container's start it is looked at without exec first: an exec before systemd
/// has set up its cgroups can break the node's boot (kind#2409).
const YOUNG: Duration = Duration::from_secs(5);

/// For how long an engine may still call a container running whose processes it has already seen end.
const LAG: Duration = Duration::from_millis(500);

/// What every look needs: the engine, and the server's own settings.
#[derive(Clone)]
pub(crate) struct Sight {
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) gate: Arc<ExecGate>,
    pub(crate) environment: Environment,
    pub(crate) labels: LabelKeys,
    pub(crate) visibility: Visibility,
    pub(crate) journal: bool,
}

impl Sight {
    /// The container that the name means, if there is one that the identity may look at.
    pub(crate) async fn container(
        &self,
        identity: &Identity,
        node: &NodeName,
        by: Instant,
    ) -> Result<Option<Container>, RuntimeError> {
        let found = self.runtime.inspect(node.as_str(), by).await?;
        Ok(found.filter(|container| {
            node.names(&container.id.0, &container.name)
                && self.visibility.allows(identity, &container.labels)
        }))
    }

    /// The role that the container's label gives it; an error is what `container` has to say then.
    pub(crate) fn role(
        &self,
        node: &NodeName,
        container: &Container,
    ) -> Result<Option<Role>, Outcome> {
        let key = &self.labels.role;
        match container.labels.get(key) {
            None => Ok(None),
            Some(value) => value
                .parse()
                .map(Some)
                .map_err(|_| self::container::bad_role(node, key, value)),
        }
    }

    /// Starts a look at a container. All units that these probes need are then asked for at once.
    pub(crate) fn look<'a>(
        &'a self,
        identity: &'a Identity,
        node: &'a NodeName,
        container: Container,
        probes: &[Probe],
        depth: Depth,
        bad_role: Option<Outcome>,
    ) -> Look<'a> {
        let names = |probe: &Probe| match probe.means() {
            Ok(Means::Unit(names) | Means::UnitAnswers(names, _)) => *names,
            Ok(Means::Answers(names, _)) if depth == Depth::Units => *names,
            _ => &[],
        };
        // A set: the same unit is asked for once, and always in the same order.
        let units: BTreeSet<_> = probes.iter().flat_map(names).copied().collect();
        let link = ExecLink::new(
            Arc::clone(&self.runtime),
            Arc::clone(&self.gate),
            self.environment.clone(),
            container.id.clone(),
        );
        Look {
            sight: self,
            identity,
            node,
            container,
            link: Box::new(link),
            question: UnitQuestion {
                units: units.into_iter().collect(),
                journal: self.journal,
            },
            systemd: None,
            depth,
            bad_role,
        }
    }
}

/// How deep a look goes where a service is both a unit and something that answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Depth {
    /// As a probe has it: sshd by its banner.
    Answers,
    /// As a snapshot has it: sshd by its unit.
    Units,
}

/// One look at one node.
pub(crate) struct Look<'a> {
    sight: &'a Sight,
    identity: &'a Identity,
    node: &'a NodeName,
    container: Container,
    link: Box<dyn Link>,
    question: UnitQuestion,
    systemd: Option<Asked>,
    depth: Depth,
    /// What `container` says of a label that names no role, where the label was to say it.
    bad_role: Option<Outcome>,
}

/// What systemd said, and the span of time that it may have been so in.
struct Asked {
    said: Result<SystemdLook, LinkError>,
    span: Span,
}

/// Between these instants something was seen.
pub(crate) type Span = (Instant, Instant);

/// What one probe found, and how the node was reached for it.
pub(crate) struct Found {
    pub(crate) finding: Finding,
    pub(crate) via: &'static str,
    /// When it was so: earlier than the probe ran, where systemd had been asked before.
    pub(crate) span: Span,
    /// The unit behind it as it was then, if there is one.
    pub(crate) unit: Option<Proof>,
}

/// The way of a finding that only asked the engine.
pub(crate) const ENGINE: &str = "engine";

impl Look<'_> {
    /// Runs one probe. Whatever the node keeps back is a finding; whatever kept us from looking is an
    /// error.
    pub(crate) async fn probe(
        &mut self,
        probe: &Probe,
        by: Instant,
    ) -> Result<Found, CouldNotLook> {
        let start = self.now();
        let standing = container::judge(self.node, &self.container);
        if probe.is_container() || !standing.is_passed() {
            let outcome = match &self.bad_role {
                Some(bad_role) if standing.is_passed() => bad_role.clone(),
                _ => standing,
            };
            return Ok(self.found(Finding::Clear(outcome), ENGINE, start));
        }
        let means = match probe.means() {
            Ok(means) => means,
            Err(custom) => {
                let outcome = custom.check(self.node.clone()).await?;
                return Ok(self.found(Finding::Clear(outcome), "", start));
            }
        };
        let via = self.link.via();
        match self.builtin(means, by).await {
            Ok((finding, unit)) => {
                let mut found = self.found(finding, via, start);
                if let (Some(unit), Some(asked)) = (unit, &self.systemd) {
                    found.unit = Some(unit);
                    found.span.0 = asked.span.0;
                    // What systemd alone has said was so when it said it.
                    if matches!(means, Means::Unit(_)) {
                        found.span.1 = asked.span.1;
                    }
                }
                Ok(found)
            }
            Err(LinkError::NotRunning) => self.stopped(by).await,
            Err(error @ (LinkError::Slow { .. } | LinkError::Node(_))) => {
                Ok(self.found(Finding::failed(error.to_string()), via, start))
            }
            Err(error @ (LinkError::Runtime(_) | LinkError::Busy { .. })) => {
                Err(CouldNotLook::new(error.to_string()))
            }
        }
    }

    fn found(&self, finding: Finding, via: &'static str, start: Instant) -> Found {
        Found {
            finding,
            via,
            span: (start, self.now()),
            unit: None,
        }
    }

    fn now(&self) -> Instant {
        self.sight.environment.now()
    }

    /// A built-in probe's finding, and the unit behind it.
    async fn builtin(
        &mut self,
        means: &Means,
        by: Instant,
    ) -> Result<(Finding, Option<Proof>), LinkError> {
        let units_only = self.depth == Depth::Units;
        match means {
            Means::Container => Ok((Finding::passed(), None)),
            Means::Systemd => {
                let look = self.systemd(by).await?;
                Ok((Finding::Clear(judge_systemd(look)), None))
            }
            Means::Unit(names) => self.judged(names, by).await,
            Means::Answers(names, _) if units_only && !names.is_empty() => {
                self.judged(names, by).await
            }
            Means::Answers(_, ask) => Ok((self.answer(ask, by).await?, None)),
            Means::UnitAnswers(names, ask) => {
                let unit = self.unit(names, by).await?.clone();
                let (judged, proof) = (judge_unit(&unit), Some(Proof::of(&unit)));
                // A snapshot has the unit's state of all but those whose answer alone counts.
                let decided = !unit.is_active() && (unit.exists() || !ask.alone);
                if decided || (units_only && !ask.alone) {
                    return Ok((judged, proof));
                }
                match self.answer(ask, by).await? {
                    // A port that accepts may be another's: the unit has to have proved itself, too.
                    Finding::Clear(Outcome::Passed(_)) if !ask.alone => Ok((judged, proof)),
                    answered => Ok((answered, proof)),
                }
            }
        }
    }

    async fn judged(
        &mut self,
        names: &[&str],
        by: Instant,
    ) -> Result<(Finding, Option<Proof>), LinkError> {
        let unit = self.unit(names, by).await?;
        Ok((judge_unit(unit), Some(Proof::of(unit))))
    }

    async fn answer(&self, ask: &Ask, by: Instant) -> Result<Finding, LinkError> {
        self.settled(by).await?;
        let answer = self.link.ask(&ask.question, by).await?;
        Ok((ask.judge)(&answer))
    }

    async fn unit(&mut self, names: &[&str], by: Instant) -> Result<&Unit, LinkError> {
        let look = self.systemd(by).await?;
        find_unit(look, names).ok_or_else(|| {
            LinkError::Node(format!("systemd does not say how {} is", names.join(", ")))
        })
    }

    /// What systemd says; asked once in a look.
    async fn systemd(&mut self, by: Instant) -> Result<&SystemdLook, LinkError> {
        let asked = if let Some(asked) = self.systemd.take() {
            asked
        } else {
            let start = self.now();
            let said = match self.settled(by).await {
                Ok(()) => self.link.systemd(&self.question, by).await,
                Err(error) => Err(error),
            };
            Asked {
                said,
                span: (start, self.now()),
            }
        };
        match &self.systemd.insert(asked).said {
            Ok(look) => Ok(look),
            Err(error) => Err(error.clone()),
        }
    }

    /// Keeps execs out of a container whose systemd has only just started: it starts its first
    /// process once its cgroups are made.
    async fn settled(&self, by: Instant) -> Result<(), LinkError> {
        let age = |start: SystemTime| self.sight.environment.wall().duration_since(start);
        // A start in the future is one by a clock that differs from ours.
        let started = self.container.started_at;
        let young = started.map(|start| age(start).unwrap_or_default());
        if young.is_none_or(|age| age >= YOUNG) {
            return Ok(());
        }
        match self.sight.runtime.processes(&self.container.id, by).await {
            Ok(0 | 1) => Err(LinkError::Node(
                "systemd is only starting: no other process runs in the container yet".to_owned(),
            )),
            Ok(_) => Ok(()),
            Err(RuntimeError::NotRunning { .. }) => Err(LinkError::NotRunning),
            Err(error) => Err(error.into()),
        }
    }

    /// The container stopped running under the look: what it is now decides.
    async fn stopped(&mut self, by: Instant) -> Result<Found, CouldNotLook> {
        let start = self.now();
        let environment = &self.sight.environment;
        let patience = environment.now() + LAG;
        let now = loop {
            let sight = self.sight;
            let now = sight.container(self.identity, self.node, by).await?;
            if environment.now() >= patience || now.as_ref() != Some(&self.container) {
                break now;
            }
            environment.sleep(LAG / 10).await;
        };
        let outcome = self.still(now.as_ref()).err().unwrap_or_else(|| {
            Outcome::failed("the command that looked at the node was killed there")
        });
        if let Some(now) = now.filter(|now| now.id == self.container.id) {
            self.container = now;
        }
        Ok(self.found(Finding::Clear(outcome), ENGINE, start))
    }

    /// Whether what was seen in this look still counts at its end: the same container runs, as it did
    /// at the beginning. An exec goes by the id, and would not notice a restart in between.
    pub(crate) async fn holds(&self, by: Instant) -> Result<Result<(), Outcome>, CouldNotLook> {
        let now = self.sight.container(self.identity, self.node, by).await?;
        Ok(self.still(now.as_ref()))
    }

    /// Whether this is still the run of the container that the look is at; if not, what has become
    /// of it.
    fn still(&self, now: Option<&Container>) -> Result<(), Outcome> {
        let Some(now) = now else {
            return Err(container::missing(self.node, true));
        };
        match container::judge(self.node, now) {
            Outcome::Passed(_) if now.is_same_run(&self.container) => Ok(()),
            Outcome::Passed(_) => Err(Outcome::failed(format!(
                "container {} was started again while it was looked at",
                self.node
            ))),
            outcome => Err(outcome),
        }
    }

    /// When systemd was asked, if it was.
    pub(crate) fn asked(&self) -> Option<Instant> {
        self.systemd.as_ref().map(|asked| asked.span.0)
    }

    /// Lets the units be asked for anew, for a second look.
    pub(crate) fn again(&mut self) {
        self.systemd = None;
    }
}
