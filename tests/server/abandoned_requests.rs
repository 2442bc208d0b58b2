//! Tests with clients that close or half-close the connection while the server is processing the
//! request.

use crate::HEALTH;
use crate::support::{Client, DiskServer, Server, TOKEN};
use std::time::{Duration, Instant};

const EXPORT: &str = "/_/v1/stores/{store_id}/export";
const ITEMS: &str = "/_/v1/stores/{store_id}/items";
/// Maximum number of concurrent exports on the server. A further export waits for up to 30 s.
const EXPORTS_MAX: usize = 4;
/// Time limit for prompt events. It is shorter than the 30 s for which an export waits.
const SOON: Duration = Duration::from_secs(20);

fn head(request: &str, version: &str) -> String {
    let keep = if version == "1.0" { "Connection: keep-alive\r\n" } else { "" };
    format!("{request} HTTP/{version}\r\nHost: h\r\nFastly-Key: {TOKEN}\r\n{keep}\r\n")
}

/// Returns the number of completed requests with these labels.
fn completed(server: &Server, method: &str, route: &str, status: u16) -> u64 {
    let labels = format!("{{route=\"{route}\",method=\"{method}\",status=\"{status}\"}} ");
    let sample = format!("steadfast_http_requests_total{labels}");
    let metrics = server.get("/metrics").text();
    let value = metrics.lines().find_map(|line| line.strip_prefix(&sample));
    value.map_or(0, |value| value.parse().unwrap())
}

fn wait_until(within: Duration, message: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + within;
    while !condition() {
        assert!(Instant::now() < end, "{message}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Returns a client with an unread response. Dropping it resets the connection.
fn resetting_client(server: &Server) -> Client {
    let mut client = server.connect();
    client.send(HEALTH).unwrap();
    client.wait_for_bytes();
    client
}

/// A server with the maximum number of exports in progress. The clients do not read the responses.
struct BusyServer {
    disk: DiskServer,
    path: String,
    exports: Vec<Client>,
}

impl BusyServer {
    fn new() -> BusyServer {
        let disk = DiskServer::new(&["--body-timeout", "120"]);
        let store = disk.server.create_store("s");
        // Use a value that is larger than the buffers of a connection.
        let put = format!("PUT /resources/stores/kv/{store}/keys/k");
        assert_eq!(disk.server.request(&put, &[], &vec![b'v'; 25 << 20]).status, 200);
        let path = EXPORT.replace("{store_id}", &store);
        let open = |_| {
            let mut export = disk.server.connect();
            export.send(head(&format!("GET {path}"), "1.1")).unwrap();
            assert_eq!(export.read_response(true).unwrap().status, 200);
            export
        };
        let exports = (0..EXPORTS_MAX).map(open).collect();
        BusyServer { disk, path, exports }
    }

    /// Starts another export, which waits until one of the exports in progress ends.
    fn start_export(&self, version: &str) -> Client {
        self.start_export_on(self.disk.server.connect(), version)
    }

    fn start_export_on(&self, mut client: Client, version: &str) -> Client {
        client.send(head(&format!("GET {}", self.path), version)).unwrap();
        // Give the server time to read the request.
        std::thread::sleep(Duration::from_millis(200));
        client
    }

    fn abandoned(&self) -> u64 {
        completed(&self.disk.server, "GET", EXPORT, 499)
    }
}

#[test]
fn a_request_is_abandoned_when_its_client_closes_the_connection() {
    let busy = BusyServer::new();
    drop(busy.start_export("1.1"));
    wait_until(SOON, "the request was not abandoned after a FIN", || busy.abandoned() == 1);
    drop(busy.start_export_on(resetting_client(&busy.disk.server), "1.1"));
    wait_until(SOON, "the request was not abandoned after a reset", || busy.abandoned() == 2);
}

#[test]
fn a_half_closed_client_gets_interim_responses_until_the_final_response() {
    let mut busy = BusyServer::new();
    let mut client = busy.start_export("1.1");
    client.shutdown_write();
    for _ in 0..2 {
        assert_eq!(client.read_response(true).unwrap().head, "HTTP/1.1 102 Processing");
    }
    drop(busy.exports.pop());
    let response = loop {
        let response = client.read_response(false).unwrap();
        if response.status != 102 {
            break response;
        }
    };
    assert_eq!(response.status, 200);
    assert!(response.body.len() > 25 << 20);
    assert!(client.closes_without_response());
    assert_eq!(busy.abandoned(), 0);
}

#[test]
fn a_half_closed_http_1_0_client_gets_only_the_final_response() {
    let mut busy = BusyServer::new();
    let mut client = busy.start_export("1.0");
    client.shutdown_write();
    std::thread::sleep(Duration::from_secs(3));
    drop(busy.exports.pop());
    assert_eq!(client.read_response(true).unwrap().status, 200);
    assert_eq!(busy.abandoned(), 0);
}

#[test]
fn pipelined_requests_are_answered_after_the_request_in_progress() {
    const REQUESTS: usize = 2000;
    let mut busy = BusyServer::new();
    let mut client = busy.start_export("1.1");
    for _ in 0..REQUESTS {
        client.send(HEALTH).unwrap();
    }
    drop(busy.exports.pop());
    assert_eq!(client.read_response(false).unwrap().status, 200);
    for _ in 0..REQUESTS {
        assert_eq!(client.read_response(false).unwrap().text(), "ok\n");
    }
}

#[test]
fn counting_items_stops_when_the_client_has_disconnected() {
    const LINES: usize = 20_000;
    let disk = DiskServer::new(&[]);
    let server = &disk.server;
    let store = server.create_store("s");
    for part in 0..5 {
        let line = |number| format!("{{\"key\":\"k{part}-{number}\",\"value\":\"\"}}\n");
        let lines: String = (0..LINES).map(line).collect();
        let batch = format!("PUT /resources/stores/kv/{store}/batch");
        assert_eq!(server.request(&batch, &[], lines.as_bytes()).status, 200);
    }
    let items = ITEMS.replace("{store_id}", &store);
    let count = head(&format!("DELETE {items}?all=true&dry_run=true"), "1.1");
    // Try repeatedly, because the reset may arrive before the count starts.
    wait_until(Duration::from_secs(60), "no counting request was abandoned", || {
        let mut client = resetting_client(server);
        client.send(&count).unwrap();
        std::thread::sleep(Duration::from_millis(5));
        drop(client);
        completed(server, "DELETE", ITEMS, 499) > 0
    });
}
