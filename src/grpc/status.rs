//! Converts errors to gRPC statuses: a code, a message, and `google.rpc` details.
//!
//! Stock clients fail on trailers over 8 KiB, and the caller then sees another error. All trailers
//! together therefore stay under 4 KiB, whatever a node prints.

use std::{collections::HashMap, fmt::Write as _, time::Duration};

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::{
    monitor::{MonitorError, Verdict, WaitResult},
    node::NodeName,
    text::{chain, clean, truncate},
};

const DOMAIN: &str = "readyd.v1";

/// The maximum size of the trailers on the wire in bytes, their names included.
const TRAILER_BYTES: usize = 4096;

/// The part of that size that the message and the details may use, as `weight` measures it.
const BUDGET: usize = TRAILER_BYTES - 256;

/// The maximum size of a message on the wire in bytes, where gRPC percent-encodes it. The details
/// contain the message once more.
const MESSAGE_BYTES: usize = 1200;

/// How many characters of a value an error quotes at most.
pub(super) const VALUE_CHARS: usize = 64;

/// The reason of a refusal to run jobs.
pub(crate) const JOBS_NOT_ALLOWED: &str = "JOBS_NOT_ALLOWED";

/// How many violations a status lists at most.
const VIOLATIONS: usize = 16;

/// The violations of a request, as many as a status lists, and how many more there are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Violations {
    told: Vec<Violation>,
    more: usize,
}

impl Violations {
    pub(super) fn add(&mut self, field: impl Into<String>, description: impl Into<String>) {
        if self.told.len() == VIOLATIONS {
            self.more += 1;
            return;
        }
        self.told.push(Violation {
            field: field.into(),
            description: description.into(),
        });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.told.is_empty()
    }

    #[cfg(test)]
    pub(super) fn fields(&self) -> Vec<&str> {
        let fields = self.told.iter().map(|violation| violation.field.as_str());
        fields.collect()
    }

    #[cfg(test)]
    pub(super) fn descriptions(&self) -> Vec<&str> {
        let told = self.told.iter();
        told.map(|violation| violation.description.as_str())
            .collect()
    }
}

/// A field of a request, and the description of its error.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Violation {
    field: String,
    description: String,
}

/// Quotes a value for an error: shortened, and without control characters.
pub(super) fn quoted(value: &str) -> String {
    let mut chars = value.chars();
    let mut head: String = chars.by_ref().take(VALUE_CHARS).collect();
    if chars.next().is_some() {
        head.push('…');
    }
    format!("\"{}\"", clean(&head, false))
}

/// Returns INVALID_ARGUMENT with all violations.
pub(super) fn invalid(violations: &Violations) -> Status {
    let Violations { told, more } = violations;
    let first = told.first();
    let mut message = first.map_or_else(
        || "invalid request".to_owned(),
        |violation| format!("{}: {}", violation.field, violation.description),
    );
    let others = told.len().saturating_sub(1) + more;
    if others > 0 {
        // Writing to a string cannot fail.
        let _ = write!(message, " (and {others} more)");
    }
    let mut bytes = 400;
    loop {
        let mut details = details("INVALID_REQUEST", None, None);
        for violation in told {
            let mut description = violation.description.clone();
            truncate(&mut description, bytes);
            details.add_bad_request_violation(&violation.field, description);
        }
        if *more > 0 {
            details.add_bad_request_violation("", format!("and {more} more"));
        }
        let status = status(Code::InvalidArgument, &message, details);
        // Descriptions are shortened before any violation is dropped: a field's name alone shows
        // where the error is.
        if weight(&status) <= BUDGET || bytes < 8 {
            return status;
        }
        bytes /= 2;
    }
}

/// Converts a monitor's error for a unary call, of one probe or of several.
pub(super) fn monitor(error: &MonitorError, probe: Option<&str>) -> Status {
    match error {
        MonitorError::NodeNotFound { node } => status(
            Code::NotFound,
            &error.to_string(),
            details("NODE_NOT_FOUND", Some(node), probe),
        ),
        MonitorError::CouldNotTell { node, probe, .. } => status(
            Code::Unavailable,
            &chain(error),
            details("ENGINE_UNREACHABLE", Some(node), Some(probe)),
        ),
        MonitorError::NoList { .. } => status(
            Code::Unavailable,
            &chain(error),
            details("ENGINE_UNREACHABLE", None, None),
        ),
    }
}

/// Returns the status that follows a wait's result; `None` if the result is ready.
pub(super) fn wait(result: &WaitResult) -> Option<Status> {
    let (code, reason) = match result.verdict {
        Verdict::Ready => return None,
        Verdict::Terminal => (Code::FailedPrecondition, "NODE_TERMINAL"),
        Verdict::TimedOut => (Code::DeadlineExceeded, "WAIT_TIMED_OUT"),
    };
    let about = result.about.and_then(|index| result.nodes.get(index));
    let probe = about
        .and_then(|report| report.failing())
        .map(|report| report.probe.as_str());
    Some(status(
        code,
        &result.message,
        details(reason, about.map(|report| &report.node), probe),
    ))
}

/// Returns the status of a unary call that has no reply before the caller's deadline.
pub(super) fn deadline(node: Option<&NodeName>, probe: Option<&str>, left: Duration) -> Status {
    let about = [node.map(NodeName::as_str), probe];
    let about: String = about
        .into_iter()
        .flatten()
        .map(|what| what.to_owned() + ": ")
        .collect();
    let message = format!(
        "{about}no answer within the {} that the caller's deadline leaves",
        crate::engine::seconds(left)
    );
    let details = details("DEADLINE_EXCEEDED", node, probe);
    status(Code::DeadlineExceeded, &message, details)
}

/// Returns the status of a call that gets no permit because the server is full.
pub(super) fn full(what: &str, limit: usize) -> Status {
    let mut details = details("SERVER_FULL", None, None);
    details.set_retry_info(Some(Duration::from_secs(1)));
    let message = format!("the server is full: it serves {limit} {what} at once; try again later");
    status(Code::ResourceExhausted, &message, details)
}

/// Returns the status of a call to a server that is shutting down.
pub(super) fn draining() -> Status {
    status(
        Code::Unavailable,
        "the server is shutting down; ask another, or again when it is back",
        details("SERVER_DRAINING", None, None),
    )
}

/// Returns the status of a watch that its client has not read for so long.
pub(super) fn slow_reader(unread: Duration) -> Status {
    let unread = crate::engine::seconds(unread);
    status(
        Code::ResourceExhausted,
        &format!("the watch was not read for {unread} while there was something to tell"),
        details("SLOW_READER", None, None),
    )
}

/// Returns the status of a watch whose caller's deadline has come.
pub(super) fn watch_deadline(left: Duration) -> Status {
    let left = crate::engine::seconds(left);
    status(
        Code::DeadlineExceeded,
        &format!("the caller's deadline has ended the watch after {left}"),
        details("DEADLINE_EXCEEDED", None, None),
    )
}

/// Returns the refusal of a wait for the level JOBS.
pub(super) fn jobs_not_allowed() -> Status {
    status(
        Code::FailedPrecondition,
        "level: LEVEL_JOBS asks for a job, and this server runs none (serve --allow-jobs)",
        details(JOBS_NOT_ALLOWED, None, None),
    )
}

fn details(reason: &str, node: Option<&NodeName>, probe: Option<&str>) -> ErrorDetails {
    let cut = |value: &str| value.chars().take(VALUE_CHARS).collect::<String>();
    let mut metadata = HashMap::new();
    if let Some(node) = node {
        metadata.insert("node".to_owned(), cut(node.as_str()));
    }
    if let Some(probe) = probe {
        metadata.insert("probe".to_owned(), cut(probe));
    }
    ErrorDetails::with_error_info(reason, DOMAIN, metadata)
}

fn status(code: Code, message: &str, details: ErrorDetails) -> Status {
    let mut message = message.to_owned();
    let mut bytes = message.len();
    while percent_encoded(&message) > MESSAGE_BYTES {
        bytes -= bytes / 8 + 1;
        truncate(&mut message, bytes);
    }
    Status::with_error_details(code, message, details)
}

/// Returns the size of a status on the wire in bytes, without names and overhead.
fn weight(status: &Status) -> usize {
    percent_encoded(status.message()) + status.details().len().div_ceil(3) * 4
}

/// Returns the size of a message on the wire in bytes ("gRPC over HTTP2", Percent-Encoded).
fn percent_encoded(message: &str) -> usize {
    let plain = |byte: u8| matches!(byte, 0x20..=0x7e) && byte != b'%';
    message
        .bytes()
        .map(|byte| if plain(byte) { 1 } else { 3 })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn violations(count: usize, description: &str) -> Violations {
        let mut violations = Violations::default();
        for n in 0..count {
            violations.add(format!("nodes[{n}].node"), description);
        }
        violations
    }

    #[test]
    fn sixteen_violations_are_told_and_the_rest_counted() {
        let status = invalid(&violations(20, "it is bad"));
        let told = status.get_details_bad_request().unwrap().field_violations;
        assert_eq!(told.len(), 17);
        assert_eq!(told[16].description, "and 4 more");
        assert_eq!(status.message(), "nodes[0].node: it is bad (and 19 more)");
        let told = invalid(&violations(16, "it is bad"))
            .get_details_bad_request()
            .unwrap();
        assert_eq!(told.field_violations.len(), 16);
    }

    #[test]
    fn every_status_says_where_it_comes_from() {
        let node: NodeName = "n1".parse().unwrap();
        let status = monitor(&MonitorError::NodeNotFound { node }, None);
        let info = status.get_details_error_info().unwrap();
        assert_eq!(
            (info.reason.as_str(), info.domain.as_str()),
            ("NODE_NOT_FOUND", "readyd.v1")
        );
        assert_eq!(info.metadata["node"], "n1");
        assert!(full("waits", 1).get_details_retry_info().is_some());
    }

    proptest! {
        #[test]
        fn trailers_stay_small(count in 1usize..1100, text in "\\PC{0,900}") {
            prop_assert!(weight(&invalid(&violations(count, &text))) <= BUDGET);
            let long = status(Code::NotFound, &text.repeat(4), details("R", None, Some(&text)));
            prop_assert!(weight(&long) <= BUDGET);
        }

        #[test]
        fn a_quoted_value_is_short_and_clean(text in any::<String>()) {
            let quoted = quoted(&text);
            prop_assert!(quoted.chars().count() <= VALUE_CHARS + 3);
            prop_assert!(!quoted.contains(char::is_control));
        }
    }
}
