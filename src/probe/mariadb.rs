//! The probe `mariadb`: the database of slurmdbd is up on this node, or it is another machine's.

use super::{Ask, Finding, Outcome};
use crate::{
    question::{Answer, CommandQuestion, Question},
    reason::ReasonCode,
    slurm_conf::{find_slurm_conf, setting},
};

/// Prints the host's name, its addresses, the setting `StorageHost`, and the addresses of that host, each
/// with a word before it. slurmdbd.conf is beside slurm.conf.
pub(super) const ASK: Ask = Ask {
    question: Question::Command(CommandQuestion {
        argv: &[
            "sh",
            "-c",
            concat!(
                find_slurm_conf!(),
                r#"read -r host </proc/sys/kernel/hostname
echo "own $host"
for address in $(hostname -I 2>/dev/null); do echo "own $address"; done
for file in "${conf%/*}/slurmdbd.conf" /etc/slurm/slurmdbd.conf; do
  [ -r "$file" ] && break
done
lines=$(grep -i 'storagehost' "$file" 2>/dev/null | grep -v '^[[:space:]]*#')
echo "$lines"
storage=${lines##*=}
storage=${storage%%[[:space:]#]*}
[ -z "$storage" ] || timeout 3 getent ahosts "${storage#\"}" | while read -r address _; do
  echo "storage $address"
done
exit 0"#
            ),
        ],
        arguments: Vec::new(),
        name: "StorageHost of slurmdbd.conf",
    }),
    as_daemon: None,
    judge,
    shortcut: None,
};

/// Judges where the database is. Without a setting it is on this node (slurmdbd.conf(5), `StorageHost`).
fn judge(answer: &Answer) -> Finding {
    let here = |why: &str| Finding::failed(ReasonCode::UnitInactive, why);
    let Answer::Command { stdout, .. } = answer else {
        return here("slurmdbd.conf could not be read");
    };
    let Some(storage) = setting(stdout, "StorageHost") else {
        return here("slurmdbd.conf names no other StorageHost");
    };
    let words = |prefix: &'static str| {
        stdout
            .lines()
            .filter_map(move |line| line.strip_prefix(prefix))
    };
    let is_own = |name: &str| {
        words("own ").any(|own| {
            let short = |name: &str| name.split('.').next().unwrap_or_default().to_owned();
            let is_name = own.parse::<std::net::IpAddr>().is_err();
            own.eq_ignore_ascii_case(name) || (is_name && short(own).eq_ignore_ascii_case(name))
        })
    };
    let is_loopback = |name: &str| {
        let address = name.parse::<std::net::IpAddr>();
        name.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
    };
    let mut names = std::iter::once(storage).chain(words("storage "));
    if names.any(|name| is_own(name) || is_loopback(name)) {
        return here("slurmdbd.conf names this node as StorageHost");
    }
    Outcome::passed_with(format!(
        "slurmdbd.conf says StorageHost={storage:.200}: the database is not on this node"
    ))
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_on_another_machine_is_not_this_nodes() {
        let passes = |lines: &str| {
            let stdout = format!("own db-0.hpc\nown 10.0.0.2\n{lines}");
            let judged = judge(&Answer::Command {
                stdout,
                stderr: String::new(),
                code: 0,
            });
            judged.has_passed()
        };
        for here in [
            "",
            "StorageHost=localhost\n",
            "StorageHost=127.0.0.1\n",
            "StorageHost=DB-0\n",
            "StorageHost=db-0.hpc\n",
            "StorageHost=10.0.0.2\n",
            "StorageHost=alias\nstorage 10.0.0.2\n",
            "StorageHost=alias\nstorage ::1\n",
            "StoragePort=3306\n",
        ] {
            assert!(!passes(here), "{here}");
        }
        for elsewhere in [
            "StorageHost=db-1\n",
            "storagehost = \"10.0.0.3\" # here\n",
            "StorageHost=db-1\nstorage 10.0.0.3\n",
            "StorageHost=10\n",
        ] {
            assert!(passes(elsewhere), "{elsewhere}");
        }
    }
}
