//! Black-box tests of the server process: HTTP/1.1 framing, connections, authentication, startup
//! and shutdown, metrics and logs.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests may panic")]
#![allow(clippy::expect_used, reason = "tests may panic")]

#[path = "../support/mod.rs"]
mod support;

mod abandoned_requests;
mod account_endpoints;
mod authentication;
mod request_bodies;
mod request_heads;

mod connections;
mod data_directory;
mod log_output;
mod metrics_and_logs;
mod simulation;
mod startup_and_shutdown;
mod tls;
mod token_secrecy;

/// The bytes of a request that needs no token.
const HEALTH: &str = "GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n";
