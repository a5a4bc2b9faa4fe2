//! What is told, and what of it is news.

use super::*;
use crate::watcher::{cached::Freshness, publish::StatusPublisher, status::NodeStatus};

/// A node, and who reads its status.
struct Reader {
    core: Core,
    publisher: StatusPublisher,
    statuses: watch::Receiver<Arc<NodeStatus>>,
    wall: SystemTime,
}

impl Reader {
    fn of(core: Core, set: &ProbeSet) -> Self {
        let unanswered = NodeStatus::unanswered(set, &Environment::tokio());
        let channel = watch::Sender::new(Arc::new(unanswered));
        Self {
            core,
            statuses: channel.subscribe(),
            publisher: StatusPublisher::new(channel),
            wall: SystemTime::UNIX_EPOCH,
        }
    }

    /// A turn of the node's; true if the reader is woken.
    fn wakes(&mut self) -> bool {
        self.wall += SECOND;
        let facts = self.core.state.facts();
        let evaluation = self.core.turn().evaluations.remove(0);
        self.publisher.publish(evaluation, facts, self.wall);
        let woken = self.statuses.has_changed().unwrap();
        self.statuses.mark_unchanged();
        woken
    }

    fn status(&self) -> Arc<NodeStatus> {
        Arc::clone(&self.statuses.borrow())
    }
}

fn new() -> Reader {
    Reader::of(Core::wanting(vec![only("munge")]), &only("munge"))
}

/// One that has passed.
fn passed() -> Reader {
    let mut reader = Reader::of(Core::passed(only("munge")), &only("munge"));
    assert!(reader.wakes());
    assert!(reader.status().passed_since.is_some());
    reader
}

#[test]
fn nothing_is_told_before_anybody_has_looked() {
    let mut reader = new();
    assert!(!reader.wakes());
    assert_eq!(reader.status().round, 0);
}

#[test]
fn what_is_being_waited_for_is_news_once() {
    let mut reader = new();
    reader.wakes();
    reader.core.inspected(running());
    assert!(reader.wakes());
    let status = reader.status();
    assert!(!status.is_settled);
    assert_eq!(status.blocked_by.as_ref().unwrap().probe, "munge");
    assert!(!reader.wakes());
}

#[test]
fn a_state_that_says_the_same_is_no_news_but_the_newest_all_the_same() {
    let mut reader = new();
    reader.wakes();
    reader.core.inspected(running());
    reader.wakes();
    reader.core.systemd(with_munge("inactive", 1));
    assert!(reader.wakes());
    let before = reader.status();
    reader.core.at(31_000);
    reader.wakes();
    reader.core.inspected(running());
    assert!(!reader.wakes());
    let now = reader.status();
    assert!(now.round > before.round && now.observed > before.observed);
}

#[test]
fn the_time_since_when_it_is_so_stays_with_the_outcome_and_not_with_the_run() {
    let mut reader = new();
    reader.wakes();
    reader.core.inspected(running());
    reader.wakes();
    reader.core.systemd(with_munge("inactive", 1));
    reader.wakes();
    let since = reader.status().probes[0].since;
    reader.core.systemd(with_munge("activating", 2));
    assert!(reader.wakes(), "another reason is news");
    assert_eq!(
        reader.status().probes[0].since,
        since,
        "and still a failure"
    );
    reader.core.inspected(restarted());
    reader.wakes();
    reader.core.systemd(with_munge("inactive", 1));
    reader.wakes();
    assert!(reader.status().probes[0].since > since);
}

#[test]
fn a_status_that_counts_again_is_news() {
    let mut reader = passed();
    reader.core.signal("munge.service", 5);
    assert!(!reader.wakes(), "that it is in doubt is not");
    let doubtful = reader.status();
    assert_eq!(doubtful.freshness, Freshness::Stale);
    assert_eq!(doubtful.blocked_by.as_ref().unwrap().probe, "munge");
    reader.core.systemd(SystemdState {
        last_signal: 5,
        ..all_up()
    });
    assert!(reader.wakes());
    assert_eq!(reader.status().freshness, Freshness::Valid);
}

#[test]
fn a_status_has_the_number_of_the_last_message_that_it_includes() {
    let mut reader = passed();
    let before = reader.status().sequence;
    // Something that changes nothing: those who wait for the newest status have to learn of that.
    reader.core.inbox(Pending {
        sequence: before + 3,
        ..Pending::default()
    });
    assert!(reader.wakes());
    assert_eq!(reader.status().sequence, before + 3);
}

#[test]
fn a_message_is_no_news_of_a_node_that_has_not_passed() {
    let mut reader = new();
    reader.wakes();
    reader.core.inspected(running());
    reader.wakes();
    reader.core.systemd(with_munge("inactive", 1));
    reader.wakes();
    reader.core.inbox(Pending {
        sequence: 9,
        ..Pending::default()
    });
    assert!(!reader.wakes());
    assert_eq!(reader.status().sequence, 9);
}

#[test]
fn a_fresh_look_that_passes_is_news_for_who_waits_for_one_moment() {
    let mut reader = passed();
    reader.core.inbox(Pending {
        refresh: true,
        ..Pending::default()
    });
    reader.wakes();
    reader.core.at(300).inspected(running());
    reader.wakes();
    let before = reader.status().started;
    reader.core.systemd(all_up());
    assert!(reader.wakes());
    assert!(reader.status().started > before);
}

#[test]
fn the_first_look_goes_on_until_there_is_a_reply_to_everything() {
    let mut reader = new();
    reader.wakes();
    reader.core.inspected(running());
    reader.wakes();
    assert_eq!(reader.status().prompt.trigger, Trigger::Initial);
    reader.core.systemd(with_munge("inactive", 1));
    reader.wakes();
    assert_eq!(reader.status().prompt.trigger, Trigger::Initial);
    reader.core.signal("munge.service", 5);
    reader.wakes();
    reader.core.systemd(SystemdState {
        last_signal: 5,
        ..all_up()
    });
    reader.wakes();
    assert_eq!(reader.status().prompt.trigger, Trigger::UnitEvent);
    assert_eq!(&*reader.status().prompt.detail, "munge.service");
}

#[test]
fn a_node_whose_actor_has_gone_wrong_says_so_and_is_not_ready() {
    let left = passed().status().abandoned();
    assert_eq!(left.passed_since, None);
    let reason = left.probes[0].result.reason().unwrap();
    assert_eq!(reason, "readyd has stopped looking: a fault of its own");
}
