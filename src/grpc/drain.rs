//! The end of a server: whoever waits is told, and nobody new is let in.

use std::time::Duration;

use tokio::sync::watch;

/// How long open calls have to end once a drain has started: a server that is told to leave has left
/// within ten seconds, this included.
pub const DRAIN_LIMIT: Duration = Duration::from_secs(8);

/// Starts a drain.
#[derive(Debug)]
pub struct Drainer(watch::Sender<bool>);

/// Tells whether a drain has started. A clone tells of the same.
#[derive(Debug, Clone)]
pub struct Drain(watch::Receiver<bool>);

impl Drainer {
    /// A drain that has not started, and what tells of it.
    #[must_use]
    pub fn new() -> (Self, Drain) {
        let (sender, receiver) = watch::channel(false);
        (Self(sender), Drain(receiver))
    }

    /// Starts it. Dropping the drainer does so too.
    pub fn start(&self) {
        self.0.send_replace(true);
    }
}

impl Drain {
    /// Whether it has started.
    #[must_use]
    pub fn has_started(&self) -> bool {
        *self.0.borrow() || self.0.has_changed().is_err()
    }

    /// Completes once it has started.
    pub async fn started(&mut self) {
        // An error means that the drainer is gone, and with it whoever runs the server.
        let _ = self.0.wait_for(|started| *started).await;
    }
}
