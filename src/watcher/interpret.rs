//! From the replies that there are to what one probe found, or to what has to be asked next.

use super::{
    confirm::Confirmations,
    found::Found,
    probe_set::Mode,
    session::{ENGINE, ProbeReply, QueryError, SystemdReply},
    span::Span,
};
use crate::{
    probe::{
        Ask, Finding, Method, Outcome, Probe, ProbeError, ProbeKind, UnitProof, find_unit,
        judge_systemd, judge_unit,
    },
    unit::{SystemdState, Unit},
};

/// The next step of a probe.
#[derive(Debug)]
pub(super) enum Step {
    /// This is what it found.
    Found(Found),
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
    pub(super) container: Span,
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
        Method::Container => replies.found(Finding::passed(), ENGINE, replies.container, mode),
        Method::Systemd => replies.with_systemd(|reply, state| {
            let finding = Finding::Clear(judge_systemd(state));
            replies.found(finding, reply.via, reply.span, mode)
        }),
        Method::Unit(names) => replies.with_unit(names, |reply, unit| {
            replies.found(judge_unit(unit), reply.via, reply.span, mode)
        }),
        Method::Answer(names, _) if units_only && !names.is_empty() => replies
            .with_unit(names, |reply, unit| {
                replies.found(judge_unit(unit), reply.via, reply.span, mode)
            }),
        Method::Answer(..) => replies.own(mode, None),
        Method::UnitAndAnswer(names, ask) => replies.with_unit(names, |reply, unit| {
            replies.unit_and_answer(ask, reply, unit, mode)
        }),
    }
}

impl Replies<'_> {
    fn unit_and_answer(self, ask: &Ask, reply: &SystemdReply, unit: &Unit, mode: Mode) -> Step {
        let by_unit = || self.found(judge_unit(unit), reply.via, reply.span, mode);
        // A snapshot goes by the unit of all but those whose answer alone counts.
        let is_decided = !unit.is_active() && (unit.exists() || !ask.alone);
        if is_decided || (mode == Mode::Snapshot && !ask.alone) {
            return by_unit();
        }
        match self.probe {
            // A port that accepts may be another's: the unit has to have proved itself, too.
            Some(answer) if !ask.alone && has_passed(answer) => match by_unit() {
                Step::Found(mut found) => {
                    found.span = Some(Span::new(reply.span.asked, answer.span.answered));
                    Step::Found(found)
                }
                step => step,
            },
            _ => self.own(mode, Some(reply.span)),
        }
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
                let finding = Finding::Clear(Outcome::Failed(reason.clone()));
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

fn has_passed(reply: &ProbeReply) -> bool {
    matches!(reply.result, Ok(Finding::Clear(Outcome::Passed(_))))
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
        Method::UnitAndAnswer(..) => Some(UnitProof::of(unit)),
        Method::Answer(..) if unit.is_active() => Some(UnitProof::of(unit)),
        _ => None,
    }
}
