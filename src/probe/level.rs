//! How far a node has come, in steps that need no name of a probe.

use super::Probe;
use crate::node::{NodeKind, Role};

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
    /// The same, and the daemon has answered in its own protocol.
    Rpc,
    /// The same, and the controller has each worker registered in a state that runs jobs.
    Registered,
    /// The same, and a job has run on the workers of the wait. That is no node's own: who waits says so
    /// where it has.
    Jobs,
}

/// The probes of the level booted, in whichever profile.
const BOOTED: [&str; 3] = ["container", "systemd", "healthcheck"];

/// The probe that the level registered adds to workers.
const REGISTERED: &str = "registered";

/// The report of the job of a wait.
pub(crate) const JOBS: &str = "jobs";

/// What a report says of its probe, as far as levels go by it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reached<'a> {
    pub(crate) probe: &'a str,
    pub(crate) passed: bool,
    /// Whether its daemon is up all the same.
    pub(crate) is_up: bool,
}

impl Level {
    /// The probes that a node has to pass for this level, the operator's own among them.
    pub(crate) fn probes(self, kind: NodeKind, own: &[Probe]) -> Vec<Probe> {
        let NodeKind { role, profile } = kind;
        let mut probes = Probe::of(role, profile);
        match self {
            Self::Booted => probes.retain(|probe| BOOTED.contains(&probe.name())),
            Self::Services => {}
            Self::Rpc | Self::Registered | Self::Jobs => {
                probes = probes.into_iter().map(Probe::answered).collect();
                if self >= Self::Registered && role == Some(Role::Worker) {
                    let registered = Probe::named(REGISTERED);
                    probes.extend(registered.map(|probe| probe.in_profile(profile)));
                }
            }
        }
        if self > Self::Booted {
            Probe::insert_own(&mut probes, own, kind);
        }
        probes
    }

    /// The highest level that holds, by the reports of this one's probes.
    pub(crate) fn reached<'a>(
        self,
        reports: &(impl Iterator<Item = Reached<'a>> + Clone),
    ) -> Option<Self> {
        let all = |counts: fn(&Reached<'a>) -> bool, holds: fn(Reached<'a>) -> bool| {
            let mut reports = reports.clone().filter(counts).peekable();
            reports.peek().is_some() && reports.all(holds)
        };
        let is_before = |report: &Reached<'a>| ![REGISTERED, JOBS].contains(&report.probe);
        let has_no_job = |report: &Reached<'a>| report.probe != JOBS;
        let passed = |report: Reached<'a>| report.passed;
        let held = if all(has_no_job, passed) {
            Self::Registered
        } else if all(is_before, passed) {
            Self::Rpc
        } else if all(is_before, |report| report.passed || report.is_up) {
            Self::Services
        } else if all(|report| BOOTED.contains(&report.probe), passed) {
            Self::Booted
        } else {
            return None;
        };
        Some(held.min(self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::Profile;

    /// The level that holds where the probes up to the named one have passed, and that one's daemon is up or
    /// not.
    fn reached(level: Level, role: Role, failing: &str, is_up: bool) -> Option<Level> {
        let profile = Profile::Systemd;
        let probes = level.probes(
            NodeKind {
                role: Some(role),
                profile,
            },
            &[],
        );
        let at = probes.iter().position(|probe| probe.name() == failing);
        let at = at.unwrap_or(probes.len());
        let reports = probes.iter().enumerate().map(|(place, probe)| Reached {
            probe: probe.name(),
            passed: place < at,
            is_up: place == at && is_up,
        });
        level.reached(&reports)
    }

    #[test]
    fn the_highest_level_that_holds_is_told() {
        use Level::{Booted, Registered, Rpc, Services};
        let worker = |level, failing| reached(level, Role::Worker, failing, false);
        assert_eq!(worker(Registered, ""), Some(Registered));
        assert_eq!(worker(Registered, "registered"), Some(Rpc));
        assert_eq!(worker(Registered, "slurmd"), Some(Booted));
        assert_eq!(worker(Registered, "systemd"), None);
        let up = reached(Registered, Role::Worker, "slurmd", true);
        assert_eq!(up, Some(Services));
        // Never above the one that was asked for.
        for level in [Booted, Services, Rpc] {
            assert_eq!(worker(level, ""), Some(level));
        }
        assert_eq!(worker(Services, "munge"), Some(Booted));
        assert_eq!(
            reached(Registered, Role::Db, "", false),
            Some(Registered),
            "only workers register"
        );
    }

    #[test]
    fn a_level_asks_for_no_less_than_those_below_it() {
        for role in Role::ALL {
            for profile in [Profile::Systemd, Profile::Process] {
                let names = |level: Level| {
                    let role = Some(role);
                    let probes = level.probes(NodeKind { role, profile }, &[]);
                    let names = probes.iter().map(|probe| probe.name().to_owned());
                    names.collect::<Vec<_>>()
                };
                let services = names(Level::Services);
                assert_eq!(names(Level::Rpc), services);
                assert!(services.starts_with(&names(Level::Booted)));
                let registered = names(Level::Registered);
                assert!(registered.starts_with(&services));
                let is_worker = role == Role::Worker;
                assert_eq!(registered.ends_with(&[REGISTERED.to_owned()]), is_worker);
            }
        }
    }
}
