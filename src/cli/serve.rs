//! The command `readyd serve`.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

use super::{Exit, ServeArguments, signals::Signals};
use crate::docker::ChosenHost;
use crate::grpc::{DRAIN_LIMIT, Drainer, Limits, Listener, Readiness, Server};

/// Serves until SIGTERM or SIGINT, and then until open calls have ended, for at most `DRAIN_LIMIT`.
pub(super) async fn run(arguments: ServeArguments) -> anyhow::Result<Exit> {
    let ServeArguments {
        listen,
        insecure,
        longest_wait,
        max_waits,
        monitor,
    } = arguments;
    log();
    // The handlers come first, so that a signal that arrives while sockets are being opened counts,
    // too.
    let mut signals = Signals::listen()?;

    let mut listeners = Vec::with_capacity(listen.len());
    for address in &listen {
        for listener in Listener::bind(address, insecure).await? {
            tracing::info!("listening on {}", listener.url());
            listeners.push(listener);
        }
    }
    let ChosenHost { host, by } = monitor.host()?;
    tracing::info!("the engine is at {host} ({by})");

    let (drainer, drain) = Drainer::new();
    let limits = Limits {
        longest_wait,
        waits: max_waits,
        ..Limits::default()
    };
    let jobs = monitor.allow_jobs;
    let readiness = Readiness::new(monitor.monitor()?, limits, drain).allow_jobs(jobs);
    let server = Server::new(readiness);
    let serving = server.serve(listeners);
    tokio::pin!(serving);

    tokio::select! {
        () = &mut serving => Ok(Exit::Ready),
        () = signals.received() => {
            tracing::info!("shutting down: open waits end, and calls have {DRAIN_LIMIT:?}");
            drainer.start();
            tokio::select! {
                () = &mut serving => {}
                () = tokio::time::sleep(DRAIN_LIMIT) => {
                    tracing::warn!("some peers have not closed their connections: they are cut");
                }
                () = signals.received() => {
                    tracing::warn!("told twice: leaving at once");
                }
            }
            Ok(Exit::Ready)
        }
    }
}

/// Sets up logging to stderr. `RUST_LOG` selects the log lines.
fn log() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .with_writer(std::io::stderr);
    // A logger that is already set up stays.
    let _ = subscriber.try_init();
}
