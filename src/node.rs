//! Nodes: their names, their roles, the labels that give the roles, and the clients that may see
//! them.

use std::{collections::HashMap, fmt, str::FromStr};

/// The name or id of a node's container: `[A-Za-z0-9][A-Za-z0-9_.-]{0,254}`, which is Docker's own
/// rule for names (`RestrictedNameChars` in moby) with a bound. `/` is reserved.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeName(String);

/// The error for text that is not a container's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a container's name: it takes 1 to 255 letters, digits, '_', '.' and '-', and starts with a letter or digit"
)]
pub struct InvalidNodeName;

impl NodeName {
    /// The name as given.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this names a container with this id and name: by its name, by its whole id, or by
    /// the id's first 12 digits or more, as `docker ps` shows them.
    ///
    /// An engine takes any prefix of an id. There, the name `db` of a container that does not exist
    /// yet would match any container whose id starts with `db`.
    #[must_use]
    pub fn names(&self, id: &str, name: &str) -> bool {
        self.0 == name || (self.0.len() >= SHORT_ID && id.starts_with(&self.0))
    }
}

/// How many digits of a container's id name it at least.
pub(crate) const SHORT_ID: usize = 12;

/// A name is found by its text.
impl std::borrow::Borrow<str> for NodeName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl FromStr for NodeName {
    type Err = InvalidNodeName;

    fn from_str(name: &str) -> Result<Self, InvalidNodeName> {
        let mut chars = name.chars();
        let first = chars.next().is_some_and(|c| c.is_ascii_alphanumeric());
        let rest = chars.all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'));
        if first && rest && name.len() <= 255 {
            Ok(Self(name.to_owned()))
        } else {
            Err(InvalidNodeName)
        }
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The part that a node plays in its cluster. It decides which probes the node has to pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Role {
    /// Runs slurmctld.
    Controller,
    /// Submits jobs.
    Submitter,
    /// Runs slurmd.
    Worker,
    /// Runs slurmdbd.
    Db,
    /// Runs slurmrestd.
    Api,
}

impl Role {
    /// All roles.
    pub const ALL: [Self; 5] = [
        Self::Controller,
        Self::Submitter,
        Self::Worker,
        Self::Db,
        Self::Api,
    ];

    /// The role's name, as in a label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Controller => "controller",
            Self::Submitter => "submitter",
            Self::Worker => "worker",
            Self::Db => "db",
            Self::Api => "api",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The error for text that is not a role.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a role: the roles are controller, submitter, worker, db and api")]
pub struct InvalidRole;

impl FromStr for Role {
    type Err = InvalidRole;

    fn from_str(name: &str) -> Result<Self, InvalidRole> {
        Self::ALL
            .into_iter()
            .find(|role| role.as_str() == name)
            .ok_or(InvalidRole)
    }
}

/// How a node runs its daemons.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Profile {
    /// As units of systemd, which is the container's first process.
    #[default]
    Systemd,
    /// As plain processes, without systemd.
    Process,
}

impl Profile {
    /// All profiles.
    pub const ALL: [Self; 2] = [Self::Systemd, Self::Process];

    /// The profile's name, as in a label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Systemd => "systemd",
            Self::Process => "process",
        }
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The error for text that is not a profile.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a profile: the profiles are systemd and process")]
pub struct InvalidProfile;

impl FromStr for Profile {
    type Err = InvalidProfile;

    fn from_str(name: &str) -> Result<Self, InvalidProfile> {
        Self::ALL
            .into_iter()
            .find(|profile| profile.as_str() == name)
            .ok_or(InvalidProfile)
    }
}

/// What a client says of a node in place of the node's labels.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Part {
    /// The role; `None` means the role of the label.
    pub role: Option<Role>,
    /// The profile; `None` means the profile of the label, else the server's own.
    pub profile: Option<Profile>,
}

impl From<Option<Role>> for Part {
    fn from(role: Option<Role>) -> Self {
        let profile = None;
        Self { role, profile }
    }
}

/// What decides which probes a node has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct NodeKind {
    pub(crate) role: Option<Role>,
    pub(crate) profile: Profile,
}

/// What a client says, and of all else what a node has without labels.
impl From<Part> for NodeKind {
    fn from(Part { role, profile }: Part) -> Self {
        let profile = profile.unwrap_or_default();
        Self { role, profile }
    }
}

/// A container's labels.
pub type Labels = HashMap<String, String>;

/// The keys of the labels that describe a container's part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelKeys {
    /// The realm; `sind.realm` by default.
    pub realm: String,
    /// The cluster in its realm; `sind.cluster` by default.
    pub cluster: String,
    /// The node's role; `sind.role` by default.
    pub role: String,
    /// The node's profile; `readyd.profile` by default.
    pub profile: String,
}

/// What a label of a container says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Label<T> {
    /// The container has no such label.
    Missing,
    /// The label names this.
    Is(T),
    /// The label names nothing that there is.
    Invalid {
        /// The label's value.
        value: String,
    },
}

impl<T: FromStr> Label<T> {
    fn read(labels: &Labels, key: &str) -> Self {
        let Some(value) = labels.get(key) else {
            return Self::Missing;
        };
        let invalid = |_| Self::Invalid {
            value: value.clone(),
        };
        value.parse().map_or_else(invalid, Self::Is)
    }

    /// Returns what the label names, if it does.
    pub(crate) fn named(self) -> Option<T> {
        match self {
            Self::Is(named) => Some(named),
            Self::Missing | Self::Invalid { .. } => None,
        }
    }
}

impl LabelKeys {
    /// The role that these labels give.
    pub(crate) fn role_of(&self, labels: &Labels) -> Label<Role> {
        Label::read(labels, &self.role)
    }

    /// The realm and the cluster that these labels give, if they give both.
    pub(crate) fn cluster_of<'a>(&self, labels: &'a Labels) -> Option<(&'a str, &'a str)> {
        Some((labels.get(&self.realm)?, labels.get(&self.cluster)?))
    }

    /// The profile that these labels give.
    pub(crate) fn profile_of(&self, labels: &Labels) -> Label<Profile> {
        Label::read(labels, &self.profile)
    }
}

impl Default for LabelKeys {
    /// The keys that sind sets.
    fn default() -> Self {
        Self {
            realm: "sind.realm".to_owned(),
            cluster: "sind.cluster".to_owned(),
            role: "sind.role".to_owned(),
            profile: "readyd.profile".to_owned(),
        }
    }
}

/// The identity of a client. Every client is [`Identity::Local`] until there is authentication.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Identity {
    /// A client that can reach the server or runs the library.
    Local,
}

/// The containers that exist for a client.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Visibility {
    select: Vec<(String, String)>,
}

impl Visibility {
    /// Shows only containers that have all of these labels, with these values; shows all containers
    /// if there are no labels.
    #[must_use]
    pub fn select(labels: Vec<(String, String)>) -> Self {
        Self { select: labels }
    }

    /// Whether the identity may see a container with these labels. Only this function decides it.
    #[must_use]
    pub fn allows(&self, identity: &Identity, labels: &Labels) -> bool {
        let Identity::Local = identity;
        self.select
            .iter()
            .all(|(key, value)| labels.get(key) == Some(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_dockers_rule_within_a_bound() {
        for good in ["a", "0", "sind-dev-controller", "A_b.c-1", &"x".repeat(255)] {
            assert!(good.parse::<NodeName>().is_ok(), "{good}");
        }
        for bad in [
            "",
            "-a",
            ".a",
            "a/b",
            "/a",
            "a b",
            "ä",
            "a\n",
            &"x".repeat(256),
        ] {
            assert!(bad.parse::<NodeName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_short_name_is_never_taken_for_the_start_of_an_id() {
        let id = "db0123456789abcdef";
        let named = |name: &str| name.parse::<NodeName>().unwrap().names(id, "other");
        assert!(!named("db"));
        assert!(!named("db012345678"));
        assert!(named("db0123456789"));
        assert!(named(id));
        assert!("other".parse::<NodeName>().unwrap().names(id, "other"));
    }

    #[test]
    fn only_selected_containers_exist() {
        let only = Visibility::select(vec![("team".into(), "a".into())]);
        let labels = |value: &str| Labels::from([("team".into(), value.into())]);
        assert!(only.allows(&Identity::Local, &labels("a")));
        assert!(!only.allows(&Identity::Local, &labels("b")));
        assert!(!only.allows(&Identity::Local, &Labels::new()));
        assert!(Visibility::default().allows(&Identity::Local, &Labels::new()));
    }
}
