//! The order of nodes: by realm, cluster, role and name.

use std::cmp::Ordering;

use super::ListedNode;
use crate::node::{NodeName, Role};

/// Where a node stands in the order of all nodes. It stays the same, whatever nodes come and go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// The realm.
    pub realm: String,
    /// The cluster.
    pub cluster: String,
    /// The role; without one, a node comes last.
    pub role: Option<Role>,
    /// The name. Numbers in it count by their value.
    pub name: String,
    /// The container's id.
    pub id: String,
}

impl Position {
    /// Where a node stands among those of its cluster.
    pub(crate) fn within(role: Option<Role>, node: &NodeName) -> Self {
        Self {
            realm: String::new(),
            cluster: String::new(),
            role,
            name: node.to_string(),
            id: String::new(),
        }
    }

    /// Returns where a node stands.
    #[must_use]
    pub fn of(node: &ListedNode) -> Self {
        Self {
            realm: node.realm.clone(),
            cluster: node.cluster.clone(),
            role: node.role,
            name: node.name.to_string(),
            id: node.id.0.clone(),
        }
    }
}

impl Ord for Position {
    fn cmp(&self, other: &Self) -> Ordering {
        let role = |position: &Self| {
            let number = |role| Role::ALL.iter().position(|other| *other == role);
            position.role.and_then(number).unwrap_or(usize::MAX)
        };
        (self.realm.cmp(&other.realm))
            .then_with(|| self.cluster.cmp(&other.cluster))
            .then_with(|| role(self).cmp(&role(other)))
            .then_with(|| by_value(&self.name, &other.name))
            .then_with(|| self.id.cmp(&other.id))
    }
}

impl PartialOrd for Position {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Compares names, and the numbers in them by their value: `worker-9` comes before `worker-10`.
fn by_value(a: &str, b: &str) -> Ordering {
    let (mut left, mut right) = (a, b);
    loop {
        let (one, other) = (part(&mut left), part(&mut right));
        if one.is_empty() || other.is_empty() {
            // Of names that differ in zeros alone, neither is the other.
            return one.cmp(other).then_with(|| a.cmp(b));
        }
        let is_number = |part: &str| part.starts_with(|c: char| c.is_ascii_digit());
        let order = if is_number(one) && is_number(other) {
            let (one, other) = (one.trim_start_matches('0'), other.trim_start_matches('0'));
            one.len().cmp(&other.len()).then_with(|| one.cmp(other))
        } else {
            one.cmp(other)
        };
        if order.is_ne() {
            return order;
        }
    }
}

/// Takes the digits, or what comes before the next digit.
fn part<'a>(rest: &mut &'a str) -> &'a str {
    let is_number = rest.starts_with(|c: char| c.is_ascii_digit());
    let ends = |c: char| c.is_ascii_digit() != is_number;
    let (part, after) = rest.split_at(rest.find(ends).unwrap_or(rest.len()));
    *rest = after;
    part
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn position(name: &str, role: Option<Role>) -> Position {
        Position {
            realm: String::new(),
            cluster: String::new(),
            role,
            name: name.to_owned(),
            id: String::new(),
        }
    }

    #[test]
    fn numbers_in_names_count_by_their_value() {
        let mut names = [
            "w10",
            "w9",
            "w",
            "w09",
            "w9a",
            "w1-2",
            "w1-10",
            "x",
            "10",
            "9",
            "w99999999999999999999999",
        ];
        names.sort_by(|a, b| by_value(a, b));
        let sorted = [
            "9",
            "10",
            "w",
            "w1-2",
            "w1-10",
            "w09",
            "w9",
            "w9a",
            "w10",
            "w99999999999999999999999",
            "x",
        ];
        assert_eq!(names, sorted);
    }

    #[test]
    fn realms_come_before_clusters_before_roles_before_names() {
        let with = |realm: &str, cluster: &str, role, name: &str| Position {
            realm: realm.to_owned(),
            cluster: cluster.to_owned(),
            ..position(name, role)
        };
        let sorted = [
            with("a", "b", None, "z"),
            with("b", "a", Some(Role::Controller), "b"),
            with("b", "a", Some(Role::Api), "a"),
            with("b", "a", None, "a"),
            with("b", "b", Some(Role::Controller), "a"),
        ];
        assert!(sorted.is_sorted());
    }

    proptest! {
        #[test]
        fn it_is_an_order(a in "[a0-9]{0,5}", b in "[a0-9]{0,5}", c in "[a0-9]{0,5}") {
            prop_assert_eq!(by_value(&a, &b), by_value(&b, &a).reverse());
            prop_assert_eq!(by_value(&a, &b).is_eq(), a == b);
            if by_value(&a, &b).is_le() && by_value(&b, &c).is_le() {
                prop_assert!(by_value(&a, &c).is_le());
            }
        }
    }
}
