//! What is asked next, and when.

use super::*;
use crate::{
    node::Part,
    probe::ProbeKey,
    watcher::{cached::Freshness, schedule::RESYNC},
};

#[test]
fn at_first_the_container_is_inspected_and_nothing_else() {
    let mut core = Core::wanting(vec![base()]);
    let turn = core.turn();
    assert_eq!(turn.said(), ["inspect"]);
    assert_eq!(turn.progress(), Progress::NotLooked);
    assert_eq!(core.turn().said(), [""; 0], "it is in flight");
}

#[test]
fn systemd_is_asked_for_all_units_of_all_sets_at_once() {
    let mut core = Core::wanting(vec![only("munge"), ProbeSet::wait(WORKER, vec![])]);
    core.turn();
    core.inspected(running());
    let said = core.turn().said();
    let units = "munge.service, slurmd.service, ssh.service, sshd.service";
    assert_eq!(said[1], format!("query systemd: {units}"));
}

#[test]
fn an_event_while_an_inspection_is_in_flight_has_another_follow() {
    let mut core = Core::passed(base());
    core.event("die");
    assert_eq!(core.turn().said(), ["inspect"]);
    core.event("start");
    core.inspected(running());
    let turn = core.turn();
    assert_eq!(turn.said(), ["inspect"]);
    assert_eq!(
        turn.progress(),
        Progress::Confirming,
        "it need not be so any more"
    );
}

#[test]
fn a_storm_of_signals_is_followed_in_step() {
    let mut core = Core::passed(only("munge"));
    let mut queries = 0;
    for number in 1..=40 {
        core.signal("munge.service", number);
        let turn = core.turn();
        if turn.said().is_empty() {
            assert!(turn.wake.unwrap() <= 50 * MS, "{:?}", turn.wake);
        } else {
            queries += 1;
            core.systemd(SystemdState {
                last_signal: number,
                ..all_up()
            });
        }
    }
    assert!((16..20).contains(&queries), "{queries}");
}

#[test]
fn what_events_tell_is_asked_for_again_after_half_a_minute() {
    let mut core = Core::passed(only("munge"));
    let wake = core.turn().wake.unwrap();
    assert!(wake <= RESYNC && wake > 29 * SECOND, "{wake:?}");
    core.at(31_000);
    assert_eq!(core.turn().said(), ["inspect"]);
}

#[test]
fn without_events_the_container_is_polled() {
    let mut core = Core::wanting(vec![only("container")]);
    core.handle(Input::EventsLive(false));
    core.turn();
    core.inspected(running());
    assert_eq!(core.turn().wake, Some(POLL));
}

#[test]
fn without_signals_a_failing_unit_is_polled_eagerly_at_first() {
    let mut core = Core::wanting(vec![only("munge")]);
    core.turn();
    core.inspected(running());
    core.turn();
    core.systemd(SystemdState {
        subscribed: false,
        ..with_munge("inactive", 1)
    });
    let wake = core.turn().wake.unwrap();
    assert!((9 * MS..=11 * MS).contains(&wake), "{wake:?}");
}

#[test]
fn where_commands_queue_systemd_is_not_asked_behind_another() {
    let mut core = Core::wanting(vec![only("sshd")]);
    core.turn();
    core.inspected(running());
    core.turn();
    core.systemd(unsubscribed());
    assert_eq!(core.turn().said(), ["query sshd: port 22"]);
    // It is long due, and would only wait for the command in the node.
    core.at(5_000);
    assert_eq!(core.turn().said(), [""; 0]);
}

#[test]
fn a_unit_that_has_failed_is_asked_for_again_when_a_second_look_settles_it() {
    let mut core = Core::wanting(vec![only("munge")]);
    core.turn();
    core.inspected(running());
    core.turn();
    core.systemd(with_munge("failed", 2));
    let turn = core.turn();
    assert_eq!((turn.outcomes().as_str(), turn.wake), ("F", Some(100 * MS)));
    core.now += 100 * MS;
    assert_eq!(core.turn().said(), ["query systemd: munge.service"]);
    core.systemd(with_munge("failed", 2));
    assert_eq!(core.turn().outcomes(), "T");
}

#[test]
fn an_exited_container_with_a_policy_is_inspected_again_a_second_later() {
    let with_policy = || Container {
        restarts: true,
        ..exited()
    };
    let mut core = Core::wanting(vec![base()]);
    core.turn();
    core.inspected(with_policy());
    let turn = core.turn();
    assert_eq!(
        (turn.outcomes().as_str(), turn.wake),
        ("F---", Some(SECOND))
    );
    core.now += SECOND;
    assert_eq!(core.turn().said(), ["inspect"]);
    core.inspected(with_policy());
    assert_eq!(core.turn().outcomes(), "T---");
}

#[test]
fn nothing_is_asked_in_a_container_that_does_not_run() {
    let mut core = Core::wanting(vec![base()]);
    core.turn();
    core.inspected(container(State::Created));
    let turn = core.turn();
    assert_eq!(turn.said(), [""; 0]);
    assert_eq!(turn.outcomes(), "F---");
}

#[test]
fn while_the_container_is_inspected_nothing_new_begins() {
    let mut core = Core::passed(base());
    core.at(40_000);
    // Both are due; the container comes first, and systemd when it has replied.
    assert_eq!(core.turn().said(), ["inspect"]);
    core.inspected(running());
    assert!(core.turn().said()[0].starts_with("query systemd"));
}

#[test]
fn an_answer_that_no_event_tells_is_asked_for_at_the_poll_interval() {
    let mut core = Core::passed(only("registered"));
    assert_eq!(core.turn().wake.unwrap(), 499 * MS);
}

/// A node without systemd of which munged was asked for, and this was answered.
fn asked_for_munged(finding: Finding, watch: Watch) -> (Core, ProbeKey, u64) {
    let part = Part {
        role: None,
        profile: Some(Profile::Process),
    };
    let mut core = Core::wanting(vec![ProbeSet::wait(part, vec![probe("munge")])]);
    core.one_turn();
    core.inspected(running());
    let (munge, query) = core.one_turn().probe_query();
    let reply = ProbeReply {
        via: "test",
        result: Ok(finding),
        span: core.span(),
        again: None,
        watch,
    };
    core.handle(Input::Probe(munge.key(), query, reply));
    (core, munge.key(), query)
}

fn no_munged() -> Finding {
    Finding::failed(ReasonCode::ProcessMissing, "no process of munged runs")
}

#[test]
fn what_is_glanced_at_is_not_polled() {
    let (mut core, key, query) = asked_for_munged(no_munged(), Watch::Start(vec!["munged"]));
    let turn = core.one_turn();
    assert_eq!(
        turn.said(),
        ["await what changes munge: Start([\"munged\"])"]
    );
    // A setting may say by then that the node does without.
    assert!(turn.wake.unwrap() > 4 * SECOND, "{:?}", turn.wake);
    core.handle(Input::Changed(key, query));
    assert_eq!(core.one_turn().said().len(), 1, "it is asked for");
}

#[test]
fn what_is_not_glanced_at_is_polled() {
    let (mut core, ..) = asked_for_munged(no_munged(), Watch::Nothing);
    let turn = core.one_turn();
    assert_eq!(turn.said(), [""; 0]);
    assert!(turn.wake.unwrap() <= 11 * MS, "{:?}", turn.wake);
}

#[test]
fn a_daemon_that_has_ended_does_not_count_until_it_was_looked_for() {
    let (mut core, key, query) = asked_for_munged(Finding::passed(), Watch::End(7));
    let turn = core.one_turn();
    assert_eq!(turn.said()[0], "await what changes munge: End(7)");
    core.inspected(running());
    assert_eq!(core.one_turn().progress(), Progress::Passed);
    core.handle(Input::Changed(key.clone(), query - 1));
    assert_eq!(
        core.one_turn().progress(),
        Progress::Passed,
        "another query's"
    );
    core.handle(Input::Changed(key, query));
    let turn = core.one_turn();
    assert_ne!(turn.first().freshness, Freshness::Valid);
    assert_eq!(turn.said().len(), 1, "it is looked for");
}
