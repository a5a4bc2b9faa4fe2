//! The stream of a watch, which has no end of its own.
//!
//! ```text
//! Watch ─▶ task ─▶ one message ─▶ client
//! ```
//!
//! The task holds what the watch takes, and lets it go when the client does not read: HTTP/2 asks for no message
//! before there is room for it.

use std::{pin::Pin, time::Duration};

use futures_util::{Stream, stream};
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc},
    time::{sleep, timeout},
};
use tonic::Status;

use super::{convert, drain::Drain, status};
use crate::{
    monitor::{Watch, WatchEvent},
    pb,
};

/// The messages of a watch, followed by why it has ended.
pub(super) type WatchStream =
    Pin<Box<dyn Stream<Item = Result<pb::WatchNodesResponse, Status>> + Send>>;

/// Gives the messages of a watch until the client goes, does not read for so long while something is due, or the
/// server drains.
pub(super) fn messages(
    watch: Watch,
    heartbeat: Option<Duration>,
    deadline: Option<Duration>,
    unread: Duration,
    drain: Drain,
    permit: OwnedSemaphorePermit,
) -> WatchStream {
    let (sender, receiver) = mpsc::channel(1);
    let (end_sender, end) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        let outgoing = Outgoing { sender, unread };
        let _permit = permit;
        let late = async {
            match deadline {
                Some(left) => sleep(left).await,
                None => std::future::pending().await,
            }
        };
        let ended = tokio::select! {
            ended = outgoing.all(watch, heartbeat, drain) => ended,
            () = late => Some(status::watch_deadline(deadline.unwrap_or_default())),
        };
        if let Some(why) = ended {
            // Whoever has gone needs no reason.
            let _ = end_sender.send(why);
        }
    });
    Box::pin(stream::unfold(
        (receiver, Some(end)),
        |(mut receiver, end)| async move {
            if let Some(message) = receiver.recv().await {
                return Some((Ok(message), (receiver, end)));
            }
            let why = end?.await.ok()?;
            Some((Err(why), (receiver, None)))
        },
    ))
}

struct Outgoing {
    sender: mpsc::Sender<pb::WatchNodesResponse>,
    unread: Duration,
}

impl Outgoing {
    /// Sends what there is to tell; returns why no more is told, or nothing if the client has gone.
    async fn all(
        &self,
        mut watch: Watch,
        heartbeat: Option<Duration>,
        mut drain: Drain,
    ) -> Option<Status> {
        loop {
            let silence = async {
                match heartbeat {
                    Some(interval) => sleep(interval).await,
                    None => std::future::pending().await,
                }
            };
            let message = tokio::select! {
                biased;
                () = self.sender.closed() => return None,
                () = drain.started() => return Some(status::draining()),
                event = watch.next() => convert::watch_event(&event?),
                () = silence => convert::watch_heartbeat(),
            };
            tokio::select! {
                biased;
                sent = timeout(self.unread, self.sender.send(message)) => match sent {
                    Ok(Ok(())) => {}
                    Ok(Err(_)) => return None,
                    Err(_) => return Some(status::slow_reader(self.unread)),
                },
                () = drain.started() => return Some(status::draining()),
            }
        }
    }
}

/// Gives the event of a watch its message.
impl From<&WatchEvent> for pb::watch_nodes_response::Event {
    fn from(event: &WatchEvent) -> Self {
        match event {
            WatchEvent::Node { node, report } => Self::Node(convert::node(node, Some(report))),
            WatchEvent::Removed(node) => Self::Removed(node.to_string()),
            WatchEvent::Synced => Self::Synced(pb::Synced {}),
        }
    }
}
