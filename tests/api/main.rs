//! The API from outside: literal bytes to the real server.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::expect_used,
    reason = "a test may panic"
)]

#[path = "../support/mod.rs"]
mod support;
