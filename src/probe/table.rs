//! The table of probes: one row per probe, in the order in which they run.
//!
//! The known names, a role's probes, a node's services and the order all come from this table.

use super::{Finding, registered, slurmctld, slurmrestd, sshd};
use crate::{
    node::Role,
    question::{Answer, PortQuestion, Question},
};

/// A built-in probe.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    /// The nodes on which the probe runs unless a request names its probes.
    pub(crate) runs: Runs,
    /// Whether a snapshot lists the probe as a service.
    pub(crate) is_service: bool,
    pub(crate) method: Method,
}

/// The nodes on which a probe runs unless a request names its probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Runs {
    /// The probe runs on every node.
    Everywhere,
    /// The probe runs on nodes of that role.
    OnRole(Role),
    /// The probe runs on no node.
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

/// How a built-in probe gets its finding.
#[derive(Debug)]
pub(crate) enum Method {
    /// The probe judges the container's state.
    Container,
    /// The probe judges the state of the node's systemd.
    Systemd,
    /// A unit has to be active. The names are tried in order, and the first that exists counts.
    Unit(&'static [&'static str]),
    /// A unit has to be active, and the reply to a question has to pass.
    UnitAndAnswer(&'static [&'static str], Ask),
    /// The reply to a question has to pass. A snapshot looks at the unit instead.
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

/// A question, and the function that judges its answers.
#[derive(Debug)]
pub(crate) struct Ask {
    pub(crate) question: Question,
    pub(crate) judge: fn(&Answer) -> Finding,
    /// Whether an answer counts on a node that has no such unit.
    pub(crate) alone: bool,
    /// A cheaper question that replaces this one on nodes that understand it.
    pub(crate) shortcut: Option<Shortcut>,
}

/// A question to a port that not every node understands.
#[derive(Debug)]
pub(crate) struct Shortcut {
    pub(crate) name: &'static str,
    pub(crate) question: PortQuestion,
    pub(crate) judge: fn(&Answer) -> Understood,
}

/// Whether a node understands a question that not every node understands.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Understood {
    /// The node understands the question, and this is the finding.
    Yes(Finding),
    /// The node may understand the question: it did not reply in time or replied with an error,
    /// because it is not ready yet or too busy.
    Perhaps,
    /// The node does not understand the question.
    No,
}

/// Makes the row of a daemon whose probe looks at its unit only.
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
