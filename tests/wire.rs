//! The real server and a real client over real sockets, with fake nodes behind the server.

// A test's helpers may make it fail, too.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod support;

use std::time::Duration;

use readyd::{
    client::{
        CheckRequest, ClusterSelector, ListNodesRequest, NodeState, Outcome, SnapshotRequest,
        Verdict, WaitReadyRequest, wait_ready_response::Event,
    },
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
use tonic::{Code, Request, transport::Endpoint};
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
async fn validation_comes_before_unimplemented() {
    let mut served = serve(&FakeEngine::default(), Limits::default()).await;
    let cluster = |realm: &str| WaitReadyRequest {
        cluster: Some(ClusterSelector {
            realm: realm.into(),
            cluster: "c".into(),
            min_nodes: 0,
        }),
        ..WaitReadyRequest::default()
    };
    let status = served.client.wait_ready(cluster("")).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let violations = status.get_details_bad_request().unwrap().field_violations;
    assert_eq!(violations[0].field, "cluster.realm");
    let status = served.client.wait_ready(cluster("r")).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    let status = served
        .client
        .list_nodes(ListNodesRequest {})
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
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
