//! Black-box tests of servers that share a PostgreSQL database. Tests that need a database are
//! skipped if `STEADFAST_TEST_POSTGRES` is not set. tests/postgres/run sets it.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests may panic")]
#![allow(clippy::expect_used, reason = "tests may panic")]
#![allow(clippy::print_stdout, clippy::disallowed_methods, reason = "tests print and read env")]

#[path = "../support/mod.rs"]
mod support;

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use support::{Client, Server, TOKEN, binary, create_database};

const LOAD: Duration = Duration::from_secs(5);

fn three_servers(url: &str) -> Vec<Server> {
    (0..3).map(|_| Server::postgres(url)).collect()
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

/// Connects to a database. The connection runs on the current runtime.
async fn connect(url: &str) -> tokio_postgres::Client {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// Terminates all database connections of the servers every 40 ms until a point in time. Returns
/// the number of terminated connections.
fn terminate_connections(url: &str, until: Instant) -> u64 {
    block_on(async {
        let client = connect(url).await;
        let mut terminated = 0;
        while Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(40)).await;
            terminated += client
                .execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                     WHERE application_name = 'steadfast' AND datname = current_database()",
                    &[],
                )
                .await
                .unwrap();
        }
        terminated
    })
}

#[test]
fn writes_are_visible_through_all_servers_immediately() {
    let Some(url) = create_database("visible") else { return };
    let servers = three_servers(&url);
    let store = servers[0].create_store("site");
    let taken = servers[1].request("POST /resources/stores/kv", &[], b"{\"name\":\"site\"}");
    assert_eq!(taken.status, 400, "store names must be unique across servers");
    let item = format!("/resources/stores/kv/{store}/keys/k");
    let mut last = 0;
    for round in 0..60_usize {
        let (writer, reader) = (&servers[round % 3], &servers[(round + 1) % 3]);
        let value = format!("value {round}");
        assert_eq!(writer.request(&format!("PUT {item}"), &[], value.as_bytes()).status, 200);
        let found = reader.get(&item);
        assert_eq!(found.text(), value);
        assert!(found.generation() > last, "generations must increase across servers");
        last = found.generation();
        if round % 7 == 6 {
            assert_eq!(reader.request(&format!("DELETE {item}"), &[], b"").status, 204);
            assert_eq!(writer.get(&item).status, 404);
        }
    }
    let listed = servers[2].get(&format!("/resources/stores/kv/{store}/keys"));
    assert_eq!(listed.text(), "{\"data\":[\"k\"],\"meta\":{\"limit\":1000}}");
}

#[test]
fn values_of_25_mib_round_trip() {
    let Some(url) = create_database("large") else { return };
    let server = Server::postgres(&url);
    let store = server.create_store("large");
    let value: Vec<u8> = (0..25 << 20).map(|i: u32| (i ^ (i >> 9)) as u8).collect();
    let item = format!("/resources/stores/kv/{store}/keys/large");
    assert_eq!(server.request(&format!("PUT {item}"), &[], &value).status, 200);
    assert!(server.get(&item).body == value);
    assert_eq!(server.request(&format!("PUT {item}?append=true"), &[], b"x").status, 413);
}

/// Checks that acknowledged appends occur once in the value and all others at most once. Returns
/// the number of acknowledged appends.
fn check_appends(value: &str, appended: &HashMap<String, u16>) -> usize {
    for (piece, status) in appended {
        let times = value.matches(piece.as_str()).count();
        match status {
            200 => assert_eq!(times, 1, "{piece} occurs {times} times"),
            _ => assert!(times <= 1, "{piece} occurs {times} times"),
        }
    }
    appended.values().filter(|status| **status == 200).count()
}

#[test]
fn writes_take_effect_exactly_once_while_connections_are_terminated() {
    let Some(url) = create_database("terminated") else { return };
    let servers = three_servers(&url);
    let store = servers[0].create_store("site");
    let base = format!("/resources/stores/kv/{store}/keys");
    servers[0].request(&format!("PUT {base}/count"), &[], b"0");
    let stop = AtomicBool::new(false);
    let (counted, unknown) = (AtomicU64::new(0), AtomicU64::new(0));
    let appended: Mutex<HashMap<String, u16>> = Mutex::default();
    let count = |port: u16| {
        let mut client = Client::connect(port).unwrap();
        while !stop.load(Ordering::Relaxed) {
            let now = client.get(&format!("{base}/count")).unwrap();
            if now.status != 200 {
                continue;
            }
            let next = (now.text().parse::<u64>().unwrap() + 1).to_string();
            let expected = now.generation().to_string();
            let fields = [("if-generation-match", expected.as_str())];
            let put =
                client.request(&format!("PUT {base}/count"), &fields, next.as_bytes()).unwrap();
            match put.status {
                200 => counted.fetch_add(1, Ordering::Relaxed),
                412 => 0,
                500.. => unknown.fetch_add(1, Ordering::Relaxed),
                other => panic!("{other}"),
            };
        }
    };
    let append = |port: u16, writer: usize| {
        let mut client = Client::connect(port).unwrap();
        for number in 0.. {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            let piece = format!("<{writer}-{number}>");
            let request = format!("PUT {base}/all?append=true");
            let status = client.request(&request, &[], piece.as_bytes()).unwrap().status;
            appended.lock().unwrap().insert(piece, status);
        }
    };
    let terminated = std::thread::scope(|scope| {
        for (number, server) in servers.iter().chain(&servers).enumerate() {
            let (count, append, port) = (&count, &append, server.port);
            scope.spawn(move || count(port));
            scope.spawn(move || append(port, number));
        }
        let terminated = terminate_connections(&url, Instant::now() + LOAD);
        stop.store(true, Ordering::Relaxed);
        terminated
    });
    let value = servers[1].get(&format!("{base}/count")).text();
    let (value, counted) = (value.parse::<u64>().unwrap(), counted.into_inner());
    let unknown = unknown.into_inner();
    assert!(
        (counted..=counted + unknown).contains(&value),
        "the count is {value}, but {counted} increments were acknowledged and {unknown} unknown"
    );
    let all = servers[2].get(&format!("{base}/all")).text();
    let acknowledged = check_appends(&all, &appended.into_inner().unwrap());
    println!(
        "terminated {terminated} connections; acknowledged {counted} increments \
         ({unknown} more unknown) and {acknowledged} appends"
    );
    assert!(terminated > 50 && counted > 20 && acknowledged > 20, "there was too little load");
}

#[test]
fn acknowledged_writes_survive_kill_9_of_the_server() {
    let Some(url) = create_database("kill") else { return };
    let mut servers = three_servers(&url);
    let store = servers[0].create_store("kill");
    let base = format!("/resources/stores/kv/{store}/keys");
    for round in 0..5 {
        let port = servers[1].port;
        let acknowledged = std::thread::scope(|scope| {
            let write = |writer: usize| {
                let base = &base;
                scope.spawn(move || {
                    let mut client = Client::connect(port).unwrap();
                    let mut acknowledged = 0;
                    while let Ok(put) = client.request(
                        &format!("PUT {base}/{round}-{writer}-{acknowledged}"),
                        &[],
                        acknowledged.to_string().as_bytes(),
                    ) {
                        assert_eq!(put.status, 200);
                        acknowledged += 1;
                    }
                    (writer, acknowledged)
                })
            };
            let writers: Vec<_> = (0..8).map(write).collect();
            std::thread::sleep(Duration::from_millis(400));
            servers[1].kill();
            let acknowledged = writers.into_iter().map(|writer| writer.join().unwrap());
            acknowledged.collect::<Vec<_>>()
        });
        for (writer, acknowledged) in acknowledged {
            assert!(acknowledged > 0, "there was too little load");
            for number in 0..acknowledged {
                let item = format!("GET {base}/{round}-{writer}-{number}");
                assert_eq!(servers[2].request(&item, &[], b"").text(), number.to_string());
            }
        }
        servers[1] = Server::postgres(&url);
    }
}

#[test]
fn only_eventual_lists_are_read_from_a_standby() {
    let (Some(url), Some(other)) = (create_database("leads"), create_database("follows")) else {
        return;
    };
    // An empty database takes the place of a standby that lags behind.
    drop(Server::postgres(&other));
    let keys = |server: &Server, store: &str, query: &str| {
        let list = server.get(&format!("/resources/stores/kv/{store}/keys{query}"));
        assert_eq!(list.status, 200);
        list.text()
    };
    let server = Server::postgres_with_flags(&url, &["--engine-standby", &other]);
    let store = server.create_store("site");
    let item = format!("/resources/stores/kv/{store}/keys/k");
    assert_eq!(server.request(&format!("PUT {item}"), &[], b"v").status, 200);
    assert_eq!(keys(&server, &store, ""), r#"{"data":["k"],"meta":{"limit":1000}}"#);
    assert_eq!(
        keys(&server, &store, "?consistency=eventual"),
        r#"{"data":[],"meta":{"limit":1000,"consistency":"eventual"}}"#
    );
    assert_eq!(server.get(&item).body, b"v");

    let unreachable = "postgres://nobody@127.0.0.1:1/kv";
    let alone = Server::postgres_with_flags(&url, &["--engine-standby", unreachable]);
    let list = keys(&alone, &store, "?consistency=eventual");
    assert!(list.starts_with(r#"{"data":["k"]"#), "the list was not read from the primary: {list}");
}

/// The number of rows of the records table that statements have read.
const ROWS_READ: &str = "SELECT coalesce(idx_tup_fetch, 0) + seq_tup_read \
    FROM pg_stat_user_tables WHERE schemaname = 'steadfast' AND relname = 'records'";
const LIVE_INDEX_VALID: &str = "SELECT coalesce((SELECT indisvalid FROM pg_index \
    WHERE indexrelid = to_regclass('steadfast.records_live')), false)";

#[test]
fn lists_do_not_read_tombstones() {
    let Some(url) = create_database("tombstones") else { return };
    let server = Server::postgres(&url);
    let store = server.create_store("site");
    let keys = format!("/resources/stores/kv/{store}/keys");
    assert_eq!(server.request(&format!("PUT {keys}/z"), &[], b"v").status, 200);
    let rows_read = block_on(async {
        let client = connect(&url).await;
        let add = format!(
            "INSERT INTO steadfast.records SELECT ('i{store}k' || n)::BYTEA, \
             extract(epoch FROM now()) * 1000000, 0, false, 0, '', '' \
             FROM generate_series(1, 20000) AS n"
        );
        client.batch_execute(&add).await.unwrap();
        client.batch_execute("VACUUM ANALYZE steadfast.records").await.unwrap();
        let before: i64 = client.query_one(ROWS_READ, &[]).await.unwrap().get(0);
        assert_eq!(server.get(&keys).text(), r#"{"data":["z"],"meta":{"limit":1000}}"#);
        assert_eq!(server.get(&format!("/_/v1/stores/{store}/export")).status, 200);
        drop(server);
        // A database process publishes its statistics before it ends.
        let processes = "SELECT count(*) FROM pg_stat_activity WHERE \
            application_name = 'steadfast' AND datname = current_database()";
        let until = Instant::now() + Duration::from_secs(60);
        while client.query_one(processes, &[]).await.unwrap().get::<_, i64>(0) > 0 {
            assert!(Instant::now() < until, "connections of the server remain open");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        client.query_one(ROWS_READ, &[]).await.unwrap().get::<_, i64>(0) - before
    });
    assert!((1..1000).contains(&rows_read), "{rows_read} rows were read to list one item");
}

#[test]
fn servers_started_together_rebuild_an_invalid_or_missing_index() {
    let Some(url) = create_database("reindexed") else { return };
    drop(Server::postgres(&url));
    let invalidate = "UPDATE pg_index SET indisvalid = false \
        WHERE indexrelid = 'steadfast.records_live'::regclass";
    for damage in ["DROP INDEX steadfast.records_live", invalidate] {
        block_on(async { connect(&url).await.batch_execute(damage).await.unwrap() });
        let servers = three_servers(&url);
        let until = Instant::now() + Duration::from_secs(60);
        block_on(async {
            let client = connect(&url).await;
            while !client.query_one(LIVE_INDEX_VALID, &[]).await.unwrap().get::<_, bool>(0) {
                assert!(Instant::now() < until, "the index is not valid after: {damage}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        assert_eq!(servers[0].get("/resources/stores/kv").status, 200);
    }
}

#[test]
fn several_servers_delete_expired_items_concurrently() {
    let Some(url) = create_database("swept") else { return };
    let servers = three_servers(&url);
    let store = servers[0].create_store("site");
    let batch = format!("PUT /resources/stores/kv/{store}/batch");
    let line =
        |n: u32| format!("{{\"key\":\"k{n}\",\"value\":\"eA==\",\"time_to_live_sec\":1000}}\n");
    let lines: String = (0..3000).map(line).collect();
    assert_eq!(servers[0].request(&batch, &[], lines.as_bytes()).status, 200);
    let query_count = |text: &'static str| {
        block_on(async {
            let client = connect(&url).await;
            client.query_one(text, &[]).await.unwrap().get::<_, i64>(0)
        })
    };
    // Move the expiry times into the past.
    let aged = "WITH aged AS (UPDATE steadfast.records SET due = due - 2000000000 WHERE due > 0 \
                RETURNING 1) SELECT count(*) FROM aged";
    assert_eq!(query_count(aged), 3000);
    let left = || query_count("SELECT count(*) FROM steadfast.records WHERE live AND due > 0");
    let until = Instant::now() + Duration::from_secs(60);
    while left() > 0 {
        assert!(Instant::now() < until, "{} items remain", left());
        std::thread::sleep(Duration::from_millis(200));
    }
    for server in &servers {
        assert_eq!(server.get("/resources/stores/kv").status, 200, "a server stopped working");
    }
}

/// An open transaction that holds row locks, like that of a server that froze during a commit.
struct RowLock {
    runtime: tokio::runtime::Runtime,
    client: tokio_postgres::Client,
    keys: Vec<Vec<u8>>,
}

impl RowLock {
    /// Locks the rows of the items with the given keys.
    fn acquire(url: &str, store: &str, keys: &[&str]) -> RowLock {
        // Uses whole record keys, because a random store id may end with the key of an item.
        let keys: Vec<_> = keys.iter().map(|key| format!("i{store}{key}").into_bytes()).collect();
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let client = runtime.block_on(async {
            let client = connect(url).await;
            client.batch_execute("BEGIN").await.unwrap();
            let lock = "SELECT 1 FROM steadfast.records WHERE key = ANY($1) FOR UPDATE";
            assert_eq!(client.query(lock, &[&keys]).await.unwrap().len(), keys.len());
            client
        });
        RowLock { runtime, client, keys }
    }

    fn release(self) {
        self.runtime.block_on(self.client.batch_execute("ROLLBACK")).unwrap();
    }
}

#[test]
fn a_locked_row_does_not_block_writes_to_other_rows() {
    let Some(url) = create_database("locked") else { return };
    let server = Server::postgres(&url);
    let store = server.create_store("site");
    let item = format!("/resources/stores/kv/{store}/keys/k");
    for n in 0..4 {
        assert_eq!(server.request(&format!("PUT {item}{n}"), &[], b"old").status, 200);
    }
    let row_lock = RowLock::acquire(&url, &store, &["k0", "k1", "k2", "k3"]);
    std::thread::scope(|scope| {
        for n in 0..4 {
            let (server, item) = (&server, &item);
            scope.spawn(move || {
                let put = server.request(&format!("PUT {item}{n}"), &[], b"new");
                assert_eq!(put.status, 200, "the write must succeed after the release");
            });
            std::thread::sleep(Duration::from_millis(150));
        }
        let start = Instant::now();
        assert_eq!(server.request(&format!("PUT {item}-free"), &[], b"v").status, 200);
        assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
        row_lock.release();
    });
    assert_eq!(server.get(&format!("{item}3")).body, b"new");
}

#[test]
fn the_query_of_a_disconnected_client_blocks_no_other_request() {
    let Some(url) = create_database("gone") else { return };
    let server = Server::postgres(&url);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let lock = runtime.block_on(async {
        let client = connect(&url).await;
        let lock = "BEGIN; LOCK TABLE steadfast.records IN ACCESS EXCLUSIVE MODE";
        client.batch_execute(lock).await.unwrap();
        client
    });
    let mut client = server.connect();
    let list = "GET /resources/stores/kv HTTP/1.1\r\nHost: h\r\nFastly-Key: ";
    client.send("GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    client.wait_for_bytes();
    client.send(format!("{list}{TOKEN}\r\n\r\n")).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    // Dropping a client with an unread response resets the connection.
    drop(client);
    let start = Instant::now();
    // Send more requests than the pool has connections. None of them needs the locked table.
    for _ in 0..10 {
        assert_eq!(server.get("/readyz").status, 200);
    }
    // The statement timeout is 8 s, so a request that waits for the list takes longer than 6 s.
    assert!(start.elapsed() < Duration::from_secs(6), "{:?}", start.elapsed());
    let metrics = server.get("/metrics").text();
    let abandoned = "{route=\"/resources/stores/kv\",method=\"GET\",status=\"499\"} 1";
    assert!(metrics.contains(abandoned), "{metrics}");
    runtime.block_on(lock.batch_execute("ROLLBACK")).unwrap();
    assert_eq!(server.get("/resources/stores/kv").status, 200);
}

#[test]
fn a_locked_row_does_not_block_other_writes_in_its_group() {
    let Some(url) = create_database("shared") else { return };
    let server = Server::postgres(&url);
    let store = server.create_store("site");
    let item = format!("/resources/stores/kv/{store}/keys/");
    for key in ["k0", "k1", "k2", "k3", "f0", "z0"] {
        assert_eq!(server.request(&format!("PUT {item}{key}"), &[], b"old").status, 200);
    }
    let row_lock = RowLock::acquire(&url, &store, &["k0", "k1", "k2", "k3"]);
    let put = |key: &str| {
        let start = Instant::now();
        let reply = server.request(&format!("PUT {item}{key}"), &[], b"new");
        assert_eq!(reply.status, 200, "{key}");
        start.elapsed()
    };
    std::thread::scope(|scope| {
        let put = &put;
        // Two transactions are in flight, so the next writes form a group. The group contains rows
        // before and after the locked rows, and rows that do not exist yet.
        for key in ["k0", "k1"] {
            scope.spawn(move || put(key));
            std::thread::sleep(Duration::from_millis(25));
        }
        for key in ["k2", "k3"] {
            scope.spawn(move || put(key));
        }
        let free = ["f0", "f1", "z0", "z1", "z2"];
        let free = free.map(|key| (key, scope.spawn(move || put(key))));
        let free = free.map(|(key, put)| (key, put.join().unwrap()));
        row_lock.release();
        for (key, took) in free {
            assert!(took < Duration::from_secs(3), "{key} took {took:?}");
        }
    });
    for key in ["k0", "k1", "k2", "k3", "f0", "f1", "z0", "z1", "z2"] {
        assert_eq!(server.get(&format!("{item}{key}")).body, b"new", "{key}");
    }
}

#[test]
fn lock_waits_that_time_out_leave_no_waiting_statements() {
    let Some(url) = create_database("lock_wait") else { return };
    let server = Server::postgres(&url);
    let store = server.create_store("site");
    let item = format!("/resources/stores/kv/{store}/keys/");
    assert_eq!(server.request(&format!("PUT {item}k0"), &[], b"old").status, 200);
    let row_lock = RowLock::acquire(&url, &store, &["k0"]);
    // Insert another row in the same transaction, which is not committed.
    let insert = "INSERT INTO steadfast.records (key, version, due, live, mark, head, body) \
                  SELECT overlay(key placing 'n0'::BYTEA from length(key) - 1), version, due, \
                  live, mark, head, body FROM steadfast.records WHERE key = $1";
    let RowLock { runtime, client, keys } = &row_lock;
    assert_eq!(runtime.block_on(client.execute(insert, &[&keys[0]])).unwrap(), 1);
    std::thread::scope(|scope| {
        for key in ["k0", "n0"] {
            let (server, item) = (&server, &item);
            scope.spawn(move || {
                let put = server.request(&format!("PUT {item}{key}"), &[], b"new");
                assert_eq!(put.status, 200, "{key} must be written after the release");
            });
            std::thread::sleep(Duration::from_millis(150));
        }
        // Wait for longer than the statement timeout.
        std::thread::sleep(Duration::from_secs(9));
        let waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                       AND application_name = 'steadfast' AND wait_event_type = 'Lock'";
        let waiting = row_lock.runtime.block_on(row_lock.client.query_one(waiting, &[]));
        let waiting = waiting.unwrap().get::<_, i64>(0);
        assert!((1..=2).contains(&waiting), "{waiting} statements are waiting for two rows");
        row_lock.release();
    });
    for key in ["k0", "n0"] {
        assert_eq!(server.get(&format!("{item}{key}")).body, b"new", "{key}");
    }
}

/// Starts a proxy in front of a database server. The proxy delays new connections by `pause`. While
/// the returned flag is set, it accepts connections but forwards nothing, like a frozen machine.
fn proxy(host: &str, pause: Duration) -> (u16, Arc<AtomicBool>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let frozen = Arc::new(AtomicBool::new(false));
    let (upstream, frozen_flag) = (host.to_owned(), frozen.clone());
    let pass = move |mut from: TcpStream, mut to: TcpStream, frozen_flag: Arc<AtomicBool>| {
        std::thread::spawn(move || {
            let mut bytes = [0; 1 << 16];
            while let Ok(read @ 1..) = from.read(&mut bytes) {
                while frozen_flag.load(Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(10));
                }
                if to.write_all(&bytes[..read]).is_err() {
                    break;
                }
            }
            let _ = to.shutdown(std::net::Shutdown::Both);
        });
    };
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let client = client.unwrap();
            std::thread::sleep(pause);
            let server = TcpStream::connect(&upstream).unwrap();
            pass(client.try_clone().unwrap(), server.try_clone().unwrap(), frozen_flag.clone());
            pass(server, client, frozen_flag.clone());
        }
    });
    (port, frozen)
}

#[test]
fn servers_fail_over_from_a_frozen_database_server() {
    let Some(url) = create_database("frozen") else { return };
    let (user, at) = url.split_once('@').unwrap();
    let (host, name) = at.split_once('/').unwrap();
    // Use two proxies in front of the same database server. Servers prefer the faster one.
    let (fast, frozen) = proxy(host, Duration::ZERO);
    let (slow, slow_frozen) = proxy(host, Duration::from_millis(30));
    let url = format!("{user}@127.0.0.1:{fast},127.0.0.1:{slow}/{name}");
    let server = Server::postgres(&url);
    let store = server.create_store("site");
    let item = format!("/resources/stores/kv/{store}/keys/k");
    let write_and_read = || {
        std::thread::scope(|scope| {
            for n in 0..16 {
                let (server, item) = (&server, &item);
                scope.spawn(move || {
                    let put = server.request(&format!("PUT {item}{n}"), &[], b"v");
                    assert_eq!(put.status, 200);
                    assert_eq!(server.get(&format!("{item}{n}")).body, b"v");
                });
            }
        });
    };
    write_and_read();
    frozen.store(true, Ordering::Relaxed);
    let start = Instant::now();
    write_and_read();
    let took = start.elapsed();
    assert!(took < Duration::from_secs(25), "{took:?}");
    assert!(took > Duration::from_secs(1), "the frozen proxy was not used before: {took:?}");
    assert!(!slow_frozen.load(Ordering::Relaxed));
    // A new server must avoid the frozen proxy too.
    let fresh = Server::postgres(&url);
    assert_eq!(fresh.get(&format!("{item}1")).body, b"v");
    assert!(fresh.startup_time < Duration::from_secs(8), "{:?}", fresh.startup_time);
    frozen.store(false, Ordering::Relaxed);
}

/// Runs a server that must fail to start. Returns the standard error.
fn startup_error(arguments: &[&str], token: bool) -> String {
    let mut command = Command::new(binary());
    command.args(["serve", "--listen", "127.0.0.1:0"]).args(arguments).stdin(Stdio::null());
    if token {
        command.env("STEADFAST_TOKEN", TOKEN);
    }
    let output = command.output().unwrap();
    assert!(!output.status.success());
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn invalid_engine_urls_are_rejected_without_printing_the_password() {
    let url = "postgres://user:secret-word@127.0.0.1:1/kv";
    assert!(startup_error(&["--engine", url], false).contains("set STEADFAST_TOKEN"));
    for (arguments, expected) in [
        (vec!["--engine", "mysql://user:secret-word@h/kv"], "must be a postgres:// URL"),
        (vec!["--engine", "postgres://user:secret-word@h:port/kv"], "is invalid"),
        (vec!["--engine", url, "--memory"], "cannot be used with"),
        (vec!["--engine", url, "--max-value", "1000000000"], "--max-value must be at most"),
    ] {
        let error = startup_error(&arguments, true);
        assert!(error.contains(expected) && !error.contains("secret-word"), "{error}");
    }
}
