//! What a wait has to tell, between its driver and its reader: the newest report of each node, in the
//! order in which they changed, and the result. A slow reader misses what was replaced meanwhile, and
//! delays nothing. Each report costs the same, however many nodes there are.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use futures_util::task::AtomicWaker;

use super::wait::{ClusterReport, NodeReport, WaitResult};
use crate::node::NodeName;

/// What is told next.
#[derive(Debug)]
pub(super) enum Told {
    /// A node's report: the first, or one that differs from the one before.
    Node(Arc<NodeReport>),
    /// A node has left.
    Removed(NodeName),
    /// The cluster's report: the first, or one that differs from the one before.
    Cluster(Arc<ClusterReport>),
    /// Every node that was there at first has been told of.
    Synced,
    /// The last that is told.
    Result(Arc<WaitResult>),
}

/// The driver's end. Dropping it ends the reader's, after what is left in between.
#[derive(Debug)]
pub(super) struct Sender(Arc<Outbox>);

/// The reader's end.
#[derive(Debug)]
pub(super) struct Receiver {
    outbox: Arc<Outbox>,
    /// What the reader has been told of each node.
    told: HashMap<usize, Arc<NodeReport>>,
    told_of_cluster: Option<Arc<ClusterReport>>,
}

#[derive(Debug, Default)]
struct Outbox {
    contents: Mutex<Contents>,
    reader: AtomicWaker,
}

#[derive(Debug, Default)]
struct Contents {
    /// The report of each node that has not been read.
    reports: HashMap<usize, Arc<NodeReport>>,
    /// Whose turn it is: whoever changed first comes first.
    turn: VecDeque<Turn>,
    /// The report of the cluster that has not been read. It comes before all others.
    cluster: Option<Arc<ClusterReport>>,
    /// Whether every node that was there at first has a report, which is told once, behind those.
    synced: bool,
    result: Option<Arc<WaitResult>>,
    closed: bool,
}

#[derive(Debug)]
enum Turn {
    /// The node has a report.
    Report(usize),
    /// The node has left.
    Removed(usize, NodeName),
}

/// Makes both ends.
pub(super) fn outbox() -> (Sender, Receiver) {
    let outbox = Arc::new(Outbox::default());
    let receiver = Receiver {
        outbox: Arc::clone(&outbox),
        told: HashMap::new(),
        told_of_cluster: None,
    };
    (Sender(outbox), receiver)
}

impl Outbox {
    fn contents(&self) -> MutexGuard<'_, Contents> {
        // A std lock: it is never held across an await.
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sender {
    /// Leaves reports of nodes, by their places.
    pub(super) fn put(&self, reports: impl IntoIterator<Item = (usize, Arc<NodeReport>)>) {
        let mut contents = self.0.contents();
        for (index, report) in reports {
            if contents.reports.insert(index, report).is_none() {
                contents.turn.push_back(Turn::Report(index));
            }
        }
        drop(contents);
        self.0.reader.wake();
    }

    /// Leaves that a node is no longer one of the wait's.
    pub(super) fn remove(&self, index: usize, node: NodeName) {
        let mut contents = self.0.contents();
        contents.reports.remove(&index);
        contents.turn.push_back(Turn::Removed(index, node));
        drop(contents);
        self.0.reader.wake();
    }

    /// Leaves the cluster's report.
    pub(super) fn put_cluster(&self, report: Arc<ClusterReport>) {
        self.0.contents().cluster = Some(report);
        self.0.reader.wake();
    }

    /// Leaves that every node that was there at first has a report.
    pub(super) fn put_synced(&self) {
        self.0.contents().synced = true;
        self.0.reader.wake();
    }

    /// Leaves the result, which is read last.
    pub(super) fn end(&self, result: WaitResult) {
        self.0.contents().result = Some(Arc::new(result));
        self.0.reader.wake();
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.0.contents().closed = true;
        self.0.reader.wake();
    }
}

impl Receiver {
    /// Returns of how many nodes the reader has been told.
    pub(super) fn nodes(&self) -> usize {
        self.told.len()
    }

    /// Returns the next event; `None` once the driver has gone without a result.
    pub(super) fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Told>> {
        // In this order: what comes after the look into the contents wakes.
        self.outbox.reader.register(context.waker());
        let mut contents = self.outbox.contents();
        if let Some(report) = contents.cluster.take() {
            let told = self.told_of_cluster.as_ref();
            // A cluster that has changed and changed back is no news.
            if told.is_none_or(|told| !told.says_the_same(&report)) {
                self.told_of_cluster = Some(Arc::clone(&report));
                return Poll::Ready(Some(Told::Cluster(report)));
            }
        }
        while let Some(turn) = contents.turn.pop_front() {
            let index = match turn {
                Turn::Report(index) => index,
                Turn::Removed(index, node) => {
                    // Whom nobody was told of has not left.
                    if self.told.remove(&index).is_some() {
                        return Poll::Ready(Some(Told::Removed(node)));
                    }
                    continue;
                }
            };
            let Some(report) = contents.reports.remove(&index) else {
                continue;
            };
            // Nor is a node.
            let told = self.told.get(&index);
            if told.is_none_or(|told| !told.says_the_same(&report)) {
                self.told.insert(index, Arc::clone(&report));
                return Poll::Ready(Some(Told::Node(report)));
            }
        }
        if std::mem::take(&mut contents.synced) {
            return Poll::Ready(Some(Told::Synced));
        }
        match &contents.result {
            Some(result) => Poll::Ready(Some(Told::Result(Arc::clone(result)))),
            None if contents.closed => Poll::Ready(None),
            None => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use futures_util::task::noop_waker_ref;

    use super::*;
    use crate::{
        monitor::wait::{NodeState, Verdict},
        reason::{Reason, ReasonCode},
        report::Trigger,
    };

    fn report(node: usize, reason: &str) -> (usize, Arc<NodeReport>) {
        let report = NodeReport {
            node: format!("n{node}").parse().unwrap(),
            role: None,
            state: NodeState::Waiting(Reason::new(ReasonCode::NoAnswer, reason)),
            probes: Arc::default(),
            trigger: Trigger::Initial,
            trigger_detail: Arc::from(""),
            round: 1,
            level: None,
            listed: None,
            observed: SystemTime::UNIX_EPOCH,
        };
        (node, Arc::new(report))
    }

    fn result() -> WaitResult {
        WaitResult {
            verdict: Verdict::TimedOut,
            message: String::new(),
            about: None,
            elapsed: Duration::ZERO,
            nodes: Vec::new(),
            causes: Vec::new(),
            observed: SystemTime::UNIX_EPOCH,
        }
    }

    /// What is read until there is nothing more for now; `-` where it has ended.
    fn read(receiver: &mut Receiver) -> String {
        let mut context = Context::from_waker(noop_waker_ref());
        let mut read = Vec::new();
        loop {
            match receiver.poll_next(&mut context) {
                Poll::Ready(Some(Told::Node(report))) => {
                    let NodeState::Waiting(reason) = &report.state else {
                        panic!("{report:?}");
                    };
                    read.push(format!("{}:{reason}", report.node));
                }
                Poll::Ready(Some(Told::Removed(node))) => read.push(format!("-{node}")),
                Poll::Ready(Some(Told::Cluster(report))) => {
                    read.push(format!("{}/{}", report.ready, report.present));
                }
                Poll::Ready(Some(Told::Synced)) => read.push("synced".to_owned()),
                Poll::Ready(Some(Told::Result(_))) => {
                    read.push("result".to_owned());
                    break;
                }
                Poll::Ready(None) => {
                    read.push("-".to_owned());
                    break;
                }
                Poll::Pending => break,
            }
        }
        read.join(" ")
    }

    #[test]
    fn the_newest_of_each_node_is_read_in_the_order_in_which_they_changed() {
        let (sender, mut receiver) = outbox();
        sender.put([report(2, "a"), report(0, "a")]);
        sender.put([report(1, "a"), report(2, "b")]);
        assert_eq!(read(&mut receiver), "n2:b n0:a n1:a");
        assert_eq!(read(&mut receiver), "");
        sender.put([report(1, "b")]);
        assert_eq!(read(&mut receiver), "n1:b");
    }

    #[test]
    fn a_node_that_changes_back_before_it_is_read_is_no_news() {
        let (sender, mut receiver) = outbox();
        sender.put([report(0, "a")]);
        assert_eq!(read(&mut receiver), "n0:a");
        sender.put([report(0, "b")]);
        sender.put([report(0, "a")]);
        assert_eq!(read(&mut receiver), "");
    }

    #[test]
    fn who_has_left_is_told_of_unless_nobody_knew_of_it() {
        let (sender, mut receiver) = outbox();
        sender.put([report(0, "a"), report(1, "a")]);
        sender.remove(1, "n1".parse().unwrap());
        assert_eq!(read(&mut receiver), "n0:a");
        sender.put([report(0, "b")]);
        sender.remove(0, "n0".parse().unwrap());
        assert_eq!(read(&mut receiver), "-n0");
    }

    #[test]
    fn the_cluster_comes_before_its_nodes_and_only_when_it_has_changed() {
        let cluster = |ready| {
            Arc::new(ClusterReport {
                present: 2,
                ready,
                min_nodes: 1,
                reason: None,
                observed: SystemTime::UNIX_EPOCH,
            })
        };
        let (sender, mut receiver) = outbox();
        sender.put([report(0, "a")]);
        sender.put_cluster(cluster(0));
        assert_eq!(read(&mut receiver), "0/2 n0:a");
        sender.put_cluster(cluster(1));
        sender.put_cluster(cluster(0));
        assert_eq!(read(&mut receiver), "");
        sender.put_cluster(cluster(2));
        assert_eq!(read(&mut receiver), "2/2");
    }

    #[test]
    fn that_all_are_known_is_told_once_behind_their_reports() {
        let (sender, mut receiver) = outbox();
        sender.put_synced();
        sender.put([report(0, "a")]);
        assert_eq!(read(&mut receiver), "n0:a synced");
        sender.put([report(0, "b")]);
        assert_eq!(read(&mut receiver), "n0:b");
    }

    #[test]
    fn the_result_comes_after_the_reports_also_when_the_driver_has_gone() {
        let (sender, mut receiver) = outbox();
        sender.end(result());
        sender.put([report(1, "a")]);
        drop(sender);
        assert_eq!(read(&mut receiver), "n1:a result");
    }

    #[test]
    fn a_driver_that_goes_without_a_result_ends_the_stream() {
        let (sender, mut receiver) = outbox();
        sender.put([report(1, "a")]);
        drop(sender);
        assert_eq!(read(&mut receiver), "n1:a -");
    }

    #[tokio::test]
    async fn a_reader_that_waits_is_woken() {
        let (sender, mut receiver) = outbox();
        let reading = std::future::poll_fn(move |context| receiver.poll_next(context));
        let reading = tokio::spawn(reading);
        tokio::task::yield_now().await;
        sender.put([report(0, "a")]);
        assert!(matches!(reading.await.unwrap(), Some(Told::Node(_))));
    }
}
