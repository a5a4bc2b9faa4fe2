//! How far a node has come, in steps that need no name of a probe.

use super::Probe;
use crate::node::NodeKind;

/// How far nodes shall come, or have come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Level {
    /// The container runs and systemd has finished booting; in the profile process, the engine's own health
    /// check of the container does not fail.
    Booted,
    /// The role's base and its daemon.
    #[default]
    Services,
}

/// The probes of the level booted, in whichever profile.
const BOOTED: [&str; 3] = ["container", "systemd", "healthcheck"];

impl Level {
    /// The probes that a node has to pass for this level.
    pub(crate) fn probes(self, NodeKind { role, profile }: NodeKind) -> Vec<Probe> {
        match self {
            Self::Services => Probe::of(role, profile),
            Self::Booted => {
                let mut probes = Probe::of(role, profile);
                probes.retain(|probe| BOOTED.contains(&probe.name()));
                probes
            }
        }
    }

    /// The highest level that holds, by the names of this one's probes and whether each has passed.
    pub(crate) fn reached<'a>(
        self,
        probes: impl Iterator<Item = (&'a str, bool)> + Clone,
    ) -> Option<Self> {
        let mut of_boot = probes.clone().filter(|(name, _)| BOOTED.contains(name));
        let has_booted = of_boot.clone().next().is_some() && of_boot.all(|(_, passed)| passed);
        let has_all = probes.clone().next().is_some() && { probes }.all(|(_, passed)| passed);
        if has_all {
            Some(self)
        } else {
            has_booted.then_some(Self::Booted)
        }
    }
}
