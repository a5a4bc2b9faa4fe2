//! The daemons of a node that a snapshot lists.

use std::fmt;

use super::{
    Probe,
    table::{self, Row, TABLE},
};
use crate::node::{Profile, Role};

/// A daemon of the node that has a probe, as a snapshot lists it.
///
/// Services are ordered as their probes run.
#[derive(Clone, Copy)]
pub struct Service(&'static Row);

impl Service {
    /// OpenSSH's daemon.
    pub const SSHD: Self = Self(&table::SSHD);
    /// MUNGE's authentication daemon.
    pub const MUNGE: Self = Self(&table::MUNGE);
    /// Slurm's controller daemon.
    pub const SLURMCTLD: Self = Self(&table::SLURMCTLD);
    /// Slurm's node daemon.
    pub const SLURMD: Self = Self(&table::SLURMD);
    /// Slurm's database daemon.
    pub const SLURMDBD: Self = Self(&table::SLURMDBD);
    /// Slurm's REST API daemon.
    pub const SLURMRESTD: Self = Self(&table::SLURMRESTD);

    /// Returns the service's name, which is its probe's name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.0.name
    }

    /// Returns the service that a role adds to those of every node. A submitter adds none.
    #[must_use]
    pub fn of_role(role: Role) -> Option<Self> {
        let row = TABLE
            .into_iter()
            .find(|row| row.is_service && row.runs == table::Runs::OnRole(role))?;
        Some(Self(row))
    }

    /// Returns the services of a node with systemd: sshd, munge, and the one of its role.
    pub fn of_node(role: Option<Role>) -> impl Iterator<Item = Self> {
        Self::of(role, Profile::Systemd)
    }

    /// Returns the services of a node of that profile. Without systemd, sshd is none of them.
    pub fn of(role: Option<Role>, profile: Profile) -> impl Iterator<Item = Self> {
        let rows = table::table(profile).iter();
        let rows = rows.filter(move |row| row.is_service && row.runs.on(role));
        rows.map(|row| Self(row))
    }

    /// Returns the readiness probe of the service.
    #[must_use]
    pub fn probe(self) -> Probe {
        let named = Probe::named(self.0.name);
        named.unwrap_or(Probe::builtin(self.0, Profile::Systemd))
    }

    fn place(self) -> usize {
        let same = |row: &&Row| row.name == self.0.name;
        TABLE.iter().position(same).unwrap_or(TABLE.len())
    }
}

impl PartialEq for Service {
    fn eq(&self, other: &Self) -> bool {
        self.0.name == other.0.name
    }
}

impl Eq for Service {}

impl PartialOrd for Service {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Service {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.place().cmp(&other.place())
    }
}

impl std::hash::Hash for Service {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.name.hash(state);
    }
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Service({})", self.as_str())
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
