//! The way into one running node.
//!
//! A link makes a few fixed queries: systemd's state, the first line that a port sends, whether a
//! port accepts, and the output of a command. [`crate::probe`] decides what the replies mean.
//!
//! ```text
//!            systemd                              a port               a command
//! host       D-Bus at the socket under the        dialled from a       the node's shell
//!            process's root                       thread in the
//!                                                 process's network
//! bridge     D-Bus through systemd-stdio-bridge   the node's shell     the node's shell
//! exec       systemctl, an exec each              an exec each         an exec each
//! ```
//!
//! The bridge and the shell are long-lived execs, at most one of each in a node. [`NodeLink`] takes
//! the best way that works, and [`Links`] keeps it for the next query.

mod bridge;
mod bus;
mod cgroup;
mod command;
mod daemon;
mod exec;
#[cfg(fuzzing)]
pub(crate) mod fuzzing;
mod gate;
mod greetings;
#[cfg(target_os = "linux")]
mod host;
mod journal;
mod node;
mod pool;
mod script;
mod shell;
mod target;

use std::{fmt, str::FromStr, sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::time::Instant;

pub(crate) use greetings::{Greeting, Wanted};
pub(crate) use node::Support;
pub(crate) use pool::{Lease, Links};

use crate::{
    engine::{EngineError, within},
    inbox::Inbox,
    question::{Answer, Question},
    reason::{Reason, ReasonCode},
    systemd::dbus::DbusError,
    unit::{SystemdState, UnitQuestion},
};
use target::Target;

/// The ways into a node that readyd may take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum LinkChoice {
    /// The best way that works for each node: host, else bridge, else exec.
    #[default]
    Auto,
    /// From outside, through the host's view of the node's processes: systemd's D-Bus socket under
    /// the process's root, and ports dialled from within its network. This requires root on the
    /// engine's own machine. Commands that have to run in the node still go through one long-lived
    /// exec.
    Host,
    /// Through long-lived execs, `systemd-stdio-bridge` and a shell. This works with any engine,
    /// local or remote.
    Bridge,
    /// An exec for each query. This works wherever a shell does, and costs a hundred times as much.
    Exec,
}

impl LinkChoice {
    /// All choices.
    pub const ALL: [Self; 4] = [Self::Auto, Self::Host, Self::Bridge, Self::Exec];

    /// The choice's name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Host => HOST,
            Self::Bridge => BRIDGE,
            Self::Exec => EXEC,
        }
    }
}

impl fmt::Display for LinkChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text is not the name of a way into nodes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("it should be auto, host, bridge or exec")]
pub struct InvalidLinkChoice;

impl FromStr for LinkChoice {
    type Err = InvalidLinkChoice;

    fn from_str(name: &str) -> Result<Self, InvalidLinkChoice> {
        let named = Self::ALL.into_iter().find(|choice| choice.as_str() == name);
        named.ok_or(InvalidLinkChoice)
    }
}

pub(crate) const HOST: &str = "host";
pub(crate) const BRIDGE: &str = "bridge";
pub(crate) const EXEC: &str = "exec";

/// The beginning of what an error adds where the one way that may be taken does not work.
pub(crate) const NO_OTHER_WAY: &str = " (readyd may take no other way";

/// Makes links for a test.
#[cfg(test)]
pub(crate) type Maker = Arc<dyn Fn(&crate::container::Container) -> Arc<dyn Link> + Send + Sync>;

/// The way into one running node.
#[async_trait]
pub(crate) trait Link: Send + Sync {
    /// Queries systemd. If the link can subscribe to changes, the listener's inbox receives a
    /// signal for each change after this reply; [`SystemdState::subscribed`] says whether it will.
    async fn systemd(
        &self,
        question: &UnitQuestion,
        listener: Option<&Arc<Inbox>>,
        by: Instant,
    ) -> Reply<SystemdState>;

    /// Queries a port or a command.
    async fn ask(&self, question: &Question, by: Instant) -> Reply<Answer>;

    /// Whether it is certain, at a glance, that no process of that name runs in the node. Where a look
    /// takes more than a glance, it is not.
    fn is_surely_missing(&self, _process: &'static str) -> bool {
        false
    }

    /// Completes once that process of the node, in the node's own numbering, has ended; never, where
    /// this link is not told.
    async fn process_end(&self, _pid: u32) {
        std::future::pending::<()>().await;
    }
}

/// A reply or an error, and the way by which the node was reached for it.
#[derive(Debug, Clone)]
pub(crate) struct Reply<T> {
    pub(crate) via: &'static str,
    pub(crate) result: Result<T, LinkError>,
}

impl<T> Reply<T> {
    fn by(via: &'static str, result: Result<T, LinkError>) -> Self {
        Self { via, result }
    }
}

/// The reason why a link got no reply. The variant decides between "not ready" and "could not
/// tell".
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum LinkError {
    /// The engine could not be queried, so nothing is known about the node.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A limit of readyd's own prevented the query, so nothing is known about the node.
    #[error("{what} could not be asked: {why}")]
    Busy {
        /// The target of the query.
        what: String,
        /// The limit that was reached.
        why: &'static str,
    },
    /// The way in broke, so nothing is known about the node. Another way may work.
    #[error("{0}")]
    Broken(String),
    /// This way does not lead into this node. Another way may work.
    #[error("{0}")]
    Unusable(String),
    /// The container stopped running. Its current state decides.
    #[error("the container stopped running")]
    NotRunning,
    /// The node was reached but did not reply in time.
    #[error("{what} has not answered {}", within(*limit))]
    Slow {
        /// The target of the query.
        what: String,
        /// The query's own limit; `None` if the caller set an earlier end.
        limit: Option<Duration>,
    },
    /// The node was reached, but no system bus listens there; mostly it does not listen yet.
    #[error("the node has no D-Bus yet: {why}")]
    NoBus {
        why: String,
        /// Whether the attempt to connect came to nobody, and so cannot have started a bus.
        reached_nobody: bool,
    },
    /// The node was reached but cannot reply: the command does not exist there, say.
    #[error("{0}")]
    Node(Reason),
}

impl LinkError {
    /// The node was reached but cannot reply.
    fn node(code: ReasonCode, why: impl AsRef<str>) -> Self {
        Self::Node(Reason::new(code, why))
    }

    /// Returns the code of a reason that this error is.
    pub(crate) fn code(&self) -> ReasonCode {
        match self {
            Self::Engine(error) => error.code(),
            Self::Busy { .. } => ReasonCode::NotAnsweredYet,
            Self::Broken(_) | Self::Unusable(_) => ReasonCode::EngineUnreachable,
            Self::NotRunning => ReasonCode::ContainerEnded,
            Self::Slow { .. } => ReasonCode::NoAnswer,
            Self::NoBus { .. } => ReasonCode::BusUnavailable,
            Self::Node(reason) => reason.code(),
        }
    }
}

impl From<DbusError> for LinkError {
    fn from(error: DbusError) -> Self {
        let said = error.to_string();
        match error {
            DbusError::Broken(_) => Self::Broken(said),
            DbusError::Refused(_) => Self::Unusable(said),
            DbusError::Said(_) => Self::node(ReasonCode::BusUnavailable, said),
            DbusError::Garbled(_) => Self::node(ReasonCode::WrongAnswer, said),
        }
    }
}
