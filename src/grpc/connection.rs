//! Accepts connections, and serves each of them until its client has gone or the server drains.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
    time::{Instant, sleep},
};
use tonic::{body::Body, codegen::http::Request, service::Routes};
use tower::Service as _;

use super::{
    authority::Acceptable,
    drain::Drain,
    http2_stream::{self, StreamExecutor},
    listen::Listener,
};
use crate::{environment::after, pb::readiness_service_server::SERVICE_NAME, text::chain};

/// How often the server sends a keepalive ping to a silent client, and how long the client has to
/// reply. If a client's machine has gone, its wait ends at the latest after these two times.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(5));

/// How many calls one connection carries at once.
const STREAMS: u32 = 10_000;

/// How many bytes of headers a call may have.
const HEADER_BYTES: u32 = 16 * 1024;

/// The length of the preface that every HTTP/2 client sends first (RFC 9113, section 3.4).
const PREFACE: usize = 24;

/// The wait before the next try where a connection cannot be accepted, for want of files say: at first
/// and at most.
const ACCEPT_BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// How connections are served.
#[derive(Clone)]
pub(super) struct Connections {
    pub(super) routes: Routes,
    pub(super) drain: Drain,
    /// How long a client has to send HTTP/2's preface, and to send each call's request.
    pub(super) handshake: Duration,
    pub(super) places: Arc<Semaphore>,
}

impl Connections {
    /// Accepts connections until the drain starts, and then waits for the end of those that are open.
    pub(super) async fn accept(self, listener: Listener) {
        let mut open = JoinSet::new();
        let mut drain = self.drain.clone();
        let mut trouble = Trouble::default();
        loop {
            let accepted = tokio::select! {
                biased;
                () = drain.started() => break,
                Some(_) = open.join_next() => continue,
                accepted = listener.accept() => accepted,
            };
            let stream = match accepted {
                Ok(stream) => stream,
                // The client has gone before it was its turn.
                Err(error) if is_the_clients(&error) => continue,
                Err(error) => {
                    sleep(trouble.cannot_accept(&error)).await;
                    continue;
                }
            };
            let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
                trouble.is_full();
                continue;
            };
            trouble = Trouble::default();
            let serving = self.clone();
            match stream {
                Stream::Tcp(stream) => open.spawn(serving.serve(stream, Some(place))),
                Stream::Unix(stream) => {
                    let stream = Acceptable::new(stream, HEADER_BYTES as usize);
                    open.spawn(serving.serve(stream, Some(place)))
                }
            };
        }
        // A socket that is closed refuses at once whoever comes later.
        drop(listener);
        while open.join_next().await.is_some() {}
    }

    /// Serves one connection.
    pub(super) async fn serve<S>(self, stream: S, _place: Option<OwnedSemaphorePermit>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let received = Arc::new(AtomicUsize::new(0));
        let stream = Counted {
            stream,
            received: Arc::clone(&received),
        };
        let (routes, patience) = (self.routes, self.handshake);
        let service = service_fn(move |request: Request<Incoming>| {
            let mut routes = routes.clone();
            // This runs in the stream's task, as the rest of the call does.
            async move {
                // The call takes this back once its request is there.
                let is_own = request.uri().path().split('/').nth(1) == Some(SERVICE_NAME);
                http2_stream::end_at(is_own.then(|| after(Instant::now(), patience)));
                routes.call(request.map(Body::new)).await
            }
        });
        let connection = http2::Builder::new(StreamExecutor)
            .timer(TokioTimer::new())
            .keep_alive_interval(Some(KEEPALIVE.0))
            .keep_alive_timeout(KEEPALIVE.1)
            .max_concurrent_streams(Some(STREAMS))
            .max_header_list_size(HEADER_BYTES)
            .serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        let late = sleep(patience);
        tokio::pin!(late);
        let mut drain = self.drain;
        let (mut is_awaited, mut drains) = (true, false);
        loop {
            tokio::select! {
                biased;
                ended = &mut connection => {
                    if let Err(error) = ended {
                        tracing::debug!(error = chain(&error), "a connection has failed");
                    }
                    break;
                }
                () = drain.started(), if !drains => {
                    drains = true;
                    connection.as_mut().graceful_shutdown();
                }
                () = &mut late, if is_awaited => {
                    is_awaited = false;
                    if received.load(Ordering::Relaxed) < PREFACE {
                        tracing::debug!("a client has connected and says nothing: it is cut off");
                        break;
                    }
                }
            }
        }
    }
}

/// An accepted connection.
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// Whether an error of accept(2) is about the one connection, which has ended already.
fn is_the_clients(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset
    )
}

/// What keeps a server from accepting connections. It is said once, not for each of them.
#[derive(Default)]
struct Trouble {
    backoff: Duration,
    full: bool,
}

impl Trouble {
    /// Returns how long to wait before the next try.
    fn cannot_accept(&mut self, error: &io::Error) -> Duration {
        if self.backoff.is_zero() {
            tracing::warn!(%error, "no connection can be accepted: it is tried again and again");
        }
        self.backoff = (2 * self.backoff).clamp(ACCEPT_BACKOFF.0, ACCEPT_BACKOFF.1);
        self.backoff
    }

    fn is_full(&mut self) {
        if !self.full {
            tracing::warn!("there are too many connections: new ones are closed");
        }
        self.full = true;
    }
}

/// A stream that counts what it receives.
struct Counted<S> {
    stream: S,
    received: Arc<AtomicUsize>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        let more = buffer.filled().len() - before;
        self.received.fetch_add(more, Ordering::Relaxed);
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, buffer)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
