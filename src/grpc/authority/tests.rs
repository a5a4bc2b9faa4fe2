//! What a client sends arrives at h2 as it was sent, but for an authority that is none.

use loona_hpack::Encoder;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};
use tonic::codegen::http::{HeaderMap, Request};

use super::*;

const HEADER_BYTES: usize = 16 * 1024;
const PREFACE_TEXT: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

type Fields = Vec<(Vec<u8>, Vec<u8>)>;

/// How a client lays its headers out in frames.
#[derive(Debug, Clone, Copy)]
struct Layout {
    /// The most bytes of a frame.
    cut: usize,
    padding: Option<u8>,
    priority: bool,
}

const PLAIN: Layout = Layout {
    cut: PAYLOAD,
    padding: None,
    priority: false,
};

fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    out.extend_from_slice(&(payload.len() as u32).to_be_bytes()[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

/// A request's frames, compressed as a client does that uses the table.
fn request(
    out: &mut Vec<u8>,
    encoder: &mut Encoder<'_>,
    stream: u32,
    layout: Layout,
    fields: &Fields,
) {
    let fields = fields.iter().map(|(name, value)| (&name[..], &value[..]));
    let block = encoder.encode(fields);
    let pieces: Vec<_> = block.chunks(layout.cut).collect();
    for (index, piece) in pieces.iter().enumerate() {
        let mut flags = if index + 1 == pieces.len() {
            flag::END_HEADERS
        } else {
            0
        };
        let mut payload = Vec::new();
        let kind = if index == 0 {
            kind::HEADERS
        } else {
            kind::CONTINUATION
        };
        if index == 0 {
            flags |= flag::END_STREAM;
            if let Some(padding) = layout.padding {
                flags |= flag::PADDED;
                payload.push(padding);
            }
            if layout.priority {
                flags |= flag::PRIORITY;
                payload.extend_from_slice(&[0, 0, 0, 0, 15]);
            }
        }
        payload.extend_from_slice(piece);
        if index == 0 {
            payload.resize(payload.len() + usize::from(layout.padding.unwrap_or(0)), 0);
        }
        frame(out, kind, flags, stream, &payload);
    }
}

fn call(authority: &str, more: &Fields) -> Fields {
    let pseudo = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/readyd.v1.ReadinessService/Snapshot"),
        (":authority", authority),
    ];
    let own = |(name, value): (&str, &str)| (name.as_bytes().to_vec(), value.as_bytes().to_vec());
    let pseudo = pseudo.into_iter().filter(|(_, value)| !value.is_empty());
    pseudo.map(own).chain(more.iter().cloned()).collect()
}

/// What h2 makes of a client's bytes, which arrive in pieces of that length.
async fn served(bytes: Vec<u8>, piece: usize, requests: usize) -> Vec<Result<Request<()>, String>> {
    let (mut client, server) = duplex(1024 * 1024);
    let acceptable = Acceptable::new(server, HEADER_BYTES);
    let sending = async {
        for piece in bytes.chunks(piece) {
            client.write_all(piece).await.unwrap();
            tokio::task::yield_now().await;
        }
        // What h2 sends must not fill the pipe.
        let mut sink = [0; 4096];
        while client.read(&mut sink).await.is_ok_and(|read| read > 0) {}
    };
    let serving = async {
        let mut builder = h2::server::Builder::new();
        builder.max_header_list_size(HEADER_BYTES as u32);
        let mut connection = builder
            .handshake::<_, bytes::Bytes>(acceptable)
            .await
            .unwrap();
        let mut taken = Vec::new();
        while taken.len() < requests {
            match connection.accept().await {
                Some(Ok((request, respond))) => {
                    // It is kept, so that its stream is.
                    std::mem::forget(respond);
                    taken.push(Ok(request.map(|_| ())));
                }
                Some(Err(error)) => {
                    taken.push(Err(error.to_string()));
                    break;
                }
                None => break,
            }
        }
        taken
    };
    tokio::select! {
        taken = serving => taken,
        () = sending => unreachable!("the server goes on"),
    }
}

fn preface() -> Vec<u8> {
    let mut bytes = PREFACE_TEXT.to_vec();
    frame(&mut bytes, 4, 0, 0, &[]);
    bytes
}

#[tokio::test]
async fn a_path_as_authority_is_served() {
    for (sent, seen) in [
        ("%2Ftmp%2Fr.sock", Some("localhost")),
        ("/tmp/r.sock", Some("localhost")),
        ("unix:/tmp/r.sock", Some("localhost")),
        ("a b", Some("localhost")),
        ("localhost", Some("localhost")),
        ("example.com:80", Some("example.com:80")),
        ("", None),
    ] {
        let (mut bytes, mut encoder) = (preface(), Encoder::new());
        for stream in [1, 3, 5] {
            request(
                &mut bytes,
                &mut encoder,
                stream,
                PLAIN,
                &call(sent, &vec![]),
            );
        }
        let taken = served(bytes, 4096, 3).await;
        assert_eq!(taken.len(), 3, "{sent}");
        for request in taken {
            let uri = request.unwrap().uri().clone();
            assert_eq!(uri.authority().map(Authority::as_str), seen, "{sent}");
            assert_eq!(uri.path(), "/readyd.v1.ReadinessService/Snapshot");
        }
    }
}

/// A block that is longer than h2 takes is refused, not cut.
#[tokio::test]
async fn too_many_headers_are_h2s_to_refuse() {
    let long: Fields = (0..40)
        .map(|n| (format!("x-{n}").into_bytes(), vec![b'a'; 1000]))
        .collect();
    let (mut bytes, mut encoder) = (preface(), Encoder::new());
    request(&mut bytes, &mut encoder, 1, PLAIN, &call("/tmp/x", &long));
    request(&mut bytes, &mut encoder, 3, PLAIN, &call("/tmp/x", &vec![]));
    let taken = served(bytes, 4096, 1).await;
    // The first was answered with 431 by h2 itself.
    assert!(taken[0].as_ref().unwrap().headers().is_empty());
}

#[test]
fn what_is_malformed_ends_the_connection() {
    let mut padded = preface();
    frame(
        &mut padded,
        kind::HEADERS,
        flag::PADDED | flag::END_HEADERS,
        1,
        &[200, 0x82],
    );
    let mut interrupted = preface();
    frame(&mut interrupted, kind::HEADERS, 0, 1, &[0x82]);
    frame(&mut interrupted, kind::CONTINUATION, 0, 3, &[0x82]);
    let mut garbled = preface();
    frame(
        &mut garbled,
        kind::HEADERS,
        flag::END_HEADERS,
        1,
        &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
    );
    let mut endless = preface();
    frame(&mut endless, kind::HEADERS, 0, 1, &[0x82]);
    for _ in 0..20 {
        frame(&mut endless, kind::CONTINUATION, 0, 1, &[0x82; PAYLOAD]);
    }
    for bytes in [padded, interrupted, garbled, endless] {
        let mut filter = Filter::new(HEADER_BYTES);
        let mut out = Vec::new();
        assert!(filter.pass(&bytes, &mut out).is_err());
    }
}

fn names_and_values() -> impl Strategy<Value = Fields> {
    let name = prop_oneof![
        Just("user-agent".to_owned()),
        Just("te".to_owned()),
        "[a-z][a-z0-9-]{0,12}"
    ];
    let field = (name, "[ -~]{0,40}").prop_map(|(name, value)| {
        // h2 refuses headers of a connection, and checks the form of some others.
        let name = format!("x-{name}");
        (name.into_bytes(), value.trim().as_bytes().to_vec())
    });
    prop::collection::vec(field, 0..12)
}

fn layouts() -> impl Strategy<Value = Layout> {
    (200..600_usize, prop::option::of(0..20_u8), any::<bool>()).prop_map(
        |(cut, padding, priority)| Layout {
            cut,
            padding,
            priority,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn all_else_arrives_as_it_was_sent(
        calls in prop::collection::vec(
            (prop_oneof![Just("localhost"), Just("/run/x.sock"), Just("%2Fa")], names_and_values(), layouts()),
            1..6,
        ),
        piece in 1..300_usize,
    ) {
        let (mut bytes, mut encoder) = (preface(), Encoder::new());
        for (n, (authority, fields, layout)) in calls.iter().enumerate() {
            let stream = 2 * n as u32 + 1;
            request(&mut bytes, &mut encoder, stream, *layout, &call(authority, fields));
        }
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let taken = runtime.block_on(served(bytes, piece, calls.len()));
        prop_assert_eq!(taken.len(), calls.len());
        for (request, (_, fields, _)) in taken.into_iter().zip(&calls) {
            let request = request.unwrap();
            prop_assert_eq!(request.uri().authority().map(Authority::as_str), Some("localhost"));
            let mut expected = HeaderMap::new();
            for (name, value) in fields {
                let name: tonic::codegen::http::HeaderName = std::str::from_utf8(name).unwrap().parse().unwrap();
                expected.append(name, value[..].try_into().unwrap());
            }
            prop_assert_eq!(request.headers(), &expected);
        }
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..600), piece in 1..50_usize, with_preface: bool) {
        let mut filter = Filter::new(HEADER_BYTES);
        let mut out = Vec::new();
        if with_preface {
            filter.pass(PREFACE_TEXT, &mut out).unwrap();
        }
        for piece in bytes.chunks(piece) {
            if filter.pass(piece, &mut out).is_err() {
                break;
            }
        }
    }

    #[test]
    fn no_block_panics(block in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut bytes = preface();
        frame(&mut bytes, kind::HEADERS, flag::END_HEADERS, 1, &block);
        let mut out = Vec::new();
        let _ = Filter::new(HEADER_BYTES).pass(&bytes, &mut out);
    }
}
