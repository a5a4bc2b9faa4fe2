//! Probes of the operator's own, on real nodes.

// A test's helpers may make it fail, too.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

mod support;

use std::io::Write as _;

use rstest::rstest;

use support::real::{BOOKWORM, FORKY, Node, Serve, readyd, stderr, stdout, unique};

const PROBES: &str = r#"
[[probe]]
name = "motd"
description = "the message of the day is there"
kind = "file"
path = "/etc/motd-of-ours"
after = "systemd"

[[probe]]
name = "banner"
kind = "banner"
port = 8081
prefix = "HI-"

[[probe]]
name = "port"
kind = "tcp"
port = 8081

[[probe]]
name = "journal"
kind = "unit"
unit = "systemd-journald.service"
roles = ["submitter"]

[[probe]]
name = "ours"
kind = "exec"
argv = ["sh", "-c", "test -e /ours || { printf 'not\\033[2Jyet'; exit 3; }"]
success_threshold = 2

# It says nothing by itself.
[[probe]]
name = "silent"
kind = "tcp"
port = 8082

[[probe]]
name = "web"
kind = "http"
port = 8080
path = "/healthz"
"#;

/// Answers everything by HTTP with that status.
fn web(status: &str) -> String {
    format!(
        "perl -MIO::Socket::INET -e 'my $l = IO::Socket::INET->new(LocalAddr => \"127.0.0.1:8080\", \
         Listen => 9, ReuseAddr => 1); while (my $c = $l->accept) {{ \
         while (<$c> =~ /\\S/) {{}} \
         print $c \"HTTP/1.1 {status} x\\r\\nLocation: http://127.0.0.1:22/\\r\\n\\r\\n\"; close $c }}' \
         >/dev/null 2>&1 & echo $!"
    )
}

#[rstest]
#[test]
fn a_node_has_to_pass_them_as_well(
    #[values(BOOKWORM, FORKY)] suite: &'static str,
    #[values("host", "bridge", "exec")] link: &'static str,
) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(PROBES.as_bytes()).unwrap();
    let config = file.path().to_str().unwrap();
    let serve = Serve::start(&["--config", config, "--link", link]);
    let name = unique("own");
    let node = Node::start(suite, &name, &["--label", "sind.role=submitter"]);
    let wait = |limit: &str| {
        let arguments = ["wait", &name, "--timeout", limit, "--server", &serve.url];
        let waited = readyd(&arguments);
        (waited.status.code(), stdout(&waited))
    };
    let says = |(code, said): (Option<i32>, String), why: &str| {
        assert_eq!(code, Some(4), "{said}");
        assert!(said.contains(&format!("{name}: {why}")), "{said}");
    };

    says(wait("15s"), "motd: there is no such file");
    node.sh("touch /etc/motd-of-ours");
    says(wait("5s"), "banner: Connection refused");
    node.sh(
        "perl -MIO::Socket::INET -e 'my $l = IO::Socket::INET->new(LocalAddr => \"127.0.0.1:8081\", \
         Listen => 9); while (my $c = $l->accept) { print $c \"one\\nHI-2\\n\"; close $c }' \
         >/dev/null 2>&1 &",
    );
    // What a command prints is cleaned.
    says(wait("5s"), "ours: it ended with 3: not[2Jyet");
    node.sh("touch /ours");
    says(wait("5s"), "silent: Connection refused");
    node.sh(
        "perl -MIO::Socket::INET -e 'my $l = IO::Socket::INET->new(LocalAddr => \"127.0.0.1:8082\", \
         Listen => 9); my @all; while (my $c = $l->accept) { push @all, $c }' >/dev/null 2>&1 &",
    );
    says(wait("5s"), "web: Connection refused");
    // A redirect is not followed.
    let redirects = node.sh(&web("302"));
    says(wait("5s"), "web: it answers 302");
    node.sh(&format!("kill {redirects}; sleep 0.2; {}", web("204")));
    assert_eq!(wait("20s").0, Some(0));

    let check = |probe: &str| {
        let checked = readyd(&["check", &name, probe, "--server", &serve.url]);
        checked.status.code()
    };
    for probe in ["motd", "banner", "port", "journal", "ours", "silent", "web"] {
        assert_eq!(check(probe), Some(0), "{probe}");
    }
    let named = ["wait", &name, "--probe", "port", "--server", &serve.url];
    assert_eq!(readyd(&named).status.code(), Some(0));
    let unknown = readyd(&["check", &name, "nope", "--server", &serve.url]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(stderr(&unknown).contains("registered, motd, banner"));
    // The built-in ones alone make a node's boot.
    node.sh("rm /ours");
    let booted = ["wait", &name, "--level", "booted", "--server", &serve.url];
    assert_eq!(readyd(&booted).status.code(), Some(0));
}

#[test]
fn they_are_listed_and_a_wrong_file_is_told() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(PROBES.as_bytes()).unwrap();
    let config = file.path().to_str().unwrap().to_owned();
    let listed = readyd(&["probes", "--config", &config]);
    assert_eq!(listed.status.code(), Some(0));
    let listed = stdout(&listed);
    assert!(listed.contains("slurmctld    controller"), "{listed}");
    assert!(
        listed.contains("the message of the day is there"),
        "{listed}"
    );
    file.write_all(b"optinal = true\n").unwrap();
    let wrong = readyd(&["serve", "--listen", "127.0.0.1:0", "--config", &config]);
    assert_eq!(wrong.status.code(), Some(2));
    let line = PROBES.lines().count() + 1;
    let said = format!("readyd: {config}: line {line}: unknown field `optinal`, expected one of");
    assert!(stderr(&wrong).contains(&said), "{wrong:?}");
}
