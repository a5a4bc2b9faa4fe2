//! The probe `healthcheck`: the engine's own health status of the container is healthy.

use super::{Evidence, Finding, Outcome};
use crate::{
    container::{Health, HealthStatus},
    reason::ReasonCode,
    text::Detail,
};

/// Judges the health status. A container without a health check passes and says so. The output of the last
/// check is shown only if `show` is set.
pub(crate) fn judge(health: Option<&Health>, show: bool) -> Finding {
    let Some(Health { status, output }) = health else {
        return Outcome::passed_with("the container has no health check").into();
    };
    let why = match status {
        HealthStatus::Healthy => return Finding::passed(),
        HealthStatus::Starting => "starting: no check has succeeded yet".to_owned(),
        HealthStatus::Unhealthy => "unhealthy".to_owned(),
        HealthStatus::Other(status) => format!("in the unknown state {status:.100?}"),
    };
    let output = if show {
        output.clone()
    } else {
        Detail::default()
    };
    Finding {
        evidence: Evidence::detail(output),
        ..Finding::failed(
            ReasonCode::ContainerUnhealthy,
            format!("the engine's health check says that the container is {why}"),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_healthy_and_no_check_pass() {
        let judged = |status| {
            let output = Detail::new("curl: (7)");
            judge(Some(&Health { status, output }), true)
        };
        assert_eq!(judged(HealthStatus::Healthy), Finding::passed());
        assert!(judge(None, true).has_passed());
        for status in [
            HealthStatus::Starting,
            HealthStatus::Unhealthy,
            HealthStatus::Other("x".to_owned()),
        ] {
            let judged = judged(status);
            assert!(!judged.has_passed());
            assert_eq!(judged.evidence.detail.as_str(), "curl: (7)");
        }
        let health = Health {
            status: HealthStatus::Unhealthy,
            output: Detail::new("a secret"),
        };
        assert!(judge(Some(&health), false).evidence.detail.is_empty());
    }
}
