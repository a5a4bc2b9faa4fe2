//! What the tests share.

// Each test binary uses a part of it.
#![allow(dead_code, missing_docs, unreachable_pub)]

pub mod fake;
#[cfg(feature = "cli")]
pub mod proxy;
#[cfg(feature = "cli")]
pub mod real;
