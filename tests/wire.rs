//! The real server and a real client over real sockets, with fake nodes behind the server.

// A test's helpers may make it fail, too.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod support;

use std::time::Duration;

use readyd::{
    client::{
        CheckRequest, ClusterSelector, Heartbeat, Level, ListNodesRequest, NodeState, NodeView,
        Outcome, ReasonCode, SnapshotRequest, Synced, Verdict, WaitReadyRequest, WatchNodesRequest,
        WatchNodesResponse, wait_ready_response::Event, watch_nodes_response::Event as Watched,
    },
    container::State,
    event::Action,
    grpc::{Limits, ListenAddress},
};
use support::{
    fake::{FakeEngine, FakeNode},
    served::{
        Client, PATIENCE, Served, assert_full, eventually, read, reason, serve, serve_on, wait_for,
        waiting,
    },
};
use tokio::time::{Instant, sleep, timeout};
use tonic::{Code, Request, Streaming, transport::Endpoint};
use tonic_types::StatusExt as _;

#[tokio::test]
async fn a_ready_node_ends_with_a_result_and_ok() {
    let fake = FakeEngine::new([FakeNode::ready("n", Some("worker"))]);
    let mut served = serve(&fake, Limits::default()).await;
    let messages = served
        .client
        .wait_ready(wait_for("n"))
        .await
        .unwrap()
        .into_inner();
    let (reasons, result, status) = read(messages).await;
    assert_eq!(reasons, [""]);
    let result = result.unwrap();
    assert_eq!(result.verdict(), Verdict::Ready);
    assert_eq!(result.nodes[0].state(), NodeState::Ready);
    assert!(status.is_none());
}

#[tokio::test]
async fn a_terminal_node_ends_with_a_result_and_a_status_that_say_the_same() {
    let fake = waiting();
    fake.set_unit("n", "munge.service", "failed", "failed");
    let mut served = serve(&fake, Limits::default()).await;
    let messages = served
        .client
        .wait_ready(wait_for("n"))
        .await
        .unwrap()
        .into_inner();
    let (_, result, status) = read(messages).await;
    let (result, status) = (result.unwrap(), status.unwrap());
    assert_eq!(result.verdict(), Verdict::Terminal);
    assert_eq!(result.nodes[0].probes[3].detail, "it died");
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert_eq!(status.message(), result.message);
    assert_eq!(reason(&status), "NODE_TERMINAL");
    let metadata = status.get_details_error_info().unwrap().metadata;
    assert_eq!(
        (metadata["node"].as_str(), metadata["probe"].as_str()),
        ("n", "munge")
    );
}

#[tokio::test]
async fn the_callers_deadline_ends_a_wait_in_time_for_its_result() {
    let mut served = serve(&waiting(), Limits::default()).await;
    let mut request = Request::new(wait_for("n"));
    request.set_timeout(Duration::from_secs(3));
    let start = Instant::now();
    let messages = served
        .client
        .wait_ready(request)
        .await
        .unwrap()
        .into_inner();
    let (reasons, result, status) = read(messages).await;
    assert!(start.elapsed() < Duration::from_secs(3));
    assert_eq!(reasons, ["munge: munge.service is inactive (dead)"]);
    assert_eq!(result.unwrap().verdict(), Verdict::TimedOut);
    let status = status.unwrap();
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::DeadlineExceeded, "WAIT_TIMED_OUT")
    );
}

#[tokio::test]
async fn the_callers_deadline_ends_a_unary_call_with_its_own_status() {
    let fake = FakeEngine::new([FakeNode::ready("n", None)]);
    fake.hang("n");
    let mut served = serve(&fake, Limits::default()).await;
    for millis in [300, 2000] {
        let mut snapshot = Request::new(SnapshotRequest {
            node: "n".into(),
            role: 0,
            profile: 0,
        });
        snapshot.set_timeout(Duration::from_millis(millis));
        let status = served.client.snapshot(snapshot).await.unwrap_err();
        assert_eq!(status.code(), Code::DeadlineExceeded);
        assert_eq!(reason(&status), "DEADLINE_EXCEEDED");
    }
    let mut check = Request::new(CheckRequest {
        node: "n".into(),
        probe: "munge".into(),
        ..Default::default()
    });
    check.set_timeout(Duration::from_secs(2));
    let status = served.client.check(check).await.unwrap_err();
    assert!(
        status
            .message()
            .starts_with("n: munge: no answer within the 1.9s"),
        "{status}"
    );
}

#[tokio::test]
async fn a_check_says_whether_the_node_or_the_engine_was_slow() {
    let mut node = FakeNode::ready("n", Some("controller"));
    node.ping = None;
    let fake = FakeEngine::new([node]);
    let mut served = serve(&fake, Limits::default()).await;
    let request = || CheckRequest {
        node: "n".into(),
        probe: "slurmctld".into(),
        timeout: Some(prost_types::Duration {
            seconds: 0,
            nanos: 200_000_000,
        }),
        role: 0,
        profile: 0,
    };
    let report = served
        .client
        .check(request())
        .await
        .unwrap()
        .into_inner()
        .report
        .unwrap();
    assert_eq!(report.outcome(), Outcome::Failed);
    assert_eq!(report.reason, "scontrol ping has not answered in time");

    fake.hang("n");
    let status = served.client.check(request()).await.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::Unavailable, "ENGINE_UNREACHABLE")
    );
    assert!(
        status
            .message()
            .contains("the engine has not answered in time"),
        "{status}"
    );
}

#[tokio::test]
async fn validation_comes_before_what_is_not_allowed() {
    let mut served = serve(&FakeEngine::default(), Limits::default()).await;
    let cluster = |realm: &str| WaitReadyRequest {
        cluster: Some(ClusterSelector {
            realm: realm.into(),
            cluster: "c".into(),
            min_nodes: 0,
        }),
        level: Level::Jobs.into(),
        ..WaitReadyRequest::default()
    };
    let status = served.client.wait_ready(cluster("")).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let violations = status.get_details_bad_request().unwrap().field_violations;
    assert_eq!(violations[0].field, "cluster.realm");
    let status = served.client.wait_ready(cluster("r")).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
}

/// A node of that cluster of the realm r.
fn member(name: &str, cluster: &str, role: Option<&str>) -> FakeNode {
    let mut node = FakeNode::ready(name, role);
    node.container.labels.extend([
        ("sind.realm".to_owned(), "r".to_owned()),
        ("sind.cluster".to_owned(), cluster.to_owned()),
    ]);
    node
}

/// A wait for so many nodes of that cluster of the realm r.
fn wait_for_cluster(cluster: &str, min_nodes: u32) -> WaitReadyRequest {
    WaitReadyRequest {
        cluster: Some(ClusterSelector {
            realm: "r".to_owned(),
            cluster: cluster.to_owned(),
            min_nodes,
        }),
        ..WaitReadyRequest::default()
    }
}

/// Nodes of two clusters, and one container without a label of readyd's.
fn labelled() -> FakeEngine {
    FakeEngine::new([
        member("w-10", "c", Some("worker")),
        member("w-9", "c", Some("worker")),
        member("ctl", "c", Some("controller")),
        member("odd", "c", Some("boss")),
        member("other", "b", None),
        FakeNode::ready("plain", None),
    ])
}

async fn listed(client: &mut Client, request: ListNodesRequest) -> (Vec<String>, String) {
    let page = client.list_nodes(request).await.unwrap().into_inner();
    let names = page.nodes.into_iter().map(|node| node.node);
    (names.collect(), page.next_page_token)
}

#[tokio::test]
async fn nodes_are_listed_a_page_at_a_time_while_they_come_and_go() {
    let fake = labelled();
    let mut served = serve(&fake, Limits::default()).await;
    let client = &mut served.client;
    let all = ListNodesRequest::default();
    let (names, token) = listed(client, all.clone()).await;
    assert_eq!(names, ["other", "ctl", "w-9", "w-10", "odd"]);
    assert_eq!(token, "");
    let mut first = ListNodesRequest {
        page_size: 3,
        cluster: "c".to_owned(),
        ..all.clone()
    };
    let (names, token) = listed(client, first.clone()).await;
    assert_eq!(names, ["ctl", "w-9", "w-10"]);
    // The last that was told goes, and others come, one before it and one behind.
    fake.remove("w-10");
    for name in ["w-8", "w-11"] {
        fake.put(member(name, "c", Some("worker")));
    }
    first.page_token = token;
    let (names, last) = listed(client, first.clone()).await;
    assert_eq!(
        (names, last.as_str()),
        (vec!["w-11".to_owned(), "odd".to_owned()], "")
    );
    for other in [
        ListNodesRequest {
            realm: "r".to_owned(),
            ..first.clone()
        },
        ListNodesRequest {
            roles: vec![3],
            ..first.clone()
        },
        ListNodesRequest {
            page_token: "made up".to_owned(),
            ..first.clone()
        },
    ] {
        let status = client.list_nodes(other).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        let violations = status.get_details_bad_request().unwrap().field_violations;
        assert_eq!(violations[0].field, "page_token");
    }
    let workers = ListNodesRequest {
        roles: vec![3, 5],
        ..all.clone()
    };
    assert_eq!(listed(client, workers).await.0, ["w-8", "w-9", "w-11"]);
    let bad = ListNodesRequest {
        realm: "a/b".to_owned(),
        cluster: "x".repeat(129),
        roles: vec![0, 9],
        view: 3,
        page_size: -1,
        page_token: "x".to_owned(),
    };
    let status = client.list_nodes(bad).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let violations = status.get_details_bad_request().unwrap().field_violations;
    let fields: Vec<_> = violations.iter().map(|bad| bad.field.as_str()).collect();
    assert_eq!(
        fields,
        [
            "realm",
            "cluster",
            "roles[0]",
            "roles[1]",
            "view",
            "page_size"
        ]
    );
}

#[tokio::test]
async fn a_full_list_looks_at_each_node_and_stands_if_one_cannot_be_looked_at() {
    let fake = labelled();
    fake.set_unit("ctl", "munge.service", "inactive", "dead");
    fake.hang("w-9");
    let mut served = serve(&fake, Limits::default()).await;
    let full = ListNodesRequest {
        view: NodeView::Full.into(),
        ..ListNodesRequest::default()
    };
    let page = served.client.list_nodes(full).await.unwrap().into_inner();
    let report = |name: &str| {
        let node = page.nodes.iter().find(|node| node.node == name).unwrap();
        node.report.clone().unwrap()
    };
    let ready = report("w-10");
    assert_eq!(
        (ready.state(), ready.level()),
        (NodeState::Ready, Level::Services)
    );
    let waiting = report("ctl");
    assert_eq!(
        (waiting.state(), waiting.level()),
        (NodeState::Waiting, Level::Booted)
    );
    assert!(waiting.reason.starts_with("munge: "), "{}", waiting.reason);
    assert_eq!(waiting.probes.last().unwrap().outcome(), Outcome::Skipped);
    let hung = report("w-9");
    assert_eq!(
        (hung.state(), hung.level()),
        (NodeState::Waiting, Level::Unspecified)
    );
    assert_eq!(hung.probes[0].outcome(), Outcome::Unknown);
    let odd = report("odd");
    assert!(odd.reason.contains("sind.role"), "{}", odd.reason);

    fake.set_outage(Some("it is gone"));
    let list = served.client.list_nodes(ListNodesRequest::default()).await;
    let status = list.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::Unavailable, "ENGINE_UNREACHABLE")
    );
}

#[tokio::test]
async fn a_wait_goes_as_far_as_its_level() {
    let fake = FakeEngine::new([FakeNode::ready("n", Some("worker"))]);
    fake.set_unit("n", "munge.service", "inactive", "dead");
    let mut served = serve(&fake, Limits::default()).await;
    let wait = |level: Level| WaitReadyRequest {
        level: level.into(),
        ..wait_for("n")
    };
    let messages = served.client.wait_ready(wait(Level::Booted)).await.unwrap();
    let (_, result, status) = read(messages.into_inner()).await;
    let result = result.unwrap();
    assert!(status.is_none());
    assert_eq!(result.nodes[0].level(), Level::Booted);
    let probes = result.nodes[0]
        .probes
        .iter()
        .map(|probe| probe.probe.as_str());
    assert_eq!(probes.collect::<Vec<_>>(), ["container", "systemd"]);
    let status = served.client.wait_ready(wait(Level::Jobs)).await;
    let status = status.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::FailedPrecondition, "JOBS_NOT_ALLOWED")
    );
    let both = WaitReadyRequest {
        probes: vec!["sshd".to_owned()],
        ..wait(Level::Booted)
    };
    let status = served.client.wait_ready(both).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_silent_stream_has_heartbeats() {
    let fake = waiting();
    fake.set_unit("n", "munge.service", "inactive", "dead");
    let mut served = serve(&fake, Limits::default()).await;
    let request = WaitReadyRequest {
        heartbeat_interval: Some(Duration::from_secs(1).try_into().unwrap()),
        ..wait_for("n")
    };
    // However late they come, the second was sent two seconds after the beginning at the earliest.
    let begin = Instant::now();
    let mut messages = served
        .client
        .wait_ready(request)
        .await
        .unwrap()
        .into_inner();
    let mut beats = 0;
    while beats < 2 {
        let message = messages.message().await.unwrap().unwrap();
        beats += usize::from(message.event == Some(Event::Heartbeat(Heartbeat {})));
    }
    assert!(begin.elapsed() >= Duration::from_secs(2));
}

#[tokio::test]
async fn a_client_that_goes_away_ends_its_wait_at_once() {
    let mut node = FakeNode::ready("n", Some("controller"));
    node.ping = None;
    let fake = FakeEngine::new([node]);
    let Served {
        mut client,
        environment,
        drainer: _drainer,
        ..
    } = serve(&fake, Limits::default()).await;
    let messages = client.wait_ready(wait_for("n")).await.unwrap().into_inner();
    eventually("scontrol is asked", || {
        fake.execs() == 1 && environment.tasks() == 3
    })
    .await;
    // First the client drops the call alone, and later the connection under it.
    drop(messages);
    eventually("a cancelled call leaves nothing", || {
        fake.execs() + environment.tasks() == 0
    })
    .await;
    let messages = client.wait_ready(wait_for("n")).await.unwrap().into_inner();
    eventually("scontrol is asked again", || fake.execs() == 1).await;
    drop((messages, client));
    eventually("a closed connection leaves nothing", || {
        fake.execs() + environment.tasks() == 0
    })
    .await;
}

#[tokio::test]
async fn a_full_server_says_when_to_come_again() {
    let limits = Limits {
        waits: 1,
        ..Limits::default()
    };
    let mut served = serve(&waiting(), limits).await;
    let first = served.client.wait_ready(wait_for("n")).await.unwrap();
    let status = served.client.wait_ready(wait_for("n")).await.unwrap_err();
    assert_full(&status);
    drop(first);
    let again = async {
        while served.client.wait_ready(wait_for("n")).await.is_err() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, again).await.unwrap();
}

#[tokio::test]
async fn a_drain_ends_waits_without_a_result_and_lets_nobody_in() {
    let mut served = serve(&waiting(), Limits::default()).await;
    let messages = served
        .client
        .wait_ready(wait_for("n"))
        .await
        .unwrap()
        .into_inner();
    let reading = tokio::spawn(read(messages));
    eventually("the wait is under way", || served.environment.tasks() == 3).await;

    served.drainer.start();
    let (_, result, status) = reading.await.unwrap();
    assert!(result.is_none());
    let status = status.unwrap();
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::Unavailable, "SERVER_DRAINING")
    );

    let refused = served
        .client
        .snapshot(SnapshotRequest {
            node: "n".into(),
            role: 0,
            profile: 0,
        })
        .await;
    assert_eq!(refused.unwrap_err().code(), Code::Unavailable);
    timeout(PATIENCE, served.serving).await.unwrap().unwrap();
    assert!(Client::connect(served.url).await.is_err());
}

#[tokio::test]
async fn one_connection_carries_a_thousand_waits() {
    let fake = waiting();
    let mut served = serve(&fake, Limits::default()).await;
    let mut open = Vec::new();
    for _ in 0..1000 {
        let wait = served.client.wait_ready(wait_for("n")).await;
        open.push(wait.unwrap().into_inner());
    }
    // Each of them is served, too.
    for messages in &mut open {
        let Some(Event::Node(node)) = messages.message().await.unwrap().unwrap().event else {
            panic!("the first message is the node's state");
        };
        assert_eq!(node.reason, "munge: munge.service is inactive (dead)");
    }
    // Each wait has a task of its own, and all of them share two.
    assert_eq!(served.environment.tasks(), 1002);
    drop(open);
    eventually("all of them end", || served.environment.tasks() == 0).await;
}

#[tokio::test]
async fn a_unix_socket_serves_as_well_and_reflection_is_on() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("readyd.sock");
    let fake = FakeEngine::new([FakeNode::ready("n", None)]);
    let mut served = serve_on(&fake, Limits::default(), ListenAddress::Unix(path)).await;
    let snapshot = served
        .client
        .snapshot(SnapshotRequest {
            node: "n".into(),
            role: 0,
            profile: 0,
        })
        .await;
    assert!(snapshot.unwrap().into_inner().ready);

    let channel = Endpoint::from_shared(served.url)
        .unwrap()
        .connect()
        .await
        .unwrap();
    let mut reflection =
        tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient::new(channel);
    let request = tonic_reflection::pb::v1::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(
            tonic_reflection::pb::v1::server_reflection_request::MessageRequest::ListServices(
                String::new(),
            ),
        ),
    };
    let answers = reflection
        .server_reflection_info(tokio_stream::once(request))
        .await
        .unwrap();
    let answer = answers.into_inner().message().await.unwrap().unwrap();
    assert!(
        format!("{answer:?}").contains("readyd.v1.ReadinessService"),
        "{answer:?}"
    );
}

#[tokio::test]
async fn a_cluster_is_waited_for_while_its_nodes_come_and_go() {
    let fake = FakeEngine::default().with_events();
    let mut served = serve(&fake, Limits::default()).await;
    let request = wait_for_cluster("c", 2);
    let messages = served.client.wait_ready(request).await.unwrap();
    let mut messages = messages.into_inner();
    let mut next = async || messages.message().await.unwrap().unwrap().event.unwrap();
    let Event::Cluster(report) = next().await else {
        panic!("the cluster comes first");
    };
    assert_eq!((report.present, report.ready, report.min_nodes), (0, 0, 2));
    // The list may not have come yet.
    let mut report = report;
    while report.code() != ReasonCode::ClusterIncomplete {
        assert_eq!(report.code(), ReasonCode::NotAnsweredYet);
        let Event::Cluster(again) = next().await else {
            panic!("no node is there");
        };
        report = again;
    }
    assert_eq!(report.reason, "cluster r/c has 0 of 2 nodes");
    let come = |name: &str| {
        fake.put(member(name, "c", Some("worker")));
        fake.tell(name, Action::Create);
    };
    come("one");
    loop {
        match next().await {
            Event::Node(node) if node.state() == NodeState::Ready => break,
            Event::Node(node) => assert_eq!(node.node, "one"),
            Event::Cluster(_) => {}
            other => panic!("{other:?}"),
        }
    }
    // It goes, and nobody calls that terminal.
    fake.remove("one");
    fake.tell("one", Action::Die);
    fake.tell("one", Action::Destroy);
    loop {
        match next().await {
            Event::Removed(node) => {
                assert_eq!(node, "one");
                break;
            }
            Event::Node(node) => assert_ne!(node.state(), NodeState::Terminal),
            Event::Cluster(_) => {}
            other => panic!("{other:?}"),
        }
    }
    come("two");
    come("three");
    let (_, result, status) = read(messages).await;
    let result = result.unwrap();
    assert!(status.is_none(), "{status:?}");
    let names: Vec<_> = result.nodes.iter().map(|node| node.node.as_str()).collect();
    assert_eq!(names, ["three", "two"]);
}

#[tokio::test]
async fn a_cluster_with_too_few_nodes_times_out_and_says_so() {
    let fake = labelled();
    let mut served = serve(&fake, Limits::default()).await;
    let wait = |min_nodes| WaitReadyRequest {
        timeout: Some(Duration::from_secs(2).try_into().unwrap()),
        ..wait_for_cluster("b", min_nodes)
    };
    let messages = served
        .client
        .wait_ready(wait(3))
        .await
        .unwrap()
        .into_inner();
    let (_, result, status) = read(messages).await;
    let (result, status) = (result.unwrap(), status.unwrap());
    assert_eq!(result.verdict(), Verdict::TimedOut);
    assert_eq!(
        result.message,
        "not ready within 2s: cluster r/b has 1 of 3 nodes"
    );
    assert_eq!(reason(&status), "WAIT_TIMED_OUT");
    let messages = served
        .client
        .wait_ready(wait(0))
        .await
        .unwrap()
        .into_inner();
    let (_, result, _) = read(messages).await;
    assert_eq!(result.unwrap().verdict(), Verdict::Ready);

    fake.set_outage(Some("it is gone"));
    let messages = served
        .client
        .wait_ready(wait(1))
        .await
        .unwrap()
        .into_inner();
    let (_, result, _) = read(messages).await;
    let message = result.unwrap().message;
    assert!(message.contains("it is gone"), "{message}");
}

#[tokio::test]
async fn no_node_is_left_out_that_was_there_before_the_others_were_ready() {
    let fake = labelled().with_events();
    fake.set_unit("other", "munge.service", "inactive", "dead");
    let mut served = serve(&fake, Limits::default()).await;
    let request = wait_for_cluster("b", 0);
    let messages = served.client.wait_ready(request).await.unwrap();
    let mut messages = messages.into_inner();
    let mut next = async || messages.message().await.unwrap().unwrap().event.unwrap();
    while !matches!(next().await, Event::Node(_)) {}
    // Another is there, which no event has told of yet.
    fake.put(member("late", "b", None));
    fake.set_unit("late", "munge.service", "inactive", "dead");
    fake.set_unit("other", "munge.service", "active", "running");
    loop {
        match next().await {
            Event::Node(node) if node.node == "late" => break,
            Event::Result(result) => panic!("{result:?}"),
            _ => {}
        }
    }
    drop(messages);
    eventually("nothing is left of the wait", || {
        served.environment.tasks() == 0
    })
    .await;
}

#[tokio::test]
async fn a_container_of_a_cluster_that_has_ended_is_terminal_if_it_stays() {
    let fake = labelled().with_events();
    let mut served = serve(&fake, Limits::default()).await;
    fake.set_unit("ctl", "munge.service", "inactive", "dead");
    let request = wait_for_cluster("c", 0);
    let messages = served.client.wait_ready(request).await.unwrap();
    let mut messages = messages.into_inner();
    let mut ended = None;
    let result = loop {
        match messages.message().await.unwrap().unwrap().event.unwrap() {
            Event::Node(node) if node.node == "w-9" && ended.is_none() => {
                fake.change("w-9", |node| {
                    node.container.state = State::Exited {
                        code: 1,
                        oom: false,
                    };
                });
                fake.tell("w-9", Action::Die);
                ended = Some(Instant::now());
            }
            Event::Result(result) => break result,
            _ => {}
        }
    };
    assert_eq!(result.verdict(), Verdict::Terminal);
    assert!(
        result.message.starts_with("w-9: container: "),
        "{}",
        result.message
    );
    assert!(ended.unwrap().elapsed() >= Duration::from_millis(950));
}

/// Reads a watch until something has come.
async fn until(
    messages: &mut Streaming<WatchNodesResponse>,
    mut has_come: impl FnMut(Watched) -> bool,
) {
    let reading =
        async { while !has_come(messages.message().await.unwrap().unwrap().event.unwrap()) {} };
    timeout(PATIENCE, reading).await.unwrap();
}

#[tokio::test]
async fn a_watch_tells_of_all_nodes_and_then_of_each_change() {
    let fake = labelled().with_events();
    fake.hang("w-9");
    let mut served = serve(&fake, Limits::default()).await;
    let request = WatchNodesRequest {
        realm: "r".to_owned(),
        ..WatchNodesRequest::default()
    };
    let messages = served.client.watch_nodes(request).await.unwrap();
    let mut messages = messages.into_inner();
    let mut known = std::collections::BTreeMap::new();
    until(&mut messages, |event| match event {
        Watched::Node(node) => {
            let report = node.report.unwrap();
            known.insert(node.node, (report.state(), report.probes[0].outcome()));
            false
        }
        Watched::Synced(_) => true,
        other => panic!("{other:?}"),
    })
    .await;
    assert_eq!(known.len(), 5, "{known:?}");
    assert_eq!(known["w-9"], (NodeState::Waiting, Outcome::Unknown));

    let state = |name: &str, state: State, action: Action| {
        fake.change(name, |node| node.container.state = state);
        fake.tell(name, action);
    };
    let is = |event: &Watched, name: &str, state: NodeState| {
        matches!(event, Watched::Node(node) if node.node == name
            && node.report.as_ref().unwrap().state() == state)
    };
    until(&mut messages, |event| {
        is(&event, "w-10", NodeState::Ready) || known["w-10"].0 == NodeState::Ready
    })
    .await;
    state("w-10", State::Paused, Action::Pause);
    until(&mut messages, |event| {
        let is_listed = matches!(&event, Watched::Node(node) if node.container_state == "paused");
        is_listed && is(&event, "w-10", NodeState::Waiting)
    })
    .await;
    state("w-10", State::Running, Action::Unpause);
    until(&mut messages, |event| is(&event, "w-10", NodeState::Ready)).await;

    // One that ends is terminal if it stays, and may begin anew.
    let ended = State::Exited {
        code: 1,
        oom: false,
    };
    let died = Instant::now();
    state("w-10", ended, Action::Die);
    until(&mut messages, |event| {
        is(&event, "w-10", NodeState::Waiting)
    })
    .await;
    until(&mut messages, |event| {
        is(&event, "w-10", NodeState::Terminal)
    })
    .await;
    assert!(died.elapsed() >= Duration::from_secs(1));
    fake.change("w-10", |node| {
        node.container.state = State::Running;
        node.container.started_at = Some(std::time::SystemTime::now());
    });
    fake.tell("w-10", Action::Start);
    until(&mut messages, |event| is(&event, "w-10", NodeState::Ready)).await;

    fake.remove("w-10");
    fake.tell("w-10", Action::Destroy);
    until(&mut messages, |event| {
        assert!(!is(&event, "w-10", NodeState::Terminal));
        event == Watched::Removed("w-10".to_owned())
    })
    .await;
    drop(messages);
    eventually("nothing is left of the watch", || {
        served.environment.tasks() == 0
    })
    .await;
}

#[tokio::test]
async fn a_watch_refuses_what_it_cannot_do_and_ends_with_the_drain() {
    let fake = labelled();
    let mut served = serve(&fake, Limits::default()).await;
    let bad = WatchNodesRequest {
        realm: "a/b".to_owned(),
        cluster: String::new(),
        roles: vec![0],
        heartbeat_interval: Some(Duration::from_secs(7200).try_into().unwrap()),
        level: Level::Jobs.into(),
    };
    let status = served.client.watch_nodes(bad).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let violations = status.get_details_bad_request().unwrap().field_violations;
    let fields: Vec<_> = violations.iter().map(|bad| bad.field.as_str()).collect();
    assert_eq!(fields, ["realm", "roles[0]", "heartbeat_interval", "level"]);

    let mut request = Request::new(WatchNodesRequest::default());
    request.set_timeout(Duration::from_secs(1));
    let mut messages = served
        .client
        .watch_nodes(request)
        .await
        .unwrap()
        .into_inner();
    let status = loop {
        match messages.message().await {
            Ok(message) => assert!(message.is_some()),
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::DeadlineExceeded);

    let request = WatchNodesRequest::default();
    let mut messages = served
        .client
        .watch_nodes(request)
        .await
        .unwrap()
        .into_inner();
    until(&mut messages, |event| event == Watched::Synced(Synced {})).await;
    served.drainer.start();
    let status = loop {
        match messages.message().await {
            Ok(message) => assert!(message.is_some()),
            Err(status) => break status,
        }
    };
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::Unavailable, "SERVER_DRAINING")
    );
}
