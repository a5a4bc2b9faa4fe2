//! A node as the controller has it in its records: one line of `scontrol --oneliner show node`.

use std::time::SystemTime;

/// What a record says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct NodeRecord<'a> {
    pub(super) name: &'a str,
    /// The host that the node is on (`NodeHostName`); empty where it is not told.
    pub(super) host: &'a str,
    /// The partitions that it is in.
    pub(super) partitions: Vec<&'a str>,
    /// The base state and its flags, as Slurm prints them.
    pub(super) state: &'a str,
    /// Slurm's reason for the state, without who gave it; empty if there is none.
    pub(super) reason: &'a str,
    /// When the slurmd started that has registered; `None` if none has.
    pub(super) slurmd_start: Option<SystemTime>,
}

/// A flag that is a sign behind the base state in the words of older versions, and its name.
const SIGNS: [(char, &str); 8] = [
    ('*', "NOT_RESPONDING"),
    ('~', "POWERED_DOWN"),
    ('#', "POWERING_UP"),
    ('%', "POWERING_DOWN"),
    ('$', "MAINTENANCE"),
    ('@', "REBOOT_REQUESTED"),
    ('^', "REBOOT_ISSUED"),
    ('-', "PLANNED"),
];

impl<'a> NodeRecord<'a> {
    /// Reads a line. Times have to be UTC.
    pub(super) fn read(line: &'a str) -> Option<Self> {
        let line = line.trim();
        line.strip_prefix("NodeName=")?;
        // The reason is free text that may look like a field.
        let (fields, reason) = match line.split_once(" Reason=") {
            Some((fields, reason)) => (fields, reason),
            None => (line, ""),
        };
        let field = |name: &str| {
            let value = |word: &'a str| word.strip_prefix(name)?.strip_prefix('=');
            fields.split_ascii_whitespace().find_map(value)
        };
        // `[root@2026-11-26T16:50:01]`
        let end = reason
            .match_indices(" [")
            .find(|(at, _)| {
                let rest = &reason[*at..];
                matches!((rest.find('@'), rest.find(']')), (Some(a), Some(b)) if a < b)
            })
            .map_or(reason.len(), |(at, _)| at);
        Some(Self {
            name: field("NodeName").unwrap_or_default(),
            host: field("NodeHostName").unwrap_or_default(),
            partitions: field("Partitions")
                .unwrap_or_default()
                .split(',')
                .filter(|partition| !partition.is_empty())
                .collect(),
            state: field("State").unwrap_or_default(),
            reason: reason[..end].trim(),
            slurmd_start: field("SlurmdStartTime")
                .and_then(|time| humantime::parse_rfc3339_weak(time).ok()),
        })
    }

    /// The base state, without its flags.
    pub(super) fn base(&self) -> &'a str {
        let base = self.state.split('+').next().unwrap_or_default();
        base.trim_end_matches(|c| SIGNS.iter().any(|(sign, _)| *sign == c))
    }

    /// Whether the state has that flag.
    pub(super) fn has(&self, flag: &str) -> bool {
        let base = self.state.split('+').next().unwrap_or_default();
        let sign = SIGNS.iter().find(|(_, name)| *name == flag);
        self.state.split('+').skip(1).any(|own| own == flag)
            || sign.is_some_and(|(sign, _)| base[self.base().len()..].contains(*sign))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_record_is_read_as_slurm_prints_it() {
        let line = "NodeName=w-1 CoresPerSocket=1  CPUAlloc=0 Gres=(null) NodeAddr=w-1 NodeHostName=w1.hpc  \
            RealMemory=1 State=DOWN+DRAIN+NOT_RESPONDING ThreadsPerCore=1 Partitions=all  BootTime=None \
            SlurmdStartTime=2026-11-26T16:46:13 AllocTRES= Reason=a test of State=IDLE [x] y [root@2026-11-26T16:50:01] Comment=z";
        let record = NodeRecord::read(line).unwrap();
        let start = humantime::parse_rfc3339("2026-11-26T16:46:13Z").unwrap();
        assert_eq!(
            record,
            NodeRecord {
                name: "w-1",
                host: "w1.hpc",
                partitions: vec!["all"],
                state: "DOWN+DRAIN+NOT_RESPONDING",
                reason: "a test of State=IDLE [x] y",
                slurmd_start: Some(start),
            }
        );
        assert_eq!(record.base(), "DOWN");
        assert!(record.has("DRAIN") && record.has("NOT_RESPONDING") && !record.has("FAIL"));
        let never = NodeRecord::read("NodeName=a State=UNKNOWN* SlurmdStartTime=None").unwrap();
        assert_eq!((never.base(), never.slurmd_start), ("UNKNOWN", None));
        assert!(never.has("NOT_RESPONDING") && !never.has("POWERED_DOWN"));
        assert_eq!(NodeRecord::read("Node w-1 not found"), None);
    }

    proptest! {
        #[test]
        fn no_line_panics(line in "(NodeName=|State=|Reason=| |\\[|@|\\]|[*~+]|IDLE|\\PC){0,20}") {
            if let Some(record) = NodeRecord::read(&format!("NodeName={line}")) {
                record.has("DRAIN");
            }
        }
    }
}
