//! The API suite over PostgreSQL; see `tests/api/main.rs`.

#[path = "api/main.rs"]
mod api;
