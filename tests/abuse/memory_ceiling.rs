//! Sends oversized requests to every route from many clients that do not read the responses. The
//! server's memory must stay below a ceiling that depends on `--max-in-flight`, and the server must
//! keep serving other clients.

use crate::support::Client;
use crate::{MIB, Target};
use serde_json::json;
use std::time::Duration;

const IN_FLIGHT: u64 = 32 * MIB;
/// Memory in bytes for everything except bodies in flight: the program, the read cache, SQLite, the
/// connections, and free memory in the allocator arenas.
const BASE_MEMORY: u64 = 224 * MIB;
/// Number of concurrent clients that send the same request.
const CLIENTS: usize = 64;

/// A request that many clients send. The body may be incomplete or larger than the server accepts.
struct AbusiveRequest {
    request: String,
    headers: String,
    body: Vec<u8>,
}

impl AbusiveRequest {
    fn new(request: String, headers: &str, body: Vec<u8>) -> AbusiveRequest {
        AbusiveRequest { request, headers: headers.to_owned(), body }
    }

    /// Creates a request with a complete body.
    fn with_body(request: String, body: Vec<u8>) -> AbusiveRequest {
        let headers = format!("Content-Length: {}\r\n", body.len());
        AbusiveRequest { request, headers, body }
    }
}

/// Fills the server with items, stores and tokens. The items have keys and metadata of the maximum
/// size, and values of several sizes.
fn fill(target: &Target) {
    let (suffix, metadata) = ("k".repeat(1019), "m".repeat(2000));
    let lines: String = (0..1000)
        .map(|n| json!({"key": format!("{n:05}{suffix}"), "value": "", "metadata": metadata}))
        .map(|line| format!("{line}\n"))
        .collect();
    let batch = format!("PUT /resources/stores/kv/{}/batch", target.store);
    assert_eq!(target.request(&batch, &[], lines.as_bytes()).status, 200);
    for (key, size) in [("small", 200_000), ("middle", 1_000_000), ("large", 20_000_000)] {
        let put = format!("PUT {}", target.item(key));
        assert_eq!(target.request(&put, &[], &vec![b'v'; size]).status, 200);
    }
    let name = "\u{10348}".repeat(250);
    for n in 0..200 {
        let body = json!({"name": format!("a{n}{name}")}).to_string();
        let created = target.request("POST /resources/stores/kv", &[], body.as_bytes());
        assert_eq!(created.status, 201);
    }
    for n in 0..50 {
        let (stores, prefix) = (vec![&target.store], "p".repeat(1024));
        let body = json!({"name": n.to_string(), "scope": "global", "stores": stores,
                          "prefix": prefix});
        let created = target.request("POST /_/v1/tokens", &[], body.to_string().as_bytes());
        assert_eq!(created.status, 201);
    }
}

fn requests(target: &Target) -> Vec<AbusiveRequest> {
    let kv = format!("/resources/stores/kv/{}", target.store);
    let v1 = format!("/_/v1/stores/{}", target.store);
    let get = |path: &str| AbusiveRequest::new(format!("GET {path}"), "", Vec::new());
    let item = |key: &str| target.item(key);
    let chunked = "Transfer-Encoding: chunked\r\n";
    let chunk = |size: usize| [format!("{size:x}\r\n").into_bytes(), vec![b'x'; size]].concat();
    let long_key = format!("{{\"key\":\"{}\",\"value\":\"\"}}\n", "k".repeat(2_000_000));
    let array = format!("{{\"key\":\"k\",\"value\":[{}0]}}\n", "0,".repeat(2_000_000));
    let large = "Content-Length: 25000000\r\n";
    vec![
        get(&format!("{kv}/keys")),
        get(&format!("{v1}/items")),
        get(&format!("{v1}/export")),
        get("/resources/stores/kv"),
        get("/_/v1/tokens"),
        get("/_/v1/backup"),
        get("/metrics"),
        get("/_/openapi.json"),
        get(&item("small")),
        get(&item("middle")),
        get(&item("large")),
        AbusiveRequest::new(format!("GET {}", item("large")), "Range: bytes=1-\r\n", Vec::new()),
        AbusiveRequest::new(format!("DELETE {v1}/items?prefix=none"), "", Vec::new()),
        AbusiveRequest::new(format!("DELETE {v1}/items?all=true&dry_run=true"), "", Vec::new()),
        AbusiveRequest::new(format!("PUT {}", item("up")), large, vec![b'v'; 1_000_000]),
        AbusiveRequest::new(format!("PUT {}", item("up")), chunked, chunk(1_000_000)),
        AbusiveRequest::with_body(format!("PUT {}?append=true", item("large")), b"v".to_vec()),
        AbusiveRequest::with_body(format!("PUT {kv}/batch"), long_key.repeat(2).into_bytes()),
        AbusiveRequest::with_body(format!("PUT {kv}/batch"), array.clone().into_bytes()),
        AbusiveRequest::with_body(format!("PUT {v1}/import"), array.into_bytes()),
        AbusiveRequest::new(format!("PUT {kv}/batch"), large, vec![b'x'; 4_000_000]),
        AbusiveRequest::new("POST /resources/stores/kv".into(), chunked, chunk(250_000)),
        AbusiveRequest::new(format!("PUT {kv}"), "Content-Length: 60000\r\n", vec![b' '; 59_000]),
        AbusiveRequest::new(
            "POST /_/v1/tokens".into(),
            "Content-Length: 65536\r\n",
            vec![b'['; 65_000],
        ),
        AbusiveRequest::new("POST /_/v1/tokens".into(), large, vec![b'x'; 1_000_000]),
        AbusiveRequest::new("PUT /no/such/path".into(), large, vec![b'x'; 1_000_000]),
        AbusiveRequest::new(format!("GET {kv}/keys"), large, vec![b'x'; 1_000_000]),
    ]
}

/// Sends the request from many clients at once. Returns the clients, which have not read their
/// responses.
fn send(target: &Target, abusive: &AbusiveRequest) -> Vec<Client> {
    std::thread::scope(|scope| {
        let threads = (0..CLIENTS).map(|_| {
            scope.spawn(|| {
                let mut client = target.connect();
                client.set_write_timeout(Duration::from_secs(2));
                client.send(target.head(&abusive.request, &abusive.headers)).unwrap();
                // The send fails if the server is waiting for memory or has closed the connection.
                let _ = client.send(&abusive.body);
                client
            })
        });
        let threads: Vec<_> = threads.collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

#[test]
fn oversized_requests_to_every_route_stay_below_a_memory_ceiling() {
    let in_flight = IN_FLIGHT.to_string();
    let flags = ["--max-in-flight", &in_flight, "--cache", "16777216", "--body-timeout", "5"];
    let target = Target::new(&flags);
    fill(&target);
    for abusive in requests(&target) {
        let clients = send(&target, &abusive);
        std::thread::sleep(Duration::from_millis(300));
        target.assert_available();
        let peak = target.memory_bytes("VmHWM");
        println!("{}: peak memory {} MiB", abusive.request, peak / MIB);
        assert!(
            peak < IN_FLIGHT + BASE_MEMORY,
            "{}: the peak memory is {} MiB",
            abusive.request,
            peak / MIB
        );
        drop(clients);
        target.wait_until_connections_close();
    }
    target.assert_healthy_and_stop();
}
