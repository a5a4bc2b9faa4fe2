//! `slurmrestd`: its port accepts, beside its unit being active.

use super::{Ask, Finding};
use crate::question::{Answer, Question};

/// slurmrestd(8)'s default port.
const PORT: u16 = 6820;

pub(super) const ASK: Ask = Ask {
    question: Question::Accepts { port: PORT },
    judge,
    alone: false,
    first: None,
};

fn judge(answer: &Answer) -> Finding {
    match answer {
        Answer::Accepted => Finding::passed(),
        Answer::Closed(error) => Finding::failed(format!("port {PORT}: {error}")),
        _ => Finding::failed(format!("port {PORT} gave no answer")),
    }
}
