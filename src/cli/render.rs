//! Renders results and errors, for people and for programs.

use std::{
    collections::BTreeMap,
    io::{self, Write as _},
    sync::OnceLock,
};

use anyhow::Context as _;
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};
use tonic::{Code, Status};

use crate::client::{
    Cause, DESCRIPTORS, NodeReport, NodeState, Outcome, ProbeReport, Role, SnapshotResponse,
    Verdict, WaitResult,
};

/// Prints a result. It is not an error if the reader has gone.
pub(super) fn print(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    match writeln!(stdout, "{text}").and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

/// Prints an error to stderr.
pub(super) fn error(error: &anyhow::Error) {
    let text = match error.downcast_ref::<Status>() {
        Some(status) => format!("{}: {}", code(status.code()), status.message()),
        None => format!("{error:#}"),
    };
    let _ = writeln!(io::stderr(), "readyd: {text}");
}

/// Returns the code's name, as gRPC writes it.
fn code(code: Code) -> &'static str {
    match code {
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::NotFound => "NOT_FOUND",
        Code::Unavailable => "UNAVAILABLE",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::Unimplemented => "UNIMPLEMENTED",
        other => other.description(),
    }
}

/// Renders a message in protobuf's JSON, on one line, with default values.
pub(super) fn json(name: &str, message: &impl Message) -> anyhow::Result<String> {
    // Decoded once: a wait prints many lines.
    static POOL: OnceLock<DescriptorPool> = OnceLock::new();
    let pool = if let Some(pool) = POOL.get() {
        pool
    } else {
        let pool = DescriptorPool::decode(DESCRIPTORS);
        let pool = pool.context("reading the service's descriptors")?;
        POOL.get_or_init(|| pool)
    };
    let descriptor = pool
        .get_message_by_name(name)
        .with_context(|| format!("{name} is unknown"))?;
    let dynamic = DynamicMessage::decode(descriptor, message.encode_to_vec().as_slice())?;
    let options = SerializeOptions::new().skip_default_fields(false);
    let mut line = serde_json::Serializer::new(Vec::new());
    dynamic.serialize_with_options(&mut line, &options)?;
    Ok(String::from_utf8(line.into_inner())?)
}

/// Returns a role's name; an unset one has none.
pub(super) fn role(role: Role) -> String {
    match role {
        Role::Unspecified => String::new(),
        role => role
            .as_str_name()
            .trim_start_matches("ROLE_")
            .to_lowercase(),
    }
}

/// Renders a snapshot for people.
pub(super) fn snapshot(response: &SnapshotResponse) -> String {
    let ready = if response.ready { "ready" } else { "not ready" };
    let role = match role(response.role()).as_str() {
        "" => String::new(),
        role => format!(" ({role})"),
    };
    let mut lines = vec![format!("{}{role}: {ready}", response.node)];
    let width = response
        .probes
        .iter()
        .map(|report| report.probe.len())
        .max()
        .unwrap_or(0);
    lines.extend(
        response
            .probes
            .iter()
            .map(|report| format!("  {}", probe(report, width))),
    );
    lines.join("\n")
}

/// Renders a probe's report for people, with the probe's name padded to a width.
pub(super) fn probe(report: &ProbeReport, width: usize) -> String {
    let outcome = match report.outcome() {
        Outcome::Passed => "passed",
        Outcome::Failed => "failed",
        Outcome::Terminal => "terminal",
        Outcome::Skipped => "skipped",
        Outcome::Unknown | Outcome::Unspecified => "unknown",
    };
    let mut text = format!("{:width$}  {outcome}", report.probe);
    if !report.reason.is_empty() {
        text.push_str("  ");
        text.push_str(&report.reason);
    }
    append(&mut text, &report.detail);
    text
}

/// Appends the detail's lines, indented under the line that they belong to.
fn append(text: &mut String, detail: &str) {
    for line in detail.lines() {
        text.push_str("\n    ");
        text.push_str(line);
    }
}

/// Renders how far a wait was when it was interrupted: the first node that is not ready, and its reason.
pub(super) fn interrupted(nodes: &BTreeMap<String, NodeReport>) -> String {
    if nodes.is_empty() {
        return "interrupted before anything was told of a node".to_owned();
    }
    let waiting = |node: &&NodeReport| node.state() != NodeState::Ready;
    let ready = nodes.values().filter(|node| !waiting(node)).count();
    let mut text = format!("interrupted: {ready} of {} nodes are ready", nodes.len());
    if let Some(first) = nodes.values().find(waiting) {
        text = format!("{text}, {}: {}", first.node, first.reason);
    }
    text
}

/// Renders what keeps nodes from being ready, where that is more than the message says: a line for each cause,
/// and one for those that wait for it.
fn causes(result: &WaitResult) -> String {
    let mut text = String::new();
    let is_all = matches!(
        &result.causes[..],
        [] | [Cause {
            affected_count: 0,
            ..
        }]
    );
    if is_all {
        return text;
    }
    for cause in result.causes.iter().take(CAUSES) {
        let about = [&cause.node[..], &cause.probe, &cause.reason];
        let about: Vec<_> = about.into_iter().filter(|part| !part.is_empty()).collect();
        text = format!("{text}\n  {}", about.join("  "));
        if cause.affected_count > 0 {
            let named = cause
                .affected
                .iter()
                .take(CAUSES)
                .cloned()
                .collect::<Vec<_>>();
            let more = (cause.affected_count as usize).saturating_sub(named.len());
            let more = if more > 0 {
                format!(" and {more} more")
            } else {
                String::new()
            };
            text = format!("{text}\n    waited for by {}{more}", named.join(", "));
        }
    }
    match result.causes.len().saturating_sub(CAUSES) {
        0 => text,
        more => format!("{text}\n  and {more} more"),
    }
}

/// How many causes, and how many nodes that wait for one, are printed.
const CAUSES: usize = 10;

/// Renders the result of a wait for people.
pub(super) fn result(result: &WaitResult) -> String {
    let elapsed = result.elapsed.unwrap_or_default();
    let elapsed = std::time::Duration::try_from(elapsed).unwrap_or_default();
    let seconds = elapsed.as_secs_f64();
    let nodes = match result.nodes.len() {
        1 => "1 node".to_owned(),
        count => format!("{count} nodes"),
    };
    match result.verdict() {
        Verdict::Ready => format!("ready: {nodes} after {seconds:.3}s"),
        Verdict::Terminal => {
            let mut text = format!("terminal: {}", result.message);
            let probes = result.nodes.iter().flat_map(|node| &node.probes);
            for report in probes.filter(|report| report.outcome() == Outcome::Terminal) {
                append(&mut text, &report.detail);
            }
            text + &causes(result)
        }
        Verdict::TimedOut => format!("timed out: {}{}", result.message, causes(result)),
        Verdict::Unspecified => "the server gave no verdict".to_owned(),
    }
}
