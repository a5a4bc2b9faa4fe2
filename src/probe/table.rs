//! The table of probes: a row for each, in the order in which they run.
//!
//! The known names, a role's probes, a node's services and the order all come from here.

use super::{Finding, registered, slurmctld, slurmrestd, sshd};
use crate::{
    node::Role,
    question::{Answer, PortQuestion, Question},
};

/// A probe that readyd brings along.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    /// On which nodes it runs unless a request names its probes.
    pub(crate) runs: Runs,
    /// Whether a snapshot lists it as a service.
    pub(crate) is_service: bool,
    pub(crate) method: Method,
}

/// On which nodes a probe runs unless a request names its probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Runs {
    /// On every node.
    Everywhere,
    /// On nodes of that role.
    OnRole(Role),
    /// On none.
    OnRequest,
}

impl Runs {
    pub(crate) fn on(self, role: Option<Role>) -> bool {
        match self {
            Self::Everywhere => true,
            Self::OnRole(own) => role == Some(own),
            Self::OnRequest => false,
        }
    }
}

/// How a built-in probe comes to its finding.
#[derive(Debug)]
pub(crate) enum Method {
    /// The container's state.
    Container,
    /// The state of the node's systemd.
    Systemd,
    /// A unit is active. The names are tried in order, the first that exists counts.
    Unit(&'static [&'static str]),
    /// The unit is active, and a question is answered well.
    UnitAndAnswer(&'static [&'static str], Ask),
    /// A question is answered well; a snapshot looks at the unit instead.
    Answer(&'static [&'static str], Ask),
}

impl Method {
    pub(crate) fn unit_names(&self) -> &'static [&'static str] {
        match self {
            Self::Container | Self::Systemd => &[],
            Self::Unit(names) | Self::UnitAndAnswer(names, _) | Self::Answer(names, _) => names,
        }
    }
}

/// A question, and what its answers mean.
#[derive(Debug)]
pub(crate) struct Ask {
    pub(crate) question: Question,
    pub(crate) judge: fn(&Answer) -> Finding,
    /// Whether an answer counts on a node that has no such unit.
    pub(crate) alone: bool,
    /// A cheaper question that stands in for it, on nodes that understand it.
    pub(crate) shortcut: Option<Shortcut>,
}

/// A question to a port that not every node understands.
#[derive(Debug)]
pub(crate) struct Shortcut {
    pub(crate) name: &'static str,
    pub(crate) question: PortQuestion,
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

/// A daemon whose unit is all that is looked at.
const fn unit(name: &'static str, runs: Runs, units: &'static [&'static str]) -> Row {
    Row {
        name,
        runs,
        is_service: !matches!(runs, Runs::OnRequest),
        method: Method::Unit(units),
    }
}

static CONTAINER: Row = Row {
    name: "container",
    runs: Runs::Everywhere,
    is_service: false,
    method: Method::Container,
};

static SYSTEMD: Row = Row {
    name: "systemd",
    runs: Runs::Everywhere,
    is_service: false,
    method: Method::Systemd,
};

// Debian calls the unit ssh.service; sshd.service is its alias there, if it is enabled.
pub(super) static SSHD: Row = Row {
    name: "sshd",
    runs: Runs::Everywhere,
    is_service: true,
    method: Method::Answer(&["sshd.service", "ssh.service"], sshd::ASK),
};

pub(super) static MUNGE: Row = unit("munge", Runs::Everywhere, &["munge.service"]);

pub(super) static SLURMCTLD: Row = Row {
    name: "slurmctld",
    runs: Runs::OnRole(Role::Controller),
    is_service: true,
    method: Method::UnitAndAnswer(&["slurmctld.service"], slurmctld::ASK),
};

pub(super) static SLURMD: Row = unit("slurmd", Runs::OnRole(Role::Worker), &["slurmd.service"]);

pub(super) static SLURMDBD: Row = unit("slurmdbd", Runs::OnRole(Role::Db), &["slurmdbd.service"]);

static SACKD: Row = unit("sackd", Runs::OnRequest, &["sackd.service"]);

pub(super) static SLURMRESTD: Row = Row {
    name: "slurmrestd",
    runs: Runs::OnRole(Role::Api),
    is_service: true,
    method: Method::UnitAndAnswer(&["slurmrestd.service"], slurmrestd::ASK),
};

static REGISTERED: Row = Row {
    name: "registered",
    runs: Runs::OnRequest,
    is_service: false,
    method: Method::Answer(&[], registered::ASK),
};

/// All built-in probes, in the order in which they run.
pub(super) static TABLE: [&Row; 10] = [
    &CONTAINER,
    &SYSTEMD,
    &SSHD,
    &MUNGE,
    &SLURMCTLD,
    &SLURMD,
    &SLURMDBD,
    &SACKD,
    &SLURMRESTD,
    &REGISTERED,
];
