//! What every look needs: the engine, and the server's own settings.

use std::sync::Arc;

use tokio::time::Instant;

use crate::{
    environment::Environment,
    link::Links,
    node::{Identity, LabelKeys, NodeName, Role, Visibility},
    probe::{Outcome, container},
    runtime::{Container, Runtime, RuntimeError},
};

/// The engine, the ways into its nodes, and what decides what may be looked at.
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
}
