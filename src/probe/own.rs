//! Probes of the operator's own: what they look at, on which nodes, and how often.
//!
//! Each becomes a row as the built-in ones have, so that it is asked, kept and confirmed in the same way. A
//! client names one, and can never say what it does.

use std::{collections::HashSet, time::Duration};

use super::{
    JOBS, Method, Probe, Row,
    own_method::{kept, method},
    table::{Runs, TABLE},
};
use crate::node::{NodeKind, Profile, Role};

/// How many probes of one's own there may be.
const PROBES: usize = 64;

/// How long a name, and how long any other text may be.
const NAME_CHARS: usize = 63;
const TEXT_BYTES: usize = 1024;

/// The port of sshd.
const SSH: u16 = 22;

/// The types of units (systemd.unit(5)).
const UNIT_TYPES: [&str; 11] = [
    "service",
    "socket",
    "target",
    "mount",
    "automount",
    "swap",
    "path",
    "timer",
    "slice",
    "scope",
    "device",
];

/// The longest timeout, and the longest interval and delay.
const LONGEST: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(3600));

/// A probe of the operator's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnProbe {
    /// Its name: a small letter, then small letters, digits, `-` and `_`, 63 at most; none that is built in.
    pub name: String,
    /// What it is for, in a line; it is told to clients.
    pub description: String,
    /// What it looks at.
    pub check: OwnCheck,
    /// The roles on whose nodes it runs unless a request names its probes; all nodes if this is empty.
    pub roles: Vec<Role>,
    /// The probe that it comes after; the last of all if there is none, or none such on the node.
    pub after: Option<String>,
    /// How long a look may take; 10 s at most.
    pub timeout: Duration,
    /// How long it is not looked at again; an hour at most.
    pub interval: Duration,
    /// How long it is not looked at after its container was first seen to run; an hour at most.
    pub initial_delay: Duration,
    /// How many times in a row it has to pass before it counts as passed.
    pub success_threshold: u32,
    /// How many times in a row it has to fail, once it has passed, before it counts as failed.
    pub failure_threshold: u32,
    /// Whether its node may become ready without it. Then it passes, and says why it would not.
    pub optional: bool,
}

impl OwnProbe {
    /// A probe of that name with the defaults: on all nodes, after all others, a timeout of 2 s, one look
    /// decides.
    #[must_use]
    pub fn new(name: impl Into<String>, check: OwnCheck) -> Self {
        Self {
            name: name.into(),
            description: String::new(),
            check,
            roles: Vec::new(),
            after: None,
            timeout: Duration::from_secs(2),
            interval: Duration::ZERO,
            initial_delay: Duration::ZERO,
            success_threshold: 1,
            failure_threshold: 1,
            optional: false,
        }
    }
}

/// What a probe of one's own looks at in the node.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum OwnCheck {
    /// A unit of systemd is active.
    Unit {
        /// Its name, such as `nfs-client.target`.
        unit: String,
    },
    /// A TCP port accepts at 127.0.0.1.
    Tcp {
        /// The port.
        port: u16,
    },
    /// A TCP port sends a line that starts so.
    Banner {
        /// The port.
        port: u16,
        /// The start of the line.
        prefix: String,
    },
    /// A TCP port answers `GET` by a status from 200 to 299. A redirect is none, and is not followed.
    Http {
        /// The port.
        port: u16,
        /// The path, from `/` on.
        path: String,
    },
    /// A command ends with 0. No shell reads it.
    Exec {
        /// The command and its arguments.
        argv: Vec<String>,
    },
    /// A file exists, of any kind.
    File {
        /// Its absolute path.
        path: String,
    },
}

impl OwnCheck {
    /// The kind's name, as a configuration has it.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Unit { .. } => "unit",
            Self::Tcp { .. } => "tcp",
            Self::Banner { .. } => "banner",
            Self::Http { .. } => "http",
            Self::Exec { .. } => "exec",
            Self::File { .. } => "file",
        }
    }
}

/// Why a probe of one's own cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {why}")]
pub struct InvalidProbe {
    /// The part that is wrong.
    pub key: &'static str,
    /// What is wrong, and what would be right.
    pub why: String,
}

/// A valid probe, and its row.
#[derive(Debug)]
pub(crate) struct Own {
    pub(crate) probe: OwnProbe,
    pub(super) row: &'static Row,
}

/// What a unit is in the profile without systemd.
pub(super) static NOT_IN_PROFILE: Method = Method::NotInProfile;

impl Own {
    pub(super) fn new(probe: OwnProbe) -> Result<Self, InvalidProbe> {
        valid(&probe)?;
        // As long-lived as the built-in ones. There are as many as a configuration has, and a configuration is
        // read when the server starts.
        let row = Box::leak(Box::new(Row {
            name: kept(&probe.name),
            about: "",
            runs: Runs::OnRequest,
            is_service: false,
            sockets: &[],
            method: method(&probe),
        }));
        Ok(Self { probe, row })
    }

    pub(super) fn method(&self, profile: Profile) -> &'static Method {
        match (&self.row.method, profile) {
            (Method::Unit(_), Profile::Process) => &NOT_IN_PROFILE,
            (method, _) => method,
        }
    }
}

/// Puts the probes of one's own that run on nodes of that kind among the others: each after the one that it
/// names, else at the end. Without systemd there are no units.
pub(super) fn insert(probes: &mut Vec<Probe>, own: &[Probe], kind: NodeKind) {
    let NodeKind { role, profile } = kind;
    for probe in own {
        let Some(definition) = probe.own() else {
            continue;
        };
        let roles = &definition.roles;
        if profile == Profile::Process && matches!(definition.check, OwnCheck::Unit { .. }) {
            continue;
        }
        if !roles.is_empty() && !role.is_some_and(|role| roles.contains(&role)) {
            continue;
        }
        let after = definition.after.as_deref();
        let named = |other: &Probe| Some(other.name()) == after;
        let follows = |other: &Probe| other.own().is_some_and(|own| own.after.as_deref() == after);
        let place = probes.iter().position(named).map(|at| {
            let others = probes[at + 1..].iter();
            at + 1 + others.take_while(|other| follows(other)).count()
        });
        probes.insert(place.unwrap_or(probes.len()), probe.in_profile(profile));
    }
}

/// Makes probes of these values; the error is about the one in that place.
pub(super) fn all(probes: Vec<OwnProbe>) -> Result<Vec<Own>, (usize, InvalidProbe)> {
    let mut names = HashSet::new();
    let mut known: HashSet<String> = TABLE.iter().map(|row| row.name.to_owned()).collect();
    let mut own = Vec::with_capacity(probes.len());
    for (place, probe) in probes.into_iter().enumerate() {
        let wrong = |key, why: String| (place, InvalidProbe { key, why });
        if place == PROBES {
            let why = format!("it is one too many: there may be {PROBES} probes of one's own");
            return Err(wrong("name", why));
        }
        if !names.insert(probe.name.clone()) {
            let why = format!("another probe is called {:?}, too", probe.name);
            return Err(wrong("name", why));
        }
        if let Some(after) = probe.after.as_ref().filter(|after| !known.contains(*after)) {
            let why = format!(
                "{after:?} is neither a built-in probe nor one that is defined before this one"
            );
            return Err(wrong("after", why));
        }
        known.insert(probe.name.clone());
        own.push(Own::new(probe).map_err(|error| (place, error))?);
    }
    Ok(own)
}

fn valid(probe: &OwnProbe) -> Result<(), InvalidProbe> {
    let wrong = |key, why: String| Err(InvalidProbe { key, why });
    let name = probe.name.as_str();
    let is_inside = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_".contains(c);
    if !name.starts_with(|c: char| c.is_ascii_lowercase())
        || !name.chars().all(is_inside)
        || name.len() > NAME_CHARS
    {
        let why = format!(
            "{name:.64?} is no name: it should be a small letter, then small letters, digits, - and _, \
             {NAME_CHARS} at most"
        );
        return wrong("name", why);
    }
    if TABLE.iter().any(|row| row.name == name) || name == JOBS {
        return wrong("name", format!("{name:?} is built in: choose another name"));
    }
    text("description", &probe.description, true)?;
    for (key, duration, longest) in [
        ("timeout", probe.timeout, LONGEST.0),
        ("interval", probe.interval, LONGEST.1),
        ("initial_delay", probe.initial_delay, LONGEST.1),
    ] {
        if duration > longest {
            return wrong(key, format!("{duration:?} is more than {longest:?}"));
        }
    }
    if probe.timeout.is_zero() {
        return wrong("timeout", "it should be more than 0s".to_owned());
    }
    for (key, count) in [
        ("success_threshold", probe.success_threshold),
        ("failure_threshold", probe.failure_threshold),
    ] {
        if !(1..=100).contains(&count) {
            return wrong(key, format!("{count} is not between 1 and 100"));
        }
    }
    match &probe.check {
        OwnCheck::Unit { unit } => {
            let is_part = |c: char| c.is_ascii_alphanumeric() || ":_.\\@-".contains(c);
            let (stem, kind) = unit.rsplit_once('.').unwrap_or_default();
            let is_template = stem.ends_with('@');
            if probe.success_threshold != 1 || probe.failure_threshold != 1 {
                let why = "systemd tells of a unit's state, so one look decides: it should be 1";
                return wrong("success_threshold and failure_threshold", why.to_owned());
            }
            if stem.is_empty()
                || is_template
                || !UNIT_TYPES.contains(&kind)
                || unit.len() > 255
                || !unit.chars().all(is_part)
            {
                let why = format!("{unit:.64?} is no unit: it should be such as nfs-client.target");
                return wrong("unit", why);
            }
        }
        OwnCheck::Tcp { port } => open(*port)?,
        OwnCheck::Banner { port, prefix } => {
            open(*port)?;
            text("prefix", prefix, false)?;
        }
        OwnCheck::Http { port, path } => {
            open(*port)?;
            text("path", path, false)?;
            if !path.starts_with('/') || path.contains(|c: char| !c.is_ascii_graphic()) {
                let why = format!("{path:.64?} is no path of a URL: it should be such as /healthz");
                return wrong("path", why);
            }
        }
        OwnCheck::Exec { argv } => {
            if argv.first().is_none_or(String::is_empty) || argv.len() > 64 {
                let why = "it should be a command and its arguments, 64 words at most";
                return wrong("argv", why.to_owned());
            }
            for word in argv {
                text("argv", word, true)?;
            }
        }
        OwnCheck::File { path } => {
            text("path", path, false)?;
            if !path.starts_with('/') {
                return wrong("path", format!("{path:.64?} is not absolute"));
            }
        }
    }
    Ok(())
}

fn open(port: u16) -> Result<(), InvalidProbe> {
    if port == 0 {
        let (key, why) = ("port", "0 is no port: it should be 1 to 65535".to_owned());
        return Err(InvalidProbe { key, why });
    }
    if port == SSH {
        let (key, why) = (
            "port",
            format!(
                "{SSH} is sshd's, which shuts out who connects often: the built-in probe sshd asks it"
            ),
        );
        return Err(InvalidProbe { key, why });
    }
    Ok(())
}

fn text(key: &'static str, text: &str, may_be_empty: bool) -> Result<(), InvalidProbe> {
    let why = if text.is_empty() && !may_be_empty {
        "it is empty".to_owned()
    } else if text.len() > TEXT_BYTES {
        format!("it has more than {TEXT_BYTES} bytes")
    } else if text.contains(|c: char| c.is_control()) {
        "it has control characters".to_owned()
    } else {
        return Ok(());
    };
    Err(InvalidProbe { key, why })
}
