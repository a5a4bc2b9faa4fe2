//! Many nodes, and what becomes of one among them: over a fake engine, on paused time.

// A test's helpers may make it fail, too.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod support;

use std::time::Duration;

use readyd::{
    container::State,
    environment::Environment,
    event::Action,
    monitor::{
        FailurePolicy, Monitor, NodeState, Options, Verdict, WaitEvent, WaitRequest, WaitTarget,
    },
    node::Identity,
};
use support::{
    fake::{FakeEngine, FakeNode},
    waits::{all_told, containers, names},
};
use tokio::time::{Instant, sleep};

const ME: Identity = Identity::Local;
const MS: Duration = Duration::from_millis(1);

fn monitor(fake: &FakeEngine) -> Monitor {
    Monitor::new(fake.clone(), Options::default(), Environment::tokio())
}

#[tokio::test(start_paused = true)]
async fn what_does_not_exist_is_asked_for_once_while_events_are_live() {
    let fake = FakeEngine::default().with_events();
    let monitor = monitor(&fake);
    let nodes = names("made-up-", 1000);
    let mut wait = monitor.wait(&ME, containers(&nodes, Some(Duration::from_secs(3600))));
    all_told(&mut wait, 1000).await;
    sleep(5000 * MS).await;
    // Those whose look began before the events were live are looked at once more.
    let asked = fake.inspections();
    assert!(asked <= 2 * 1000, "{asked}");
    sleep(Duration::from_secs(600)).await;
    assert_eq!(fake.inspections(), asked);
    // One list for all of them backs the events up.
    assert!((10..30).contains(&fake.lists()), "{}", fake.lists());

    fake.put(FakeNode::ready("made-up-7", None));
    fake.tell("made-up-7", Action::Start);
    let report = loop {
        match wait.next().await {
            Some(WaitEvent::Node(report)) if report.state == NodeState::Ready => break report,
            Some(WaitEvent::Node(_)) => {}
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(report.node.as_str(), "made-up-7");
    assert!(fake.inspections() <= asked + 3);
}

#[tokio::test(start_paused = true)]
async fn a_container_that_comes_without_an_event_is_found_by_the_list() {
    let fake = FakeEngine::default().with_events();
    let monitor = monitor(&fake);
    let nodes = names("n", 10);
    let wait = monitor.wait(
        &ME,
        containers(&nodes[3..4], Some(Duration::from_secs(600))),
    );
    let coming = async {
        sleep(10_000 * MS).await;
        fake.put(FakeNode::ready("n3", None));
    };
    let (result, ()) = tokio::join!(wait.result(), coming);
    let result = result.unwrap();
    assert_eq!(result.verdict, Verdict::Ready, "{}", result.message);
    assert!(
        result.elapsed < Duration::from_secs(45),
        "{:?}",
        result.elapsed
    );
}

#[tokio::test(start_paused = true)]
async fn without_events_what_does_not_exist_is_polled() {
    let fake = FakeEngine::default();
    let monitor = monitor(&fake);
    let nodes = names("n", 1);
    let wait = monitor.wait(&ME, containers(&nodes, Some(Duration::from_secs(600))));
    let coming = async {
        sleep(10_000 * MS).await;
        fake.put(FakeNode::ready("n0", None));
    };
    let (result, ()) = tokio::join!(wait.result(), coming);
    let elapsed = result.unwrap().elapsed;
    assert!(elapsed < 10_600 * MS, "{elapsed:?}");
}

/// One of a thousand nodes fails after it has passed, and before the last one passes.
#[tokio::test(start_paused = true)]
async fn a_node_that_fails_late_among_a_thousand_is_never_overlooked() {
    for victim in [0, 1, 500, 998] {
        let nodes = names("n", 1000);
        let all = nodes.iter().map(|name| FakeNode::ready(name, None));
        let fake = FakeEngine::new(all).with_events();
        let last = "n999";
        fake.change(last, |node| {
            node.container.state = State::Created;
        });
        let monitor = monitor(&fake);
        let wait = WaitRequest {
            failure_policy: FailurePolicy::KeepWaiting,
            ..containers(&nodes, Some(Duration::from_secs(20)))
        };
        let mut wait = monitor.wait(&ME, wait);
        all_told(&mut wait, 1000).await;
        // In the same instant the last one starts, and the victim is paused. All that is told of each
        // fits in no scheduler's budget.
        let victim = &nodes[victim];
        for node in &nodes {
            fake.tell(node, Action::Health);
        }
        fake.change(victim, |node| {
            node.container.state = State::Paused;
        });
        fake.change(last, |node| {
            node.container.state = State::Running;
        });
        fake.tell(last, Action::Start);
        fake.tell(victim, Action::Pause);
        let result = wait.result().await.unwrap();
        assert_eq!(result.verdict, Verdict::TimedOut, "{victim}");
        assert!(
            result.message.contains(&format!("{victim}: container")),
            "{}",
            result.message
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_fault_of_readyds_own_delays_a_wait_and_does_not_end_it() {
    let fake = FakeEngine::new([FakeNode::ready("n", None)]).with_events();
    fake.curse("n");
    let monitor = monitor(&fake);
    let target = WaitTarget {
        node: "n".parse().unwrap(),
        role: None,
        profile: None,
    };
    let start = Instant::now();
    let ready = monitor
        .until_ready(&ME, target, vec![], Duration::ZERO)
        .await;
    assert_eq!(ready, Ok(()));
    assert!(start.elapsed() >= 1000 * MS, "{:?}", start.elapsed());
}

/// The engine answers one inspection in 10 ms, and sixteen at once.
#[tokio::test(start_paused = true)]
async fn a_thousand_names_do_not_delay_anothers_look() {
    let fake = FakeEngine::new([FakeNode::ready("n", None)]);
    fake.set_inspection(10 * MS);
    let monitor = monitor(&fake);
    let waits: Vec<_> = (0..20)
        .map(|wait| {
            let nodes = names(&format!("made-up-{wait}-"), 1000);
            monitor.wait(&ME, containers(&nodes, Some(Duration::from_secs(600))))
        })
        .collect();
    sleep(100 * MS).await;
    for _ in 0..20 {
        let start = Instant::now();
        let snapshot = monitor.snapshot(&ME, &"n".parse().unwrap(), None).await;
        assert!(snapshot.unwrap().ready);
        // Each of the twenty waits has its turn before, at most once for each inspection.
        assert!(start.elapsed() < 500 * MS, "{:?}", start.elapsed());
    }
    drop(waits);
}
