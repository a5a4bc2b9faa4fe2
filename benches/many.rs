//! Measures what many nodes cost: waits over a fake engine by their number of nodes, and a real server
//! beside twenty waits of a thousand names that do not exist.

#![allow(missing_docs, clippy::print_stdout, clippy::unwrap_used, clippy::panic)]
// The figures are for people, and far below the values at which a float loses count.
#![allow(clippy::cast_precision_loss)]

#[path = "../tests/support/fake.rs"]
#[allow(dead_code, unreachable_pub)]
mod fake;
#[path = "../tests/support/real.rs"]
#[allow(dead_code, unreachable_pub)]
mod real;
#[path = "../tests/support/waits.rs"]
#[allow(dead_code, unreachable_pub)]
mod waits;

use std::time::Duration;

use fake::{FakeEngine, FakeNode};
use readyd::{
    client::{
        NodeTarget, ReadinessServiceClient, SnapshotRequest, WaitReadyRequest, WaitReadyResponse,
        wait_ready_response::Event,
    },
    container::State,
    environment::Environment,
    event::Action,
    monitor::{Monitor, Options, Verdict},
    node::Identity,
};
use real::{BOOKWORM, Node, Serve, booted, unique};
use rustix::time::{ClockId, clock_gettime};
use tokio::time::{Instant, sleep};
use tonic::Streaming;
use waits::{all_told, containers, names};

/// How often each number of nodes is measured.
const REPEAT: usize = 5;

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |value| value.parse().unwrap())
}

/// How much processor time this process has used.
fn cpu() -> Duration {
    let used = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(
        used.tv_sec.try_into().unwrap(),
        used.tv_nsec.try_into().unwrap(),
    )
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// Measures one wait: how long it takes until each node has been told of, the processor time for all of
/// it, and how long it takes from the last node's change to READY.
async fn wait_for(count: usize) -> (Duration, Duration, Duration) {
    let names = names("n", count);
    let fake = FakeEngine::new(names.iter().map(|name| FakeNode::ready(name, None))).with_events();
    let last = names.last().unwrap();
    fake.change(last, |node| node.container.state = State::Created);
    let monitor = Monitor::new(fake.clone(), Options::default(), Environment::tokio());
    let (start, used) = (Instant::now(), cpu());
    let mut wait = monitor.wait(&Identity::Local, containers(&names, None));
    all_told(&mut wait, count).await;
    let told = start.elapsed();
    sleep(Duration::from_millis(200)).await;
    let change = Instant::now();
    fake.change(last, |node| node.container.state = State::Running);
    fake.tell(last, Action::Start);
    let result = wait.result().await.unwrap();
    let ready = change.elapsed();
    assert_eq!(result.verdict, Verdict::Ready, "{}", result.message);
    (told, cpu().saturating_sub(used), ready)
}

async fn nodes_of_a_wait() {
    println!("\none wait over a fake engine (medians of {REPEAT})");
    println!("   nodes   all told   from the last change to READY   processor time   of each node");
    for count in [10, 100, 1000, 10_000] {
        let mut measured = Vec::new();
        for _ in 0..REPEAT {
            measured.push(wait_for(count).await);
        }
        let told = median(measured.iter().map(|(told, ..)| *told).collect());
        let used = median(measured.iter().map(|(_, used, _)| *used).collect());
        let ready = median(measured.iter().map(|(.., ready)| *ready).collect());
        println!(
            "{count:>8} {:>7.1} ms {:>28.1} ms {:>13.1} ms {:>11.1} µs",
            ms(told),
            ms(ready),
            ms(used),
            1000.0 * ms(used) / count as f64,
        );
    }
}

type Client = ReadinessServiceClient<tonic::transport::Channel>;

async fn wait_of_names(client: &mut Client, wait: usize) -> Streaming<WaitReadyResponse> {
    let nodes = (0..1000).map(|n| NodeTarget {
        node: format!("made-up-{wait}-{n}"),
        role: 0,
        profile: 0,
    });
    let request = WaitReadyRequest {
        nodes: nodes.collect(),
        ..WaitReadyRequest::default()
    };
    client.wait_ready(request).await.unwrap().into_inner()
}

/// Takes snapshots for that long, and returns how long each took.
async fn snapshots(client: &mut Client, node: &str, within: Duration) -> Vec<Duration> {
    let (mut times, begin) = (Vec::new(), Instant::now());
    while begin.elapsed() < within {
        let start = Instant::now();
        let request = SnapshotRequest {
            node: node.to_owned(),
            role: 0,
            profile: 0,
        };
        let snapshot = client.snapshot(request).await.unwrap().into_inner();
        assert!(snapshot.ready);
        times.push(start.elapsed());
        sleep(Duration::from_millis(20)).await;
    }
    times
}

fn show(what: &str, times: &[Duration], serve: &Serve) {
    println!(
        "  {what:<28} snapshot {:>6.1} ms, at worst {:>6.1} ms; {} files, {} MB",
        ms(median(times.to_vec())),
        ms(*times.iter().max().unwrap()),
        serve.files(),
        serve.status("VmRSS") / 1024,
    );
}

async fn beside_made_up_names() {
    const WAITS: usize = 20;
    println!("\na real node beside {WAITS} waits of 1,000 names that do not exist");
    let node = Node::start(BOOKWORM, &unique("beside"), &[]);
    booted(&node);
    let serve = Serve::start(&[]);
    let mut client = Client::connect(serve.url.clone()).await.unwrap();
    let alone = snapshots(&mut client, &node.0, Duration::from_secs(3)).await;
    show("alone", &alone, &serve);
    for round in 1..=number("READYD_ROUNDS", 3) {
        let mut waits = Vec::new();
        for wait in 0..WAITS {
            let mut crowd = Client::connect(serve.url.clone()).await.unwrap();
            waits.push(wait_of_names(&mut crowd, wait).await);
        }
        let begin = Instant::now();
        let mut other = client.clone();
        let name = node.0.clone();
        let looking =
            tokio::spawn(
                async move { snapshots(&mut other, &name, Duration::from_secs(15)).await },
            );
        for messages in &mut waits {
            for _ in 0..1000 {
                match messages.message().await.unwrap().unwrap().event.unwrap() {
                    Event::Node(_) => {}
                    other => panic!("{other:?}"),
                }
            }
        }
        println!(
            "  round {round}: all 20,000 told after {:.1} s",
            begin.elapsed().as_secs_f64()
        );
        show("while they begin", &looking.await.unwrap(), &serve);
        let used = serve.cpu();
        let window = Duration::from_secs(number("READYD_SETTLED", 35) as u64);
        sleep(window).await;
        let share = serve.cpu().saturating_sub(used).as_secs_f64() / window.as_secs_f64();
        println!("  {:<28} {:.1} % of a core", "settled", 100.0 * share);
        let settled = snapshots(&mut client, &node.0, Duration::from_secs(3)).await;
        show("settled", &settled, &serve);
        drop(waits);
        sleep(Duration::from_secs(5)).await;
        let after = snapshots(&mut client, &node.0, Duration::from_secs(2)).await;
        show("5 s after the last has gone", &after, &serve);
    }
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        nodes_of_a_wait().await;
        beside_made_up_names().await;
    });
}
