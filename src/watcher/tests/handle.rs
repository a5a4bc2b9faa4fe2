//! What follows from each input.

use super::*;
use crate::reason::{Reason, ReasonCode};

#[test]
fn a_running_container_opens_a_session_once() {
    let mut core = Core::wanting(vec![base()]);
    core.turn();
    core.inspected(running());
    assert_eq!(core.turn().said()[0], "start a session in aaaaaaaaaaaa");
    core.inspected(running());
    assert!(
        !core
            .turn()
            .said()
            .iter()
            .any(|said| said.contains("session"))
    );
}

#[test]
fn a_paused_container_keeps_its_session() {
    let mut core = Core::passed(base());
    core.event("pause");
    core.turn();
    core.inspected(container(State::Paused));
    let turn = core.turn();
    assert_eq!(turn.blocked_by(), "container: container n is paused");
    assert!(!turn.said().contains(&"end the session".to_owned()));
}

#[test]
fn another_run_ends_the_session_and_begins_one_anew() {
    let mut core = Core::passed(base());
    core.event("die");
    core.turn();
    core.inspected(restarted());
    let turn = core.turn();
    assert_eq!(
        turn.said()[..2],
        ["end the session", "start a session in aaaaaaaaaaaa"]
    );
    assert_eq!(turn.blocked_by(), "systemd: systemd has not answered yet");
}

#[test]
fn an_ended_container_ends_the_session() {
    let mut core = Core::passed(base());
    core.event("die");
    core.turn();
    core.inspected(exited());
    let turn = core.turn();
    assert_eq!(turn.said()[0], "end the session");
    assert_eq!(turn.outcomes(), "T---");
}

#[test]
fn an_event_undoes_what_has_passed_and_names_the_cause() {
    let mut core = Core::passed(base());
    core.event("oom");
    assert!(core.state.passing.is_empty());
    core.turn();
    core.inspected(running());
    assert_eq!(core.state.facts().prompt.trigger, Trigger::ContainerEvent);
    assert_eq!(&*core.state.facts().prompt.detail, "oom");
}

#[test]
fn missed_events_leave_what_has_passed_and_have_the_container_inspected() {
    let mut core = Core::passed(base());
    core.inbox(Pending {
        container: Some(ContainerChange::Unknown),
        ..Pending::default()
    });
    assert!(!core.state.passing.is_empty());
    assert_eq!(core.turn().said(), ["inspect"]);
}

#[test]
fn a_signal_that_the_reply_includes_has_nothing_asked() {
    let mut core = Core::wanting(vec![only("munge")]);
    core.turn();
    core.inspected(running());
    core.turn();
    // It arrives first, and the reply behind it has its number.
    core.signal("munge.service", 5);
    core.systemd(SystemdState {
        last_signal: 5,
        ..all_up()
    });
    assert_eq!(core.turn().progress(), Progress::Passed);
}

#[test]
fn a_signal_behind_the_reply_has_systemd_asked_again() {
    let mut core = Core::passed(only("munge"));
    core.signal("munge.service", 5);
    let turn = core.turn();
    assert_eq!(turn.progress(), Progress::Confirming);
    assert_eq!(turn.said(), ["query systemd: munge.service"]);
}

#[test]
fn a_signal_during_the_first_query_is_not_lost_under_the_name_of_an_alias() {
    let mut core = Core::wanting(vec![base()]);
    core.turn();
    core.inspected(running());
    core.turn();
    // The unit is asked for as sshd.service; its real name is in no reply yet.
    core.signal("ssh.service", 5);
    core.systemd(all_up());
    assert!(!core.state.systemd.is_valid());
}

#[test]
fn lost_signals_invalidate_also_the_reply_in_flight() {
    let mut core = Core::wanting(vec![only("munge")]);
    core.turn();
    core.inspected(running());
    core.turn();
    core.inbox(Pending {
        systemd: true,
        ..Pending::default()
    });
    core.systemd(SystemdState {
        last_signal: 99,
        ..all_up()
    });
    assert_eq!(core.turn().progress(), Progress::Confirming);
}

#[test]
fn a_change_that_no_event_told_has_events_distrusted() {
    let mut core = Core::passed(base());
    core.at(40_000);
    core.turn();
    core.inspected(container(State::Paused));
    assert_eq!(core.turn().said()[0], "subscribe to events anew");
}

#[test]
fn a_change_that_an_event_told_in_time_is_expected() {
    let mut core = Core::passed(base());
    core.at(40_000);
    core.turn();
    core.event("pause");
    core.inspected(container(State::Paused));
    assert!(
        !core
            .turn()
            .said()
            .contains(&"subscribe to events anew".to_owned())
    );
}

#[test]
fn a_changed_unit_that_no_signal_told_has_the_link_renewed() {
    let mut core = Core::passed(only("munge"));
    core.at(40_000);
    // The container is looked at first, then systemd.
    core.turn();
    core.inspected(running());
    assert_eq!(core.turn().said(), ["query systemd: munge.service"]);
    core.systemd(with_munge("inactive", 2));
    assert_eq!(core.turn().said(), ["renew the link"]);
}

#[test]
fn a_changed_unit_undoes_only_the_sets_that_go_by_it() {
    let mut core = Core::wanting(vec![only("munge"), only("sackd")]);
    core.bring_up();
    core.turn();
    assert_eq!(core.state.passing.len(), 2);
    core.signal("munge.service", 5);
    core.turn();
    core.systemd(SystemdState {
        last_signal: 5,
        ..with_munge("active", 2)
    });
    assert_eq!(core.state.passing.len(), 1);
}

#[test]
fn an_answer_does_not_outlive_the_unit_that_gave_it() {
    let mut core = Core::passed(only("sshd"));
    core.signal("ssh.service", 5);
    core.turn();
    let mut state = all_up();
    state
        .units
        .extend([unit("sshd.service", "active", "notify", 2)]);
    state.last_signal = 5;
    core.systemd(state);
    let turn = core.turn();
    assert_eq!(turn.said(), ["query sshd: port 22"]);
    assert_eq!(turn.progress(), Progress::Confirming);
}

#[test]
fn a_reply_to_clients_that_have_gone_is_not_taken_for_another() {
    let mut core = Core::wanting(vec![only("sshd")]);
    core.turn();
    core.inspected(running());
    core.turn();
    core.systemd(all_up());
    let turn = core.turn();
    let (sshd, query) = turn.probe_query();
    core.answered(&sshd, query + 1, Finding::passed());
    assert_eq!(core.turn().progress(), Progress::Open);
    core.answered(&sshd, query, Finding::passed());
    assert_ne!(core.turn().progress(), Progress::Open);
}

#[test]
fn a_container_that_ends_under_a_query_is_inspected_and_nothing_is_kept() {
    let mut core = Core::wanting(vec![only("munge")]);
    core.turn();
    core.inspected(running());
    core.turn();
    let ended = crate::probe::Outcome::terminal(ReasonCode::ContainerEnded, "it ended");
    core.systemd_reply(Err(QueryError::Ended(ended)));
    let turn = core.turn();
    assert_eq!(turn.said()[0], "inspect");
    assert_eq!(turn.progress(), Progress::Open);
}

#[test]
fn a_node_that_keeps_systemd_back_fails_and_readyd_that_cannot_look_does_not_know() {
    let mut core = Core::wanting(vec![only("munge")]);
    core.turn();
    core.inspected(running());
    core.turn();
    let reason = Reason::new(ReasonCode::BusUnavailable, "no bus");
    core.systemd_reply(Err(QueryError::Node(reason)));
    assert_eq!(core.turn().outcomes(), "F");
    let error = crate::probe::ProbeError::new(ReasonCode::NotAnsweredYet, "busy");
    core.systemd_reply(Err(QueryError::Unknown(error)));
    assert_eq!(core.turn().outcomes(), "U");
}

#[test]
fn an_engine_that_came_back_may_start_again_what_has_a_policy() {
    let with_policy = || Container {
        restarts: true,
        ..exited()
    };
    let mut core = Core::passed(base());
    core.event("die");
    core.engine_error(unreachable());
    core.at(1_000).inspected(with_policy());
    assert!(core.turn().blocked_by().ends_with("may start it again"));
    core.at(10_500).inspected(with_policy());
    assert_eq!(core.turn().outcomes(), "F---", "ten seconds are not over");
    core.at(11_500).inspected(with_policy());
    assert_eq!(core.turn().outcomes(), "T---");
}

#[test]
fn an_engine_that_is_only_slow_was_not_restarted() {
    let mut core = Core::passed(base());
    core.event("die");
    core.engine_error(slow());
    core.at(1_000).inspected(exited());
    assert_eq!(core.turn().outcomes(), "T---");
    let with_policy = || Container {
        restarts: true,
        ..exited()
    };
    core.at(2_000).inspected(with_policy());
    assert_eq!(core.turn().outcomes(), "F---", "its policy has a second");
    core.at(4_000).inspected(with_policy());
    assert_eq!(core.turn().outcomes(), "T---");
}

#[test]
fn events_that_end_count_as_an_engine_that_may_have_been_restarted() {
    let mut core = Core::passed(base());
    core.handle(Input::EventsLive(false));
    core.inbox(Pending {
        container: Some(ContainerChange::Unknown),
        ..Pending::default()
    });
    core.turn();
    let with_policy = Container {
        restarts: true,
        ..exited()
    };
    core.inspected(with_policy);
    assert!(core.turn().blocked_by().ends_with("may start it again"));
}

#[test]
fn who_wants_other_probes_leaves_no_reply_behind() {
    let mut core = Core::passed(only("sshd"));
    assert_eq!(core.state.answers.len(), 1);
    core.handle(Input::Wanted(vec![]));
    assert!(core.state.answers.is_empty() && core.state.passing.is_empty());
}

#[test]
fn without_clients_nothing_stays_in_flight() {
    let mut core = Core::wanting(vec![base()]);
    core.turn();
    assert!(core.state.container.is_in_flight());
    core.handle(Input::Idle);
    assert!(!core.state.container.is_in_flight());
    assert_eq!(
        core.turn().said(),
        ["inspect"],
        "whoever comes has it asked for"
    );
}

#[test]
fn a_fresh_look_spares_sshd() {
    let mut core = Core::passed(base());
    core.inbox(Pending {
        refresh: true,
        ..Pending::default()
    });
    let said = core.turn().said();
    assert_eq!(said[0], "inspect");
    assert!(
        !said.iter().any(|said| said.contains("port 22")),
        "{said:?}"
    );
}
