//! Which container a process belongs to, by its cgroups (cgroups(7)).

use crate::{
    container::ContainerId,
    text::{clean, truncate},
};

/// Whether a /proc/PID/cgroup names the container. The container's full id is a part of a path,
/// alone or as engines on systemd write it (`docker-ID.scope`).
pub(super) fn names(cgroup: &str, id: &ContainerId) -> bool {
    id.0.len() >= 64
        && cgroup
            .lines()
            .any(|line| line.split('/').skip(1).any(|part| is_of(part, id)))
}

fn is_of(part: &str, id: &ContainerId) -> bool {
    let part = part.strip_suffix(".scope").unwrap_or(part);
    let (_, last) = part.rsplit_once('-').unwrap_or(("", part));
    last == id.0
}

/// The unit in whose cgroup a process of the container runs, if the container's own systemd has put it into
/// one.
pub(super) fn unit(cgroup: &str, id: &ContainerId) -> Option<String> {
    let is_named = names(cgroup, id);
    let of_line = |line: &str| {
        let parts = || line.split('/').skip(1);
        // What comes before the container's id is its engine's. A cgroup namespace hides both.
        let engines = if is_named {
            parts().position(|part| is_of(part, id))? + 1
        } else {
            0
        };
        let own: Vec<_> = parts().skip(engines).collect();
        let is_unit = |part: &&&str| {
            let name = part.strip_suffix(".service");
            **part != "init.scope" && name.or(part.strip_suffix(".scope")).is_some()
        };
        own.iter()
            .rev()
            .find(is_unit)
            .map(|unit| clean(unit, false))
    };
    let mut unit = cgroup.lines().find_map(of_line)?;
    truncate(&mut unit, 100);
    Some(unit)
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

    #[test]
    fn a_unit_is_named_by_what_lies_below_the_container() {
        let id = ContainerId("ab".repeat(32));
        let of = |path: &str| unit(&format!("3:pids:/\n0::{path}\n"), &id);
        let engines = format!("/system.slice/docker.service/docker/{}", id.0);
        let snap = Some("snap.slurm.slurmd.service".to_owned());
        assert_eq!(
            of(&format!("{engines}/system.slice/snap.slurm.slurmd.service")),
            snap
        );
        assert_eq!(of("/system.slice/snap.slurm.slurmd.service/child"), snap);
        for none in [
            engines.clone(),
            format!("{engines}/init.scope"),
            format!("/system.slice/docker-{}.scope", id.0),
            "/".to_owned(),
            "/init.scope".to_owned(),
        ] {
            assert_eq!(of(&none), None, "{none}");
        }
    }
}
