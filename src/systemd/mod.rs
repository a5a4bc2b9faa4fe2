//! systemd: the queries to it, and the meaning of its replies.

pub(crate) mod dbus;
#[cfg(fuzzing)]
pub(crate) mod fuzzing;
mod jobs;
mod log_file;
pub(crate) mod signals;
pub(crate) mod stream;
pub(crate) mod systemctl;
mod values;
