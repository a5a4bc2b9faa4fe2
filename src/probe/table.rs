//! The table of probes: one row per probe, in the order in which they run.
//!
//! The known names, a role's probes, a node's services and the order all come from this table.

use super::{
    Finding,
    daemon::{Daemon, Listens},
    mariadb, munge, registered,
    rpc::Rpc,
    slurmctld, sshd,
};
use crate::{
    node::{Profile, Role},
    question::{Answer, PortQuestion, Question},
};

/// A built-in probe.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    /// What it is for, in a line.
    pub(crate) about: &'static str,
    /// The nodes on which the probe runs unless a request names its probes.
    pub(crate) runs: Runs,
    /// Whether a snapshot lists the probe as a service.
    pub(crate) is_service: bool,
    /// The socket units by which systemd starts the daemon once somebody connects. In a snapshot, an
    /// active one counts as well as the daemon's own unit.
    pub(crate) sockets: &'static [&'static str],
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
    /// The probe judges the engine's own health status of the container.
    Healthcheck,
    /// The probe judges the state of the node's systemd.
    Systemd,
    /// A unit has to be active. The names are tried in order, and the first that exists counts.
    Unit(&'static [&'static str]),
    /// A unit has to be active, unless the reply to a question says that the node does without. A snapshot
    /// looks at the unit alone.
    UnitUnless(&'static [&'static str], Ask),
    /// A unit has to be active, and its daemon has to listen. A snapshot looks at the unit alone.
    Daemon(Daemon),
    /// A unit has to be active, and the reply to a question has to pass.
    UnitAndAnswer(&'static [&'static str], Ask),
    /// The reply to a question has to pass. A snapshot looks at the unit instead.
    Answer(&'static [&'static str], Ask),
    /// A process has to run and to listen; or the reply to a question says that the node does without.
    Process(Daemon, Option<Ask>),
    /// A process has to run, and the reply to a question has to pass.
    ProcessAndAnswer(&'static str, Ask),
    /// The node's profile has no such probe.
    NotInProfile,
}

impl Method {
    pub(crate) fn unit_names(&self) -> &'static [&'static str] {
        match self {
            Self::Container
            | Self::Healthcheck
            | Self::Systemd
            | Self::Process(..)
            | Self::ProcessAndAnswer(..)
            | Self::NotInProfile => &[],
            Self::Daemon(daemon) => daemon.units,
            Self::Unit(names)
            | Self::UnitUnless(names, _)
            | Self::UnitAndAnswer(names, _)
            | Self::Answer(names, _) => names,
        }
    }

    /// What a daemon has to answer at the level RPC.
    pub(super) fn rpc(&self) -> Option<Rpc> {
        match self {
            Self::Daemon(daemon) | Self::Process(daemon, _) => daemon.rpc,
            _ => None,
        }
    }
}

/// A question, and the function that judges its answers.
#[derive(Debug)]
pub(crate) struct Ask {
    pub(crate) question: Question,
    /// The daemon of Slurm, by the name of its processes, whose executables and configuration a command
    /// has to use. The script gets them as its last arguments
    /// ([`slurm_command::arguments`](super::slurm_command::arguments)).
    pub(crate) as_daemon: Option<&'static str>,
    pub(crate) judge: fn(&Answer) -> Finding,
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

/// What the built-in probe of that name is for.
const fn about(name: &str) -> &'static str {
    match name.as_bytes() {
        b"container" => "the container runs",
        b"healthcheck" => "the engine's own health check of the container passes",
        b"systemd" => "systemd has finished booting",
        b"sshd" => "port 22 answers with the banner of SSH",
        b"munge" => "munged runs",
        b"slurmctld" => "this node's slurmctld answers an RPC",
        b"slurmd" => "slurmd runs and listens",
        b"mariadb" => "the database of slurmdbd runs",
        b"slurmdbd" => "slurmdbd runs and listens",
        b"sackd" => "sackd runs",
        b"slurmrestd" => "slurmrestd runs and listens",
        b"registered" => "the controller has this worker registered, in a state that runs jobs",
        _ => "",
    }
}

/// Makes the row of a daemon whose probe looks at its unit only.
const fn unit(name: &'static str, runs: Runs, units: &'static [&'static str]) -> Row {
    Row {
        name,
        about: about(name),
        runs,
        is_service: !matches!(runs, Runs::OnRequest),
        sockets: &[],
        method: Method::Unit(units),
    }
}

/// Makes the row of a probe that is no service.
const fn condition(name: &'static str, runs: Runs, method: Method) -> Row {
    Row {
        name,
        about: about(name),
        runs,
        is_service: false,
        sockets: &[],
        method,
    }
}

/// Makes the row of a daemon of a role.
const fn daemon(name: &'static str, role: Role, method: Method) -> Row {
    Row {
        name,
        about: about(name),
        runs: Runs::OnRole(role),
        is_service: true,
        sockets: &[],
        method,
    }
}

static CONTAINER: Row = condition("container", Runs::Everywhere, Method::Container);

static HEALTHCHECK: Row = condition("healthcheck", Runs::OnRequest, Method::Healthcheck);

static SYSTEMD: Row = condition("systemd", Runs::Everywhere, Method::Systemd);

// Debian calls the unit ssh.service; sshd.service is its alias there, if it is enabled.
pub(super) static SSHD: Row = Row {
    name: "sshd",
    about: about("sshd"),
    runs: Runs::Everywhere,
    is_service: true,
    sockets: &["ssh.socket", "sshd.socket"],
    method: Method::Answer(&["sshd.service", "ssh.service"], sshd::ASK),
};

pub(super) static MUNGE: Row = Row {
    name: "munge",
    about: about("munge"),
    runs: Runs::Everywhere,
    is_service: true,
    sockets: &[],
    method: Method::UnitUnless(&["munge.service"], munge::ASK),
};

pub(super) static SLURMCTLD: Row = daemon(
    "slurmctld",
    Role::Controller,
    Method::UnitAndAnswer(&["slurmctld.service"], slurmctld::ASK),
);

pub(super) static SLURMD: Row = daemon(
    "slurmd",
    Role::Worker,
    Method::Daemon(Daemon {
        units: &["slurmd.service"],
        processes: &["slurmd"],
        listens: Listens::Tcp,
        by_hand: true,
        readyz: true,
        rpc: Some(Rpc::Status),
    }),
);

static MARIADB: Row = condition(
    "mariadb",
    Runs::OnRole(Role::Db),
    Method::UnitUnless(
        &["mariadb.service", "mysql.service", "mysqld.service"],
        mariadb::ASK,
    ),
);

pub(super) static SLURMDBD: Row = daemon(
    "slurmdbd",
    Role::Db,
    Method::Daemon(Daemon {
        units: &["slurmdbd.service"],
        processes: &["slurmdbd"],
        listens: Listens::Tcp,
        by_hand: true,
        readyz: false,
        rpc: Some(Rpc::Opening),
    }),
);

static SACKD: Row = unit("sackd", Runs::OnRequest, &["sackd.service"]);

pub(super) static SLURMRESTD: Row = daemon(
    "slurmrestd",
    Role::Api,
    Method::Daemon(Daemon {
        units: &["slurmrestd.service"],
        processes: &["slurmrestd"],
        listens: Listens::Any,
        by_hand: false,
        readyz: false,
        rpc: Some(Rpc::Http),
    }),
);

static REGISTERED: Row = condition(
    "registered",
    Runs::OnRequest,
    Method::Answer(&[], registered::ASK),
);

/// All built-in probes of nodes with systemd, in the order in which they run.
pub(crate) static TABLE: [&Row; 12] = [
    &CONTAINER,
    &HEALTHCHECK,
    &SYSTEMD,
    &SSHD,
    &MUNGE,
    &SLURMCTLD,
    &SLURMD,
    &MARIADB,
    &SLURMDBD,
    &SACKD,
    &SLURMRESTD,
    &REGISTERED,
];

/// The same of nodes without systemd.
pub(super) static PROCESS_TABLE: [&Row; 12] = {
    static HEALTHCHECK: Row = condition("healthcheck", Runs::Everywhere, Method::Healthcheck);
    static SYSTEMD: Row = condition("systemd", Runs::OnRequest, Method::NotInProfile);
    static SSHD: Row = condition("sshd", Runs::OnRequest, Method::NotInProfile);
    static MUNGE: Row = Row {
        name: "munge",
        about: about("munge"),
        runs: Runs::Everywhere,
        is_service: true,
        sockets: &[],
        method: Method::Process(process(&["munged"], Listens::Any), Some(munge::ASK)),
    };
    static SLURMCTLD: Row = daemon(
        "slurmctld",
        Role::Controller,
        Method::ProcessAndAnswer("slurmctld", slurmctld::ASK),
    );
    static SLURMD: Row = daemon(
        "slurmd",
        Role::Worker,
        Method::Process(
            Daemon {
                readyz: true,
                rpc: Some(Rpc::Status),
                ..process(&["slurmd"], Listens::Tcp)
            },
            None,
        ),
    );
    static MARIADB: Row = condition(
        "mariadb",
        Runs::OnRole(Role::Db),
        Method::Process(
            process(&["mariadbd", "mysqld"], Listens::Any),
            Some(mariadb::ASK),
        ),
    );
    static SLURMDBD: Row = daemon(
        "slurmdbd",
        Role::Db,
        Method::Process(
            Daemon {
                rpc: Some(Rpc::Opening),
                ..process(&["slurmdbd"], Listens::Tcp)
            },
            None,
        ),
    );
    static SACKD: Row = condition(
        "sackd",
        Runs::OnRequest,
        Method::Process(process(&["sackd"], Listens::Nowhere), None),
    );
    static SLURMRESTD: Row = daemon(
        "slurmrestd",
        Role::Api,
        Method::Process(
            Daemon {
                rpc: Some(Rpc::Http),
                ..process(&["slurmrestd"], Listens::Any)
            },
            None,
        ),
    );
    [
        &CONTAINER,
        &HEALTHCHECK,
        &SYSTEMD,
        &SSHD,
        &MUNGE,
        &SLURMCTLD,
        &SLURMD,
        &MARIADB,
        &SLURMDBD,
        &SACKD,
        &SLURMRESTD,
        &REGISTERED,
    ]
};

/// Makes a daemon without a unit.
const fn process(processes: &'static [&'static str], listens: Listens) -> Daemon {
    Daemon {
        units: &[],
        processes,
        listens,
        by_hand: true,
        readyz: false,
        rpc: None,
    }
}

/// The table of a profile.
pub(super) fn table(profile: Profile) -> &'static [&'static Row; 12] {
    match profile {
        Profile::Systemd => &TABLE,
        Profile::Process => &PROCESS_TABLE,
    }
}
