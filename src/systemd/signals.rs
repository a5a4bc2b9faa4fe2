//! What systemd tells unasked (org.freedesktop.systemd1(5), "Signals"), and who is told of it.
//!
//! Signals are taken off the stream as they come: whoever follows a node is told that something has
//! changed, never what. Nothing is queued here, so that no storm of them fills anything or delays an
//! answer behind it.

use std::{
    collections::{HashMap, VecDeque},
    num::NonZeroU32,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use zbus::{Message, message::Type};

use crate::{
    event::{Doubts, heard, next},
    text::{clean, truncate},
};

const MANAGER: &str = "/org/freedesktop/systemd1";
const UNITS: &str = "/org/freedesktop/systemd1/unit/";

/// What systemd as a whole tells: that the boot is over, that unit files are read anew (true and
/// false), and how a job ended; only those that leave a unit failed make a system degraded.
pub(super) const MANAGER_RULES: [&str; 5] = [
    "type='signal',sender='org.freedesktop.systemd1',path='/org/freedesktop/systemd1',\
     interface='org.freedesktop.systemd1.Manager',member='StartupFinished'",
    "type='signal',sender='org.freedesktop.systemd1',path='/org/freedesktop/systemd1',\
     interface='org.freedesktop.systemd1.Manager',member='Reloading'",
    "type='signal',sender='org.freedesktop.systemd1',path='/org/freedesktop/systemd1',\
     interface='org.freedesktop.systemd1.Manager',member='JobRemoved',arg3='failed'",
    "type='signal',sender='org.freedesktop.systemd1',path='/org/freedesktop/systemd1',\
     interface='org.freedesktop.systemd1.Manager',member='JobRemoved',arg3='timeout'",
    "type='signal',sender='org.freedesktop.systemd1',path='/org/freedesktop/systemd1',\
     interface='org.freedesktop.systemd1.Manager',member='JobRemoved',arg3='dependency'",
];

/// The rule for the changes of a unit. Each change is told for the unit and once more for what only
/// its type has; one of the two will do.
pub(super) fn unit_rule(unit: &str) -> String {
    format!(
        "type='signal',sender='org.freedesktop.systemd1',path='{UNITS}{}',\
         interface='org.freedesktop.DBus.Properties',member='PropertiesChanged',\
         arg0='org.freedesktop.systemd1.Unit'",
        escape(unit)
    )
}

/// How many units' last words are kept, and how long they may be.
const WORDS: (usize, usize) = (64, 8 * 1024);

/// Those who are told of what comes over one connection.
#[derive(Debug, Default)]
pub(crate) struct Listeners {
    doubts: Mutex<Vec<Weak<Doubts>>>,
    /// What was told of each unit last.
    words: Mutex<HashMap<String, Vec<u8>>>,
    /// The last answers, by the number of their question, and what had been heard before each.
    answers: Mutex<VecDeque<(u32, u64)>>,
    kinds: Mutex<Kinds>,
}

/// The types of units, as they are in the unit files that were read last.
#[derive(Debug, Default)]
struct Kinds {
    of: HashMap<String, String>,
    /// The number of the last signal before the files were read.
    read: u64,
}

/// How many answers are remembered: more than there are questions on their way.
const ANSWERS: usize = 256;

impl Listeners {
    /// Tells these doubts from now on, for as long as somebody holds them.
    pub(super) fn add(&self, doubts: &Arc<Doubts>) {
        let mut listeners = self.lock();
        listeners.retain(|listener| listener.strong_count() > 0);
        if !listeners
            .iter()
            .any(|listener| std::ptr::eq(listener.as_ptr(), Arc::as_ptr(doubts)))
        {
            listeners.push(Arc::downgrade(doubts));
        }
    }

    /// Takes a message that has come.
    pub(super) fn hear(&self, message: &Message) {
        let header = message.header();
        match (message.message_type(), header.reply_serial()) {
            (Type::Signal, _) => {}
            (Type::MethodReturn, Some(serial)) => return self.note(serial.get()),
            _ => return,
        }
        let (Some(path), Some(member)) = (header.path(), header.member()) else {
            return;
        };
        if let Some(unit) = path.strip_prefix(UNITS).and_then(unescape) {
            if !self.is_news(&unit, message.body().data()) {
                return;
            }
            self.tell(|doubts| doubts.unit(&unit));
        } else if path.as_str() == MANAGER {
            let every_unit = member.as_str() == "Reloading";
            if every_unit {
                *self.kinds() = Kinds {
                    of: HashMap::new(),
                    read: next(),
                };
            }
            self.tell(|doubts| doubts.systemd(every_unit));
        }
    }

    /// Whether a unit is told of in other words than before.
    ///
    /// To ask for a unit that is not loaded loads it for a moment, and each time systemd tells of the
    /// units that it depends on, though they are as they were: looking must not be a reason to look.
    /// What is told has the state, its timestamps and the job, so that no change hides in equal words.
    fn is_news(&self, unit: &str, said: &[u8]) -> bool {
        let mut words = self.words.lock().unwrap_or_else(PoisonError::into_inner);
        if words.get(unit).is_some_and(|before| before == said) {
            return false;
        }
        let room = words.len() < WORDS.0 || words.contains_key(unit);
        if room && said.len() <= WORDS.1 {
            words.insert(unit.to_owned(), said.to_vec());
        } else {
            words.remove(unit);
        }
        true
    }

    fn note(&self, serial: u32) {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        if answers.len() == ANSWERS {
            answers.pop_front();
        }
        answers.push_back((serial, heard()));
    }

    /// The number of the last signal that came before this answer. What comes from one sender comes in
    /// order (D-Bus specification, "Message Ordering"): the answer knows of it.
    pub(super) fn heard_before(&self, answer: &Message) -> u64 {
        let header = answer.header();
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let serial = header.reply_serial().map(NonZeroU32::get);
        let mut answers = answers.iter().rev();
        let found = answers.find(|(of, _)| Some(*of) == serial);
        found.map_or(0, |(_, heard)| *heard)
    }

    /// The type of a unit, where changes of the unit files are told.
    pub(super) fn kind(&self, unit: &str) -> Option<String> {
        self.kinds().of.get(unit).cloned()
    }

    /// Keeps the type of a unit, as an answer told it that came behind this signal.
    pub(super) fn keep_kind(&self, unit: &str, kind: &str, heard: u64) {
        let listened_to = !self.lock().is_empty();
        let mut kinds = self.kinds();
        if listened_to && heard >= kinds.read && kinds.of.len() < WORDS.0 {
            kinds.of.insert(unit.to_owned(), kind.to_owned());
        }
    }

    fn kinds(&self) -> MutexGuard<'_, Kinds> {
        self.kinds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing more will come.
    pub(super) fn lost(&self) {
        self.tell(Doubts::deaf);
    }

    fn tell(&self, what: impl Fn(&Doubts)) {
        for doubts in self.lock().iter().filter_map(Weak::upgrade) {
            what(&doubts);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Weak<Doubts>>> {
        self.doubts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A unit's name as the last part of its path: letters stay, and digits but the first; of all else
/// the byte in hexadecimal (systemd's `bus_label_escape`).
fn escape(unit: &str) -> String {
    use std::fmt::Write as _;
    let mut label = String::new();
    for (at, byte) in unit.bytes().enumerate() {
        if byte.is_ascii_alphabetic() || (at > 0 && byte.is_ascii_digit()) {
            label.push(char::from(byte));
        } else {
            let _ = write!(label, "_{byte:02x}");
        }
    }
    label
}

fn unescape(label: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = label.as_bytes();
    while let [byte, after @ ..] = rest {
        rest = after;
        if *byte == b'_' {
            let (digits, after) = rest.split_at_checked(2)?;
            let digits = std::str::from_utf8(digits).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = after;
        } else {
            bytes.push(*byte);
        }
    }
    let mut unit = clean(&String::from_utf8_lossy(&bytes), false);
    truncate(&mut unit, 255);
    Some(unit)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn paths_are_written_as_systemd_writes_them() {
        assert_eq!(escape("ssh.service"), "ssh_2eservice");
        assert_eq!(escape("a_b@1.service"), "a_5fb_401_2eservice");
        assert_eq!(escape("1.service"), "_31_2eservice");
        assert_eq!(unescape("ssh_2eservice").as_deref(), Some("ssh.service"));
        assert_eq!(unescape("ssh_2"), None);
        assert_eq!(unescape("ssh_zz"), None);
    }

    #[test]
    fn a_signal_is_a_doubt_and_nothing_else_is() {
        let listeners = Listeners::default();
        let doubts = Arc::default();
        listeners.add(&doubts);
        listeners.add(&doubts);
        assert_eq!(listeners.lock().len(), 1);
        let signal = |path: &str, interface: &str, member: &str| {
            let message = Message::signal(path, interface, member);
            listeners.hear(&message.build(&()).unwrap());
            doubts.take()
        };
        let properties = "org.freedesktop.DBus.Properties";
        let unit = format!("{UNITS}munge_2eservice");
        let doubt = signal(&unit, properties, "PropertiesChanged");
        assert!(doubt.of_units(["munge.service"].into_iter()) > 0);
        assert!(doubt.of_units(["ssh.service"].into_iter()) == 0 && !doubt.systemd);
        let manager = "org.freedesktop.systemd1.Manager";
        let doubt = signal(MANAGER, manager, "StartupFinished");
        assert!(doubt.systemd && !doubt.every_unit);
        assert!(signal(MANAGER, manager, "Reloading").every_unit);
        assert_eq!(
            signal("/else", manager, "Reloading"),
            Doubts::default().take()
        );
        listeners.lost();
        assert!(doubts.take().every_unit);
    }

    #[test]
    fn an_answer_knows_of_the_signals_before_it_and_of_none_behind() {
        let listeners = Listeners::default();
        let doubts = Arc::default();
        listeners.add(&doubts);
        let path = format!("{UNITS}a_2eservice");
        let mut told = 0;
        let mut signal = || {
            told += 1;
            let message = Message::signal(path.as_str(), "org.freedesktop.DBus.Properties", "X");
            listeners.hear(&message.build(&told).unwrap());
            doubts.take().of_units(["a.service"].into_iter())
        };
        let call = Message::method_call("/", "X").build(&()).unwrap();
        let answer = Message::method_return(&call.header()).build(&()).unwrap();
        let before = signal();
        listeners.hear(&answer);
        let behind = signal();
        let heard = listeners.heard_before(&answer);
        assert!(before <= heard && heard < behind);
        let other = Message::method_call("/", "Y").build(&()).unwrap();
        let unknown = Message::method_return(&other.header()).build(&()).unwrap();
        assert_eq!(listeners.heard_before(&unknown), 0);
    }

    #[test]
    fn what_is_told_again_in_the_same_words_is_no_news() {
        let listeners = Listeners::default();
        let doubts = Arc::default();
        listeners.add(&doubts);
        let tell = |unit: &str, said: &str| {
            let path = format!("{UNITS}{unit}_2eservice");
            let message = Message::signal(path, "org.freedesktop.DBus.Properties", "X");
            listeners.hear(&message.build(&said).unwrap());
            doubts.take() != Doubts::default().take()
        };
        assert!(tell("a", "active"));
        assert!(!tell("a", "active"));
        assert!(tell("b", "active"));
        assert!(tell("a", "failed"));
        assert!(tell("a", "active"));
        // What is too long to be kept is news each time.
        let long = "x".repeat(WORDS.1 + 1);
        assert!(tell("a", &long) && tell("a", &long));
        assert!(tell("a", "active"));
    }

    proptest! {
        #[test]
        fn what_was_escaped_is_read_back(unit in "[a-zA-Z0-9:_.@\\-]{1,60}") {
            prop_assert_eq!(unescape(&escape(&unit)), Some(unit));
        }

        #[test]
        fn any_path_may_come(label in ".{0,40}") {
            let _ = unescape(&label);
        }
    }
}
