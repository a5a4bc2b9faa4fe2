//! What would change a probe's reply without a word of the engine or of systemd: a process that starts, and
//! one that ends.

use std::time::Duration;

use tokio::time::Instant;

use super::{schedule::retry, span::Span};
use crate::{environment::Environment, link::Lease};

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

impl Watch {
    /// What would change it that no process of these names runs.
    pub(super) fn for_start(link: &Lease, processes: &[&'static str]) -> Self {
        if are_missing(link, processes) {
            Self::Start(processes.to_vec())
        } else {
            Self::Nothing
        }
    }

    /// Completes once something has happened that may have changed a reply with this watch. What is only
    /// seen at a glance is glanced at as often as it would be asked for.
    pub(super) async fn changed(
        &self,
        link: &Lease,
        environment: &Environment,
        quiet_since: Instant,
        poll: Duration,
    ) {
        match self {
            Self::Nothing => std::future::pending().await,
            Self::End(pid) => link.process_end(*pid).await,
            Self::Start(processes) => loop {
                let now = environment.now();
                let next = retry(Span::new(now, now), quiet_since, poll, 1.0);
                environment.sleep_until(next).await;
                if !are_missing(link, processes) {
                    return;
                }
            },
        }
    }
}

fn are_missing(link: &Lease, processes: &[&'static str]) -> bool {
    let is_missing = |process: &&'static str| link.is_surely_missing(process);
    processes.iter().all(is_missing)
}
