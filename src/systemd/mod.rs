//! systemd: how it is asked, and what its answers say.

pub(crate) mod dbus;
pub(crate) mod signals;
pub(crate) mod stream;
pub(crate) mod systemctl;
