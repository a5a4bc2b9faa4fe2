//! The probe `slurmrestd`: the unit is active, and its port accepts connections.

use std::time::Duration;

use super::{Ask, Finding};
use crate::question::{Answer, Expects, PortQuestion, Question};

/// The default port (slurmrestd(8)).
const PORT: u16 = 6820;

pub(super) const ASK: Ask = Ask {
    question: Question::Port(PortQuestion {
        port: PORT,
        expects: Expects::Connection,
        pause: Duration::ZERO,
    }),
    judge,
    alone: false,
    shortcut: None,
};

fn judge(answer: &Answer) -> Finding {
    match answer {
        Answer::Accepted => Finding::passed(),
        Answer::Closed(error) => Finding::failed(format!("port {PORT}: {error}")),
        _ => Finding::failed(format!("port {PORT} gave no answer")),
    }
}
