//! Keeps messages to what stock clients take: a client that refuses a message for its size sees neither
//! the result nor the status.

use prost::Message as _;

use crate::pb;

/// The longest message in bytes. Stock clients refuse more than 4 MiB; the rest is for the envelope.
const MESSAGE_BYTES: usize = 4 * 1024 * 1024 - 64 * 1024;

/// How many characters are left of a reason where there is no room for all of it.
const REASON_CHARS: usize = 64;

/// How many bytes are left of a detail, in one step after another.
const DETAIL_BYTES: [usize; 6] = [4096, 2048, 1024, 512, 256, 0];

/// Cuts a result until it fits: its details first, then passed probes, then reasons, then nodes that are
/// ready, then others from the end. Its message says how many nodes were left out.
pub(super) fn fit(result: &mut pb::WaitResult) {
    fit_into(result, MESSAGE_BYTES);
}

/// Cuts a page until it fits, in the same order; no node is left out.
pub(super) fn fit_page(page: &mut pb::ListNodesResponse) {
    shorten(page, MESSAGE_BYTES);
}

fn fit_into(result: &mut pb::WaitResult, budget: usize) {
    shorten(result, budget);
    if result.encoded_len() > budget {
        leave_out(result, budget);
    }
}

/// A message with reports of nodes.
trait Reports: prost::Message {
    fn reports(&mut self) -> impl Iterator<Item = &mut pb::NodeReport>;
}

impl Reports for pb::WaitResult {
    fn reports(&mut self) -> impl Iterator<Item = &mut pb::NodeReport> {
        self.nodes.iter_mut()
    }
}

impl Reports for pb::ListNodesResponse {
    fn reports(&mut self) -> impl Iterator<Item = &mut pb::NodeReport> {
        self.nodes
            .iter_mut()
            .filter_map(|node| node.report.as_mut())
    }
}

/// Shortens reports until the message fits, as far as that helps.
fn shorten(message: &mut impl Reports, budget: usize) {
    if message.encoded_len() <= budget {
        return;
    }
    for bytes in DETAIL_BYTES {
        for probe in probes(message) {
            keep_end(&mut probe.detail, bytes);
        }
        if message.encoded_len() <= budget {
            return;
        }
    }
    for node in message.reports() {
        node.probes
            .retain(|probe| probe.outcome() != pb::Outcome::Passed);
    }
    if message.encoded_len() <= budget {
        return;
    }
    for node in message.reports() {
        keep_start(&mut node.reason);
    }
    for probe in probes(message) {
        keep_start(&mut probe.reason);
    }
}

/// Leaves nodes out, and says how many.
fn leave_out(result: &mut pb::WaitResult, budget: usize) {
    // The sentence that says so has to fit as well.
    const SENTENCE: usize = 64;
    let all = result.nodes.len();
    let is_ready = |node: &pb::NodeReport| node.state() == pb::NodeState::Ready;
    let others = result.nodes.iter().filter(|node| !is_ready(node));
    if others.clone().count() > 0 {
        result.nodes.retain(|node| !is_ready(node));
    }
    // What a node adds: its own length, the length's length, and the field's tag.
    let weight = |node: &pb::NodeReport| {
        let length = node.encoded_len();
        length + prost::length_delimiter_len(length) + 1
    };
    let nodes = std::mem::take(&mut result.nodes);
    let mut left = budget.saturating_sub(result.encoded_len() + SENTENCE);
    let kept = nodes.into_iter().take_while(|node| {
        let fits = weight(node) <= left;
        left = left.saturating_sub(weight(node));
        fits
    });
    result.nodes = kept.collect();
    let missing = all - result.nodes.len();
    let sentence = format!("{missing} of {all} nodes are left out here");
    result.message = match result.message.as_str() {
        "" => sentence,
        message => format!("{message} ({sentence})"),
    };
}

fn probes(message: &mut impl Reports) -> impl Iterator<Item = &mut pb::ProbeReport> {
    message.reports().flat_map(|node| node.probes.iter_mut())
}

/// Keeps whole lines from the end: a journal says there what has happened.
fn keep_end(text: &mut String, bytes: usize) {
    if text.len() <= bytes {
        return;
    }
    let mut from = text.len() - bytes;
    while !text.is_char_boundary(from) {
        from += 1;
    }
    if let Some(line) = text[from..].find('\n') {
        from += line + 1;
    }
    text.drain(..from);
}

fn keep_start(text: &mut String) {
    if let Some((end, _)) = text.char_indices().nth(REASON_CHARS) {
        text.truncate(end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe(outcome: pb::Outcome, reason: usize, detail: usize) -> pb::ProbeReport {
        pb::ProbeReport {
            probe: "munge".into(),
            outcome: outcome.into(),
            reason: "ü".repeat(reason),
            detail: "a line\n".repeat(detail / 7),
            ..pb::ProbeReport::default()
        }
    }

    fn node(n: usize, state: pb::NodeState, probes: Vec<pb::ProbeReport>) -> pb::NodeReport {
        pb::NodeReport {
            node: format!("node-{n}"),
            state: state.into(),
            probes,
            ..pb::NodeReport::default()
        }
    }

    /// Every third node is ready.
    fn result(nodes: usize, reason: usize, detail: usize) -> pb::WaitResult {
        let nodes = (0..nodes).map(|n| {
            let passed = probe(pb::Outcome::Passed, reason, detail);
            if n % 3 == 0 {
                return node(n, pb::NodeState::Ready, vec![passed]);
            }
            let failed = probe(pb::Outcome::Failed, reason, detail);
            node(n, pb::NodeState::Waiting, vec![passed, failed])
        });
        pb::WaitResult {
            message: "node-1: munge".into(),
            nodes: nodes.collect(),
            ..pb::WaitResult::default()
        }
    }

    #[test]
    fn what_fits_stays_as_it_is() {
        let whole = result(10, 100, 1000);
        let mut fitted = whole.clone();
        fit(&mut fitted);
        assert_eq!(fitted, whole);
    }

    #[test]
    fn a_thousand_nodes_with_their_journals_lose_no_more_than_lines() {
        let whole = result(1000, 200, 8 * 1024);
        assert!(whole.encoded_len() > 4 * 1024 * 1024);
        let mut fitted = whole.clone();
        fit(&mut fitted);
        assert!(fitted.encoded_len() <= MESSAGE_BYTES);
        assert_eq!(fitted.message, whole.message);
        for (fitted, whole) in fitted.nodes.iter().zip(&whole.nodes) {
            assert_eq!(fitted.probes.len(), whole.probes.len());
            for (fitted, whole) in fitted.probes.iter().zip(&whole.probes) {
                assert_eq!(fitted.reason, whole.reason);
                assert!(!fitted.detail.is_empty() && whole.detail.ends_with(&fitted.detail));
                assert!(fitted.detail.starts_with("a line\n"));
            }
        }
    }

    #[test]
    fn a_result_is_cut_in_the_order_of_what_helps_least() {
        let mut step = String::new();
        let whole = result(30, 200, 4096);
        for budget in (1000..whole.encoded_len()).rev().step_by(500) {
            let mut fitted = whole.clone();
            fit_into(&mut fitted, budget);
            assert!(fitted.encoded_len() <= budget, "{budget}");
            let failed = fitted.nodes.iter().flat_map(|node| &node.probes);
            let failed = failed.filter(|probe| probe.outcome() == pb::Outcome::Failed);
            let reasons = failed.map(|probe| probe.reason.chars().count()).max();
            let has_details = fitted.nodes[1..]
                .iter()
                .any(|node| node.probes.iter().any(|probe| !probe.detail.is_empty()));
            let ready = fitted
                .nodes
                .iter()
                .any(|node| node.state() == pb::NodeState::Ready);
            let now = match fitted.nodes.len() {
                30 if has_details => "a: details are shorter",
                30 if fitted.nodes[1].probes.len() == 2 => "b: no details",
                30 if reasons == Some(200) => "c: no passed probes",
                30 => "d: short reasons",
                20 => "e: no ready nodes",
                _ => "f: fewer others",
            };
            assert_eq!(ready, now < "e", "{now}");
            assert!(now >= step.as_str(), "{now} after {step}");
            now.clone_into(&mut step);
            if now >= "e" {
                let missing = 30 - fitted.nodes.len();
                let says = format!("node-1: munge ({missing} of 30 nodes are left out here)");
                assert_eq!(fitted.message, says);
                assert_eq!(fitted.nodes[0].node, "node-1");
            }
        }
        assert!(step.starts_with('f'), "{step}");
    }

    #[test]
    fn what_is_ready_altogether_still_fits() {
        let nodes = (0..300).map(|n| node(n, pb::NodeState::Ready, Vec::new()));
        let mut all = pb::WaitResult {
            nodes: nodes.collect(),
            ..pb::WaitResult::default()
        };
        fit_into(&mut all, 2000);
        assert!(all.encoded_len() <= 2000 && all.nodes.len() > 50);
        let says = format!("{} of 300 nodes are left out here", 300 - all.nodes.len());
        assert_eq!(all.message, says);
    }
}
