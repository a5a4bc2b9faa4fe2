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

/// Returns the status code of an answer; `None` if it does not begin as HTTP does (RFC 9112, section 4).
pub(super) fn status(sent: &[u8]) -> Option<u16> {
    let sent = String::from_utf8_lossy(sent);
    let (version, rest) = sent
        .lines()
        .last()?
        .strip_prefix("HTTP/")?
        .split_once(' ')?;
    let [major, b'.', minor] = version.as_bytes() else {
        return None;
    };
    let code = rest.split(' ').next()?;
    let mut digits = code.bytes().chain([*major, *minor]);
    let is_well_formed = code.len() == 3 && digits.all(|digit| digit.is_ascii_digit());
    let code = code.parse().ok().filter(|_| is_well_formed)?;
    (100..600).contains(&code).then_some(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_well_formed_status_line_has_a_code() {
        for (line, code) in [
            ("HTTP/1.1 204 No Content\r\n", Some(204)),
            ("HTTP/1.0 200\r\n", Some(200)),
            ("HTTP/1.1 404 Not Found", Some(404)),
            ("HTTP/1. \u{c}200 OK\r\n", None),
            ("HTTP/1.1  200 OK\r\n", None),
            ("HTTP/1.1 +20 OK\r\n", None),
            ("HTTP/1.1 2000 OK\r\n", None),
            ("HTTP/1.1 099 OK\r\n", None),
            ("SSH-2.0-OpenSSH 200\r\n", None),
            ("", None),
        ] {
            assert_eq!(status(line.as_bytes()), code, "{line:?}");
        }
    }
}
