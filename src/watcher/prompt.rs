//! What made readyd look.

use std::sync::Arc;

use crate::report::Trigger;

/// What made readyd look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Prompt {
    pub(crate) trigger: Trigger,
    /// What happened, where something did: the engine's word, or a unit's name.
    pub(crate) detail: Arc<str>,
}

impl Prompt {
    pub(super) fn initial() -> Self {
        Self::without_detail(Trigger::Initial)
    }

    pub(super) fn poll() -> Self {
        Self::without_detail(Trigger::Poll)
    }

    fn without_detail(trigger: Trigger) -> Self {
        let detail = Arc::from("");
        Self { trigger, detail }
    }
}
