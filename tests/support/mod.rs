//! The code that the tests share.

// Each test binary uses a part of it.
#![allow(dead_code, missing_docs, unreachable_pub)]
// A test's helpers may make it fail, and a failed test prints its earlier output.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

pub mod conformance;
pub mod fake;
#[cfg(feature = "cli")]
pub mod podman;
#[cfg(feature = "cli")]
pub mod proxy;
#[cfg(feature = "cli")]
pub mod real;
#[cfg(feature = "cli")]
pub mod served;
#[cfg(feature = "cli")]
pub mod tls;
pub mod waits;
