//! Shows the progress of a wait: on a terminal one live line per node, elsewhere one line per
//! change.

use std::{
    collections::HashMap,
    io::{IsTerminal as _, Write as _, stderr},
    time::{Duration, Instant},
};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::client::{NodeReport, NodeState};

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
            Self::Lines { started } => {
                let at = started.elapsed().as_secs_f64();
                // If the reader of stderr has gone, the wait still goes on to its end.
                let _ = writeln!(stderr(), "{at:8.3}s  {}  {}", report.node, message(report));
            }
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
