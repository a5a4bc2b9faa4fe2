//! The job of the level JOBS: srun(1) runs true(1) on each worker.
//!
//! Slurm's names of the workers and of their partitions come from their records. They go into a command
//! line, so what does not look like a name is left out.

use std::collections::BTreeSet;

use super::{
    Outcome,
    slurm_command::{complaint, prelude},
};
use crate::{
    question::{Answer, CommandQuestion, Question},
    reason::ReasonCode,
};

/// A node as Slurm knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SlurmNode {
    name: String,
    partitions: BTreeSet<String>,
}

/// How long a name of Slurm's is at most.
const NAME_BYTES: usize = 255;

impl SlurmNode {
    /// A node of that name, in those partitions; none if that is no name.
    pub(super) fn new(name: &str, partitions: &[&str]) -> Option<Self> {
        let partitions = partitions.iter().filter(|partition| is_name(partition));
        is_name(name).then(|| Self {
            name: name.to_owned(),
            partitions: partitions
                .map(|partition| (*partition).to_owned())
                .collect(),
        })
    }
}

fn is_name(text: &str) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    !text.is_empty()
        && text.len() <= NAME_BYTES
        && !text.starts_with('-')
        && text.chars().all(is_part)
}

/// Runs the job, and cancels it if it has not come to an end by itself: it may still wait for its nodes.
///
/// Slurm is told to give up by itself before the command's own limit, since it says why then.
const SCRIPT: &str = concat!(
    prelude!("srun"),
    r#"name=$5
cancel() { scancel --quiet --name="$name" 2>/dev/null; }
stop() { cancel; kill "$job" 2>/dev/null; exit "$1"; }
trap 'stop 143' HUP TERM
trap 'stop 142' ALRM
srun --job-name="$name" --nodelist="$6" --nodes="$7" --ntasks="$7" ${8:+--partition="$8"} \
  --immediate=8 --time=1 --chdir=/ --input=none true &
job=$!
wait "$job"; code=$?
[ "$code" = 0 ] || cancel
exit "$code"
"#
);

/// A job on workers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Job {
    /// Its name, which no other job has.
    pub(crate) name: String,
    pub(crate) workers: Vec<SlurmNode>,
}

impl Job {
    /// The question that runs the job.
    pub(crate) fn question(&self) -> Question {
        let Self { name, workers } = self;
        let mut common = workers.iter().map(|worker| worker.partitions.clone());
        let first = common.next().unwrap_or_default();
        // A job goes to the partition of those that can start it first.
        let common = common.fold(first, |all, own| &all & &own);
        let names: Vec<_> = workers.iter().map(|worker| &worker.name[..]).collect();
        let arguments = vec![
            name.clone(),
            names.join(","),
            workers.len().to_string(),
            common.into_iter().collect::<Vec<_>>().join(","),
        ];
        Question::Command(CommandQuestion {
            argv: &["sh", "-c", SCRIPT, "sh"],
            arguments,
            name: "srun",
        })
    }

    /// Judges how it went.
    pub(crate) fn judge(answer: &Answer) -> Outcome {
        let Answer::Command {
            stdout,
            stderr,
            code,
        } = answer
        else {
            return Self::failed("srun gave no answer");
        };
        if *code == 0 {
            return Outcome::passed();
        }
        // Slurm's number of the job is another each time, and no reason.
        let is_said = |line: &&str| !line.contains(" queued and waiting for ");
        let lines = stderr.lines().filter(is_said);
        let lines: Vec<_> = lines
            .map(|line| line.strip_prefix("srun: ").unwrap_or(line))
            .map(|line| line.strip_prefix("error: ").unwrap_or(line))
            .collect();
        let complaint = complaint("srun", &lines.join("\n"), stdout, *code);
        match &complaint.text[..] {
            "" => Self::failed(&format!("srun ended with {code}, and said nothing")),
            said => Self::failed(&format!("srun: {said}")),
        }
    }

    /// Why no job could be run, or why it failed.
    pub(crate) fn failed(why: &str) -> Outcome {
        Outcome::failed(ReasonCode::JobFailed, why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, partitions: &[&str]) -> SlurmNode {
        SlurmNode::new(name, partitions).unwrap()
    }

    fn arguments(workers: &[SlurmNode]) -> Vec<String> {
        let job = Job {
            name: "readyd-1".to_owned(),
            workers: workers.to_vec(),
        };
        let Question::Command(command) = job.question() else {
            panic!("a job is a command");
        };
        command.arguments
    }

    #[test]
    fn a_job_asks_for_all_workers_in_a_partition_that_has_all() {
        let workers = [
            node("w-0", &["all", "debug", "a"]),
            node("w-1", &["all", "b", "debug"]),
        ];
        assert_eq!(
            arguments(&workers),
            ["readyd-1", "w-0,w-1", "2", "all,debug"]
        );
        let apart = [node("w-0", &["a"]), node("w-1", &[])];
        assert_eq!(arguments(&apart)[3], "");
    }

    #[test]
    fn what_is_no_name_goes_into_no_command() {
        for bad in [
            "",
            "-p",
            "a b",
            "a,b",
            "w[0-9]",
            "$(x)",
            "é",
            &"a".repeat(256),
        ] {
            assert_eq!(SlurmNode::new(bad, &[]), None, "{bad}");
        }
        assert_eq!(
            arguments(&[node("w.0", &["-x", "all", "(null)"])])[3],
            "all"
        );
    }

    #[test]
    fn a_job_that_fails_says_why() {
        let judge = |stderr: &str, code| {
            let (stdout, stderr) = (String::new(), stderr.to_owned());
            Job::judge(&Answer::Command {
                stdout,
                stderr,
                code,
            })
        };
        assert!(judge("srun: job 1 queued\n", 0).is_passed());
        let failed = Job::failed("srun: Unable to allocate resources: Requested nodes are busy");
        let said = "srun: job 7 queued and waiting for resources\nsrun: error: Unable to allocate resources: Requested nodes are busy\n";
        assert_eq!(judge(said, 1), failed);
        assert_eq!(
            judge("", 7),
            Job::failed("srun ended with 7, and said nothing")
        );
    }
}
