//! The probes `slurmd`, `slurmdbd` and `slurmrestd`: the unit is active, and its own process listens.
//!
//! An active unit is not enough: slurmd is active while it looks for its configuration, and slurmdbd
//! while its database is down. Neither listens then. No port is assumed, since each is a setting.

use std::net::SocketAddr;

use super::{Finding, Outcome, Understood, readyz, rpc::Rpc};
use crate::{
    question::{Answer, DaemonProcess, GreetingEnd, ListeningSocket, PortQuestion},
    reason::ReasonCode,
    unit::Unit,
};

/// A daemon that has to listen.
#[derive(Debug)]
pub(crate) struct Daemon {
    /// The names of the daemon's unit. The first that exists counts.
    pub(crate) units: &'static [&'static str],
    /// The names that its processes may have.
    pub(crate) processes: &'static [&'static str],
    /// Where it has to listen.
    pub(crate) listens: Listens,
    /// Whether the daemon passes without its unit, if somebody has started it by hand.
    pub(crate) by_hand: bool,
    /// Whether newer versions answer `GET /readyz` on the port on which they listen.
    pub(crate) readyz: bool,
    /// What it has to answer at the level RPC, besides that it listens.
    pub(crate) rpc: Option<Rpc>,
}

/// Where a daemon has to listen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Listens {
    /// On a TCP port, whichever it is.
    Tcp,
    /// On a TCP port or a Unix socket.
    Any,
    /// It need not listen.
    Nowhere,
}

/// What a look at a daemon's processes has shown.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Listening {
    /// The finding.
    pub(crate) finding: Finding,
    /// The socket on which the daemon listens, if it does.
    pub(crate) socket: Option<ListeningSocket>,
    /// The process by which the daemon passes, if it does.
    pub(crate) process: Option<u32>,
}

impl Daemon {
    /// Returns the daemon's name.
    pub(crate) fn name(&self) -> &'static str {
        self.processes.first().copied().unwrap_or_default()
    }

    /// Judges the processes of the daemon. Where its unit is active, only the main process and its
    /// children count; else every process does, because it does not matter who started a daemon.
    pub(crate) fn judge(&self, unit: Option<&Unit>, processes: &[DaemonProcess]) -> Listening {
        let active = unit.filter(|unit| unit.is_active());
        let main = active.map(|unit| unit.main_pid).filter(|pid| *pid > 0);
        let own = |process: &&DaemonProcess| {
            main.is_none_or(|main| process.pid == main || process.parent == main)
        };
        let own: Vec<_> = processes.iter().filter(own).collect();
        let begun = || own.iter().filter(|process| process.has_begun());
        let listens = begun().find_map(|process| {
            let sockets = process.listens.iter().flatten();
            let socket = sockets.into_iter().find(|socket| self.counts(socket))?;
            Some((process, socket))
        });
        if let Some((process, socket)) = listens {
            let outcome = match (active, unit) {
                (None, Some(unit)) => Outcome::passed_with(format!(
                    "{} listens on {socket} ({}), though {}",
                    self.name(),
                    which(process),
                    unit.describe()
                )),
                _ => Outcome::passed(),
            };
            return Listening {
                finding: outcome.into(),
                socket: Some(socket.clone()),
                process: Some(process.pid),
            };
        }
        let runs = begun().next().filter(|_| self.listens == Listens::Nowhere);
        Listening {
            finding: match runs {
                Some(_) => Finding::passed(),
                None => self.silent(active, &own),
            },
            socket: None,
            process: runs.map(|process| process.pid),
        }
    }

    fn counts(&self, socket: &ListeningSocket) -> bool {
        self.listens == Listens::Any || matches!(socket, ListeningSocket::Tcp(_))
    }

    fn silent(&self, active: Option<&Unit>, own: &[&DaemonProcess]) -> Finding {
        let name = self.name();
        if own.is_empty() {
            let why = match active {
                Some(unit) => format!("{} is active, but no process of {name} runs", unit.id),
                None => format!("no process of {name} runs"),
            };
            return Finding::failed(ReasonCode::ProcessMissing, why);
        }
        let runs = active.map_or_else(
            || match own.first() {
                Some(process) => format!("{name} runs ({})", which(process)),
                None => format!("{name} runs"),
            },
            |unit| format!("{} is active", unit.id),
        );
        if !own.iter().any(|process| process.has_begun()) {
            let why = format!("{runs}, but systemd has not executed {name} yet");
            return Finding::failed(ReasonCode::Unproven, why);
        }
        if own.iter().all(|process| process.listens.is_none()) {
            let why = format!(
                "{runs}, but nobody in the node may see its sockets, for the container lacks the \
                 capability SYS_PTRACE, and they cannot be told from others by their user"
            );
            return Finding::failed(ReasonCode::Unproven, why);
        }
        let where_ = match self.listens {
            Listens::Tcp => " on a TCP port",
            Listens::Any | Listens::Nowhere => "",
        };
        let why = format!(
            "{runs}, but {name} does not listen{where_} yet: it may still look for its \
             configuration, or wait for what it depends on"
        );
        Finding::failed(ReasonCode::Unproven, why)
    }
}

/// Names a process by its number, and by its unit if it is in one.
fn which(process: &DaemonProcess) -> String {
    match &process.unit {
        Some(unit) => format!("process {} of {unit}", process.pid),
        None => format!("process {}", process.pid),
    }
}

/// The question to a daemon that listens there whether it serves.
pub(crate) fn readyz(listens: SocketAddr) -> PortQuestion {
    readyz::question(listens.port()).reaching(listens)
}

/// Judges the answer of a daemon that listens to [`readyz`]. A well-formed one decides, unless the
/// daemon does not know the path.
pub(crate) fn judge_readyz(process: &str, answer: &Answer) -> Understood {
    let Answer::Greeting(sent, GreetingEnd::Found) = answer else {
        return Understood::No;
    };
    match readyz::status(sent) {
        Some(200..=299) => Understood::Yes(Finding::passed()),
        Some(404) | None => Understood::No,
        Some(code) => Understood::Yes(Finding::failed(
            ReasonCode::Unproven,
            format!(
                "{process} listens, and answers GET /readyz with {code}: it does not serve yet"
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::Judgement;

    const SLURMD: Daemon = Daemon {
        units: &["slurmd.service"],
        processes: &["slurmd"],
        listens: Listens::Tcp,
        by_hand: true,
        readyz: true,
        rpc: None,
    };

    fn unit(active: &str) -> Unit {
        Unit {
            id: "slurmd.service".to_owned(),
            load: "loaded".to_owned(),
            active: active.to_owned(),
            main_pid: if active == "active" { 51 } else { 0 },
            ..Unit::default()
        }
    }

    fn process(pid: u32, parent: u32, name: &str, sockets: &[ListeningSocket]) -> DaemonProcess {
        DaemonProcess {
            pid,
            parent,
            name: name.to_owned(),
            unit: None,
            listens: Some(sockets.to_vec()),
            start: None,
        }
    }

    fn tcp() -> [ListeningSocket; 1] {
        [ListeningSocket::Tcp(([0; 4], 6818).into())]
    }

    fn judged(
        daemon: &Daemon,
        active: &str,
        found: &[DaemonProcess],
    ) -> (Option<ReasonCode>, String) {
        let Judgement::Clear(outcome) = daemon.judge(Some(&unit(active)), found).finding.judgement
        else {
            panic!("a listening daemon needs no second look");
        };
        (
            outcome.code(),
            outcome.reason().unwrap_or_default().to_owned(),
        )
    }

    #[test]
    fn the_main_process_and_its_children_count() {
        let code = |active, found: &[_]| judged(&SLURMD, active, found).0;
        for (pid, parent) in [(51, 1), (60, 51)] {
            assert_eq!(
                code("active", &[process(pid, parent, "slurmd", &tcp())]),
                None
            );
        }
        assert_eq!(code("active", &[process(51, 1, "sh", &tcp())]), None);
        let other = [
            process(51, 1, "slurmd", &[]),
            process(70, 1, "slurmd", &tcp()),
        ];
        assert_eq!(code("active", &other), Some(ReasonCode::Unproven));
        assert_eq!(code("active", &[]), Some(ReasonCode::ProcessMissing));
        assert_eq!(code("failed", &other), None);
    }

    #[test]
    fn a_copy_of_systemd_does_not_listen() {
        for name in ["(slurmd)", "systemd", "systemd-executo"] {
            let copy = [process(51, 1, name, &tcp())];
            for daemon in [
                SLURMD,
                Daemon {
                    listens: Listens::Nowhere,
                    ..SLURMD
                },
            ] {
                let (code, reason) = judged(&daemon, "active", &copy);
                assert_eq!(code, Some(ReasonCode::Unproven));
                assert_eq!(
                    reason,
                    "slurmd.service is active, but systemd has not executed slurmd yet"
                );
            }
        }
    }
}
