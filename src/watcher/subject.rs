//! One run of one node's container: what can be asked of it, and what it means that there is no
//! answer.
//!
//! Here the difference is made between what the node keeps back ([`Trouble::Failed`]), what we or the
//! engine could not look at ([`Trouble::Unknown`]), and a container that ended under the question
//! ([`Trouble::Ended`]).

use std::{
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::FutureExt as _;
use tokio::time::Instant;

use super::sight::Sight;
use crate::{
    event::Doubts,
    link::{HOST, Handy, Lease, LinkError, Told},
    node::{Identity, NodeName},
    probe::{Ask, CouldNotLook, Finding, First, Outcome, Probe, Understood, container},
    question::{Answer, Question},
    runtime::{CALL_LIMIT, Container, RuntimeError},
    text::Reason,
    unit::{SystemdLook, Unit, UnitQuestion},
};

/// How often the container is looked at while something in it is slow to answer.
const STILL_RUNNING: Duration = Duration::from_millis(500);

/// For how long an engine may still call a container running whose processes it has already seen end.
const LAG: Duration = Duration::from_millis(500);

/// The way of a finding that only asked the engine.
pub(crate) const ENGINE: &str = "engine";

/// Between these instants something was seen.
pub(crate) type Span = (Instant, Instant);

/// A run of a node's container, and the way into it.
pub(crate) struct Subject {
    pub(super) sight: Arc<Sight>,
    pub(super) identity: Identity,
    pub(super) node: NodeName,
    pub(super) container: Container,
    link: Lease,
}

/// What systemd said.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) via: &'static str,
    pub(super) said: Result<SystemdLook, Trouble>,
    pub(super) span: Span,
}

/// What a port, a command or a check of one's own said, and what it means.
#[derive(Debug, Clone)]
pub(super) struct Answered {
    pub(super) via: &'static str,
    pub(super) said: Result<Finding, Trouble>,
    pub(super) span: Span,
}

/// Why there is no answer.
#[derive(Debug, Clone)]
pub(super) enum Trouble {
    /// The node keeps it back.
    Failed(Reason),
    /// It could not be looked at.
    Unknown(CouldNotLook),
    /// The container is no longer the run that was asked, or does not run any more: what has become
    /// of it, and the container as it is now.
    Ended(Outcome, Option<Box<Container>>),
}

impl Trouble {
    fn failed(why: impl AsRef<str>) -> Self {
        Self::Failed(Reason::new(why))
    }

    fn unknown(error: &LinkError) -> Self {
        Self::Unknown(CouldNotLook::new(error.to_string()))
    }
}

impl From<RuntimeError> for Trouble {
    fn from(error: RuntimeError) -> Self {
        Self::Unknown(error.into())
    }
}

impl Subject {
    pub(super) fn new(
        sight: Arc<Sight>,
        identity: Identity,
        node: NodeName,
        container: Container,
    ) -> Self {
        Self {
            link: sight.links.lease(&container),
            sight,
            identity,
            node,
            container,
        }
    }

    /// Asks systemd; whoever listens is told of changes since.
    pub(super) async fn systemd(
        &self,
        question: &UnitQuestion,
        listener: Option<&Arc<Doubts>>,
        by: Instant,
    ) -> Asked {
        let start = self.now();
        let asked = self.link.systemd(question, listener, by);
        let (via, said) = self.guarded(asked, by).await;
        let span = (start, self.now());
        Asked { via, said, span }
    }

    /// Asks a question, or the one that stands in for it where the node understands it, and judges
    /// the answer. The unit is the one behind the question, if there is one.
    pub(super) async fn answer(&self, ask: &Ask, unit: Option<&Unit>, by: Instant) -> Answered {
        let start = self.now();
        if let Some(why) = self.shared_network(&ask.question) {
            return Answered {
                via: ENGINE,
                said: Ok(Finding::Clear(why)),
                span: (start, start),
            };
        }
        let (via, said) = self.guarded(self.answered(ask, unit, by), by).await;
        let span = (start, self.now());
        Answered { via, said, span }
    }

    /// Runs a check of the caller's own.
    pub(super) async fn check(&self, probe: &Probe) -> Answered {
        let start = self.now();
        let said = match probe.means() {
            Ok(_) => Ok(Finding::passed()),
            // A check of somebody's own that panics is their trouble alone.
            Err(custom) => {
                let check = async { custom.check(self.node.clone()).await };
                if let Ok(checked) = AssertUnwindSafe(check).catch_unwind().await {
                    checked.map(Finding::Clear).map_err(Trouble::Unknown)
                } else {
                    let why = format!("the check {} has panicked", probe.name());
                    Err(Trouble::Unknown(CouldNotLook::new(why)))
                }
            }
        };
        let span = (start, self.now());
        Answered {
            via: "",
            said,
            span,
        }
    }

    /// The way into the node has told less than was seen: it is made anew.
    pub(super) fn renew_link(&self) {
        self.link.renew();
    }

    /// Whether the question that stands in for another is known to be understood.
    pub(super) fn understands(&self, first: &First) -> bool {
        self.link.handy(first.name) == Handy::Works
    }

    /// Asks only the question that stands in for another; none where it is not understood.
    pub(super) async fn first(&self, first: &First, by: Instant) -> Option<Answered> {
        let start = self.now();
        if self.shared_network(&first.question).is_some() {
            return None;
        }
        let Told { via, said } = self.link.ask(&first.question, by).await;
        match (first.judge)(&said.ok()?) {
            Understood::Yes(finding) => Some(Answered {
                via,
                said: Ok(finding),
                span: (start, self.now()),
            }),
            Understood::Perhaps | Understood::No => None,
        }
    }

    async fn answered(&self, ask: &Ask, unit: Option<&Unit>, by: Instant) -> Told<Finding> {
        let Some(first) = &ask.first else {
            return self.judged(ask, by).await;
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
                let said = Ok(finding);
                return Told { via, said };
            }
        }
        let told = self.judged(ask, by).await;
        // What does not understand while it starts may later: only one that serves is known not to.
        let serves = matches!(told.said, Ok(Finding::Clear(Outcome::Passed(_))));
        if serves && understood == Understood::No && !start.is_empty() {
            let surely = known == useless(false) || known == useless(true);
            self.link.remember(first.name, useless(surely));
        }
        told
    }

    async fn judged(&self, ask: &Ask, by: Instant) -> Told<Finding> {
        let Told { via, said } = self.link.ask(&ask.question, by).await;
        let judge = |answer: Answer| (ask.judge)(&answer);
        Told {
            via,
            said: said.map(judge),
        }
    }

    /// Why a port of this node proves nothing, if the question is about one.
    fn shared_network(&self, question: &Question) -> Option<Outcome> {
        container::shared_port(&self.node, &self.container, question.port()?)
    }

    /// Waits for an answer for as long as the container runs, and tells what it means if there is
    /// none.
    async fn guarded<T>(
        &self,
        asking: impl Future<Output = Told<T>>,
        by: Instant,
    ) -> (&'static str, Result<T, Trouble>) {
        let trouble = Mutex::new(None);
        let told = tokio::select! {
            biased;
            told = asking => told,
            () = self.ceases(&trouble) => Told { via: ENGINE, said: Err(LinkError::NotRunning) },
        };
        let via = told.via;
        let error = match told.said {
            Ok(said) => return (via, Ok(said)),
            Err(error) => error,
        };
        let trouble = trouble.into_inner().unwrap_or_else(PoisonError::into_inner);
        let explained = self.explain(error, via, trouble, by).await;
        (via, Err(explained))
    }

    async fn explain(
        &self,
        error: LinkError,
        via: &'static str,
        trouble: Option<CouldNotLook>,
        by: Instant,
    ) -> Trouble {
        match (error, trouble) {
            (LinkError::NotRunning, _) => match self.ended(by).await {
                Ok(Some(ended)) => ended,
                Ok(None) => Trouble::failed("the way into the node ended in the node"),
                Err(trouble) => trouble,
            },
            // What broke may have done so because the container ended.
            (error @ (LinkError::Broken(_) | LinkError::Runtime(RuntimeError::Lost { .. })), _) => {
                match self.ended(by).await {
                    Ok(Some(ended)) => ended,
                    Ok(None) => Trouble::unknown(&error),
                    Err(trouble) => trouble,
                }
            }
            // What is late while the engine does not answer is not the node's fault.
            (LinkError::Slow { .. }, Some(trouble)) => Trouble::Unknown(trouble),
            // Nor is what went through an engine that has just stopped answering.
            (error @ LinkError::Slow { .. }, None) if via != HOST => {
                let soon = self.now() + CALL_LIMIT;
                match self.inspect(soon).await {
                    Ok(_) => Trouble::failed(error.to_string()),
                    Err(error) => error.into(),
                }
            }
            (error @ (LinkError::Slow { .. } | LinkError::Node(_) | LinkError::NoBus(_)), _) => {
                Trouble::failed(error.to_string())
            }
            (
                error @ (LinkError::Runtime(_) | LinkError::Busy { .. } | LinkError::Unusable(_)),
                _,
            ) => Trouble::unknown(&error),
        }
    }

    /// What the container is now, if it is seen to have stopped running under the question.
    async fn ended(&self, by: Instant) -> Result<Option<Trouble>, Trouble> {
        let environment = &self.sight.environment;
        let patience = environment.now() + LAG;
        let now = loop {
            let now = self.inspect(by).await?;
            if environment.now() >= patience || now.as_ref() != Some(&self.container) {
                break now;
            }
            environment.sleep(LAG / 10).await;
        };
        Ok(self.still(now.as_ref()).err().map(|outcome| {
            let same = now.filter(|now| now.id == self.container.id);
            Trouble::Ended(outcome, same.map(Box::new))
        }))
    }

    /// Completes once the container is seen not to run any more: a paused one would never answer.
    /// Leaves what kept us last from seeing it.
    async fn ceases(&self, trouble: &Mutex<Option<CouldNotLook>>) {
        let environment = &self.sight.environment;
        loop {
            environment.sleep(STILL_RUNNING).await;
            let now = self.inspect(environment.now() + CALL_LIMIT).await;
            let mut trouble = trouble.lock().unwrap_or_else(PoisonError::into_inner);
            match now {
                Ok(now) if self.still(now.as_ref()).is_ok() => *trouble = None,
                Ok(_) => return,
                Err(error) => *trouble = Some(error.into()),
            }
        }
    }

    async fn inspect(&self, by: Instant) -> Result<Option<Container>, RuntimeError> {
        self.sight.container(&self.identity, &self.node, by).await
    }

    /// Whether this is still the run that was asked, and runs; if not, what has become of it.
    fn still(&self, now: Option<&Container>) -> Result<(), Outcome> {
        let node = &self.node;
        let Some(now) = now else {
            return Err(container::missing(node, true));
        };
        match container::judge(node, now) {
            Outcome::Passed(_) if now.is_same_run(&self.container) => Ok(()),
            Outcome::Passed(_) => Err(Outcome::failed(format!(
                "container {node} was started again while it was looked at"
            ))),
            outcome => Err(outcome),
        }
    }

    fn now(&self) -> Instant {
        self.sight.environment.now()
    }
}
