//! How a probe of the operator's own looks, and what it makes of the answers.

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use super::{
    Ask, Finding, Method,
    own::{OwnCheck, OwnProbe},
    readyz,
};
use crate::{
    question::{Answer, CommandQuestion, GreetingEnd, PortQuestion, Question},
    reason::ReasonCode,
};

/// How many bytes are read of what a port answers.
const ANSWER_BYTES: usize = 8 * 1024;

/// Keeps a text for as long as the process lives, once.
pub(super) fn kept(text: &str) -> &'static str {
    static KEPT: Mutex<Option<HashSet<&'static str>>> = Mutex::new(None);
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    let kept = kept.get_or_insert_default();
    if let Some(known) = kept.get(text) {
        return known;
    }
    let text: &'static str = Box::leak(text.to_owned().into_boxed_str());
    kept.insert(text);
    text
}

pub(super) fn method(probe: &OwnProbe) -> Method {
    let port = PortQuestion {
        address: IpAddr::V4(Ipv4Addr::LOCALHOST),
        port: 0,
        process: None,
        send: "",
        prefix: "\n",
        within: probe.timeout,
        cap: ANSWER_BYTES,
        pause: Duration::ZERO,
    };
    let ask = |question, judge| {
        let (as_daemon, shortcut) = (None, None);
        let ask = Ask {
            question,
            as_daemon,
            judge,
            shortcut,
        };
        Method::Answer(&[], ask)
    };
    match &probe.check {
        OwnCheck::Unit { unit } => Method::Unit(Box::leak(Box::new([kept(unit)]))),
        OwnCheck::Tcp { port: number } => {
            // That it accepts is all.
            let question = PortQuestion {
                port: *number,
                cap: 0,
                ..port
            };
            ask(Question::Port(question), judge_port)
        }
        OwnCheck::Banner {
            port: number,
            prefix,
        } => {
            let question = PortQuestion {
                port: *number,
                prefix: kept(prefix),
                ..port
            };
            ask(Question::Port(question), judge_banner)
        }
        OwnCheck::Http { port: number, path } => {
            let request =
                format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
            let question = PortQuestion {
                port: *number,
                send: kept(&request),
                prefix: "HTTP/",
                ..port
            };
            ask(Question::Port(question), judge_http)
        }
        OwnCheck::Exec { argv } => {
            let command = CommandQuestion {
                argv: &[],
                arguments: argv.clone(),
                name: kept(argv.first().map_or("", String::as_str)),
            };
            ask(Question::Command(command), judge_exec)
        }
        OwnCheck::File { path } => {
            let command = CommandQuestion {
                argv: &["test", "-e"],
                arguments: vec![path.clone()],
                name: kept(&format!("test -e {path}")),
            };
            ask(Question::Command(command), judge_file)
        }
    }
}

fn judge_port(answer: &Answer) -> Finding {
    match answer {
        Answer::Greeting(..) => Finding::passed(),
        Answer::Closed(error) => Finding::failed(ReasonCode::PortClosed, error),
        _ => Finding::failed(ReasonCode::NoAnswer, "it gave no answer"),
    }
}

fn judge_banner(answer: &Answer) -> Finding {
    let (sent, end) = match answer {
        Answer::Greeting(_, GreetingEnd::Found) => return Finding::passed(),
        Answer::Greeting(sent, end) => (sent, end),
        _ => return judge_port(answer),
    };
    let first = sent.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let first = String::from_utf8_lossy(first);
    if first.trim().is_empty() {
        let how = match end {
            GreetingEnd::TimedOut => "accepts, but says nothing",
            _ => "closes the connection without a word",
        };
        return Finding::failed(ReasonCode::NoAnswer, how);
    }
    let why = format!("it says {:.200?}", first.trim());
    Finding::failed(ReasonCode::WrongAnswer, why)
}

fn judge_http(answer: &Answer) -> Finding {
    let Answer::Greeting(sent, GreetingEnd::Found) = answer else {
        return judge_banner(answer);
    };
    match readyz::status(sent) {
        Some(200..=299) => Finding::passed(),
        Some(status) => Finding::failed(ReasonCode::WrongAnswer, format!("it answers {status}")),
        None => Finding::failed(ReasonCode::WrongAnswer, "what it answers is not HTTP"),
    }
}

fn judge_exec(answer: &Answer) -> Finding {
    let Answer::Command {
        stdout,
        stderr,
        code,
    } = answer
    else {
        return Finding::failed(ReasonCode::NoAnswer, "it gave no answer");
    };
    if *code == 0 {
        return Finding::passed();
    }
    let lines = || stderr.lines().chain(stdout.lines());
    let said = lines().map(str::trim).find(|line| !line.is_empty());
    let said = said.map_or(String::new(), |said| format!(": {said:.500}"));
    Finding::failed(
        ReasonCode::CommandFailed,
        format!("it ended with {code}{said}"),
    )
}

fn judge_file(answer: &Answer) -> Finding {
    match answer {
        Answer::Command { code: 1, .. } => {
            Finding::failed(ReasonCode::CommandFailed, "there is no such file")
        }
        other => judge_exec(other),
    }
}
