//! `slurmrestd`: its port accepts, beside its unit being active.

use super::{Ask, Finding};
use crate::question::{Answer, Expects, PortQuestion, Question};

/// slurmrestd(8)'s default port.
const PORT: u16 = 6820;

pub(super) const ASK: Ask = Ask {
    question: Question::Port(PortQuestion {
        port: PORT,
        expects: Expects::Connection,
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
