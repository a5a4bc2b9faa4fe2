//! What every container engine has to keep to, whichever it is: readyd judges nodes by these promises of
//! the trait `ContainerEngine`.

use std::{pin::Pin, time::Duration};

use futures_util::{Stream, StreamExt as _};
use readyd::{
    container::{Container, Network, State},
    engine::{ContainerEngine, EngineError, Exec, ExecChunk, ExecOutput},
    event::{Action, ContainerEvent},
};
use tokio::{
    io::AsyncWriteExt as _,
    time::{Instant, sleep, timeout},
};

/// A way to do with containers what readyd itself never does. The container has `sh` and `sleep`, and
/// is named by what is given.
pub trait World {
    /// Makes a container that sleeps once it is started, with the label `conforms=yes` and these
    /// options.
    fn create(&self, name: &str, options: &[&str]);
    fn start(&self, name: &str);
    fn pause(&self, name: &str);
    fn unpause(&self, name: &str);
    fn restart(&self, name: &str);
    fn kill(&self, name: &str);
    fn remove(&self, name: &str);
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

async fn inspected(engine: &impl ContainerEngine, name: &str) -> Container {
    let found = engine.inspect(name, soon()).await.unwrap();
    found.unwrap_or_else(|| panic!("{name} is not there"))
}

async fn is_listed(engine: &impl ContainerEngine, container: &Container) -> bool {
    let listed = engine.list(soon()).await.unwrap();
    let mut listed = listed.iter();
    listed.any(|listed| listed.id == container.id && listed.name == container.name)
}

/// An inspection tells which container it is, which run of it, and how it is.
pub async fn inspection(engine: &impl ContainerEngine, world: &impl World, name: &str) {
    assert_eq!(engine.inspect(name, soon()).await.unwrap(), None);
    world.create(name, &[]);
    let created = inspected(engine, name).await;
    assert_eq!(created.name, name, "without a slash");
    assert_eq!(created.id.0.len(), 64);
    assert_eq!(created.labels["conforms"], "yes");
    assert_eq!(
        (&created.state, &created.network),
        (&State::Created, &Network::Own)
    );
    assert!(!created.restarts && created.pid.is_none() && created.started_at.is_none());

    // A list shows it in whatever state it is.
    assert!(is_listed(engine, &created).await);
    world.start(name);
    let first = inspected(engine, name).await;
    assert_eq!(first.state, State::Running);
    assert!(first.pid.is_some() && first.started_at.is_some());
    assert_eq!(
        inspected(engine, &first.id.0).await,
        first,
        "an id names it, too"
    );

    world.pause(name);
    let paused = inspected(engine, name).await;
    assert_eq!(paused.state, State::Paused);
    assert!(paused.is_same_run(&first));
    world.unpause(name);

    world.restart(name);
    let second = inspected(engine, name).await;
    assert_eq!((&second.id, &second.state), (&first.id, &State::Running));
    assert!(!second.is_same_run(&first));

    world.kill(name);
    let ended = inspected(engine, name).await;
    assert_eq!(
        ended.state,
        State::Exited {
            code: 137,
            oom: false
        }
    );
    assert!(ended.is_same_run(&second), "its end belongs to it");
    assert!(is_listed(engine, &ended).await);
    world.remove(name);
    assert!(!is_listed(engine, &ended).await);
    assert_eq!(engine.inspect(name, soon()).await.unwrap(), None);

    world.create(name, &["--restart=always", "--network=host"]);
    let other = inspected(engine, name).await;
    assert!(other.restarts && !other.is_same_run(&first));
    assert_eq!(other.network, Network::Host);
    world.remove(name);
}

fn exec(shell: &str, cap: usize) -> Exec {
    Exec {
        argv: ["sh", "-c", shell].map(str::to_owned).to_vec(),
        cap,
    }
}

async fn run(
    engine: &impl ContainerEngine,
    container: &Container,
    exec: Exec,
    limit: Duration,
) -> Result<ExecOutput, EngineError> {
    let running = engine.exec(&container.id, exec, soon()).await?;
    running.output(Instant::now() + limit).await
}

/// A command tells what it printed and how it ended; what keeps it from that is told apart.
pub async fn commands(engine: &impl ContainerEngine, world: &impl World, name: &str) {
    world.create(name, &[]);
    let container = inspected(engine, name).await;
    let second = Duration::from_secs(1);
    let stopped = run(engine, &container, exec("true", 10), second).await;
    assert!(
        matches!(stopped, Err(EngineError::NotRunning { .. })),
        "{stopped:?}"
    );
    let none = engine.processes(&container.id, soon()).await;
    assert!(
        matches!(none, Ok(0) | Err(EngineError::NotRunning { .. })),
        "{none:?}"
    );

    world.start(name);
    assert_eq!(engine.processes(&container.id, soon()).await.unwrap(), 1);
    let patience = 8 * second;
    let output = run(
        engine,
        &container,
        exec("id -u; echo err >&2; exit 3", 100),
        patience,
    )
    .await;
    let expected = ExecOutput {
        stdout: b"0\n".to_vec(),
        stderr: b"err\n".to_vec(),
        code: 3,
    };
    assert_eq!(output.unwrap(), expected, "as root");
    let much = run(engine, &container, exec("yes", 1000), patience).await;
    assert!(
        matches!(much, Err(EngineError::TooMuch { cap: 1000, .. })),
        "{much:?}"
    );
    let long = run(engine, &container, exec("sleep 5", 10), second).await;
    assert!(
        matches!(long, Err(EngineError::StillRunning { .. })),
        "{long:?}"
    );
    let absent = Exec {
        argv: vec!["/no/such/command".to_owned()],
        cap: 1000,
    };
    let absent = run(engine, &container, absent, patience).await;
    assert!(
        matches!(absent, Err(EngineError::CannotRun { .. })),
        "{absent:?}"
    );

    // Whoever drops a command closes its standard input.
    let waits = exec("cat >/dev/null; echo gone >/gone", 10);
    let running = engine.exec(&container.id, waits, soon()).await.unwrap();
    sleep(second).await;
    drop(running);
    let mut gone = false;
    for _ in 0..50 {
        let output = run(engine, &container, exec("cat /gone", 10), patience).await;
        gone = output.unwrap().stdout == b"gone\n";
        if gone {
            break;
        }
        sleep(second / 10).await;
    }
    assert!(gone, "the command has not noticed that nobody waits for it");

    // And a command that is talked to answers at once.
    let running = engine.exec(
        &container.id,
        exec("read -r line; echo \"$line\"", 10),
        soon(),
    );
    let mut streams = running.await.unwrap().streams();
    streams.input.write_all(b"hello\n").await.unwrap();
    streams.input.flush().await.unwrap();
    let said = timeout(patience, streams.output.next()).await.unwrap();
    assert_eq!(
        said.unwrap().unwrap(),
        ExecChunk::Stdout(b"hello\n".to_vec())
    );
    world.remove(name);
}

type Events = Pin<Box<dyn Stream<Item = Result<ContainerEvent, EngineError>> + Send>>;

/// The next events of that container.
async fn next(events: &mut Events, name: &str, count: usize) -> Vec<ContainerEvent> {
    let mut found = Vec::new();
    while found.len() < count {
        let event = timeout(Duration::from_secs(10), events.next()).await;
        let event = event.unwrap_or_else(|_| panic!("after {found:?}, no more events came"));
        let event = event.unwrap().unwrap();
        if event.name == name {
            found.push(event);
        }
    }
    found
}

/// Whatever happens once the subscription stands is told, in its order, and what happened since a time.
pub async fn events(engine: &impl ContainerEngine, world: &impl World, name: &str) {
    let mut events = engine.events(None, soon()).await.unwrap();
    world.create(name, &[]);
    world.start(name);
    world.pause(name);
    world.unpause(name);
    world.kill(name);
    world.remove(name);
    let told = next(&mut events, name, 6).await;
    let actions: Vec<_> = told.iter().map(|event| event.action).collect();
    let expected = [
        Action::Create,
        Action::Start,
        Action::Pause,
        Action::Unpause,
        Action::Die,
        Action::Destroy,
    ];
    assert_eq!(actions, expected);
    assert!(
        told.iter()
            .all(|event| event.id == told[0].id && event.at.is_some())
    );

    let mut again = engine.events(told[2].at, soon()).await.unwrap();
    let repeated = next(&mut again, name, 4).await;
    assert_eq!(repeated, told[2..]);
}
