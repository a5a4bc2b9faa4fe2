//! The first process of a container, as the host sees it.

use std::{io::Read as _, os::fd::OwnedFd};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2, readlinkat},
    io::Errno,
    process::{Pid, PidfdFlags, pidfd_open},
};

use super::super::LinkError;
use crate::{runtime::ContainerId, text::said};

/// How much of /proc/PID/cgroup is read: a line of at most a path's length for each hierarchy.
const CGROUP_CAP: u64 = 64 * 1024;

/// A process that was seen to be the container's. What is opened of it stays its own, whoever else
/// is given its number.
#[derive(Debug)]
pub(super) struct Process {
    pidfd: OwnedFd,
    root: OwnedFd,
    pub(super) network: OwnedFd,
    shares_clock: bool,
    shares_network: bool,
}

impl Process {
    /// Opens the process of that number, if it is the container's.
    pub(super) fn open(number: u32, id: &ContainerId) -> Result<Self, LinkError> {
        let unusable = |why: String| LinkError::Unusable(format!("not from outside: {why}"));
        let failed = |what: &str, error: Errno| {
            unusable(match error {
                Errno::ACCESS | Errno::PERM => format!("{what} takes root"),
                Errno::NOENT | Errno::SRCH => {
                    format!("process {number} of the container is not on this machine")
                }
                other => format!("{what}: {other}"),
            })
        };
        let pid = i32::try_from(number).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| unusable(format!("{number} is no process")))?;
        let opened = |result: Result<OwnedFd, Errno>| {
            result.map_err(|error| failed("looking at the container's process", error))
        };

        let pidfd = opened(pidfd_open(pid, PidfdFlags::empty()))?;
        // A folder of /proc belongs to one process for as long as it is open: when that has ended,
        // nothing in it can be read, whoever has its number then.
        let folder = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let path = format!("/proc/{number}");
        let proc = opened(openat(CWD, path, folder, Mode::empty()))?;
        let cgroup = opened(read(&proc, "cgroup"))?;
        if !names(&text(cgroup), id) {
            return Err(unusable(format!(
                "process {number} is not the container's, or the engine is on another machine"
            )));
        }
        let root = opened(openat(&proc, "root", folder, Mode::empty()))?;
        let network = opened(read(&proc, "ns/net"))?;
        let shares = |name: &str| {
            let of = |folder: &OwnedFd| readlinkat(folder, name, Vec::new()).ok();
            let own = openat(CWD, "/proc/self", folder_flags(), Mode::empty()).ok();
            let own = own.as_ref().and_then(of);
            own.is_some() && own == of(&proc)
        };
        let process = Self {
            pidfd,
            root,
            network,
            // Kernels before 5.6 have one clock for all.
            shares_clock: shares("ns/time") || readlinkat(&proc, "ns/time", Vec::new()).is_err(),
            shares_network: shares("ns/net"),
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

    /// Whether the node's monotonic clock is this machine's.
    pub(super) fn shares_clock(&self) -> bool {
        self.shares_clock
    }

    /// Whether the node has no network of its own.
    pub(super) fn shares_network(&self) -> bool {
        self.shares_network
    }

    /// What is at that path below the process's root. Links, also absolute ones, lead nowhere else.
    ///
    /// This may hang for as long as a mount in the container does.
    pub(super) fn below(&self, path: &str) -> Result<OwnedFd, LinkError> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        loop {
            match openat2(&self.root, path, flags, Mode::empty(), inside) {
                Ok(file) => return Ok(file),
                // Somebody renamed something on the way, which openat2 does not follow.
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(Errno::NOENT) => {
                    return Err(LinkError::NoBus(format!("there is no /{path}")));
                }
                Err(Errno::NOSYS | Errno::PERM) => {
                    return Err(LinkError::Unusable(
                        "not from outside: this kernel has no openat2".to_owned(),
                    ));
                }
                Err(error) => {
                    let why = said(&error.into());
                    return Err(LinkError::NoBus(format!("/{path}: {why}")));
                }
            }
        }
    }
}

/// Whether that process is of the container.
pub(super) fn is_of(pid: i32, id: &ContainerId) -> bool {
    if pid <= 0 {
        // Of a machine, or a namespace, that this process does not see.
        return false;
    }
    let path = format!("/proc/{pid}");
    let proc = openat(CWD, path, folder_flags(), Mode::empty());
    let cgroup = proc.and_then(|proc| read(&proc, "cgroup"));
    cgroup.is_ok_and(|cgroup| names(&text(cgroup), id))
}

fn folder_flags() -> OFlags {
    OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC
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
    // What cannot be read names nothing.
    let _ = file.take(CGROUP_CAP).read_to_string(&mut text);
    text
}

/// Whether a /proc/PID/cgroup names the container: its full id is a part of a path, alone or as
/// engines on systemd write it (`docker-ID.scope`).
fn names(cgroup: &str, id: &ContainerId) -> bool {
    let part = |part: &str| {
        let part = part.strip_suffix(".scope").unwrap_or(part);
        let (_, last) = part.rsplit_once('-').unwrap_or(("", part));
        last == id.0
    };
    id.0.len() >= 64 && cgroup.lines().any(|line| line.split('/').skip(1).any(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroup_names_its_container_and_no_other() {
        let id = ContainerId("ab".repeat(32));
        let other = "cd".repeat(32);
        for line in [
            format!("12:pids:/docker/{id0}\n", id0 = id.0),
            format!("1:name=systemd:/docker/{id0}/init.scope\n", id0 = id.0),
            format!(
                "0::/system.slice/docker-{id0}.scope/init.scope\n",
                id0 = id.0
            ),
            format!("0::/../../libpod-{id0}.scope\n", id0 = id.0),
        ] {
            assert!(names(&line, &id), "{line}");
        }
        for line in [
            String::new(),
            "0::/\n".to_owned(),
            format!("0::/docker/{other}\n"),
            format!("0::/docker/{other}{id0}\n", id0 = id.0),
            format!("{id0}:x:/\n", id0 = id.0),
        ] {
            assert!(!names(&line, &id), "{line}");
        }
        assert!(!names("0::/\n0::/a/", &ContainerId(String::new())));
    }

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
}
