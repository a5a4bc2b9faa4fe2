//! The configuration file of a server: the operator's own probes.
//!
//! An error names the file, the line, the key, and what would be right.

use std::{fmt, ops::Range, path::Path, time::Duration};

use serde::{Deserialize, Deserializer, de::Error as _};
use toml::Spanned;

use super::Usage;
use crate::{
    node::Role,
    probe::{OwnCheck, OwnProbe, Probe},
};

/// How long a file may be.
const FILE_BYTES: u64 = 1024 * 1024;

/// What a file says.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    probe: Vec<Spanned<ProbeTable>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ProbeTable {
    name: String,
    #[serde(default)]
    description: String,
    kind: Kind,
    unit: Option<String>,
    port: Option<u16>,
    prefix: Option<String>,
    path: Option<String>,
    argv: Option<Vec<String>>,
    #[serde(default)]
    roles: Vec<RoleName>,
    after: Option<String>,
    #[serde(default, deserialize_with = "duration")]
    timeout: Option<Duration>,
    #[serde(default, deserialize_with = "duration")]
    interval: Option<Duration>,
    #[serde(default, deserialize_with = "duration")]
    initial_delay: Option<Duration>,
    success_threshold: Option<u32>,
    failure_threshold: Option<u32>,
    #[serde(default)]
    optional: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Unit,
    Tcp,
    Banner,
    Http,
    Exec,
    File,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::Unit => "unit",
            Self::Tcp => "tcp",
            Self::Banner => "banner",
            Self::Http => "http",
            Self::Exec => "exec",
            Self::File => "file",
        };
        f.write_str(name)
    }
}

#[derive(Debug)]
struct RoleName(Role);

impl<'de> Deserialize<'de> for RoleName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        let wrong = |error| D::Error::custom(format!("{name:.64?} is {error}"));
        name.parse().map(Self).map_err(wrong)
    }
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let wrong = |error| D::Error::custom(format!("{text:?}: {error} (such as 2s, 500ms or 1m30s)"));
    humantime::parse_duration(&text).map(Some).map_err(wrong)
}

/// Reads the probes that a file defines.
pub(super) fn read(path: &Path) -> Result<Vec<Probe>, Usage> {
    let told = path.display();
    let cannot = |why: String| Usage(format!("{told}: {why}"));
    let length = std::fs::metadata(path).map(|file| file.len());
    let length = length.map_err(|error| cannot(format!("it cannot be read: {error}")))?;
    if length > FILE_BYTES {
        return Err(cannot(format!("it has more than {FILE_BYTES} bytes")));
    }
    let text = std::fs::read_to_string(path);
    let text = text.map_err(|error| cannot(format!("it cannot be read: {error}")))?;
    probes(&text).map_err(|Wrong { line, why }| cannot(format!("line {line}: {why}")))
}

/// What is wrong with a file, and where.
#[derive(Debug, PartialEq, Eq)]
struct Wrong {
    line: usize,
    why: String,
}

fn probes(text: &str) -> Result<Vec<Probe>, Wrong> {
    let line = |span: Option<Range<usize>>| {
        let start = span.map_or(0, |span| span.start).min(text.len());
        text.get(..start).unwrap_or_default().matches('\n').count() + 1
    };
    let file: File = toml::from_str(text).map_err(|error| Wrong {
        line: line(error.span()),
        why: key_of(text, error.span()) + error.message().trim(),
    })?;
    let spans: Vec<_> = file.probe.iter().map(Spanned::span).collect();
    let wrong = |place: usize, key: &str, why: &str| {
        let span = spans.get(place).cloned().unwrap_or_default();
        Wrong {
            line: line(Some(key_line(text, &span, key))),
            why: format!("probe {}: {key}: {why}", place + 1),
        }
    };
    let mut own = Vec::new();
    for (place, table) in file.probe.into_iter().enumerate() {
        let made = own_probe(table.into_inner());
        own.push(made.map_err(|(key, why)| wrong(place, key, &why))?);
    }
    Probe::own_ones(own).map_err(|(place, error)| wrong(place, error.key, &error.why))
}

/// Where the key of a table is set; the table's own head, if it is not.
fn key_line(text: &str, table: &Range<usize>, key: &str) -> Range<usize> {
    let mut at = table.start;
    let lines = text.get(table.start..).unwrap_or_default();
    for (number, line) in lines.split_inclusive('\n').enumerate() {
        let line_start = line.trim_start();
        if number > 0 && line_start.starts_with('[') {
            break;
        }
        let set = line_start.strip_prefix(key);
        if set.is_some_and(|rest| rest.trim_start().starts_with('=')) {
            return at..at;
        }
        at += line.len();
    }
    table.clone()
}

/// The key that is set in the line of an error, where its message does not name one.
fn key_of(text: &str, span: Option<Range<usize>>) -> String {
    let Some(start) = span.map(|span| span.start.min(text.len())) else {
        return String::new();
    };
    let before = text.get(..start).unwrap_or_default();
    let line = before.rsplit('\n').next().unwrap_or_default();
    match line.split_once('=') {
        Some((key, _)) => format!("{}: ", key.trim()),
        None => String::new(),
    }
}

fn own_probe(table: ProbeTable) -> Result<OwnProbe, (&'static str, String)> {
    let ProbeTable {
        kind,
        unit,
        port,
        prefix,
        path,
        argv,
        ..
    } = table;
    let given = [
        ("unit", unit.is_some()),
        ("port", port.is_some()),
        ("prefix", prefix.is_some()),
        ("path", path.is_some()),
        ("argv", argv.is_some()),
    ];
    let takes: &[&str] = match kind {
        Kind::Unit => &["unit"],
        Kind::Tcp => &["port"],
        Kind::Banner => &["port", "prefix"],
        Kind::Http => &["port", "path"],
        Kind::Exec => &["argv"],
        Kind::File => &["path"],
    };
    for (key, is_given) in given {
        let keys = takes.join(" and ");
        if is_given && !takes.contains(&key) {
            return Err((key, format!("the kind {kind} has none: it takes {keys}")));
        }
        if !is_given && takes.contains(&key) {
            return Err((key, format!("it is missing: the kind {kind} takes {keys}")));
        }
    }
    let check = match kind {
        Kind::Unit => OwnCheck::Unit {
            unit: unit.unwrap_or_default(),
        },
        Kind::Tcp => OwnCheck::Tcp {
            port: port.unwrap_or_default(),
        },
        Kind::Banner => OwnCheck::Banner {
            port: port.unwrap_or_default(),
            prefix: prefix.unwrap_or_default(),
        },
        Kind::Http => OwnCheck::Http {
            port: port.unwrap_or_default(),
            path: path.unwrap_or_default(),
        },
        Kind::Exec => OwnCheck::Exec {
            argv: argv.unwrap_or_default(),
        },
        Kind::File => OwnCheck::File {
            path: path.unwrap_or_default(),
        },
    };
    let default = OwnProbe::new(table.name, check);
    Ok(OwnProbe {
        description: table.description,
        roles: table.roles.into_iter().map(|RoleName(role)| role).collect(),
        after: table.after,
        timeout: table.timeout.unwrap_or(default.timeout),
        interval: table.interval.unwrap_or(default.interval),
        initial_delay: table.initial_delay.unwrap_or(default.initial_delay),
        success_threshold: table.success_threshold.unwrap_or(default.success_threshold),
        failure_threshold: table.failure_threshold.unwrap_or(default.failure_threshold),
        optional: table.optional,
        ..default
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_defines_probes() {
        let probes = probes(
            r#"
            [[probe]]
            name = "home"
            description = "the shared home is mounted"
            kind = "file"
            path = "/home/.mounted"
            roles = ["worker", "submitter"]
            after = "munge"
            timeout = "1s"
            interval = "5s"
            initial_delay = "10s"
            success_threshold = 2
            failure_threshold = 3
            optional = true

            [[probe]]
            name = "web"
            kind = "http"
            port = 8080
            path = "/healthz"
            "#,
        )
        .unwrap();
        let home = probes[0].own().unwrap();
        assert_eq!(home.roles, [Role::Worker, Role::Submitter]);
        assert_eq!(home.after.as_deref(), Some("munge"));
        assert_eq!(home.interval, Duration::from_secs(5));
        assert_eq!((home.success_threshold, home.failure_threshold), (2, 3));
        assert!(home.optional);
        let web = probes[1].own().unwrap();
        assert_eq!(web.check.kind(), "http");
        assert_eq!(web.timeout, Duration::from_secs(2));
    }

    #[test]
    fn an_error_names_the_line_the_key_and_what_would_be_right() {
        let probe = |more: &str| format!("# ours\n[[probe]]\nname = \"own\"\n{more}\n");
        for (text, line, says) in [
            (probe("kind = \"tcp\"\nport = 99999"), 5, "port: "),
            (probe("kind = \"tcp\"\nport = 0"), 5, "1 to 65535"),
            (
                probe("kind = \"tcp\"\nport = 22"),
                5,
                "the built-in probe sshd asks it",
            ),
            (
                probe("kind = \"tcp\""),
                2,
                "port: it is missing: the kind tcp takes port",
            ),
            (
                probe("kind = \"tcp\"\nport = 1\npath = \"/x\""),
                6,
                "path: the kind tcp has none",
            ),
            (
                probe("kind = \"icmp\""),
                4,
                "unknown variant `icmp`, expected one of `unit`, `tcp`",
            ),
            (
                probe("kind = \"tcp\"\nport = 1\nrole = \"worker\""),
                6,
                "unknown field `role`, expected one of",
            ),
            (
                probe("kind = \"tcp\"\nport = 1\nroles = [\"boss\"]"),
                6,
                "boss",
            ),
            (
                probe("kind = \"tcp\"\nport = 1\ntimeout = \"5x\""),
                6,
                "timeout: \"5x\"",
            ),
            (
                probe("kind = \"tcp\"\nport = 1\ntimeout = \"5m\""),
                6,
                "timeout: 300s is more than 10s",
            ),
            (
                probe("kind = \"tcp\"\nport = 1\nafter = \"nope\""),
                6,
                "neither a built-in probe nor",
            ),
            (
                probe("kind = \"file\"\npath = \"x\""),
                5,
                "path: \"x\" is not absolute",
            ),
            (
                probe("kind = \"exec\"\nargv = []"),
                5,
                "a command and its arguments",
            ),
            (
                probe("kind = \"http\"\nport = 1\npath = \"/a b\""),
                6,
                "such as /healthz",
            ),
            (
                probe("kind = \"tcp\"\nport = 1\nsuccess_threshold = 0"),
                6,
                "not between 1 and 100",
            ),
            (
                "[[probe]]\nname = \"munge\"\nkind = \"tcp\"\nport = 1\n".to_owned(),
                2,
                "is built in",
            ),
            (
                "[[probe]]\nname = \"jobs\"\nkind = \"tcp\"\nport = 1\n".to_owned(),
                2,
                "is built in",
            ),
            (
                "[[probe]]\nname = \"A\"\nkind = \"tcp\"\nport = 1\n".to_owned(),
                2,
                "it should be a small letter",
            ),
            (
                "probes = 1\n".to_owned(),
                1,
                "unknown field `probes`, expected `probe`",
            ),
            ("[[probe]\n".to_owned(), 1, ""),
        ] {
            let wrong = probes(&text).unwrap_err();
            assert_eq!(wrong.line, line, "{text}: {}", wrong.why);
            assert!(wrong.why.contains(says), "{text}: {}", wrong.why);
        }
    }

    #[test]
    fn a_unit_is_named_in_full() {
        for name in [
            "x",
            "nfs.client",
            "getty@.service",
            ".service",
            "a b.service",
        ] {
            let text = format!("[[probe]]\nname = \"own\"\nkind = \"unit\"\nunit = \"{name}\"\n");
            let wrong = probes(&text).unwrap_err();
            assert_eq!(wrong.line, 4, "{name}");
            assert!(
                wrong.why.contains("such as nfs-client.target"),
                "{}",
                wrong.why
            );
        }
    }

    #[test]
    fn the_second_of_a_name_is_told() {
        let probe =
            |port: u32| format!("[[probe]]\nname = \"own\"\nkind = \"tcp\"\nport = {port}\n");
        let wrong = probes(&(probe(1) + &probe(2))).unwrap_err();
        let why = "probe 2: name: another probe is called \"own\", too";
        assert_eq!((wrong.line, &wrong.why[..]), (6, why));
    }
}
