//! # Steadfast
//!
//! A self-hosted KV store that speaks the Fastly KV Store API. The modules:
//!
//! | module | what it is |
//! |---|---|
//! | [`api`] | the API over HTTP: router, token, parameters, errors |
//! | [`http`] | HTTP/1.1 on a connection; knows nothing of stores |
//! | [`kv`] | what a KV store means; knows no HTTP and no engine |
//! | [`engine`] | ordered bytes with atomic, durable commits |
//! | [`server`] | puts the above together |
//! | [`client`] | speaks the API to a server, for the commands |
//! | [`config`] | flags and environment |
//! | [`cli`] | the commands |
//! | [`transfer`] | the files that items come from, and the line they travel as |
//! | [`metrics`], [`wire`] | the names of metrics; the shapes of the API |
#![doc = include_str!("../ARCHITECTURE.md")]

pub mod api;
pub mod atomic_file;
pub mod cli;
pub mod client;
pub mod config;
pub mod engine;
pub mod http;
pub mod kv;
pub mod metrics;
pub mod server;
pub mod transfer;
pub mod wire;
