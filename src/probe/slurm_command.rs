//! Slurm's own commands in the node: where they are, which configuration they read, and what their
//! errors mean.
//!
//! A command has to ask the cluster of the node's daemon. Slurm under a prefix of its own is on the
//! daemon's `PATH` and not on that of a command from outside, and its `slurm.conf` may be wherever the
//! daemon was told (`-f`, or `SLURM_CONF`). So both are taken from the daemon that runs.

use crate::{
    question::{DaemonProcess, DaemonStart},
    reason::ReasonCode,
};

/// The longest path that is handed on.
const PATH_BYTES: usize = 4096;

/// Where the commands of packages are. They are on every `PATH`, whose own order counts.
const STANDARD: [&str; 6] = [
    "/usr/local/sbin",
    "/usr/local/bin",
    "/usr/sbin",
    "/usr/bin",
    "/sbin",
    "/bin",
];

/// The exit code of a shell that does not find a command.
const NOT_FOUND: i64 = 127;

/// The beginning of a shell script that runs one of Slurm's commands. Its arguments are those of
/// [`arguments`]. Slurm prints times in UTC after it.
macro_rules! prelude {
    ($command:literal) => {
        concat!(
            r#"PATH=$1${1:+:}$PATH
for each in /usr/local/sbin /usr/local/bin /usr/sbin /usr/bin /sbin /bin; do
  case :$PATH: in *:$each:*) ;; *) PATH=$PATH:$each ;; esac
done
[ -z "$2" ] || export SLURM_CONF="$2"
export TZ=UTC0 SLURM_TIME_FORMAT=standard
command -v "#,
            $command,
            r#" >/dev/null || { echo "$PATH" >&2; exit 127; }
read -r host </proc/sys/kernel/hostname
"#
        )
    };
}
pub(super) use prelude;

/// Goes on behind [`prelude`]: ends the script if no host on which a controller runs has a name that resolves.
/// A newer command tries each name for ten seconds, and does not say which it is.
macro_rules! resolve {
    () => {
        r#"for conf in "$SLURM_CONF" /etc/slurm/slurm.conf /run/slurm/conf/slurm.conf; do
  [ -r "$conf" ] && break
done
lines=$(grep -i '^[[:space:]]*SlurmctldHost[[:space:]]*=' "$conf" 2>/dev/null)
unresolved=
if [ -n "$lines" ] && command -v getent >/dev/null; then
  while IFS= read -r line; do
    name=${line#*=} name=${name%%[#]*}
    case $name in *"("*) name=${name#*"("} name=${name%%")"*} ;; esac
    name=${name#"${name%%[![:space:]]*}"} name=${name%%[[:space:]]*}
    if getent hosts "$name" >/dev/null; then unresolved=; break; fi
    unresolved="$unresolved${unresolved:+, }$name"
  done <<LINES
$lines
LINES
  if [ -n "$unresolved" ]; then
    echo "Unable to resolve the name of the controller in this node: $unresolved (SlurmctldHost in $conf)" >&2
    exit 1
  fi
fi
"#
    };
}
pub(super) use resolve;

/// Returns the process that is the daemon, or will be: one of the daemon's name comes before the main
/// process of its unit, which may be a wrapper, and a process before its children.
pub(crate) fn daemon<'a>(name: &str, processes: &'a [DaemonProcess]) -> Option<&'a DaemonProcess> {
    let begun = || processes.iter().filter(|process| process.has_begun());
    let named = || begun().filter(|process| process.name == name);
    let root = named().find(|process| !named().any(|other| other.pid == process.parent));
    root.or_else(|| named().next()).or_else(|| begun().next())
}

/// Whether it is the daemon itself, and no wrapper that executes the daemon later and may set other
/// variables for it. A script may be called like the daemon, but then another program runs it.
pub(crate) fn is_daemon(name: &str, process: &DaemonProcess) -> bool {
    let start = process.start.as_ref();
    let executable = start.map(|start| match start.arguments.first() {
        Some(first) if start.executable.is_empty() => first.as_str(),
        _ => start.executable.as_str(),
    });
    let program = executable.and_then(|path| path.rsplit('/').next());
    process.name == name && program.is_some_and(|program| program.starts_with(name))
}

/// Returns the arguments of a script: what to put before `PATH`, the path of `slurm.conf`, the name that
/// the daemon gave its node, and the number of its process. Each is empty where it is not known.
pub(crate) fn arguments(process: Option<&DaemonProcess>) -> Vec<String> {
    let Some(process) = process else {
        return vec![String::new(); 4];
    };
    let nothing = DaemonStart::default();
    let start = process.start.as_ref().unwrap_or(&nothing);
    vec![
        directories(start),
        configuration(start),
        node_name(start),
        process.pid.to_string(),
    ]
}

/// The directories of the daemon's own executable, of the commands beside it, and of its `PATH`, but for
/// the standard ones.
fn directories(start: &DaemonStart) -> String {
    let is_clean = |path: &&str| path.starts_with('/') && path.len() <= PATH_BYTES && is_one(path);
    let first = start.arguments.first().map(String::as_str);
    let executables = [Some(start.executable.as_str()), first];
    let mut found: Vec<String> = Vec::new();
    for executable in executables.into_iter().flatten().filter(is_clean) {
        let Some((directory, _)) = executable.rsplit_once('/') else {
            continue;
        };
        found.push(directory.to_owned());
        if let Some((prefix, "sbin")) = directory.rsplit_once('/') {
            found.push(format!("{prefix}/bin"));
        }
    }
    let path = start.path.split(':').filter(is_clean);
    found.extend(path.take(32).map(str::to_owned));
    found.retain(|directory| !directory.is_empty() && !STANDARD.contains(&directory.as_str()));
    let mut seen = std::collections::HashSet::new();
    found.retain(|directory| seen.insert(directory.clone()));
    found.join(":")
}

/// The configuration file that the daemon was told to read.
fn configuration(start: &DaemonStart) -> String {
    let told = option(&start.arguments, 'f').unwrap_or(&start.slurm_conf);
    let is_clean = told.starts_with('/') && told.len() <= PATH_BYTES && is_one(told);
    if is_clean {
        told.to_owned()
    } else {
        String::new()
    }
}

/// The name that slurmd was told its node has (`slurmd -N`).
fn node_name(start: &DaemonStart) -> String {
    let told = option(&start.arguments, 'N').unwrap_or_default();
    let is_name = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let is_clean = told.len() <= 255 && !told.starts_with('-') && told.chars().all(is_name);
    if is_clean {
        told.to_owned()
    } else {
        String::new()
    }
}

fn is_one(path: &str) -> bool {
    !path.contains(|c: char| c.is_control() || c == ':')
}

/// Returns the value of an option of slurmctld, slurmdbd or slurmd in the form of getopt(3): with its
/// value in the same word or in the next one, alone or behind others.
fn option(arguments: &[String], name: char) -> Option<&str> {
    /// The options that take a value (slurmctld(8), slurmd(8)).
    const TAKE_VALUE: &str = "BdfLnNFbI";
    let mut words = arguments.iter().skip(1);
    let mut found = None;
    while let Some(word) = words.next() {
        let Some(letters) = word.strip_prefix('-').filter(|word| !word.starts_with('-')) else {
            continue;
        };
        let Some((at, letter)) = letters
            .char_indices()
            .find(|(_, letter)| TAKE_VALUE.contains(*letter))
        else {
            continue;
        };
        let value = match &letters[at + letter.len_utf8()..] {
            // These two take none, or one in the same word.
            "" if "FbI".contains(letter) => continue,
            "" => words.next().map(String::as_str),
            value => Some(value),
        };
        if letter == name {
            found = value;
        }
    }
    found
}

/// What may be wrong where authentication is refused, as long as nobody has found out.
pub(crate) const REFUSED: &str = " (authentication failed: does munged run, and are the munge keys and the \
    clocks of both nodes the same?)";

/// What a command complains of.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Complaint {
    pub(super) code: ReasonCode,
    /// The command's own words, and what they mean where they do not say it.
    pub(super) text: String,
}

/// Reads the errors of a command that has ended with that code.
pub(super) fn complaint(command: &str, stderr: &str, stdout: &str, code: i64) -> Complaint {
    if code == NOT_FOUND {
        let searched = stderr.lines().next().unwrap_or_default();
        return Complaint {
            code: ReasonCode::CommandFailed,
            text: format!("the node has no {command}: it was looked for in {searched:.600}"),
        };
    }
    let said = said(stderr, stdout);
    let lower = said.to_ascii_lowercase();
    let is_any = |signs: &[&str]| signs.iter().any(|sign| lower.contains(sign));
    // A controller that cannot read a message for want of the same key closes the connection, and older
    // commands then tell of zero bytes.
    if is_any(&[
        "munge",
        "authentication",
        "credential",
        "zero bytes were transmitted",
    ]) {
        return Complaint {
            code: ReasonCode::AuthFailed,
            text: format!("{said}{REFUSED}"),
        };
    }
    if is_any(&[
        "unable to resolve",
        "unable to contact slurm controller",
        "unable to establish control machine",
    ]) {
        return Complaint {
            code: ReasonCode::RpcDown,
            text: said,
        };
    }
    Complaint {
        code: ReasonCode::CommandFailed,
        text: if is_any(&[
            "res_nsearch",
            "cannot stat file",
            "could not establish a configuration",
        ]) {
            format!(
                "{said} (slurm.conf was looked for where the daemon was told to, by -f or SLURM_CONF, \
                 and else where {command} looks)"
            )
        } else {
            said
        },
    }
}

/// The errors in one line, without repetitions and prefixes.
fn said(stderr: &str, stdout: &str) -> String {
    let mut said: Vec<&str> = Vec::new();
    for line in stderr.lines().chain(stdout.lines()) {
        let line = line.trim().trim_matches('*').trim();
        let line = line.split_once(": error: ").map_or(line, |(_, said)| said);
        if line.is_empty() || line.contains("attempt number") || said.contains(&line) {
            continue;
        }
        said.push(line);
    }
    // The last line sums up the ones before.
    let mut room = 500_usize;
    let mut kept: Vec<String> = Vec::new();
    for line in said.iter().rev().take(4) {
        let line = format!("{line:.250}");
        let Some(left) = room.checked_sub(line.len()) else {
            break;
        };
        room = left;
        kept.push(line);
    }
    kept.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn start(executable: &str, words: &[&str], path: &str, slurm_conf: &str) -> DaemonStart {
        DaemonStart {
            executable: executable.to_owned(),
            arguments: words.iter().map(|word| (*word).to_owned()).collect(),
            path: path.to_owned(),
            slurm_conf: slurm_conf.to_owned(),
        }
    }

    fn process(pid: u32, parent: u32, name: &str, start: DaemonStart) -> DaemonProcess {
        DaemonProcess {
            pid,
            parent,
            name: name.to_owned(),
            unit: None,
            listens: None,
            start: Some(start),
        }
    }

    #[test]
    fn commands_run_as_the_daemon_does() {
        let own = |words: &[&str]| {
            let start = start("/opt/slurm/sbin/slurmd", words, "/opt/x:/bin", "/env.conf");
            arguments(Some(&process(7, 1, "slurmd", start)))
        };
        let path = "/opt/slurm/sbin:/opt/slurm/bin:/opt/x";
        assert_eq!(own(&["slurmd", "-D"]), [path, "/env.conf", "", "7"]);
        for words in [
            &["slurmd", "-D", "-f", "/a/b", "-N", "n1"][..],
            &["slurmd", "-DN", "n1", "-f/a/b"],
            &[
                "slurmd",
                "-L",
                "-N",
                "-Nn1",
                "-vvf",
                "/a/b",
                "--conf-server",
                "x",
            ],
            &["slurmd", "-N", "n0", "-N", "n1", "-b", "-f", "/a/b"],
        ] {
            assert_eq!(own(words), [path, "/a/b", "n1", "7"], "{words:?}");
        }
        // The same executable under two names counts once; that of a package needs no directory.
        let start = |path| start(path, &["/a/slurmd"], "/usr/bin", "");
        for path in ["/a/slurmd", "/usr/sbin/slurmd"] {
            let process = process(7, 1, "slurmd", start(path));
            assert_eq!(arguments(Some(&process))[0], "/a");
        }
        assert_eq!(arguments(None), ["", "", "", ""]);
    }

    #[test]
    fn the_daemon_counts_and_not_what_comes_before_or_after_it() {
        let process = |pid, parent, name| process(pid, parent, name, DaemonStart::default());
        let of = |found: &[DaemonProcess]| daemon("slurmd", found).map(|process| process.pid);
        let (parent, child) = (process(7, 1, "slurmd"), process(9, 7, "slurmd"));
        let (wrapper, systemd) = (process(3, 1, "sh"), process(3, 1, "(slurmd)"));
        assert_eq!(of(&[child.clone(), parent]), Some(7));
        assert_eq!(of(&[wrapper.clone(), child.clone()]), Some(9));
        assert_eq!(of(&[wrapper]), Some(3));
        assert_eq!(of(&[systemd.clone(), child]), Some(9));
        assert_eq!(of(&[systemd]), None);
    }

    #[test]
    fn a_wrapper_is_not_the_daemon() {
        let is_daemon = |name, executable, words: &[&str]| {
            is_daemon(
                "slurmd",
                &process(7, 1, name, start(executable, words, "", "")),
            )
        };
        assert!(is_daemon("slurmd", "/usr/sbin/slurmd-wlm", &["slurmd"]));
        assert!(is_daemon("slurmd", "", &["/opt/sbin/slurmd", "-D"]));
        assert!(!is_daemon(
            "sh",
            "/bin/dash",
            &["/bin/sh", "-c", "exec slurmd"]
        ));
        assert!(!is_daemon(
            "slurmd",
            "/bin/dash",
            &["/bin/sh", "/opt/slurmd"]
        ));
        assert!(!is_daemon("slurmd", "", &["/bin/sh", "/opt/slurmd"]));
        assert!(!is_daemon("slurmd", "", &[]));
    }

    #[test]
    fn what_is_no_path_and_no_name_is_not_handed_on() {
        let hostile = start(
            "relative/slurmd",
            &["/a:b/slurmd", "-N", "$(x)", "-f", "../x"],
            "relative:/ok\n:/fine",
            "/y",
        );
        let arguments = |start| arguments(Some(&process(7, 1, "slurmd", start)));
        assert_eq!(arguments(hostile), ["/fine", "", "", "7"]);
        let dash = start("", &["slurmd", "-N", "-x"], "", "");
        assert_eq!(arguments(dash)[2], "");
    }

    #[test]
    fn errors_say_what_they_mean() {
        use ReasonCode::{AuthFailed, CommandFailed, RpcDown};
        for (said, code, contains) in [
            (
                "slurm_load_node error: Zero Bytes were transmitted or received\n",
                AuthFailed,
                "keys and the clocks",
            ),
            (
                "scontrol: error: If munged is up, restart with --num-threads=10\n\
                 scontrol: error: Munge encode failed: Failed to access \"/run/munge/munge.socket.2\"\n\
                 slurm_load_node error: Protocol authentication error\n",
                AuthFailed,
                "slurm_load_node error: Protocol authentication error; Munge encode failed",
            ),
            (
                "scontrol: error: x: getaddrinfo() failed: No error, attempt number -4\n\
                 slurm_load_node error: Unable to contact slurm controller (connect failure)\n",
                RpcDown,
                "Unable to contact slurm controller (connect failure)",
            ),
            (
                "scontrol: error: resolve_ctls_from_dns_srv: res_nsearch error: Unknown host\n",
                CommandFailed,
                "slurm.conf was looked for",
            ),
            ("something else\n", CommandFailed, "something else"),
        ] {
            let complaint = complaint("scontrol", said, "", 1);
            assert_eq!(complaint.code, code, "{said}");
            assert!(complaint.text.contains(contains), "{}", complaint.text);
            assert!(!complaint.text.contains("attempt number"));
        }
        let missing = complaint("scontrol", "/opt/slurm/bin:/usr/bin\n", "", 127);
        assert_eq!(
            missing.text,
            "the node has no scontrol: it was looked for in /opt/slurm/bin:/usr/bin"
        );
    }

    proptest! {
        #[test]
        fn no_command_line_panics(words in prop::collection::vec("-?[fNDvé]{0,3}\\PC{0,4}", 0..6)) {
            let words: Vec<_> = words.iter().map(String::as_str).collect();
            let process = process(7, 1, "slurmd", start("", &words, "", ""));
            let [path, conf, name, _] = &arguments(Some(&process))[..] else {
                unreachable!()
            };
            prop_assert!(path.is_empty() || path.starts_with('/'));
            prop_assert!(conf.is_empty() || conf.starts_with('/'));
            prop_assert!(name.is_ascii() && !name.starts_with('-'));
        }
    }
}
