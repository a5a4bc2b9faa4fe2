//! What following a node needs beside the node: the engine, the links, and the server's settings.

use std::sync::Arc;

use tokio::time::Instant;

use super::{
    last_words::{LAST_WORDS, LastWords},
    schedule::{ENGINE_CALLS, Turns},
};
use crate::{
    container::{Container, State},
    engine::{ContainerEngine, EngineError},
    environment::Environment,
    fair::{CallerId, FairBudget},
    link::Links,
    node::{Identity, LabelKeys, NodeName, Profile, Visibility},
    probe::Probe,
};

/// Whom to follow: what one identity sees of a node, another may not.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct NodeKey {
    pub(super) identity: Identity,
    pub(super) node: NodeName,
}

/// For whom calls are made: what it may see, and whose turn it is.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub(crate) identity: Identity,
    id: CallerId,
}

impl Caller {
    /// Another caller than all others, though its identity may be the same: a wait, say.
    pub(crate) fn new(identity: &Identity, environment: &Environment) -> Self {
        Self {
            identity: identity.clone(),
            id: CallerId::new(environment.seed()),
        }
    }
}

/// What a server was told of its nodes.
#[derive(Debug, Default)]
pub(crate) struct Settings {
    pub(crate) labels: LabelKeys,
    pub(crate) visibility: Visibility,
    /// Whether the journals of failed units are read.
    pub(crate) journal: bool,
    /// The profile of nodes whose labels and clients name none.
    pub(crate) profile: Profile,
    /// The probes of the operator's own.
    pub(crate) own: Arc<[Probe]>,
}

/// What all nodes share.
pub(crate) struct Context {
    pub(crate) engine: Arc<dyn ContainerEngine>,
    /// How many inspections there may be at once.
    calls: FairBudget,
    /// When which command may be run by routine.
    turns: Turns,
    pub(crate) links: Links,
    pub(crate) environment: Environment,
    pub(crate) settings: Settings,
    /// What containers wrote to their logs before they ended.
    last_words: LastWords,
}

impl Context {
    pub(crate) fn new(
        engine: Arc<dyn ContainerEngine>,
        links: Links,
        environment: Environment,
        settings: Settings,
    ) -> Self {
        Self {
            engine,
            calls: FairBudget::new(ENGINE_CALLS),
            turns: Turns::default(),
            links,
            environment,
            settings,
            last_words: LastWords::default(),
        }
    }

    /// When the caller's next command may be run by routine that has passed, or has not.
    pub(super) fn turn(&self, caller: &Caller, passed: bool) -> Instant {
        self.turns.next(caller.id, passed, self.environment.now())
    }

    /// The container that the name means, if there is one that the caller may look at; and when it was
    /// asked for, which may be later than now: many wait for their turn.
    pub(crate) async fn container(
        &self,
        caller: &Caller,
        node: &NodeName,
        by: Instant,
    ) -> (Instant, Result<Option<Container>, EngineError>) {
        let _permit = tokio::select! {
            biased;
            permit = self.calls.permit(caller.id) => permit,
            () = self.environment.sleep_until(by) => {
                let action = format!("waiting for a turn to inspect container {node}");
                let late = EngineError::TimedOut { action, limit: None };
                return (self.environment.now(), Err(late));
            }
        };
        let asked = self.environment.now();
        let mut found = self.engine.inspect(node.as_str(), by).await;
        let visible = |container: &Container| {
            node.names(&container.id.0, &container.name)
                && self
                    .settings
                    .visibility
                    .allows(&caller.identity, &container.labels)
        };
        found = found.map(|found| found.filter(visible));
        if let Ok(Some(container)) = &mut found
            && self.settings.journal
            && matches!(container.state, State::Exited { .. } | State::Dead)
        {
            let by = by.min(self.environment.now() + LAST_WORDS);
            container.last_words = self.last_words.of(&self.engine, container, by).await;
        }
        (asked, found)
    }
}
