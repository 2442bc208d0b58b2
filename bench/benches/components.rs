//! Microbenchmarks of hot components, and of whole requests on an in-memory stream.
//!
//!     cargo bench --manifest-path bench/Cargo.toml --target-dir target/bench

mod server;

use bytes::Bytes;
use criterion::{Criterion, criterion_group, criterion_main};
use server::{ITEMS, Server, key, line};
use std::hint::black_box;
use steadfast::kv::codec::ItemMeta;
use steadfast::kv::cursor;
use steadfast::kv::types::{Key, StoreId};

fn components(c: &mut Criterion) {
    let name = key(1);
    c.bench_function("key: parse", |b| b.iter(|| Key::parse(black_box(name.as_bytes()))));
    let id = StoreId::random().expect("an id").to_string();
    c.bench_function("store id: parse", |b| b.iter(|| StoreId::parse(black_box(id.as_bytes()))));
    let text = cursor::encode(name.as_bytes());
    c.bench_function("cursor: encode", |b| b.iter(|| cursor::encode(black_box(name.as_bytes()))));
    c.bench_function("cursor: decode", |b| b.iter(|| cursor::decode(black_box(&text))));
    let meta = [&[1][..], &1_u64.to_le_bytes(), &1024_u64.to_le_bytes(), b"metadata"].concat();
    let meta = Bytes::from(meta);
    let decoded = ItemMeta::decode(&meta).expect("item meta");
    c.bench_function("item meta: decode", |b| b.iter(|| ItemMeta::decode(black_box(&meta))));
    c.bench_function("item meta: encode", |b| b.iter(|| black_box(&decoded).encode()));
}

fn requests(c: &mut Criterion) {
    let server = Server::memory();
    let item = format!("/keys/{}", key(ITEMS / 2).replace('/', "%2F"));
    // Many requests per iteration amortize the cost of the connection.
    let mut many = |name: &str, request: &[u8], times: usize| {
        c.bench_function(name, |b| b.iter(|| server.send(request, times)));
    };
    many("100 x GET of 1 KB", &server.request("GET", &item, ""), 100);
    many("100 x PUT of 1 KB", &server.request("PUT", &item, &"v".repeat(1024)), 100);
    many("10 x list of 1000 keys", &server.request("GET", "/keys", ""), 10);
    let lines: String = (0..1000).map(line).collect();
    many("batch of 1000 lines", &server.request("PUT", "/batch", &lines), 1);
}

criterion_group!(benches, components, requests);
criterion_main!(benches);
