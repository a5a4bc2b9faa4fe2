//! One shell for each node, for as long as it is needed: what has to run in the node runs there,
//! without an exec for each command.
//!
//! ```text
//! readyd ──run NONCE LIMIT 'command' 'argument'…──▶ sh
//!        ◀── what the command prints ── NONCE code ──
//! ```
//!
//! A command that prints too much, or that nobody waits for any more, ends with its shell: standard
//! input is closed, and the shell hangs up on the command.

use std::{fmt::Write as _, sync::Arc, time::Duration};

use futures_util::{FutureExt as _, StreamExt as _};
use tokio::{io::AsyncWriteExt as _, sync::Mutex, time::Instant};

use super::{ExecGate, Link, LinkError, exec, exec::ExecLink, settled::Settled};
use crate::{
    environment::Environment,
    question::{Answer, Question},
    runtime::{
        ContainerId, Exec, ExecChunk, ExecOutput, ExecStreams, Runtime, RuntimeError,
    },
};

/// What the shell runs: requests come in lines on descriptor 3, which commands do not get.
///
/// The marks that end a command's output start on a line of their own, on both streams.
const SHELL: &str = r#"
GREETING=$1
run() {
  nonce=$1 limit=$2; shift 2
  if command -v timeout >/dev/null 2>&1; then set -- timeout -k 1 "$limit" "$@"; fi
  "$@" </dev/null 3<&- &
  command=$!
  { read -r _ <&3; kill -HUP "$command"; } >/dev/null 2>&1 &
  watch=$!
  wait "$command"; code=$?
  { kill "$watch"; wait "$watch"; } 2>/dev/null
  printf '\n%s %s\n' "$nonce" "$code"
  printf '\n%s %s\n' "$nonce" "$code" >&2
}
journal() {
  set -- "_SYSTEMD_UNIT=$1" + "UNIT=$1" _PID=1 ${2:+ + "_PID=$2"}
  timeout 2 journalctl --sync 2>/dev/null
  journalctl --quiet --no-pager --boot --lines=20 "$@" 2>&1 | tail -c 8192
}
clock() {
  IFS=' ' read -r up _ </proc/uptime && echo "uptime $up"
  for pid; do { IFS= read -r stat <"/proc/$pid/stat" && echo "stat $pid $stat"; } 2>/dev/null; done
}
exec 3<&0 </dev/null
while IFS= read -r request <&3; do eval "$request"; done
"#;
