//! What would change a probe's reply without a word of the engine or of systemd: a process that starts, and
//! one that ends.

use std::time::Duration;

use tokio::time::Instant;

use super::{schedule::retry, session::NodeSession, span::Span};

/// What would change a reply, and is told at once or seen at a glance.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum Watch {
    /// Nothing that is known.
    #[default]
    Nothing,
    /// That a process of one of these names runs.
    Start(Vec<&'static str>),
    /// That this process, in the node's own numbering, ends.
    End(u32),
}

impl NodeSession {
    /// What would change it that no process of these names runs.
    pub(super) fn watch_for_start(&self, processes: &[&'static str]) -> Watch {
        let is_seen = |process: &&'static str| self.link.is_surely_missing(process);
        if processes.iter().all(is_seen) {
            Watch::Start(processes.to_vec())
        } else {
            Watch::Nothing
        }
    }

    /// Completes once something has happened that may have changed a reply with this watch. What is only
    /// seen at a glance is glanced at as often as it would be asked for.
    pub(super) async fn changed(&self, watch: &Watch, quiet_since: Instant, poll: Duration) {
        match watch {
            Watch::Nothing => std::future::pending().await,
            Watch::End(pid) => self.link.process_end(*pid).await,
            Watch::Start(processes) => loop {
                let now = self.now();
                let next = retry(Span::new(now, now), quiet_since, poll, 1.0);
                self.context.environment.sleep_until(next).await;
                let is_missing = |process: &&'static str| self.link.is_surely_missing(process);
                if !processes.iter().all(is_missing) {
                    return;
                }
            },
        }
    }
}
