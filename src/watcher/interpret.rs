//! From the replies that there are to what one probe found, or to what has to be asked next.

use super::{
    confirm::Confirmations,
    found::Found,
    probe_set::Mode,
    session::{ENGINE, ProbeReply, QueryError, SystemdReply},
    span::Span,
};
use crate::{
    container::Health,
    probe::{
        Finding, Judgement, Method, Outcome, Probe, ProbeError, ProbeKind, UnitProof, find_unit,
        healthcheck, judge_socket, judge_systemd, judge_unit,
    },
    reason::ReasonCode,
    unit::{SystemdState, Unit},
};

/// The next step of a probe.
#[derive(Debug)]
pub(super) enum Step {
    /// This is what it found.
    Found(Found),
    /// This is what it found so far. The probe's own query has to be run, which may undo it.
    FoundSoFar(Found),
    /// It could not be looked at, as this query showed.
    Unknown(ProbeError, Source, Span),
    /// The container ended under the query.
    Ended,
    /// systemd has to be asked.
    AskSystemd,
    /// The probe's own query has to be run.
    RunProbe,
}

/// Which reply something is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    Systemd,
    Probe,
}

/// The replies that one probe goes by.
#[derive(Clone, Copy)]
pub(super) struct Replies<'a> {
    pub(super) systemd: Option<&'a SystemdReply>,
    pub(super) probe: Option<&'a ProbeReply>,
    /// When the container was inspected.
    pub(super) inspected: Span,
    /// The engine's own health status of the container.
    pub(super) health: Option<&'a Health>,
    /// Whether text of the container's own is shown.
    pub(super) journal: bool,
    pub(super) confirmations: &'a Confirmations,
}

/// The probe's next step by these replies. A snapshot goes by units alone, where it can.
pub(super) fn next_step(probe: &Probe, mode: Mode, replies: Replies<'_>) -> Step {
    let units_only = mode == Mode::Snapshot;
    let method = match probe.kind() {
        ProbeKind::Builtin(method) => method,
        ProbeKind::Custom(_) => return replies.own(mode, None),
    };
    match method {
        Method::Container => replies.found(Finding::passed(), ENGINE, replies.inspected, mode),
        Method::Healthcheck => {
            let finding = healthcheck::judge(replies.health, replies.journal);
            replies.found(finding, ENGINE, replies.inspected, mode)
        }
        Method::Systemd => replies.with_systemd(|reply, state| {
            let finding = judge_systemd(state).into();
            replies.found(finding, reply.via, reply.span, mode)
        }),
        Method::Unit(names) => replies.with_unit(names, |reply, unit| {
            replies.found(judge_unit(unit), reply.via, reply.span, mode)
        }),
        Method::Answer(names, _) if units_only && !names.is_empty() => {
            replies.with_unit(names, |reply, unit| {
                let finding = match listening_socket(reply, probe).filter(|_| !unit.is_active()) {
                    Some(socket) => judge_socket(socket, probe.name()).into(),
                    None => judge_unit(unit),
                };
                replies.found(finding, reply.via, reply.span, mode)
            })
        }
        Method::UnitUnless(names, _) => replies.with_unit(names, |reply, unit| {
            if units_only {
                replies.found(judge_unit(unit), reply.via, reply.span, mode)
            } else {
                replies.passes_without(reply, unit, mode)
            }
        }),
        Method::Answer(..) | Method::Process(..) | Method::ProcessAndAnswer(..) => {
            replies.own(mode, None)
        }
        Method::NotInProfile => {
            let why = format!("profile process has no probe {}", probe.name());
            let finding = Finding::failed(ReasonCode::ProfileInvalid, why);
            replies.found(finding, ENGINE, replies.inspected, mode)
        }
        Method::Daemon(_) if units_only => replies.with_unit(method.unit_names(), |reply, unit| {
            replies.found(judge_unit(unit), reply.via, reply.span, mode)
        }),
        Method::Daemon(daemon) => replies.with_unit(daemon.units, |reply, unit| {
            if unit.is_active() {
                replies.daemon(reply, unit, mode)
            } else if daemon.by_hand {
                replies.whoever_started_it(reply, unit, mode)
            } else {
                replies.found(judge_unit(unit), reply.via, reply.span, mode)
            }
        }),
        Method::UnitAndAnswer(names, _) => replies.with_unit(names, |reply, unit| {
            replies.unit_and_answer(reply, unit, mode)
        }),
    }
}

impl Replies<'_> {
    /// It is the answer that counts, whoever started the daemon.
    fn unit_and_answer(self, reply: &SystemdReply, unit: &Unit, mode: Mode) -> Step {
        if unit.is_active() {
            return self.own(mode, Some(reply.span));
        }
        self.whoever_started_it(reply, unit, mode)
    }

    fn daemon(self, reply: &SystemdReply, unit: &Unit, mode: Mode) -> Step {
        match self.probe {
            // What listens now may be gone in a moment: the unit has to have proved itself, too.
            Some(answer) if answer.has_passed() => {
                match self.found(judge_unit(unit), reply.via, reply.span, mode) {
                    Step::Found(mut found) => {
                        found.span = Some(Span::new(reply.span.asked, answer.span.answered));
                        Step::Found(found)
                    }
                    step => step,
                }
            }
            _ => self.own(mode, Some(reply.span)),
        }
    }

    /// A daemon whose unit is not active, and not about to be, may have been started without it. If it
    /// was not, the unit's state stands.
    fn whoever_started_it(self, reply: &SystemdReply, unit: &Unit, mode: Mode) -> Step {
        let found = |finding| {
            self.confirmations
                .judge(finding, reply.via, reply.span, mode)
        };
        let Some(answer) = self.probe.filter(|_| unit.is_at_rest()) else {
            let finding = judge_unit(unit);
            if !unit.is_at_rest() {
                return Step::Found(found(finding));
            }
            // A failed unit is not terminal as long as its daemon may run all the same.
            let outcome = Outcome::Failed(unit.describe());
            return Step::FoundSoFar(found(Finding {
                judgement: Judgement::Clear(outcome),
                ..finding
            }));
        };
        // Whoever runs and has not answered yet was started all the same.
        let runs = match &answer.result {
            Ok(finding) => finding.has_passed() || finding.evidence.is_up,
            Err(QueryError::Node(reason)) => reason.code() == ReasonCode::NoAnswer,
            Err(QueryError::Unknown(_)) => true,
            Err(QueryError::Ended(_)) => false,
        };
        if runs {
            self.own(mode, Some(reply.span))
        } else {
            Step::Found(found(judge_unit(unit)))
        }
    }

    /// A unit that is not active, and not about to be, may be one that the node does without. If it is not,
    /// the unit's state stands.
    fn passes_without(self, reply: &SystemdReply, unit: &Unit, mode: Mode) -> Step {
        if unit.is_active() {
            return self.found(judge_unit(unit), reply.via, reply.span, mode);
        }
        self.whoever_started_it(reply, unit, mode)
    }

    /// The probe's own reply as its finding. With a unit behind it, it is of the time from which on
    /// that was known.
    fn own(self, mode: Mode, unit: Option<Span>) -> Step {
        let Some(reply) = self.probe else {
            return Step::RunProbe;
        };
        let asked = unit.map_or(reply.span.asked, |span| span.asked);
        let span = Span::new(asked, reply.span.answered);
        match &reply.result {
            Ok(finding) => self.found(finding.clone(), reply.via, span, mode),
            Err(error) => self.failed(error, reply.via, reply.span, Source::Probe),
        }
    }

    fn with_systemd(self, step: impl FnOnce(&SystemdReply, &SystemdState) -> Step) -> Step {
        let Some(reply) = self.systemd else {
            return Step::AskSystemd;
        };
        match &reply.result {
            Ok(state) => step(reply, state),
            Err(error) => self.failed(error, reply.via, reply.span, Source::Systemd),
        }
    }

    fn with_unit(self, names: &[&str], step: impl FnOnce(&SystemdReply, &Unit) -> Step) -> Step {
        self.with_systemd(|reply, state| match find_unit(state, names) {
            Some(unit) => step(reply, unit),
            // It was not asked for: a client has come since that wants other probes. A reply has every
            // unit that was.
            None => Step::AskSystemd,
        })
    }

    fn failed(self, error: &QueryError, via: &'static str, span: Span, source: Source) -> Step {
        match error {
            QueryError::Node(reason) => {
                let finding = Outcome::Failed(reason.clone()).into();
                self.found(finding, via, span, Mode::Check)
            }
            QueryError::Unknown(error) => Step::Unknown(error.clone(), source, span),
            QueryError::Ended(_) => Step::Ended,
        }
    }

    fn found(self, finding: Finding, via: &'static str, span: Span, mode: Mode) -> Step {
        Step::Found(self.confirmations.judge(finding, via, span, mode))
    }
}

/// The socket unit by which systemd starts the probe's daemon, if one is active.
fn listening_socket<'a>(reply: &'a SystemdReply, probe: &Probe) -> Option<&'a Unit> {
    let state = reply.result.as_ref().ok()?;
    let mut sockets = probe.sockets().iter();
    sockets.find_map(|name| state.units.get(*name).filter(|unit| unit.is_active()))
}

/// Whether the probe's own reply says anything while its unit is as systemd said.
pub(super) fn goes_by_reply(probe: &Probe, unit: Option<&Unit>) -> bool {
    let unless = matches!(probe.kind(), ProbeKind::Builtin(Method::UnitUnless(..)));
    !unless || unit.is_some_and(Unit::is_at_rest)
}

/// What a probe's own reply is held against: the unit behind the question, as it was. Of a probe that
/// goes by its answer alone, only an active unit is behind it.
pub(super) fn unit_behind(probe: &Probe, reply: Option<&SystemdReply>) -> Option<UnitProof> {
    let ProbeKind::Builtin(method) = probe.kind() else {
        return None;
    };
    let state = reply?.result.as_ref().ok()?;
    let unit = find_unit(state, method.unit_names())?;
    match method {
        Method::UnitAndAnswer(..) | Method::Daemon(_) | Method::UnitUnless(..) => {
            Some(UnitProof::of(unit))
        }
        Method::Answer(..) if unit.is_active() => Some(UnitProof::of(unit)),
        _ => None,
    }
}
