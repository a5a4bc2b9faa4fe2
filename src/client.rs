//! A client of the service: the generated client, and its messages.
//!
//! ```no_run
//! use readyd::client::{NodeTarget, ReadinessServiceClient, WaitReadyRequest, wait_ready_response::Event};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! // A Unix socket is named `unix:/run/readyd.sock`.
//! let mut client = ReadinessServiceClient::connect("http://127.0.0.1:7323").await?;
//! let request = WaitReadyRequest {
//!     nodes: vec![NodeTarget { node: "sind-dev-controller".into(), ..Default::default() }],
//!     ..Default::default()
//! };
//! let mut messages = client.wait_ready(request).await?.into_inner();
//! // The stream ends with the result. If that is not ready, an error status follows it.
//! while let Some(message) = messages.message().await? {
//!     match message.event {
//!         Some(Event::Node(node)) => println!("{}: {}", node.node, node.reason),
//!         Some(Event::Result(result)) => println!("{:?}", result.verdict()),
//!         // A wait for nodes tells of nothing else that matters here.
//!         Some(_) | None => {}
//!     }
//! }
//! # Ok(())
//! # }
//! ```

pub use crate::pb::{
    Cause, CheckRequest, CheckResponse, ClusterReport, ClusterSelector, DESCRIPTORS, FailurePolicy,
    Heartbeat, Level, ListNodesRequest, ListNodesResponse, ListProbesRequest, ListProbesResponse,
    Node, NodeReport, NodeState, NodeTarget, NodeView, Outcome, Probe, ProbeReport, ReasonCode,
    Role, SnapshotRequest, SnapshotResponse, Synced, Trigger, Verdict, WaitReadyRequest,
    WaitReadyResponse, WaitResult, WatchNodesRequest, WatchNodesResponse,
    readiness_service_client::ReadinessServiceClient, wait_ready_response, watch_nodes_response,
};
