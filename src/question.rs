//! What a probe may ask of a node beside systemd, and the answers: plain types.
//!
//! A question is the server's own. No client ever sends one.

use std::{fmt, time::Duration};

/// A question to a port or to a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Question {
    /// A port is dialled, on the node's loopback address.
    Port(PortQuestion),
    /// A command is run in the node.
    Command(CommandQuestion),
}

/// What is asked of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PortQuestion {
    pub(crate) port: u16,
    pub(crate) expects: Expects,
}

/// What a port is expected to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expects {
    /// It accepts a connection.
    Connection,
    /// It sends a line that starts with a prefix.
    Line {
        /// What is sent to it first, if anything.
        send: &'static str,
        /// The line's start.
        prefix: &'static str,
        /// For how long it is listened to, from the connection on.
        within: Duration,
        /// How many bytes are listened to.
        cap: usize,
    },
}

/// A command, and the name that reasons call it by; only ever the server's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CommandQuestion {
    pub(crate) argv: &'static [&'static str],
    pub(crate) name: &'static str,
}

impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port(question) => question.fmt(f),
            Self::Command(question) => f.write_str(question.name),
        }
    }
}

impl fmt::Display for PortQuestion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "port {}", self.port)
    }
}

/// The answer to a [`Question`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// What the port sent, and how that ended.
    Greeting(Vec<u8>, GreetingEnd),
    /// The port accepts.
    Accepted,
    /// The port does not accept: the system's own words.
    Closed(String),
    /// The command ended.
    Command {
        /// Its standard output.
        stdout: String,
        /// Its standard error.
        stderr: String,
        /// Its exit code.
        code: i64,
    },
}

/// How listening to a port ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GreetingEnd {
    /// The line that was waited for came; it is the last.
    Found,
    /// The other side closed the connection.
    Closed,
    /// The time was over.
    TimedOut,
    /// The bytes were used up.
    TooLong,
}
