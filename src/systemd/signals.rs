//! Signals that systemd sends (org.freedesktop.systemd1(5), "Signals"), and the inboxes that
//! receive them.
//!
//! Signals are taken off the stream as they arrive, and put into the inboxes of the node's
//! followers. An inbox learns that something has changed, but not the new state. Nothing is queued
//! here, so that no storm of signals fills anything or delays a reply behind it.

use std::{
    collections::{HashMap, VecDeque},
    num::NonZeroU32,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

use zbus::{Message, message::Type};

use crate::{
    inbox::Inbox,
    text::{clean, truncate},
};

const MANAGER: &str = "/org/freedesktop/systemd1";
const UNITS: &str = "/org/freedesktop/systemd1/unit/";

/// The rules for signals of systemd as a whole: the boot is over, unit files are reloaded (true at
/// the start, false at the end), and a job has ended. Only those job results are matched that leave
/// a unit failed, because only these make a system degraded.
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

/// The rule for the changes of a unit. systemd signals each change for the unit and once more for
/// the properties that only its type has; one of the two signals is enough.
pub(super) fn unit_rule(unit: &str) -> String {
    format!(
        "type='signal',sender='org.freedesktop.systemd1',path='{UNITS}{}',\
         interface='org.freedesktop.DBus.Properties',member='PropertiesChanged',\
         arg0='org.freedesktop.systemd1.Unit'",
        escape(unit)
    )
}

/// Numbers signals over all connections that share it, so that the order of two signals is known
/// even if a connection was made anew in between. A clone shares the counter.
#[derive(Debug, Clone, Default)]
pub(crate) struct SignalCounter(Arc<AtomicU64>);

impl SignalCounter {
    /// The number of the last signal.
    pub(crate) fn last(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    /// The number of a signal that has just arrived.
    pub(crate) fn next(&self) -> u64 {
        self.0.fetch_add(1, Ordering::SeqCst) + 1
    }
}

/// For how many units the last signal is cached, and the maximum length of a cached signal.
const WORDS: (usize, usize) = (64, 8 * 1024);

/// The inboxes that receive the signals of one connection.
#[derive(Debug, Default)]
pub(crate) struct Listeners {
    counter: SignalCounter,
    inboxes: Mutex<Vec<Weak<Inbox>>>,
    /// The body of each unit's last signal.
    words: Mutex<HashMap<String, Vec<u8>>>,
    /// The last replies: the serial number of the call, and the number of the last signal before
    /// the reply.
    answers: Mutex<VecDeque<(u32, u64)>>,
    kinds: Mutex<Kinds>,
}

/// The types of units, as they are in the unit files that were read last.
#[derive(Debug, Default)]
struct Kinds {
    of: HashMap<String, String>,
    /// The number that was counted when `Reloading` arrived last.
    read: u64,
}

/// How many replies are remembered: more than there are queries in flight.
const ANSWERS: usize = 256;

impl Listeners {
    /// Starts without inboxes. The counter numbers the signals.
    pub(crate) fn new(counter: SignalCounter) -> Self {
        Self {
            counter,
            ..Self::default()
        }
    }

    /// Adds an inbox, which also receives later signals for as long as somebody holds it.
    pub(super) fn add(&self, inbox: &Arc<Inbox>) {
        let mut listeners = self.lock();
        listeners.retain(|listener| listener.strong_count() > 0);
        if !listeners
            .iter()
            .any(|listener| std::ptr::eq(listener.as_ptr(), Arc::as_ptr(inbox)))
        {
            listeners.push(Arc::downgrade(inbox));
        }
    }

    /// Handles a message that has arrived.
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
            let signal = self.counter.next();
            self.tell(|inbox| inbox.unit_changed(&unit, signal));
        } else if path.as_str() == MANAGER {
            if member.as_str() == "Reloading" {
                *self.kinds() = Kinds {
                    of: HashMap::new(),
                    read: self.counter.next(),
                };
            }
            self.tell(Inbox::systemd_changed);
        }
    }

    /// Whether a unit's signal differs from the last one.
    ///
    /// A query for a unit that is not loaded loads it for a moment, and each time systemd sends
    /// signals for the units that it depends on, although they have not changed. A query must not
    /// cause the next query. A signal has the state, its timestamps and the job, so no change hides
    /// in an equal signal.
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
        answers.push_back((serial, self.counter.last()));
    }

    /// The number of the last signal that arrived before this reply. Messages from one sender
    /// arrive in order (D-Bus specification, "Message Ordering"), so the reply includes that
    /// change.
    pub(super) fn heard_before(&self, answer: &Message) -> u64 {
        let header = answer.header();
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let serial = header.reply_serial().map(NonZeroU32::get);
        let mut answers = answers.iter().rev();
        let found = answers.find(|(of, _)| Some(*of) == serial);
        found.map_or(0, |(_, heard)| *heard)
    }

    /// The cached type of a unit, if changes of the unit files are subscribed to.
    pub(super) fn kind(&self, unit: &str) -> Option<String> {
        self.kinds().of.get(unit).cloned()
    }

    /// Caches the type of a unit, from a reply that arrived after the signal `heard`.
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

    /// Reports to the inboxes that no more signals will arrive.
    pub(super) fn lost(&self) {
        self.tell(Inbox::signals_lost);
    }

    fn tell(&self, what: impl Fn(&Inbox)) {
        for inbox in self.lock().iter().filter_map(Weak::upgrade) {
            what(&inbox);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Weak<Inbox>>> {
        self.inboxes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Escapes a unit's name as the last part of its path. Letters stay, and digits but the first;
/// every other byte is written in hexadecimal (systemd's `bus_label_escape`).
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
    fn signals_go_to_the_inbox_and_nothing_else_does() {
        let listeners = Listeners::default();
        let inbox = Arc::default();
        listeners.add(&inbox);
        listeners.add(&inbox);
        assert_eq!(listeners.lock().len(), 1);
        let signal = |path: &str, interface: &str, member: &str| {
            let message = Message::signal(path, interface, member);
            listeners.hear(&message.build(&()).unwrap());
            inbox.take()
        };
        let properties = "org.freedesktop.DBus.Properties";
        let unit = format!("{UNITS}munge_2eservice");
        let pending = signal(&unit, properties, "PropertiesChanged");
        assert!(pending.signal > 0 && !pending.systemd);
        assert_eq!(pending.cause.unwrap().1, "munge.service");
        let manager = "org.freedesktop.systemd1.Manager";
        assert!(signal(MANAGER, manager, "StartupFinished").systemd);
        assert!(signal(MANAGER, manager, "Reloading").systemd);
        let before = inbox.sequence();
        signal("/else", manager, "Reloading");
        assert_eq!(inbox.sequence(), before);
        listeners.lost();
        assert!(inbox.take().systemd);
    }

    #[test]
    fn a_reply_includes_the_signals_before_it_and_none_behind() {
        let listeners = Listeners::default();
        let inbox: Arc<Inbox> = Arc::default();
        listeners.add(&inbox);
        let path = format!("{UNITS}a_2eservice");
        let mut said = 0;
        let mut signal = || {
            said += 1;
            let message = Message::signal(path.as_str(), "org.freedesktop.DBus.Properties", "X");
            listeners.hear(&message.build(&said).unwrap());
            inbox.take().signal
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
        let inbox: Arc<Inbox> = Arc::default();
        listeners.add(&inbox);
        let tell = |unit: &str, said: &str| {
            let path = format!("{UNITS}{unit}_2eservice");
            let message = Message::signal(path, "org.freedesktop.DBus.Properties", "X");
            listeners.hear(&message.build(&said).unwrap());
            inbox.take().cause.is_some()
        };
        assert!(tell("a", "active"));
        assert!(!tell("a", "active"));
        assert!(tell("b", "active"));
        assert!(tell("a", "failed"));
        assert!(tell("a", "active"));
        // A signal that is too long to be cached counts as news each time.
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
