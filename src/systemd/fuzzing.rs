//! An entrance for fuzzing of what a node's bus sends.

use std::{io::Cursor, sync::Arc};

use futures_util::FutureExt as _;
use zbus::conn::{
    AuthMechanism,
    socket::{ReadHalf as _, Socket as _},
};

use super::stream::ByteStream;

/// The messages of a bus, one behind the other, to whoever listens to signals.
pub fn bus(bytes: &[u8]) {
    let stream = ByteStream {
        read: Box::pin(Cursor::new(bytes.to_vec())),
        write: Box::pin(tokio::io::sink()),
        auth: AuthMechanism::External,
        listeners: Arc::default(),
    };
    let (mut reader, _writer) = stream.split().take();
    let mut received = Vec::new();
    for number in 0.. {
        // What is in memory never has to be waited for.
        let mut files = Vec::new();
        let next = reader.receive_message(number, &mut received, &mut files);
        match next.now_or_never() {
            Some(Ok(_)) => received.clear(),
            Some(Err(_)) => return,
            None => panic!("what has come is waited for"),
        }
    }
}
