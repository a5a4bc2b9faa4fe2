//! One round of a node's probes, as reports in the making: what this round has found, what the one
//! before had, and what stands in for a probe that has not answered or was not asked.

use std::time::Duration;

use crate::{
    environment::Environment,
    probe::Probe,
    report::{ProbeReport, ProbeResult},
    text::{Detail, Reason},
};

/// The reports of a round in the making, beside those of the round before.
pub(super) struct Round {
    environment: Environment,
    pub(super) probes: Vec<Probe>,
    before: Vec<ProbeReport>,
    pub(super) reports: Vec<ProbeReport>,
    /// Whether a probe has not passed, which ends the round.
    pub(super) stopped: bool,
    /// How long the next probe to be settled took.
    pub(super) elapsed: Duration,
}

impl Round {
    pub(super) fn new(
        environment: &Environment,
        before: &[ProbeReport],
        probes: Vec<Probe>,
    ) -> Self {
        Self {
            environment: environment.clone(),
            before: before.to_vec(),
            reports: Vec::with_capacity(probes.len()),
            probes,
            stopped: false,
            elapsed: Duration::ZERO,
        }
    }

    /// The reports of a node that has not been looked at.
    pub(super) fn unanswered(environment: &Environment, probes: &[Probe]) -> Vec<ProbeReport> {
        let mut round = Self::new(environment, &[], probes.to_vec());
        round.unanswered_next();
        round.skip_rest();
        round.reports
    }

    /// The next probe to run, unless one has stopped the round.
    pub(super) fn next(&self) -> Option<Probe> {
        (!self.stopped)
            .then(|| self.probes.get(self.reports.len()).cloned())
            .flatten()
    }

    fn known(&self, probe: &str) -> Option<&ProbeReport> {
        self.before.iter().find(|report| report.probe == probe)
    }

    /// Everything as it is while the next probe is being asked for the first time.
    pub(super) fn so_far(&self) -> Vec<ProbeReport> {
        let mut round = Self::new(&self.environment, &self.before, self.probes.clone());
        round.reports.clone_from(&self.reports);
        round.unanswered_next();
        round.skip_rest();
        round.reports
    }

    pub(super) fn has_passed(&self) -> bool {
        !self.stopped && self.reports.len() == self.probes.len()
    }

    fn unanswered_next(&mut self) {
        if let Some(probe) = self.next() {
            let reason = Reason::new(format!("{} has not answered yet", probe.asks()));
            self.settle(ProbeResult::Unknown(reason), Detail::default(), "");
        }
    }

    /// Takes the result of the next probe; what has not passed stops the round.
    pub(super) fn settle(&mut self, result: ProbeResult, detail: Detail, via: &'static str) {
        self.stopped |= !result.is_passed();
        self.report(result, detail, via);
    }

    pub(super) fn skip_rest(&mut self) {
        let Some(last) = self.reports.last().map(|report| report.probe.clone()) else {
            return;
        };
        self.elapsed = Duration::ZERO;
        while self.reports.len() < self.probes.len() {
            let reason = Reason::new(format!("not looked at: {last} has not passed"));
            self.report(ProbeResult::Skipped(reason), Detail::default(), "");
        }
    }

    fn report(&mut self, result: ProbeResult, detail: Detail, via: &'static str) {
        let Some(probe) = self.probes.get(self.reports.len()) else {
            return;
        };
        let same = self
            .known(probe.name())
            .filter(|report| report.result.same_kind(&result));
        let since = same.map_or_else(|| self.environment.wall(), |report| report.since);
        self.reports.push(ProbeReport {
            probe: probe.name().to_owned(),
            result,
            detail,
            via,
            elapsed: self.elapsed,
            since,
        });
    }
}
