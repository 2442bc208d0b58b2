//! Runs the API suite on the embedded engine; see `tests/api/main.rs`.

#[path = "api/main.rs"]
mod api;
