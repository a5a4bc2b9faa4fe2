//! When things are asked, and for how long replies stand: every constant of time in the watcher, each
//! with its reason.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::span::Span;
use crate::fair::CallerId;

/// For how long a unit that does not report when it is up has to have been active.
///
/// A unit of Type=simple is active from its fork on, also if it dies 9 ms later; a daemon that finds a
/// mistake in its configuration has done so within this time.
pub(super) const PROVEN: Duration = Duration::from_millis(200);

/// How much later a failed unit has to be found unchanged to be terminal: a unit with `Restart=` passes
/// through failed in every cycle.
pub(super) const UNIT_CONFIRMED: Duration = Duration::from_millis(100);

/// How much later an exited container with a restart policy has to be found unchanged to be terminal.
/// Docker calls it restarting while it waits to start it again, but for a moment at each end.
pub(super) const RUN_CONFIRMED: Duration = Duration::from_secs(1);

/// How long after an engine's return a container that it starts again may take. Until then, exited is
/// not the end.
pub(super) const ENGINE_RETURN: Duration = Duration::from_secs(10);

/// How old a reply may be for a set to pass by it. Of systemd as a whole not every change is
/// signalled, and of an answer none is.
const FRESH: Duration = Duration::from_secs(1);

/// How old a reply may be where queries are slow: three times as old as the slowest takes. Queries that
/// follow each other, by an exec each on a busy machine say, would else be too old for ever.
pub(super) fn fresh(slowest: Duration) -> Duration {
    FRESH.max(3 * slowest)
}

/// How old a banner may be for a wait that begins. Nothing tells when sshd no longer answers.
pub(super) const BANNER_AGES: Duration = Duration::from_secs(10);

/// How soon what no event tells is asked for again, at first.
const EAGER: Duration = Duration::from_millis(10);

/// And later: after a sixteenth of the time for which nothing has changed. So whatever happens is found
/// out late by no more than that, and asking gets ever more seldom.
const PATIENCE: u32 = 16;

/// How long a boot takes at most that needs no explanation. A node boots in 300 ms.
pub(super) const SLOW_BOOT: Duration = Duration::from_secs(2);

/// For how long a setting of the node's configuration files is not read again.
pub(super) const CONFIGURATION: Duration = Duration::from_secs(5);

/// How often what events tell is asked for all the same: an event may have been lost.
pub(crate) const RESYNC: Duration = Duration::from_secs(30);

/// How long one query may take in all. Every call that it makes has a shorter limit of its own; this
/// one only keeps a query from adding up too many.
pub(super) const QUERY_LIMIT: Duration = Duration::from_secs(30);

/// How often the container is inspected while something in it is slow to answer.
pub(super) const STILL_RUNNING: Duration = Duration::from_millis(500);

/// For how long an engine may still call a container running whose processes have already been seen to
/// end.
pub(super) const ENGINE_LAG: Duration = Duration::from_millis(500);

/// The wait before a node is followed anew whose actor has ended in a panic: what made it panic may still
/// be there.
pub(super) const AFTER_A_PANIC: Duration = Duration::from_secs(1);

/// The wait before a lost event stream is subscribed to again: at first, and at most.
pub(crate) const EVENTS_BACKOFF: (Duration, Duration) =
    (Duration::from_millis(100), Duration::from_secs(5));

/// How many inspections may be under way at once. An engine answers some hundreds in a second; more of
/// them at once would only wait there, and in its own order.
pub(super) const ENGINE_CALLS: usize = 16;

/// How many queries may follow events at once, and how soon there may be another.
const BURST: u32 = 16;
const STEP: Duration = Duration::from_millis(50);

/// When something is asked for again that no event tells: eagerly after news, ever more seldom later,
/// never more often than it takes, and at the poll interval at the latest. The jitter, a factor around
/// one, keeps many nodes from being asked in step.
pub(super) fn retry(span: Span, quiet_since: Instant, poll: Duration, jitter: f64) -> Instant {
    let quiet = span.answered.saturating_duration_since(quiet_since);
    let delay = EAGER.max(quiet / PATIENCE).max(span.took()).min(poll);
    // What is further away than a day is as good as never, and overflows no clock.
    let delay = delay.min(Duration::from_secs(24 * 60 * 60));
    span.answered + delay.mul_f64(jitter)
}

/// The pace at which events are followed by queries: however many events there are, asking is not all
/// that is done.
pub(super) struct Pace {
    /// When all of the burst will be there again.
    full: Instant,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        Self { full: now }
    }

    /// Takes one query's share; else tells when there will be one.
    pub(super) fn take(&mut self, now: Instant) -> Result<(), Instant> {
        let full = self.full.max(now) + STEP;
        let earliest = full - STEP * BURST;
        if earliest > now {
            return Err(earliest);
        }
        self.full = full;
        Ok(())
    }
}

/// How often commands are run by routine in the nodes of one caller, a wait say: those that have passed, and those
/// that have not. Each takes some tens of milliseconds of the engine's machine and of a controller's. How many may
/// be run at once, and how long a turn is waited for at most, however many nodes there are.
const ROUTINE_PASSED: Duration = Duration::from_millis(200);
const ROUTINE_FAILED: Duration = Duration::from_millis(50);
const ROUTINE_BURST: u32 = 8;
const ROUTINE_LONGEST: Duration = Duration::from_secs(10);

/// How many callers are remembered before those are forgotten that wait for no turn.
const ROUTINE_CALLERS: usize = 1024;

/// The turns of commands that are run by routine, without which a hundred workers that ask their controller twice a
/// second keep a machine busy.
#[derive(Default)]
pub(crate) struct Turns(Mutex<HashMap<CallerId, [Instant; 2]>>);

impl Turns {
    /// When the caller's next command may be run that has passed, or has not.
    pub(super) fn next(&self, caller: CallerId, passed: bool, now: Instant) -> Instant {
        let step = if passed {
            ROUTINE_PASSED
        } else {
            ROUTINE_FAILED
        };
        let mut callers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if callers.len() >= ROUTINE_CALLERS {
            callers.retain(|_, booked| booked.iter().any(|booked| *booked > now));
        }
        let booked = callers.entry(caller).or_insert([now; 2]);
        let booked = &mut booked[usize::from(passed)];
        let burst = step * ROUTINE_BURST;
        *booked = ((*booked).max(now) + step).min(now + ROUTINE_LONGEST + burst);
        (*booked - burst).max(now)
    }
}

pub(super) fn earlier(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_storm_is_followed_in_step() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        let mut taken = 0;
        for ms in 0..1000 {
            while pace.take(start + MS * ms).is_ok() {
                taken += 1;
            }
        }
        assert_eq!(taken, BURST + 999 / 50);
        let later = start + MS * 999;
        assert!(pace.take(later).unwrap_err() > later);
    }

    #[test]
    fn asking_gets_more_seldom_the_longer_nothing_changes_up_to_the_poll_interval() {
        let start = Instant::now();
        let after = |quiet: Duration| {
            let answered = start + quiet;
            let span = Span::new(answered - MS, answered);
            retry(span, start, 500 * MS, 1.0) - answered
        };
        assert_eq!(after(MS), EAGER);
        assert_eq!(after(1600 * MS), 100 * MS);
        assert_eq!(after(Duration::from_secs(60)), 500 * MS);
    }

    #[test]
    fn what_takes_long_is_not_asked_more_often_than_it_takes() {
        let start = Instant::now();
        let span = Span::new(start, start + 300 * MS);
        assert_eq!(
            retry(span, span.answered, 500 * MS, 1.0),
            span.answered + 300 * MS
        );
        assert_eq!(
            retry(span, span.answered, 100 * MS, 1.0),
            span.answered + 100 * MS
        );
    }

    #[test]
    fn an_endless_poll_interval_overflows_no_clock() {
        let start = Instant::now();
        let span = Span::new(start, start + Duration::from_secs(1_000_000));
        assert!(retry(span, start, Duration::MAX, 1.1) > span.answered);
    }

    #[test]
    fn what_counts_as_fresh_grows_with_what_a_query_takes() {
        assert_eq!(fresh(10 * MS), FRESH);
        assert_eq!(fresh(1500 * MS), 4500 * MS);
    }

    #[test]
    fn commands_of_many_nodes_take_turns() {
        let zero = Instant::now();
        let turns = Turns::default();
        let caller = CallerId::new;
        let next = |passed| turns.next(caller(1), passed, zero) - zero;
        let passed: Vec<_> = (0..10).map(|_| next(true)).collect();
        assert!(passed[..8].iter().all(Duration::is_zero));
        assert_eq!(passed[8..], [200 * MS, 400 * MS]);
        // Those that have not passed are not held up by those that have.
        assert_eq!(next(false), Duration::ZERO);
        // However many one caller has, none of them waits for ever, and another's do not wait for them.
        let longest = (0..1000).map(|_| next(true)).max();
        assert_eq!(longest, Some(ROUTINE_LONGEST));
        assert_eq!(turns.next(caller(2), true, zero), zero);
        // What was not used adds up to a burst, and no more.
        let later = zero + 60_000 * MS;
        let free = (0..9).map(|_| turns.next(caller(1), true, later) - later);
        assert_eq!(free.filter(Duration::is_zero).count(), 8);
    }
}
