//! SIGINT and SIGTERM.

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that end a command.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Listens from now on. A signal no longer ends the process by itself then.
    pub(super) fn listen() -> anyhow::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate()).context("listening for SIGTERM")?,
            interrupt: signal(SignalKind::interrupt()).context("listening for SIGINT")?,
        })
    }

    /// Completes once one of them has come since this completed last.
    pub(super) async fn received(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Returns what the work comes to, or nothing if one of the signals ends it.
pub(super) async fn unless_received<T>(work: impl Future<Output = T>) -> anyhow::Result<Option<T>> {
    let mut signals = Signals::listen()?;
    Ok(tokio::select! {
        biased;
        done = work => Some(done),
        () = signals.received() => None,
    })
}
