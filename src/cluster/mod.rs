//! Which containers are nodes, and which nodes a selector means.

pub(crate) mod directory;
mod order;

use crate::{
    container::ContainerId,
    engine::ListedContainer,
    node::{Identity, LabelKeys, Labels, NodeName, Profile, Role, Visibility},
    text::{clean, truncate},
    watcher::Context,
};

pub use order::Position;

/// How many bytes of a label's value are told.
const LABEL_BYTES: usize = 512;

/// Which nodes are meant; all of them by default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct NodeSelector {
    /// Only those of this realm.
    pub realm: Option<String>,
    /// Only those of a cluster of this name.
    pub cluster: Option<String>,
    /// Only those of one of these roles; any role or none if there are none.
    pub roles: Vec<Role>,
}

/// A node, as a list shows it: a container with the label of a realm, a cluster or a role, whether it runs or
/// not.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ListedNode {
    /// The container's name.
    pub name: NodeName,
    /// The container's id.
    pub id: ContainerId,
    /// The realm that its label says; empty without one.
    pub realm: String,
    /// The cluster that its label says; empty without one.
    pub cluster: String,
    /// The role that its label says; none without one, or if it says no role.
    pub role: Option<Role>,
    /// The profile that its label says, else the server's own; none if the label says no profile.
    pub profile: Option<Profile>,
    /// The container's state, in the engine's own word.
    pub state: String,
    /// The container's address in the first of its networks; empty if it has none.
    pub address: String,
}

/// The labels that make a container a node, and who may see which.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Discovery<'a> {
    pub(crate) labels: &'a LabelKeys,
    pub(crate) visibility: &'a Visibility,
    /// The profile of nodes whose labels name none.
    pub(crate) profile: Profile,
}

impl NodeSelector {
    fn selects(&self, labels: &Labels, keys: &LabelKeys, role: Option<Role>) -> bool {
        let is = |wanted: &Option<String>, key: &String| {
            wanted.is_none() || wanted.as_ref() == labels.get(key)
        };
        let of_role = self.roles.is_empty() || role.is_some_and(|role| self.roles.contains(&role));
        is(&self.realm, &keys.realm) && is(&self.cluster, &keys.cluster) && of_role
    }
}

impl<'a> Discovery<'a> {
    pub(crate) fn of(context: &'a Context) -> Self {
        Self {
            labels: &context.settings.labels,
            visibility: &context.settings.visibility,
            profile: context.settings.profile,
        }
    }

    /// The nodes among these containers that are meant and that may be seen, in their order.
    pub(crate) fn nodes(
        self,
        listed: &[ListedContainer],
        identity: &Identity,
        selector: &NodeSelector,
    ) -> Vec<ListedNode> {
        let node = |container: &ListedContainer| self.node(container, identity, selector);
        let mut nodes: Vec<_> = listed.iter().filter_map(node).collect();
        nodes.sort_by_cached_key(Position::of);
        nodes
    }

    fn node(
        self,
        container: &ListedContainer,
        identity: &Identity,
        selector: &NodeSelector,
    ) -> Option<ListedNode> {
        let (keys, labels) = (self.labels, &container.labels);
        let is_node = [&keys.realm, &keys.cluster, &keys.role]
            .iter()
            .any(|key| labels.contains_key(*key));
        let role = keys.role_of(labels).named();
        if !is_node
            || !self.visibility.allows(identity, labels)
            || !selector.selects(labels, keys, role)
        {
            return None;
        }
        let said = |key: &String| {
            let mut value = clean(labels.get(key).map_or("", String::as_str), false);
            truncate(&mut value, LABEL_BYTES);
            value
        };
        let profile = if labels.contains_key(&keys.profile) {
            keys.profile_of(labels).named()
        } else {
            Some(self.profile)
        };
        Some(ListedNode {
            realm: said(&keys.realm),
            cluster: said(&keys.cluster),
            role,
            profile,
            name: container.name.parse().ok()?,
            id: container.id.clone(),
            state: container.state.clone(),
            address: container.address.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(name: &str, labels: &[(&str, &str)]) -> ListedContainer {
        let labels = labels
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        ListedContainer {
            id: ContainerId(name.to_owned()),
            name: name.to_owned(),
            labels: labels.collect(),
            state: "running".to_owned(),
            address: String::new(),
        }
    }

    fn names(containers: &[ListedContainer], selector: &NodeSelector) -> Vec<String> {
        let discovery = Discovery {
            labels: &LabelKeys::default(),
            visibility: &Visibility::select(vec![("team".to_owned(), "a".to_owned())]),
            profile: Profile::Process,
        };
        let nodes = discovery.nodes(containers, &Identity::Local, selector);
        nodes
            .into_iter()
            .map(|node| node.name.to_string())
            .collect()
    }

    #[test]
    fn one_of_three_labels_makes_a_node_that_may_be_seen() {
        let team = ("team", "a");
        let containers = vec![
            container("plain", &[team]),
            container("other", &[("team", "b"), ("sind.realm", "r")]),
            container("realm", &[team, ("sind.realm", "r")]),
            container("cluster", &[team, ("sind.cluster", "c")]),
            container("role", &[team, ("sind.role", "boss")]),
        ];
        let all = names(&containers, &NodeSelector::default());
        assert_eq!(all, ["role", "cluster", "realm"]);
    }

    #[test]
    fn a_selector_means_what_all_of_it_says() {
        let node = |name: &str, realm: &str, role: &str| {
            let labels = [
                ("team", "a"),
                ("sind.realm", realm),
                ("sind.cluster", "c"),
                ("sind.role", role),
            ];
            container(name, &labels)
        };
        let containers = || {
            vec![
                node("w", "r", "worker"),
                node("c", "r", "controller"),
                node("b", "r", "boss"),
                node("x", "s", "worker"),
            ]
        };
        let mut selector = NodeSelector {
            realm: Some("r".to_owned()),
            cluster: Some("c".to_owned()),
            roles: vec![],
        };
        assert_eq!(names(&containers(), &selector), ["c", "w", "b"]);
        selector.roles = vec![Role::Worker, Role::Db];
        assert_eq!(names(&containers(), &selector), ["w"]);
        selector.realm = None;
        assert_eq!(names(&containers(), &selector), ["w", "x"]);
        selector.cluster = Some(String::new());
        assert_eq!(names(&containers(), &selector), [""; 0]);
    }

    #[test]
    fn labels_are_hostile_text_and_say_profiles() {
        let labels = LabelKeys::default();
        let visibility = Visibility::default();
        let discovery = Discovery {
            labels: &labels,
            visibility: &visibility,
            profile: Profile::Process,
        };
        let long = "x".repeat(10_000);
        let containers = vec![
            container(
                "a",
                &[
                    ("sind.realm", "\u{1b}[31mred"),
                    ("readyd.profile", "docker"),
                ],
            ),
            container("b", &[("sind.realm", &long)]),
        ];
        let nodes = discovery.nodes(&containers, &Identity::Local, &NodeSelector::default());
        assert!(!nodes[0].realm.contains('\u{1b}') && nodes[0].profile.is_none());
        assert_eq!(nodes[1].realm.len(), LABEL_BYTES);
        assert_eq!(nodes[1].profile, Some(Profile::Process));
    }
}
