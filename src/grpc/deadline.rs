//! Reads the caller's own deadline, which gRPC sends in the call's metadata.

use std::time::Duration;

use tonic::metadata::MetadataMap;

use crate::environment::margin;

/// Returns how much time a call has until the caller gives up, less a [`margin`] for the response's way
/// back. Returns `None` if the caller set no deadline.
///
/// tonic reads this header too, but it only ends the call at the deadline, with CANCELLED.
pub(super) fn of_caller(metadata: &MetadataMap) -> Option<Duration> {
    let left = parse(metadata.get("grpc-timeout")?.to_str().ok()?)?;
    Some(left.saturating_sub(margin(left)))
}

/// Completes after this time; never, if there is none.
pub(super) async fn passed(time: Option<Duration>) {
    match time {
        Some(time) => tokio::time::sleep(time).await,
        None => std::future::pending().await,
    }
}

/// Parses at most eight digits and a unit ("gRPC over HTTP2", Timeout).
fn parse(timeout: &str) -> Option<Duration> {
    let (at, unit) = timeout.char_indices().next_back()?;
    let digits = &timeout[..at];
    if digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let value: u64 = digits.parse().ok()?;
    match unit {
        'H' => Some(Duration::from_secs(value * 3600)),
        'M' => Some(Duration::from_secs(value * 60)),
        'S' => Some(Duration::from_secs(value)),
        'm' => Some(Duration::from_millis(value)),
        'u' => Some(Duration::from_micros(value)),
        'n' => Some(Duration::from_nanos(value)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(header: &str) -> Option<u128> {
        let mut metadata = MetadataMap::new();
        metadata.insert("grpc-timeout", header.parse().unwrap());
        of_caller(&metadata).map(|left| left.as_millis())
    }

    #[test]
    fn the_margin_is_five_percent_within_its_bounds() {
        assert_eq!(left("10S"), Some(9_500));
        assert_eq!(left("500m"), Some(450));
        assert_eq!(left("1M"), Some(59_000));
        assert_eq!(left("80m"), Some(40));
        assert_eq!(left("0n"), Some(0));
    }

    #[test]
    fn what_is_no_timeout_is_none() {
        assert_eq!(of_caller(&MetadataMap::new()), None);
        for header in ["", "S", "-1S", "123456789S", "1.5S", "1x", "+5S"] {
            assert_eq!(left(header), None, "{header}");
        }
    }
}
