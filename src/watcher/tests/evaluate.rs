//! What the replies that there are come to.

use super::*;
use crate::{reason::ReasonCode, watcher::cached::Freshness};

#[test]
fn probes_stop_at_the_first_that_has_not_passed() {
    let mut core = Core::wanting(vec![base()]);
    core.bring_up();
    assert_eq!(core.turn().outcomes(), "PPPP");
    core.signal("munge.service", 5);
    core.turn();
    let mut state = with_munge("inactive", 2);
    state.last_signal = 5;
    core.systemd(state.clone());
    let turn = core.turn();
    assert_eq!(turn.outcomes(), "PPPF");
    assert_eq!(turn.blocked_by(), "munge: munge.service is inactive");
    state.system = "starting".to_owned();
    core.systemd(state);
    assert_eq!(core.turn().outcomes(), "PF--");
}

#[test]
fn a_probe_that_has_not_replied_is_what_blocks() {
    let mut core = Core::wanting(vec![base()]);
    core.turn();
    core.inspected(running());
    let turn = core.turn();
    assert_eq!(turn.progress(), Progress::Open);
    assert_eq!(turn.blocked_by(), "systemd: systemd has not answered yet");
    assert_eq!(turn.outcomes(), "PU--");
}

#[test]
fn over_a_live_bus_no_second_inspection_is_needed() {
    let mut core = Core::wanting(vec![only("munge")]);
    core.turn();
    core.inspected(running());
    core.turn();
    core.systemd(all_up());
    let turn = core.turn();
    assert_eq!((turn.progress(), turn.said().len()), (Progress::Passed, 0));
}

#[test]
fn without_a_live_bus_the_container_is_inspected_once_more_after_all_the_rest() {
    let mut core = Core::wanting(vec![only("munge")]);
    core.turn();
    core.inspected(running());
    core.turn();
    core.systemd(unsubscribed());
    let turn = core.turn();
    assert_eq!(turn.progress(), Progress::Confirming);
    assert_eq!(turn.blocked_by(), "container: it is looked at once more");
    assert_eq!(turn.said(), ["inspect"]);
    core.inspected(running());
    assert_eq!(core.turn().progress(), Progress::Passed);
}

#[test]
fn what_systemd_said_long_ago_is_asked_for_once_more_before_a_set_passes() {
    let mut core = Core::wanting(vec![base()]);
    core.turn();
    core.inspected(running());
    core.turn();
    core.systemd(all_up());
    let turn = core.turn();
    let (sshd, query) = turn.probe_query();
    core.at(1_500).answered(
        &sshd,
        query,
        Finding::failed(ReasonCode::PortClosed, "refused"),
    );
    assert_eq!(core.turn().outcomes(), "PPF-");
    core.at(2_000);
    let Command::QueryProbe(_, query, ..) = core.turn().commands[0] else {
        panic!("sshd is not asked again");
    };
    core.answered(&sshd, query, Finding::passed());
    let turn = core.turn();
    // The banner stands with its unit, but systemd as a whole may be another since it was asked.
    assert_eq!(turn.outcomes(), "PPPP");
    assert_eq!(turn.blocked_by(), "systemd: it is looked at once more");
    core.systemd(all_up());
    assert_eq!(core.turn().progress(), Progress::Passed);

    // An answer that nothing stands behind does.
    let mut core = Core::wanting(vec![ProbeSet::wait(
        None,
        vec![probe("munge"), probe("registered")],
    )]);
    core.turn();
    core.inspected(running());
    core.turn();
    core.systemd(all_up());
    let turn = core.turn();
    let (registered, query) = turn.probe_query();
    core.at(1_500)
        .answered(&registered, query, Finding::passed());
    let turn = core.turn();
    assert_eq!(turn.blocked_by(), "systemd: it is looked at once more");
    assert_eq!(turn.said(), ["query systemd: munge.service"]);
}

#[test]
fn an_answer_from_before_the_last_inspection_is_asked_for_once_more() {
    let mut core = Core::wanting(vec![only("registered")]);
    core.turn();
    core.inspected(running());
    let turn = core.turn();
    let (registered, query) = turn.probe_query();
    core.answered(&registered, query, Finding::passed());
    // Undone by an event that came to nothing.
    core.event("oom");
    core.turn();
    core.at(5_000).inspected(running());
    let turn = core.turn();
    assert_eq!(turn.blocked_by(), "registered: it is looked at once more");
    assert_eq!(turn.said(), ["query registered: scontrol show node"]);
}

#[test]
fn an_answer_from_before_another_probe_failed_is_asked_for_once_more_when_that_passes() {
    let set = ProbeSet::wait(None, vec![probe("munge"), probe("registered")]);
    let mut core = Core::passed(set);
    core.signal("munge.service", 5);
    core.turn();
    core.systemd(SystemdState {
        last_signal: 5,
        ..with_munge("inactive", 2)
    });
    assert_eq!(core.turn().outcomes(), "F-");
    // Nobody has asked whether it is registered, for as long as munge is down.
    core.at(10_000).signal("munge.service", 6);
    core.turn();
    core.systemd(SystemdState {
        last_signal: 6,
        ..with_munge("active", 3)
    });
    let turn = core.turn();
    assert_eq!(turn.progress(), Progress::Confirming);
    assert_eq!(turn.blocked_by(), "registered: it is looked at once more");
    assert_eq!(turn.said(), ["query registered: scontrol show node"]);
}

#[test]
fn what_is_in_doubt_has_not_passed_and_keeps_since_when_it_did() {
    let mut core = Core::passed(only("munge"));
    let since = core.turn().first().passed_since;
    assert!(since.is_some());
    core.signal("munge.service", 5);
    let turn = core.turn();
    assert_eq!(turn.progress(), Progress::Confirming);
    assert_eq!(turn.first().freshness, Freshness::Stale);
    assert_eq!(turn.first().passed_since, since);
    core.systemd(SystemdState {
        last_signal: 5,
        ..all_up()
    });
    let turn = core.turn();
    assert_eq!(
        (turn.progress(), turn.first().passed_since),
        (Progress::Passed, since)
    );
}

#[test]
fn a_passed_reply_stands_until_the_next_one_comes() {
    let mut core = Core::passed(only("registered"));
    core.at(2_000);
    core.turn();
    core.handle(Input::Turn(probe("registered").key()));
    let turn = core.turn();
    let (registered, query) = turn.probe_query();
    core.at(15_000);
    assert_eq!(core.turn().progress(), Progress::Passed, "it is slow");
    core.answered(
        &registered,
        query,
        Finding::failed(ReasonCode::NoAnswer, "it hangs"),
    );
    assert_eq!(core.turn().outcomes(), "F");
}

#[test]
fn queries_that_follow_each_other_slowly_are_fresh_enough_together() {
    let mut core = Core::wanting(vec![ProbeSet::wait(
        None,
        vec![probe("munge"), probe("registered")],
    )]);
    core.turn();
    core.inspected(running());
    core.turn();
    // One command at a time, each of which takes two seconds.
    core.now += 2 * SECOND;
    let slow = Span::new(core.now - 2 * SECOND, core.now);
    core.handle(Input::Systemd(SystemdReply {
        via: "test",
        result: Ok(unsubscribed()),
        span: slow,
    }));
    let turn = core.turn();
    let (registered, query) = turn.probe_query();
    core.now += 2 * SECOND;
    core.handle(Input::Probe(
        registered.key(),
        query,
        ProbeReply {
            via: "test",
            result: Ok(Finding::passed()),
            span: Span::new(core.now - 2 * SECOND, core.now),
            again: None,
            watch: Watch::Nothing,
        },
    ));
    assert_eq!(core.turn().said(), ["query systemd: munge.service"]);
    core.now += 2 * SECOND;
    core.handle(Input::Systemd(SystemdReply {
        via: "test",
        result: Ok(unsubscribed()),
        span: Span::new(core.now - 2 * SECOND, core.now),
    }));
    assert_eq!(core.turn().said(), ["inspect"]);
    core.inspected(running());
    assert_eq!(core.turn().progress(), Progress::Passed);
}

#[test]
fn a_unit_that_signals_nothing_is_looked_at_once_more_behind_the_last_answer() {
    let mut core = Core::wanting(vec![ProbeSet::wait(
        None,
        vec![probe("sackd"), probe("registered")],
    )]);
    core.turn();
    core.inspected(running());
    core.turn();
    core.systemd(unsubscribed());
    let turn = core.turn();
    let (registered, query) = turn.probe_query();
    core.at(300).answered(&registered, query, Finding::passed());
    let turn = core.turn();
    assert_eq!(turn.blocked_by(), "systemd: it is looked at once more");
    // sackd was started anew meanwhile, and has not proved itself.
    let mut state = unsubscribed();
    state
        .units
        .extend([unit("sackd.service", "active", "simple", 2)]);
    core.systemd(state);
    assert_eq!(core.turn().outcomes(), "F-");
}

#[test]
fn a_label_that_is_no_role_fails_the_container() {
    let mut core = Core::wanting(vec![base()]);
    core.turn();
    core.inspected(with_role("boss"));
    let turn = core.turn();
    assert_eq!(turn.outcomes(), "F---");
    assert!(
        turn.blocked_by()
            .contains("sind.role=boss, which is not a role")
    );
    assert_eq!(turn.first().kind.role, None);
}

#[test]
fn a_role_is_the_clients_else_the_labels() {
    let reports = |set: ProbeSet| {
        let mut core = Core::wanting(vec![set]);
        core.turn();
        core.inspected(with_role("controller"));
        let turn = core.turn();
        let last = turn.first().reports.last().unwrap();
        (turn.first().kind.role, last.probe.clone())
    };
    assert_eq!(
        reports(base()),
        (Some(Role::Controller), "slurmctld".to_owned())
    );
    let explicit = ProbeSet::wait(WORKER, vec![]);
    assert_eq!(reports(explicit), (WORKER, "slurmd".to_owned()));
}

#[test]
fn a_container_never_seen_is_waited_for_and_one_that_was_removed_is_terminal() {
    let mut core = Core::wanting(vec![base()]);
    core.turn();
    core.not_found();
    let turn = core.turn();
    assert_eq!(turn.outcomes(), "F---");
    assert!(turn.first().is_absent && !turn.first().is_present);
    core.event("create");
    core.turn();
    core.inspected(container(State::Created));
    core.event("destroy");
    core.turn();
    core.not_found();
    let turn = core.turn();
    assert_eq!(turn.outcomes(), "T---");
    assert_eq!(turn.blocked_by(), "container: container n was removed");
}

#[test]
fn an_engine_out_of_reach_is_not_an_unready_node() {
    let mut core = Core::wanting(vec![base()]);
    core.turn();
    core.engine_error(unreachable());
    let turn = core.turn();
    assert_eq!(turn.outcomes(), "U---");
    assert!(
        turn.blocked_by().contains("cannot be reached"),
        "{}",
        turn.blocked_by()
    );
    assert!(turn.wake.is_some(), "it is asked again");
}

#[test]
fn a_young_unit_of_a_type_that_does_not_tell_is_not_up_yet() {
    let mut core = Core::wanting(vec![only("sackd")]);
    core.turn();
    core.inspected(running());
    core.turn();
    let mut state = all_up();
    state
        .units
        .extend([unit("sackd.service", "active", "simple", 1)]);
    core.systemd(state.clone());
    let turn = core.turn();
    assert_eq!((turn.outcomes().as_str(), turn.wake), ("F", Some(200 * MS)));
    core.now += 200 * MS;
    core.turn();
    core.systemd(state);
    assert_eq!(core.turn().outcomes(), "P");
}

#[test]
fn a_snapshot_skips_nothing_and_goes_by_units() {
    let mut core = Core::wanting(vec![ProbeSet::snapshot(WORKER)]);
    core.turn();
    core.inspected(running());
    assert_eq!(core.turn().outcomes(), "PUUUU");
    let mut state = with_munge("failed", 2);
    state.system = "maintenance".to_owned();
    core.systemd(state);
    let turn = core.turn();
    // One look cannot be two: failed, not terminal.
    assert_eq!(turn.outcomes(), "PFPFP");
    assert_eq!(turn.said(), [""; 0], "no banner is read");
}

#[test]
fn a_check_says_what_is_now_and_when_a_second_look_settles_it() {
    let set = || ProbeSet::check(None, probe("munge"));
    let mut core = Core::wanting(vec![set()]);
    core.turn();
    core.inspected(running());
    core.turn();
    core.systemd(with_munge("failed", 2));
    let turn = core.turn();
    assert_eq!(turn.outcomes(), "F");
    assert_eq!(turn.first().confirm_at, Some(core.now + 100 * MS));
}

#[test]
fn a_node_without_a_probe_has_proved_nothing() {
    let evaluation = |set| {
        let mut core = Core::wanting(vec![set]);
        core.turn();
        core.inspected(running());
        core.turn().progress()
    };
    assert_eq!(evaluation(only("container")), Progress::Passed);
    let none = ProbeSet::without_probes();
    assert_eq!(evaluation(none), Progress::Blocked);
}

#[test]
fn a_unit_that_nobody_has_asked_for_is_asked_for_and_not_called_failed() {
    let mut core = Core::passed(base());
    let mut asked = all_up();
    asked.units.retain(|name, _| name != "slurmd.service");
    core.systemd(asked);
    core.want(vec![base(), ProbeSet::wait(Some(Role::Worker), vec![])]);
    let turn = core.turn();
    assert_eq!(turn.outcomes(), "PPPP");
    let joined = &turn.evaluations[1];
    assert_eq!(joined.progress, Progress::Open);
    let blocked_by = joined.blocked_by.as_ref().unwrap();
    assert_eq!(blocked_by.probe, "slurmd");
    assert_eq!(blocked_by.reason.as_str(), "systemd has not answered yet");
    let query = turn.said().join(" ");
    assert!(query.contains("slurmd.service"), "{query}");
}

#[test]
fn a_banner_that_is_old_does_not_stand_for_a_wait_that_begins() {
    let refresh = |core: &mut Core| {
        core.inbox(Pending {
            refresh: true,
            ..Pending::default()
        });
        core.turn()
    };
    let asks_sshd = |turn: &Turn| turn.said().iter().any(|said| said.contains("port 22"));
    let mut core = Core::passed(base());
    core.at(9_000);
    assert!(!asks_sshd(&refresh(&mut core)));
    core.at(11_000);
    let turn = refresh(&mut core);
    assert!(asks_sshd(&turn), "{:?}", turn.said());
    let (sshd, query) = turn.probe_query();
    core.inspected(running());
    core.systemd(all_up());
    // Until it is read, the set is as old as the banner.
    assert!(core.turn().first().started < core.zero + SECOND);
    core.answered(
        &sshd,
        query,
        Finding::failed(ReasonCode::NoAnswer, "port 22 is silent"),
    );
    let turn = core.turn();
    assert_eq!(turn.outcomes(), "PPF-");
}

#[test]
fn a_daemon_that_passes_without_its_unit_does_so_only_if_the_unit_is_still_down() {
    let with_slurmd = |active, changed| {
        let mut state = all_up();
        state
            .units
            .extend([unit("slurmd.service", active, "simple", changed)]);
        state
    };
    let mut core = Core::wanting(vec![only("slurmd")]);
    core.turn();
    core.inspected(running());
    core.turn();
    core.systemd(with_slurmd("inactive", 1));
    let turn = core.turn();
    assert_eq!(turn.outcomes(), "F");
    let (slurmd, query) = turn.probe_query();
    core.answered(&slurmd, query, Finding::passed());
    // It may be the unit's own, which was started only just now.
    let turn = core.turn();
    assert_eq!(turn.blocked_by(), "systemd: it is looked at once more");
    assert_eq!(turn.said(), ["query systemd: slurmd.service"]);
    core.systemd(with_slurmd("inactive", 1));
    assert_eq!(core.turn().progress(), Progress::Passed);

    let mut core = Core::wanting(vec![only("slurmd")]);
    core.turn();
    core.inspected(running());
    core.turn();
    core.systemd(with_slurmd("inactive", 1));
    let (slurmd, query) = core.turn().probe_query();
    core.answered(&slurmd, query, Finding::passed());
    core.turn();
    core.systemd(with_slurmd("active", 2));
    let turn = core.turn();
    assert_ne!(turn.progress(), Progress::Passed);
}

#[test]
fn a_command_that_is_run_by_routine_waits_for_its_turn_and_one_that_is_wanted_does_not() {
    let mut core = Core::passed(only("registered"));
    let waits = ["await the turn of registered"];
    assert_eq!(core.at(2_000).turn().said(), waits);
    let none: [&str; 0] = [];
    assert_eq!(core.at(2_100).turn().said(), none);
    core.handle(Input::Turn(probe("registered").key()));
    let (registered, query) = core.turn().probe_query();
    core.answered(&registered, query, Finding::passed());
    core.turn();
    // Somebody wants it anew while its turn has not come.
    assert_eq!(core.at(4_000).turn().said(), waits);
    core.inbox(Pending {
        refresh: true,
        ..Pending::default()
    });
    let turn = core.turn();
    let said = turn.said();
    let asked = "query registered: scontrol show node".to_owned();
    assert!(said.contains(&asked), "{said:?}");
}
