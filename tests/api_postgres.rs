//! Runs the API suite on PostgreSQL; see `tests/api/main.rs`.

#[path = "api/main.rs"]
mod api;
