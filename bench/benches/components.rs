//! The hot pieces by themselves, and whole requests over a stream in memory.
//!
//!     cargo bench --manifest-path bench/Cargo.toml --target-dir target/bench

mod server;

use bytes::Bytes;
use criterion::{Criterion, criterion_group, criterion_main};
use server::{ITEMS, Server, key, line};
use std::hint::black_box;
use steadfast::kv::cursor;
use steadfast::kv::codec::ItemMeta;
use steadfast::kv::types::{Key, StoreId};

fn pieces(c: &mut Criterion) {
    let name = key(1);
    c.bench_function("key: checked", |b| b.iter(|| Key::parse(black_box(name.as_bytes()))));
    let id = StoreId::random().expect("an id").to_string();
    c.bench_function("store id: checked", |b| b.iter(|| StoreId::parse(black_box(id.as_bytes()))));
    let text = cursor::encode(name.as_bytes());
    c.bench_function("cursor: encode", |b| b.iter(|| cursor::encode(black_box(name.as_bytes()))));
    c.bench_function("cursor: decode", |b| b.iter(|| cursor::decode(black_box(&text))));
    let head = [&[1][..], &1_u64.to_le_bytes(), &1024_u64.to_le_bytes(), b"metadata"].concat();
    let head = Bytes::from(head);
    let decoded = ItemMeta::decode(&head).expect("a head");
    c.bench_function("record: decode", |b| b.iter(|| ItemMeta::decode(black_box(&head))));
    c.bench_function("record: encode", |b| b.iter(|| black_box(&decoded).encode()));
}

fn requests(c: &mut Criterion) {
    let server = Server::memory();
    let item = format!("/keys/{}", key(ITEMS / 2).replace('/', "%2F"));
    // Many at a time, so that making the connection does not count.
    let mut many = |name: &str, request: &[u8], times: usize| {
        c.bench_function(name, |b| b.iter(|| server.ask(request, times)));
    };
    many("100 x GET of 1 KB", &server.request("GET", &item, ""), 100);
    many("100 x PUT of 1 KB", &server.request("PUT", &item, &"v".repeat(1024)), 100);
    many("10 x list of 1000 keys", &server.request("GET", "/keys", ""), 10);
    let lines: String = (0..1000).map(line).collect();
    many("batch of 1000 lines", &server.request("PUT", "/batch", &lines), 1);
}

criterion_group!(benches, pieces, requests);
criterion_main!(benches);
