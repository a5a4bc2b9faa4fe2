//! What holds whatever happens.

use proptest::prelude::*;

use super::*;
use crate::reason::ReasonCode;
use crate::watcher::cached::Freshness;

/// One thing that happens to a node.
#[derive(Debug, Clone)]
enum Happens {
    Time(u64),
    Event,
    Missed,
    Signal,
    SignalsLost,
    Refresh,
    EventsLive(bool),
    /// The reply to the inspection in flight.
    Inspected(u8),
    /// The reply to the query of systemd in flight.
    Systemd {
        munge: u8,
        changed: u64,
        subscribed: bool,
    },
    /// The reply to the first probe's query in flight.
    Answered(bool),
}

fn happens() -> impl Strategy<Value = Happens> {
    prop_oneof![
        (0u64..3_000).prop_map(Happens::Time),
        Just(Happens::Event),
        Just(Happens::Missed),
        Just(Happens::Signal),
        Just(Happens::SignalsLost),
        Just(Happens::Refresh),
        any::<bool>().prop_map(Happens::EventsLive),
        (0u8..8).prop_map(Happens::Inspected),
        (0u8..4, 1u64..4, any::<bool>()).prop_map(|(munge, changed, subscribed)| {
            Happens::Systemd {
                munge,
                changed,
                subscribed,
            }
        }),
        any::<bool>().prop_map(Happens::Answered),
    ]
}

/// Plays what happens, and keeps to what the actor keeps to: a reply only to what is in flight.
struct Play {
    core: Core,
    signals: u64,
    inspecting: bool,
    asking: bool,
    probing: Vec<(Probe, u64)>,
}

impl Play {
    fn new() -> Self {
        Self {
            core: Core::wanting(vec![base()]),
            signals: 0,
            inspecting: false,
            asking: false,
            probing: vec![],
        }
    }

    fn happen(&mut self, happens: &Happens) {
        let core = &mut self.core;
        match *happens {
            Happens::Time(ms) => core.now += MS * ms as u32,
            Happens::Event => core.event("oom"),
            Happens::Missed => core.inbox(Pending {
                container: Some(ContainerChange::Unknown),
                ..Pending::default()
            }),
            Happens::Signal => {
                self.signals += 1;
                core.signal("munge.service", self.signals);
            }
            Happens::SignalsLost => core.inbox(Pending {
                systemd: true,
                ..Pending::default()
            }),
            Happens::Refresh => core.inbox(Pending {
                refresh: true,
                ..Pending::default()
            }),
            Happens::EventsLive(live) => core.handle(Input::EventsLive(live)),
            Happens::Inspected(which) if self.inspecting => {
                self.inspecting = false;
                match which {
                    0 => core.not_found(),
                    1 => core.inspected(exited()),
                    2 => core.inspected(container(State::Paused)),
                    3 => core.inspected(restarted()),
                    4 => core.engine_error(unreachable()),
                    _ => core.inspected(running()),
                }
            }
            Happens::Systemd {
                munge,
                changed,
                subscribed,
            } if self.asking => {
                self.asking = false;
                let active = ["active", "active", "inactive", "failed"][usize::from(munge)];
                core.systemd(SystemdState {
                    subscribed,
                    last_signal: self.signals,
                    ..with_munge(active, changed)
                });
            }
            Happens::Answered(passes) if !self.probing.is_empty() => {
                let (probe, query) = self.probing.remove(0);
                let finding = if passes {
                    Finding::passed()
                } else {
                    Finding::failed(ReasonCode::PortClosed, "refused")
                };
                core.answered(&probe, query, finding);
            }
            Happens::Inspected(_) | Happens::Systemd { .. } | Happens::Answered(_) => {}
        }
    }

    /// A turn, whose commands are executed.
    fn turn(&mut self) -> Turn {
        let turn = self.core.turn();
        for command in &turn.commands {
            match command {
                Command::Inspect => {
                    assert!(!self.inspecting, "one inspection at a time");
                    self.inspecting = true;
                }
                Command::QuerySystemd(_) => {
                    assert!(!self.asking, "one query of systemd at a time");
                    self.asking = true;
                }
                Command::QueryProbe(probe, query, ..) => {
                    let same = |(other, _): &(Probe, u64)| other.key() == probe.key();
                    assert!(
                        !self.probing.iter().any(same),
                        "one query of a probe at a time"
                    );
                    self.probing.push((probe.clone(), *query));
                }
                Command::EndSession => {
                    self.asking = false;
                    self.probing.clear();
                }
                Command::StartSession(_)
                | Command::RenewLink
                | Command::DistrustEvents
                | Command::AwaitTurn(..)
                | Command::Watch(..) => {}
            }
        }
        turn
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn a_set_passes_only_by_replies_that_count(all in prop::collection::vec(happens(), 1..60)) {
        let mut play = Play::new();
        for happens in &all {
            play.happen(happens);
            let turn = play.turn();
            if turn.progress() == Progress::Passed {
                let state = &play.core.state;
                prop_assert!(state.container.is_valid() && state.systemd.is_valid());
                prop_assert_eq!(turn.first().freshness, Freshness::Valid);
                let runs = matches!(
                    state.container.value(),
                    Some(Ok(Some(container))) if container.state == State::Running
                );
                prop_assert!(runs);
                prop_assert_eq!(turn.outcomes(), "PPPP");
            }
        }
    }

    #[test]
    fn who_is_not_ready_has_a_reason_and_who_is_has_none(
        all in prop::collection::vec(happens(), 1..60),
    ) {
        let mut play = Play::new();
        for happens in &all {
            play.happen(happens);
            let turn = play.turn();
            let ready = turn.progress() == Progress::Passed;
            prop_assert_eq!(turn.first().blocked_by.is_none(), ready);
            prop_assert_eq!(turn.first().reports.len(), 4);
        }
    }

    #[test]
    fn there_is_always_something_that_will_go_on(
        all in prop::collection::vec(happens(), 1..60),
    ) {
        let mut play = Play::new();
        for happens in &all {
            play.happen(happens);
            let turn = play.turn();
            let in_flight = play.inspecting || play.asking || !play.probing.is_empty();
            // Events tell when a container comes.
            let state = &play.core.state;
            let is_told = state.is_absent() && state.container_events_live();
            let goes_on = in_flight || turn.wake.is_some() || is_told;
            prop_assert!(goes_on, "{:?}", turn.blocked_by());
        }
    }

    #[test]
    fn to_evaluate_changes_nothing(all in prop::collection::vec(happens(), 1..40)) {
        let mut play = Play::new();
        for happens in &all {
            play.happen(happens);
            let now = play.core.now;
            let said = |evaluations: &[(SetId, Evaluation)]| format!("{evaluations:?}");
            let first = play.core.state.evaluate_all(now);
            let second = play.core.state.evaluate_all(now);
            prop_assert_eq!(said(&first), said(&second));
            play.turn();
        }
    }

    #[test]
    fn a_turn_after_a_turn_asks_nothing_more(all in prop::collection::vec(happens(), 1..40)) {
        let mut play = Play::new();
        for happens in &all {
            play.happen(happens);
            play.turn();
            let again = play.turn();
            prop_assert!(again.commands.is_empty(), "{:?}", again.said());
        }
    }

    #[test]
    fn the_same_seed_and_inputs_give_the_same_commands(
        all in prop::collection::vec(happens(), 1..40),
    ) {
        let run = || -> Vec<Vec<String>> {
            let mut play = Play::new();
            let turns = all.iter().map(|happens| {
                play.happen(happens);
                play.turn().said()
            });
            turns.collect()
        };
        prop_assert_eq!(run(), run());
    }
}
