//! The job of a wait for the level JOBS: run once all nodes have passed, from one of them, until it has
//! succeeded once.

use std::{sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use tokio::time::Instant;

use super::{wait_node::WaitNode, wait_nodes::WaitNodes};
use crate::{
    container::Run,
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
    /// The place of the node whose report says how it is.
    told_at: Option<usize>,
    running: Option<BoxFuture<'static, EvaluatedProbe>>,
    /// When it may be tried again.
    again: Option<Instant>,
    /// The workers that the newest one was for, by their places and their runs.
    workers: Vec<(usize, Option<Run>)>,
    has_run: bool,
}

impl WaitJob {
    pub(super) fn new(context: Arc<Context>, caller: Caller) -> Self {
        Self {
            context,
            caller,
            runner: None,
            told_at: None,
            running: None,
            again: None,
            workers: Vec::new(),
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
    /// was chosen stays while the job is at work.
    pub(super) fn choose(&mut self, nodes: &mut WaitNodes) {
        if self.has_run && workers(nodes) != self.workers {
            // It has not run on one that has come since, or was started anew.
            self.has_run = false;
            nodes.set_has_run(None);
        }
        let role = |place: &usize| nodes.get(*place).and_then(|node| node.newest.role);
        let can_run =
            |place: &usize| matches!(role(place), Some(Role::Controller | Role::Submitter));
        let stays = self.runner.filter(can_run);
        if stays.is_some() && (self.running.is_some() || self.has_run) {
            return;
        }
        let first = |wanted: Role| {
            let mut all = nodes.iter();
            all.find(|(_, node)| node.newest.role == Some(wanted))
        };
        let best = first(Role::Controller).or_else(|| first(Role::Submitter));
        let best = best.map(|(place, _)| place);
        if best == self.runner {
            return;
        }
        self.runner = best;
        self.running = None;
        let waits = Line::new("not run: the nodes have not all passed");
        let waits = best.map(|place| (place, ProbeResult::Skipped(waits)));
        self.tell(nodes, waits);
    }

    /// Lets the report of one node say how the job is, and of no other.
    fn tell(&mut self, nodes: &mut WaitNodes, result: Option<(usize, ProbeResult)>) {
        let report = result.map(|(place, result)| {
            let report = EvaluatedProbe::unasked(JOBS, result);
            (place, report.into_report(self.context.environment.wall()))
        });
        self.tell_report(nodes, report);
    }

    fn tell_report(&mut self, nodes: &mut WaitNodes, report: Option<(usize, ProbeReport)>) {
        let place = report.as_ref().map(|(place, _)| *place);
        if let Some(before) = self.told_at.filter(|before| Some(*before) != place) {
            nodes.set_job(before, None);
        }
        self.told_at = place;
        if let Some((place, report)) = report {
            nodes.set_job(place, Some(report));
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
        self.workers = workers(nodes);
        let of_slurm = |(place, _): &(usize, Option<Run>)| {
            let mut reports = nodes.get(*place)?.newest.probes.iter();
            reports.find_map(|report| report.evidence.slurm_node.as_deref().cloned())
        };
        let known: Vec<_> = self.workers.iter().filter_map(of_slurm).collect();
        let why = match known.len() {
            0 if self.workers.is_empty() => {
                Some("none of the nodes is a worker, on which a job could run")
            }
            count if count < self.workers.len() => {
                Some("a worker has no name of Slurm's that a command can take")
            }
            _ => None,
        };
        if let Some(why) = why {
            self.refuse(nodes, why, now);
            return;
        }
        let Some(node) = nodes.get(place) else {
            return;
        };
        let job = Job {
            name: format!("readyd-{:016x}", self.environment().seed()),
            workers: known,
        };
        tracing::debug!(node = %node.node, workers = job.workers.len(), "the job is run");
        let (name, role) = (node.node.clone(), node.newest.role);
        let is_first = node
            .job
            .as_ref()
            .is_none_or(|report| matches!(report.result, ProbeResult::Skipped(_)));
        let context = Arc::clone(&self.context);
        let run = run_job(context, self.caller.clone(), name, role, job, now + LIMIT);
        self.running = Some(Box::pin(run));
        // A failure is told until the next attempt has ended.
        if is_first {
            let asked = Reason::new(ReasonCode::NotAnsweredYet, "srun has not ended yet");
            self.tell(nodes, Some((place, ProbeResult::Unknown(asked))));
        }
    }

    /// No job can be run as long as the nodes are these.
    fn refuse(&mut self, nodes: &mut WaitNodes, why: &str, now: Instant) {
        let first = nodes.iter().next().map(|(place, _)| place);
        self.again = Some(now + AGAIN);
        let place = self.runner.or(first);
        self.tell(
            nodes,
            place.map(|place| (place, ProbeResult::Looked(Job::failed(why)))),
        );
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
        self.tell_report(nodes, self.runner.map(|place| (place, report)));
        if self.has_run {
            nodes.set_has_run(Some(now));
        }
    }
}

/// The workers, by their places and the runs that were seen last.
fn workers(nodes: &WaitNodes) -> Vec<(usize, Option<Run>)> {
    let workers = nodes
        .iter()
        .filter(|(_, node)| node.newest.role == Some(Role::Worker));
    let run = |node: &WaitNode| node.newest.run.as_ref().map(|seen| seen.run.clone());
    workers.map(|(place, node)| (place, run(node))).collect()
}
