//! The generated code of `readyd.v1`, in a module of its own.

#![allow(
    clippy::all,
    clippy::pedantic,
    missing_docs,
    unreachable_pub,
    rust_2018_idioms
)]

tonic::include_proto!("readyd.v1");

/// The encoded descriptors of `readyd.v1` and its imports, with comments.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/readyd_descriptor.bin"));
