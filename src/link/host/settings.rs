//! The lines of the node's slurm.conf, without a command in the node: an exec that is started in the moment in
//! which its container is paused keeps the engine from ever answering for that container again.
//!
//! Every path is resolved below the process's root, as all paths of a node are.

use std::{io::Read as _, path::Path, sync::Arc};

use rustix::fs::{Dir, FileType, OFlags, fstat};
use tokio::time::Instant;

use super::{
    super::{LinkError, Target},
    RESOLVE_LIMIT,
    process::Process,
    threads::Threads,
};
use crate::{question::Answer, slurm_conf::told_by_unit};

/// How many bytes of a file are read, and how many files of a folder.
const FILE_CAP: u64 = 1024 * 1024;
const FILES: usize = 64;

/// The daemons whose units may say where slurm.conf is.
const DAEMONS: [&str; 5] = ["slurmctld", "slurmd", "slurmdbd", "sackd", "slurmrestd"];

/// Where units are, the first before the others (systemd.unit(5)).
const UNITS: [&str; 4] = [
    "etc/systemd/system",
    "run/systemd/system",
    "usr/local/lib/systemd/system",
    "lib/systemd/system",
];

/// Where packages and configless nodes have slurm.conf.
const FILES_OF_PACKAGES: [&str; 5] = [
    "etc/slurm/slurm.conf",
    "run/slurm/conf/slurm.conf",
    "etc/slurm-llnl/slurm.conf",
    "usr/local/etc/slurm.conf",
    "opt/slurm/etc/slurm.conf",
];

/// Reads the lines of the node's slurm.conf that contain a key.
pub(super) async fn ask(
    target: &Target,
    threads: &Arc<Threads>,
    process: &Arc<Process>,
    key: &'static str,
    by: Instant,
) -> Result<Answer, LinkError> {
    let held = Arc::clone(process);
    let due = by.min(target.environment.now() + RESOLVE_LIMIT);
    let reading = threads.among_paths(target, due, move || Ok(lines(&held, key)));
    let read = target.within("the node's slurm.conf", RESOLVE_LIMIT, by, async {
        reading.await?
    });
    Ok(Answer::Command {
        stdout: read.await?,
        stderr: String::new(),
        code: 0,
    })
}

fn lines(process: &Process, key: &str) -> String {
    let told = told(process).and_then(|path| read(process, path.trim_start_matches('/')));
    let packaged = || {
        FILES_OF_PACKAGES
            .iter()
            .find_map(|path| read(process, path))
    };
    let text = told.or_else(packaged).unwrap_or_default();
    let has_key = |line: &&str| {
        line.to_ascii_lowercase()
            .contains(&key.to_ascii_lowercase())
    };
    text.lines().filter(has_key).collect::<Vec<_>>().join("\n")
}

/// The path that the unit of a daemon says.
fn told(process: &Process) -> Option<String> {
    for daemon in DAEMONS {
        for folder in UNITS {
            let drop_ins = format!("{folder}/{daemon}.service.d");
            let drop_ins = names(process, &drop_ins)
                .into_iter()
                .map(|name| format!("{drop_ins}/{name}"));
            let unit = format!("{folder}/{daemon}.service");
            let mut files = drop_ins.chain([unit]);
            let found = files.find_map(|file| told_by_unit(&read(process, &file)?));
            if found.is_some() {
                return found;
            }
        }
    }
    None
}

/// The names of the drop-ins in a folder.
fn names(process: &Process, folder: &str) -> Vec<String> {
    let Ok(folder) = process.directory(folder) else {
        return Vec::new();
    };
    let Ok(entries) = Dir::read_from(&folder) else {
        return Vec::new();
    };
    let name = |entry: rustix::fs::DirEntry| entry.file_name().to_str().ok().map(str::to_owned);
    let is_drop_in = |name: &String| Path::new(name).extension().is_some_and(|end| end == "conf");
    let names = entries.take(FILES).flatten().filter_map(name);
    let mut names: Vec<_> = names.filter(is_drop_in).collect();
    names.sort_unstable();
    names
}

/// The text of a regular file: anything else may never end.
fn read(process: &Process, path: &str) -> Option<String> {
    let file = process
        .file(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)
        .ok()?;
    let kind = FileType::from_raw_mode(fstat(&file).ok()?.st_mode);
    if kind != FileType::RegularFile {
        return None;
    }
    let mut bytes = Vec::new();
    let file = std::fs::File::from(file);
    file.take(FILE_CAP).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}
