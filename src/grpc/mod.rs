//! The gRPC service. It converts each request once, at the edge, and returns states.
//!
//! ```text
//! request ─ validate ─▶ monitor ─▶ convert ─▶ response
//!              │           │
//!              └─ status ◀─┘
//! ```

mod authority;
mod budget;
mod connection;
mod convert;
mod deadline;
mod drain;
#[cfg(fuzzing)]
pub(crate) mod fuzzing;
mod http2_stream;
mod listen;
mod page_token;
mod server;
mod service;
mod status;
mod validate;
mod watch;

#[cfg(feature = "cli")]
pub(crate) use convert::{profile_number, role_number};
pub use drain::{DRAIN_LIMIT, Drain, Drainer};
pub use listen::{InvalidListenAddress, ListenAddress, ListenError, Listener};
pub use server::Server;
pub use service::{Limits, Readiness};
#[cfg(feature = "cli")]
pub(crate) use status::JOBS_NOT_ALLOWED;
