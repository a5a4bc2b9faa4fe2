//! A reply that is kept, and whether it still counts.
//!
//! ```text
//!           start            store                  invalidate
//! nothing ────────▶ in flight ─────▶ valid ─────────────────────────▶ stale ── start ─▶ …
//!                      │               │ expire, refresh
//!                      │               └──────▶ valid, and asked for once more
//!                      └ invalidate: what is stored is doubtful from the start
//! ```

use tokio::time::Instant;

use super::{prompt::Prompt, schedule::retry, span::Span};

/// Whether a reply still counts; what is later in this order counts less.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Freshness {
    /// Nothing has happened since it was asked for that may have changed it.
    #[default]
    Valid,
    /// Something has happened while it was in flight. It was so at some moment after that.
    Doubtful,
    /// Something has happened since it arrived: it need not be so any more.
    Stale,
}

/// The newest reply to a query, and the query in flight.
#[derive(Debug)]
pub(super) struct Cached<T> {
    value: Option<T>,
    span: Span,
    freshness: Freshness,
    refresh: Refresh,
    query: Option<Query>,
    /// What has invalidated it.
    prompt: Option<Prompt>,
    /// The factor by which the next retry is put off, around one.
    jitter: f64,
}

/// Why a reply that counts is asked for once more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refresh {
    No,
    /// It is time, which is no sign that anything has changed.
    Expired,
    Requested,
}

#[derive(Debug)]
struct Query {
    /// Whether it was started only because it was time.
    is_routine: bool,
    /// Whether something has happened since.
    invalidated: bool,
    /// Whether a reply to a later query is wanted, too.
    again: bool,
    prompt: Option<Prompt>,
}

impl<T> Cached<T> {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            value: None,
            span: Span::new(now, now),
            freshness: Freshness::Valid,
            refresh: Refresh::No,
            query: None,
            prompt: None,
            jitter: 1.0,
        }
    }

    /// The newest reply, whether it counts or not.
    pub(super) fn value(&self) -> Option<&T> {
        self.value.as_ref()
    }

    /// When the newest reply was so.
    pub(super) fn span(&self) -> Span {
        self.span
    }

    pub(super) fn freshness(&self) -> Freshness {
        self.freshness
    }

    pub(super) fn is_valid(&self) -> bool {
        self.freshness == Freshness::Valid
    }

    /// Whether a query has to be started, or is in flight for that reason.
    pub(super) fn needs_query(&self) -> bool {
        self.value.is_none() || !self.is_valid() || self.refresh != Refresh::No
    }

    /// Whether a client wants it anew.
    pub(super) fn is_requested(&self) -> bool {
        self.refresh == Refresh::Requested
    }

    pub(super) fn is_in_flight(&self) -> bool {
        self.query.is_some()
    }

    /// Whether the query in flight was started only because it was time, and nothing has happened
    /// since: a reply that differs shows that something was not told.
    pub(super) fn is_routine(&self) -> bool {
        let query = self.query.as_ref();
        query.is_some_and(|query| query.is_routine && !query.invalidated)
    }

    /// Whether a query that is started now would be one of those.
    pub(super) fn is_due_by_routine(&self) -> bool {
        self.refresh == Refresh::Expired && self.is_valid() && self.value.is_some()
    }

    /// When it is asked for again where no event tells of changes.
    pub(super) fn retry_at(&self, quiet_since: Instant, poll: std::time::Duration) -> Instant {
        retry(self.span, quiet_since, poll, self.jitter)
    }

    /// Something has happened that may have changed it.
    pub(super) fn invalidate(&mut self, prompt: Option<&Prompt>) {
        self.invalidate_value(prompt);
        if let Some(query) = &mut self.query {
            query.invalidated = true;
        }
    }

    /// Invalidates the reply but not the query in flight, whose reply tells by a number of its own
    /// whether it includes the change.
    pub(super) fn invalidate_value(&mut self, prompt: Option<&Prompt>) {
        self.freshness = Freshness::Stale;
        if prompt.is_some() {
            self.prompt = prompt.cloned();
        }
    }

    /// Asks for a reply to a query that is started from now on. Meanwhile the newest one counts.
    pub(super) fn refresh(&mut self) {
        self.refresh = Refresh::Requested;
        if let Some(query) = &mut self.query {
            query.again = true;
        }
    }

    /// It is time to ask once more.
    pub(super) fn expire(&mut self) {
        if self.refresh == Refresh::No {
            self.refresh = Refresh::Expired;
        }
    }

    /// A query is started.
    pub(super) fn start(&mut self) {
        let is_routine = self.is_due_by_routine();
        let prompt = match self.prompt.take() {
            None if self.refresh == Refresh::Expired => Some(Prompt::poll()),
            prompt => prompt,
        };
        self.query = Some(Query {
            is_routine,
            invalidated: false,
            again: false,
            prompt,
        });
    }

    /// The reply to the query in flight has arrived. Gives what the query was started for, where that
    /// was more than a client's wish.
    pub(super) fn store(&mut self, value: T, span: Span, jitter: f64) -> Option<Prompt> {
        let query = self.query.take();
        let invalidated = query.as_ref().is_some_and(|query| query.invalidated);
        let again = query.as_ref().is_some_and(|query| query.again);
        self.freshness = if invalidated {
            Freshness::Doubtful
        } else {
            Freshness::Valid
        };
        self.refresh = if again {
            Refresh::Requested
        } else {
            Refresh::No
        };
        self.value = Some(value);
        self.span = span;
        self.jitter = jitter;
        query.and_then(|query| query.prompt)
    }

    /// Nobody waits for the query in flight any more.
    pub(super) fn abandon(&mut self) {
        if let Some(query) = self.query.take() {
            self.refresh = Refresh::Requested;
            self.prompt = self.prompt.take().or(query.prompt);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::report::Trigger;

    fn cached() -> (Cached<u32>, Instant) {
        let now = Instant::now();
        (Cached::new(now), now)
    }

    fn store(cached: &mut Cached<u32>, value: u32, now: Instant) -> Option<Prompt> {
        cached.store(value, Span::new(now, now), 1.0)
    }

    fn stored() -> (Cached<u32>, Instant) {
        let (mut cached, now) = self::cached();
        cached.start();
        store(&mut cached, 1, now);
        (cached, now)
    }

    fn died() -> Prompt {
        Prompt {
            trigger: Trigger::ContainerEvent,
            detail: Arc::from("die"),
        }
    }

    #[test]
    fn a_reply_is_doubtful_if_something_has_happened_while_it_was_in_flight() {
        let (mut cached, now) = cached();
        assert!(cached.needs_query());
        cached.start();
        cached.invalidate(None);
        store(&mut cached, 1, now);
        assert_eq!(cached.freshness(), Freshness::Doubtful);
        assert!(cached.needs_query());
        cached.start();
        store(&mut cached, 2, now);
        assert!(cached.is_valid() && !cached.needs_query());
        assert_eq!(cached.value(), Some(&2));
    }

    #[test]
    fn a_reply_is_stale_if_something_has_happened_since_it_arrived() {
        let (mut cached, _) = stored();
        cached.invalidate(None);
        assert_eq!(cached.freshness(), Freshness::Stale);
        assert_eq!(cached.value(), Some(&1), "it is kept all the same");
    }

    #[test]
    fn a_change_that_the_reply_includes_invalidates_only_what_was_there_before() {
        let (mut cached, now) = stored();
        cached.start();
        cached.invalidate_value(None);
        assert!(!cached.is_valid());
        store(&mut cached, 2, now);
        assert!(cached.is_valid());
    }

    #[test]
    fn a_refresh_wants_a_query_that_is_started_after_it() {
        let (mut cached, now) = stored();
        cached.refresh();
        assert!(cached.is_valid() && cached.needs_query());
        cached.start();
        cached.refresh();
        store(&mut cached, 2, now);
        assert!(cached.needs_query(), "that query was an older one");
        cached.start();
        store(&mut cached, 3, now);
        assert!(!cached.needs_query());
    }

    #[test]
    fn only_a_routine_query_is_one_that_should_find_nothing_new() {
        let (mut cached, now) = cached();
        cached.start();
        assert!(!cached.is_routine(), "nothing was known before");
        store(&mut cached, 1, now);
        cached.expire();
        cached.start();
        assert!(cached.is_routine());
        cached.invalidate(None);
        assert!(!cached.is_routine(), "an event came in time");
    }

    #[test]
    fn a_reply_names_what_its_query_was_started_for() {
        let (mut cached, now) = stored();
        cached.expire();
        cached.start();
        assert_eq!(store(&mut cached, 2, now), Some(Prompt::poll()));
        cached.invalidate(Some(&died()));
        cached.expire();
        cached.start();
        assert_eq!(
            store(&mut cached, 3, now),
            Some(died()),
            "the event came first"
        );
        cached.refresh();
        cached.start();
        assert_eq!(
            store(&mut cached, 4, now),
            None,
            "a client's wish is no prompt"
        );
    }

    #[test]
    fn an_event_while_a_poll_is_in_flight_is_the_cause_of_the_next_query() {
        let (mut cached, now) = stored();
        cached.expire();
        cached.start();
        cached.invalidate(Some(&died()));
        assert_eq!(store(&mut cached, 2, now), Some(Prompt::poll()));
        cached.start();
        assert_eq!(store(&mut cached, 3, now), Some(died()));
    }

    #[test]
    fn an_abandoned_query_is_started_again_for_the_same_cause() {
        let (mut cached, now) = stored();
        cached.invalidate(Some(&died()));
        cached.start();
        cached.abandon();
        assert!(!cached.is_in_flight() && cached.needs_query());
        cached.start();
        assert_eq!(store(&mut cached, 2, now), Some(died()));
    }
}
