//! A D-Bus connection over any stream of bytes, bounded against a peer that may be hostile.
//!
//! zbus reads messages of up to 128 MiB, and allocates them before they have arrived; systemd's
//! replies have a few kilobytes. zbus also takes a handshake's first line without a check. Both are
//! checked here before zbus sees them. File descriptors are neither requested nor accepted.

use std::{
    fmt, io,
    os::fd::{BorrowedFd, OwnedFd},
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    time::Instant,
};
use zbus::{
    Message,
    conn::{
        AuthMechanism,
        socket::{ReadHalf, Socket, Split, WriteHalf},
    },
};

use super::signals::Listeners;

/// The longest message that is read, in bytes. A list of a thousand failed units has 250 bytes for each,
/// and more where their descriptions are long. Every node may make readyd hold one such message.
pub(crate) const MESSAGE_CAP: usize = 512 * 1024;

/// How many bytes are read between two messages from readyd. A peer that never stops sending is cut
/// off.
const UNASKED_CAP: usize = 4 * MESSAGE_CAP;

/// How many bytes a peer may send in a microsecond in the long run, and how many at once. A storm of
/// signals has some hundred kilobytes in a second; whoever sends more than a megabyte costs more than
/// it tells, and is cut off.
const RATE: usize = 1;
const BURST: usize = 16 * MESSAGE_CAP;

/// The longest line that a peer may send in reply to the handshake: `OK` and 32 hexadecimal digits.
const LINE_CAP: usize = 256;

/// The length of the part of a message that gives its length (D-Bus specification, "Message
/// Format").
const HEADER: usize = 16;

/// The two directions of a stream.
pub(crate) struct ByteStream {
    pub(crate) read: Pin<Box<dyn AsyncRead + Send>>,
    pub(crate) write: Pin<Box<dyn AsyncWrite + Send>>,
    /// How readyd identifies itself to the peer.
    pub(crate) auth: AuthMechanism,
    /// The inboxes that receive signals.
    pub(crate) listeners: Arc<Listeners>,
}

impl Socket for ByteStream {
    type ReadHalf = Reader;
    type WriteHalf = Writer;

    fn split(self) -> Split<Reader, Writer> {
        let unasked = Arc::new(AtomicUsize::new(0));
        let bytes = Bytes {
            // This lock is never contended. It makes the stream `Sync`, which zbus requires.
            stream: Mutex::new(self.read),
            line: Some(0),
            unasked: Arc::clone(&unasked),
            pace: Pace::default(),
            auth: self.auth,
        };
        let reader = Reader {
            bytes,
            listeners: self.listeners,
        };
        let writer = Writer {
            stream: Mutex::new(self.write),
            unasked,
        };
        Split::new(reader, writer)
    }
}

/// Reads messages, none longer than [`MESSAGE_CAP`], and passes signals to the listeners.
#[derive(Debug)]
pub(crate) struct Reader {
    bytes: Bytes,
    listeners: Arc<Listeners>,
}

impl Reader {
    async fn message(
        &mut self,
        seq: u64,
        received: &mut Vec<u8>,
        fds: &mut Vec<OwnedFd>,
    ) -> zbus::Result<Message> {
        while received.len() < HEADER {
            let mut rest = [0; HEADER];
            let missing = HEADER - received.len();
            let (read, _) = self.bytes.recvmsg(&mut rest[..missing]).await?;
            if read == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            received.extend_from_slice(&rest[..read]);
        }
        let length = message_length(received).ok_or_else(|| invalid("it is no message"))?;
        if length > MESSAGE_CAP as u64 {
            return Err(invalid(&format!("a message of {length} bytes")).into());
        }
        self.bytes.receive_message(seq, received, fds).await
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.listeners.lost();
    }
}

#[async_trait]
impl ReadHalf for Reader {
    async fn receive_message(
        &mut self,
        seq: u64,
        received: &mut Vec<u8>,
        fds: &mut Vec<OwnedFd>,
    ) -> zbus::Result<Message> {
        let message = self.message(seq, received, fds).await;
        match &message {
            Ok(message) => self.listeners.hear(message),
            // zbus reads no further after an error.
            Err(_) => self.listeners.lost(),
        }
        message
    }

    async fn recvmsg(&mut self, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
        self.bytes.recvmsg(buffer).await
    }

    fn auth_mechanism(&self) -> AuthMechanism {
        self.bytes.auth
    }
}

/// The stream itself.
struct Bytes {
    stream: Mutex<Pin<Box<dyn AsyncRead + Send>>>,
    /// The length of the handshake's only line so far; `None` once the line has ended.
    line: Option<usize>,
    /// How many bytes have been read since readyd last wrote.
    unasked: Arc<AtomicUsize>,
    pace: Pace,
    auth: AuthMechanism,
}

#[async_trait]
impl ReadHalf for Bytes {
    async fn recvmsg(&mut self, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
        let stream = self
            .stream
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        let read = stream.read(buffer).await?;
        if let Some(before) = self.line {
            let end = buffer[..read].iter().position(|byte| *byte == b'\n');
            let length = before + end.unwrap_or(read);
            // zbus itself fails on an empty line.
            if length > LINE_CAP || (end.is_some() && length == 0) {
                return Err(invalid("the handshake is none"));
            }
            self.line = end.is_none().then_some(length);
        }
        if self.unasked.fetch_add(read, Ordering::Relaxed) > UNASKED_CAP {
            return Err(invalid("it never stops talking"));
        }
        if !self.pace.takes(read, Instant::now()) {
            return Err(invalid("it talks too much"));
        }
        Ok((read, Vec::new()))
    }
}

/// Measures how much a peer sends in the long run.
#[derive(Debug, Default)]
struct Pace {
    /// What was sent beyond the rate, and when that was.
    beyond: Option<(usize, Instant)>,
}

impl Pace {
    /// Counts bytes; false if they are too many.
    fn takes(&mut self, bytes: usize, now: Instant) -> bool {
        let before = self.beyond.map_or(0, |(beyond, at)| {
            let passed = now.saturating_duration_since(at).as_micros();
            beyond.saturating_sub(passed as usize * RATE)
        });
        let beyond = before.saturating_add(bytes);
        self.beyond = Some((beyond, now));
        beyond <= BURST
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bytes")
    }
}

/// Writes messages.
pub(crate) struct Writer {
    stream: Mutex<Pin<Box<dyn AsyncWrite + Send>>>,
    unasked: Arc<AtomicUsize>,
}

impl Writer {
    fn stream(&mut self) -> &mut Pin<Box<dyn AsyncWrite + Send>> {
        self.stream
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl WriteHalf for Writer {
    async fn sendmsg(&mut self, buffer: &[u8], _fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
        self.unasked.store(0, Ordering::Relaxed);
        self.stream().write(buffer).await
    }

    async fn flush(&mut self) -> io::Result<()> {
        self.stream().flush().await
    }

    async fn close(&mut self) -> io::Result<()> {
        self.stream().shutdown().await
    }
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Writer")
    }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// The length of the message with this header; `None` if this is no header.
fn message_length(header: &[u8]) -> Option<u64> {
    let number = |at: usize| {
        let bytes = header.get(at..at + 4)?.try_into().ok()?;
        match header[0] {
            b'l' => Some(u64::from(u32::from_le_bytes(bytes))),
            b'B' => Some(u64::from(u32::from_be_bytes(bytes))),
            _ => None,
        }
    };
    let (body, fields) = (number(4)?, number(12)?);
    Some((HEADER as u64 + fields).next_multiple_of(8) + body)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn reader(bytes: &'static [u8], line: Option<usize>) -> Reader {
        let bytes = Bytes {
            stream: Mutex::new(Box::pin(Cursor::new(bytes))),
            line,
            unasked: Arc::default(),
            pace: Pace::default(),
            auth: AuthMechanism::External,
        };
        Reader {
            bytes,
            listeners: Arc::default(),
        }
    }

    #[tokio::test]
    async fn a_peer_that_never_stops_is_not_listened_to() {
        let mut endless = reader(&[], None);
        endless.bytes.stream = Mutex::new(Box::pin(tokio::io::repeat(0)));
        let mut buffer = vec![0; MESSAGE_CAP];
        let mut read = 0;
        let ended = loop {
            match endless.recvmsg(&mut buffer).await {
                Ok((bytes, _)) => read += bytes,
                Err(error) => break error,
            }
        };
        assert_eq!(ended.to_string(), "it never stops talking");
        assert!(read > UNASKED_CAP && read <= UNASKED_CAP + MESSAGE_CAP);
    }

    #[test]
    fn a_peer_may_talk_much_at_once_and_less_in_the_long_run() {
        let start = Instant::now();
        let second = std::time::Duration::from_secs(1);
        let mut pace = Pace::default();
        assert!(pace.takes(BURST, start));
        assert!(!pace.takes(1, start));
        assert!(pace.takes(500_000, start + second));
        let mut pace = Pace::default();
        assert!((0..1000).all(|n| pace.takes(100_000, start + second / 10 * n)));
        // Twenty megabytes a second are cut off within a second.
        let mut taken = 0;
        while pace.takes(100_000, start + second / 200 * taken + 100 * second) {
            taken += 1;
        }
        assert!(taken < 200, "{taken}");
    }

    #[tokio::test]
    async fn a_long_message_is_refused_before_anything_is_allotted_for_it() {
        // The header announces a body of 100 MiB, which never arrives.
        let bytes: &[u8] = b"l\x02\x00\x01\x00\x00\x40\x06\x01\x00\x00\x00\x00\x00\x00\x00";
        let error = reader(bytes, None)
            .receive_message(1, &mut Vec::new(), &mut Vec::new())
            .await
            .unwrap_err();
        assert!(
            error.to_string().contains("a message of 104857616 bytes"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn what_is_no_handshake_is_refused() {
        for bytes in [&b"\nOK"[..], &[b'x'; 2000]] {
            let mut reader = reader(bytes, Some(0));
            let mut buffer = [0; 1024];
            assert!(reader.recvmsg(&mut buffer).await.is_err());
        }
        let mut good = reader(b"OK 00\r\nl", Some(0));
        assert_eq!(good.recvmsg(&mut [0; 1024]).await.unwrap().0, 8);
        assert_eq!(good.bytes.line, None);
    }

    #[test]
    fn lengths_are_read_in_both_byte_orders() {
        let le = b"l\x01\x00\x01\x08\x00\x00\x00\x01\x00\x00\x00\x03\x00\x00\x00";
        let be = b"B\x01\x00\x01\x00\x00\x00\x08\x00\x00\x00\x01\x00\x00\x00\x03";
        assert_eq!(message_length(le), Some(32));
        assert_eq!(message_length(be), Some(32));
        assert_eq!(message_length(b"HTTP/1.1 400 Bad"), None);
        assert_eq!(message_length(&[b'l'; 3]), None);
    }
}
