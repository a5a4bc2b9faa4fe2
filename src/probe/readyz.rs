//! `GET /readyz`, by which Slurm's daemons tell on their own port whether they serve (25.11 and later).

use std::{
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use crate::question::PortQuestion;

/// Returns the question to a daemon's port.
pub(super) const fn question(port: u16) -> PortQuestion {
    PortQuestion {
        address: IpAddr::V4(Ipv4Addr::LOCALHOST),
        port,
        process: None,
        send: "GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        prefix: "HTTP/",
        within: Duration::from_millis(500),
        cap: 4 * 1024,
        pause: Duration::ZERO,
    }
}

/// Returns the status code of an answer; `None` if it is not HTTP.
pub(super) fn status(sent: &[u8]) -> Option<u16> {
    let sent = String::from_utf8_lossy(sent);
    let mut words = sent.lines().last()?.split_ascii_whitespace();
    words.next()?.strip_prefix("HTTP/")?;
    let code = words.next()?.parse().ok()?;
    (100..600).contains(&code).then_some(code)
}
