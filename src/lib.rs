//! # Steadfast
//!
//! A self-hosted KV store that speaks the Fastly KV Store API. The modules:
//!
//! | module | purpose |
//! |---|---|
//! | [`http`] | HTTP/1.1 connections, independent of the API |
//! | [`api`] | the HTTP API: router, authentication, handlers, errors |
//! | [`kv`] | the semantics of stores and items, independent of HTTP and of the engine |
//! | [`engine`] | ordered key-value storage with atomic, durable commits |
//! | [`storage`] | opens the engine at a configured location |
//! | [`address_file`] | finds the server that has a data directory open |
//! | [`server`] | builds and runs a server from the modules above |
//! | [`admin`] | offline check, copy, backup and restore |
//! | [`cli`], [`config`] | the commands, and their flags and environment variables |
//! | [`client`] | the API client that the commands use |
//! | [`transfer`] | import and export formats |
//! | [`atomic_file`], [`small_file`] | atomically replaced output files; size-limited input files |
//! | [`simulation`] | decides which latency, errors and stale reads `serve --simulate` adds |
//! | [`metrics`], [`logging`] | the server's metrics and log |
//! | [`wire`] | the JSON types of the API |
#![doc = include_str!("../ARCHITECTURE.md")]

pub mod address_file;
pub mod admin;
pub mod api;
pub mod atomic_file;
pub mod cli;
pub mod client;
pub mod config;
pub mod engine;
pub mod http;
pub mod kv;
pub mod logging;
pub mod metrics;
pub mod server;
pub mod simulation;
pub mod small_file;
pub mod storage;
pub mod transfer;
pub mod wire;
