//! Which probes somebody wants of a node, and how they are run.

use std::sync::Arc;

use crate::{
    node::{NodeKind, Part, Profile},
    probe::{Level, Probe, ProbeKey, Service},
};

/// The probes that somebody wants of a node, and how they are run.
#[derive(Debug, Clone)]
pub(crate) struct ProbeSet {
    /// What the client says in place of the labels.
    pub(crate) part: Part,
    probes: Selection,
    pub(crate) mode: Mode,
}

#[derive(Debug, Clone)]
enum Selection {
    /// Those that a level asks for of the node's role, with the operator's own.
    OfLevel(Level, Arc<[Probe]>),
    /// Container, systemd and each of the node's services.
    Services,
    Named(Vec<Probe>),
}

/// How probes are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Again and again, up to the first that has not passed; what has passed is confirmed.
    Wait,
    /// Once; what has failed gets the second look that makes it terminal.
    Check,
    /// Once, all of them, by their units alone where that is possible.
    Snapshot,
}

impl ProbeSet {
    /// What a wait wants: the role's own probes, or these.
    pub(crate) fn wait(part: impl Into<Part>, mut probes: Vec<Probe>) -> Self {
        Probe::sort(&mut probes);
        let probes = if probes.is_empty() {
            Selection::OfLevel(Level::Services, Arc::default())
        } else {
            Selection::Named(probes)
        };
        let (part, mode) = (part.into(), Mode::Wait);
        Self { part, probes, mode }
    }

    /// What a level asks for.
    pub(crate) fn of_level(
        part: impl Into<Part>,
        level: Level,
        own: &Arc<[Probe]>,
        mode: Mode,
    ) -> Self {
        let (part, probes) = (part.into(), Selection::OfLevel(level, Arc::clone(own)));
        Self { part, probes, mode }
    }

    /// No probe at all, which no request asks for.
    #[cfg(test)]
    pub(super) fn without_probes() -> Self {
        let (probes, mode) = (Selection::Named(vec![]), Mode::Wait);
        let part = Part::default();
        Self { part, probes, mode }
    }

    /// One probe.
    pub(crate) fn check(part: impl Into<Part>, probe: Probe) -> Self {
        let (probes, mode) = (Selection::Named(vec![probe]), Mode::Check);
        let part = part.into();
        Self { part, probes, mode }
    }

    /// Container, systemd and each of the node's services.
    pub(crate) fn snapshot(part: impl Into<Part>) -> Self {
        let (probes, mode) = (Selection::Services, Mode::Snapshot);
        let part = part.into();
        Self { part, probes, mode }
    }

    /// The probes to run on a node of that kind, in their order.
    pub(super) fn probes(&self, kind: NodeKind) -> Vec<Probe> {
        let NodeKind { role, profile } = kind;
        match &self.probes {
            Selection::OfLevel(level, own) => level.probes(kind, own),
            Selection::Named(probes) => {
                let own = |probe: &Probe| probe.in_profile(profile);
                probes.iter().map(own).collect()
            }
            Selection::Services => {
                let base: &[&str] = match profile {
                    Profile::Systemd => &["container", "systemd"],
                    Profile::Process => &["container"],
                };
                let base = base.iter().filter_map(|name| Probe::named(name));
                let services = Service::of(role, profile).map(Service::probe);
                let all = base.chain(services);
                all.map(|probe| probe.in_profile(profile)).collect()
            }
        }
    }

    /// Whether somebody has named the probes.
    pub(super) fn names_probes(&self) -> bool {
        matches!(self.probes, Selection::Named(_))
    }

    pub(super) fn is_same(&self, other: &Self) -> bool {
        let keys = |probes: &[Probe]| probes.iter().map(Probe::key).collect::<Vec<ProbeKey>>();
        let same_probes = match (&self.probes, &other.probes) {
            (Selection::OfLevel(a, own), Selection::OfLevel(b, others)) => {
                a == b && keys(own) == keys(others)
            }
            (Selection::Services, Selection::Services) => true,
            (Selection::Named(a), Selection::Named(b)) => keys(a) == keys(b),
            _ => false,
        };
        self.part == other.part && self.mode == other.mode && same_probes
    }
}

/// Tells one probe set of a node from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct SetId(u64);

impl SetId {
    pub(super) fn new(number: u64) -> Self {
        Self(number)
    }

    /// The only set of a node that is looked at once.
    pub(super) const ONLY: Self = Self(0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{node::Role, probe::Outcome};

    fn probe(name: &str) -> Probe {
        Probe::named(name).unwrap()
    }

    fn names(set: &ProbeSet, role: Option<Role>) -> Vec<String> {
        let probes = set.probes(NodeKind {
            role,
            ..NodeKind::default()
        });
        probes.iter().map(|probe| probe.name().to_owned()).collect()
    }

    #[test]
    fn custom_probes_of_one_name_are_not_the_same() {
        let own = || Probe::custom("own", |_| async { Ok(Outcome::passed()) });
        let (a, b) = (own(), own());
        let set = |probe: &Probe| ProbeSet::wait(None, vec![probe.clone()]);
        assert!(set(&a).is_same(&set(&a)));
        assert!(!set(&a).is_same(&set(&b)));
    }

    #[test]
    fn each_purpose_has_its_probes() {
        let worker = Some(Role::Worker);
        assert_eq!(
            names(&ProbeSet::wait(None, vec![]), worker),
            ["container", "systemd", "sshd", "munge", "slurmd"]
        );
        assert_eq!(
            names(&ProbeSet::snapshot(None), worker),
            ["container", "systemd", "sshd", "munge", "slurmd"]
        );
        assert_eq!(
            names(&ProbeSet::check(None, probe("munge")), worker),
            ["munge"]
        );
        let named = ProbeSet::wait(None, vec![probe("slurmd"), probe("container")]);
        assert_eq!(names(&named, None), ["container", "slurmd"]);
    }
}
