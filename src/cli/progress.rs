//! Shows the progress of a wait: on a terminal one live line per node, elsewhere one line per
//! change.

use std::{
    collections::HashMap,
    io::{IsTerminal as _, Write as _, stderr},
    time::{Duration, Instant},
};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::client::{ClusterReport, Level, NodeReport, NodeState};

/// The key of the cluster's own line.
const CLUSTER: &str = "/";

/// Shows the progress of a wait on stderr.
pub(super) enum Progress {
    Live {
        bars: MultiProgress,
        nodes: HashMap<String, ProgressBar>,
    },
    Lines {
        started: Instant,
    },
}

impl Progress {
    pub(super) fn new() -> Self {
        if stderr().is_terminal() {
            Self::Live {
                bars: MultiProgress::new(),
                nodes: HashMap::new(),
            }
        } else {
            Self::Lines {
                started: Instant::now(),
            }
        }
    }

    /// Shows a node's newest state.
    pub(super) fn node(&mut self, report: &NodeReport) {
        match self {
            Self::Live { bars, nodes } => {
                let bar = nodes
                    .entry(report.node.clone())
                    .or_insert_with(|| bars.add(ProgressBar::new_spinner()));
                bar.set_style(style(report.state()));
                bar.set_prefix(report.node.clone());
                bar.set_message(message(report));
                // Only the line of a node that is still waiting is animated.
                if report.state() == NodeState::Waiting {
                    bar.enable_steady_tick(Duration::from_millis(100));
                } else {
                    bar.disable_steady_tick();
                    bar.tick();
                }
            }
            Self::Lines { started } => line(*started, &report.node, &message(report)),
        }
    }

    /// Shows that a node has left the cluster.
    pub(super) fn removed(&mut self, node: &str) {
        match self {
            Self::Live { nodes, .. } => {
                if let Some(bar) = nodes.remove(node) {
                    bar.finish_and_clear();
                }
            }
            Self::Lines { started } => line(*started, node, "removed"),
        }
    }

    /// Shows how the cluster is.
    pub(super) fn cluster(&mut self, report: &ClusterReport) {
        let mut said = format!("{} of {} nodes ready", report.ready, report.present);
        if !report.reason.is_empty() {
            said = format!("{said}  {}", report.reason);
        }
        match self {
            Self::Live { bars, nodes } => {
                // No node is called so.
                let bar = nodes
                    .entry(CLUSTER.to_owned())
                    .or_insert_with(|| bars.insert(0, ProgressBar::new_spinner()));
                bar.set_style(style(NodeState::Waiting));
                bar.set_prefix("cluster");
                bar.set_message(said);
                bar.tick();
            }
            Self::Lines { started } => line(*started, "cluster", &said),
        }
    }

    /// Leaves the live lines as they are.
    pub(super) fn finish(&mut self) {
        if let Self::Live { nodes, .. } = self {
            for bar in nodes.values() {
                bar.abandon();
            }
        }
    }
}

/// Says first what a cluster is waited for.
pub(super) fn start(realm: &str, name: &str, level: Option<Level>) {
    let level = level.map(|level| {
        let name = level.as_str_name().to_lowercase();
        format!("level {}", name.trim_start_matches("level_"))
    });
    let until = level.unwrap_or_else(|| "the probes that are named".to_owned());
    let _ = writeln!(stderr(), "cluster {realm}/{name}: waiting for {until}");
}

fn line(started: Instant, about: &str, said: &str) {
    let at = started.elapsed().as_secs_f64();
    // If the reader of stderr has gone, the wait still goes on to its end.
    let _ = writeln!(stderr(), "{at:8.3}s  {about}  {said}");
}

fn message(report: &NodeReport) -> String {
    match report.state() {
        NodeState::Ready => "ready".to_owned(),
        NodeState::Terminal => format!("terminal  {}", report.reason),
        NodeState::Waiting | NodeState::Unspecified => format!("waiting  {}", report.reason),
    }
}

fn style(state: NodeState) -> ProgressStyle {
    let template = match state {
        NodeState::Ready => "{prefix:.bold}  {msg:.green}",
        NodeState::Terminal => "{prefix:.bold}  {msg:.red}",
        _ => "{prefix:.bold}  {spinner} {wide_msg}",
    };
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner())
}
