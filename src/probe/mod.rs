//! The meaning of each probe: pure functions that turn a reply into a finding, and the table of
//! probes.
//!
//! ```text
//! base          container ─▶ systemd ─▶ sshd ─▶ munge
//! controller                                      └─▶ slurmctld
//! worker                                          └─▶ slurmd
//! db                                              └─▶ mariadb ─▶ slurmdbd
//! api                                             └─▶ slurmrestd
//! on request                                          healthcheck, sackd, registered
//! ```
//!
//! A node's probes run in this order and stop at the first that does not pass. A new probe needs a
//! row in the table in `table.rs`, and a file here if its meaning is new.

pub(crate) mod container;
pub(crate) mod credential;
pub(crate) mod daemon;
pub(crate) mod healthcheck;
pub(crate) mod job;
mod level;
mod mariadb;
mod munge;
mod node_record;
mod outcome;
mod own;
mod own_method;
mod readyz;
mod registered;
mod rpc;
mod service;
pub(crate) mod slurm_command;
mod slurmctld;
mod sshd;
mod systemd;
mod table;
mod unit_active;

use std::{fmt, pin::Pin, sync::Arc};

pub use level::Level;
pub(crate) use level::{JOBS, Reached};
pub use outcome::{Evidence, Outcome, ProbeError};
pub(crate) use outcome::{Finding, Judgement, Proof, UnitProof};
pub(crate) use own::Own;
pub use own::{InvalidProbe, OwnCheck, OwnProbe};
pub(crate) use rpc::Rpc;
pub use service::Service;

pub(crate) use systemd::judge as judge_systemd;
pub(crate) use table::{Ask, Method, Row, Shortcut, Understood};
pub(crate) use unit_active::{find as find_unit, judge as judge_unit, judge_socket};

use crate::{
    node::{NodeKind, NodeName, Profile, Role},
    question::{PortQuestion, Question},
};
pub(crate) use table::TABLE;

/// A named check of one condition of a node: built in, or the library user's own.
#[derive(Clone)]
pub struct Probe(Kind);

#[derive(Clone)]
enum Kind {
    /// A row of the table of that profile.
    Builtin(&'static Row, Profile, Depth),
    Custom(Arc<Custom>),
    /// A probe of the operator's own, on nodes of that profile.
    Own(Arc<Own>, Profile),
}

/// The kind of a probe, which decides how it gets its finding.
#[derive(Clone, Copy)]
pub(crate) enum ProbeKind<'a> {
    /// A built-in probe, with the method of its row in the table.
    Builtin(&'static Method),
    /// A check of the library user's own.
    Custom(&'a Custom),
}

/// What a daemon has to do to pass.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(crate) enum Depth {
    /// It has to listen.
    #[default]
    Listens,
    /// It has to answer in its own protocol, too.
    Answers,
}

/// The identity of a probe.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum ProbeKey {
    Builtin(&'static str, Profile, Depth),
    /// A check of the library user's own, by its address in memory: two checks of the same name
    /// need not be the same.
    Custom(usize),
    /// A probe of the operator's own, by its address in the same way.
    Own(&'static str, usize, Profile),
}

impl fmt::Display for ProbeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Builtin(name, ..) | Self::Own(name, ..) => f.write_str(name),
            Self::Custom(address) => write!(f, "custom probe {address:#x}"),
        }
    }
}

/// The future of a custom check.
type CheckFuture = Pin<Box<dyn Future<Output = Result<Outcome, ProbeError>> + Send>>;

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
    /// Returns the built-in probe of that name. What it means on a node is for the node's profile to say.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let row = TABLE.into_iter().find(|row| row.name == name)?;
        Some(Self::builtin(row, Profile::Systemd))
    }

    fn builtin(row: &'static Row, profile: Profile) -> Self {
        Self(Kind::Builtin(row, profile, Depth::default()))
    }

    /// Returns the probe as it is where the node's daemon has to answer, too.
    pub(crate) fn answered(self) -> Self {
        match self.0 {
            Kind::Builtin(row, profile, _) if row.method.rpc().is_some() => {
                Self(Kind::Builtin(row, profile, Depth::Answers))
            }
            kind => Self(kind),
        }
    }

    /// Returns what the probe's daemon has to answer, besides that it listens.
    pub(crate) fn rpc(&self) -> Option<Rpc> {
        match &self.0 {
            Kind::Builtin(row, _, Depth::Answers) => row.method.rpc(),
            _ => None,
        }
    }

    /// Makes probes of the operator's own; the error is about the one in that place.
    pub fn own_ones(probes: Vec<OwnProbe>) -> Result<Vec<Self>, (usize, InvalidProbe)> {
        let own = own::all(probes)?.into_iter();
        Ok(own
            .map(|own| Self(Kind::Own(Arc::new(own), Profile::Systemd)))
            .collect())
    }

    /// Returns what the operator has said of the probe, if it is one of the operator's own.
    #[must_use]
    pub fn own(&self) -> Option<&OwnProbe> {
        match &self.0 {
            Kind::Own(own, _) => Some(&own.probe),
            Kind::Builtin(..) | Kind::Custom(_) => None,
        }
    }

    /// Returns what the probe is for, in a line.
    #[must_use]
    pub fn description(&self) -> &str {
        match &self.0 {
            Kind::Own(own, _) => &own.probe.description,
            Kind::Builtin(row, ..) => row.about,
            Kind::Custom(_) => "",
        }
    }

    /// Returns the roles on whose nodes the probe runs unless a request names its probes; none if it runs on
    /// every node, or on none ([`Probe::is_on_request`]).
    #[must_use]
    pub fn roles(&self) -> Vec<Role> {
        match &self.0 {
            Kind::Own(own, _) => own.probe.roles.clone(),
            Kind::Builtin(row, ..) => match row.runs {
                table::Runs::OnRole(role) => vec![role],
                table::Runs::Everywhere | table::Runs::OnRequest => Vec::new(),
            },
            Kind::Custom(_) => Vec::new(),
        }
    }

    /// Returns whether the probe runs only where a request names it, or a level asks for it.
    #[must_use]
    pub fn is_on_request(&self) -> bool {
        match &self.0 {
            Kind::Builtin(row, ..) => row.runs == table::Runs::OnRequest,
            Kind::Own(..) => false,
            Kind::Custom(_) => true,
        }
    }

    /// Returns the probe as it is on nodes of that profile.
    pub(crate) fn in_profile(&self, profile: Profile) -> Self {
        if let Kind::Own(own, _) = &self.0 {
            return Self(Kind::Own(Arc::clone(own), profile));
        }
        let named = |row: &&&Row| row.name == self.name();
        match (&self.0, table::table(profile).iter().find(named)) {
            (Kind::Builtin(_, _, depth), Some(row)) => Self(Kind::Builtin(row, profile, *depth)),
            _ => self.clone(),
        }
    }

    /// Returns the names of all built-in probes, in the order in which they run.
    pub fn names() -> impl Iterator<Item = &'static str> {
        TABLE.into_iter().map(|row| row.name)
    }

    /// Returns the probes of a node with systemd, in the order in which they run. A node without a role
    /// has the probes that all roles share.
    #[must_use]
    pub fn of_role(role: Option<Role>) -> Vec<Self> {
        Self::of(role, Profile::Systemd)
    }

    /// Returns the probes of a node of that profile, in the same way.
    #[must_use]
    pub fn of(role: Option<Role>, profile: Profile) -> Vec<Self> {
        let rows = table::table(profile).iter();
        let rows = rows.filter(|row| row.runs.on(role));
        rows.map(|row| Self::builtin(row, profile)).collect()
    }

    /// Creates a probe of your own from a name, and from a check that gets the node's name.
    ///
    /// The probe runs after the built-in ones, in the order given, once they have passed. The check
    /// limits its own time, and its future is dropped when the wait ends.
    pub fn custom<F, C>(name: impl Into<String>, check: F) -> Self
    where
        F: Fn(NodeName) -> C + Send + Sync + 'static,
        C: Future<Output = Result<Outcome, ProbeError>> + Send + 'static,
    {
        Self(Kind::Custom(Arc::new(Custom {
            name: name.into(),
            check: Box::new(move |node| Box::pin(check(node))),
        })))
    }

    /// Returns the probe's name.
    #[must_use]
    pub fn name(&self) -> &str {
        match &self.0 {
            Kind::Builtin(row, ..) => row.name,
            Kind::Custom(custom) => &custom.name,
            Kind::Own(own, _) => &own.probe.name,
        }
    }

    pub(crate) fn key(&self) -> ProbeKey {
        match &self.0 {
            Kind::Builtin(row, profile, depth) => ProbeKey::Builtin(row.name, *profile, *depth),
            Kind::Custom(custom) => ProbeKey::Custom(Arc::as_ptr(custom) as usize),
            Kind::Own(own, profile) => {
                ProbeKey::Own(own.row.name, Arc::as_ptr(own) as usize, *profile)
            }
        }
    }

    pub(crate) fn kind(&self) -> ProbeKind<'_> {
        match &self.0 {
            Kind::Builtin(row, ..) => ProbeKind::Builtin(&row.method),
            Kind::Custom(custom) => ProbeKind::Custom(custom),
            Kind::Own(own, profile) => ProbeKind::Builtin(own.method(*profile)),
        }
    }

    pub(crate) fn is_container(&self) -> bool {
        matches!(self.kind(), ProbeKind::Builtin(Method::Container))
    }

    /// Returns the socket units of which an active one counts, in a snapshot, as the probe's unit.
    pub(crate) fn sockets(&self) -> &'static [&'static str] {
        match &self.0 {
            Kind::Builtin(row, ..) => row.sockets,
            Kind::Custom(_) | Kind::Own(..) => &[],
        }
    }

    /// Returns the names of the unit that the probe depends on, if it depends on one. The first
    /// name that exists in the node counts.
    pub(crate) fn unit_names(&self) -> &'static [&'static str] {
        match self.kind() {
            ProbeKind::Builtin(method) => method.unit_names(),
            ProbeKind::Custom(_) => &[],
        }
    }

    /// Returns whether the probe needs a reply of systemd.
    pub(crate) fn needs_systemd(&self) -> bool {
        let is_systemd = matches!(self.kind(), ProbeKind::Builtin(Method::Systemd));
        is_systemd || !self.unit_names().is_empty()
    }

    /// Returns whether the probe's reply stays valid for as long as its unit is unchanged. A banner
    /// does.
    pub(crate) fn stands_with_its_unit(&self) -> bool {
        let answer = matches!(self.kind(), ProbeKind::Builtin(Method::Answer(..)));
        answer && !self.unit_names().is_empty()
    }

    /// Returns whether the probe's own query is a command in the node, and nothing cheaper.
    pub(crate) fn is_command(&self) -> bool {
        match self.kind() {
            ProbeKind::Builtin(Method::Answer(_, ask)) => {
                matches!(ask.question, Question::Command(_)) && ask.shortcut.is_none()
            }
            _ => false,
        }
    }

    /// Returns the question of this probe to a port that must not be asked often, if it has one.
    pub(crate) fn sparing(&self) -> Option<(&'static Ask, PortQuestion)> {
        let ProbeKind::Builtin(Method::Answer(_, ask)) = self.kind() else {
            return None;
        };
        match ask.question {
            Question::Port(port) if !port.pause.is_zero() => Some((ask, port)),
            _ => None,
        }
    }

    /// Returns the name of the processes of the probe's daemon: each of Slurm's is called as its probe.
    pub(crate) fn process(&self) -> &'static str {
        match &self.0 {
            Kind::Builtin(row, ..) => row.name,
            Kind::Custom(_) | Kind::Own(..) => "",
        }
    }

    /// Returns the name of the pending query, as a reason contains it while there is no reply yet.
    pub(crate) fn asks(&self) -> String {
        match self.kind() {
            ProbeKind::Builtin(Method::Container | Method::Healthcheck) => "the engine".to_owned(),
            ProbeKind::Builtin(Method::Systemd | Method::Unit(_)) => "systemd".to_owned(),
            ProbeKind::Builtin(
                Method::UnitAndAnswer(_, ask)
                | Method::Answer(_, ask)
                | Method::UnitUnless(_, ask)
                | Method::ProcessAndAnswer(_, ask),
            ) => ask.question.to_string(),
            ProbeKind::Builtin(Method::Daemon(daemon) | Method::Process(daemon, _))
                if self.rpc().is_some() =>
            {
                daemon.name().to_owned()
            }
            ProbeKind::Builtin(Method::Daemon(daemon) | Method::Process(daemon, _)) => {
                format!("the search for the sockets of {}", daemon.name())
            }
            ProbeKind::Builtin(Method::NotInProfile) => String::new(),
            ProbeKind::Custom(custom) => format!("the check {}", custom.name),
        }
    }

    /// Puts the operator's own probes of nodes of that kind among those of a node.
    pub(crate) fn insert_own(probes: &mut Vec<Self>, own: &[Self], kind: NodeKind) {
        own::insert(probes, own, kind);
    }

    /// Sorts probes into the order in which they run: built-in ones in the order of the table, then
    /// the operator's own and custom ones in the order given.
    pub(crate) fn sort(probes: &mut [Self]) {
        let place = |probe: &Self| {
            let row = |row: &&Row| row.name == probe.name();
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
