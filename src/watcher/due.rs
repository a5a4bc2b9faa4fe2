//! When something is asked for again though nothing tells that it has changed.

use tokio::time::Instant;

use super::{
    cached::Cached,
    probe_set::Mode,
    schedule::{CONFIGURATION, ENGINE_RETURN, RESYNC, SLOW_BOOT, earlier},
    session::{ENGINE, SystemdReply},
    state::{Answer, EngineBack, NodeState},
    watch::Watch,
};
use crate::{
    container::{Container, State},
    environment::after,
    probe::{Method, Probe, ProbeKind, container},
    unit::is_booting,
};

impl NodeState {
    /// When the container has to be inspected again though no event tells of it. One that does not exist
    /// need not be, while events are live: they tell when it comes, and one list backs them up for all
    /// such containers.
    pub(super) fn container_due(&self) -> Option<Instant> {
        if self.is_absent() && self.container_events_live() {
            return None;
        }
        let span = self.container.span();
        let container = match self.container.value() {
            Some(Ok(Some(container))) => Some(container),
            _ => None,
        };
        let runs = container.is_some_and(|container| container.state == State::Running);
        let due = match (self.container_events_live(), runs) {
            (true, _) => span.answered + RESYNC,
            (false, true) => after(span.answered, self.poll()),
            (false, false) => self.retry_at(&self.container),
        };
        let confirmed = container.and_then(|container| {
            let finding = container::judge(&self.node, container);
            self.confirmations
                .judge(finding, ENGINE, span, Mode::Wait)
                .confirm_at
        });
        let back = container.and_then(|container| self.engine_return(container));
        let comes = |at: &Instant| span.asked < *at;
        let soonest = earlier(back.filter(comes), confirmed.filter(comes));
        Some(soonest.map_or(due, |soonest| due.min(soonest)))
    }

    /// When systemd has to be asked again for a probe though nothing is signalled.
    pub(super) fn systemd_due(&self, probe: &Probe, stops: bool) -> Instant {
        let systemd = &self.systemd;
        let answered = systemd.span().answered;
        let retry = || self.retry_at(systemd);
        match systemd.value().map(|reply| &reply.result) {
            Some(Ok(state)) if state.subscribed => {
                let is_systemd = matches!(probe.kind(), ProbeKind::Builtin(Method::Systemd));
                // The end of a boot is signalled; how else the state changes is not, nor what a boot waits for.
                match (stops && is_systemd, is_booting(&state.system)) {
                    (true, false) => retry(),
                    (true, true) => answered + SLOW_BOOT,
                    (false, _) => answered + RESYNC,
                }
            }
            _ if stops => retry(),
            _ => after(answered, self.poll()),
        }
    }

    /// When a probe's own query has to be run again.
    pub(super) fn answer_due(
        &self,
        answer: &Answer,
        stops: bool,
        stands_with_unit: bool,
    ) -> Option<Instant> {
        let answered = answer.cached.span().answered;
        let poll = self.poll();
        let systemd = self.systemd.value();
        let subscribed = systemd.is_some_and(SystemdReply::is_subscribed);
        let reply = answer.cached.value();
        let is_watched = reply.is_some_and(|reply| matches!(reply.watch, Watch::Start(_)));
        let due = match (stops, stands_with_unit) {
            // A setting may say by now that the node does without.
            (true, _) if is_watched => Some(after(answered, CONFIGURATION.max(poll))),
            (true, _) => Some(self.retry_at(&answer.cached)),
            (false, true) if subscribed => None,
            (false, _) => Some(after(answered, poll)),
        };
        let again = reply.and_then(|reply| reply.again);
        due.map(|due| again.map_or(due, |again| due.max(again)))
    }

    /// When something is asked for again that no event tells of.
    pub(super) fn retry_at<T>(&self, cached: &Cached<T>) -> Instant {
        cached.retry_at(self.schedule.quiet_since, self.poll())
    }

    /// Until when an ended container may still be started again by an engine that has come back.
    pub(super) fn engine_return(&self, container: &Container) -> Option<Instant> {
        let back = match self.engine.back? {
            EngineBack::Since(back) => back,
            // What was seen before it went away does not count, either.
            EngineBack::NotYet => self.container.span().asked,
        };
        let ended = matches!(container.state, State::Exited { .. } | State::Dead);
        (ended && container.restarts).then(|| back + ENGINE_RETURN)
    }
}
