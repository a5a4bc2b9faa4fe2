//! The questions that a probe may ask a node beside systemd, and the answers, as plain types.
//!
//! Every question is the server's own. No client ever sends one.

use std::{fmt, time::Duration};

/// A question to a port or to a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Question {
    /// Dials a port on the node's loopback address.
    Port(PortQuestion),
    /// Runs a command in the node.
    Command(CommandQuestion),
}

/// A question to a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PortQuestion {
    pub(crate) port: u16,
    pub(crate) expects: Expects,
    /// How long the port is left alone after it was read; zero if that does not matter.
    pub(crate) pause: Duration,
}

/// The behaviour that is expected of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expects {
    /// The port accepts a connection.
    Connection,
    /// The port sends a line that starts with a prefix.
    Line {
        /// The text to send first, if any.
        send: &'static str,
        /// The start of the line.
        prefix: &'static str,
        /// How long readyd reads from the port, from the connection on.
        within: Duration,
        /// How many bytes readyd reads.
        cap: usize,
    },
}

/// A command, and its name in reasons. Every command is the server's own.
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
    /// The port's output, and how it ended.
    Greeting(Vec<u8>, GreetingEnd),
    /// The port accepts.
    Accepted,
    /// The port does not accept. The text is the system's own error message.
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

/// How reading from a port ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GreetingEnd {
    /// The expected line arrived. It is the last line.
    Found,
    /// The other side closed the connection.
    Closed,
    /// The time limit passed.
    TimedOut,
    /// The byte limit was reached.
    TooLong,
}
