//! What a container wrote to its own log before it ended: it is read once for each run.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    container::{Container, Run},
    engine::ContainerEngine,
    text::{DETAIL_BYTES, Detail},
};

/// How many lines are told.
const LINES: usize = 20;

/// The last words of how many runs are kept.
const KEPT: usize = 256;

/// How long the engine may take to tell them. They are worth less than a late answer.
pub(super) const LAST_WORDS: Duration = Duration::from_secs(1);

/// The last words of the runs that ended last.
#[derive(Debug, Default)]
pub(super) struct LastWords(Mutex<VecDeque<(Run, Detail)>>);

impl LastWords {
    /// Returns the end of the log of a container that has ended; empty where the engine does not tell.
    pub(super) async fn of(
        &self,
        engine: &Arc<dyn ContainerEngine>,
        container: &Container,
        by: Instant,
    ) -> Detail {
        let run = container.run();
        let known = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, words)) = known().iter().find(|(own, _)| own.is_same(&run)) {
            return words.clone();
        }
        let read = engine
            .last_words(&container.id, LINES, DETAIL_BYTES, by)
            .await;
        let words = match read {
            Ok(log) => Detail::new(String::from_utf8_lossy(&log)),
            Err(error) => {
                tracing::debug!(container = %container.id, %error, "its log could not be read");
                return Detail::default();
            }
        };
        let mut kept = known();
        kept.truncate(KEPT - 1);
        kept.push_front((run, words.clone()));
        words
    }
}
