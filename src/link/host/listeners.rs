//! The sockets that listen in a network, by the kernel's socket monitoring (`sock_diag(7)`).
//!
//! `/proc/net/tcp` has the same, but to read it makes the kernel walk all its connections: that takes a
//! millisecond and a half where this takes some forty microseconds.

use std::{collections::HashMap, net::SocketAddr};

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_sock_diag::{
    SockDiagMessage,
    constants::{AF_INET, AF_INET6, IPPROTO_TCP},
    inet::{ExtensionFlags, InetRequest, SocketId, StateFlags},
    unix::{ShowFlags, StateFlags as UnixStateFlags, UnixRequest},
};
use rustix::{
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send,
        socket_with,
    },
};

use crate::question::ListeningSocket;

/// How many bytes the kernel may send at once.
const BUFFER: usize = 64 * 1024;

/// How many messages of the kernel are read. More sockets than those do not listen in one node.
const MESSAGES: usize = 100_000;

/// Returns the sockets that listen in the network of this thread, by their inodes.
pub(super) fn listening() -> Result<HashMap<u64, ListeningSocket>, Errno> {
    let tcp = |family, socket_id| {
        SockDiagMessage::InetRequest(InetRequest {
            family,
            protocol: IPPROTO_TCP,
            extensions: ExtensionFlags::empty(),
            states: StateFlags::LISTEN,
            socket_id,
        })
    };
    // What a path is called is not asked: it is the node's text.
    let unix = SockDiagMessage::UnixRequest(UnixRequest {
        state_flags: UnixStateFlags::LISTEN,
        inode: 0,
        show_flags: ShowFlags::empty(),
        cookie: [0; 8],
    });
    let mut found = HashMap::new();
    for request in [
        tcp(AF_INET, SocketId::new_v4()),
        tcp(AF_INET6, SocketId::new_v6()),
        unix,
    ] {
        match ask(request, &mut found) {
            // This kernel has no such sockets, or does not tell of them.
            Ok(()) | Err(Errno::NOENT | Errno::INVAL) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

fn ask(request: SockDiagMessage, found: &mut HashMap<u64, ListeningSocket>) -> Result<(), Errno> {
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(netlink::SOCK_DIAG),
    )?;
    let mut message = NetlinkMessage::from(request);
    message.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    send(&socket, &bytes, SendFlags::empty())?;
    let mut buffer = vec![0; BUFFER];
    let mut messages = 0;
    loop {
        let (read, _) = recv(&socket, &mut buffer[..], RecvFlags::empty())?;
        let mut rest = &buffer[..read];
        while !rest.is_empty() {
            messages += 1;
            // A message whose length makes no sense ends the datagram.
            let Ok(message) = NetlinkMessage::<SockDiagMessage>::deserialize(rest) else {
                break;
            };
            let length = message.header.length as usize;
            match message.payload {
                NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(socket)) => {
                    let id = &socket.header.socket_id;
                    let address = SocketAddr::new(id.source_address, id.source_port);
                    let inode = u64::from(socket.header.inode);
                    found.insert(inode, ListeningSocket::Tcp(address));
                }
                NetlinkPayload::InnerMessage(SockDiagMessage::UnixResponse(socket)) => {
                    let inode = u64::from(socket.header.inode);
                    found.insert(inode, ListeningSocket::Unix(String::new()));
                }
                NetlinkPayload::Done(_) => return Ok(()),
                NetlinkPayload::Error(error) => {
                    let code = error.code.map_or(0, std::num::NonZeroI32::get);
                    return Err(Errno::from_raw_os_error(-code));
                }
                _ => {}
            }
            // Messages are aligned to four bytes (netlink(7)).
            let next = length.next_multiple_of(4).min(rest.len());
            if next == 0 || messages > MESSAGES {
                return Ok(());
            }
            rest = &rest[next..];
        }
        if read == 0 || messages > MESSAGES {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, net::TcpListener, os::unix::net::UnixListener};

    use super::*;
    use crate::link::daemon::socket_inode;

    #[test]
    fn what_listens_is_found_by_its_inode() {
        let folder = tempfile::tempdir().unwrap();
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let tcp6 = TcpListener::bind("[::1]:0");
        let _unix = UnixListener::bind(folder.path().join("socket")).unwrap();
        let connected = std::net::TcpStream::connect(tcp.local_addr().unwrap()).unwrap();
        let found = listening().unwrap();
        let links = fs::read_dir("/proc/self/fd").unwrap().flatten();
        let own = links.filter_map(|link| {
            let path = fs::read_link(link.path()).ok()?;
            found.get(&socket_inode(path.to_str()?)?)
        });
        let own: Vec<_> = own.collect();
        let listens = |address| own.contains(&&ListeningSocket::Tcp(address));
        assert!(listens(tcp.local_addr().unwrap()), "{own:?}");
        if let Ok(tcp6) = tcp6 {
            assert!(listens(tcp6.local_addr().unwrap()), "{own:?}");
        }
        assert!(
            own.contains(&&ListeningSocket::Unix(String::new())),
            "{own:?}"
        );
        assert!(!listens(connected.local_addr().unwrap()), "{own:?}");
    }
}
