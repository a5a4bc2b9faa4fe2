//! When something was so.

use std::time::Duration;

use tokio::time::Instant;

/// Something was so at some moment between these two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    /// When it was asked.
    pub(crate) asked: Instant,
    /// When the reply arrived.
    pub(crate) answered: Instant,
}

impl Span {
    pub(crate) fn new(asked: Instant, answered: Instant) -> Self {
        Self { asked, answered }
    }

    /// How long the reply took.
    pub(crate) fn took(self) -> Duration {
        self.answered - self.asked
    }
}
