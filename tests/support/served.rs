//! The real server over a fake engine, and a real client of it.

use std::time::Duration;

use readyd::{
    client::{
        NodeTarget, ReadinessServiceClient, WaitReadyRequest, WaitResult,
        wait_ready_response::Event,
    },
    environment::Environment,
    grpc::{Drain, Drainer, Limits, ListenAddress, Listener, Readiness, Server},
    monitor::{Monitor, Options},
};
use tokio::time::{sleep, timeout};
use tonic::{Code, Status, Streaming, transport::Channel};
use tonic_types::StatusExt as _;

use super::fake::{FakeEngine, FakeNode};

pub type Client = ReadinessServiceClient<Channel>;

pub struct Served {
    pub client: Client,
    pub url: String,
    pub environment: Environment,
    pub drainer: Drainer,
    pub serving: tokio::task::JoinHandle<()>,
}

pub async fn serve(fake: &FakeEngine, limits: Limits) -> Served {
    serve_on(fake, limits, ListenAddress::Tcp("127.0.0.1:0".to_owned())).await
}

pub async fn serve_on(fake: &FakeEngine, limits: Limits, address: ListenAddress) -> Served {
    let environment = Environment::tokio();
    let options = Options {
        keep_links: Duration::from_millis(10),
        linger: Duration::ZERO,
        ..Options::default()
    };
    let monitor = Monitor::new(fake.clone(), options, environment.clone());
    let listeners = Listener::bind(&address, false).await.unwrap();
    let url = listeners[0].url();
    let (drainer, drain): (_, Drain) = Drainer::new();
    let server = Server::new(Readiness::new(monitor, limits, drain));
    let serving = tokio::spawn(server.serve(listeners));
    let client = Client::connect(url.clone()).await.unwrap();
    Served {
        client,
        url,
        environment,
        drainer,
        serving,
    }
}

pub fn waiting() -> FakeEngine {
    let fake = FakeEngine::new([FakeNode::ready("n", None)]);
    fake.set_unit("n", "munge.service", "inactive", "dead");
    fake
}

pub fn wait_for(node: &str) -> WaitReadyRequest {
    wait_for_all(&[node.to_owned()])
}

pub fn wait_for_all(nodes: &[String]) -> WaitReadyRequest {
    let target = |node: &String| NodeTarget {
        node: node.clone(),
        role: 0,
        profile: 0,
    };
    WaitReadyRequest {
        nodes: nodes.iter().map(target).collect(),
        ..WaitReadyRequest::default()
    }
}

/// Asserts that the status tells the client that the server is full, and when to come again.
pub fn assert_full(status: &Status) {
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert_eq!(reason(status), "SERVER_FULL");
    let retry = status.get_details_retry_info().unwrap();
    assert!(retry.retry_delay.is_some(), "{status}");
}

pub fn reason(status: &Status) -> String {
    let info = status.get_details_error_info().unwrap();
    assert_eq!(info.domain, "readyd.v1");
    info.reason
}

/// Returns the reasons of the states, the result, and the status at the end of a wait.
pub async fn read(
    mut messages: Streaming<readyd::client::WaitReadyResponse>,
) -> (Vec<String>, Option<WaitResult>, Option<Status>) {
    let (mut reasons, mut result) = (Vec::new(), None);
    loop {
        match messages.message().await {
            Ok(Some(message)) => match message.event.unwrap() {
                Event::Node(node) => reasons.push(node.reason),
                Event::Result(last) => result = Some(last),
                Event::Heartbeat(_) | Event::Removed(_) | Event::Cluster(_) => {}
            },
            Ok(None) => return (reasons, result, None),
            Err(status) => return (reasons, result, Some(status)),
        }
    }
}

/// How long anything may take that has to happen at some time: far longer than it takes on a busy
/// machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let holds = async {
        while !condition() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(
        timeout(PATIENCE, holds).await.is_ok(),
        "not within {PATIENCE:?}: {what}"
    );
}
