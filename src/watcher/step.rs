//! From what was seen of a node to what a probe found: which question comes next, or what the answers
//! that there are come to.

use super::subject::{Answered, Asked, ENGINE, Span, Trouble};
use crate::{
    probe::{
        Ask, CouldNotLook, Finding, Means, Outcome, Probe, Proof, find_unit, judge_systemd,
        judge_unit,
    },
    text::Reason,
    unit::Unit,
};

/// What one probe found, and how the node was reached for it.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub(crate) finding: Finding,
    pub(crate) via: &'static str,
    /// When it was so: earlier than the probe ran, where systemd had been asked before.
    pub(crate) span: Span,
}

/// The next step of a probe.
pub(super) enum Step<'a> {
    /// This is what it found.
    Found(Found),
    /// It could not be looked at.
    Unknown(CouldNotLook, Span),
    /// The container ended under the question.
    Ended(&'a Trouble, Span),
    /// systemd has to be asked.
    AskSystemd,
    /// The probe's own question has to be asked, of this unit, if there is one behind it.
    Ask(&'a Ask, Option<&'a Unit>),
    /// The caller's own check has to be run.
    Check,
}

/// The probe's next step after these answers. A snapshot goes by units alone, where it can.
pub(super) fn step<'a>(
    probe: &'a Probe,
    units_only: bool,
    asked: Option<&'a Asked>,
    answered: Option<&'a Answered>,
    now: Span,
) -> Step<'a> {
    let Ok(means) = probe.means() else {
        return answered.map_or(Step::Check, |answered| own(answered, None));
    };
    match means {
        Means::Container => Step::Found(Found {
            finding: Finding::passed(),
            via: ENGINE,
            span: now,
        }),
        Means::Systemd => of_systemd(asked, |asked, look| {
            Step::Found(Found {
                finding: Finding::Clear(judge_systemd(look)),
                via: asked.via,
                span: asked.span,
            })
        }),
        Means::Unit(names) => of_unit(asked, names, |asked, unit| Step::Found(judged(asked, unit))),
        Means::Answers(names, _) if units_only && !names.is_empty() => {
            of_unit(asked, names, |asked, unit| Step::Found(judged(asked, unit)))
        }
        Means::Answers(_, ask) => {
            answered.map_or(Step::Ask(ask, None), |answered| own(answered, None))
        }
        Means::UnitAnswers(names, ask) => of_unit(asked, names, |asked, unit| {
            let judged = judged(asked, unit);
            // A snapshot has the unit's state of all but those whose answer alone counts.
            let decided = !unit.is_active() && (unit.exists() || !ask.alone);
            if decided || (units_only && !ask.alone) {
                return Step::Found(judged);
            }
            let Some(answered) = answered else {
                return Step::Ask(ask, Some(unit));
            };
            let until = answered.span.1;
            match answered.said {
                // A port that accepts may be another's: the unit has to have proved itself, too.
                Ok(Finding::Clear(Outcome::Passed(_))) if !ask.alone => Step::Found(Found {
                    span: (judged.span.0, until),
                    ..judged
                }),
                _ => own(answered, Some(asked.span)),
            }
        }),
    }
}

fn of_systemd<'a>(
    asked: Option<&'a Asked>,
    found: impl FnOnce(&'a Asked, &'a crate::unit::SystemdLook) -> Step<'a>,
) -> Step<'a> {
    let Some(asked) = asked else {
        return Step::AskSystemd;
    };
    match &asked.said {
        Ok(look) => found(asked, look),
        Err(trouble) => of_trouble(trouble, asked.via, asked.span),
    }
}

fn of_unit<'a>(
    asked: Option<&'a Asked>,
    names: &[&str],
    found: impl FnOnce(&'a Asked, &'a Unit) -> Step<'a>,
) -> Step<'a> {
    of_systemd(asked, |asked, look| match find_unit(look, names) {
        Some(unit) => found(asked, unit),
        None => Step::Found(Found {
            finding: Finding::failed(format!("systemd does not say how {} is", names.join(", "))),
            via: asked.via,
            span: asked.span,
        }),
    })
}

fn judged(asked: &Asked, unit: &Unit) -> Found {
    Found {
        finding: judge_unit(unit),
        via: asked.via,
        span: asked.span,
    }
}

/// An answer as the probe's own finding; with a unit behind it, it is of the time from which that was
/// known.
fn own(answered: &Answered, behind: Option<Span>) -> Step<'_> {
    match &answered.said {
        Ok(finding) => Step::Found(Found {
            finding: finding.clone(),
            via: answered.via,
            span: (
                behind.map_or(answered.span.0, |span| span.0),
                answered.span.1,
            ),
        }),
        Err(trouble) => of_trouble(trouble, answered.via, answered.span),
    }
}

fn of_trouble<'a>(trouble: &'a Trouble, via: &'static str, span: Span) -> Step<'a> {
    match trouble {
        Trouble::Failed(reason) => Step::Found(Found {
            finding: Finding::Clear(Outcome::Failed(Reason::clone(reason))),
            via,
            span,
        }),
        Trouble::Unknown(error) => Step::Unknown(error.clone(), span),
        Trouble::Ended(..) => Step::Ended(trouble, span),
    }
}

/// The unit behind a probe that goes by an answer alone, if it is active.
pub(super) fn behind(probe: &Probe, asked: Option<&Asked>) -> Option<Proof> {
    let Ok(Means::Answers(names, _)) = probe.means() else {
        return None;
    };
    let look = asked?.said.as_ref().ok()?;
    let unit = find_unit(look, names).filter(|unit| unit.is_active())?;
    Some(Proof::of(unit))
}
