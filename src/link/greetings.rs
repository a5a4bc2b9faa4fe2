//! What ports said last that must not be asked often, for all who ask.
//!
//! sshd shuts out whoever connects often and never logs in (`PerSourcePenalties` in `sshd_config(5)`). So
//! one client at a time reads its banner, and another within the pause that the question demands is
//! given what was read last.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{sync::Mutex as Turn, time::Instant};

use super::Reply;
use crate::{
    container::{ContainerId, Run},
    environment::Environment,
    question::Answer,
};

/// How many ports are remembered before those are forgotten of which there is nothing to remember.
const REMEMBERED: usize = 64;

/// A port of a container.
type Key = (ContainerId, u16);

/// The ports that were read.
#[derive(Debug, Default)]
pub(super) struct Greetings(Mutex<HashMap<Key, Arc<Turn<Option<Last>>>>>);

/// The last time that a port was read.
#[derive(Debug)]
struct Last {
    run: Run,
    /// The start of the daemon behind the port, if that is known.
    start: String,
    /// When it may be read again.
    again: Instant,
    /// What it said; `None` while it is read, and if that was given up: it was connected to all the same.
    greeting: Option<Greeting>,
}

impl Last {
    /// Whether the daemon that is asked now may be the one that was.
    fn spares(&self, run: &Run, start: &str) -> bool {
        let is_another = self.start != start && !self.start.is_empty() && !start.is_empty();
        self.run.is_same(run) && !is_another
    }

    /// What was read, if it is news and surely of the daemon that is wanted.
    fn greeting(&self, wanted: Wanted<'_>) -> Option<&Greeting> {
        let greeting = self.greeting.as_ref()?;
        let is_news = wanted.newer_than.is_none_or(|than| greeting.asked > than);
        let was_there = wanted.since.is_some_and(|since| since < greeting.asked);
        let is_of = self.start == wanted.start || (self.start.is_empty() && was_there);
        (is_news && is_of).then_some(greeting)
    }
}

/// What a port said, and when.
#[derive(Debug, Clone)]
pub(crate) struct Greeting {
    pub(crate) reply: Reply<Answer>,
    pub(crate) asked: Instant,
    pub(crate) answered: Instant,
    /// When the port may be read again; `None` if at any time.
    pub(crate) again: Option<Instant>,
}

/// Which greeting is wanted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted<'a> {
    /// The start of the daemon behind the port; empty if that is not known. What another start said
    /// does not count; nor is the port spared for it, where both are known.
    pub(crate) start: &'a str,
    /// Since when it has been this start at least, if that is known.
    pub(crate) since: Option<Instant>,
    /// Only what was asked for later than this is news.
    pub(crate) newer_than: Option<Instant>,
    /// How long the port is left alone after it was read.
    pub(crate) pause: Duration,
}

impl Greetings {
    /// Returns what the port said last, if that was within the pause; else has it read, once the pause
    /// is over. A connection that is refused does not count as read, nor does one that readyd could not
    /// make.
    pub(super) async fn greeting<F>(
        &self,
        run: Run,
        port: u16,
        wanted: Wanted<'_>,
        environment: &Environment,
        read: impl FnOnce() -> F,
    ) -> Greeting
    where
        F: Future<Output = Reply<Answer>>,
    {
        let mut last = loop {
            let last = self.turn(&run, port, environment.now()).lock_owned().await;
            let again = match &*last {
                Some(last) if last.spares(&run, wanted.start) && environment.now() < last.again => {
                    if let Some(greeting) = last.greeting(wanted) {
                        return greeting.clone();
                    }
                    last.again
                }
                _ => break last,
            };
            // Others may be content with what is there.
            drop(last);
            environment.sleep_until(again).await;
        };
        let asked = environment.now();
        // In this order: whoever asks may go away at any time, and the port was connected to.
        let last = last.insert(Last {
            run,
            start: wanted.start.to_owned(),
            again: asked + wanted.pause,
            greeting: None,
        });
        let reply = read().await;
        let answered = environment.now();
        let was_read = matches!(reply.result, Ok(Answer::Greeting(..)));
        last.again = answered
            + if was_read {
                wanted.pause
            } else {
                Duration::ZERO
            };
        let greeting = Greeting {
            reply,
            asked,
            answered,
            again: was_read.then_some(last.again),
        };
        last.greeting = was_read.then(|| greeting.clone());
        greeting
    }

    /// Whether a port was read within its pause.
    pub(super) fn is_spared(&self, run: &Run, port: u16, now: Instant) -> bool {
        let turn = self.turn(run, port, now);
        // One that is being read right now will have been.
        turn.try_lock().map_or(true, |last| {
            last.as_ref()
                .is_some_and(|last| last.run.is_same(run) && now < last.again)
        })
    }

    fn turn(&self, run: &Run, port: u16, now: Instant) -> Arc<Turn<Option<Last>>> {
        let mut ports = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if ports.len() >= REMEMBERED {
            let is_wanted = |turn: &mut Arc<Turn<Option<Last>>>| {
                let last = turn.try_lock();
                let over = |last: &Option<Last>| last.as_ref().is_none_or(|last| last.again < now);
                Arc::strong_count(turn) > 1 || !last.is_ok_and(|last| over(&last))
            };
            ports.retain(|_, turn| is_wanted(turn));
        }
        let turn = ports.entry((run.id.clone(), port)).or_default();
        Arc::clone(turn)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::question::GreetingEnd;

    const PAUSE: Duration = Duration::from_secs(2);

    struct Port {
        greetings: Greetings,
        environment: Environment,
        reads: AtomicUsize,
        open: bool,
    }

    fn port() -> Port {
        Port {
            greetings: Greetings::default(),
            environment: Environment::tokio(),
            reads: AtomicUsize::new(0),
            open: true,
        }
    }

    impl Port {
        async fn read(&self, node: usize, start: &str, newer_than: Option<Instant>) -> Greeting {
            self.read_for(node, start, newer_than, Duration::ZERO).await
        }

        /// A reading that takes so long.
        async fn read_for(
            &self,
            node: usize,
            start: &str,
            newer_than: Option<Instant>,
            takes: Duration,
        ) -> Greeting {
            let run = crate::link::target::tests::container(node, 1).run();
            let wanted = Wanted {
                start,
                since: None,
                newer_than,
                pause: PAUSE,
            };
            let read = || async {
                self.reads.fetch_add(1, Ordering::SeqCst);
                if !takes.is_zero() {
                    self.environment.sleep(takes).await;
                }
                let answer = if self.open {
                    Answer::Greeting(b"SSH-2.0".to_vec(), GreetingEnd::Found)
                } else {
                    Answer::Closed("Connection refused".to_owned())
                };
                Reply::by("host", Ok(answer))
            };
            let environment = &self.environment;
            self.greetings
                .greeting(run, 22, wanted, environment, read)
                .await
        }

        fn reads(&self) -> usize {
            self.reads.load(Ordering::SeqCst)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn within_the_pause_all_are_given_what_was_read_last() {
        let port = port();
        let first = port.read(1, "a", None).await;
        assert_eq!(first.again, Some(first.answered + PAUSE));
        for _ in 0..10 {
            port.environment.sleep(PAUSE / 11).await;
            assert_eq!(port.read(1, "a", None).await.asked, first.asked);
        }
        assert_eq!(port.reads(), 1);
        port.environment.sleep(PAUSE / 11).await;
        assert!(port.read(1, "a", None).await.asked >= first.asked + PAUSE);
        // Another node has nothing to do with it.
        port.read(2, "a", None).await;
        assert_eq!(port.reads(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn what_has_to_be_newer_waits_for_the_pause() {
        let port = port();
        let first = port.read(1, "a", None).await;
        let second = port.read(1, "a", Some(first.asked)).await;
        assert_eq!(second.asked, first.answered + PAUSE);
        // That was news for whoever knew only the first.
        assert_eq!(
            port.read(1, "a", Some(first.asked)).await.asked,
            second.asked
        );
        assert_eq!(port.reads(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn another_start_of_the_daemon_is_read_at_once_and_a_refusal_is_no_read() {
        let mut port = port();
        let first = port.read(1, "a", None).await;
        let second = port.read(1, "b", None).await;
        assert_eq!((port.reads(), second.asked), (2, first.asked));
        port.open = false;
        for reads in 3..6 {
            let refused = port.read(1, "c", Some(second.asked)).await;
            assert_eq!((port.reads(), refused.again), (reads, None));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_goes_away_has_read_all_the_same() {
        let port = port();
        let start = port.environment.now();
        for _ in 0..10 {
            let mut read = Box::pin(port.read_for(1, "a", None, PAUSE));
            assert!(futures_util::poll!(&mut read).is_pending());
        }
        assert_eq!(port.reads(), 1);
        assert_eq!(port.read(1, "a", None).await.asked, start + PAUSE);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_long_past_is_forgotten() {
        let port = port();
        for node in 0..10 * REMEMBERED {
            port.read(node, "a", None).await;
            port.environment.sleep(PAUSE / 4).await;
        }
        assert!(port.greetings.0.lock().unwrap().len() <= REMEMBERED);
    }
}
