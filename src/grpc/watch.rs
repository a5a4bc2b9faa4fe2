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
    time::timeout,
};
use tonic::Status;

use super::{convert, deadline, drain::Drain, status};
use crate::{monitor::Watch, pb};

/// The messages of a watch, followed by why it has ended.
pub(super) type WatchStream =
    Pin<Box<dyn Stream<Item = Result<pb::WatchNodesResponse, Status>> + Send>>;

/// Gives the messages of a watch until the client goes, does not read for so long while something is due, or the
/// server drains.
pub(super) fn messages(
    watch: Watch,
    heartbeat: Option<Duration>,
    left: Option<Duration>,
    unread: Duration,
    drain: Drain,
    permit: OwnedSemaphorePermit,
) -> WatchStream {
    let (sender, receiver) = mpsc::channel(1);
    let (end_sender, end) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        let outgoing = Outgoing { sender, unread };
        let _permit = permit;
        let ended = tokio::select! {
            ended = outgoing.all(watch, heartbeat, drain) => ended,
            () = deadline::passed(left) => Some(status::watch_deadline(left.unwrap_or_default())),
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
            // Without a reason the task has gone wrong, and a client must not take that for an end.
            let why = end?.await.unwrap_or_else(|_| status::draining());
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
            let message = tokio::select! {
                biased;
                () = self.sender.closed() => return None,
                () = drain.started() => return Some(status::draining()),
                event = watch.next() => match event {
                    Some(event) => convert::watch_event(&event),
                    // It has no end of its own: its tasks are being ended.
                    None => return Some(status::draining()),
                },
                () = deadline::passed(heartbeat) => convert::watch_heartbeat(),
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
