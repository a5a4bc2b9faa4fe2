//! An entrance for fuzzing of what a node says of its processes.

use super::{cgroup, daemon};
use crate::{
    container::ContainerId,
    question::{About, DaemonQuestion},
};

/// What the script prints, and the files of proc(5).
pub fn processes(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let id = ContainerId("ab".repeat(32));
    for about in [About::Sockets, About::Start] {
        let question = DaemonQuestion {
            process: "slurmd",
            main_pid: Some(51),
            about,
        };
        for process in daemon::parse(&text, &question, &id) {
            assert!(process.name == "slurmd" || process.pid == 51);
        }
    }
    let _ = daemon::listening(&text);
    let _ = cgroup::names(&text, &id);
    let _ = cgroup::unit(&text, &id);
}
