//! One look at a node: its container once, its units once, and whatever else its probes ask.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    environment::Environment,
    link::{HOST, Handy, Lease, LinkError, Links, Told},
    node::{Identity, LabelKeys, NodeName, Role, Visibility},
    probe::{
        Ask, CouldNotLook, Finding, Means, Outcome, Probe, Proof, Understood, container, find_unit,
        judge_systemd, judge_unit,
    },
    question::{Answer, Question},
    runtime::{CALL_LIMIT, Container, Runtime, RuntimeError},
    unit::{SystemdLook, Unit, UnitQuestion},
};

/// How often the container is looked at while something in it is slow to answer.
const STILL_RUNNING: Duration = Duration::from_millis(500);

/// For how long an engine may still call a container running whose processes it has already seen end.
const LAG: Duration = Duration::from_millis(500);

/// What every look needs: the engine, and the server's own settings.
#[derive(Clone)]
pub(crate) struct Sight {
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) links: Links,
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
            Ok(Means::Answers(names, _)) if depth != Depth::Check => *names,
            _ => &[],
        };
        // A set: the same unit is asked for once, and always in the same order.
        let units: BTreeSet<_> = probes.iter().flat_map(names).copied().collect();
        let link = self.links.lease(&container);
        // What is told of now alone asks for less; but whose answer stands in for another's
        // has to be told apart from the one that was started before.
        let stands_in = |probe: &Probe| match probe.means() {
            Ok(Means::UnitAnswers(names, ask)) => ask
                .first
                .as_ref()
                .filter(|first| link.handy(first.name) != Handy::Works)
                .map_or(&[][..], |_| names),
            _ => &[],
        };
        let proofs = match depth {
            Depth::Wait => units.iter().copied().collect(),
            Depth::Check | Depth::Snapshot => probes.iter().flat_map(stands_in).copied().collect(),
        };
        Look {
            sight: self,
            identity,
            node,
            container,
            link,
            question: UnitQuestion {
                units: units.into_iter().collect(),
                proofs,
                journal: self.journal,
            },
            systemd: None,
            depth,
            bad_role,
        }
    }
}

/// How deep a look goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Depth {
    /// As a wait has it: an active unit has to have proved itself, and sshd to have sent its banner.
    Wait,
    /// What is now: sshd by its banner.
    Check,
    /// What is now, of units alone: sshd by its unit.
    Snapshot,
}

/// One look at one node.
pub(crate) struct Look<'a> {
    sight: &'a Sight,
    identity: &'a Identity,
    node: &'a NodeName,
    container: Container,
    link: Lease,
    question: UnitQuestion,
    systemd: Option<Asked>,
    depth: Depth,
    /// What `container` says of a label that names no role, where the label was to say it.
    bad_role: Option<Outcome>,
}

/// What systemd said, and the span of time that it may have been so in.
struct Asked {
    told: Told<SystemdLook>,
    span: Span,
}

/// Between these instants something was seen.
pub(crate) type Span = (Instant, Instant);

/// What one probe found, and how the node was reached for it.
#[derive(Debug, Clone)]
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

/// What a built-in probe saw, the unit behind it, and how.
struct Seen {
    finding: Finding,
    unit: Option<Proof>,
    via: &'static str,
}

impl Seen {
    fn clear(via: &'static str, outcome: Outcome) -> Self {
        Self {
            finding: Finding::Clear(outcome),
            unit: None,
            via,
        }
    }
}

/// Why a built-in probe saw nothing, and which way it was on.
struct Miss {
    via: &'static str,
    error: LinkError,
}

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
        let trouble = Mutex::new(None);
        let ceases = ceases(
            self.sight,
            self.identity,
            self.node,
            self.container.clone(),
            &trouble,
        );
        let looked = tokio::select! {
            looked = self.builtin(means, by) => looked,
            () = ceases => Err(Miss { via: ENGINE, error: LinkError::NotRunning }),
        };
        let Miss { via, error } = match looked {
            Ok(seen) => return Ok(self.seen(means, seen, start)),
            Err(miss) => miss,
        };
        // What is late while the engine does not answer is not the node's fault.
        let trouble = trouble.into_inner().unwrap_or_else(PoisonError::into_inner);
        match (error, trouble) {
            (LinkError::NotRunning, _) => {
                let ended = self.ended(start, by).await?;
                let killed = "the way into the node ended in the node";
                Ok(ended.unwrap_or_else(|| self.found(Finding::failed(killed), via, start)))
            }
            // What broke may have done so because the container ended.
            (error @ (LinkError::Broken(_) | LinkError::Runtime(RuntimeError::Lost { .. })), _) => {
                match self.ended(start, by).await? {
                    Some(ended) => Ok(ended),
                    None => Err(CouldNotLook::new(error.to_string())),
                }
            }
            (LinkError::Slow { .. }, Some(trouble)) => Err(trouble),
            // Nor is what went through an engine that has just stopped answering.
            (error @ LinkError::Slow { .. }, None) if via != HOST => {
                let soon = self.now() + CALL_LIMIT;
                self.sight.container(self.identity, self.node, soon).await?;
                Ok(self.found(Finding::failed(error.to_string()), via, start))
            }
            (error @ (LinkError::Slow { .. } | LinkError::Node(_) | LinkError::NoBus(_)), _) => {
                Ok(self.found(Finding::failed(error.to_string()), via, start))
            }
            (
                error @ (LinkError::Runtime(_) | LinkError::Busy { .. } | LinkError::Unusable(_)),
                _,
            ) => Err(CouldNotLook::new(error.to_string())),
        }
    }

    /// A finding with the time that it is of: where systemd had been asked before, of then.
    fn seen(&self, means: &Means, seen: Seen, start: Instant) -> Found {
        let Seen { finding, unit, via } = seen;
        let mut found = self.found(finding, via, start);
        if let (Some(unit), Some(asked)) = (unit, &self.systemd) {
            found.unit = Some(unit);
            found.span.0 = asked.span.0;
            // What systemd alone has said was so when it said it.
            if matches!(means, Means::Unit(_)) {
                found.span.1 = asked.span.1;
            }
        }
        found
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

    /// What a built-in probe sees.
    async fn builtin(&mut self, means: &Means, by: Instant) -> Result<Seen, Miss> {
        let units_only = self.depth == Depth::Snapshot;
        match means {
            Means::Container => Ok(Seen::clear(ENGINE, Outcome::passed())),
            Means::Systemd => {
                let (via, look) = self.systemd(by).await?;
                Ok(Seen::clear(via, judge_systemd(look)))
            }
            Means::Unit(names) => self.judged(names, by).await,
            Means::Answers(names, _) if units_only && !names.is_empty() => {
                self.judged(names, by).await
            }
            Means::Answers(_, ask) => self.answer(ask, None, by).await,
            Means::UnitAnswers(names, ask) => {
                let (via, unit) = self.unit(names, by).await?;
                let unit = unit.clone();
                let (finding, proof) = (judge_unit(&unit), Some(Proof::of(&unit)));
                let judged = Seen {
                    finding,
                    unit: proof,
                    via,
                };
                // A snapshot has the unit's state of all but those whose answer alone counts.
                let decided = !unit.is_active() && (unit.exists() || !ask.alone);
                if decided || (units_only && !ask.alone) {
                    return Ok(judged);
                }
                let answered = self.answer(ask, Some(&unit), by).await?;
                match answered.finding {
                    // A port that accepts may be another's: the unit has to have proved itself, too.
                    Finding::Clear(Outcome::Passed(_)) if !ask.alone => Ok(judged),
                    _ => Ok(Seen {
                        unit: judged.unit,
                        ..answered
                    }),
                }
            }
        }
    }

    async fn judged(&mut self, names: &[&str], by: Instant) -> Result<Seen, Miss> {
        let (via, unit) = self.unit(names, by).await?;
        Ok(Seen {
            finding: judge_unit(unit),
            unit: Some(Proof::of(unit)),
            via,
        })
    }

    /// The answer to a question, or to the one that stands in for it where the node understands it.
    async fn answer(&self, ask: &Ask, unit: Option<&Unit>, by: Instant) -> Result<Seen, Miss> {
        let Some(first) = &ask.first else {
            return self.asked_for(&ask.question, ask.judge, by).await;
        };
        let start = unit.map(|unit| unit.invocation.clone()).unwrap_or_default();
        let useless = |surely| Handy::Useless {
            start: start.clone(),
            surely,
        };
        let known = self.link.handy(first.name);
        let mut understood = Understood::No;
        if known != useless(true) && self.shared_network(&first.question).is_none() {
            let Told { via, said } = self.link.ask(&first.question, by).await;
            understood = match said {
                Ok(answer) => (first.judge)(&answer),
                Err(_) => Understood::Perhaps,
            };
            if let Understood::Yes(finding) = understood {
                self.link.remember(first.name, Handy::Works);
                return Ok(Seen {
                    finding,
                    unit: None,
                    via,
                });
            }
        }
        let seen = self.asked_for(&ask.question, ask.judge, by).await?;
        // What does not understand while it starts may later: only one that serves is known not to.
        let serves = matches!(seen.finding, Finding::Clear(Outcome::Passed(_)));
        if serves && understood == Understood::No && !start.is_empty() {
            let surely = known == useless(false) || known == useless(true);
            self.link.remember(first.name, useless(surely));
        }
        Ok(seen)
    }

    async fn asked_for(
        &self,
        question: &Question,
        judge: fn(&Answer) -> Finding,
        by: Instant,
    ) -> Result<Seen, Miss> {
        if let Some(why) = self.shared_network(question) {
            return Ok(Seen::clear(ENGINE, why));
        }
        let Told { via, said } = self.link.ask(question, by).await;
        match said {
            Ok(answer) => Ok(Seen {
                finding: judge(&answer),
                unit: None,
                via,
            }),
            Err(error) => Err(Miss { via, error }),
        }
    }

    /// Why a port of this node proves nothing, if the question is about one.
    fn shared_network(&self, question: &Question) -> Option<Outcome> {
        container::shared_port(self.node, &self.container, question.port()?)
    }

    async fn unit(&mut self, names: &[&str], by: Instant) -> Result<(&'static str, &Unit), Miss> {
        let (via, look) = self.systemd(by).await?;
        let unit = find_unit(look, names).ok_or_else(|| Miss {
            via,
            error: LinkError::Node(format!("systemd does not say how {} is", names.join(", "))),
        })?;
        Ok((via, unit))
    }

    /// What systemd says; asked once in a look.
    async fn systemd(&mut self, by: Instant) -> Result<(&'static str, &SystemdLook), Miss> {
        let asked = if let Some(asked) = self.systemd.take() {
            asked
        } else {
            let start = self.now();
            let told = self.link.systemd(&self.question, by).await;
            Asked {
                told,
                span: (start, self.now()),
            }
        };
        let Told { via, said } = &self.systemd.insert(asked).told;
        match said {
            Ok(look) => Ok((via, look)),
            Err(error) => Err(Miss {
                via,
                error: error.clone(),
            }),
        }
    }

    /// What the container is now, if it is seen to have stopped running under the look.
    async fn ended(&mut self, start: Instant, by: Instant) -> Result<Option<Found>, CouldNotLook> {
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
        let Err(outcome) = self.still(now.as_ref()) else {
            return Ok(None);
        };
        if let Some(now) = now.filter(|now| now.id == self.container.id) {
            self.container = now;
        }
        Ok(Some(self.found(Finding::Clear(outcome), ENGINE, start)))
    }

    /// Whether what was seen in this look still counts at its end: the same container runs, as it did
    /// at the beginning. An exec goes by the id, and would not notice a restart in between.
    pub(crate) async fn holds(&self, by: Instant) -> Result<Result<(), Outcome>, CouldNotLook> {
        let now = self.sight.container(self.identity, self.node, by).await?;
        Ok(self.still(now.as_ref()))
    }

    fn still(&self, now: Option<&Container>) -> Result<(), Outcome> {
        still(self.node, &self.container, now)
    }

    /// The unit behind a probe that goes by an answer alone, if this look has seen it active.
    pub(crate) fn behind(&self, probe: &Probe) -> Option<Proof> {
        let Ok(Means::Answers(names, _)) = probe.means() else {
            return None;
        };
        let look = self.systemd.as_ref()?.told.said.as_ref().ok()?;
        let unit = find_unit(look, names).filter(|unit| unit.is_active())?;
        Some(Proof::of(unit))
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

/// Whether this is still the run of the container that the look is at; if not, what has become of it.
fn still(node: &NodeName, seen: &Container, now: Option<&Container>) -> Result<(), Outcome> {
    let Some(now) = now else {
        return Err(container::missing(node, true));
    };
    match container::judge(node, now) {
        Outcome::Passed(_) if now.is_same_run(seen) => Ok(()),
        Outcome::Passed(_) => Err(Outcome::failed(format!(
            "container {node} was started again while it was looked at"
        ))),
        outcome => Err(outcome),
    }
}

/// Completes once the container is seen not to run any more: a paused one would never answer. Leaves
/// what kept us last from seeing it.
async fn ceases(
    sight: &Sight,
    identity: &Identity,
    node: &NodeName,
    seen: Container,
    trouble: &Mutex<Option<CouldNotLook>>,
) {
    let environment = &sight.environment;
    loop {
        environment.sleep(STILL_RUNNING).await;
        let by = environment.now() + CALL_LIMIT;
        let now = sight.container(identity, node, by).await;
        let mut trouble = trouble.lock().unwrap_or_else(PoisonError::into_inner);
        match now {
            Ok(now) if still(node, &seen, now.as_ref()).is_ok() => *trouble = None,
            Ok(_) => return,
            Err(error) => *trouble = Some(error.into()),
        }
    }
}
