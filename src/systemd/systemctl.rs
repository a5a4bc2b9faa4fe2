//! Queries systemd by its own program, systemctl: one script for a whole query, and the parser of
//! its output.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use super::{
    jobs::{Jobs, jobs_script},
    log_file::log_file_function,
};
use crate::{
    slurm_conf::find_slurm_conf,
    text::{Detail, clean},
    unit::{FAILED_UNITS, SystemdState, Unit},
};

/// A shell function that prints the end of a unit's journal, and of its daemon's own log file where the
/// journal has nothing fatal. Its arguments are the unit and its main process.
///
/// It prints the messages of the unit, systemd's messages about the unit, and also the messages of
/// the main process: for a process that dies at once, journald may learn no more than its number.
/// journald is first made to read the messages that were sent to it before, because it takes
/// systemd's own messages first.
macro_rules! journal_function {
    () => {
        concat!(
            r#"
limited() {
  if command -v timeout >/dev/null 2>&1; then timeout "$@"; else shift; "$@"; fi
}
tail_of() {
  set -- "_SYSTEMD_UNIT=$1" + "UNIT=$1" _PID=1 ${2:+ + "_PID=$2"}
  limited 2 journalctl --sync 2>/dev/null
  limited 5 journalctl --quiet --no-pager --boot --lines=20 "$@" 2>&1 | tail -c 8192
}
"#,
            log_file_function!(),
            r#"
words_of() {
  words=$(tail_of "$@")
  printf '%s\n' "$words"
  printf '%s\n' "$words" | grep -qi fatal || log_of "$1"
}
"#
        )
    };
}

/// Prints the last words of the unit that its arguments name, by id and process.
pub(crate) const JOURNAL: &str = concat!(journal_function!(), r#"words_of "$@""#);

/// Prints the uptime of the node's machine, and when the processes in its arguments started, so
/// that ages can be reckoned; see [`clock`]. The uptime comes first, as in [`SCRIPT`].
pub(crate) const CLOCK: &str = r#"
IFS=' ' read -r up _ </proc/uptime && echo "uptime $up"
for pid; do { IFS= read -r stat <"/proc/$pid/stat" && echo "stat $stat"; } 2>/dev/null; done
"#;

/// Prints the system's state, the units that its arguments name, and the end of the journal of
/// those that have failed if the first argument is `yes`; and the jobs that a boot waits for, if the
/// second is. Each line starts with its kind.
///
/// The uptime comes first, so that a unit is older, never younger, than it seems.
pub(crate) const SCRIPT: &str = concat!(
    journal_function!(),
    r#"
journal=$1 jobs=$2; shift 2
IFS=' ' read -r up _ </proc/uptime && echo "uptime $up"
system=$(systemctl is-system-running 2>&1)
echo "system $system"
if [ "$system" = degraded ]; then
  systemctl list-units --state=failed --plain --no-legend --no-pager | head -n 64 |
    while IFS=' ' read -r unit _; do echo "failed $unit"; done
fi
case $jobs$system in yesinitializing | yesstarting)
"#,
    jobs_script!(),
    r#"
;; esac
id= pid= failed=
end() {
  if [ "$failed$journal" = yesyes ]; then words_of "$id" "$pid" | sed 's/^/journal /'; echo; fi
  id= pid= failed=
}
{ systemctl show --property=Id,LoadState,ActiveState,SubState,Result,Type,MainPID,ExecMainPID,InvocationID,Job,ConditionResult,ConditionTimestampMonotonic,ActiveEnterTimestampMonotonic,StateChangeTimestampMonotonic -- "$@" 2>&1; echo; } |
  while IFS= read -r line; do
    echo "unit $line"
    case $line in
      Id=*) id=${line#Id=} ;;
      ActiveState=failed) failed=yes ;;
      ExecMainPID=[1-9]*) pid=${line#ExecMainPID=} ;;
      MainPID=[1-9]*) { IFS= read -r stat <"/proc/${line#MainPID=}/stat" && echo "stat $stat"; } 2>/dev/null ;;
      '') end ;;
    esac
  done
"#
);

/// The script's output lacks a unit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{said}")]
pub(crate) struct UnitMissing {
    /// The first line that was not understood, or the state of the system.
    pub(crate) said: String,
}

/// Parses the script's output for these units.
///
/// If a unit is missing, the error quotes the first line that was not understood: a node may print
/// anything.
pub(crate) fn parse(output: &str, asked: &[&str]) -> Result<SystemdState, UnitMissing> {
    let mut uptime = None;
    let mut system = None;
    let mut failed_units = Vec::new();
    let mut jobs = Jobs::default();
    let mut blocks: Vec<Block> = Vec::new();
    let mut block = Block::default();
    let mut complaint = None;

    for line in output.lines() {
        let (what, rest) = line.split_once(' ').unwrap_or((line, ""));
        match what {
            "uptime" => uptime = centiseconds(rest),
            "system" => system = Some(clean(rest, false)),
            "failed" if failed_units.len() < FAILED_UNITS => failed_units.push(clean(rest, false)),
            "unit" if rest.is_empty() && !block.unit.id.is_empty() => {
                blocks.push(std::mem::take(&mut block));
            }
            "unit" if !block.property(rest) && complaint.is_none() => {
                complaint = Some(rest);
            }
            "job" => jobs.line(rest),
            "stat" => block.process_start = start_ticks(rest),
            "journal" => {
                if let Some(last) = blocks.last_mut() {
                    last.journal.push_str(rest);
                    last.journal.push('\n');
                }
            }
            _ => {}
        }
    }

    let system = system.unwrap_or_default();
    if blocks.len() != asked.len() {
        let said = complaint.unwrap_or(if system.is_empty() {
            "nothing"
        } else {
            &system
        });
        return Err(UnitMissing {
            said: said.to_owned(),
        });
    }
    let units: BTreeMap<_, _> = asked
        .iter()
        .zip(blocks)
        .map(|(name, block)| ((*name).to_owned(), block.finish(uptime)))
        .collect();
    Ok(SystemdState {
        system,
        failed_units: Some(failed_units),
        units,
        jobs: jobs.finish(),
        subscribed: false,
        last_signal: 0,
    })
}

/// One unit's lines.
#[derive(Default)]
struct Block {
    unit: Unit,
    active_enter: u64,
    condition_met: bool,
    condition_tried: bool,
    process_start: Option<u64>,
    journal: String,
}

impl Block {
    /// Takes a `Key=Value`. Returns false if the line is none.
    fn property(&mut self, line: &str) -> bool {
        let Some((key, value)) = line.split_once('=') else {
            return false;
        };
        let word = || clean(value, false);
        let number = || value.parse::<u64>().unwrap_or(0);
        match key {
            "Id" => self.unit.id = word(),
            "LoadState" => self.unit.load = word(),
            "ActiveState" => self.unit.active = word(),
            "SubState" => self.unit.sub = word(),
            "Result" => self.unit.result = word(),
            "Type" => self.unit.kind = word(),
            "MainPID" => self.unit.main_pid = value.parse().unwrap_or(0),
            "InvocationID" => self.unit.invocation = word(),
            "Job" => self.unit.job = number() != 0,
            "ConditionResult" => self.condition_met = value == "yes",
            "ConditionTimestampMonotonic" => self.condition_tried = number() != 0,
            "ActiveEnterTimestampMonotonic" => self.active_enter = number(),
            "StateChangeTimestampMonotonic" => self.unit.changed = number(),
            _ => {}
        }
        true
    }

    fn finish(self, uptime: Option<u64>) -> Unit {
        let since = Duration::from_micros(self.active_enter);
        Unit {
            since,
            age: uptime.and_then(|uptime| age(uptime, since, self.process_start?)),
            condition_failed: self.condition_tried && !self.condition_met,
            journal: Detail::new(self.journal),
            ..self.unit
        }
    }
}

/// For how long a unit has been active under a process, reckoned from the uptime and the process's
/// start in hundredths of a second.
///
/// Two clocks have to agree. The unit's clock is `CLOCK_MONOTONIC`, which stands still while the
/// host sleeps, but uptime does not: by the unit's clock alone, the unit could seem older than it
/// is. The process's start is counted as uptime is, but is not the unit's own.
pub(crate) fn age(uptime: u64, since: Duration, process_start: u64) -> Option<Duration> {
    let entered = u64::try_from(since.as_micros()).ok()?.div_ceil(10_000);
    let unit = uptime.checked_sub(entered)?;
    let process = uptime.checked_sub(process_start + 1)?;
    Some(Duration::from_millis(10 * unit.min(process)))
}

/// Parses the output of [`CLOCK`]: the uptime, and the start of each process by its number, in
/// hundredths of a second.
pub(crate) fn clock(output: &str) -> Option<(u64, HashMap<u32, u64>)> {
    let mut uptime = None;
    let mut starts = HashMap::new();
    for line in output.lines() {
        match line.split_once(' ') {
            Some(("uptime", rest)) => uptime = centiseconds(rest),
            Some(("stat", stat)) => {
                let pid = stat.split(' ').next().and_then(|pid| pid.parse().ok());
                if let (Some(pid), Some(start)) = (pid, start_ticks(stat)) {
                    starts.insert(pid, start);
                }
            }
            _ => {}
        }
    }
    Some((uptime?, starts))
}

/// `1027.25` as hundredths of a second.
fn centiseconds(uptime: &str) -> Option<u64> {
    let (whole, hundredths) = uptime.trim().split_once('.')?;
    let hundredths: u64 = hundredths.get(..2)?.parse().ok()?;
    whole
        .parse::<u64>()
        .ok()?
        .checked_mul(100)?
        .checked_add(hundredths)
}

/// The start time in /proc/PID/stat (proc(5), field 22), in clock ticks, which are hundredths of a
/// second for every program on Linux. The fields are counted from behind the name, which may
/// contain anything.
fn start_ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_ascii_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Debian 12, systemd 252: slurmd has been up for 5 s, munge has failed, the third is unknown.
    const BOOKWORM: &str = "\
uptime 1010.25
system degraded
failed munge.service
unit Type=simple
unit MainPID=44
stat 44 (slurm) d) S 1 44 44 0 -1 4194304 1 0 0 0 0 0 0 0 20 0 1 0 100513 1 1 1
unit Id=slurmd.service
unit LoadState=loaded
unit ActiveState=active
unit SubState=running
unit StateChangeTimestampMonotonic=1005138065
unit ActiveEnterTimestampMonotonic=1005138065
unit Job=
unit ConditionResult=yes
unit 
unit Type=forking
unit MainPID=0
unit Result=exit-code
unit Id=munge.service
unit LoadState=loaded
unit ActiveState=failed
unit SubState=failed
unit Job=
unit 
journal Nov 22 munged[9]: Error: Failed to open keyfile
journal Nov 22 systemd[1]: munge.service: Failed with result 'exit-code'.

unit Id=nope.service
unit LoadState=not-found
unit ActiveState=inactive
unit SubState=dead
unit Job=17
unit ";

    #[test]
    fn what_a_real_systemctl_prints_is_read() {
        let asked = ["slurmd.service", "munge.service", "nope.service"];
        let look = parse(BOOKWORM, &asked).unwrap();
        assert_eq!(look.system, "degraded");
        assert_eq!(look.failed_units.unwrap(), ["munge.service"]);

        let slurmd = &look.units["slurmd.service"];
        assert!(slurmd.is_active() && !slurmd.tells());
        assert_eq!(slurmd.main_pid, 44);
        assert_eq!(slurmd.age, Some(Duration::from_millis(5_110)));

        let munge = &look.units["munge.service"];
        assert!(munge.is_failed());
        assert_eq!(
            munge.describe().as_str(),
            "munge.service is failed (result: exit-code)"
        );
        assert!(munge.journal.as_str().ends_with("'exit-code'."));
        assert!(slurmd.journal.is_empty());

        let nope = &look.units["nope.service"];
        assert!(!nope.exists() && nope.job);
    }

    fn missing(said: &str) -> Result<SystemdState, UnitMissing> {
        let said = said.to_owned();
        Err(UnitMissing { said })
    }

    #[test]
    fn a_node_without_a_bus_is_quoted() {
        let output = "uptime 1.00\nsystem offline\nunit Failed to connect to bus: No such file or directory\nunit \n";
        assert_eq!(
            parse(output, &["munge.service"]),
            missing("Failed to connect to bus: No such file or directory")
        );
        assert_eq!(parse("", &["munge.service"]), missing("nothing"));
    }

    #[test]
    fn a_host_that_slept_makes_no_unit_look_old() {
        // The monotonic clock is at 3 s and the uptime 1000 s further; the process started 0.1 s
        // ago.
        let output = "uptime 1003.10\nunit Id=a\nunit ActiveEnterTimestampMonotonic=3000000\n\
            stat 4 (a) S 1 1 1 0 1 1 1 0 0 0 0 0 0 0 20 0 1 0 100300 1 1\nunit \n";
        let look = parse(output, &["a"]).unwrap();
        assert_eq!(look.units["a"].age, Some(Duration::from_millis(90)));
    }

    #[test]
    fn a_clock_tells_the_start_of_each_process() {
        let output = "uptime 10.50\nstat 44 (a) b) S 1 1 1 0 1 1 1 0 0 0 0 0 0 0 20 0 1 0 1000 1 1\n\
            stat x\nnoise\n";
        let (uptime, starts) = clock(output).unwrap();
        assert_eq!((uptime, starts[&44]), (1050, 1000));
        let since = Duration::from_millis(10_100);
        assert_eq!(age(uptime, since, 1000), Some(Duration::from_millis(400)));
        assert_eq!(
            age(uptime, Duration::ZERO, 1000),
            Some(Duration::from_millis(490))
        );
        assert_eq!(clock("stat 1\n"), None);
    }

    proptest! {
        #[test]
        fn anything_may_be_printed(output in "((uptime|system|unit|stat|journal|failed) ?[ -~]{0,40}\n){0,12}") {
            let _ = parse(&output, &["a", "b"]);
        }
    }
}
