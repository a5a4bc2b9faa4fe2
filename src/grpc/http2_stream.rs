//! Ends HTTP/2 streams from outside.
//!
//! hyper waits until a client makes room for a message, and meanwhile polls neither the body of the
//! response nor anything in it. A client that never reads would keep what its call holds for as long
//! as it likes. So each stream runs in a task of readyd's own, which ends it at a time that the call
//! has set; h2 then resets the stream.

use hyper::rt::Executor;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

tokio::task_local! {
    /// When the stream of the current task ends at the latest.
    static END: watch::Sender<Option<Instant>>;
}

/// Runs the streams of a connection, each in a task.
#[derive(Debug, Clone)]
pub(super) struct StreamExecutor;

impl<F> Executor<F> for StreamExecutor
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        let (sender, mut end) = watch::channel(None);
        let stream = END.scope(sender, stream);
        tokio::spawn(async move {
            tokio::pin!(stream);
            loop {
                let at = *end.borrow_and_update();
                tokio::select! {
                    biased;
                    () = &mut stream => return,
                    Ok(()) = end.changed() => {}
                    () = reached(at) => {
                        tracing::debug!("a client has not read or written in time: its stream is reset");
                        return;
                    }
                }
            }
        });
    }
}

async fn reached(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Ends the stream of the current task at this time if it still is there; `None` takes that back. Does
/// nothing where the task runs no stream.
pub(super) fn end_at(at: Option<Instant>) {
    let _ = END.try_with(|end| end.send_replace(at));
}
