//! Clients that connect and say nothing, never read, or ask for very much.

// A test's helpers may make it fail, too.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod support;

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

use readyd::{
    client::{
        CheckRequest, FailurePolicy, Outcome, SnapshotRequest, Verdict, WaitReadyRequest,
        WatchNodesRequest, wait_ready_response::Event,
    },
    grpc::{Limits, ListenAddress, Listener},
};
use support::{
    fake::{FakeEngine, FakeNode},
    served::{
        Client, PATIENCE, assert_full, eventually, read, reason, serve, wait_for, wait_for_all,
        waiting,
    },
    waits::names,
};
use tokio::time::{Instant, sleep, timeout};
use tonic::{Code, transport::Endpoint};
use tonic_types::StatusExt as _;

const MS: Duration = Duration::from_millis(1);

/// Where a server listens, as `HOST:PORT`.
fn address(url: &str) -> &str {
    url.strip_prefix("http://").unwrap()
}

/// Returns how long it takes until the server closes the connection.
async fn closed(mut stream: TcpStream) -> Duration {
    let start = Instant::now();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let read = tokio::task::spawn_blocking(move || {
        let mut all = Vec::new();
        // A reset is an end as well.
        match stream.read_to_end(&mut all) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => panic!("it stays open"),
            _ => {}
        }
    });
    read.await.unwrap();
    start.elapsed()
}

/// Makes nodes whose munge has failed with many last words.
fn with_journals(count: usize) -> (Vec<String>, FakeEngine) {
    let names = names("n", count);
    let nodes = names.iter().map(|name| {
        let mut node = FakeNode::ready(name, None);
        node.last_words = "x".repeat(8 * 1024);
        node
    });
    let fake = FakeEngine::new(nodes);
    for name in &names {
        fake.set_unit(name, "munge.service", "failed", "failed");
    }
    (names, fake)
}

/// A client into the window of whose streams what nodes say with their journals does not fit.
async fn narrow(url: &str) -> Client {
    let endpoint = Endpoint::from_shared(url.to_owned()).unwrap();
    let endpoint = endpoint.initial_stream_window_size(Some(65_535));
    Client::new(endpoint.connect().await.unwrap())
}

async fn is_served(url: &str) -> bool {
    let Ok(mut client) = Client::connect(url.to_owned()).await else {
        return false;
    };
    let request = SnapshotRequest {
        node: "n".into(),
        role: 0,
        profile: 0,
    };
    client.snapshot(request).await.is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_connects_and_says_nothing_is_cut_off() {
    let limits = Limits {
        handshake: 500 * MS,
        ..Limits::default()
    };
    let served = serve(&FakeEngine::new([FakeNode::ready("n", None)]), limits).await;
    let silent = TcpStream::connect(address(&served.url)).unwrap();
    let mut half = TcpStream::connect(address(&served.url)).unwrap();
    half.write_all(b"PRI * HTTP/2.0\r\n").unwrap();
    let mut other = TcpStream::connect(address(&served.url)).unwrap();
    other
        .write_all(b"GET / HTTP/1.1\r\nHost: n\r\n\r\n")
        .unwrap();
    assert!(closed(silent).await >= 400 * MS);
    closed(half).await;
    closed(other).await;
    // A connection that carries calls stays.
    let mut client = served.client.clone();
    let request = SnapshotRequest {
        node: "n".into(),
        role: 0,
        profile: 0,
    };
    assert!(client.snapshot(request).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_limited_and_their_places_come_back() {
    let limits = Limits {
        connections: 5,
        // Silent connections keep their places for as long as the test needs them to.
        handshake: PATIENCE,
        ..Limits::default()
    };
    // The client has one of the places.
    let served = serve(&FakeEngine::new([FakeNode::ready("n", None)]), limits).await;
    let connect = || TcpStream::connect(address(&served.url)).unwrap();
    let silent: Vec<_> = (0..4).map(|_| connect()).collect();
    closed(connect()).await;
    assert!(!is_served(&served.url).await);
    drop(silent);
    let again = async {
        while !is_served(&served.url).await {
            sleep(5 * MS).await;
        }
    };
    timeout(PATIENCE, again).await.unwrap();
}

/// A message that is announced and never sent would otherwise keep its call for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_whose_request_never_comes_is_reset() {
    let limits = Limits {
        handshake: 500 * MS,
        ..Limits::default()
    };
    let served = serve(&waiting(), limits).await;
    let channel = Endpoint::from_shared(served.url.clone())
        .unwrap()
        .connect()
        .await
        .unwrap();
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await.unwrap();
    let path = tonic::codegen::http::uri::PathAndQuery::from_static(
        "/readyd.v1.ReadinessService/Snapshot",
    );
    let codec =
        tonic_prost::ProstCodec::<SnapshotRequest, readyd::client::SnapshotResponse>::default();
    let never = tonic::Request::new(tokio_stream::pending());
    let call = grpc.client_streaming(never, path, codec);
    let status = timeout(PATIENCE, call).await.unwrap().unwrap_err();
    assert_ne!(status.code(), Code::Ok, "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_never_reads_loses_its_place_after_the_waits_limit() {
    let limits = Limits {
        waits: 1,
        unread: 1000 * MS,
        ..Limits::default()
    };
    let (names, fake) = with_journals(40);
    let served = serve(&fake, limits).await;
    let wait = WaitReadyRequest {
        timeout: Some(Duration::from_secs(4).try_into().unwrap()),
        failure_policy: FailurePolicy::KeepWaiting.into(),
        ..wait_for_all(&names)
    };
    let start = Instant::now();
    let unread = narrow(&served.url).await.wait_ready(wait).await.unwrap();
    let mut client = served.client.clone();
    let full = client.wait_ready(wait_for("n1")).await.unwrap_err();
    assert_full(&full);
    let next = async {
        while client.wait_ready(wait_for("n1")).await.is_err() {
            sleep(5 * MS).await;
        }
    };
    timeout(PATIENCE, next).await.unwrap();
    assert!(start.elapsed() >= 5000 * MS, "{:?}", start.elapsed());
    // Its stream has ended: what has come is there, and then an error, but never a result.
    let (reasons, result, status) = timeout(PATIENCE, read(unread.into_inner())).await.unwrap();
    assert!(result.is_none(), "{} {result:?}", reasons.len());
    assert!(status.is_some());
    eventually("all of them end", || served.environment.tasks() == 0).await;
}

/// A watch has no limit, so that a reader who stops would hold its place for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_is_not_read_is_let_go_and_says_why_when_it_is_read() {
    let limits = Limits {
        waits: 1,
        unread_watch: 1000 * MS,
        ..Limits::default()
    };
    let (names, fake) = with_journals(40);
    for name in &names {
        let realm = ("sind.realm".to_owned(), "r".to_owned());
        fake.change(name, |node| node.container.labels.extend([realm]));
    }
    let served = serve(&fake, limits).await;
    let watch = WatchNodesRequest::default;
    let unread = narrow(&served.url)
        .await
        .watch_nodes(watch())
        .await
        .unwrap();
    let mut client = served.client.clone();
    assert_full(&client.watch_nodes(watch()).await.unwrap_err());
    let next = async {
        while client.watch_nodes(watch()).await.is_err() {
            sleep(5 * MS).await;
        }
    };
    timeout(PATIENCE, next).await.unwrap();
    let mut unread = unread.into_inner();
    let reading = async {
        loop {
            match unread.message().await {
                Ok(message) => assert!(message.is_some()),
                Err(status) => return status,
            }
        }
    };
    let status = timeout(PATIENCE, reading).await.unwrap();
    assert_eq!(reason(&status), "SLOW_READER");
    eventually("all of them end", || served.environment.tasks() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_nodes_looks_leave_room_for_those_at_others() {
    let limits = Limits {
        looks: 10,
        looks_per_node: 4,
        ..Limits::default()
    };
    let fake = FakeEngine::new([FakeNode::ready("hung", None), FakeNode::ready("n", None)]);
    fake.hang("hung");
    let served = serve(&fake, limits).await;
    let check = |node: &str| CheckRequest {
        node: node.into(),
        probe: "munge".into(),
        ..CheckRequest::default()
    };
    let mut hung = Vec::new();
    for _ in 0..20 {
        let (mut client, request) = (served.client.clone(), check("hung"));
        hung.push(tokio::spawn(async move { client.check(request).await }));
    }
    let (mut full, mut slow) = (0, 0);
    let mut client = served.client.clone();
    for look in hung {
        // While they hang, the other node is looked at.
        let report = client.check(check("n")).await.unwrap().into_inner().report;
        assert_eq!(report.unwrap().outcome(), Outcome::Passed);
        let status = look.await.unwrap().unwrap_err();
        match reason(&status).as_str() {
            "SERVER_FULL" => {
                assert_full(&status);
                let says = "4 snapshots and checks of hung";
                assert!(status.message().contains(says), "{status}");
                full += 1;
            }
            "ENGINE_UNREACHABLE" => slow += 1,
            other => panic!("{other}: {status}"),
        }
    }
    assert_eq!((full, slow), (16, 4));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_result_of_many_nodes_with_their_journals_fits() {
    let (names, fake) = with_journals(600);
    let mut served = serve(&fake, Limits::default()).await;
    let wait = |limit: Duration| WaitReadyRequest {
        timeout: Some(limit.try_into().unwrap()),
        // Changes are few here, and so are looks then.
        poll_interval: Some(Duration::from_secs(60).try_into().unwrap()),
        failure_policy: FailurePolicy::KeepWaiting.into(),
        ..wait_for_all(&names)
    };
    // How long it takes until every node has told of its journal depends on the machine.
    let start = Instant::now();
    let all = served.client.wait_ready(wait(2 * PATIENCE)).await;
    let mut messages = all.unwrap().into_inner();
    let mut failed = std::collections::BTreeSet::new();
    while failed.len() < names.len() {
        match messages.message().await.unwrap().unwrap().event.unwrap() {
            Event::Node(node) if !node.probes[3].detail.is_empty() => {
                failed.insert(node.node);
            }
            Event::Node(_) => {}
            other => panic!("{other:?}"),
        }
    }
    let limit = 2 * start.elapsed() + Duration::from_secs(2);
    let again = served.client.wait_ready(wait(limit)).await;
    let (_, result, status) = read(again.unwrap().into_inner()).await;
    let result = result.unwrap();
    assert_eq!(result.verdict(), Verdict::TimedOut);
    assert_eq!(result.nodes.len(), names.len());
    for node in &result.nodes {
        let detail = node.probes[3].detail.len();
        assert!((1000..8000).contains(&detail), "{detail}");
    }
    assert_eq!(reason(&status.unwrap()), "WAIT_TIMED_OUT");
}

#[tokio::test]
async fn two_million_probes_are_refused_in_a_few_words() {
    let mut served = serve(&waiting(), Limits::default()).await;
    let request = WaitReadyRequest {
        probes: vec![String::new(); 2_000_000],
        ..wait_for("n")
    };
    let status = served.client.wait_ready(request).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let violations = status.get_details_bad_request().unwrap().field_violations;
    assert_eq!(violations.len(), 1);
    assert!(
        violations[0]
            .description
            .starts_with("2000000 are too many")
    );
}

#[tokio::test]
async fn a_name_is_listened_on_at_all_of_its_addresses() {
    let address = ListenAddress::Tcp("localhost:0".to_owned());
    let listeners = Listener::bind(&address, false).await.unwrap();
    let resolved: std::collections::BTreeSet<_> = tokio::net::lookup_host("localhost:0")
        .await
        .unwrap()
        .map(|address| address.ip())
        .filter(|ip| std::net::TcpListener::bind((*ip, 0)).is_ok())
        .collect();
    let urls: Vec<_> = listeners.iter().map(Listener::url).collect();
    assert_eq!(urls.len(), resolved.len(), "{urls:?} {resolved:?}");
    let ports: std::collections::BTreeSet<_> = urls
        .iter()
        .map(|url| url.rsplit_once(':').unwrap().1.to_owned())
        .collect();
    assert_eq!(ports.len(), 1, "{urls:?}");
}

/// This one only shows that the messages of a wait are read where they are needed.
#[tokio::test]
async fn a_wait_that_is_read_late_gets_its_result() {
    let limits = Limits {
        unread: 5000 * MS,
        ..Limits::default()
    };
    let mut served = serve(&waiting(), limits).await;
    let request = WaitReadyRequest {
        timeout: Some(Duration::from_millis(300).try_into().unwrap()),
        ..wait_for("n")
    };
    let mut messages = served
        .client
        .wait_ready(request)
        .await
        .unwrap()
        .into_inner();
    sleep(1000 * MS).await;
    let mut last = None;
    while let Ok(Some(message)) = messages.message().await {
        last = message.event;
    }
    let Some(Event::Result(result)) = last else {
        panic!("{last:?}");
    };
    assert_eq!(result.verdict(), Verdict::TimedOut);
}
