//! The way into one running node.
//!
//! A link answers a few fixed questions: what systemd says, what a port sends first, whether a port
//! accepts, what a command prints. What the answers mean is the business of [`crate::probe`].

pub(crate) mod exec;
mod gate;

use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

pub(crate) use gate::ExecGate;

use crate::{
    question::{Answer, Question},
    runtime::{RuntimeError, within},
    unit::{SystemdLook, UnitQuestion},
};

/// The way into one running node.
#[async_trait]
pub(crate) trait Link: Send + Sync {
    /// How the node is reached, in a word.
    fn via(&self) -> &'static str;

    /// What systemd says.
    async fn systemd(&self, question: &UnitQuestion, by: Instant)
    -> Result<SystemdLook, LinkError>;

    /// What a port or a command says.
    async fn ask(&self, question: &Question, by: Instant) -> Result<Answer, LinkError>;
}

/// Why a link gave no answer. The difference decides between "not ready" and "could not tell".
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum LinkError {
    /// The engine could not be asked: nothing is known of the node.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// Our own limits kept us from asking: nothing is known of the node.
    #[error("{what} could not be asked: {why}")]
    Busy {
        /// What was asked.
        what: String,
        /// Which limit.
        why: &'static str,
    },
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
    /// The node was reached, and cannot answer: there is no bus yet, or no such command.
    #[error("{0}")]
    Node(String),
}
