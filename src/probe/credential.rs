//! Why two nodes cannot authenticate each other by MUNGE: a credential that one encodes is decoded by the
//! other, as munge(1) and unmunge(1) are meant to be used where that is in question.
//!
//! It holds no payload, it is nobody's (the user), and nobody else than these two nodes gets it.

use std::time::{Duration, SystemTime};

use crate::{
    question::{Answer, CommandQuestion, Question},
    text::Detail,
};

/// How long a credential may be. One without a payload has less than 200 bytes.
const CREDENTIAL_BYTES: usize = 4096;

/// What unmunge says of a credential that was made with another key, and of one of a time that has not come yet or
/// is over.
const INVALID: &str = "Invalid credential";
const OF_ANOTHER_TIME: [&str; 2] = ["Rewound credential", "Expired credential"];

/// Why one node does not accept what another has encoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Diagnosis {
    /// What is wrong, in words that go on after "of this node and of …".
    differ: String,
    /// What unmunge has printed.
    pub(crate) shown: Detail,
}

impl Diagnosis {
    /// What is wrong between the node that encodes and that other node.
    pub(crate) fn with(&self, other: &str) -> String {
        let Self { differ, .. } = self;
        differ.replace("{}", &format!("of this node and of {other}"))
    }
}

/// Asks a node to encode a credential.
pub(crate) fn encode() -> Question {
    Question::Command(CommandQuestion {
        argv: &[
            "setpriv",
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            "munge",
            "--no-input",
        ],
        arguments: Vec::new(),
        name: "munge",
    })
}

/// Reads the credential that a node has encoded.
pub(crate) fn read(answer: &Answer) -> Option<String> {
    let Answer::Command {
        stdout, code: 0, ..
    } = answer
    else {
        return None;
    };
    let credential = stdout.trim();
    let inside = credential.strip_prefix("MUNGE:")?.strip_suffix(':')?;
    let is_base64 = |c: char| c.is_ascii_alphanumeric() || "+/=".contains(c);
    let is_one = credential.len() <= CREDENTIAL_BYTES && inside.chars().all(is_base64);
    is_one.then(|| credential.to_owned())
}

/// Asks another node to decode it.
pub(crate) fn decode(credential: String) -> Question {
    Question::Command(CommandQuestion {
        argv: &["sh", "-c", r#"printf %s "$1" | unmunge"#, "sh"],
        arguments: vec![credential],
        name: "unmunge",
    })
}

/// Judges what the other node has made of it; none if that explains nothing.
pub(crate) fn judge(answer: &Answer) -> Option<Diagnosis> {
    let Answer::Command { stdout, stderr, .. } = answer else {
        return None;
    };
    let field = |name: &str| {
        let mut lines = stdout.lines().filter_map(|line| line.split_once(':'));
        lines.find_map(|(key, value)| (key == name).then(|| value.trim()))
    };
    let says = |what: &str| {
        let told = field("STATUS").into_iter().chain([stderr.as_str()]);
        told.into_iter().any(|told| told.contains(what))
    };
    let differ = if says(INVALID) {
        "the munge keys {} differ".to_owned()
    } else if OF_ANOTHER_TIME.into_iter().any(says) {
        let at = |name: &str| {
            let (_, seconds) = field(name)?.rsplit_once('(')?;
            let seconds = seconds.trim_end_matches(')').parse().ok()?;
            SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
        };
        let (encoded, decoded) = (at("ENCODE_TIME")?, at("DECODE_TIME")?);
        let (off, which) = match encoded.duration_since(decoded) {
            Ok(ahead) => (ahead, "ahead"),
            Err(error) => (error.duration(), "behind"),
        };
        // It takes a moment to decode one.
        let off = humantime::format_duration(Duration::from_secs(off.as_secs() / 10 * 10));
        format!("the clocks {{}} differ: this one is {off} {which}")
    } else {
        return None;
    };
    let shown = stdout.lines().take(4).chain(stderr.lines().take(2));
    let shown = shown.collect::<Vec<_>>().join("\n");
    Some(Diagnosis {
        differ,
        shown: Detail::new(shown),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(stdout: &str, stderr: &str, code: i64) -> Answer {
        Answer::Command {
            stdout: stdout.to_owned(),
            stderr: stderr.to_owned(),
            code,
        }
    }

    #[test]
    fn only_a_credential_is_handed_on() {
        let read = |text: &str, code| read(&answer(text, "", code));
        assert_eq!(read("MUNGE:Aw+/=:\n", 0).as_deref(), Some("MUNGE:Aw+/=:"));
        for bad in [
            "",
            "MUNGE:",
            "MUNGE:a b:",
            "MUNGE:$(x):",
            "x:a:",
            "MUNGE:a:\nMUNGE:b:",
        ] {
            assert_eq!(read(bad, 0), None, "{bad}");
        }
        assert_eq!(read("MUNGE:a:", 1), None);
        assert_eq!(read(&format!("MUNGE:{}:", "a".repeat(5000)), 0), None);
    }

    #[test]
    fn what_unmunge_says_is_what_differs() {
        let invalid = judge(&answer("", "unmunge: Error: Invalid credential\n", 14)).unwrap();
        assert_eq!(
            invalid.with("c"),
            "the munge keys of this node and of c differ"
        );
        assert!(invalid.shown.as_str().contains("Invalid credential"));
        let times = |encoded, decoded| {
            format!(
                "STATUS:          Rewound credential (16)\nENCODE_HOST:     w (10.0.0.2)\n\
                 ENCODE_TIME:     2026-11-28 19:02:56 +0000 ({encoded})\n\
                 DECODE_TIME:     2026-11-28 18:32:56 +0000 ({decoded})\nTTL:             300\n"
            )
        };
        let says = |encoded: u64, decoded: u64| {
            let judged = judge(&answer(&times(encoded, decoded), "", 16)).unwrap();
            judged.with("c")
        };
        let clocks = "the clocks of this node and of c differ: this one is ";
        assert_eq!(
            says(1_795_892_576, 1_795_890_776),
            format!("{clocks}30m ahead")
        );
        assert_eq!(
            says(1_795_890_776, 1_795_892_579),
            format!("{clocks}30m behind")
        );
        for none in [
            "STATUS:          Success (0)\n",
            "STATUS: Rewound credential (16)\n",
            "",
        ] {
            assert_eq!(judge(&answer(none, "", 0)), None, "{none}");
        }
    }
}
