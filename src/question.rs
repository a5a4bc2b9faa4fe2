//! The questions that a probe may ask a node beside systemd, and the answers, as plain types.
//!
//! Every question is the server's own. No client ever sends one.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

/// A question to a port or to a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Question {
    /// Dials a port from inside of the node.
    Port(PortQuestion),
    /// Reads a setting of the node's slurm.conf.
    Setting(SettingQuestion),
    /// Runs a command in the node.
    Command(CommandQuestion),
    /// Looks for the processes of a daemon, and for the sockets on which they listen.
    Daemon(DaemonQuestion),
}

/// A question about a setting of slurm.conf. It is answered as a command is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SettingQuestion {
    pub(crate) key: &'static str,
    /// A shell script that prints the lines of slurm.conf that contain the key.
    pub(crate) script: &'static str,
}

/// A question to a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PortQuestion {
    /// The address that is dialled.
    pub(crate) address: IpAddr,
    pub(crate) port: u16,
    /// The process that should listen there. Its sockets tell where else it may, if the port does not
    /// accept at the address.
    pub(crate) process: Option<&'static str>,
    /// The text to send first, if any.
    pub(crate) send: &'static str,
    /// The start of the line that is expected.
    pub(crate) prefix: &'static str,
    /// How long readyd reads from the port, from the connection on.
    pub(crate) within: Duration,
    /// How many bytes readyd reads.
    pub(crate) cap: usize,
    /// How long the port is left alone after it was read; zero if that does not matter.
    pub(crate) pause: Duration,
}

impl PortQuestion {
    /// What is dialled to reach who listens there.
    pub(crate) fn reaching(self, listens: SocketAddr) -> Self {
        let address = match listens.ip() {
            IpAddr::V4(address) if address.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(address) if address.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            address => address,
        };
        let port = listens.port();
        Self {
            address,
            port,
            ..self
        }
    }
}

/// A question about the processes of a daemon in the container's own cgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DaemonQuestion {
    /// The name of the processes, as the kernel has it (`comm` in proc(5)).
    pub(crate) process: &'static str,
    /// The main process of the daemon's unit, in the node's own numbering. It is in the answer whatever
    /// its name is.
    pub(crate) main_pid: Option<u32>,
    /// What is asked of each process.
    pub(crate) about: About,
}

/// What is asked of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum About {
    /// The sockets on which it listens.
    Sockets,
    /// How it was started.
    Start,
}

/// A command, and its name in reasons. Every command is the server's own; only its last arguments may be
/// what the node's own daemon was started with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CommandQuestion {
    pub(crate) argv: &'static [&'static str],
    /// More arguments.
    pub(crate) arguments: Vec<String>,
    pub(crate) name: &'static str,
}

impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port(question) => question.fmt(f),
            Self::Setting(question) => write!(f, "{} of slurm.conf", question.key),
            Self::Command(question) => f.write_str(question.name),
            Self::Daemon(question) => write!(f, "the processes of {}", question.process),
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
    /// The processes of the daemon, if there are any.
    Daemon(Vec<DaemonProcess>),
}

/// A process of a daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DaemonProcess {
    /// The process's number in the node.
    pub(crate) pid: u32,
    /// The number of the process that started it.
    pub(crate) parent: u32,
    /// Its name, as the kernel has it (`comm` in proc(5)).
    pub(crate) name: String,
    /// The unit in whose cgroup it runs, if it is in one.
    pub(crate) unit: Option<String>,
    /// The sockets on which it listens; `None` if nobody is allowed to see its sockets, or nobody asked.
    pub(crate) listens: Option<Vec<ListeningSocket>>,
    /// How it was started; `None` if nobody asked.
    pub(crate) start: Option<DaemonStart>,
}

impl DaemonProcess {
    /// Whether it runs the program that it was started for. Until then, a child of systemd is a copy of
    /// systemd, with systemd's own listening sockets, command line and environment; it is called after
    /// systemd or, in parentheses, after the program that comes.
    ///
    /// The kernel closes what a program does not inherit before it gives the process its new name, so what
    /// is read after the name is the program's own.
    pub(crate) fn has_begun(&self) -> bool {
        // `systemd-executor` is cut to 15 bytes.
        let is_systemd = ["systemd", "systemd-executo"].contains(&self.name.as_str());
        !is_systemd && !self.name.starts_with('(')
    }
}

/// How a daemon was started. The node says so: nothing of it is trusted outside of the node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct DaemonStart {
    /// The path of its executable in the node; empty if nobody is allowed to see it.
    pub(crate) executable: String,
    /// Its command line, its own name first.
    pub(crate) arguments: Vec<String>,
    /// Its `PATH`; empty if it has none, or if nobody is allowed to see it.
    pub(crate) path: String,
    /// Its `SLURM_CONF`, in the same way.
    pub(crate) slurm_conf: String,
}

/// A socket on which a process listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ListeningSocket {
    /// The address of a TCP socket.
    Tcp(SocketAddr),
    /// The path of a Unix socket; an abstract one starts with `@`.
    Unix(String),
}

impl fmt::Display for ListeningSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) if path.is_empty() => f.write_str("a Unix socket"),
            Self::Unix(path) => write!(f, "{path:.100}"),
        }
    }
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
