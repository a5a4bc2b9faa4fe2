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
    container,
    link::Reply,
    node::{NodeName, Role},
    probe::{JOBS, ProbeError, container as standing, job::Job},
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
    let (asked, found) = context.container(&caller, &node, by).await;
    let failed = |outcome| (ENGINE, ProbeResult::Looked(outcome));
    let (via, result) = match found {
        Err(error) => {
            let ProbeError(reason) = error.into();
            (ENGINE, ProbeResult::Unknown(reason))
        }
        Ok(None) => failed(standing::missing(&node, true)),
        Ok(Some(container)) if container.state != container::State::Running => failed(Job::failed(
            &format!("container {node} does not run any more"),
        )),
        Ok(Some(container)) => {
            let session = NodeSession::new(Arc::clone(&context), caller, node, container);
            session.job(role, &job, by).await
        }
    };
    let span = Some(Span::new(asked, context.environment.now()));
    EvaluatedProbe {
        probe: JOBS.to_owned(),
        found: Found {
            via,
            span,
            ..Found::unasked(result)
        },
    }
}

impl NodeSession {
    async fn job(&self, role: Option<Role>, job: &Job, by: Instant) -> (&'static str, ProbeResult) {
        // A node that runs jobs without a daemon of its own finds its configuration by itself.
        let daemon = match role {
            Some(Role::Controller) => "slurmctld",
            _ => "sackd",
        };
        let asking = async {
            let arguments = match self.arguments(daemon, None, by).await {
                Ok(arguments) => arguments,
                Err(Reply { via, result }) => {
                    let result = result.map(|never| match never {});
                    return Reply { via, result };
                }
            };
            let question = job.question(arguments);
            let Reply { via, result } = self.link.ask(&question, self.reply_by(by)).await;
            let result = result.map(|answer| Job::judge(&answer));
            Reply { via, result }
        };
        let (via, result) = self.guarded(asking, by).await;
        let failed = |why: &str| ProbeResult::Looked(Job::failed(why));
        let result = match result {
            Ok(outcome) => ProbeResult::Looked(outcome),
            Err(QueryError::Node(reason)) => failed(reason.as_str()),
            Err(QueryError::Ended(ended)) => failed(ended.reason().unwrap_or_default()),
            Err(QueryError::Unknown(ProbeError(reason))) => ProbeResult::Unknown(reason),
        };
        (via, result)
    }
}
