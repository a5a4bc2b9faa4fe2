//! The processes of a daemon, and the sockets on which they listen or how they were started, as a command
//! in the node finds them.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use super::cgroup;
use crate::{
    container::ContainerId,
    question::{About, DaemonProcess, DaemonQuestion, DaemonStart, ListeningSocket},
};

/// Prints the processes of a name, and one of a number: of each its line of `stat` (proc(5)) and its
/// cgroups; then the links of its open files and the sockets that listen in its network, or its
/// executable, its command line and two of its environment's variables.
///
/// Its own cgroups come first. Root without the capability `SYS_PTRACE` may not read the links and the
/// environment of another user's process, but that user may, unless the process has changed its user by
/// itself. Then, where nobody else runs as its user, and the network is the container's own, the sockets of its
/// user are its own; they are printed as links.
pub(super) const SCRIPT: &str = r#"
name=$1 main=$2 about=$3 own_network=$4
as_owner() {
  "$@" || {
    user= group=
    while read -r key value _; do
      case $key in Uid:) user=$value ;; Gid:) group=$value ;; esac
    done <"$process/status"
    setpriv --reuid "$user" --regid "$group" --clear-groups "$@"
  }
}
of_user() {
  [ "$own_network" = yes ] && [ "${user:-0}" != 0 ] || return
  for other in /proc/[0-9]*; do
    while read -r key value effective saved files; do
      case $key in
        Name:) comm=$value ;;
        State:) [ "$value" != Z ] || break ;;
        Uid:)
          case " $value $effective $saved $files " in
            *" $user "*) [ "$comm" = "$name" ] || return ;;
          esac
          break
          ;;
      esac
    done <"$other/status"
  done
  echo 'user -> alone'
  cat "$process/net/tcp" "$process/net/tcp6" | while read -r _ _ _ state _ _ _ owner _ inode _; do
    [ "$state" = 0A ] && [ "$owner" = "$user" ] && echo "user -> socket:[$inode]"
  done
  while read -r _ _ _ flags _ _ inode path; do
    [ "$flags" = 00010000 ] && [ "$(stat -c %u "$path")" = "$user" ] && echo "user -> socket:[$inode]"
  done <"$process/net/unix"
}
echo own
cat /proc/self/cgroup
for process in /proc/[0-9]*; do
  pid=${process#/proc/}
  read -r stat <"$process/stat" || continue
  case $stat in
    "$pid ($name) "*) ;;
    *) [ "$pid" = "$main" ] || continue ;;
  esac
  echo "process $stat"
  cat "$process/cgroup"
  if [ "$about" = start ]; then
    echo start
    as_owner readlink "$process/exe" || echo
    as_owner cat "$process/environ" | tr '\n\0' ' \n' | grep -E '^(PATH|SLURM_CONF)='
    echo arguments
    tr '\n\0' ' \n' <"$process/cmdline"
    continue
  fi
  echo files
  as_owner ls -l "$process/fd" || of_user
  echo sockets
  grep -h ' 0A ' "$process/net/tcp" "$process/net/tcp6"
  grep -h ' 00010000 ' "$process/net/unix"
done 2>/dev/null
exit 0
"#;

/// Reads what [`SCRIPT`] prints.
pub(super) fn parse(
    printed: &str,
    question: &DaemonQuestion,
    id: &ContainerId,
) -> Vec<DaemonProcess> {
    let mut blocks = printed.split("\nprocess ");
    let own = blocks.next().unwrap_or_default();
    let own = own.strip_prefix("own\n").unwrap_or(own);
    let process = |block: &str| process(block, own, question, id);
    blocks.filter_map(process).collect()
}

fn process(
    block: &str,
    own: &str,
    question: &DaemonQuestion,
    id: &ContainerId,
) -> Option<DaemonProcess> {
    let (kind, marker) = match question.about {
        About::Sockets => ("\nfiles\n", "sockets\n"),
        About::Start => ("\nstart\n", "arguments\n"),
    };
    let (head, rest) = block.split_once(kind)?;
    let (first, second) = rest.split_once(marker).unwrap_or((rest, ""));
    let (stat, cgroup) = head.split_once('\n').unwrap_or((head, ""));
    let (pid, name, parent) = stat_fields(stat)?;
    let is_asked = name == question.process || question.main_pid == Some(pid);
    if !is_asked || !cgroup::is_inside(cgroup, own, id) {
        return None;
    }
    let (listens, started) = match question.about {
        About::Sockets => (listens(first, second), None),
        About::Start => (None, Some(start(first, second))),
    };
    Some(DaemonProcess {
        pid,
        parent,
        name: name.to_owned(),
        unit: cgroup::unit(cgroup, id),
        listens,
        start: started,
    })
}

/// Reads the links of a process's open files, and the sockets that listen in its network.
fn listens(files: &str, sockets: &str) -> Option<Vec<ListeningSocket>> {
    let inodes: Vec<u64> = files.lines().filter_map(socket_inode).collect();
    // The link of each open file of a process is there to be read, or none is.
    let is_visible = files.lines().any(|line| line.contains(" -> "));
    let listening = listening(sockets);
    let listens = inodes.iter().filter_map(|inode| listening.get(inode));
    is_visible.then(|| listens.cloned().collect())
}

fn start(executable_and_environment: &str, arguments: &str) -> DaemonStart {
    let (executable, environment) = executable_and_environment
        .split_once('\n')
        .unwrap_or((executable_and_environment, ""));
    DaemonStart {
        executable: executable.to_owned(),
        arguments: arguments.lines().map(str::to_owned).collect(),
        path: variable(environment.lines(), "PATH"),
        slurm_conf: variable(environment.lines(), "SLURM_CONF"),
    }
}

/// Returns the value of a variable of an environment (environ(7)); empty if it is not set.
pub(super) fn variable<'a>(mut environment: impl Iterator<Item = &'a str>, name: &str) -> String {
    let value = |line: &'a str| line.strip_prefix(name)?.strip_prefix('=');
    environment.find_map(value).unwrap_or_default().to_owned()
}

/// Returns the number, the name and the parent's number of a line of `stat`; none of a process that has ended,
/// and whose parent has not noticed. The name may contain anything, so it ends with the last parenthesis.
pub(super) fn stat_fields(stat: &str) -> Option<(u32, &str, u32)> {
    let (pid, rest) = stat.split_once(" (")?;
    let (name, rest) = rest.rsplit_once(") ")?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next().filter(|state| !["Z", "X"].contains(state));
    let parent = state.and(fields.next())?;
    Some((pid.trim().parse().ok()?, name, parent.parse().ok()?))
}

/// Returns the number of the socket that a line is about, which ends in `socket:[NUMBER]`.
pub(super) fn socket_inode(line: &str) -> Option<u64> {
    let (_, number) = line.rsplit_once("socket:[")?;
    number.strip_suffix(']')?.parse().ok()
}

/// Reads the lines of sockets that listen, of `/proc/net/tcp`, `tcp6` and `unix` (proc(5)).
pub(super) fn listening(lines: &str) -> HashMap<u64, ListeningSocket> {
    let socket = |line: &str| tcp_socket(line).or_else(|| unix_socket(line));
    lines.lines().filter_map(socket).collect()
}

fn tcp_socket(line: &str) -> Option<(u64, ListeningSocket)> {
    const LISTEN: &str = "0A";
    let mut words = line.split_ascii_whitespace();
    words.next()?.strip_suffix(':')?.parse::<u32>().ok()?;
    let local = words.next()?;
    let state = words.nth(1)?;
    let inode = words.nth(5)?.parse().ok()?;
    (state == LISTEN).then_some((inode, ListeningSocket::Tcp(address(local)?)))
}

/// Reads an address: its words in the machine's own order, and the port.
fn address(text: &str) -> Option<SocketAddr> {
    let (host, port) = text.split_once(':')?;
    let word = |at: usize| u32::from_str_radix(host.get(at * 8..at * 8 + 8)?, 16).ok();
    let host = match host.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?.to_ne_bytes())),
        32 => {
            let mut bytes = [0; 16];
            for (at, chunk) in bytes.chunks_exact_mut(4).enumerate() {
                chunk.copy_from_slice(&word(at)?.to_ne_bytes());
            }
            IpAddr::V6(Ipv6Addr::from(bytes))
        }
        _ => return None,
    };
    let port = u16::from_str_radix(port, 16).ok()?;
    Some(SocketAddr::new(host, port))
}

fn unix_socket(line: &str) -> Option<(u64, ListeningSocket)> {
    /// `__SO_ACCEPTCON`.
    const LISTENS: &str = "00010000";
    let (_, rest) = line.split_once(": ")?;
    let mut words = rest.split_ascii_whitespace();
    let flags = words.nth(2)?;
    let inode = words.nth(2)?.parse().ok()?;
    let path = words.collect::<Vec<_>>().join(" ");
    (flags == LISTENS).then_some((inode, ListeningSocket::Unix(path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUESTION: DaemonQuestion = DaemonQuestion {
        process: "slurmd",
        main_pid: Some(51),
        about: About::Sockets,
    };

    fn id() -> ContainerId {
        ContainerId("ab".repeat(32))
    }

    fn tcp(address: &str) -> ListeningSocket {
        ListeningSocket::Tcp(address.parse().unwrap())
    }

    /// What the script prints of one process.
    fn block(stat: &str, cgroup: &str, files: &str, sockets: &str) -> String {
        format!("process {stat}\n{cgroup}\nfiles\n{files}\nsockets\n{sockets}\n")
    }

    const TCP: &str = "   2: 00000000:1AA2 00000000:0000 0A 00000000:00000000 00:00000000 00000000 64030        0 52171 1 000000004c99d152 100 0 0 10 0";
    const LINK: &str = "lrwx------ 1 root root 64 Nov 26 06:51 4 -> socket:[52171]";

    #[test]
    fn a_process_listens_on_what_its_own_links_lead_to() {
        let inside = format!("0::/docker/{}/system.slice/slurmd.service", id().0);
        let own = format!("own\n0::/docker/{}\n", id().0);
        let printed = own.clone()
            + &block("51 (slurmd) S 1 51", &inside, LINK, TCP)
            + &block("60 (slurmd) S 51 51", &inside, "lrwx 0 -> /dev/null", TCP)
            + &block(
                "61 (slurmd) S 1 61",
                &inside,
                "l--------- 1 slurm slurm 64 Nov 26 06:51 0",
                TCP,
            )
            + &block("62 (slurmd) S 1 62", "0::/docker/other", LINK, TCP)
            + &block("63 (slurmstepd) S 51 51", &inside, LINK, TCP);
        let found = parse(&printed, &QUESTION, &id());
        let process = |pid, parent, listens| DaemonProcess {
            pid,
            parent,
            name: "slurmd".to_owned(),
            unit: Some("slurmd.service".to_owned()),
            listens,
            start: None,
        };
        assert_eq!(
            found,
            [
                process(51, 1, Some(vec![tcp("0.0.0.0:6818")])),
                process(60, 51, Some(vec![])),
                process(61, 1, None),
            ]
        );
    }

    #[test]
    fn how_a_process_was_started_is_read() {
        let question = DaemonQuestion {
            about: About::Start,
            ..QUESTION
        };
        let printed = "own\n0::/\nprocess 51 (slurmd) S 1 51\n0::/a\nstart\n/opt/sbin/slurmd\n\
                       PATH=/a:/b\nSLURM_CONF=/c=d\narguments\n/opt/sbin/slurmd\n-N\nw 1\n\n";
        let found = parse(printed, &question, &id());
        let start = found[0].start.clone().unwrap();
        let arguments = ["/opt/sbin/slurmd", "-N", "w 1", ""].map(str::to_owned);
        assert_eq!(
            start,
            DaemonStart {
                executable: "/opt/sbin/slurmd".to_owned(),
                arguments: arguments.into(),
                path: "/a:/b".to_owned(),
                slurm_conf: "/c=d".to_owned(),
            }
        );
        let unseen = "own\n0::/\nprocess 51 (slurmd) S 1 51\n0::/a\nstart\n\narguments\nslurmd\n";
        let found = parse(unseen, &question, &id());
        assert_eq!(found[0].start.as_ref().unwrap().executable, "");
    }

    #[test]
    fn the_main_process_is_found_whatever_its_name_is() {
        let printed = "own\n0::/\n".to_owned() + &block("51 (a) b) S 1 51", "0::/a", LINK, TCP);
        let found = parse(&printed, &QUESTION, &id());
        assert_eq!(found.len(), 1);
        assert_eq!(stat_fields("51 (a) b) S 1 51"), Some((51, "a) b", 1)));
        assert_eq!(stat_fields("51 (a) b) Z 1 51"), None);
    }

    #[test]
    fn sockets_are_read_as_the_kernel_prints_them() {
        let lines = format!(
            "{TCP}\n   0: 0100007F:0016 00000000:0000 01 00000000:00000000 00:00000000 00000000     0        0 7 1 0 100 0 0 10 0\n\
             0: 00000000000000000000000001000000:1AA1 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 50803 1 0 100 0 0 10 0\n\
             0000000043f68640: 00000002 00000000 00010000 0001 01 50579 /run/a b\n\
             0000000043f68640: 00000002 00000000 00000000 0001 03 50580 /run/c\n"
        );
        let read = listening(&lines);
        assert_eq!(read.len(), 3, "{read:?}");
        assert_eq!(read[&52171], tcp("0.0.0.0:6818"));
        assert_eq!(read[&50803], tcp("[::1]:6817"));
        assert_eq!(read[&50579], ListeningSocket::Unix("/run/a b".to_owned()));
    }

    proptest::proptest! {
        #[test]
        fn nothing_that_a_node_prints_panics(text in "(own\n|process |files\n|sockets\n|51 |\\(slurmd\\)|socket:\\[7\\]|0A|:|\\PC|\n){0,60}") {
            parse(&text, &QUESTION, &id());
            parse(&text, &DaemonQuestion { about: About::Start, ..QUESTION }, &id());
            listening(&text);
        }
    }
}
