//! The drain at the end of a server: open waits end with a status, and new calls are refused.

use std::time::Duration;

use tokio::sync::watch;

/// How long open calls have to end once a drain has started. A server that is asked to end ends
/// within ten seconds, this time included.
pub const DRAIN_LIMIT: Duration = Duration::from_secs(8);

/// Starts a drain.
#[derive(Debug)]
pub struct Drainer(watch::Sender<bool>);

/// Shows whether a drain has started. A clone shows the same drain.
#[derive(Debug, Clone)]
pub struct Drain(watch::Receiver<bool>);

impl Drainer {
    /// Creates a drain that has not started, and the [`Drain`] that shows when it starts.
    #[must_use]
    pub fn new() -> (Self, Drain) {
        let (sender, receiver) = watch::channel(false);
        (Self(sender), Drain(receiver))
    }

    /// Starts the drain. Dropping the drainer starts it, too.
    pub fn start(&self) {
        self.0.send_replace(true);
    }
}

impl Drain {
    /// Returns whether the drain has started.
    #[must_use]
    pub fn has_started(&self) -> bool {
        *self.0.borrow() || self.0.has_changed().is_err()
    }

    /// Completes once the drain has started.
    pub async fn started(&mut self) {
        // An error means that the drainer was dropped, and with it the code that runs the server.
        let _ = self.0.wait_for(|started| *started).await;
    }
}
