//! The API suite over the embedded engine; see `tests/api/main.rs`.

#[path = "api/main.rs"]
mod api;
