//! What is refused, and in which words.

use super::*;

fn target(node: &str, role: pb::Role) -> pb::NodeTarget {
    pb::NodeTarget {
        node: node.to_owned(),
        role: role.into(),
        profile: 0,
    }
}

fn duration(seconds: i64, nanos: i32) -> prost_types::Duration {
    prost_types::Duration { seconds, nanos }
}

const LONGEST_WAIT: Duration = Duration::from_secs(600);

fn wait_for(request: &pb::WaitReadyRequest) -> Result<WaitRequest, Violations> {
    wait(request, LONGEST_WAIT, &[]).map(|valid| valid.wait)
}

#[test]
fn all_violations_are_told_at_once() {
    let bad = pb::WaitReadyRequest {
        nodes: vec![
            target("a/b", pb::Role::Worker),
            pb::NodeTarget {
                node: "n".into(),
                role: 9,
                profile: 0,
            },
        ],
        probes: vec!["sshd".into(), "nope".into(), "sshd".into()],
        timeout: Some(duration(-1, 0)),
        poll_interval: Some(duration(0, 9_999_999)),
        stable_for: Some(duration(600, 0)),
        failure_policy: 3,
        cluster: Some(pb::ClusterSelector::default()),
        level: 6,
        heartbeat_interval: Some(duration(0, 999_999_999)),
    };
    assert_eq!(
        wait(&bad, LONGEST_WAIT, &[]).unwrap_err().fields(),
        [
            "nodes[0].node",
            "nodes[1].role",
            "cluster",
            "cluster.realm",
            "cluster.cluster",
            "probes[1]",
            "probes[2]",
            "timeout",
            "poll_interval",
            "stable_for",
            "failure_policy",
            "level",
            "heartbeat_interval"
        ]
    );
}

#[test]
fn an_unknown_probe_is_told_the_known_ones() {
    let request = pb::CheckRequest {
        node: "n".into(),
        probe: "x".repeat(100),
        ..Default::default()
    };
    let violations = check(&request, &[]).unwrap_err();
    let [told] = violations.descriptions()[..] else {
        panic!("{violations:?}");
    };
    let quoted = format!("\"{}…\" is not a probe", "x".repeat(64));
    assert!(told.starts_with(&quoted), "{told}");
    assert!(told.ends_with("slurmrestd, registered"), "{told}");
}

#[test]
fn of_very_many_probes_their_number_is_told() {
    let request = pb::WaitReadyRequest {
        nodes: vec![target("n", pb::Role::Unspecified)],
        probes: vec![String::new(); 2_000_000],
        ..Default::default()
    };
    let violations = wait_for(&request).unwrap_err();
    let told = format!(
        "2000000 are too many: there are {} probes",
        Probe::names().count()
    );
    assert_eq!(violations.fields(), ["probes"]);
    assert_eq!(violations.descriptions(), [told]);
}

#[test]
fn twenty_unknown_probes_are_told_or_counted() {
    let request = pb::WaitReadyRequest {
        nodes: vec![target("n", pb::Role::Unspecified)],
        probes: (0..20).map(|n| format!("frobnicate-{n}")).collect(),
        ..Default::default()
    };
    let violations = wait_for(&request).unwrap_err();
    assert_eq!(violations.fields()[15], "probes[15]");
    assert_eq!(violations.fields().len(), 16);
}

#[test]
fn a_label_is_short_clean_and_without_a_slash() {
    let fields = |cluster: &str| {
        let request = pb::WaitReadyRequest {
            cluster: Some(pb::ClusterSelector {
                realm: "r".into(),
                cluster: cluster.into(),
                min_nodes: 0,
            }),
            ..Default::default()
        };
        let checked = wait(&request, LONGEST_WAIT, &[]);
        checked.map_or_else(|bad| bad.fields().join(" "), |_| String::new())
    };
    for good in ["a", "ä b", &"x".repeat(128)] {
        assert_eq!(fields(good), "", "{good}");
    }
    for bad in ["", "a/b", "a\nb", &"x".repeat(129)] {
        assert_eq!(fields(bad), "cluster.cluster", "{bad}");
    }
}

#[test]
fn durations_are_checked_as_their_proto_says() {
    let timeout = |seconds, nanos| {
        let nodes = vec![target("n", pb::Role::Unspecified)];
        let timeout = Some(duration(seconds, nanos));
        wait_for(&pb::WaitReadyRequest {
            nodes,
            timeout,
            ..Default::default()
        })
    };
    for (seconds, nanos) in [
        (1, -1),
        (-1, 1),
        (0, 1_000_000_000),
        (-5, 0),
        (86_400, 1),
        (i64::MAX, 0),
        (i64::MIN, 0),
    ] {
        assert_eq!(
            timeout(seconds, nanos).unwrap_err().fields(),
            ["timeout"],
            "{seconds} {nanos}"
        );
    }
    assert_eq!(
        timeout(1, 500_000_000).unwrap().limit,
        Some(Duration::from_millis(1500))
    );
    assert_eq!(timeout(0, 0).unwrap().limit, Some(LONGEST_WAIT));
    assert_eq!(timeout(86_400, 0).unwrap().limit, Some(LONGEST_WAIT));
}

#[test]
fn two_profiles_of_a_node_are_refused_and_so_is_one_that_is_none() {
    let target = |profile: i32| pb::NodeTarget {
        node: "n".to_owned(),
        role: 0,
        profile,
    };
    let request = |profiles: [i32; 2]| pb::WaitReadyRequest {
        nodes: profiles.map(target).into(),
        ..pb::WaitReadyRequest::default()
    };
    assert!(wait_for(&request([2, 2])).is_ok());
    for profiles in [[1, 2], [0, 2], [2, 7]] {
        let refused = wait_for(&request(profiles)).unwrap_err();
        assert!(
            refused.fields().contains(&"nodes[1].profile"),
            "{profiles:?}"
        );
    }
    let request = pb::SnapshotRequest {
        node: "n".to_owned(),
        profile: 3,
        ..pb::SnapshotRequest::default()
    };
    assert_eq!(snapshot(&request).unwrap_err().fields(), ["profile"]);
}

#[test]
fn the_same_target_twice_counts_once_and_two_roles_are_refused() {
    let request = |second| pb::WaitReadyRequest {
        nodes: vec![target("n", pb::Role::Worker), target("n", second)],
        ..Default::default()
    };
    assert_eq!(wait_for(&request(pb::Role::Worker)).unwrap().nodes.len(), 1);
    for role in [pb::Role::Db, pb::Role::Unspecified] {
        assert_eq!(
            wait_for(&request(role)).unwrap_err().fields(),
            ["nodes[1].role"]
        );
    }
}

#[test]
fn a_thousand_nodes_are_the_most() {
    let request = |count: usize| pb::WaitReadyRequest {
        nodes: (0..count)
            .map(|n| target(&format!("n{n}"), pb::Role::Worker))
            .collect(),
        ..Default::default()
    };
    assert_eq!(wait_for(&request(1000)).unwrap().nodes.len(), 1000);
    assert_eq!(wait_for(&request(1001)).unwrap_err().fields(), ["nodes"]);
    assert_eq!(wait_for(&request(0)).unwrap_err().fields(), ["nodes"]);
}

#[test]
fn a_long_check_is_cut_and_an_unset_one_takes_ten_seconds() {
    let limit = |timeout| {
        let request = pb::CheckRequest {
            node: "n".into(),
            probe: "munge".into(),
            timeout,
            ..Default::default()
        };
        check(&request, &[]).unwrap().limit.as_secs()
    };
    assert_eq!(limit(None), 10);
    assert_eq!(limit(Some(duration(0, 0))), 10);
    assert_eq!(limit(Some(duration(30, 0))), 30);
    assert_eq!(limit(Some(duration(3600, 0))), 60);
}
