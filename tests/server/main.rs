//! The server around the API, seen from outside: its connections, its start and end, who may ask,
//! and what it tells of itself.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::expect_used,
    reason = "a test may panic"
)]

#[path = "../support/mod.rs"]
mod support;

mod access;
mod account;
mod bodies;
mod heads;
mod logged;
mod observe;
mod startup;
mod tokens;
mod transport;
