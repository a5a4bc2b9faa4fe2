//! The engine's events about containers.

use std::{
    collections::HashMap,
    future::ready,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bollard::{
    Docker,
    errors::Error,
    models::{EventActor, EventMessage},
    query_parameters::{EventsOptions, EventsOptionsBuilder},
};
use futures_util::{Stream, StreamExt as _, stream};
use tokio::{
    sync::Notify,
    time::{Instant, sleep, timeout_at},
};

use super::{
    Client, DockerEngine,
    error::{Call, bounded},
};
use crate::{
    container::ContainerId,
    engine::{CALL_LIMIT, EngineError, EventStream},
    event::{Action, ContainerEvent},
};

/// How long an engine may take from its response to the subscription: moby responds first and
/// subscribes afterwards (`getEvents` in api/server/router/system).
const SUBSCRIBED: Duration = Duration::from_millis(10);

/// From how long ago Podman is to tell events, so that none is lost by clocks that differ.
const PODMAN_SINCE: Duration = Duration::from_secs(5);

/// How exactly Podman reads a time: as a floating-point number.
const PODMAN_ROUNDS: Duration = Duration::from_micros(1);

/// For how long it is waited for Podman to refuse a subscription; its first event may be long in coming.
const PODMAN_REFUSES: Duration = Duration::from_millis(50);

pub(super) async fn subscribe(
    engine: &DockerEngine,
    since: Option<SystemTime>,
    by: Instant,
) -> Result<EventStream, EngineError> {
    let call = Call {
        action: "subscribing to events".to_owned(),
        engine: engine.host.clone(),
    };
    let start = Instant::now();
    let end = by.min(start + CALL_LIMIT);
    let answered = Arc::new(Notify::new());
    let first = timeout_at(end, async {
        let Client { docker, is_podman } = engine.client().await?;
        let told = Arc::clone(&answered);
        let version = docker.client_version();
        let docker = engine.host.observed(&version, move |response| {
            if response.status().is_success() {
                told.notify_one();
            }
        })?;
        let since = if is_podman {
            podman_since(since)
        } else {
            since
        };
        let mut events = Box::pin(events(docker, since));
        // The subscription is active before the first event, but the stream shows nothing until
        // that event. The headers of the response show it, but Podman keeps them back until then: it
        // tells what has happened since a time, whenever it comes to subscribe.
        let active = async {
            if is_podman {
                sleep(PODMAN_REFUSES).await;
            } else {
                answered.notified().await;
            }
        };
        let first = tokio::select! {
            biased;
            first = events.next() => Some(first.unwrap_or(Err(ended()))?),
            () = active => None,
        };
        Ok((first, events))
    });
    let (first, events) = match first.await {
        Ok(Ok(subscribed)) => subscribed,
        Ok(Err(error)) => return Err(call.error(error)),
        Err(_) => return Err(call.timed_out((start + CALL_LIMIT <= by).then_some(CALL_LIMIT))),
    };
    if first.is_none() {
        sleep(SUBSCRIBED).await;
    }
    let events = stream::iter(first.map(Ok)).chain(events);
    let events = events.filter_map(move |event| {
        let event = event.map_err(|error| call.clone().error(error));
        ready(event.map(self::event).transpose())
    });
    Ok(Box::pin(events))
}

/// The time since which Podman is to tell events.
fn podman_since(since: Option<SystemTime>) -> Option<SystemTime> {
    let recent = || SystemTime::now().checked_sub(PODMAN_SINCE);
    since.map_or_else(recent, |since| since.checked_sub(PODMAN_ROUNDS))
}

fn ended() -> Error {
    std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into()
}

/// Streams only events of containers, and of those only the actions in `Action::ALL`: execs have
/// events, too.
fn events(
    docker: Docker,
    since: Option<SystemTime>,
) -> impl Stream<Item = Result<EventMessage, Error>> {
    let actions = Action::ALL.into_iter().flat_map(Action::words).collect();
    let filters = HashMap::from([("type", vec!["container"]), ("event", actions)]);
    let mut options = EventsOptionsBuilder::default().filters(&filters);
    let since = since.and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
    if let Some(since) = since {
        options = options.since(&format!("{}.{:09}", since.as_secs(), since.subsec_nanos()));
    }
    let options: EventsOptions = options.build();
    // The stream does not borrow the client, but the client has to live as long as the stream.
    stream::once(async move {
        let events = docker.events(Some(options));
        events.map(move |event| {
            let _ = &docker;
            event
        })
    })
    .flatten()
}

fn event(message: EventMessage) -> Option<ContainerEvent> {
    let EventActor { id, attributes } = message.actor?;
    let mut attributes = attributes.unwrap_or_default();
    let name = attributes.remove("name").unwrap_or_default();
    let former = attributes.remove("oldName");
    let nanos = message
        .time_nano
        .and_then(|nanos| u64::try_from(nanos).ok());
    Some(ContainerEvent {
        id: ContainerId(bounded(&id?)),
        name: bounded(name.trim_start_matches('/')),
        former_name: former.map(|name| bounded(name.trim_start_matches('/'))),
        action: Action::named(&message.action?)?,
        at: nanos.map(|nanos| SystemTime::UNIX_EPOCH + Duration::from_nanos(nanos)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(action: &str) -> EventMessage {
        let attributes = [("name", "new"), ("oldName", "/old"), ("exitCode", "1")];
        EventMessage {
            action: Some(action.to_owned()),
            actor: Some(EventActor {
                id: Some("ab".repeat(32)),
                attributes: Some(
                    attributes
                        .map(|(key, value)| (key.to_owned(), value.to_owned()))
                        .into(),
                ),
            }),
            time_nano: Some(1_500_000_000),
            ..EventMessage::default()
        }
    }

    #[test]
    fn what_is_acted_on_is_an_event_and_nothing_else() {
        let event = event(message("rename")).unwrap();
        assert_eq!((event.name.as_str(), event.action), ("new", Action::Rename));
        assert_eq!(event.former_name.as_deref(), Some("old"));
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(1500);
        assert_eq!(event.at, Some(at));
        assert_eq!(self::event(message("exec_create: ls")), None);
        assert_eq!(self::event(EventMessage::default()), None);
    }
}
