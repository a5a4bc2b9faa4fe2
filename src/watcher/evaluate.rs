//! What the replies that there are come to, for one probe set: reports, what keeps the node from being
//! ready, and what still has to be asked. Pure: it changes nothing, and reads no clock.
//!
//! A set has passed when nothing that it goes by is in doubt, and the container was inspected once more
//! after all the rest.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    cached::Freshness,
    evaluation::{Evaluation, Needs, Progress, Subject},
    found::Found,
    interpret::{Replies, Source, Step, goes_by_reply, next_step},
    own_probe::or_optional,
    probe_set::{Mode, ProbeSet, SetId},
    report_builder::ReportBuilder,
    schedule::{earlier, fresh},
    session::{ENGINE, SystemdReply},
    span::Span,
    state::{Answer, NodeState},
    status::{BlockedBy, blocked_by},
};
use crate::{
    container::{Container, Health},
    node::{Label, NodeKind},
    probe::{Evidence, Outcome, Probe, ProbeError, ProbeKey, container},
    reason::{Reason, ReasonCode},
    report::ProbeResult,
    unit::Unit,
};

/// What the container itself is to its probes.
enum Standing {
    /// This, to every one.
    Every(Found),
    /// It runs; its labels may name no role and no profile.
    Runs(Option<Outcome>),
}

/// What the passed probes of a set have gone by.
struct Basis {
    /// The earliest that any of it was asked for.
    started: Instant,
    /// The latest that any of it but the container was answered.
    latest: Option<Instant>,
    /// The latest that a probe's own query was answered.
    latest_answer: Option<Instant>,
    /// The latest that an answer came which stands with its unit.
    latest_standing: Option<Instant>,
    /// The longest that any of it took.
    slowest: Duration,
    systemd: bool,
    /// Whether a daemon has passed though its unit is down. The unit may have been started since systemd was
    /// asked, and then it counts only once it has proved itself.
    without_unit: bool,
    /// The answers that only time can make old, and whose probe that is.
    answers: Vec<(ProbeKey, Probe)>,
    freshness: Freshness,
    /// The first probe whose replies do not count.
    doubted: Option<String>,
}

impl Basis {
    fn include(&mut self, span: Span) {
        self.started = self.started.min(span.asked);
        self.latest = self.latest.max(Some(span.answered));
        self.slowest = self.slowest.max(span.took());
    }

    fn rely_on(&mut self, freshness: Freshness, probe: &str) {
        self.freshness = self.freshness.max(freshness);
        if freshness != Freshness::Valid && self.doubted.is_none() {
            self.doubted = Some(probe.to_owned());
        }
    }
}

/// Evaluates a probe set by what is known of its node.
pub(super) fn evaluate(id: SetId, set: &ProbeSet, state: &NodeState, now: Instant) -> Evaluation {
    let mut evaluator = Evaluator::new(id, set, state, now);
    let Some(found) = state.container.value() else {
        return evaluator.not_looked();
    };
    match found {
        Err(error) => {
            let ProbeError(reason) = error.clone().into();
            evaluator.unknown_container(reason)
        }
        Ok(None) => evaluator.absent_container(),
        Ok(Some(container)) => {
            evaluator.present_container(container);
            evaluator.conclude()
        }
    }
}

/// An evaluation in the making.
struct Evaluator<'a> {
    id: SetId,
    set: &'a ProbeSet,
    state: &'a NodeState,
    now: Instant,
    kind: NodeKind,
    builder: ReportBuilder,
    needs: Needs,
    basis: Basis,
    /// The probe that has not replied.
    open: Option<String>,
    confirm_at: Option<Instant>,
}

impl<'a> Evaluator<'a> {
    fn new(id: SetId, set: &'a ProbeSet, state: &'a NodeState, now: Instant) -> Self {
        let container = &state.container;
        let kind = state.kind_of(set);
        let started = match container.value() {
            Some(_) => now.min(container.span().asked),
            None => now,
        };
        let mut basis = Basis {
            started,
            latest: None,
            latest_answer: None,
            latest_standing: None,
            slowest: Duration::ZERO,
            systemd: false,
            without_unit: false,
            answers: Vec::new(),
            freshness: Freshness::Valid,
            doubted: None,
        };
        basis.rely_on(container.freshness(), "container");
        let needs = Needs {
            container: container.needs_query(),
            ..Needs::default()
        };
        Self {
            id,
            set,
            state,
            now,
            kind,
            builder: ReportBuilder::new(set.probes(kind)),
            needs,
            basis,
            open: None,
            confirm_at: None,
        }
    }

    fn not_looked(mut self) -> Evaluation {
        self.builder.push_unanswered("the engine");
        self.finish(Progress::NotLooked, None)
    }

    fn unknown_container(mut self, reason: Reason) -> Evaluation {
        let unknown = ProbeResult::Unknown(reason);
        self.builder.push(Found::unasked(unknown));
        let due = self.state.retry_at(&self.state.container);
        self.needs.due.push((Subject::Container, due));
        self.finish(Progress::Blocked, None)
    }

    fn absent_container(mut self) -> Evaluation {
        let missing = container::missing(&self.state.node, self.state.last_seen.is_some());
        let settled = self.by_engine(missing);
        self.builder.push(settled);
        self.container_due();
        let mut evaluation = self.finish(Progress::Blocked, None);
        evaluation.is_absent = true;
        evaluation
    }

    fn container_due(&mut self) {
        let due = self.state.container_due();
        self.needs
            .due
            .extend(due.map(|due| (Subject::Container, due)));
    }

    fn present_container(&mut self, container: &Container) {
        let NodeState { node, labels, .. } = self.state;
        let label = match self.set.part.profile {
            Some(profile) => Label::Is(profile),
            None => labels.profile_of(&container.labels),
        };
        let mut bad_label = None;
        self.kind.profile = match label {
            Label::Is(profile) => profile,
            Label::Missing => self.state.profile,
            Label::Invalid { value } => {
                bad_label = Some(container::bad_profile(node, &labels.profile, &value));
                self.state.profile
            }
        };
        let label = match self.set.part.role {
            Some(role) => Label::Is(role),
            None => labels.role_of(&container.labels),
        };
        self.kind.role = match label {
            Label::Is(role) => Some(role),
            Label::Missing => None,
            Label::Invalid { value } => {
                bad_label = Some(container::bad_role(node, &labels.role, &value));
                None
            }
        };
        self.builder = ReportBuilder::new(self.set.probes(self.kind));
        self.container_due();
        let standing = self.standing(container, bad_label);
        self.run_probes(&standing);
    }

    /// What the container itself is to every probe, unless they have to be asked.
    fn standing(&self, container: &Container, bad_label: Option<Outcome>) -> Standing {
        let span = self.state.container.span();
        let finding = container::judge(&self.state.node, container);
        let judged = self
            .state
            .confirmations
            .judge(finding, ENGINE, span, self.set.mode);
        if judged.passes() {
            return Standing::Runs(bad_label);
        }
        if let Some(back) = self.state.engine_return(container)
            && span.asked < back
        {
            let ended = judged.result.reason().unwrap_or_default();
            let waits = format!("{ended}; the engine came back and may start it again");
            return Standing::Every(Found::settled(
                Outcome::failed(ReasonCode::ContainerEnded, waits),
                ENGINE,
                span,
            ));
        }
        Standing::Every(judged)
    }

    /// Goes through the probes: all of them in a snapshot, else up to the first that has not passed.
    fn run_probes(&mut self, standing: &Standing) {
        let all = self.set.mode == Mode::Snapshot;
        while let Some(probe) = self.builder.next() {
            let settled = match standing {
                Standing::Every(found) => {
                    self.confirm_at = found.confirm_at;
                    let mut found = found.clone();
                    // What there is to show is shown once.
                    if !self.builder.is_at_start() {
                        found.evidence = Evidence::default();
                    }
                    Ok(found)
                }
                Standing::Runs(bad_label) if probe.is_container() => {
                    let outcome = bad_label.clone().unwrap_or_else(Outcome::passed);
                    Ok(self.by_engine(outcome))
                }
                Standing::Runs(_) => self.run_probe(&probe),
            };
            let settled = match settled {
                Ok(settled) => settled,
                Err(asked) => {
                    self.open.get_or_insert_with(|| probe.name().to_owned());
                    self.builder.push_unanswered(&asked);
                    if all {
                        continue;
                    }
                    return;
                }
            };
            let passed = settled.passes();
            self.builder.push(settled);
            if !passed && !all {
                return;
            }
        }
    }

    fn by_engine(&self, outcome: Outcome) -> Found {
        Found::settled(outcome, ENGINE, self.state.container.span())
    }

    /// What a probe comes to; else what has not replied yet.
    fn run_probe(&mut self, probe: &Probe) -> Result<Found, String> {
        let key = probe.key();
        let own = probe.own().filter(|_| self.set.mode == Mode::Wait);
        if let Some((due, outcome)) = own.and_then(|own| self.state.delayed(own, self.now)) {
            self.needs.due.push((Subject::Container, due));
            return Ok(or_optional(self.set, probe, self.by_engine(outcome)));
        }
        if probe.needs_systemd() {
            self.rely_on_systemd(probe).ok_or_else(asked_systemd)?;
        }
        let answer = self.state.answers.get(&key);
        let replies = Replies {
            systemd: self.state.systemd.value(),
            probe: answer.and_then(|answer| answer.cached.value()),
            inspected: self.state.container.span(),
            health: self.health(),
            journal: self.state.journal,
            confirmations: &self.state.confirmations,
        };
        match next_step(probe, self.set.mode, replies) {
            Step::AskSystemd => {
                self.needs.systemd = true;
                Err(asked_systemd())
            }
            Step::RunProbe => {
                self.needs.probes.push(probe.clone());
                Err(probe.asks())
            }
            // It is not kept: the container is inspected instead.
            Step::Ended => Err(probe.asks()),
            Step::Unknown(ProbeError(reason), source, span) => {
                self.basis.include(span);
                let due = match (source, answer) {
                    (Source::Probe, Some(answer)) => {
                        if answer.cached.needs_query() {
                            self.needs.probes.push(probe.clone());
                        }
                        (Subject::Probe(key), self.state.retry_at(&answer.cached))
                    }
                    _ => (Subject::Systemd, self.state.retry_at(&self.state.systemd)),
                };
                self.needs.due.push(due);
                Ok(Found {
                    span: Some(span),
                    ..Found::unasked(ProbeResult::Unknown(reason))
                })
            }
            Step::Found(found) => {
                let found = match (own, answer) {
                    (Some(own), Some(answer)) => answer.streak.weigh(own, found),
                    _ => found,
                };
                let settled = self.settle(probe, found, answer);
                Ok(or_optional(self.set, probe, settled))
            }
            Step::FoundSoFar(found) => {
                self.needs.probes.push(probe.clone());
                Ok(self.settle(probe, found, answer))
            }
        }
    }

    fn health(&self) -> Option<&'a Health> {
        let container = self.state.container.value()?.as_ref().ok()?.as_ref()?;
        container.health.as_ref()
    }

    /// Notes that a probe goes by what systemd said; none if it has said nothing. A reply that counts
    /// stands until the next one comes, however long that takes.
    fn rely_on_systemd(&mut self, probe: &Probe) -> Option<()> {
        let systemd = &self.state.systemd;
        self.basis.systemd = true;
        self.needs.systemd |= systemd.needs_query();
        self.basis.rely_on(systemd.freshness(), probe.name());
        systemd.value().map(|_| ())
    }

    fn settle(&mut self, probe: &Probe, found: Found, answer: Option<&Answer>) -> Found {
        let passes = found.passes();
        if probe.needs_systemd() {
            self.basis.include(self.state.systemd.span());
        }
        if let Some(at) = found.confirm_at {
            self.needs.due.push((Subject::Systemd, at));
            self.confirm_at = earlier(self.confirm_at, Some(at));
        }
        let answer = answer.filter(|answer| {
            answer.cached.value().is_some() && goes_by_reply(probe, self.state.unit_of(probe))
        });
        let mut stands_with_unit = false;
        if let Some(Answer { cached, unit, .. }) = answer {
            let own = self.state.unit_of(probe);
            self.basis.without_unit |= passes && own.is_some_and(Unit::is_at_rest);
            self.basis.rely_on(cached.freshness(), probe.name());
            let answered = Some(cached.span().answered);
            self.basis.latest_answer = self.basis.latest_answer.max(answered);
            if cached.needs_query() {
                self.needs.probes.push(probe.clone());
            }
            // One that a wait wants anew stands no longer: it is as old as it is.
            let stands = probe.stands_with_its_unit() && !cached.is_requested();
            stands_with_unit = passes && stands && unit.is_some();
            if stands_with_unit {
                // It may be old, but it may also be the newest of all.
                self.basis.latest_standing = self.basis.latest_standing.max(answered);
            } else {
                self.basis.include(cached.span());
                self.basis.answers.push((probe.key(), probe.clone()));
            }
        }
        if probe.needs_systemd() {
            let due = self.state.systemd_due(probe, !passes);
            self.needs.due.push((Subject::Systemd, due));
        }
        if let Some(answer) = answer
            && let Some(due) = self.state.answer_due(answer, !passes, stands_with_unit)
        {
            self.needs.due.push((Subject::Probe(probe.key()), due));
        }
        found
    }

    fn conclude(mut self) -> Evaluation {
        if let Some(probe) = self.open.clone() {
            return self.finish(Progress::Open, Some(probe));
        }
        // A node without a probe would have proved nothing.
        let passed = self.builder.is_complete() && self.builder.all_passed();
        if !passed || self.builder.is_empty() {
            return self.finish(Progress::Blocked, None);
        }
        if self.set.mode != Mode::Wait {
            return self.finish(Progress::Passed, None);
        }
        match self.unconfirmed() {
            Some(probe) => self.finish(Progress::Confirming, Some(probe)),
            None => self.finish(Progress::Passed, None),
        }
    }

    /// The probe that a set which has passed waits for, before it may say so: nothing that it goes by
    /// is in doubt, and what was seen first was still so at the end.
    fn unconfirmed(&mut self) -> Option<String> {
        if self.basis.freshness != Freshness::Valid {
            return self.basis.doubted.clone();
        }
        if self.state.passing.contains_key(&self.id) {
            return None;
        }
        let systemd = self.state.systemd.span();
        let container = self.state.container.span();
        let latest = self.basis.latest.unwrap_or(container.asked);
        let newest = latest.max(container.asked);
        let newest = newest.max(self.basis.latest_standing.unwrap_or(newest));
        let is_old = |span: Span| span.answered + fresh(self.basis.slowest) < newest;
        // Not every change of systemd as a whole is signalled.
        if self.basis.systemd && is_old(systemd) {
            self.needs.refresh.push(Subject::Systemd);
            return Some("systemd".to_owned());
        }
        let reply = self.state.systemd.value();
        let subscribed = reply.is_some_and(SystemdReply::is_subscribed);
        // Where units do not signal their changes, or a signal is on its way, one may have changed before the
        // last answer came.
        let untold = !subscribed || self.basis.without_unit;
        if self.basis.systemd && untold && self.basis.latest_answer > Some(systemd.asked) {
            self.needs.refresh.push(Subject::Systemd);
            return Some("systemd".to_owned());
        }
        // Nor is it signalled when an answer would be another. Those behind a probe that did not pass
        // have not been asked for since.
        let mut old = None;
        for (key, probe) in &self.basis.answers {
            let answer = self.state.answers.get(key);
            if answer.is_some_and(|answer| is_old(answer.cached.span())) {
                self.needs.refresh.push(Subject::Probe(key.clone()));
                old = old.or_else(|| Some(probe.name().to_owned()));
            }
        }
        if old.is_some() {
            return old;
        }
        // Events may be late, and an exec goes by an id that a restart keeps. But what has just
        // answered over the node's own bus runs.
        let live = self.state.container_events_live() && self.state.container.is_valid();
        let runs = self.basis.systemd && subscribed && live && systemd.answered >= latest;
        if !runs && container.asked < latest {
            self.needs.refresh.push(Subject::Container);
            return Some("container".to_owned());
        }
        None
    }

    fn finish(self, progress: Progress, waits_for: Option<String>) -> Evaluation {
        let reports = self.builder.finish();
        let passed_since = match progress {
            Progress::Passed => Some(
                self.state
                    .passing
                    .get(&self.id)
                    .copied()
                    .unwrap_or(self.now),
            ),
            // What has passed before, and has not been undone, has passed all the time.
            Progress::Confirming => self.state.passing.get(&self.id).copied(),
            Progress::NotLooked | Progress::Open | Progress::Blocked => None,
        };
        let blocked_by = match waits_for {
            Some(probe) if progress == Progress::Confirming => Some(BlockedBy {
                probe,
                reason: Reason::new(ReasonCode::Confirming, "it is looked at once more"),
            }),
            _ => blocked_by(&reports),
        };
        Evaluation {
            progress,
            kind: self.kind,
            reports,
            passed_since,
            blocked_by,
            needs: self.needs,
            started: self.basis.started,
            freshness: self.basis.freshness,
            is_absent: false,
            is_present: matches!(self.state.container.value(), Some(Ok(Some(_)))),
            confirm_at: self.confirm_at,
        }
    }
}

fn asked_systemd() -> String {
    "systemd".to_owned()
}
