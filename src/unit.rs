//! systemd's description of a node, as plain types: the state of the system, and of units.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use crate::{
    reason::{Reason, ReasonCode},
    text::Detail,
};

/// A question to systemd: always its own state, and these units.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UnitQuestion {
    /// Names of units.
    pub(crate) units: Vec<&'static str>,
    /// The units whose proof is wanted: the properties that distinguish one start from another, and
    /// for how long the unit has been active.
    pub(crate) proofs: Vec<&'static str>,
    /// Whether the end of the journal of failed units is read.
    pub(crate) journal: bool,
    /// Whether the jobs are wanted that a boot waits for.
    pub(crate) jobs: bool,
}

/// How many failed units a reply names at most: more than a reason has room for.
pub(crate) const FAILED_UNITS: usize = 64;

/// How many jobs a reply names at most.
pub(crate) const JOBS: usize = 8;

/// The state in one reply from systemd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SystemdState {
    /// The state of the system as a whole, in systemd's own word: `starting`, `running`,
    /// `degraded` and others (systemctl(1), `is-system-running`).
    pub(crate) system: String,
    /// The failed units, if the system is degraded: the first [`FAILED_UNITS`] by name; `None` if
    /// there are too many to list.
    pub(crate) failed_units: Option<Vec<String>>,
    /// Some jobs that run, by the names of their units, if they were asked for and the boot is not over.
    pub(crate) jobs: Vec<Job>,
    /// The units of the question, by their names in it.
    pub(crate) units: BTreeMap<String, Unit>,
    /// Whether signals of every later change will reach the caller's inbox.
    pub(crate) subscribed: bool,
    /// The number of the last signal of a unit that arrived before this reply. The state includes
    /// that change.
    pub(crate) last_signal: u64,
}

/// A job that systemd runs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Job {
    /// The name of the job's unit.
    pub(crate) unit: String,
    /// Since when the unit has been on its way, in whole seconds of the node's clock; `None` if it is not
    /// known.
    pub(crate) since: Option<SystemTime>,
}

/// Whether the system's state, in systemd's own word, says that the boot is not over.
pub(crate) fn is_booting(system: &str) -> bool {
    matches!(system, "initializing" | "starting")
}

/// A unit, as systemd describes it (org.freedesktop.systemd1(5)).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Unit {
    /// The unit's real name: `ssh.service` if the question named its alias `sshd.service`.
    pub(crate) id: String,
    /// `LoadState`: loaded, not-found, masked and others.
    pub(crate) load: String,
    /// `ActiveState`: active, reloading, inactive, failed, activating, deactivating and others.
    pub(crate) active: String,
    /// `SubState`, the unit type's own finer state: running, dead, auto-restart and others.
    pub(crate) sub: String,
    /// `Result`: success, exit-code, timeout and others.
    pub(crate) result: String,
    /// `Type` of a service: simple, exec, forking, notify and others.
    pub(crate) kind: String,
    /// `MainPID` in the node's own numbering; zero if there is none.
    pub(crate) main_pid: u32,
    /// `ExecMainPID`: the main process, also once it has ended.
    pub(crate) exec_pid: u32,
    /// `InvocationID`, which differs for each start.
    pub(crate) invocation: String,
    /// Whether a job is queued for the unit.
    pub(crate) job: bool,
    /// Whether a start was tried and `ConditionResult` is no: a condition of the unit kept it from
    /// starting.
    pub(crate) condition_failed: bool,
    /// `StateChangeTimestampMonotonic`, in microseconds of the node's clock. It is equal in two
    /// replies only if nothing changed in between.
    pub(crate) changed: u64,
    /// The earliest time, on the same clock, since which the unit can have been active under the
    /// same main process.
    pub(crate) since: Duration,
    /// For how long the unit has been active under the same main process, at least; `None` if the
    /// node gives no clocks to reckon this by.
    pub(crate) age: Option<Duration>,
    /// The end of the unit's journal, if the unit has failed and journals are read.
    pub(crate) journal: Detail,
}

impl Unit {
    /// Whether systemd knows a unit with this name.
    pub(crate) fn exists(&self) -> bool {
        self.load != "not-found" && !self.load.is_empty()
    }

    /// Whether the unit is active, in the sense of `systemctl is-active`: a unit that reloads is
    /// up.
    pub(crate) fn is_active(&self) -> bool {
        matches!(self.active.as_str(), "active" | "reloading" | "refreshing")
    }

    /// Whether the unit has failed and is not on its way to another start.
    pub(crate) fn is_failed(&self) -> bool {
        self.active == "failed" && !self.job
    }

    /// Whether the unit is down and not about to change that: it is inactive or has failed, and no job is
    /// queued for it.
    pub(crate) fn is_at_rest(&self) -> bool {
        matches!(self.active.as_str(), "inactive" | "failed" | "") && !self.job
    }

    /// Whether the active state proves anything. With these types, a unit is active once it has
    /// reported so or has done its work. With the others (simple, exec, idle), a unit is active as
    /// soon as its process is forked, before that could fail (systemd.service(5), `Type=`). An
    /// unknown type proves nothing.
    pub(crate) fn tells(&self) -> bool {
        matches!(
            self.kind.as_str(),
            "notify" | "notify-reload" | "forking" | "dbus" | "oneshot"
        )
    }

    /// Whether both are the same unit under the same process, and nothing changed in between.
    pub(crate) fn is_same_start(&self, other: &Self) -> bool {
        let of = |unit: &Self| (unit.main_pid, unit.changed, unit.since);
        self.id == other.id && self.invocation == other.invocation && of(self) == of(other)
    }

    /// The code of a reason that the unit is not up.
    fn code(&self) -> ReasonCode {
        match (self.load.as_str(), self.active.as_str()) {
            ("masked", _) => ReasonCode::UnitMasked,
            ("not-found" | "", _) => ReasonCode::UnitMissing,
            (_, "failed") => ReasonCode::UnitFailed,
            (_, "activating") => ReasonCode::UnitActivating,
            _ => ReasonCode::UnitInactive,
        }
    }

    /// What the last words of a failed unit ask for, where that is known.
    fn hint(&self) -> &'static str {
        // slurmctld gives up if slurmdbd does not answer at its very first start.
        let lacks_database = self.journal.as_str().contains("we have no TRES from it");
        if lacks_database {
            ": it got nothing from its database, which may not be up yet; started again once slurmdbd \
             answers, it goes on, and a wait with KEEP_WAITING waits for that"
        } else {
            ""
        }
    }

    /// The state in words, for a reason.
    pub(crate) fn describe(&self) -> Reason {
        let Self {
            id,
            active,
            sub,
            result,
            ..
        } = self;
        Reason::new(
            self.code(),
            match self.load.as_str() {
                "masked" => format!("{id} is masked"),
                "not-found" | "" => format!("{id} does not exist in the node"),
                "loaded" => match active.as_str() {
                    "failed" if result != "success" && !result.is_empty() => {
                        format!("{id} is failed (result: {result}){}", self.hint())
                    }
                    "inactive" if self.condition_failed => format!(
                        "{id} is inactive: a condition of its unit file is not met (a missing configuration file, say)"
                    ),
                    _ if active == sub || sub.is_empty() => format!("{id} is {active}"),
                    _ => format!("{id} is {active} ({sub})"),
                },
                load => format!("{id} cannot be loaded ({load})"),
            },
        )
    }
}
