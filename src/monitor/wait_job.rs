//! The job of a wait for the level JOBS: run once all nodes have passed, from one of them, until it has
//! succeeded once.

use std::{sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use tokio::time::Instant;

use super::{wait_node::WaitNode, wait_nodes::WaitNodes};
use crate::{
    environment::Environment,
    node::Role,
    probe::{JOBS, job::Job},
    reason::{Reason, ReasonCode},
    report::{ProbeReport, ProbeResult},
    text::Line,
    watcher::{Caller, Context, EvaluatedProbe, run_job},
};

/// How much later a job that has failed is tried again.
const AGAIN: Duration = Duration::from_secs(5);

/// How long a job may take. Slurm itself gives up sooner, and says why.
const LIMIT: Duration = Duration::from_secs(15);

/// The job of a wait.
pub(super) struct WaitJob {
    context: Arc<Context>,
    caller: Caller,
    /// The place of the node that it runs from.
    runner: Option<usize>,
    running: Option<BoxFuture<'static, EvaluatedProbe>>,
    /// When it may be tried again.
    again: Option<Instant>,
    has_run: bool,
}

impl WaitJob {
    pub(super) fn new(context: Arc<Context>, caller: Caller) -> Self {
        Self {
            context,
            caller,
            runner: None,
            running: None,
            again: None,
            has_run: false,
        }
    }

    fn environment(&self) -> &Environment {
        &self.context.environment
    }

    /// Whether it has succeeded.
    pub(super) fn has_run(&self) -> bool {
        self.has_run
    }

    /// When it may be tried again; `None` while it runs, and once it has succeeded.
    pub(super) fn due(&self) -> Option<Instant> {
        self.again
            .filter(|_| self.running.is_none() && !self.has_run)
    }

    /// Chooses the node that it runs from: a controller, else a submitter, the first of them. The one that
    /// was chosen stays for as long as it is one of the wait's.
    pub(super) fn choose(&mut self, nodes: &mut WaitNodes) {
        let role = |place: &usize| nodes.get(*place).and_then(|node| node.newest.role);
        let can_run =
            |place: &usize| matches!(role(place), Some(Role::Controller | Role::Submitter));
        let stays = self.runner.filter(can_run);
        if stays.is_none() && self.runner.take().is_some() {
            self.running = None;
        }
        if stays.is_some() && (self.running.is_some() || self.has_run) {
            return;
        }
        let first = |wanted: Role| {
            let mut all = nodes.iter();
            all.find(|(_, node)| node.newest.role == Some(wanted))
        };
        let best = first(Role::Controller).or_else(|| first(Role::Submitter));
        let best = best.map(|(place, _)| place);
        if best.is_none() || best == self.runner {
            return;
        }
        if let Some(before) = std::mem::replace(&mut self.runner, best) {
            nodes.set_job(before, None);
        }
        self.running = None;
        if let Some(place) = best {
            let waits = Line::new("not run: the nodes have not all passed");
            nodes.set_job(place, Some(self.report(ProbeResult::Skipped(waits))));
        }
    }

    /// Starts the job, if it is due: all nodes have passed.
    pub(super) fn start(&mut self, nodes: &mut WaitNodes, now: Instant) {
        let is_early = self.again.is_some_and(|again| now < again);
        if self.has_run || self.running.is_some() || is_early {
            return;
        }
        let Some(place) = self.runner else {
            self.refuse(
                nodes,
                "none of the nodes is a controller or a submitter, from which a job could be run",
                now,
            );
            return;
        };
        let is_worker = |node: &&WaitNode| node.newest.role == Some(Role::Worker);
        let workers = nodes.iter().map(|(_, node)| node).filter(is_worker);
        let of_slurm = |node: &WaitNode| {
            let mut reports = node.newest.probes.iter();
            reports.find_map(|report| report.evidence.slurm_node.as_deref().cloned())
        };
        let all = workers.clone().count();
        let workers: Vec<_> = workers.filter_map(of_slurm).collect();
        if workers.len() < all {
            self.refuse(
                nodes,
                "a worker has no name of Slurm's that a command can take",
                now,
            );
            return;
        }
        if workers.is_empty() {
            self.refuse(
                nodes,
                "none of the nodes is a worker, on which a job could run",
                now,
            );
            return;
        }
        let Some(node) = nodes.get(place) else {
            return;
        };
        let job = Job {
            name: format!("readyd-{:016x}", self.environment().seed()),
            workers,
        };
        tracing::debug!(node = %node.node, workers = job.workers.len(), "the job is run");
        let (name, role) = (node.node.clone(), node.newest.role);
        let context = Arc::clone(&self.context);
        let run = run_job(context, self.caller.clone(), name, role, job, now + LIMIT);
        self.running = Some(Box::pin(run));
        if nodes.get(place).is_none_or(|node| {
            let job = node.job.as_ref();
            job.is_none_or(|report| matches!(report.result, ProbeResult::Skipped(_)))
        }) {
            let asked = Reason::new(ReasonCode::NotAnsweredYet, "srun has not ended yet");
            nodes.set_job(place, Some(self.report(ProbeResult::Unknown(asked))));
        }
    }

    /// No job can be run as long as the nodes are these.
    fn refuse(&mut self, nodes: &mut WaitNodes, why: &str, now: Instant) {
        let first = nodes.iter().next().map(|(place, _)| place);
        self.again = Some(now + AGAIN);
        if let Some(place) = self.runner.or(first) {
            let result = ProbeResult::Looked(Job::failed(why));
            nodes.set_job(place, Some(self.report(result)));
        }
    }

    /// Completes once the job has come to an end; never, if none runs.
    pub(super) async fn ended(&mut self) -> EvaluatedProbe {
        let Some(running) = &mut self.running else {
            return std::future::pending().await;
        };
        let ended = running.await;
        self.running = None;
        ended
    }

    /// Takes how the job went.
    pub(super) fn take(&mut self, ended: EvaluatedProbe, nodes: &mut WaitNodes, now: Instant) {
        let since = self.environment().wall();
        let report = ended.into_report(since);
        self.has_run = report.result.is_passed();
        self.again = (!self.has_run).then(|| now + AGAIN);
        tracing::debug!(result = ?report.result, "the job has ended");
        if let Some(place) = self.runner {
            nodes.set_job(place, Some(report));
        }
        if self.has_run {
            nodes.set_has_run(now);
        }
    }

    fn report(&self, result: ProbeResult) -> ProbeReport {
        EvaluatedProbe::unasked(JOBS, result).into_report(self.environment().wall())
    }
}
