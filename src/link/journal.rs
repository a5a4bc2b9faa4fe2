//! The end of the journal of each failed unit. No D-Bus call returns it, so a command in the node
//! reads it.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use tokio::time::Instant;

use super::command::{Commands, lossy};
use crate::{
    systemd::systemctl,
    text::Detail,
    unit::{SystemdState, UnitQuestion},
};

/// How many times the journal of one failure is read. Right after the failure, messages may still
/// be on their way to the journal; later, another reading returns nothing new.
const READINGS: u32 = 3;

/// The journals that were read from one node.
#[derive(Debug, Default)]
pub(super) struct Journals(Mutex<HashMap<String, Read>>);

#[derive(Debug)]
struct Read {
    invocation: String,
    changed: u64,
    times: u32,
    tail: Detail,
}

impl Journals {
    /// Adds the end of the journal to each failed unit, if the question wants it.
    pub(super) async fn read(
        &self,
        commands: &Commands,
        question: &UnitQuestion,
        look: &mut SystemdState,
        by: Instant,
    ) {
        if !question.journal {
            return;
        }
        for (name, unit) in look.units.iter_mut().filter(|(_, unit)| unit.is_failed()) {
            let (known, times) = self.known(name, &unit.invocation, unit.changed);
            if times >= READINGS {
                unit.journal = known;
                continue;
            }
            let pid = match unit.exec_pid {
                0 => String::new(),
                pid => pid.to_string(),
            };
            let argv = ["sh", "-c", systemctl::JOURNAL, "sh", &unit.id, &pid];
            let read = commands.command("journalctl", &argv, by).await;
            match read {
                Ok(output) => unit.journal = Detail::new(lossy(&output.stdout)),
                Err(error) => {
                    let why = format!("(the journal could not be read: {error})");
                    unit.journal = Detail::new(why);
                    continue;
                }
            }
            let read = Read {
                invocation: unit.invocation.clone(),
                changed: unit.changed,
                times: times + 1,
                tail: unit.journal.clone(),
            };
            self.lock().insert(name.clone(), read);
        }
    }

    /// The journal that was read for this very failure, and how many times it was read.
    fn known(&self, unit: &str, invocation: &str, changed: u64) -> (Detail, u32) {
        match self.lock().get(unit) {
            Some(read) if read.invocation == invocation && read.changed == changed => {
                (read.tail.clone(), read.times)
            }
            _ => (Detail::default(), 0),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Read>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
