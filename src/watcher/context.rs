//! What following a node needs beside the node: the engine, the links, and the server's settings.

use std::sync::Arc;

use tokio::time::Instant;

use crate::{
    container::Container,
    engine::{ContainerEngine, EngineError},
    environment::Environment,
    link::Links,
    node::{Identity, LabelKeys, NodeName, Visibility},
};

/// Whom to follow: what one identity sees of a node, another may not.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct NodeKey {
    pub(super) identity: Identity,
    pub(super) node: NodeName,
}

/// What all nodes share.
pub(crate) struct Context {
    pub(crate) engine: Arc<dyn ContainerEngine>,
    pub(crate) links: Links,
    pub(crate) environment: Environment,
    pub(crate) labels: LabelKeys,
    pub(crate) visibility: Visibility,
    /// Whether the journals of failed units are read.
    pub(crate) journal: bool,
}

impl Context {
    /// The container that the name means, if there is one that the identity may look at.
    pub(crate) async fn container(
        &self,
        identity: &Identity,
        node: &NodeName,
        by: Instant,
    ) -> Result<Option<Container>, EngineError> {
        let found = self.engine.inspect(node.as_str(), by).await?;
        Ok(found.filter(|container| {
            node.names(&container.id.0, &container.name)
                && self.visibility.allows(identity, &container.labels)
        }))
    }
}
