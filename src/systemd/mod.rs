//! How systemd is asked, and what its answers say.

pub(crate) mod systemctl;
