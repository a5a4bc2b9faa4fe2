//! The way in by exec. It works wherever the engine can be reached, but costs a hundred times as
//! much as the query itself, so it is the last resort.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::time::Instant;

use super::{
    EXEC, Link, LinkError, Reply, Target,
    command::{Commands, lossy},
};
use crate::{
    inbox::Inbox,
    question::{Answer, Question},
    reason::ReasonCode,
    systemd::systemctl,
    unit::{SystemdState, UnitQuestion},
};

/// The way into one container by an exec for each query.
pub(crate) struct ExecLink(Commands);

impl ExecLink {
    pub(super) fn new(target: Target) -> Self {
        Self(Commands::each(target))
    }

    async fn systemctl(
        &self,
        question: &UnitQuestion,
        by: Instant,
    ) -> Result<SystemdState, LinkError> {
        let journal = if question.journal { "yes" } else { "no" };
        let jobs = if question.jobs { "yes" } else { "no" };
        let mut argv = vec!["sh", "-c", systemctl::SCRIPT, "sh", journal, jobs];
        argv.extend(&question.units);
        let output = self.0.command("systemctl", &argv, by).await?;
        systemctl::parse(&lossy(&output.stdout), &question.units).map_err(|said| {
            LinkError::node(
                ReasonCode::BusUnavailable,
                format!("systemd does not answer: {said}"),
            )
        })
    }
}

#[async_trait]
impl Link for ExecLink {
    /// Never subscribes the listener: systemctl sends nothing more once it has ended.
    async fn systemd(
        &self,
        question: &UnitQuestion,
        _listener: Option<&Arc<Inbox>>,
        by: Instant,
    ) -> Reply<SystemdState> {
        Reply::by(EXEC, self.systemctl(question, by).await)
    }

    async fn ask(&self, question: &Question, by: Instant) -> Reply<Answer> {
        Reply::by(EXEC, self.0.ask(question, by).await)
    }
}
