//! The reason why a node is not ready: a code for machines, and a line of text for people.

use std::fmt;

use crate::text::Line;

/// The kind of a reason. The text of a reason may change between versions; its code does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum ReasonCode {
    /// The container does not exist, or no longer does.
    ContainerMissing,
    /// The container was created and not started.
    ContainerNotStarted,
    /// The container is paused.
    ContainerPaused,
    /// The container is being restarted by the engine.
    ContainerRestarting,
    /// The container's run has ended, or is ending.
    ContainerEnded,
    /// The engine's own health status of the container is not healthy.
    ContainerUnhealthy,
    /// The container's role label is not a role.
    RoleInvalid,
    /// systemd has not finished booting.
    Booting,
    /// The node's D-Bus cannot be reached or refuses to answer.
    BusUnavailable,
    /// systemd knows no such unit.
    UnitMissing,
    /// The unit is masked.
    UnitMasked,
    /// The unit is not active.
    UnitInactive,
    /// The unit is being started.
    UnitActivating,
    /// The unit has failed.
    UnitFailed,
    /// The daemon runs, which does not prove yet that it works.
    Unproven,
    /// The port does not accept connections.
    PortClosed,
    /// The node was asked and has not answered in time.
    NoAnswer,
    /// The node has answered something else than it should.
    WrongAnswer,
    /// The controller does not answer RPCs.
    RpcDown,
    /// The controller has not registered the node.
    NotRegistered,
    /// The controller has registered the node, in a state that runs no jobs.
    NodeUnusable,
    /// No process of the daemon runs.
    ProcessMissing,
    /// A command could not run in the node, or failed there.
    CommandFailed,
    /// What was found has to be confirmed by another look.
    Confirming,
    /// The container engine, or the way through it into the node, cannot be reached.
    EngineUnreachable,
    /// The container engine has not answered in time.
    EngineSlow,
    /// The probe was asked and has not answered yet.
    NotAnsweredYet,
    /// The cluster has fewer nodes than were asked for.
    ClusterIncomplete,
    /// The container's profile label is not a profile, or the profile does not fit the container.
    ProfileInvalid,
    /// munge or another authentication refused: keys or clocks differ.
    AuthFailed,
    /// The job has failed.
    JobFailed,
}

/// A code, and a line of clean text that says the same to people.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reason {
    code: ReasonCode,
    text: Line,
}

impl Reason {
    /// Makes a reason. [`Line::new`] describes how it changes the text.
    #[must_use]
    pub fn new(code: ReasonCode, text: impl AsRef<str>) -> Self {
        let text = Line::new(text);
        Self { code, text }
    }

    /// Returns the code.
    #[must_use]
    pub fn code(&self) -> ReasonCode {
        self.code
    }

    /// Returns the text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.text.as_str()
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.text.fmt(f)
    }
}
