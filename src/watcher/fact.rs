//! Something that was asked of a node, and whether it still counts.
//!
//! ```text
//!            ask           come                 something happened
//! unknown ────────▶ asked ──────▶ it counts ──────────────────────▶ in doubt ── ask ─▶ …
//!                     │              │ it is time, or somebody wants it anew
//!                     │              └──────▶ it counts, and is asked for once more
//!                     └ something happened: what comes is in doubt from the start
//! ```

use std::time::Duration;

use tokio::time::Instant;

use super::subject::Span;

/// For how long what has passed stands while it is asked for once more.
const STANDS: Duration = Duration::from_secs(1);

/// Something that was asked of a node.
pub(super) struct Fact<T> {
    /// The newest answer, whether it counts or not.
    pub(super) value: Option<T>,
    /// Between these instants it was so.
    pub(super) span: Span,
    /// Something may have changed it since it was asked for.
    doubtful: bool,
    /// And since it came.
    stale: bool,
    wanted: Wanted,
    asked: Option<Asking>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    No,
    /// Only because it is time.
    ByTime,
    Anew,
}

#[derive(Debug, Clone, Copy)]
struct Asking {
    at: Instant,
    by_time: bool,
    /// Something has happened since.
    doubtful: bool,
    /// Somebody has wanted it anew since.
    again: bool,
}

impl<T> Fact<T> {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            value: None,
            span: (now, now),
            doubtful: false,
            stale: false,
            wanted: Wanted::No,
            asked: None,
        }
    }

    /// Whether nothing has happened since that may have changed it.
    pub(super) fn counts(&self) -> bool {
        !self.doubtful
    }

    /// Whether something has happened since it came: what came was so at some moment, this need not be
    /// so any more.
    pub(super) fn is_stale(&self) -> bool {
        self.stale
    }

    /// Whether it has to be asked for.
    pub(super) fn needs_asking(&self) -> bool {
        self.value.is_none() || self.doubtful || self.wanted != Wanted::No
    }

    pub(super) fn is_asked(&self) -> bool {
        self.asked.is_some()
    }

    /// Whether it is being asked for only because it was time: then nothing that is told should have
    /// changed.
    pub(super) fn is_asked_by_time(&self) -> bool {
        self.asked
            .is_some_and(|asked| asked.by_time && !asked.doubtful)
    }

    /// Until when a fact that has passed stands while it is asked for once more.
    pub(super) fn stands_until(&self) -> Option<Instant> {
        self.asked.map(|asked| asked.at + STANDS)
    }

    /// Something may have changed it.
    pub(super) fn doubt(&mut self) {
        (self.doubtful, self.stale) = (true, true);
        if let Some(asked) = &mut self.asked {
            asked.doubtful = true;
        }
    }

    /// Something has changed it since it came; whoever is asked now knows of it, or says that not.
    pub(super) fn outdate(&mut self) {
        (self.doubtful, self.stale) = (true, true);
    }

    /// It counts, and is wanted once more: as it is from now on.
    pub(super) fn want_anew(&mut self) {
        self.wanted = Wanted::Anew;
        if let Some(asked) = &mut self.asked {
            asked.again = true;
        }
    }

    /// It is time to ask once more.
    pub(super) fn expire(&mut self) {
        if self.wanted == Wanted::No {
            self.wanted = Wanted::ByTime;
        }
    }

    /// It is being asked for.
    pub(super) fn ask(&mut self, now: Instant) {
        self.asked = Some(Asking {
            at: now,
            by_time: self.wanted == Wanted::ByTime && !self.doubtful && self.value.is_some(),
            doubtful: false,
            again: false,
        });
    }

    /// The answer has come.
    pub(super) fn come(&mut self, value: T, span: Span) {
        let asked = self.asked.take();
        self.doubtful = asked.is_some_and(|asked| asked.doubtful);
        self.stale = false;
        self.wanted = match asked {
            Some(Asking { again: true, .. }) => Wanted::Anew,
            _ => Wanted::No,
        };
        self.value = Some(value);
        self.span = span;
    }

    /// Nobody waits for the answer any more.
    pub(super) fn give_up(&mut self) {
        if self.asked.take().is_some() {
            self.wanted = Wanted::Anew;
        }
    }
}

/// How many questions may follow events at once, and how soon there may be another.
const BURST: u32 = 16;
const STEP: Duration = Duration::from_millis(50);

/// The pace at which events are followed by questions: however many there are, asking is not all that
/// is done.
pub(super) struct Pace {
    /// When all of the burst will be there again.
    full: Instant,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        Self { full: now }
    }

    /// Takes one question's share; else tells when there will be one.
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

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn what_comes_after_something_has_happened_is_in_doubt() {
        let now = Instant::now();
        let mut fact = Fact::new(now);
        assert!(fact.needs_asking());
        fact.ask(now);
        fact.doubt();
        fact.come(1, (now, now));
        assert!(!fact.counts() && fact.needs_asking());
        assert!(!fact.is_stale(), "it was so at some moment since");
        fact.ask(now);
        fact.come(2, (now, now));
        assert!(fact.counts() && !fact.needs_asking());
    }

    #[test]
    fn what_is_wanted_anew_counts_meanwhile_and_is_asked_from_then_on() {
        let now = Instant::now();
        let mut fact = Fact::new(now);
        fact.ask(now);
        fact.come(1, (now, now));
        fact.want_anew();
        assert!(fact.counts() && fact.needs_asking());
        fact.ask(now);
        fact.want_anew();
        fact.come(2, (now, now));
        assert!(fact.needs_asking(), "that question was an older one");
        fact.ask(now);
        fact.come(3, (now, now));
        assert!(!fact.needs_asking());
    }

    #[test]
    fn only_time_is_a_reason_to_be_surprised() {
        let now = Instant::now();
        let mut fact = Fact::new(now);
        fact.ask(now);
        assert!(!fact.is_asked_by_time(), "it was never known");
        fact.come(1, (now, now));
        fact.expire();
        fact.ask(now);
        assert!(fact.is_asked_by_time());
        fact.doubt();
        assert!(!fact.is_asked_by_time(), "something was told in time");
    }

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
}
