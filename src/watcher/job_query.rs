//! The job of a wait, run from one of its nodes.

use std::sync::Arc;

use tokio::time::Instant;

use super::{
    context::{Caller, Context},
    found::Found,
    report_builder::EvaluatedProbe,
    session::{ENGINE, NodeSession, QueryError},
    span::Span,
};
use crate::{
    link::Reply,
    node::{NodeName, Role},
    probe::{JOBS, Outcome, ProbeError, job::Job},
    report::ProbeResult,
};

/// Runs a job from a node of that role, and reports how it went. It is cancelled if this is dropped.
pub(crate) async fn run_job(
    context: Arc<Context>,
    caller: Caller,
    node: NodeName,
    role: Option<Role>,
    job: Job,
    by: Instant,
) -> EvaluatedProbe {
    let asked = context.environment.now();
    let (via, result) = match NodeSession::of_running(&context, &caller, node, by).await {
        Ok(session) => session.job(role, &job, by).await,
        Err(error) => (ENGINE, Err(error)),
    };
    let failed = |why: &str| ProbeResult::Looked(Job::failed(why));
    let result = match result {
        Ok(outcome) => ProbeResult::Looked(outcome),
        Err(QueryError::Node(reason)) => failed(reason.as_str()),
        Err(QueryError::Ended(ended)) => failed(ended.reason().unwrap_or_default()),
        Err(QueryError::Unknown(ProbeError(reason))) => ProbeResult::Unknown(reason),
    };
    EvaluatedProbe {
        probe: JOBS.to_owned(),
        found: Found {
            via,
            span: Some(Span::new(asked, context.environment.now())),
            ..Found::unasked(result)
        },
    }
}

impl NodeSession {
    async fn job(
        &self,
        role: Option<Role>,
        job: &Job,
        by: Instant,
    ) -> (&'static str, Result<Outcome, QueryError>) {
        // A node that runs jobs without a daemon of its own finds its configuration by itself.
        let daemon = match role {
            Some(Role::Controller) => "slurmctld",
            _ => "sackd",
        };
        let asking = async {
            let Reply { via, result } = self.ask_as(Some(daemon), job.question(), None, by).await;
            let result = result.map(|answer| Job::judge(&answer));
            Reply { via, result }
        };
        self.guarded(asking, by).await
    }
}
