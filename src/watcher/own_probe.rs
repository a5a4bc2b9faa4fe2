//! What a wait makes of a probe of the operator's own: how often it has to pass or to fail, from when on it is
//! looked at, and whether its node may do without it.

use tokio::time::Instant;

use super::{
    found::Found,
    probe_set::ProbeSet,
    session::{ProbeReply, QueryError},
    state::NodeState,
};
use crate::{
    engine::seconds,
    probe::{Outcome, OwnProbe, Probe},
    reason::ReasonCode,
    report::ProbeResult,
};

/// How often in a row a probe has passed or failed.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Streak {
    passed: u32,
    failed: u32,
    /// Whether it counts as passed.
    stands: bool,
}

impl Streak {
    /// Takes another reply. One that tells nothing of the node changes nothing.
    pub(super) fn note(&mut self, own: &OwnProbe, reply: &ProbeReply) {
        let has_passed = match &reply.result {
            Ok(_) => reply.has_passed(),
            Err(QueryError::Node(_)) => false,
            Err(QueryError::Unknown(_) | QueryError::Ended(_)) => return,
        };
        if has_passed {
            self.passed = self.passed.saturating_add(1);
            self.failed = 0;
            self.stands |= self.passed >= own.success_threshold;
        } else {
            self.failed = self.failed.saturating_add(1);
            self.passed = 0;
            self.stands &= self.failed < own.failure_threshold;
        }
    }

    /// What the newest reply means after those before it.
    pub(super) fn weigh(self, own: &OwnProbe, mut found: Found) -> Found {
        match (self.stands, &found.result) {
            (false, ProbeResult::Looked(Outcome::Passed(_))) => {
                let times = own.success_threshold;
                let why = format!("it has passed, and has to pass {times} times in a row");
                found.result = ProbeResult::Looked(Outcome::failed(ReasonCode::Confirming, why));
            }
            (true, ProbeResult::Looked(Outcome::Failed(reason))) => {
                let times = own.failure_threshold;
                let why = format!("it has to fail {times} times in a row to count: {reason}");
                found.result = ProbeResult::Looked(Outcome::passed_with(why));
            }
            _ => {}
        }
        found
    }
}

/// What a probe has come to where the node may do without it: unless it was named, it was not wanted for its
/// own sake.
pub(super) fn or_optional(set: &ProbeSet, probe: &Probe, found: Found) -> Found {
    match probe.own() {
        Some(own) if own.optional && !set.names_probes() => optional(found),
        _ => found,
    }
}

/// Makes what has not passed no obstacle.
fn optional(mut found: Found) -> Found {
    if let Some(why) = found.result.blocking() {
        let text = format!("optional, and not passed: {why}");
        found.result = ProbeResult::Looked(Outcome::passed_with(text));
        found.confirm_at = None;
    }
    found
}

impl NodeState {
    /// From when on a probe is looked at, if that is later than now; and what it is until then.
    pub(super) fn delayed(&self, own: &OwnProbe, now: Instant) -> Option<(Instant, Outcome)> {
        let since = self.last_seen.as_ref()?.since;
        let due = since + own.initial_delay;
        let why = format!(
            "it is not looked at in the first {} of its container",
            seconds(own.initial_delay)
        );
        (due > now).then(|| (due, Outcome::failed(ReasonCode::Confirming, why)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        probe::OwnCheck,
        watcher::{span::Span, watch::Watch},
    };

    fn own(success: u32, failure: u32) -> OwnProbe {
        OwnProbe {
            success_threshold: success,
            failure_threshold: failure,
            ..OwnProbe::new("own", OwnCheck::Tcp { port: 1 })
        }
    }

    /// What becomes of looks that pass (`+`), fail (`-`) and tell nothing (`?`).
    fn weighed(own: &OwnProbe, looks: &str) -> String {
        let now = Instant::now();
        let mut streak = Streak::default();
        let weigh = |look: char| {
            let outcome = match look {
                '-' => Outcome::failed(ReasonCode::PortClosed, "closed"),
                _ => Outcome::passed(),
            };
            let found = Found::settled(outcome.clone(), "", Span::new(now, now));
            let unknown = crate::probe::ProbeError::new(ReasonCode::EngineSlow, "slow");
            let reply = ProbeReply {
                via: "",
                result: match look {
                    '?' => Err(QueryError::Unknown(unknown)),
                    _ => Ok(outcome.into()),
                },
                span: Span::new(now, now),
                again: None,
                watch: Watch::Nothing,
            };
            streak.note(own, &reply);
            if streak.weigh(own, found).passes() {
                '+'
            } else {
                '-'
            }
        };
        looks.chars().map(weigh).collect()
    }

    #[test]
    fn one_look_decides_unless_more_are_wanted() {
        assert_eq!(weighed(&own(1, 1), "-+-+"), "-+-+");
        assert_eq!(weighed(&own(3, 1), "++-+++-+++"), "-----+---+");
        assert_eq!(weighed(&own(1, 3), "-+--+---+"), "-++++++-+");
        assert_eq!(weighed(&own(2, 2), "+?+-+--+"), "--++++--");
    }

    #[test]
    fn what_is_optional_passes_and_says_why_it_would_not() {
        let now = Instant::now();
        let failed = || {
            let outcome = Outcome::failed(ReasonCode::PortClosed, "closed");
            Found::settled(outcome, "", Span::new(now, now))
        };
        let found = optional(failed());
        assert!(found.passes());
        assert_eq!(
            found.result.reason(),
            Some("optional, and not passed: closed")
        );
        assert_eq!(
            optional(Found::settled(Outcome::passed(), "", Span::new(now, now)))
                .result
                .reason(),
            None
        );
    }
}
