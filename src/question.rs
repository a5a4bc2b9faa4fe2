//! What a probe may ask of a node beside systemd, and the answers: plain types.
//!
//! A question is the server's own. No client ever sends one.

use std::{fmt, time::Duration};

/// A question about a port or to a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    /// What does the port send, up to a line that starts so?
    Greeting {
        /// The port, dialled on the node's loopback address.
        port: u16,
        /// What is sent to it first, if anything.
        send: &'static str,
        /// The line's start.
        prefix: &'static str,
        /// For how long it is listened to, from the connection on.
        within: Duration,
        /// How many bytes are listened to.
        cap: usize,
    },
    /// Does the port accept a connection?
    Accepts {
        /// The port, dialled on the node's loopback address.
        port: u16,
    },
    /// What does a command print?
    Command {
        /// The command and its arguments; only ever the server's own.
        argv: &'static [&'static str],
        /// The name that reasons call it by.
        name: &'static str,
    },
}

impl Question {
    /// The port that is asked, if one is.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        match self {
            Self::Greeting { port, .. } | Self::Accepts { port } => Some(*port),
            Self::Command { .. } => None,
        }
    }
}

impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Greeting { port, .. } | Self::Accepts { port } => write!(f, "port {port}"),
            Self::Command { name, .. } => f.write_str(name),
        }
    }
}

/// The answer to a [`Question`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
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
pub enum GreetingEnd {
    /// The line that was waited for came; it is the last.
    Found,
    /// The other side closed the connection.
    Closed,
    /// The time was over.
    TimedOut,
    /// The bytes were used up.
    TooLong,
}
