//! Tells whether containers that act as Slurm cluster nodes are ready.
#[cfg(feature = "cli")]
pub mod cli;
#[cfg(feature = "client")]
pub mod client;
#[cfg(feature = "engine")]
pub mod docker;
#[cfg(feature = "engine")]
pub mod engine;
#[cfg(feature = "engine")]
pub mod environment;
#[cfg(feature = "server")]
pub mod grpc;
#[cfg(feature = "engine")]
mod link;
#[cfg(feature = "engine")]
pub mod node;
#[cfg(feature = "_grpc")]
pub(crate) mod pb;
#[cfg(feature = "engine")]
pub mod probe;
#[cfg(feature = "engine")]
pub mod question;
#[cfg(feature = "engine")]
pub mod report;
#[cfg(feature = "engine")]
pub mod runtime;
#[cfg(feature = "engine")]
mod systemd;
#[cfg(feature = "engine")]
pub mod text;
#[cfg(feature = "engine")]
pub mod unit;
#[cfg(feature = "engine")]
mod watcher;
