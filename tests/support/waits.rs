//! Waits for many nodes, whose containers only have to run.

use std::{collections::HashSet, time::Duration};

use readyd::{
    monitor::{Wait, WaitEvent, WaitRequest, WaitTarget},
    probe::Probe,
};

pub fn names(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{prefix}{n}")).collect()
}

/// A request whose nodes pass once their containers run.
pub fn containers(nodes: &[String], limit: Option<Duration>) -> WaitRequest {
    let target = |node: &String| WaitTarget {
        node: node.parse().unwrap(),
        role: None,
        profile: None,
    };
    WaitRequest {
        nodes: nodes.iter().map(target).collect(),
        probes: vec![Probe::named("container").unwrap()],
        limit,
        ..WaitRequest::default()
    }
}

/// Reads a wait until each of its nodes has been told of.
pub async fn all_told(wait: &mut Wait, count: usize) {
    let mut told = HashSet::new();
    while told.len() < count {
        match wait.next().await {
            Some(WaitEvent::Node(report)) => {
                told.insert(report.node.clone());
            }
            other => panic!("{other:?}"),
        }
    }
}
