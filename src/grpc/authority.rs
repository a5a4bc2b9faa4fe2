//! Makes requests over a Unix socket acceptable whose `:authority` is the socket's path.
//!
//! Stock gRPC clients in Python, C++, Ruby and Java send the path there, %-encoded or as it is
//! (`%2Frun%2Freadyd.sock`, `/run/readyd.sock`). It is no authority (RFC 3986, section 3.2), so h2 resets
//! the stream, and has no setting for it. Over a Unix socket the authority says nothing: here one that is
//! no authority becomes `localhost` before h2 sees it.
//!
//! ```text
//! socket ─▶ preface ─▶ frame ─▶ HEADERS, CONTINUATION ─▶ whole block ─▶ decoded ─▶ raw, or written anew
//!                        └─▶ any other ─────────────────────────────────────────▶ as it is
//! ```
//!
//! The blocks of a connection are compressed with a table that each of them may change (HPACK, RFC 7541),
//! so every block is decoded. They are passed on as they are until the first that has to be changed. From
//! then on each is written anew without the table, since h2 has not seen how it went on.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use loona_hpack::Decoder;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::codegen::http::uri::Authority;

/// What a path becomes.
const LOCALHOST: &[u8] = b"localhost";

/// The length of the preface that every HTTP/2 client sends first (RFC 9113, section 3.4).
const PREFACE: usize = 24;

/// The length of a frame's head, and the longest payload that h2 takes unless it is told otherwise (RFC
/// 9113, section 4).
const HEAD: usize = 9;
const PAYLOAD: usize = 16_384;

/// The largest table that a client may use, unless h2 is told otherwise (RFC 9113, section 6.5.2).
const TABLE_BYTES: usize = 4_096;

/// How many bytes a block's frames have at most. h2 gives a client up long before.
const BLOCK_BYTES: usize = 128 * 1024;

/// What a field adds to the length of a list of headers (RFC 9113, section 6.5.2).
const FIELD_BYTES: usize = 32;

/// How many bytes are read at once.
const READ_BYTES: usize = 8 * 1024;

mod kind {
    pub(super) const HEADERS: u8 = 1;
    pub(super) const CONTINUATION: u8 = 9;
}

mod flag {
    pub(super) const END_STREAM: u8 = 0x1;
    pub(super) const END_HEADERS: u8 = 0x4;
    pub(super) const PADDED: u8 = 0x8;
    pub(super) const PRIORITY: u8 = 0x20;
}

/// A stream whose requests have an acceptable `:authority`.
pub(super) struct Acceptable<S> {
    stream: S,
    filter: Filter,
    /// What may be read, and how much of it has been.
    passed: Vec<u8>,
    read: usize,
}

impl<S> Acceptable<S> {
    /// Wraps the stream of a client. A list of headers that is longer than `header_bytes` need not be
    /// complete: h2 refuses it.
    pub(super) fn new(stream: S, header_bytes: usize) -> Self {
        Self {
            stream,
            filter: Filter::new(header_bytes),
            passed: Vec::new(),
            read: 0,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Acceptable<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while this.read == this.passed.len() {
            this.passed.clear();
            this.read = 0;
            let mut bytes = [0; READ_BYTES];
            let mut received = ReadBuf::new(&mut bytes);
            ready!(Pin::new(&mut this.stream).poll_read(context, &mut received))?;
            if received.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            this.filter.pass(received.filled(), &mut this.passed)?;
        }
        let left = &this.passed[this.read..];
        let length = left.len().min(buffer.remaining());
        buffer.put_slice(&left[..length]);
        this.read += length;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Acceptable<S> {
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

/// What comes next of a client's bytes.
enum Expected {
    /// So many bytes that are passed on as they are.
    Passed(usize),
    /// The head of a frame.
    Head,
    /// The payload of a frame of a block of headers.
    Payload(Head),
}

/// The head of a frame (RFC 9113, section 4.1).
#[derive(Clone, Copy)]
struct Head {
    length: usize,
    kind: u8,
    flags: u8,
    stream: u32,
}

impl Head {
    fn read(bytes: [u8; HEAD]) -> Self {
        let [a, b, c, kind, flags, stream @ ..] = bytes;
        Self {
            length: u32::from_be_bytes([0, a, b, c]) as usize,
            kind,
            flags,
            stream: u32::from_be_bytes(stream) & (u32::MAX >> 1),
        }
    }

    fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// A block of headers in the making.
struct Block {
    /// The head of its first frame.
    first: Head,
    /// Its frames as they came.
    raw: Vec<u8>,
    /// The compressed fields.
    fields: Vec<u8>,
}

/// The way of a client's bytes.
struct Filter {
    expected: Expected,
    /// What has come of the head or the payload that is expected.
    partial: Vec<u8>,
    block: Option<Block>,
    decoder: Decoder<'static>,
    header_bytes: usize,
    /// Whether a block was written anew, so that all that follow have to be.
    writes: bool,
}

impl Filter {
    fn new(header_bytes: usize) -> Self {
        let mut decoder = Decoder::new();
        decoder.set_max_allowed_table_size(TABLE_BYTES);
        Self {
            expected: Expected::Passed(PREFACE),
            partial: Vec::new(),
            block: None,
            decoder,
            header_bytes,
            writes: false,
        }
    }

    /// Takes what a client has sent, and appends what h2 shall read. After an error, the connection is of
    /// no use any more.
    fn pass(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        loop {
            match self.expected {
                Expected::Passed(0) => self.expected = Expected::Head,
                Expected::Passed(left) => {
                    let Some(now) = take(&mut bytes, left) else {
                        return Ok(());
                    };
                    out.extend_from_slice(now);
                    self.expected = Expected::Passed(left - now.len());
                }
                Expected::Head => {
                    if !self.fill(&mut bytes, HEAD) {
                        return Ok(());
                    }
                    let mut head = [0; HEAD];
                    head.copy_from_slice(&self.partial);
                    self.start(Head::read(head), out)?;
                }
                Expected::Payload(head) => {
                    if !self.fill(&mut bytes, head.length) {
                        return Ok(());
                    }
                    self.continue_block(head, out)?;
                }
            }
        }
    }

    /// Fills the partial buffer up to that length; tells whether it is full.
    fn fill(&mut self, bytes: &mut &[u8], length: usize) -> bool {
        let missing = length - self.partial.len();
        if let Some(now) = take(bytes, missing) {
            self.partial.extend_from_slice(now);
        }
        self.partial.len() == length
    }

    /// Starts a frame, whose head is in the partial buffer.
    fn start(&mut self, head: Head, out: &mut Vec<u8>) -> io::Result<()> {
        let belongs = match (&self.block, head.kind) {
            (None, kind::HEADERS) => true,
            (Some(block), kind::CONTINUATION) if block.first.stream == head.stream => true,
            (None, _) => false,
            (Some(_), _) => return Err(malformed("a block of headers is interrupted")),
        };
        // What is too long is h2's to refuse.
        if !belongs || head.length > PAYLOAD {
            if self.block.is_some() {
                return Err(malformed("a frame of a block of headers is too long"));
            }
            out.append(&mut self.partial);
            self.expected = Expected::Passed(head.length);
            return Ok(());
        }
        let block = self.block.get_or_insert_with(|| Block {
            first: head,
            raw: Vec::new(),
            fields: Vec::new(),
        });
        block.raw.append(&mut self.partial);
        self.expected = Expected::Payload(head);
        Ok(())
    }

    /// Adds the payload in the partial buffer to the block, and ends the block if it was its last frame.
    fn continue_block(&mut self, head: Head, out: &mut Vec<u8>) -> io::Result<()> {
        let Some(mut block) = self.block.take() else {
            return Err(malformed("a frame belongs to no block of headers"));
        };
        block.raw.extend_from_slice(&self.partial);
        let fields = match head.kind {
            kind::HEADERS => fields(&self.partial, head)?,
            _ => &self.partial,
        };
        block.fields.extend_from_slice(fields);
        self.partial.clear();
        self.expected = Expected::Head;
        if block.raw.len() > BLOCK_BYTES {
            return Err(malformed("a block of headers is too long"));
        }
        if head.has(flag::END_HEADERS) {
            self.end_block(&block, out)?;
        } else {
            self.block = Some(block);
        }
        Ok(())
    }

    fn end_block(&mut self, block: &Block, out: &mut Vec<u8>) -> io::Result<()> {
        let (mut written, mut length, mut is_bad) = (Vec::new(), 0, false);
        let limit = self.header_bytes;
        let decoded = self.decoder.decode_with_cb(&block.fields, |name, value| {
            let mut value = &*value;
            if *name == *b":authority" && Authority::try_from(value).is_err() {
                is_bad = true;
                value = LOCALHOST;
            }
            // A list that is longer than h2 takes is refused whatever else is in it.
            if length <= limit {
                write_field(&mut written, &name, value);
            }
            length += name.len() + value.len() + FIELD_BYTES;
        });
        decoded.map_err(|_| malformed("a block of headers cannot be decoded"))?;
        self.writes |= is_bad;
        if self.writes {
            write_frames(out, block.first, &written);
        } else {
            out.extend_from_slice(&block.raw);
        }
        Ok(())
    }
}

/// Takes up to so many bytes; none if there are none to take.
fn take<'a>(bytes: &mut &'a [u8], most: usize) -> Option<&'a [u8]> {
    if bytes.is_empty() {
        return None;
    }
    let (now, rest) = bytes.split_at(most.min(bytes.len()));
    *bytes = rest;
    Some(now)
}

/// Returns the compressed fields of a HEADERS frame (RFC 9113, section 6.2).
fn fields(mut payload: &[u8], head: Head) -> io::Result<&[u8]> {
    let short = || malformed("a frame of headers is too short for its flags");
    let mut padding = 0;
    if head.has(flag::PADDED) {
        let (length, rest) = payload.split_first().ok_or_else(short)?;
        (padding, payload) = (usize::from(*length), rest);
    }
    if head.has(flag::PRIORITY) {
        payload = payload.get(5..).ok_or_else(short)?;
    }
    let length = payload.len().checked_sub(padding).ok_or_else(short)?;
    Ok(&payload[..length])
}

/// Writes a field that leaves the table as it is (RFC 7541, section 6.2.2).
fn write_field(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.push(0);
    for text in [name, value] {
        write_integer(out, text.len());
        out.extend_from_slice(text);
    }
}

/// Writes an integer behind a bit that is zero (RFC 7541, section 5.1).
fn write_integer(out: &mut Vec<u8>, mut integer: usize) {
    const PREFIX: usize = 0x7f;
    if integer < PREFIX {
        out.push(integer as u8);
        return;
    }
    out.push(PREFIX as u8);
    integer -= PREFIX;
    while integer >= 0x80 {
        out.push(integer as u8 | 0x80);
        integer >>= 7;
    }
    out.push(integer as u8);
}

/// Writes a block as frames.
fn write_frames(out: &mut Vec<u8>, first: Head, fields: &[u8]) {
    let mut kind = kind::HEADERS;
    let mut flags = first.flags & flag::END_STREAM;
    let mut rest = fields;
    loop {
        let (now, later) = rest.split_at(rest.len().min(PAYLOAD));
        rest = later;
        if rest.is_empty() {
            flags |= flag::END_HEADERS;
        }
        out.extend_from_slice(&(now.len() as u32).to_be_bytes()[1..]);
        out.extend_from_slice(&[kind, flags]);
        out.extend_from_slice(&first.stream.to_be_bytes());
        out.extend_from_slice(now);
        if rest.is_empty() {
            return;
        }
        (kind, flags) = (kind::CONTINUATION, 0);
    }
}

/// What h2 would read of these bytes if they came in pieces of that length; none after an error.
#[cfg(fuzzing)]
pub(super) fn fuzzed(bytes: &[u8], step: usize) -> Option<Vec<u8>> {
    let mut filter = Filter::new(16 * 1024);
    let mut out = Vec::new();
    for piece in bytes.chunks(step.max(1)) {
        filter.pass(piece, &mut out).ok()?;
    }
    Some(out)
}

fn malformed(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests;
