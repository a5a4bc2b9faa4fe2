//! Which container a process belongs to, by its cgroups (cgroups(7)).

use crate::container::ContainerId;

/// Whether a /proc/PID/cgroup names the container. The container's full id is a part of a path,
/// alone or as engines on systemd write it (`docker-ID.scope`).
pub(super) fn names(cgroup: &str, id: &ContainerId) -> bool {
    let part = |part: &str| {
        let part = part.strip_suffix(".scope").unwrap_or(part);
        let (_, last) = part.rsplit_once('-').unwrap_or(("", part));
        last == id.0
    };
    id.0.len() >= 64 && cgroup.lines().any(|line| line.split('/').skip(1).any(part))
}

/// Whether a process belongs to the container, as another process inside of it sees the cgroups of both.
///
/// With a cgroup namespace of its own, the container's cgroup is the root there, and the path of a
/// process elsewhere starts with `/..`.
pub(super) fn is_inside(cgroup: &str, own: &str, id: &ContainerId) -> bool {
    if names(own, id) {
        return names(cgroup, id);
    }
    let path = |line: &str| line.splitn(3, ':').nth(2).map(str::to_owned);
    let mut paths = cgroup.lines().filter_map(path).peekable();
    paths.peek().is_some() && paths.all(|path| path != "/.." && !path.starts_with("/../"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroup_names_its_container_and_no_other() {
        let id = ContainerId("ab".repeat(32));
        let other = "cd".repeat(32);
        for line in [
            format!("12:pids:/docker/{id0}\n", id0 = id.0),
            format!("1:name=systemd:/docker/{id0}/init.scope\n", id0 = id.0),
            format!(
                "0::/system.slice/docker-{id0}.scope/init.scope\n",
                id0 = id.0
            ),
            format!("0::/../../libpod-{id0}.scope\n", id0 = id.0),
        ] {
            assert!(names(&line, &id), "{line}");
        }
        for line in [
            String::new(),
            "0::/\n".to_owned(),
            format!("0::/docker/{other}\n"),
            format!("0::/docker/{other}{id0}\n", id0 = id.0),
            format!("{id0}:x:/\n", id0 = id.0),
        ] {
            assert!(!names(&line, &id), "{line}");
        }
        assert!(!names("0::/\n0::/a/", &ContainerId(String::new())));
    }

    #[test]
    fn inside_of_a_container_its_own_processes_are_told_from_others() {
        let id = ContainerId("ab".repeat(32));
        let own = format!("0::/docker/{}\n", id.0);
        assert!(is_inside(
            &format!("0::/docker/{}/system.slice/a.service\n", id.0),
            &own,
            &id
        ));
        assert!(!is_inside("0::/system.slice/a.service\n", &own, &id));
        // A cgroup namespace hides the container's id.
        assert!(is_inside("0::/system.slice/a.service\n", "0::/\n", &id));
        assert!(!is_inside(
            "0::/../../system.slice/a.service\n",
            "0::/\n",
            &id
        ));
        assert!(!is_inside("1:name=systemd:/a\n0::/../b\n", "0::/\n", &id));
        assert!(!is_inside("", "0::/\n", &id));
    }
}
