//! The way into one running node.
//!
//! A link answers a few fixed questions: what systemd says, what a port sends first, whether a port
//! accepts, what a command prints. What the answers mean is the business of [`crate::probe`].
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
//! the best way that works, [`Links`] keeps it for the next look.

mod bridge;
mod bus;
mod command;
mod exec;
mod gate;
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

pub(crate) use node::Support;
pub(crate) use pool::{Lease, Links};

use crate::{
    engine::{EngineError, within},
    inbox::Inbox,
    question::{Answer, Question},
    systemd::dbus::DbusError,
    unit::{SystemdState, UnitQuestion},
};
use target::Target;

/// Which ways into a node may be taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LinkChoice {
    /// The best that works for each node: host, else bridge, else exec.
    #[default]
    Auto,
    /// From outside, through the host's view of the node's processes: systemd's D-Bus socket under
    /// the process's root, and ports dialled from within its network. Takes root on the engine's own
    /// machine. What has to run in the node still goes through one long-lived exec.
    Host,
    /// Through long-lived execs, `systemd-stdio-bridge` and a shell: any engine, local or remote.
    Bridge,
    /// An exec for each question: works wherever a shell does, and costs a hundred times as much.
    Exec,
}

impl LinkChoice {
    /// All of them.
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

impl FromStr for LinkChoice {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let named = Self::ALL.into_iter().find(|choice| choice.as_str() == name);
        named.ok_or_else(|| "it should be auto, host, bridge or exec".to_owned())
    }
}

pub(crate) const HOST: &str = "host";
pub(crate) const BRIDGE: &str = "bridge";
pub(crate) const EXEC: &str = "exec";

/// Makes links that a test has thought out.
#[cfg(test)]
pub(crate) type Maker = Arc<dyn Fn(&crate::container::Container) -> Arc<dyn Link> + Send + Sync>;

/// The way into one running node.
#[async_trait]
pub(crate) trait Link: Send + Sync {
    /// What systemd says. Where changes can be heard of, the listener is told of each that comes after
    /// this look: [`SystemdState::subscribed`] says whether it will be.
    async fn systemd(
        &self,
        question: &UnitQuestion,
        listener: Option<&Arc<Inbox>>,
        by: Instant,
    ) -> Reply<SystemdState>;

    /// What a port or a command says.
    async fn ask(&self, question: &Question, by: Instant) -> Reply<Answer>;
}

/// An answer or an error, and how the node was reached for it.
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

/// Why a link gave no answer. The difference decides between "not ready" and "could not tell".
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum LinkError {
    /// The engine could not be asked: nothing is known of the node.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// Our own limits kept us from asking: nothing is known of the node.
    #[error("{what} could not be asked: {why}")]
    Busy {
        /// What was asked.
        what: String,
        /// Which limit.
        why: &'static str,
    },
    /// The way in broke: nothing is known of the node. Another may work.
    #[error("{0}")]
    Broken(String),
    /// This is no way into this node. Another may work.
    #[error("{0}")]
    Unusable(String),
    /// The container stopped running. What it is now decides.
    #[error("the container stopped running")]
    NotRunning,
    /// The node was reached, and did not answer in time.
    #[error("{what} has not answered {}", within(*limit))]
    Slow {
        /// What was asked.
        what: String,
        /// The command's own limit; none if who asked set an earlier end.
        limit: Option<Duration>,
    },
    /// The node was reached, and has no system bus that listens: not yet, mostly.
    #[error("the node has no D-Bus yet: {0}")]
    NoBus(String),
    /// The node was reached, and cannot answer: there is no such command, say.
    #[error("{0}")]
    Node(String),
}

impl From<DbusError> for LinkError {
    fn from(error: DbusError) -> Self {
        let said = error.to_string();
        match error {
            DbusError::Broken(_) => Self::Broken(said),
            DbusError::Refused(_) => Self::Unusable(said),
            DbusError::Said(_) | DbusError::Garbled(_) => Self::Node(said),
        }
    }
}
