//! How far a node has come, in steps that need no name of a probe.

use crate::{node::NodeKind, probe::Probe, report::ProbeReport};

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

    /// The highest level that holds by the reports of this one's probes.
    pub(crate) fn reached(self, reports: &[ProbeReport]) -> Option<Self> {
        let passed = |names: &[&str]| {
            let named =
                |report: &&ProbeReport| names.is_empty() || names.contains(&&report.probe[..]);
            let mut named = reports.iter().filter(named).peekable();
            named.peek().is_some() && named.all(|report| report.result.is_passed())
        };
        if passed(&[]) {
            return Some(self);
        }
        (self > Self::Booted && passed(&BOOTED)).then_some(Self::Booted)
    }
}
