//! One look at a node, for who asks what is now: the same state and evaluation as an actor's, driven to
//! its end once.

use std::sync::Arc;

use tokio::time::Instant;

use super::{
    context::{Caller, Context},
    evaluate::evaluate,
    evaluation::Evaluation,
    found::Found,
    probe_set::{Mode, ProbeSet, SetId},
    report_builder::{EvaluatedProbe, ReportBuilder},
    session::{ENGINE, NodeSession, ProbeReply, QueryError},
    span::Span,
    state::{Input, NodeState, units_of},
};
use crate::{
    container::{Container, State},
    engine::EngineError,
    node::{NodeKind, NodeName},
    probe::{Method, Outcome, Probe, ProbeKind, Shortcut},
    report::ProbeResult,
    unit::UnitQuestion,
};

/// One look at one node.
pub(crate) struct OneShot {
    context: Arc<Context>,
    caller: Caller,
    set: ProbeSet,
    state: NodeState,
    session: NodeSession,
    question: UnitQuestion,
    /// The shortcut that is asked together with systemd.
    shortcut: Option<(Probe, &'static Shortcut)>,
    /// What has become of the container, if it ended under a query.
    ended: Option<Outcome>,
}

impl OneShot {
    /// Starts a look at a container that was inspected then.
    pub(crate) fn new(
        context: &Arc<Context>,
        caller: &Caller,
        node: &NodeName,
        container: Container,
        inspected: Span,
        set: ProbeSet,
    ) -> Self {
        let session = NodeSession::new(
            Arc::clone(context),
            caller.clone(),
            node.clone(),
            container.clone(),
        );
        let now = context.environment.now();
        let mut state = NodeState::new(
            node.clone(),
            context.settings.labels.clone(),
            context.settings.journal,
            context.settings.profile,
            context.environment.seed(),
            now,
        );
        state.handle(Input::Inspected(Ok(Some(container)), inspected), now);
        let probes = set.probes(state.kind_of(&set));
        let shortcuts = probes.iter().filter_map(|probe| {
            let shortcut = shortcut_of(probe)?;
            Some((probe.clone(), shortcut))
        });
        // A look that tells of now alone asks for less. But a question whose answer stands in for
        // another's has to be told apart from that of the daemon's start before.
        let (known, unknown): (Vec<_>, Vec<_>) =
            shortcuts.partition(|(_, shortcut)| session.understands(shortcut));
        // A check asks for the daemon's main process, whose sockets count.
        let daemons = probes.iter().filter(|probe| {
            set.mode == Mode::Check && matches!(probe.kind(), ProbeKind::Builtin(Method::Daemon(_)))
        });
        let proofs = unknown.iter().map(|(probe, _)| probe).chain(daemons);
        let proofs = proofs.flat_map(Probe::unit_names);
        let mut units = units_of(&probes, set.mode == Mode::Snapshot);
        if set.mode == Mode::Snapshot {
            units.extend(probes.iter().flat_map(Probe::sockets).copied());
        }
        let question = UnitQuestion {
            units,
            proofs: proofs.copied().collect(),
            journal: context.settings.journal,
            jobs: true,
        };
        let early = (set.mode == Mode::Snapshot).then(|| known.into_iter().next());
        Self {
            context: Arc::clone(context),
            caller: caller.clone(),
            set,
            state,
            session,
            question,
            shortcut: early.flatten(),
            ended: None,
        }
    }

    /// Asks until every probe has a result. Each query gets a limit of its own.
    pub(crate) async fn run(&mut self, limit: impl Fn() -> Instant) -> Evaluation {
        loop {
            let mut evaluation = evaluate(SetId::ONLY, &self.set, &self.state, self.now());
            if let Some(ended) = &self.ended {
                let span = Span::new(self.now(), self.now());
                evaluation.reports = every(evaluation.reports, ended, span);
                return evaluation;
            }
            if evaluation.needs.systemd {
                self.query_systemd(limit()).await;
            } else if let Some(probe) = evaluation.needs.probes.first() {
                self.query_probe(probe, limit()).await;
            } else {
                return evaluation;
            }
        }
    }

    /// Asks until every probe has a result, and looks again, if there is time, where only a second look settles
    /// one.
    pub(crate) async fn settle(&mut self, by: Instant) -> Result<Evaluation, EngineError> {
        let evaluation = self.run(|| by).await;
        // Without time for a second look, what has failed is no more than failed.
        match evaluation.confirm_at.filter(|at| *at < by) {
            Some(at) => self.look_again(at, || by).await,
            None => Ok(evaluation),
        }
    }

    /// Looks again at what an evaluation has left open, once a second look settles it.
    async fn look_again(
        &mut self,
        at: Instant,
        limit: impl Fn() -> Instant,
    ) -> Result<Evaluation, EngineError> {
        tracing::debug!("a second look settles what has failed");
        let environment = self.context.environment.clone();
        environment.sleep_until(at).await;
        if self.session.container.state == State::Running {
            self.query_systemd(limit()).await;
        } else {
            let node = &self.session.node;
            let (asked, found) = self.context.container(&self.caller, node, limit()).await;
            let span = Span::new(asked, self.now());
            self.state
                .handle(Input::Inspected(Ok(found?), span), span.answered);
        }
        Ok(self.run(limit).await)
    }

    /// Asks systemd, and the shortcut that will be asked next in any case at the same time.
    async fn query_systemd(&mut self, by: Instant) {
        tracing::debug!(units = ?self.question.units, "query systemd");
        let systemd = self.session.systemd(&self.question, None, by);
        let shortcut = self.shortcut.take();
        let early = async {
            let (probe, shortcut) = shortcut?;
            Some((probe, self.session.shortcut(shortcut, by).await?))
        };
        let (reply, early) = tokio::join!(systemd, early);
        if let Err(QueryError::Ended(ended)) = &reply.result {
            self.ended = Some(ended.clone());
            return;
        }
        self.state.handle(Input::Systemd(reply), self.now());
        if let Some((probe, reply)) = early {
            self.take(&probe, reply);
        }
    }

    async fn query_probe(&mut self, probe: &Probe, by: Instant) {
        // What somebody else was answered counts, if it was by the same start of the daemon.
        if self.session.is_spared(probe) && self.state.unit_of(probe).is_none() {
            self.question.units.extend(probe.unit_names());
            self.question.proofs.extend(probe.unit_names());
            self.query_systemd(by).await;
        }
        tracing::debug!(probe = probe.name(), asks = probe.asks(), "query");
        let unit = self.state.unit_of(probe).cloned();
        let reply = self.session.probe(probe, unit.as_ref(), None, by).await;
        self.take(probe, reply);
    }

    fn take(&mut self, probe: &Probe, reply: ProbeReply) {
        if let Err(QueryError::Ended(ended)) = &reply.result {
            self.ended = Some(ended.clone());
            return;
        }
        let now = self.now();
        self.state.store_answer(probe, reply, now);
    }

    fn now(&self) -> Instant {
        self.context.environment.now()
    }
}

/// The reports of a node whose container alone was asked for, with this result.
pub(crate) fn unreached(
    set: &ProbeSet,
    kind: NodeKind,
    container: ProbeResult,
) -> Vec<EvaluatedProbe> {
    let mut builder = ReportBuilder::new(set.probes(kind));
    builder.push(Found::unasked(container));
    builder.finish()
}

fn shortcut_of(probe: &Probe) -> Option<&'static Shortcut> {
    match probe.kind() {
        ProbeKind::Builtin(Method::UnitAndAnswer(_, ask)) => ask.shortcut.as_ref(),
        _ => None,
    }
}

/// The reports of a node whose container has ended: every probe answers with that.
fn every(reports: Vec<EvaluatedProbe>, ended: &Outcome, span: Span) -> Vec<EvaluatedProbe> {
    let report = |report: EvaluatedProbe| EvaluatedProbe {
        found: Found::settled(ended.clone(), ENGINE, span),
        ..report
    };
    reports.into_iter().map(report).collect()
}
