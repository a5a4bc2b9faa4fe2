//! What each probe means: pure functions from what was seen to a finding, and the table of probes.
//!
//! ```text
//! base          container ─▶ systemd ─▶ sshd ─▶ munge
//! controller                                      └─▶ slurmctld
//! worker                                          └─▶ slurmd
//! db                                              └─▶ slurmdbd
//! api                                             └─▶ slurmrestd
//! on request                                          sackd, registered
//! ```
//!
//! A node's probes run in this order and stop at the first that does not pass. A new probe is a row
//! of `TABLE`, and a file here if it means something new.

pub(crate) mod container;
mod outcome;
mod registered;
mod slurmctld;
mod slurmrestd;
mod sshd;
mod systemd;
mod unit;

use std::{fmt, pin::Pin, sync::Arc};

pub use outcome::{CouldNotLook, Outcome};
pub(crate) use outcome::{Finding, Proof};

pub(crate) use systemd::judge as judge_systemd;
pub(crate) use unit::{find as find_unit, judge as judge_unit};

use crate::{
    node::{NodeName, Role},
    question::{Answer, Question},
};

/// A probe that readyd brings along.
#[derive(Debug)]
pub struct Builtin {
    name: &'static str,
    pub(crate) means: Means,
}

/// How a built-in probe comes to its finding.
#[derive(Debug)]
pub(crate) enum Means {
    /// The container's state.
    Container,
    /// The state of the node's systemd.
    Systemd,
    /// A unit is active. The names are tried in order, the first that exists counts.
    Unit(&'static [&'static str]),
    /// The unit is active, and a question is answered well.
    UnitAnswers(&'static [&'static str], Ask),
    /// A question is answered well; a snapshot looks at the unit instead.
    Answers(&'static [&'static str], Ask),
}

/// A question, and what its answers mean.
#[derive(Debug)]
pub(crate) struct Ask {
    pub(crate) question: Question,
    pub(crate) judge: fn(&Answer) -> Finding,
    /// Whether an answer counts on a node that has no such unit.
    pub(crate) alone: bool,
    /// A cheaper question that stands in for it, on nodes that understand it.
    pub(crate) first: Option<First>,
}

/// A question that not every node understands.
#[derive(Debug)]
pub(crate) struct First {
    pub(crate) name: &'static str,
    pub(crate) question: Question,
    pub(crate) judge: fn(&Answer) -> Understood,
}

/// What an answer says of a question that not every node understands.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Understood {
    /// It is understood, and this is the finding.
    Yes(Finding),
    /// There was no answer: it may be understood, and be too early or too busy.
    Perhaps,
    /// It is not.
    No,
}

/// All built-in probes, in the order in which they run.
pub(crate) static TABLE: [Builtin; 10] = [
    Builtin {
        name: "container",
        means: Means::Container,
    },
    Builtin {
        name: "systemd",
        means: Means::Systemd,
    },
    // Debian calls the unit ssh.service; sshd.service is its alias there, if it is enabled.
    Builtin {
        name: "sshd",
        means: Means::Answers(&["sshd.service", "ssh.service"], sshd::ASK),
    },
    Builtin {
        name: "munge",
        means: Means::Unit(&["munge.service"]),
    },
    Builtin {
        name: "slurmctld",
        means: Means::UnitAnswers(&["slurmctld.service"], slurmctld::ASK),
    },
    Builtin {
        name: "slurmd",
        means: Means::Unit(&["slurmd.service"]),
    },
    Builtin {
        name: "slurmdbd",
        means: Means::Unit(&["slurmdbd.service"]),
    },
    Builtin {
        name: "sackd",
        means: Means::Unit(&["sackd.service"]),
    },
    Builtin {
        name: "slurmrestd",
        means: Means::UnitAnswers(&["slurmrestd.service"], slurmrestd::ASK),
    },
    Builtin {
        name: "registered",
        means: Means::Answers(&[], registered::ASK),
    },
];

const BASE: usize = 4;

fn builtin(name: &str) -> Option<&'static Builtin> {
    TABLE.iter().find(|row| row.name == name)
}

/// A named check of one condition of a node: built in, or the library user's own.
#[derive(Clone)]
pub struct Probe(Kind);

#[derive(Clone)]
enum Kind {
    Builtin(&'static Builtin),
    Custom(Arc<Custom>),
}

/// Tells one probe from another.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum ProbeKey {
    Builtin(&'static str),
    /// A check of one's own by its place in memory: two of one name need not be the same.
    Custom(usize),
}

/// The future of a custom check.
type CheckFuture = Pin<Box<dyn Future<Output = Result<Outcome, CouldNotLook>> + Send>>;

pub(crate) struct Custom {
    name: String,
    check: Box<dyn Fn(NodeName) -> CheckFuture + Send + Sync>,
}

impl Custom {
    pub(crate) fn check(&self, node: NodeName) -> CheckFuture {
        (self.check)(node)
    }
}

impl Probe {
    /// The built-in probe of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        builtin(name).map(|row| Self(Kind::Builtin(row)))
    }

    /// The names of all built-in probes, in the order in which they run.
    pub fn names() -> impl Iterator<Item = &'static str> {
        TABLE.iter().map(|row| row.name)
    }

    /// The probes of a node, in the order in which they run; of a node without a role, those that
    /// all roles share.
    #[must_use]
    pub fn of_role(role: Option<Role>) -> Vec<Self> {
        let daemon = role.and_then(Service::of_role).map(Service::as_str);
        let rows = TABLE[..BASE].iter().chain(daemon.and_then(builtin));
        rows.map(|row| Self(Kind::Builtin(row))).collect()
    }

    /// A probe of your own: a name, and a check that is given the node's name.
    ///
    /// It runs after the built-in ones, in the order given, once they have passed. The check's time
    /// is its own to limit; it is dropped when the wait ends.
    pub fn custom<F, C>(name: impl Into<String>, check: F) -> Self
    where
        F: Fn(NodeName) -> C + Send + Sync + 'static,
        C: Future<Output = Result<Outcome, CouldNotLook>> + Send + 'static,
    {
        Self(Kind::Custom(Arc::new(Custom {
            name: name.into(),
            check: Box::new(move |node| Box::pin(check(node))),
        })))
    }

    /// The probe's name.
    #[must_use]
    pub fn name(&self) -> &str {
        match &self.0 {
            Kind::Builtin(row) => row.name,
            Kind::Custom(custom) => &custom.name,
        }
    }

    pub(crate) fn key(&self) -> ProbeKey {
        match &self.0 {
            Kind::Builtin(row) => ProbeKey::Builtin(row.name),
            Kind::Custom(custom) => ProbeKey::Custom(Arc::as_ptr(custom) as usize),
        }
    }

    pub(crate) fn means(&self) -> Result<&'static Means, &Custom> {
        match &self.0 {
            Kind::Builtin(row) => Ok(&row.means),
            Kind::Custom(custom) => Err(custom),
        }
    }

    pub(crate) fn is_container(&self) -> bool {
        matches!(self.means(), Ok(Means::Container))
    }

    /// What is asked, in the words of a reason, while there is no answer yet.
    pub(crate) fn asks(&self) -> String {
        match self.means() {
            Ok(Means::Container) => "the engine".to_owned(),
            Ok(Means::Systemd | Means::Unit(_)) => "systemd".to_owned(),
            Ok(Means::UnitAnswers(_, ask) | Means::Answers(_, ask)) => ask.question.to_string(),
            Err(custom) => format!("the check {}", custom.name),
        }
    }

    /// Puts probes into the order in which they run: the table's, then one's own as they came.
    pub(crate) fn sort(probes: &mut [Self]) {
        let place = |probe: &Self| {
            let row = |row: &Builtin| row.name == probe.name();
            TABLE.iter().position(row).unwrap_or(TABLE.len())
        };
        probes.sort_by_key(place);
    }
}

impl fmt::Debug for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Probe({})", self.name())
    }
}

/// A probe that is a daemon of the node, as a snapshot lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Service {
    /// OpenSSH's daemon.
    Sshd,
    /// MUNGE's authentication daemon.
    Munge,
    /// Slurm's controller daemon.
    Slurmctld,
    /// Slurm's node daemon.
    Slurmd,
    /// Slurm's database daemon.
    Slurmdbd,
    /// Slurm's REST API daemon.
    Slurmrestd,
}

impl Service {
    /// The service's name, which is its probe's name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sshd => "sshd",
            Self::Munge => "munge",
            Self::Slurmctld => "slurmctld",
            Self::Slurmd => "slurmd",
            Self::Slurmdbd => "slurmdbd",
            Self::Slurmrestd => "slurmrestd",
        }
    }

    /// The service that a role adds to those of every node; a submitter adds none.
    #[must_use]
    pub fn of_role(role: Role) -> Option<Self> {
        match role {
            Role::Controller => Some(Self::Slurmctld),
            Role::Submitter => None,
            Role::Worker => Some(Self::Slurmd),
            Role::Db => Some(Self::Slurmdbd),
            Role::Api => Some(Self::Slurmrestd),
        }
    }

    /// The services of a node: sshd and munge, and the one of its role.
    pub fn of_node(role: Option<Role>) -> impl Iterator<Item = Self> {
        [Self::Sshd, Self::Munge]
            .into_iter()
            .chain(role.and_then(Self::of_role))
    }

    /// The readiness probe of the service.
    #[must_use]
    pub fn probe(self) -> Probe {
        // The table has a row for each service; a test holds them together.
        let row = builtin(self.as_str()).unwrap_or(&TABLE[0]);
        Probe(Kind::Builtin(row))
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(probes: &[Probe]) -> Vec<&str> {
        probes.iter().map(Probe::name).collect()
    }

    #[test]
    fn a_role_adds_its_daemon_to_the_base() {
        let of = |role| Probe::of_role(role);
        assert_eq!(names(&of(None)), ["container", "systemd", "sshd", "munge"]);
        assert_eq!(names(&of(Some(Role::Submitter))), names(&of(None)));
        assert_eq!(
            of(Some(Role::Controller)).last().unwrap().name(),
            "slurmctld"
        );
        assert_eq!(of(Some(Role::Worker)).last().unwrap().name(), "slurmd");
        assert_eq!(of(Some(Role::Db)).last().unwrap().name(), "slurmdbd");
        assert_eq!(of(Some(Role::Api)).last().unwrap().name(), "slurmrestd");
    }

    #[test]
    fn every_service_has_its_row() {
        for role in Role::ALL {
            for service in Service::of_node(Some(role)) {
                assert_eq!(service.probe().name(), service.as_str());
            }
        }
    }

    #[test]
    fn probes_run_in_table_order_and_ones_own_last() {
        let own = |name: &str| Probe::custom(name, |_| async { Ok(Outcome::passed()) });
        let mut probes = vec![
            own("z"),
            Probe::named("slurmd").unwrap(),
            own("a"),
            Probe::named("container").unwrap(),
        ];
        Probe::sort(&mut probes);
        assert_eq!(names(&probes), ["container", "slurmd", "z", "a"]);
    }
}
