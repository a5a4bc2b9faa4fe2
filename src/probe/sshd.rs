//! The probe `sshd`: port 22 answers with the banner of the SSH protocol.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use super::{Ask, Finding};
use crate::{
    question::{Answer, GreetingEnd, PortQuestion, Question},
    reason::ReasonCode,
};

/// The start of an identification string (RFC 4253, section 4.2). Other lines may come before it.
const PREFIX: &str = "SSH-";

/// For how long a banner is not read again.
///
/// sshd 9.8 and later adds a second of penalty for each connection that never logs in, and shuts an
/// address out from fifteen on; a second takes one away (`PerSourcePenalties` in `sshd_config(5)`). Once
/// in two seconds never adds up.
const PAUSE: Duration = Duration::from_secs(2);

pub(super) const ASK: Ask = Ask {
    question: Question::Port(PortQuestion {
        address: IpAddr::V4(Ipv4Addr::LOCALHOST),
        port: 22,
        process: Some("sshd"),
        send: "",
        prefix: PREFIX,
        within: Duration::from_secs(1),
        cap: 8 * 1024,
        pause: PAUSE,
    }),
    as_daemon: None,
    judge,
    shortcut: None,
};

fn judge(answer: &Answer) -> Finding {
    let (sent, end) = match answer {
        Answer::Greeting(sent, end) => (sent, end),
        Answer::Closed(error) => {
            return Finding::failed(ReasonCode::PortClosed, format!("port 22: {error}"));
        }
        _ => return Finding::failed(ReasonCode::NoAnswer, "port 22 gave no banner"),
    };
    let mut lines = sent.split(|byte| *byte == b'\n');
    if *end == GreetingEnd::Found && lines.any(|line| line.starts_with(PREFIX.as_bytes())) {
        return Finding::passed();
    }
    let how = match end {
        GreetingEnd::Found | GreetingEnd::Closed => "closed the connection",
        GreetingEnd::TimedOut => "accepts, but sent no banner within 1 s",
        GreetingEnd::TooLong => "sent 8 KiB without a banner",
    };
    let first = sent.split(|byte| *byte == b'\n').next().unwrap_or_default();
    if first.is_empty() {
        return Finding::failed(ReasonCode::NoAnswer, format!("port 22 {how}"));
    }
    let said = String::from_utf8_lossy(&first[..first.len().min(80)]);
    Finding::failed(
        ReasonCode::WrongAnswer,
        format!("port 22 {how}; it said: {said}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::Judgement;

    fn judged(sent: &str, end: GreetingEnd) -> Finding {
        judge(&Answer::Greeting(sent.into(), end))
    }

    #[test]
    fn a_banner_passes_also_behind_other_lines() {
        for sent in [
            "SSH-2.0-OpenSSH_9.2p1\r\n",
            "welcome\r\nto this node\r\nSSH-2.0-x\r\n",
        ] {
            assert_eq!(judged(sent, GreetingEnd::Found), Finding::passed());
        }
    }

    #[test]
    fn anything_else_fails_and_says_what_came() {
        for (sent, end, code, reason) in [
            (
                "",
                GreetingEnd::TimedOut,
                ReasonCode::NoAnswer,
                "port 22 accepts, but sent no banner within 1 s",
            ),
            (
                "",
                GreetingEnd::Closed,
                ReasonCode::NoAnswer,
                "port 22 closed the connection",
            ),
            (
                "Exceeded MaxStartups\r\n",
                GreetingEnd::Closed,
                ReasonCode::WrongAnswer,
                "port 22 closed the connection; it said: Exceeded MaxStartups",
            ),
            (
                "220 ftp SSH-2.0\n",
                GreetingEnd::TimedOut,
                ReasonCode::WrongAnswer,
                "port 22 accepts, but sent no banner within 1 s; it said: 220 ftp SSH-2.0",
            ),
        ] {
            assert_eq!(judged(sent, end), Finding::failed(code, reason));
        }
        let refused = Answer::Closed("Connection refused".to_owned());
        assert_eq!(
            judge(&refused),
            Finding::failed(ReasonCode::PortClosed, "port 22: Connection refused")
        );
    }

    #[test]
    fn a_line_that_never_ends_is_not_quoted_whole() {
        let Judgement::Clear(outcome) = judged(&"x".repeat(8192), GreetingEnd::TooLong).judgement
        else {
            panic!("nothing is left open");
        };
        assert!(outcome.reason().unwrap().len() < 150);
    }
}
