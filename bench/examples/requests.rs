//! Serves `TIMES` requests of one kind on the embedded engine, for bench/count:
//! `requests GET|PUT|LIST TIMES`.

#[path = "../benches/server/mod.rs"]
mod server;

use server::{ITEMS, Server, key};

fn main() {
    let mut arguments = std::env::args().skip(1);
    let kind = arguments.next().expect("GET, PUT or LIST");
    let times = arguments.next().and_then(|n| n.parse().ok()).expect("TIMES");
    let server = Server::embedded();
    let item = format!("/keys/{}", key(ITEMS / 2).replace('/', "%2F"));
    let request = match &*kind {
        "GET" => server.request("GET", &item, ""),
        "PUT" => server.request("PUT", &item, &"v".repeat(1024)),
        "LIST" => server.request("GET", "/keys", ""),
        other => panic!("{other} is not GET, PUT or LIST"),
    };
    server.send(&request, times);
}
