//! What a wait has to tell, between its driver and its reader: the newest report of each node, in the
//! order in which they changed, and the result. A slow reader misses what was replaced meanwhile, and
//! delays nothing. Each report costs the same, however many nodes there are.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use futures_util::task::AtomicWaker;

use super::wait::{NodeReport, WaitEvent, WaitResult};

/// The driver's end. Dropping it ends the reader's, after what is left in between.
#[derive(Debug)]
pub(super) struct Sender(Arc<Outbox>);

/// The reader's end.
#[derive(Debug)]
pub(super) struct Receiver {
    outbox: Arc<Outbox>,
    /// What the reader has been told of each node.
    told: Vec<Option<Arc<NodeReport>>>,
}

#[derive(Debug)]
struct Outbox {
    contents: Mutex<Contents>,
    reader: AtomicWaker,
}

#[derive(Debug)]
struct Contents {
    /// The report of each node that has not been read.
    reports: Vec<Option<Arc<NodeReport>>>,
    /// The nodes that have one: whoever changed first comes first.
    turn: VecDeque<usize>,
    result: Option<Arc<WaitResult>>,
    closed: bool,
}

/// Makes both ends, for this many nodes.
pub(super) fn outbox(nodes: usize) -> (Sender, Receiver) {
    let outbox = Arc::new(Outbox {
        contents: Mutex::new(Contents {
            reports: vec![None; nodes],
            turn: VecDeque::new(),
            result: None,
            closed: false,
        }),
        reader: AtomicWaker::new(),
    });
    let receiver = Receiver {
        outbox: Arc::clone(&outbox),
        told: vec![None; nodes],
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
            if contents.reports[index].replace(report).is_none() {
                contents.turn.push_back(index);
            }
        }
        drop(contents);
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
    /// Returns how many nodes there are.
    pub(super) fn nodes(&self) -> usize {
        self.told.len()
    }

    /// Returns the next event; `None` once the driver has gone without a result.
    pub(super) fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<WaitEvent>> {
        // In this order: what comes after the look into the contents wakes.
        self.outbox.reader.register(context.waker());
        let mut contents = self.outbox.contents();
        while let Some(index) = contents.turn.pop_front() {
            let Some(report) = contents.reports[index].take() else {
                continue;
            };
            let told = &mut self.told[index];
            // A node that has changed and changed back is no news.
            if told
                .as_ref()
                .is_none_or(|told| !told.says_the_same(&report))
            {
                *told = Some(Arc::clone(&report));
                return Poll::Ready(Some(WaitEvent::Node(report)));
            }
        }
        match &contents.result {
            Some(result) => Poll::Ready(Some(WaitEvent::Result(Arc::clone(result)))),
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
            observed: SystemTime::UNIX_EPOCH,
        }
    }

    /// What is read until there is nothing more for now; `-` where it has ended.
    fn read(receiver: &mut Receiver) -> String {
        let mut context = Context::from_waker(noop_waker_ref());
        let mut read = Vec::new();
        loop {
            match receiver.poll_next(&mut context) {
                Poll::Ready(Some(WaitEvent::Node(report))) => {
                    let NodeState::Waiting(reason) = &report.state else {
                        panic!("{report:?}");
                    };
                    read.push(format!("{}:{reason}", report.node));
                }
                Poll::Ready(Some(WaitEvent::Result(_))) => {
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
        let (sender, mut receiver) = outbox(3);
        sender.put([report(2, "a"), report(0, "a")]);
        sender.put([report(1, "a"), report(2, "b")]);
        assert_eq!(read(&mut receiver), "n2:b n0:a n1:a");
        assert_eq!(read(&mut receiver), "");
        sender.put([report(1, "b")]);
        assert_eq!(read(&mut receiver), "n1:b");
    }

    #[test]
    fn a_node_that_changes_back_before_it_is_read_is_no_news() {
        let (sender, mut receiver) = outbox(1);
        sender.put([report(0, "a")]);
        assert_eq!(read(&mut receiver), "n0:a");
        sender.put([report(0, "b")]);
        sender.put([report(0, "a")]);
        assert_eq!(read(&mut receiver), "");
    }

    #[test]
    fn the_result_comes_after_the_reports_also_when_the_driver_has_gone() {
        let (sender, mut receiver) = outbox(2);
        sender.end(result());
        sender.put([report(1, "a")]);
        drop(sender);
        assert_eq!(read(&mut receiver), "n1:a result");
    }

    #[test]
    fn a_driver_that_goes_without_a_result_ends_the_stream() {
        let (sender, mut receiver) = outbox(2);
        sender.put([report(1, "a")]);
        drop(sender);
        assert_eq!(read(&mut receiver), "n1:a -");
    }

    #[tokio::test]
    async fn a_reader_that_waits_is_woken() {
        let (sender, mut receiver) = outbox(1);
        let reading = std::future::poll_fn(move |context| receiver.poll_next(context));
        let reading = tokio::spawn(reading);
        tokio::task::yield_now().await;
        sender.put([report(0, "a")]);
        assert!(matches!(reading.await.unwrap(), Some(WaitEvent::Node(_))));
    }
}
