//! Levels, and the operator's own probes in them.

use super::*;
use crate::{
    probe::{Level, OwnCheck, OwnProbe},
    watcher::probe_set::Mode,
};

fn own(change: impl Fn(&mut OwnProbe)) -> Probe {
    let mut own = OwnProbe::new("own", OwnCheck::Tcp { port: 1 });
    change(&mut own);
    Probe::own_ones(vec![own]).unwrap().remove(0)
}

#[test]
fn the_interval_of_an_own_probe_keeps_nobody_from_wanting_it_anew() {
    let own = own(|own| own.interval = 600 * SECOND);
    let mut core = Core::wanting(vec![ProbeSet::wait(None, vec![own.clone()])]);
    core.turn();
    core.inspected(running());
    let (_, query) = core.turn().probe_query();
    let span = core.span();
    let passed = || ProbeReply {
        via: "test",
        result: Ok(Finding::passed()),
        span,
        again: Some(span.answered + 600 * SECOND),
        watch: Watch::Nothing,
    };
    core.handle(Input::Probe(own.key(), query, passed()));
    core.turn();
    let asks = |turn: &Turn| turn.said().iter().any(|said| said.contains("query own"));
    assert!(!asks(&core.at(60_000).turn()));
    core.inbox(Pending {
        refresh: true,
        ..Pending::default()
    });
    assert!(asks(&core.turn()));
}

#[test]
fn what_is_optional_blocks_nothing_unless_it_is_named() {
    let own = own(|own| {
        own.optional = true;
        own.initial_delay = 5 * SECOND;
    });
    let level = |mode| ProbeSet::of_level(None, Level::Services, &[own.clone()].into(), mode);
    let mut core = Core::wanting(vec![level(Mode::Wait)]);
    core.turn();
    core.inspected(running());
    core.turn();
    core.systemd(all_up());
    let (sshd, query) = core.turn().probe_query();
    core.answered(&sshd, query, Finding::passed());
    // It is not looked at yet.
    assert_eq!(core.turn().outcomes(), "PPPPP");
    for (set, outcomes) in [
        (level(Mode::Check), "PPPPP"),
        (ProbeSet::check(None, own.clone()), "F"),
    ] {
        let mut core = Core::wanting(vec![set]);
        for _ in 0..6 {
            for command in core.turn().commands {
                match command {
                    Command::Inspect => core.inspected(running()),
                    Command::QuerySystemd(_) => core.systemd(all_up()),
                    Command::QueryProbe(probe, query, ..) if probe.own().is_some() => {
                        let closed = Finding::failed(ReasonCode::PortClosed, "closed");
                        core.answered(&probe, query, closed);
                    }
                    Command::QueryProbe(probe, query, ..) => {
                        core.answered(&probe, query, Finding::passed());
                    }
                    _ => {}
                }
            }
        }
        assert_eq!(core.turn().outcomes(), outcomes);
    }
}

#[test]
fn a_daemon_that_was_started_by_hand_and_has_not_answered_yet_is_not_past_help() {
    let mut core = Core::wanting(vec![ProbeSet::of_level(
        WORKER,
        Level::Rpc,
        &[].into(),
        Mode::Wait,
    )]);
    core.turn();
    core.inspected(running());
    core.turn();
    let mut state = all_up();
    state
        .units
        .extend([unit("slurmd.service", "failed", "notify", 1)]);
    core.systemd(state.clone());
    let (sshd, query) = core.turn().probe_query();
    core.answered(&sshd, query, Finding::passed());
    let (slurmd, query) = core.turn().probe_query();
    assert_eq!(slurmd.name(), "slurmd");
    let mut silent = Finding::failed(ReasonCode::NoAnswer, "slurmd listens, but does not answer");
    silent.evidence.is_up = true;
    core.answered(&slurmd, query, silent);
    core.turn();
    core.at(1_000).systemd(state);
    assert_eq!(core.turn().outcomes(), "PPPPF");
}
