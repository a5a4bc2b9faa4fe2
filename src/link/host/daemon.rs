//! The processes of a daemon, and the sockets on which they listen or how they were started, without a
//! command in the node.
//!
//! The node's own `/proc` is read, since processes have their numbers in the node there. It is the
//! container's to mount: what is no proc file system is not read, nothing is followed out of it, and a
//! process counts only if its cgroup, as this machine sees it, is the container's.

use std::{
    collections::HashMap,
    io::Read as _,
    os::fd::OwnedFd,
    sync::{Arc, OnceLock},
};

use rustix::{
    fs::{Dir, Mode, OFlags, PROC_SUPER_MAGIC, ResolveFlags, fstatfs, openat2, readlinkat},
    io::Errno,
};
use tokio::time::Instant;

use super::{
    super::{
        LinkError, Target,
        cgroup::{self, names},
        daemon::{socket_inode, stat_fields, variable},
    },
    RESOLVE_LIMIT, listeners,
    port::enter_network,
    process::{self, Process},
    threads::Threads,
};
use crate::{
    container::ContainerId,
    question::{About, Answer, DaemonProcess, DaemonQuestion, DaemonStart, ListeningSocket},
    text::said,
};

/// How many processes, and how many open files of one, are looked at.
const PROCESSES: usize = 65_536;
const FILES: usize = 65_536;

/// How many processes a node may have to be glanced at.
const GLANCE: usize = 256;

/// How many bytes of a file of a process are read.
const FILE_CAP: u64 = 64 * 1024;

/// The node's /proc, once it was found. It is held open, which keeps no container from being cleaned up.
pub(super) type NodeProc = Arc<OnceLock<OwnedFd>>;

/// Looks for the processes of a daemon.
pub(super) async fn ask(
    target: &Target,
    threads: &Arc<Threads>,
    process: &Arc<Process>,
    proc: &NodeProc,
    question: &DaemonQuestion,
    by: Instant,
) -> Result<Answer, LinkError> {
    let (held, question) = (Arc::clone(process), *question);
    let id = target.container.id.clone();
    // A main process that is known is looked at alone, mostly.
    let known = proc.get().filter(|_| question.main_pid.is_none());
    if let Some(found) = known.and_then(|proc| glance(proc, &question, &id)) {
        if process.has_ended() {
            return Err(LinkError::NotRunning);
        }
        return Ok(Answer::Daemon(found));
    }
    let due = by.min(target.environment.now() + RESOLVE_LIMIT);
    let proc = Arc::clone(proc);
    let look = move || look(&held, &proc, &question, &id);
    let looking = threads.among_paths(target, due, look);
    let found = target.within("the node's /proc", RESOLVE_LIMIT, by, async {
        looking.await?
    });
    match found.await {
        Ok(found) => Ok(Answer::Daemon(found)),
        // A process in the node may see its /proc otherwise.
        Err(error @ LinkError::Slow { .. }) => Err(LinkError::Unusable(error.to_string())),
        Err(error) => Err(error),
    }
}

/// The node's processes, and what listens in its network. Only a thread that ends with this may look.
struct Look<'a> {
    proc: &'a OwnedFd,
    id: &'a ContainerId,
    about: About,
    listening: HashMap<u64, ListeningSocket>,
}

/// What tells whether a process is the daemon's.
struct Named {
    name: String,
    parent: u32,
    unit: Option<String>,
}

fn look(
    process: &Process,
    known: &NodeProc,
    question: &DaemonQuestion,
    id: &ContainerId,
) -> Result<Vec<DaemonProcess>, LinkError> {
    let failed = |error: Errno| {
        process::exhausted(error).unwrap_or_else(|| {
            LinkError::Unusable(format!(
                "not from outside: the node's /proc: {}",
                said(&error.into())
            ))
        })
    };
    let proc = if let Some(proc) = known.get() {
        proc
    } else {
        let proc = process.directory("proc").map_err(failed)?;
        if fstatfs(&proc).map_err(failed)?.f_type != PROC_SUPER_MAGIC {
            let why = "not from outside: the node's /proc is no proc file system";
            return Err(LinkError::Unusable(why.to_owned()));
        }
        known.get_or_init(|| proc)
    };
    let listening = match question.about {
        About::Sockets => {
            enter_network(process).map_err(failed)?;
            listeners::listening().map_err(failed)?
        }
        About::Start => HashMap::new(),
    };
    if process.has_ended() {
        return Err(LinkError::NotRunning);
    }
    let look = Look {
        proc,
        id,
        about: question.about,
        listening,
    };
    // Mostly the main process says enough, and no other has to be looked at.
    let main = question.main_pid.map(|pid| look.process(pid, None));
    let main = main.transpose().map_err(failed)?.flatten();
    let is_enough = |main: &DaemonProcess| {
        let listens = main.listens.as_ref();
        let is_daemon = main.name == question.process;
        (main.start.is_some() && is_daemon) || listens.is_some_and(|sockets| !sockets.is_empty())
    };
    if let Some(main) = main.filter(is_enough) {
        return Ok(vec![main]);
    }
    let pids = look.pids(PROCESSES).map_err(failed)?;
    let found = pids.into_iter().filter_map(|pid| {
        let name = (question.main_pid != Some(pid)).then_some(question.process);
        look.process(pid, name).transpose()
    });
    found.collect::<Result<_, _>>().map_err(failed)
}

/// Looks for the processes of a daemon without a thread of its own, which costs most of a look; no answer
/// where one has to be asked more than whether it holds any socket. A proc file system hangs nobody.
fn glance(
    proc: &OwnedFd,
    question: &DaemonQuestion,
    id: &ContainerId,
) -> Option<Vec<DaemonProcess>> {
    let look = Look {
        proc,
        id,
        about: question.about,
        listening: HashMap::new(),
    };
    // Before its processes, the folder lists some dozens of other files.
    let pids = look.pids(2 * GLANCE).ok()?;
    if pids.len() > GLANCE {
        return None;
    }
    let mut found = Vec::new();
    for pid in pids {
        let named = look.named(pid, Some(question.process)).ok()?;
        let Some(Named { name, parent, unit }) = named else {
            continue;
        };
        if question.about == About::Start || look.sockets(pid).ok()?.next().is_some() {
            return None;
        }
        found.push(DaemonProcess {
            pid,
            parent,
            name,
            unit,
            listens: Some(Vec::new()),
            start: None,
        });
    }
    Some(found)
}

/// Whether a glance shows that no process of that name runs in the node.
pub(super) fn is_surely_missing(proc: &OwnedFd, process: &'static str, id: &ContainerId) -> bool {
    let question = DaemonQuestion {
        process,
        main_pid: None,
        about: About::Start,
    };
    glance(proc, &question, id).is_some_and(|found| found.is_empty())
}

impl Look<'_> {
    /// The numbers of the node's processes.
    fn pids(&self, most: usize) -> Result<Vec<u32>, Errno> {
        let entries = Dir::read_from(self.proc)?.take(most);
        let pid = |entry: rustix::fs::DirEntry| entry.file_name().to_str().ok()?.parse().ok();
        Ok(entries.flatten().filter_map(pid).collect())
    }

    /// Whose a process of the container is, which has that name if it has to have one.
    fn named(&self, pid: u32, name: Option<&str>) -> Result<Option<Named>, Errno> {
        let Some(stat) = self.read_of_process(&format!("{pid}/stat"))? else {
            return Ok(None);
        };
        let fields =
            stat_fields(&stat).filter(|(_, comm, _)| name.is_none_or(|name| name == *comm));
        let Some((_, comm, parent)) = fields else {
            return Ok(None);
        };
        let cgroup = self.read_of_process(&format!("{pid}/cgroup"))?;
        let own = cgroup.filter(|cgroup| names(cgroup, self.id));
        Ok(own.map(|cgroup| Named {
            name: comm.to_owned(),
            parent,
            unit: cgroup::unit(&cgroup, self.id),
        }))
    }

    fn process(&self, pid: u32, name: Option<&str>) -> Result<Option<DaemonProcess>, Errno> {
        let Some(Named { name, parent, unit }) = self.named(pid, name)? else {
            return Ok(None);
        };
        let (listens, started) = match self.about {
            About::Sockets => (self.listens_if_visible(pid)?, None),
            About::Start => (None, Some(self.start(pid))),
        };
        Ok(Some(DaemonProcess {
            pid,
            parent,
            name,
            unit,
            listens,
            start: started,
        }))
    }

    fn start(&self, pid: u32) -> DaemonStart {
        let words = |name: &str| self.read(&format!("{pid}/{name}")).unwrap_or_default();
        let link = readlinkat(self.proc, format!("{pid}/exe"), Vec::new());
        let executable = link.ok().and_then(|link| link.into_string().ok());
        let (environment, arguments) = (words("environ"), words("cmdline"));
        let arguments = arguments.strip_suffix('\0').unwrap_or(&arguments);
        DaemonStart {
            executable: executable.unwrap_or_default(),
            arguments: arguments.split('\0').map(str::to_owned).collect(),
            path: variable(environment.split('\0'), "PATH"),
            slurm_conf: variable(environment.split('\0'), "SLURM_CONF"),
        }
    }

    fn listens_if_visible(&self, pid: u32) -> Result<Option<Vec<ListeningSocket>>, Errno> {
        match self.listens(pid) {
            Ok(listens) => Ok(Some(listens)),
            Err(error) if process::exhausted(error).is_some() => Err(error),
            Err(_) => Ok(None),
        }
    }

    fn listens(&self, pid: u32) -> Result<Vec<ListeningSocket>, Errno> {
        let sockets = self.sockets(pid)?;
        let listens = sockets.filter_map(|inode| self.listening.get(&inode).cloned());
        Ok(listens.collect())
    }

    /// The numbers of the sockets that a process holds.
    fn sockets(&self, pid: u32) -> Result<impl Iterator<Item = u64>, Errno> {
        let files = self.open(&format!("{pid}/fd"), OFlags::DIRECTORY)?;
        let entries = Dir::read_from(&files)?.take(FILES).flatten();
        Ok(entries.filter_map(move |entry| {
            let link = readlinkat(&files, entry.file_name(), Vec::new()).ok()?;
            socket_inode(link.to_str().ok()?)
        }))
    }

    /// Reads a file of a process; none if the process has ended, or if it is another file's place. What readyd
    /// itself lacks is an error: it must not look as if there were no process.
    fn read_of_process(&self, path: &str) -> Result<Option<String>, Errno> {
        match self.read(path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if process::exhausted(error).is_some() => Err(error),
            Err(_) => Ok(None),
        }
    }

    fn read(&self, path: &str) -> Result<String, Errno> {
        let file = std::fs::File::from(self.open(path, OFlags::empty())?);
        let mut bytes = Vec::new();
        let read = file.take(FILE_CAP).read_to_end(&mut bytes);
        // A process that ends meanwhile has no files any more.
        read.map_err(|_| Errno::SRCH)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Opens a file of the proc file system; nothing that is mounted in it, or that leads out of it.
    fn open(&self, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
        let inside = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS;
        let flags = flags | OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        openat2(self.proc, path, flags, Mode::empty(), inside)
    }
}
