//! One evaluation's reports in the making: what was found, and what stands in for a probe that has not
//! replied or was not run.

use std::time::{Duration, SystemTime};

use super::{found::Found, span::Span};
use crate::{
    probe::Probe,
    reason::{Reason, ReasonCode},
    report::{ProbeReport, ProbeResult},
    text::Line,
};

/// What an evaluation says of one probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EvaluatedProbe {
    pub(crate) probe: String,
    pub(crate) found: Found,
}

impl EvaluatedProbe {
    /// A result for which nobody was asked.
    pub(crate) fn unasked(probe: &str, result: ProbeResult) -> Self {
        Self {
            probe: probe.to_owned(),
            found: Found::unasked(result),
        }
    }

    /// The report, of something that has been so since then.
    pub(crate) fn into_report(self, since: SystemTime) -> ProbeReport {
        let Self { probe, found } = self;
        let Found {
            result,
            evidence,
            via,
            span,
            confirm_at: _,
        } = found;
        ProbeReport {
            probe,
            result,
            evidence,
            via,
            elapsed: span.map_or(Duration::ZERO, Span::took),
            since,
        }
    }
}

/// The reports of some probes, in their order.
#[derive(Debug)]
pub(super) struct ReportBuilder {
    probes: Vec<Probe>,
    reports: Vec<EvaluatedProbe>,
}

impl ReportBuilder {
    pub(super) fn new(probes: Vec<Probe>) -> Self {
        let reports = Vec::with_capacity(probes.len());
        Self { probes, reports }
    }

    /// The reports of a node that has not been looked at.
    pub(super) fn unanswered(probes: Vec<Probe>) -> Vec<EvaluatedProbe> {
        let mut builder = Self::new(probes);
        let asked = builder.next().map(|probe| probe.asks()).unwrap_or_default();
        builder.push_unanswered(&asked);
        builder.finish()
    }

    /// The next probe to run.
    pub(super) fn next(&self) -> Option<Probe> {
        self.probes.get(self.reports.len()).cloned()
    }

    /// Whether there is a report of every probe.
    pub(super) fn is_complete(&self) -> bool {
        self.reports.len() == self.probes.len()
    }

    /// Whether there is no report yet.
    pub(super) fn is_at_start(&self) -> bool {
        self.reports.is_empty()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.probes.is_empty()
    }

    /// Whether all that have a report have passed.
    pub(super) fn all_passed(&self) -> bool {
        self.reports.iter().all(|report| report.found.passes())
    }

    /// Adds the report of the next probe.
    pub(super) fn push(&mut self, found: Found) {
        if let Some(probe) = self.next() {
            let probe = probe.name().to_owned();
            self.reports.push(EvaluatedProbe { probe, found });
        }
    }

    /// Adds that what was asked for the next probe has not replied.
    pub(super) fn push_unanswered(&mut self, asked: &str) {
        let why = format!("{asked} has not answered yet");
        let reason = Reason::new(ReasonCode::NotAnsweredYet, why);
        self.push(Found::unasked(ProbeResult::Unknown(reason)));
    }

    /// The reports; probes that are left were not run, because of the last one that was.
    pub(super) fn finish(mut self) -> Vec<EvaluatedProbe> {
        let Some(last) = self.reports.last().map(|report| report.probe.clone()) else {
            return self.reports;
        };
        let reason = Line::new(format!("not looked at: {last} has not passed"));
        while !self.is_complete() {
            let skipped = ProbeResult::Skipped(reason.clone());
            self.push(Found::unasked(skipped));
        }
        self.reports
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::Outcome;

    fn said(reports: &[EvaluatedProbe]) -> Vec<String> {
        let reason = |result: &ProbeResult| {
            let reason = result.reason();
            reason.unwrap_or("passed").to_owned()
        };
        let say =
            |report: &EvaluatedProbe| format!("{}: {}", report.probe, reason(&report.found.result));
        reports.iter().map(say).collect()
    }

    #[test]
    fn what_has_not_been_looked_at_names_what_it_waits_for() {
        let reports = ReportBuilder::unanswered(Probe::of_role(None));
        assert_eq!(
            said(&reports),
            [
                "container: the engine has not answered yet",
                "systemd: not looked at: container has not passed",
                "sshd: not looked at: container has not passed",
                "munge: not looked at: container has not passed",
            ]
        );
    }

    #[test]
    fn what_is_left_was_not_run_because_of_the_last_that_was() {
        let mut builder = ReportBuilder::new(Probe::of_role(None));
        let passed = ProbeResult::Looked(Outcome::passed());
        builder.push(Found::unasked(passed));
        builder.push_unanswered("systemd");
        assert!(!builder.is_complete());
        assert_eq!(
            said(&builder.finish()),
            [
                "container: passed",
                "systemd: systemd has not answered yet",
                "sshd: not looked at: systemd has not passed",
                "munge: not looked at: systemd has not passed",
            ]
        );
    }

    #[test]
    fn more_reports_than_probes_are_not_taken() {
        let mut builder = ReportBuilder::new(vec![]);
        builder.push_unanswered("systemd");
        assert!(builder.is_complete() && builder.finish().is_empty());
    }
}
