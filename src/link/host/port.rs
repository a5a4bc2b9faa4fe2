//! Ports that are dialled from within the node's network.

use std::{net::SocketAddr, os::fd::AsFd as _, sync::Arc, time::Duration};

use rustix::{
    io::Errno,
    net::{AddressFamily, SocketFlags, SocketType, socket_with},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    time::Instant,
};

use super::{
    super::{LinkError, Target},
    process::{self, Process},
    threads::Threads,
};
use crate::{
    question::{Answer, GreetingEnd, PortQuestion},
    reason::ReasonCode,
    text::said,
};

/// How long a port may take to accept. On a loopback address it accepts at once, unless packets are
/// dropped.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);

/// Dials a port.
pub(super) async fn ask(
    target: &Target,
    threads: &Arc<Threads>,
    process: &Arc<Process>,
    question: &PortQuestion,
    by: Instant,
) -> Result<Answer, LinkError> {
    let port = question.port;
    if process.shares_network() {
        return Err(LinkError::node(
            ReasonCode::Unproven,
            format!(
                "the node uses this machine's network: what answers at port {port} may be another's"
            ),
        ));
    }
    let held = Arc::clone(process);
    let address = SocketAddr::new(question.address, port);
    let socket = threads.in_network(target, by, move || socket_in(&held, address));
    let socket = socket.await?.map_err(|error| {
        process::exhausted(error).unwrap_or_else(|| {
            LinkError::Unusable(format!("not from outside: entering its network: {error}"))
        })
    })?;
    if process.has_ended() {
        return Err(LinkError::NotRunning);
    }
    let what = question.to_string();
    let connected = target.within(&what, CONNECT_LIMIT, by, async {
        Ok(socket.connect(address).await)
    });
    let mut stream = match connected.await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Ok(Answer::Closed(said(&error))),
        Err(LinkError::Slow { limit: Some(_), .. }) => {
            return Ok(Answer::Closed("it does not answer".to_owned()));
        }
        Err(error) => return Err(error),
    };
    let mut sent = Vec::new();
    let listen = async {
        let end = listen(&mut stream, question, &mut sent).await;
        // A connection that is closed with something unread is reset, which a daemon may log.
        let _ = stream.try_read(&mut [0; 4096]);
        Ok(end)
    };
    let end = match target.within(&what, question.within, by, listen).await {
        Ok(end) => end,
        Err(LinkError::Slow { limit: Some(_), .. }) => GreetingEnd::TimedOut,
        Err(error) => return Err(error),
    };
    Ok(Answer::Greeting(sent, end))
}

/// Enters the node's network. The thread must not run anything else afterwards.
pub(super) fn enter_network(process: &Process) -> Result<(), Errno> {
    let network = process.network()?;
    move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network))
}

/// Makes a socket in the node's network, on a thread that enters this network. A socket stays in
/// the network that it was made in, whichever thread uses it.
fn socket_in(process: &Process, address: SocketAddr) -> Result<TcpSocket, Errno> {
    enter_network(process)?;
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let socket = socket_with(family, SocketType::STREAM, flags, None)?;
    Ok(TcpSocket::from_std_stream(socket.into()))
}

/// Reads up to a line with the prefix, or up to the cap.
async fn listen(
    stream: &mut TcpStream,
    question: &PortQuestion,
    into: &mut Vec<u8>,
) -> GreetingEnd {
    let PortQuestion {
        send, prefix, cap, ..
    } = *question;
    if stream.write_all(send.as_bytes()).await.is_err() {
        return GreetingEnd::Closed;
    }
    // A read of nothing would wait until there is something.
    if cap == 0 {
        return GreetingEnd::TooLong;
    }
    let mut chunk = vec![0; cap.min(1024)];
    let mut line = 0;
    loop {
        let room = chunk.len().min(cap - into.len());
        match stream.read(&mut chunk[..room]).await {
            Ok(0) | Err(_) => return GreetingEnd::Closed,
            Ok(read) => into.extend_from_slice(&chunk[..read]),
        }
        while let Some(end) = into[line..].iter().position(|byte| *byte == b'\n') {
            if into[line..].starts_with(prefix.as_bytes()) {
                into.truncate(line + end);
                return GreetingEnd::Found;
            }
            line += end + 1;
        }
        if into.len() >= cap {
            return GreetingEnd::TooLong;
        }
    }
}
