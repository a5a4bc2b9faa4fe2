//! The client commands.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::{
    CheckArguments, ClientArguments, Exit, NodesArguments, Output, SnapshotArguments, Usage,
    WaitArguments,
    connect::{self, Client},
    progress::{self, Progress},
    render, signals, table,
};
use crate::{
    client::{
        CheckRequest, ClusterSelector, FailurePolicy, Level, ListNodesRequest, ListProbesRequest,
        NodeReport, NodeTarget, NodeView, Outcome, SnapshotRequest, Verdict, WaitReadyRequest,
        WatchNodesRequest, wait_ready_response::Event, watch_nodes_response::Event as Watched,
    },
    grpc::{JOBS_NOT_ALLOWED, ListenError, profile_number, role_number},
};

/// How long a wait's stream may be silent, so that one can tell it from a dead one.
const HEARTBEAT: Duration = Duration::from_secs(30);

pub(super) async fn snapshot(arguments: SnapshotArguments) -> anyhow::Result<Exit> {
    let SnapshotArguments { node, role, client } = arguments;
    let (output, profile) = (client.output, client.monitor.profile);
    let mut client = connect::connect(client).await?;
    let request = SnapshotRequest {
        node,
        role: role_number(role),
        profile: profile_number(profile),
    };
    let response = client.service.snapshot(request).await?.into_inner();
    match output {
        Output::Text => render::print(&render::snapshot(&response))?,
        Output::Json => render::print(&render::json("readyd.v1.SnapshotResponse", &response)?)?,
    }
    Ok(if response.ready {
        Exit::Ready
    } else {
        Exit::NotReady
    })
}

pub(super) async fn check(arguments: CheckArguments) -> anyhow::Result<Exit> {
    let CheckArguments {
        node,
        probe,
        role,
        timeout,
        client,
    } = arguments;
    let (output, profile) = (client.output, client.monitor.profile);
    let mut client = connect::connect(client).await?;
    let request = CheckRequest {
        node,
        probe,
        timeout: proto(timeout),
        role: role_number(role),
        profile: profile_number(profile),
    };
    let response = client.service.check(request).await?.into_inner();
    let report = response.report.clone().unwrap_or_default();
    match output {
        Output::Text => render::print(&render::probe(&report, 0))?,
        Output::Json => render::print(&render::json("readyd.v1.CheckResponse", &response)?)?,
    }
    Ok(match report.outcome() {
        Outcome::Passed => Exit::Ready,
        Outcome::Terminal => Exit::Terminal,
        Outcome::Unspecified | Outcome::Unknown => Exit::CouldNotTell,
        Outcome::Failed | Outcome::Skipped => Exit::NotReady,
    })
}

pub(super) async fn wait(arguments: WaitArguments) -> anyhow::Result<Exit> {
    let WaitArguments {
        nodes,
        cluster,
        min_nodes,
        role,
        probe,
        timeout,
        poll_interval,
        stable_for,
        level,
        keep_waiting,
        client,
    } = arguments;
    let (output, profile) = (client.output, client.monitor.profile);
    let target = |node| NodeTarget {
        node,
        role: role_number(role),
        profile: profile_number(profile),
    };
    // A cluster whose jobs hang is not what people wait for.
    let default = cluster.as_ref().filter(|_| probe.is_empty());
    let level = level.or_else(|| default.map(|_| Level::Registered));
    if let (Some((realm, name)), Output::Text) = (&cluster, output) {
        progress::start(realm, name, level);
    }
    let cluster = cluster.map(|(realm, cluster)| ClusterSelector {
        realm,
        cluster,
        min_nodes: min_nodes.unwrap_or_default(),
    });
    let policy = if keep_waiting {
        FailurePolicy::KeepWaiting
    } else {
        FailurePolicy::Stop
    };
    let request = WaitReadyRequest {
        nodes: nodes.into_iter().map(target).collect(),
        cluster,
        probes: probe,
        timeout: proto(timeout),
        poll_interval: proto(poll_interval),
        stable_for: proto(stable_for),
        failure_policy: policy.into(),
        level: level.unwrap_or_default().into(),
        heartbeat_interval: proto(Some(HEARTBEAT)),
    };
    let (mut progress, mut nodes) = (Progress::new(), BTreeMap::new());
    let waited = async {
        let mut client = connect::connect(client).await?;
        follow(&mut client, request, output, &mut progress, &mut nodes).await
    };
    if let Some(ended) = signals::unless_received(waited).await? {
        return ended;
    }
    if output == Output::Text {
        progress.finish();
        render::print(&render::interrupted(&nodes))?;
    }
    Ok(Exit::Interrupted)
}

/// Prints the progress and the result of a wait, keeps the newest state of each node, and returns
/// the exit code.
async fn follow(
    client: &mut Client,
    request: WaitReadyRequest,
    output: Output,
    progress: &mut Progress,
    nodes: &mut BTreeMap<String, NodeReport>,
) -> anyhow::Result<Exit> {
    let mut messages = client.service.wait_ready(request).await?.into_inner();
    let mut ended = None;
    loop {
        let message = match messages.message().await {
            Ok(Some(message)) => message,
            // The status repeats the result. Without a result, the status is the only error to
            // report.
            Err(status) if ended.is_none() => return Err(status.into()),
            Ok(None) | Err(_) => break,
        };
        if output == Output::Json {
            render::print(&render::json("readyd.v1.WaitReadyResponse", &message)?)?;
        }
        match message.event {
            Some(Event::Node(node)) if output == Output::Text => {
                progress.node(&node);
                nodes.insert(node.node.clone(), node);
            }
            Some(Event::Removed(node)) if output == Output::Text => {
                progress.removed(&node);
                nodes.remove(&node);
            }
            Some(Event::Cluster(report)) if output == Output::Text => progress.cluster(&report),
            Some(Event::Result(result)) => {
                if output == Output::Text {
                    progress.finish();
                    render::print(&render::result(&result))?;
                }
                ended = Some(result.verdict());
            }
            _ => {}
        }
    }
    Ok(match ended {
        Some(Verdict::Ready) => Exit::Ready,
        Some(Verdict::Terminal) => Exit::Terminal,
        Some(Verdict::TimedOut) => Exit::TimedOut,
        Some(Verdict::Unspecified) | None => Exit::CouldNotTell,
    })
}

pub(super) async fn probes(arguments: ClientArguments) -> anyhow::Result<Exit> {
    let output = arguments.output;
    let mut client = connect::connect(arguments).await?;
    let listed = client.service.list_probes(ListProbesRequest {}).await?;
    let listed = listed.into_inner();
    match output {
        Output::Text => render::print(&table::probes(&listed.probes))?,
        Output::Json => render::print(&render::json("readyd.v1.ListProbesResponse", &listed)?)?,
    }
    Ok(Exit::Ready)
}

pub(super) async fn nodes(arguments: NodesArguments) -> anyhow::Result<Exit> {
    let NodesArguments {
        cluster,
        role,
        watch,
        client,
    } = arguments;
    let output = client.output;
    let mut client = connect::connect(client).await?;
    let (realm, cluster) = cluster.unwrap_or_default();
    let role = role.into_iter();
    let roles = role.map(|role| role_number(Some(role))).collect();
    if watch {
        let request = WatchNodesRequest {
            realm,
            cluster,
            roles,
            heartbeat_interval: proto(Some(HEARTBEAT)),
            level: 0,
        };
        return follow_nodes(&mut client, request, output).await;
    }
    let mut request = ListNodesRequest {
        realm,
        cluster,
        roles,
        view: NodeView::Full.into(),
        page_size: 0,
        page_token: String::new(),
    };
    let mut nodes = Vec::new();
    loop {
        let page = client
            .service
            .list_nodes(request.clone())
            .await?
            .into_inner();
        if output == Output::Json {
            render::print(&render::json("readyd.v1.ListNodesResponse", &page)?)?;
        }
        nodes.extend(page.nodes);
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    if output == Output::Text {
        render::print(&table::nodes(&nodes))?;
    }
    Ok(Exit::Ready)
}

/// Prints the states of nodes, and each change, for as long as the server tells them.
async fn follow_nodes(
    client: &mut Client,
    request: WatchNodesRequest,
    output: Output,
) -> anyhow::Result<Exit> {
    let started = Instant::now();
    let mut messages = client.service.watch_nodes(request).await?.into_inner();
    while let Some(message) = messages.message().await? {
        if output == Output::Json {
            render::print(&render::json("readyd.v1.WatchNodesResponse", &message)?)?;
            continue;
        }
        let said = match message.event {
            Some(Watched::Node(node)) => table::line(&node),
            Some(Watched::Removed(node)) => format!("{node}  removed"),
            Some(Watched::Synced(_) | Watched::Heartbeat(_)) | None => continue,
        };
        let at = started.elapsed().as_secs_f64();
        render::print(&format!("{at:8.3}s  {said}"))?;
    }
    Ok(Exit::CouldNotTell)
}

/// Returns the exit code of an error.
pub(super) fn exit_of(error: &anyhow::Error) -> Exit {
    let refused = error.downcast_ref::<ListenError>();
    if error.is::<Usage>() || matches!(refused, Some(ListenError::Insecure { .. })) {
        return Exit::Usage;
    }
    let status = error.downcast_ref::<Status>();
    let reason = status.and_then(StatusExt::get_details_error_info);
    if reason.is_some_and(|reason| reason.reason == JOBS_NOT_ALLOWED) {
        return Exit::Usage;
    }
    match status.map(Status::code) {
        Some(Code::InvalidArgument) => Exit::Usage,
        Some(Code::DeadlineExceeded) => Exit::TimedOut,
        Some(Code::FailedPrecondition) => Exit::Terminal,
        _ => Exit::CouldNotTell,
    }
}

/// Converts a duration. One that is too long for the proto's type becomes the longest that the type
/// can hold, and the server then reports that it is too long.
fn proto(duration: Option<Duration>) -> Option<prost_types::Duration> {
    let longest = prost_types::Duration {
        seconds: i64::MAX,
        nanos: 0,
    };
    duration.map(|duration| duration.try_into().unwrap_or(longest))
}
