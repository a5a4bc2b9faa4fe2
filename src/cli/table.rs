//! Renders nodes as a table, for people.

use super::render::role;
use crate::client::{Node, NodeState, Probe};

const HEAD: [&str; 6] = ["NODE", "CLUSTER", "ROLE", "CONTAINER", "ADDRESS", "STATE"];

/// Renders nodes, one a line under a head.
pub(super) fn nodes(nodes: &[Node]) -> String {
    if nodes.is_empty() {
        return "no nodes".to_owned();
    }
    let head = HEAD.map(str::to_owned);
    table(
        &[head]
            .into_iter()
            .chain(nodes.iter().map(row))
            .collect::<Vec<_>>(),
    )
}

/// Renders probes, one a line under a head.
pub(super) fn probes(probes: &[Probe]) -> String {
    let head = ["PROBE", "NODES", "KIND", "DESCRIPTION"].map(str::to_owned);
    let row = |probe: &Probe| {
        let roles: Vec<_> = probe.roles().map(role).collect();
        let nodes = match &roles[..] {
            _ if probe.on_request => "on request".to_owned(),
            [] => "all".to_owned(),
            roles => roles.join(", "),
        };
        let optional = if probe.optional { " (optional)" } else { "" };
        let kind = match probe.kind.as_str() {
            "" => "built-in".to_owned(),
            kind => format!("{kind}{optional}"),
        };
        [probe.name.clone(), nodes, kind, probe.description.clone()]
    };
    table(
        &[head]
            .into_iter()
            .chain(probes.iter().map(row))
            .collect::<Vec<_>>(),
    )
}

/// Renders rows in columns.
fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: Vec<_> = (0..N).map(|column| width(column).unwrap_or(0)).collect();
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(&widths);
        let cells = cells.map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// Renders a node's newest state on a line of its own.
pub(super) fn line(node: &Node) -> String {
    format!("{}  {}", node.node, state(node))
}

fn state(node: &Node) -> String {
    let report = node.report.clone().unwrap_or_default();
    match report.state() {
        NodeState::Ready => "ready".to_owned(),
        NodeState::Terminal => format!("terminal  {}", report.reason),
        NodeState::Waiting => format!("waiting  {}", report.reason),
        NodeState::Unspecified => "-".to_owned(),
    }
}

fn row(node: &Node) -> [String; HEAD.len()] {
    let cluster = match (node.realm.as_str(), node.cluster.as_str()) {
        ("", "") => "-".to_owned(),
        (realm, cluster) => format!("{realm}/{cluster}"),
    };
    let or_dash = |text: String| {
        if text.is_empty() {
            "-".to_owned()
        } else {
            text
        }
    };
    [
        node.node.clone(),
        cluster,
        or_dash(role(node.role())),
        or_dash(node.container_state.clone()),
        or_dash(node.address.clone()),
        state(node),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::{NodeReport, Role};

    #[test]
    fn a_table_has_a_head_and_a_line_for_each_node() {
        let node = |name: &str, realm: &str, role: Role, reason: &str| Node {
            node: name.to_owned(),
            realm: realm.to_owned(),
            role: role.into(),
            container_state: "running".to_owned(),
            report: Some(NodeReport {
                state: NodeState::Waiting.into(),
                reason: reason.to_owned(),
                ..NodeReport::default()
            }),
            ..Node::default()
        };
        let table = nodes(&[
            node("controller", "", Role::Controller, "sshd: port 22"),
            node("w", "r", Role::Unspecified, "systemd: starting"),
        ]);
        let expected = "\
            NODE        CLUSTER  ROLE        CONTAINER  ADDRESS  STATE\n\
            controller  -        controller  running    -        waiting  sshd: port 22\n\
            w           r/       -           running    -        waiting  systemd: starting";
        assert_eq!(table, expected);
        assert_eq!(nodes(&[]), "no nodes");
    }
}
