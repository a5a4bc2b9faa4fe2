//! systemd: the queries to it, and the meaning of its replies.

pub(crate) mod dbus;
pub(crate) mod signals;
pub(crate) mod stream;
pub(crate) mod systemctl;
