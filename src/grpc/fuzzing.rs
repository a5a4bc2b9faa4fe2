//! Entrances for fuzzing of what clients send.

use std::time::Duration;

use prost::Message as _;

use super::{authority, status, validate};
use crate::pb;

/// Requests as they come: the first byte says of which RPC.
pub fn requests(bytes: &[u8]) {
    let Some((which, request)) = bytes.split_first() else {
        return;
    };
    let refused = match which % 3 {
        0 => pb::SnapshotRequest::decode(request).map(|it| validate::snapshot(&it).err()),
        1 => pb::CheckRequest::decode(request).map(|it| validate::check(&it, &[]).err()),
        _ => pb::WaitReadyRequest::decode(request)
            .map(|it| validate::wait(&it, Duration::from_secs(600), &[]).err()),
    };
    if let Ok(Some(violations)) = refused {
        assert!(!violations.is_empty());
        let status = status::invalid(&violations);
        // Percent-encoding makes three bytes of each; stock clients fail at 8 KiB.
        assert!(status.details().len() * 4 / 3 + 3 * status.message().len() < 8 * 1024);
    }
}

/// The first bytes of a connection over a Unix socket: what is read does not depend on how they are cut.
pub fn authority(bytes: &[u8]) {
    let Some((step, sent)) = bytes.split_first() else {
        return;
    };
    let whole = authority::fuzzed(sent, sent.len());
    let pieces = authority::fuzzed(sent, usize::from(*step).max(1));
    assert_eq!(whole, pieces);
}
