//! Following nodes: one actor for each node that somebody waits for, whatever the number of its
//! clients.
//!
//! ```text
//!              inputs                                  commands
//! events ──┐                                  ┌─▶ inspect, query systemd, query a probe
//! signals ─┼─▶ inbox ─▶ NodeState::handle     │
//! replies ─┤            NodeState::plan ──────┴─▶ wake at …
//! clients ─┘                 │
//!                            ▼
//!              evaluate(ProbeSet, &NodeState, now) ─▶ Evaluation
//!                            ▼
//!              StatusPublisher ─▶ a watch channel for each probe set, newest wins
//! ```
//!
//! | file | what |
//! |---|---|
//! | `actor`, `queries` | takes inputs, executes commands; no decision |
//! | `state` | what is known of one node, what is in flight |
//! | `handle` | what follows from an input |
//! | `evaluate`, `interpret`, `evaluation` | from the state to reports, and what they still need |
//! | `plan`, `due` | what is asked next, and when |
//! | `cached`, `span`, `prompt` | a reply, whether it still counts, and what it was asked for |
//! | `confirm` | what needs a second look; where findings become outcomes |
//! | `schedule` | every constant of time, each with its reason |
//! | `clients`, `probe_set` | who waits, for which probes |
//! | `found`, `report_builder`, `status`, `publish` | what is told, and what of it is news |
//! | `session` | one run of a node's container, and what it means to have no reply |
//! | `probe_query`, `watch` | a probe's own query, question by question; what would change its reply |
//! | `one_shot` | one look at a node, by the same evaluation |
//! | `feed` | the engine's events, one subscription for all nodes |
//! | `registry`, `context` | starting and ending actors; what they share |
//!
//! A client that is slow misses statuses, never the last.

mod actor;
mod cached;
mod clients;
mod confirm;
mod context;
mod credential_query;
mod daemon_query;
mod due;
mod evaluate;
mod evaluation;
mod feed;
mod found;
mod handle;
mod interpret;
mod job_query;
mod last_words;
mod one_shot;
mod own_probe;
mod plan;
mod probe_query;
mod probe_set;
mod prompt;
mod publish;
mod queries;
mod registry;
mod report_builder;
mod schedule;
mod session;
mod span;
mod state;
mod status;
#[cfg(test)]
mod tests;
mod watch;

pub(crate) use cached::Freshness;
pub(crate) use context::{Caller, Context, Settings};
pub(crate) use credential_query::compare_credentials;
pub(crate) use evaluation::Evaluation;
pub(crate) use feed::Feed;
pub(crate) use job_query::run_job;
pub(crate) use one_shot::{OneShot, unreached};
pub(crate) use probe_set::{Mode, ProbeSet};
pub(crate) use registry::{Watcher, Watchers};
pub(crate) use report_builder::EvaluatedProbe;
pub(crate) use schedule::{EVENTS_BACKOFF, RESYNC};
pub(crate) use span::Span;
pub(crate) use status::{NodeStatus, SeenRun};
