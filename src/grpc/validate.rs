//! Converts requests to the monitor's types, and reports all violations at once.

use std::{collections::HashMap, time::Duration};

use super::{
    convert,
    page_token::PageTokens,
    status::{Violations, quoted},
};
use crate::{
    cluster::{NodeSelector, Position},
    monitor::{CHECK_LIMIT, ClusterTarget, FailurePolicy, WaitRequest, WaitTarget},
    node::{NodeName, Part, Profile, Role},
    pb,
    probe::{Level, Probe},
};

/// How many nodes one wait may have at most.
const NODES: usize = 1000;
/// How many roles of a request are looked at.
const ROLES: usize = 100;
/// How many nodes a page has, and how many at most.
const PAGE: (usize, usize) = (100, 1000);
/// The shortest and the longest time between heartbeats.
const HEARTBEATS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(3600));
/// How many characters a realm or a cluster may have at most.
const LABEL_CHARS: usize = 128;
/// How many probes of a request are looked at, known or not.
const PROBES: usize = 1000;
/// The longest duration that a request may contain.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);
/// The longest time that a check may take. A longer time limit is cut to this.
const LONGEST_CHECK: Duration = Duration::from_secs(60);
/// The shortest and the longest poll interval.
const POLL_INTERVALS: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(60));

/// A valid check.
#[derive(Debug)]
pub(super) struct Check {
    pub(super) node: NodeName,
    pub(super) probe: Probe,
    pub(super) part: Part,
    pub(super) limit: Duration,
}

/// A valid wait, for nodes or for a cluster.
#[derive(Debug)]
pub(super) struct ValidWait {
    pub(super) wait: WaitRequest,
    /// When a heartbeat is due.
    pub(super) heartbeat: Option<Duration>,
}

/// A valid request for a list.
#[derive(Debug)]
pub(super) struct List {
    pub(super) selector: NodeSelector,
    pub(super) is_full: bool,
    pub(super) size: usize,
    pub(super) behind: Option<Position>,
}

/// A valid request for a watch.
#[derive(Debug)]
pub(super) struct WatchOf {
    pub(super) selector: NodeSelector,
    pub(super) heartbeat: Option<Duration>,
    pub(super) level: Level,
}

/// Validates a watch.
pub(super) fn watch(request: &pb::WatchNodesRequest) -> Result<WatchOf, Violations> {
    let mut checks = Checks::default();
    let selector = NodeSelector {
        realm: checks.filter("realm", &request.realm),
        cluster: checks.filter("cluster", &request.cluster),
        roles: checks.roles(&request.roles),
    };
    let heartbeat = checks.heartbeat(request.heartbeat_interval.as_ref());
    let level = checks.level(request.level, false);
    if level == pb::Level::Jobs {
        checks.violation(
            "level",
            "a watch runs no jobs: it is 1 (booted) to 4 (registered)",
        );
    }
    if !checks.passed() {
        return Err(checks.violations);
    }
    Ok(WatchOf {
        selector,
        heartbeat,
        level: convert::level_of(level),
    })
}

/// Validates a list. The tokens are the server's.
pub(super) fn list(
    request: &pb::ListNodesRequest,
    tokens: &PageTokens,
) -> Result<List, Violations> {
    let mut checks = Checks::default();
    let realm = checks.filter("realm", &request.realm);
    let cluster = checks.filter("cluster", &request.cluster);
    let roles = checks.roles(&request.roles);
    let view = pb::NodeView::try_from(request.view);
    if view.is_err() {
        let bad = format!(
            "{} is not a view: they are 0 (unset), 1 (basic) and 2 (full)",
            request.view
        );
        checks.violation("view", bad);
    }
    if request.page_size < 0 {
        let bad = format!(
            "{} is negative: it is 1 to {}, or 0 for {}",
            request.page_size, PAGE.1, PAGE.0
        );
        checks.violation("page_size", bad);
    }
    let size = match usize::try_from(request.page_size) {
        Ok(0) | Err(_) => PAGE.0,
        Ok(size) => size.min(PAGE.1),
    };
    let selector = NodeSelector {
        realm,
        cluster,
        roles,
    };
    let mut behind = None;
    if !request.page_token.is_empty() && checks.passed() {
        behind = tokens.read(&request.page_token, &selector);
        if behind.is_none() {
            let bad = format!(
                "{} is not a token that this server gave for the same realm, cluster and roles",
                quoted(&request.page_token)
            );
            checks.violation("page_token", bad);
        }
    }
    if !checks.passed() {
        return Err(checks.violations);
    }
    Ok(List {
        selector,
        is_full: view == Ok(pb::NodeView::Full),
        size,
        behind,
    })
}

pub(super) fn snapshot(request: &pb::SnapshotRequest) -> Result<(NodeName, Part), Violations> {
    let mut checks = Checks::default();
    let node = checks.node("node", &request.node);
    let role = checks.role("role", request.role);
    let profile = checks.profile("profile", request.profile);
    match node {
        Some(node) if checks.passed() => Ok((node, Part { role, profile })),
        _ => Err(checks.violations),
    }
}

pub(super) fn check(request: &pb::CheckRequest, own: &[Probe]) -> Result<Check, Violations> {
    let mut checks = Checks {
        own,
        ..Checks::default()
    };
    let node = checks.node("node", &request.node);
    let probe = checks.probe("probe", &request.probe);
    let limit = checks.duration("timeout", request.timeout.as_ref());
    let role = checks.role("role", request.role);
    let profile = checks.profile("profile", request.profile);
    match (node, probe) {
        (Some(node), Some(probe)) if checks.passed() => Ok(Check {
            node,
            probe,
            part: Part { role, profile },
            limit: limit.unwrap_or(CHECK_LIMIT).min(LONGEST_CHECK),
        }),
        _ => Err(checks.violations),
    }
}

/// Validates a wait. The server and the caller's deadline set the limit `longest`, and the
/// request's timeout can only shorten it.
pub(super) fn wait(
    request: &pb::WaitReadyRequest,
    longest: Duration,
    own: &[Probe],
) -> Result<ValidWait, Violations> {
    let mut checks = Checks {
        own,
        ..Checks::default()
    };
    let nodes = checks.targets(&request.nodes);
    match (&request.cluster, request.nodes.is_empty()) {
        (None, true) => checks.violation("nodes", "no node is named: set nodes or cluster"),
        (Some(_), false) => {
            checks.violation("cluster", "nodes are named as well: set nodes or cluster");
        }
        _ => {}
    }
    if let Some(cluster) = &request.cluster {
        checks.label("cluster.realm", &cluster.realm);
        checks.label("cluster.cluster", &cluster.cluster);
    }
    let probes = checks.probes(&request.probes);
    let timeout = checks.duration("timeout", request.timeout.as_ref());
    let limit = timeout.unwrap_or(longest).min(longest);
    let poll_interval = checks.duration("poll_interval", request.poll_interval.as_ref());
    if let Some(interval) = poll_interval
        && !(POLL_INTERVALS.0..=POLL_INTERVALS.1).contains(&interval)
    {
        checks.violation(
            "poll_interval",
            format!("{interval:?} is not between 10ms and 60s"),
        );
    }
    let stable_for = checks.duration("stable_for", request.stable_for.as_ref());
    if let Some(stable_for) = stable_for
        && stable_for >= limit
    {
        checks.violation(
            "stable_for",
            format!(
                "{stable_for:?} is not below the wait's limit of {limit:?} (the smallest of \
                 timeout, the caller's deadline and the server's longest wait)"
            ),
        );
    }
    let failure_policy = checks.failure_policy(request.failure_policy);
    let level = checks.level(request.level, !request.probes.is_empty());
    let heartbeat = checks.heartbeat(request.heartbeat_interval.as_ref());
    if !checks.passed() {
        return Err(checks.violations);
    }
    let cluster = request.cluster.as_ref().map(|cluster| ClusterTarget {
        realm: cluster.realm.clone(),
        cluster: cluster.cluster.clone(),
        min_nodes: cluster.min_nodes,
    });
    let wait = WaitRequest {
        nodes,
        cluster,
        probes,
        limit: Some(limit),
        poll_interval: poll_interval.unwrap_or_default(),
        stable_for: stable_for.unwrap_or_default(),
        failure_policy,
        level: convert::level_of(level),
    };
    Ok(ValidWait { wait, heartbeat })
}

/// Collects violations.
#[derive(Default)]
struct Checks<'a> {
    violations: Violations,
    /// The operator's own probes.
    own: &'a [Probe],
}

impl Checks<'_> {
    fn passed(&self) -> bool {
        self.violations.is_empty()
    }

    fn violation(&mut self, field: impl Into<String>, description: impl Into<String>) {
        self.violations.add(field, description);
    }

    fn node(&mut self, field: &str, name: &str) -> Option<NodeName> {
        if name.is_empty() {
            self.violation(field, "a container's name or id is required");
            return None;
        }
        let node = name.parse().ok();
        if node.is_none() {
            self.violation(
                field,
                format!(
                    "{} is no container name ([A-Za-z0-9][A-Za-z0-9_.-]{{0,254}})",
                    quoted(name)
                ),
            );
        }
        node
    }

    fn role(&mut self, field: &str, number: i32) -> Option<Role> {
        let Ok(role) = pb::Role::try_from(number) else {
            self.violation(
                field,
                format!("{number} is not a role: they are 0 (unset) to 5"),
            );
            return None;
        };
        convert::role_of(role)
    }

    fn profile(&mut self, field: &str, number: i32) -> Option<Profile> {
        let Ok(profile) = pb::Profile::try_from(number) else {
            let bad = format!(
                "{number} is not a profile: they are 0 (unset), 1 (systemd) and 2 (process)"
            );
            self.violation(field, bad);
            return None;
        };
        convert::profile_of(profile)
    }

    fn failure_policy(&mut self, number: i32) -> FailurePolicy {
        match pb::FailurePolicy::try_from(number) {
            Ok(pb::FailurePolicy::KeepWaiting) => FailurePolicy::KeepWaiting,
            Ok(pb::FailurePolicy::Stop | pb::FailurePolicy::Unspecified) => FailurePolicy::Stop,
            Err(_) => {
                self.violation(
                    "failure_policy",
                    format!("{number} is not a policy: they are 0 (unset), 1 (stop) and 2 (keep waiting)"),
                );
                FailurePolicy::Stop
            }
        }
    }

    fn probe(&mut self, field: &str, name: &str) -> Option<Probe> {
        let own = || self.own.iter().find(|probe| probe.name() == name).cloned();
        let probe = Probe::named(name).or_else(own);
        if probe.is_none() {
            let own = self.own.iter().map(|probe| probe.name().to_owned());
            let builtin = Probe::names().map(str::to_owned);
            let known = builtin.chain(own).collect::<Vec<_>>().join(", ");
            self.violation(
                field,
                format!("{} is not a probe: they are {known}", quoted(name)),
            );
        }
        probe
    }

    fn probes(&mut self, names: &[String]) -> Vec<Probe> {
        // Each of a few is told what is wrong with it; of very many, most are.
        if names.len() > PROBES {
            let known = Probe::names().count() + self.own.len();
            let many = format!("{} are too many: there are {known} probes", names.len());
            self.violation("probes", many);
            return Vec::new();
        }
        let mut probes: Vec<Probe> = Vec::new();
        for (index, name) in names.iter().enumerate() {
            let field = format!("probes[{index}]");
            if probes.iter().any(|probe| probe.name() == name) {
                self.violation(field, format!("{} is named twice", quoted(name)));
            } else {
                probes.extend(self.probe(&field, name));
            }
        }
        probes
    }

    fn targets(&mut self, targets: &[pb::NodeTarget]) -> Vec<WaitTarget> {
        if targets.len() > NODES {
            self.violation(
                "nodes",
                format!("{} are too many: at most {NODES}", targets.len()),
            );
            return Vec::new();
        }
        let mut nodes: Vec<WaitTarget> = Vec::new();
        let mut places = HashMap::new();
        for (index, target) in targets.iter().enumerate() {
            let node = self.node(&format!("nodes[{index}].node"), &target.node);
            let role = self.role(&format!("nodes[{index}].role"), target.role);
            let profile = self.profile(&format!("nodes[{index}].profile"), target.profile);
            let Some(node) = node else { continue };
            let Some(&(first, first_role, first_profile)) = places.get(&node) else {
                places.insert(node.clone(), (index, target.role, target.profile));
                nodes.push(WaitTarget {
                    node,
                    role,
                    profile,
                });
                continue;
            };
            for (what, differs) in [
                ("role", first_role != target.role),
                ("profile", first_profile != target.profile),
            ] {
                if differs {
                    let name = quoted(node.as_str());
                    let bad = format!("{name} has another {what} in nodes[{first}]");
                    self.violation(format!("nodes[{index}].{what}"), bad);
                }
            }
        }
        nodes
    }

    /// A realm or a cluster that has to be said.
    fn label(&mut self, field: &str, value: &str) {
        if value.is_empty() {
            self.violation(field, "it is required");
        }
        self.filter(field, value);
    }

    /// A realm or a cluster that need not be said.
    fn filter(&mut self, field: &str, value: &str) -> Option<String> {
        if value.chars().count() > LABEL_CHARS
            || value.contains(|c: char| c.is_control() || c == '/')
        {
            let bad = format!(
                "{} is no realm or cluster (1 to {LABEL_CHARS} characters, no control characters, no /)",
                quoted(value)
            );
            self.violation(field, bad);
        }
        (!value.is_empty()).then(|| value.to_owned())
    }

    fn roles(&mut self, numbers: &[i32]) -> Vec<Role> {
        let mut roles = Vec::new();
        for (index, number) in numbers.iter().enumerate().take(ROLES + 1) {
            let field = format!("roles[{index}]");
            if index == ROLES {
                let many = format!("{} are too many: there are five roles", numbers.len());
                self.violation("roles", many);
            } else if *number == 0 {
                self.violation(
                    field,
                    "0 is not a role: they are 1 to 5, and no entry means any",
                );
            } else if let Some(role) = self.role(&field, *number)
                && !roles.contains(&role)
            {
                roles.push(role);
            }
        }
        roles.sort_unstable_by_key(|role| convert::role_number(Some(*role)));
        roles
    }

    fn heartbeat(&mut self, interval: Option<&prost_types::Duration>) -> Option<Duration> {
        let heartbeat = self.duration("heartbeat_interval", interval);
        if let Some(interval) = heartbeat
            && !(HEARTBEATS.0..=HEARTBEATS.1).contains(&interval)
        {
            let bad = format!("{interval:?} is not between 1s and 1h");
            self.violation("heartbeat_interval", bad);
        }
        heartbeat
    }

    fn level(&mut self, number: i32, names_probes: bool) -> pb::Level {
        let level = pb::Level::try_from(number);
        if level.is_err() {
            let bad = format!(
                "{number} is not a level: they are 0 (unset), 1 (booted), 2 (services), 3 (rpc), \
                 4 (registered) and 5 (jobs)"
            );
            self.violation("level", bad);
        } else if number != 0 && names_probes {
            self.violation("level", "probes are named as well: set probes or level");
        }
        level.unwrap_or_default()
    }

    /// Validates a duration. Unset and zero both mean the default, which is `None` here.
    fn duration(
        &mut self,
        field: &str,
        duration: Option<&prost_types::Duration>,
    ) -> Option<Duration> {
        let duration = duration?;
        let (seconds, nanos) = (duration.seconds, duration.nanos);
        let written = format!("{seconds}s and {nanos}ns");
        // duration.proto requires nanos within a second and of the same sign as seconds.
        if !(-999_999_999..=999_999_999).contains(&nanos)
            || (seconds > 0 && nanos < 0)
            || (seconds < 0 && nanos > 0)
        {
            self.violation(
                field,
                format!(
                    "{written} is malformed: nanos are below a second, and of the sign of seconds"
                ),
            );
            return None;
        }
        let (Ok(seconds), Ok(nanos)) = (u64::try_from(seconds), u32::try_from(nanos)) else {
            self.violation(field, format!("{written} is negative"));
            return None;
        };
        let duration = Duration::new(seconds, nanos);
        if duration > LONGEST {
            self.violation(field, format!("{written} is longer than 24h"));
            return None;
        }
        (!duration.is_zero()).then_some(duration)
    }
}

#[cfg(test)]
mod tests;
