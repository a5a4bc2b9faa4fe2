//! The first process of a container, as the host sees it.

use std::{
    io::{self, Read as _},
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::net::UnixStream,
    },
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{CWD, Dir, Mode, OFlags, ResolveFlags, openat, openat2, readlinkat},
    io::Errno,
    net::{
        AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with,
        sockopt::socket_peercred,
    },
    process::{Pid, PidfdFlags, pidfd_open},
};

use tokio::net::unix::pipe;

use super::super::{LinkError, cgroup::names};
use crate::{container::ContainerId, text::said};

/// How many bytes of /proc/PID/cgroup are read. Each hierarchy has a line of at most a path's
/// length.
const CGROUP_CAP: u64 = 64 * 1024;

/// How many descendants of a container's first process are looked at to find one.
const DESCENDANTS: usize = 1024;

/// How many times a path is resolved while concurrent renames keep interrupting that.
const RENAMES: usize = 100;

/// A process that was seen to be the container's. Files opened through this are the process's own,
/// even if another process gets its number.
///
/// Neither its root nor its network is held open, because a container that has ended could then not
/// be cleaned up.
#[derive(Debug)]
pub(super) struct Process {
    pidfd: OwnedFd,
    /// A folder of /proc belongs to one process for as long as the folder is open. Once the process
    /// has ended, nothing in the folder can be opened, whichever process has the number then.
    proc: OwnedFd,
    shares_clock: bool,
    shares_network: bool,
}

impl Process {
    /// Opens the process with this number, if it is the container's.
    pub(super) fn open(number: u32, id: &ContainerId) -> Result<Self, LinkError> {
        let unusable = |why: String| LinkError::Unusable(format!("not from outside: {why}"));
        let failed = |error: Errno| match error {
            Errno::ACCESS | Errno::PERM => {
                unusable("looking at the container's process takes root".to_owned())
            }
            Errno::NOENT | Errno::SRCH => unusable(format!(
                "process {number} of the container is not on this machine"
            )),
            other => exhausted(other).unwrap_or_else(|| {
                unusable(format!("looking at the container's process: {other}"))
            }),
        };
        let pid = i32::try_from(number).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| unusable(format!("{number} is no process")))?;
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).map_err(failed)?;
        let proc = folder(&format!("/proc/{number}")).map_err(failed)?;
        let cgroup = read(&proc, "cgroup").map_err(failed)?;
        if !names(&text(cgroup), id) {
            return Err(unusable(format!(
                "process {number} is not the container's, or the engine is on another machine"
            )));
        }
        // The kernel shows a namespace's name only to a process that may enter the namespace.
        let network = readlinkat(&proc, "ns/net", Vec::new()).map_err(failed)?;
        let own = folder("/proc/self").map_err(failed)?;
        let clock = |proc: &OwnedFd| readlinkat(proc, "ns/time", Vec::new()).ok();
        let process = Self {
            // Kernels before 5.6 have one clock for all processes, and no `ns/time`.
            shares_clock: clock(&proc) == clock(&own),
            shares_network: readlinkat(&own, "ns/net", Vec::new()).is_ok_and(|own| own == network),
            pidfd,
            proc,
        };
        if process.has_ended() {
            return Err(LinkError::NotRunning);
        }
        Ok(process)
    }

    /// Whether the process has ended, and the container with it.
    pub(super) fn has_ended(&self) -> bool {
        let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN)];
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // A pidfd becomes readable when its process ends.
        poll(&mut fds, Some(&now)).is_ok_and(|ready| ready > 0)
    }

    /// Completes when the process ends.
    pub(super) async fn end(&self) -> io::Result<()> {
        // A pidfd is awaited as a pipe is: it becomes readable.
        let ended = pipe::Receiver::from_owned_fd_unchecked(self.pidfd.try_clone()?)?;
        ended.readable().await
    }

    /// The process of the container that has this number in the node, if it descends from this one.
    pub(super) fn find(&self, number: u32, id: &ContainerId) -> Option<Self> {
        let own = namespaces(&self.proc)?;
        let level = own.len().checked_sub(1)?;
        let mut found = vec![*own.first()?];
        let mut seen = 0;
        while let Some(parent) = found.pop() {
            let Ok(proc) = folder(&format!("/proc/{parent}")) else {
                // It has ended meanwhile, which says nothing of the others.
                continue;
            };
            if namespaces(&proc).and_then(|numbers| numbers.get(level).copied()) == Some(number) {
                let process = Self::open(parent, id).ok()?;
                // The number may have become another process's meanwhile.
                let numbers = namespaces(&process.proc)?;
                return (numbers.get(level) == Some(&number)).then_some(process);
            }
            seen += 1;
            if seen == DESCENDANTS {
                return None;
            }
            found.extend(children(&proc));
        }
        None
    }

    /// Whether the node's monotonic clock is this machine's.
    pub(super) fn shares_clock(&self) -> bool {
        self.shares_clock
    }

    /// Whether the node has no network of its own.
    pub(super) fn shares_network(&self) -> bool {
        self.shares_network
    }

    /// The network of the process.
    pub(super) fn network(&self) -> Result<OwnedFd, Errno> {
        read(&self.proc, "ns/net")
    }

    /// Connects to the socket at this path below the process's root. Symbolic links, also absolute
    /// ones, lead nowhere else, and the peer must be the container's own.
    ///
    /// This may hang for as long as a mount in the container does. So may the connection itself,
    /// which asks the file system for permission.
    pub(super) fn connect(&self, path: &str, id: &ContainerId) -> Result<UnixStream, LinkError> {
        let socket =
            self.below(path, OFlags::PATH | OFlags::CLOEXEC)
                .map_err(|error| match error {
                    Errno::NOENT => LinkError::NoBus {
                        why: format!("there is no /{path}"),
                        reached_nobody: true,
                    },
                    Errno::SRCH => LinkError::NotRunning,
                    Errno::NOSYS | Errno::PERM => LinkError::Unusable(
                        "not from outside: this kernel has no openat2".to_owned(),
                    ),
                    error => no_bus(&format!("/{path}"), error),
                })?;
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let stream = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None);
        let stream = stream.map_err(|error| no_bus("a socket", error))?;
        // The link in /proc leads to the opened socket, wherever its path leads by now. The
        // connection does not wait for the peer to accept: if no peer accepts, it is refused.
        let name = SocketAddrUnix::new(format!("/proc/self/fd/{}", socket.as_raw_fd()));
        let connected = name.and_then(|name| connect(&stream, &name));
        connected.map_err(|error| no_bus("its socket", error))?;
        let peer = socket_peercred(&stream).map(|peer| peer.pid.as_raw_nonzero().get());
        if !peer.is_ok_and(|pid| is_of(pid, id)) {
            return Err(LinkError::NoBus {
                why: "its socket leads out of the container".to_owned(),
                reached_nobody: false,
            });
        }
        Ok(stream.into())
    }

    /// Opens the directory at this path below the process's root. This may hang for as long as a mount
    /// in the container does.
    pub(super) fn directory(&self, path: &str) -> Result<OwnedFd, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        self.below(path, flags)
    }

    /// Opens the file at this path below the process's root. This may hang for as long as a mount in the
    /// container does.
    pub(super) fn file(&self, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
        self.below(path, flags | OFlags::CLOEXEC)
    }

    fn below(&self, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
        let root = openat(&self.proc, "root", folder_flags(), Mode::empty())?;
        let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        for _ in 0..RENAMES {
            match openat2(&root, path, flags, Mode::empty(), inside) {
                // Part of the path was renamed concurrently, and openat2 does not follow that.
                Err(Errno::AGAIN | Errno::INTR) => {}
                other => return other,
            }
        }
        Err(Errno::AGAIN)
    }
}

/// The error to return if readyd itself, and not the node, caused this one.
pub(super) fn exhausted(error: Errno) -> Option<LinkError> {
    let ours = matches!(
        error,
        Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOBUFS
    );
    ours.then(|| LinkError::Busy {
        what: "the node".to_owned(),
        why: "readyd has run out of open files or of memory",
    })
}

/// The error of an attempt to connect to a node's bus that failed there.
fn no_bus(what: &str, error: Errno) -> LinkError {
    exhausted(error).unwrap_or_else(|| LinkError::NoBus {
        why: format!("{what}: {}", said(&error.into())),
        reached_nobody: matches!(error, Errno::NOENT | Errno::CONNREFUSED),
    })
}

/// Whether this process belongs to the container.
pub(super) fn is_of(pid: i32, id: &ContainerId) -> bool {
    if pid <= 0 {
        // The peer is on a machine, or in a namespace, that this process does not see.
        return false;
    }
    let proc = folder(&format!("/proc/{pid}"));
    let cgroup = proc.and_then(|proc| read(&proc, "cgroup"));
    cgroup.is_ok_and(|cgroup| names(&text(cgroup), id))
}

/// The numbers that a process has, from this process's namespace down to its own (`NSpid` in proc(5)).
fn namespaces(proc: &OwnedFd) -> Option<Vec<u32>> {
    let status = text(read(proc, "status").ok()?);
    let numbers = status
        .lines()
        .find_map(|line| line.strip_prefix("NSpid:"))?;
    let numbers = numbers.split_ascii_whitespace().map(str::parse);
    numbers.collect::<Result<_, _>>().ok()
}

/// The children of a process, by the number of each in this process's namespace.
fn children(proc: &OwnedFd) -> Vec<u32> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(threads) = openat(proc, "task", flags, Mode::empty()) else {
        return Vec::new();
    };
    let mut children = Vec::new();
    for thread in Dir::read_from(&threads).into_iter().flatten().flatten() {
        let name = thread.file_name().to_string_lossy().into_owned();
        let own = read(&threads, &format!("{name}/children")).map(text);
        let own = own.unwrap_or_default();
        children.extend(
            own.split_ascii_whitespace()
                .filter_map(|number| number.parse::<u32>().ok()),
        );
    }
    children
}

fn folder_flags() -> OFlags {
    OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC
}

fn folder(path: &str) -> Result<OwnedFd, Errno> {
    openat(CWD, path, folder_flags(), Mode::empty())
}

fn read(folder: &OwnedFd, name: &str) -> Result<OwnedFd, Errno> {
    openat(
        folder,
        name,
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )
}

fn text(file: OwnedFd) -> String {
    let mut text = String::new();
    let file = std::fs::File::from(file);
    // A file that cannot be read names no container.
    let _ = file.take(CGROUP_CAP).read_to_string(&mut text);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_is_not_the_containers_is_not_opened() {
        let id = ContainerId("ab".repeat(32));
        let error = Process::open(std::process::id(), &id).unwrap_err();
        assert!(
            error.to_string().contains("is not the container's"),
            "{error}"
        );
        for none in [0, u32::MAX, 4_000_000] {
            let error = Process::open(none, &id).unwrap_err();
            assert!(matches!(error, LinkError::Unusable(_)), "{error:?}");
        }
        assert!(!is_of(0, &id) && !is_of(1, &id));
    }

    #[test]
    fn an_attempt_that_failed_says_whether_it_reached_a_bus() {
        let reached_nobody = |error| match no_bus("its socket", error) {
            LinkError::NoBus { reached_nobody, .. } => reached_nobody,
            other => panic!("{other:?}"),
        };
        assert!(reached_nobody(Errno::NOENT) && reached_nobody(Errno::CONNREFUSED));
        assert!(!reached_nobody(Errno::ACCESS) && !reached_nobody(Errno::AGAIN));
    }

    #[test]
    fn a_socket_that_is_not_there_has_started_no_bus() {
        let number = std::process::id();
        let process = Process {
            pidfd: pidfd_open(rustix::process::getpid(), PidfdFlags::empty()).unwrap(),
            proc: folder(&format!("/proc/{number}")).unwrap(),
            shares_clock: true,
            shares_network: true,
        };
        let id = ContainerId("ab".repeat(32));
        let error = process.connect("there/is/no/socket", &id).unwrap_err();
        assert!(
            matches!(&error, LinkError::NoBus { why, reached_nobody: true }
                if why == "there is no /there/is/no/socket"),
            "{error:?}"
        );
    }
}
