//! Several servers over one PostgreSQL database, from outside. Without `STEADFAST_TEST_POSTGRES`
//! (tests/postgres/run sets it) what needs a database is skipped, and says so.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a test may panic, print, and ask the clock and the environment"
)]

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

fn three(url: &str) -> Vec<Server> {
    (0..3).map(|_| Server::postgres(url)).collect()
}

/// Ends all connections of the servers to their database, again and again.
fn cut_connections(url: &str, until: Instant) -> u64 {
    let cutting = async {
        let (client, connection) =
            tokio_postgres::connect(url, tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        let mut cut = 0;
        while Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(40)).await;
            cut += client
                .execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                     WHERE application_name = 'steadfast' AND datname = current_database()",
                    &[],
                )
                .await
                .unwrap();
        }
        cut
    };
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(cutting)
}

#[test]
fn what_one_server_writes_the_others_read_at_once() {
    let Some(url) = create_database("at_once") else { return };
    let servers = three(&url);
    let store = servers[0].create_store("site");
    let taken = servers[1].request("POST /resources/stores/kv", &[], b"{\"name\":\"site\"}");
    assert_eq!(taken.status, 400, "a name is taken everywhere");
    let item = format!("/resources/stores/kv/{store}/keys/k");
    let mut last = 0;
    for round in 0..60_usize {
        let (writer, reader) = (&servers[round % 3], &servers[(round + 1) % 3]);
        let value = format!("value {round}");
        assert_eq!(writer.request(&format!("PUT {item}"), &[], value.as_bytes()).status, 200);
        let found = reader.request(&format!("GET {item}"), &[], b"");
        assert_eq!(found.text(), value);
        assert!(found.generation() > last, "generations grow over all servers");
        last = found.generation();
        if round % 7 == 6 {
            assert_eq!(reader.request(&format!("DELETE {item}"), &[], b"").status, 204);
            assert_eq!(writer.request(&format!("GET {item}"), &[], b"").status, 404);
        }
    }
    let listed = servers[2].request(&format!("GET /resources/stores/kv/{store}/keys"), &[], b"");
    assert_eq!(listed.text(), "{\"data\":[\"k\"],\"meta\":{\"limit\":1000}}");
}

#[test]
fn values_of_25_mib_pass_through() {
    let Some(url) = create_database("large") else { return };
    let server = Server::postgres(&url);
    let store = server.create_store("large");
    let value: Vec<u8> = (0..25 << 20).map(|i: u32| (i ^ (i >> 9)) as u8).collect();
    let item = format!("/resources/stores/kv/{store}/keys/large");
    assert_eq!(server.request(&format!("PUT {item}"), &[], &value).status, 200);
    assert!(server.request(&format!("GET {item}"), &[], b"").body == value);
    assert_eq!(server.request(&format!("PUT {item}?append=true"), &[], b"x").status, 413);
}

#[test]
fn nothing_is_lost_or_done_twice_while_connections_are_cut() {
    let Some(url) = create_database("cut") else { return };
    let servers = three(&url);
    let store = servers[0].create_store("cut");
    let base = format!("/resources/stores/kv/{store}/keys");
    servers[0].request(&format!("PUT {base}/count"), &[], b"0");
    let stop = AtomicBool::new(false);
    let (counted, unsure) = (AtomicU64::new(0), AtomicU64::new(0));
    let appended: Mutex<HashMap<String, u16>> = Mutex::default();
    let count = |port: u16| {
        let mut client = Client::connect(port).unwrap();
        while !stop.load(Ordering::Relaxed) {
            let now = client.request(&format!("GET {base}/count"), &[], b"").unwrap();
            if now.status != 200 {
                continue;
            }
            let next = (now.text().parse::<u64>().unwrap() + 1).to_string();
            let demanded = now.generation().to_string();
            let fields = [("if-generation-match", demanded.as_str())];
            let put =
                client.request(&format!("PUT {base}/count"), &fields, next.as_bytes()).unwrap();
            match put.status {
                200 => counted.fetch_add(1, Ordering::Relaxed),
                412 => 0,
                500.. => unsure.fetch_add(1, Ordering::Relaxed),
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
    let cut = std::thread::scope(|scope| {
        for (number, server) in servers.iter().chain(&servers).enumerate() {
            let (count, append, port) = (&count, &append, server.port);
            scope.spawn(move || count(port));
            scope.spawn(move || append(port, number));
        }
        let cut = cut_connections(&url, Instant::now() + LOAD);
        stop.store(true, Ordering::Relaxed);
        cut
    });
    let value = servers[1].request(&format!("GET {base}/count"), &[], b"").text();
    let (value, counted) = (value.parse::<u64>().unwrap(), counted.into_inner());
    let unsure = unsure.into_inner();
    assert!((counted..=counted + unsure).contains(&value), "{value} of {counted} and {unsure}");
    let all = servers[2].request(&format!("GET {base}/all"), &[], b"").text();
    let appended = appended.into_inner().unwrap();
    for (piece, status) in &appended {
        let times = all.matches(piece.as_str()).count();
        match status {
            200 => assert_eq!(times, 1, "{piece}"),
            _ => assert!(times <= 1, "{piece} is there {times} times"),
        }
    }
    let told = appended.values().filter(|status| **status == 200).count();
    println!("{cut} connections cut, {counted} counted ({unsure} unsure), {told} appended");
    assert!(cut > 50 && counted > 20 && told > 20, "the load was real");
}

#[test]
fn acknowledged_writes_survive_the_kill_of_their_server() {
    let Some(url) = create_database("kill") else { return };
    let mut servers = three(&url);
    let store = servers[0].create_store("kill");
    let base = format!("/resources/stores/kv/{store}/keys");
    for round in 0..5 {
        let port = servers[1].port;
        let told = std::thread::scope(|scope| {
            let write = |writer: usize| {
                let base = &base;
                scope.spawn(move || {
                    let mut client = Client::connect(port).unwrap();
                    let mut told = 0;
                    while let Ok(put) = client.request(
                        &format!("PUT {base}/{round}-{writer}-{told}"),
                        &[],
                        told.to_string().as_bytes(),
                    ) {
                        assert_eq!(put.status, 200);
                        told += 1;
                    }
                    (writer, told)
                })
            };
            let writers: Vec<_> = (0..8).map(write).collect();
            std::thread::sleep(Duration::from_millis(400));
            servers[1].kill();
            let told = writers.into_iter().map(|writer| writer.join().unwrap());
            told.collect::<Vec<_>>()
        });
        for (writer, told) in told {
            assert!(told > 0, "the load was real");
            for number in 0..told {
                let item = format!("GET {base}/{round}-{writer}-{number}");
                assert_eq!(servers[2].request(&item, &[], b"").text(), number.to_string());
            }
        }
        servers[1] = Server::postgres(&url);
    }
}

#[test]
fn eventual_lists_come_from_a_standby_and_all_else_does_not() {
    let (Some(url), Some(other)) = (create_database("leads"), create_database("follows")) else {
        return;
    };
    // Another database stands for a standby that lags: it knows none of the items.
    drop(Server::postgres(&other));
    let keys = |server: &Server, store: &str, query: &str| {
        let list =
            server.request(&format!("GET /resources/stores/kv/{store}/keys{query}"), &[], b"");
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
    assert_eq!(server.request(&format!("GET {item}"), &[], b"").body, b"v");

    let nobody = "postgres://nobody@127.0.0.1:1/kv";
    let alone = Server::postgres_with_flags(&url, &["--engine-standby", nobody]);
    let list = keys(&alone, &store, "?consistency=eventual");
    assert!(list.starts_with(r#"{"data":["k"]"#), "the primary is asked instead: {list}");
}

#[test]
fn expired_items_are_swept_by_several_servers_at_once() {
    let Some(url) = create_database("swept") else { return };
    let servers = three(&url);
    let store = servers[0].create_store("site");
    let batch = format!("PUT /resources/stores/kv/{store}/batch");
    let line =
        |n: u32| format!("{{\"key\":\"k{n}\",\"value\":\"eA==\",\"time_to_live_sec\":1000}}\n");
    let lines: String = (0..3000).map(line).collect();
    assert_eq!(servers[0].request(&batch, &[], lines.as_bytes()).status, 200);
    let ask = |text: &'static str| {
        let asked = async {
            let (client, connection) =
                tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
            tokio::spawn(connection);
            client.query_one(text, &[]).await.unwrap().get::<_, i64>(0)
        };
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(asked)
    };
    // As if their time had long come.
    let aged = "WITH aged AS (UPDATE steadfast.records SET due = due - 2000000000 WHERE due > 0 \
                RETURNING 1) SELECT count(*) FROM aged";
    assert_eq!(ask(aged), 3000);
    let left = || ask("SELECT count(*) FROM steadfast.records WHERE live AND due > 0");
    let until = Instant::now() + Duration::from_secs(60);
    while left() > 0 {
        assert!(Instant::now() < until, "{} are left", left());
        std::thread::sleep(Duration::from_millis(200));
    }
    for server in &servers {
        let total = server.request("GET /resources/stores/kv", &[], b"");
        assert_eq!(total.status, 200, "and nobody stumbled over it");
    }
}

/// Locks rows as a server does that stands still within a transaction.
struct Holder {
    runtime: tokio::runtime::Runtime,
    client: tokio_postgres::Client,
}

impl Holder {
    /// Of items whose keys are of two letters.
    fn of(url: &str, keys: &[&str]) -> Holder {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let client = runtime.block_on(async {
            let (client, connection) =
                tokio_postgres::connect(url, tokio_postgres::NoTls).await.unwrap();
            tokio::spawn(connection);
            client.batch_execute("BEGIN").await.unwrap();
            let held = "SELECT 1 FROM steadfast.records \
                        WHERE right(encode(key, 'escape'), 2) = ANY($1) FOR UPDATE";
            assert_eq!(client.query(held, &[&keys]).await.unwrap().len(), keys.len());
            client
        });
        Holder { runtime, client }
    }

    fn release(self) {
        self.runtime.block_on(self.client.batch_execute("ROLLBACK")).unwrap();
    }
}

#[test]
fn a_row_that_another_holds_does_not_hold_up_writes_to_others() {
    let Some(url) = create_database("held") else { return };
    let server = Server::postgres(&url);
    let store = server.create_store("site");
    let item = format!("/resources/stores/kv/{store}/keys/k");
    for n in 0..4 {
        assert_eq!(server.request(&format!("PUT {item}{n}"), &[], b"old").status, 200);
    }
    let holder = Holder::of(&url, &["k0", "k1", "k2", "k3"]);
    std::thread::scope(|scope| {
        for n in 0..4 {
            let (server, item) = (&server, &item);
            scope.spawn(move || {
                let put = server.request(&format!("PUT {item}{n}"), &[], b"new");
                assert_eq!(put.status, 200, "once the row is free");
            });
            std::thread::sleep(Duration::from_millis(150));
        }
        let start = Instant::now();
        assert_eq!(server.request(&format!("PUT {item}-free"), &[], b"v").status, 200);
        assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
        holder.release();
    });
    assert_eq!(server.request(&format!("GET {item}3"), &[], b"").body, b"new");
}

#[test]
fn a_write_to_a_row_that_another_holds_does_not_hold_up_those_that_go_with_it() {
    let Some(url) = create_database("shared") else { return };
    let server = Server::postgres(&url);
    let store = server.create_store("site");
    let item = format!("/resources/stores/kv/{store}/keys/");
    for key in ["k0", "k1", "k2", "k3", "f0", "z0"] {
        assert_eq!(server.request(&format!("PUT {item}{key}"), &[], b"old").status, 200);
    }
    let holder = Holder::of(&url, &["k0", "k1", "k2", "k3"]);
    let put = |key: &str| {
        let start = Instant::now();
        let answer = server.request(&format!("PUT {item}{key}"), &[], b"new");
        assert_eq!(answer.status, 200, "{key}");
        start.elapsed()
    };
    std::thread::scope(|scope| {
        let put = &put;
        // Two transactions are under way, so that what comes next waits and goes together: rows
        // before the ones that are held, behind them, and of no row yet.
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
        holder.release();
        for (key, took) in free {
            assert!(took < Duration::from_secs(3), "{key} took {took:?}");
        }
    });
    for key in ["k0", "k1", "k2", "k3", "f0", "f1", "z0", "z1", "z2"] {
        assert_eq!(server.request(&format!("GET {item}{key}"), &[], b"").body, b"new", "{key}");
    }
}

#[test]
fn who_waits_for_a_row_leaves_nobody_waiting_behind() {
    let Some(url) = create_database("behind") else { return };
    let server = Server::postgres(&url);
    let store = server.create_store("site");
    let item = format!("/resources/stores/kv/{store}/keys/");
    assert_eq!(server.request(&format!("PUT {item}k0"), &[], b"old").status, 200);
    let holder = Holder::of(&url, &["k0"]);
    // And one that is being made, and is there for nobody yet.
    let insert = "INSERT INTO steadfast.records (key, version, due, live, mark, head, body) \
                  SELECT overlay(key placing 'n0'::BYTEA from length(key) - 1), version, due, \
                  live, mark, head, body FROM steadfast.records \
                  WHERE right(encode(key, 'escape'), 2) = 'k0'";
    assert_eq!(holder.runtime.block_on(holder.client.execute(insert, &[])).unwrap(), 1);
    std::thread::scope(|scope| {
        for key in ["k0", "n0"] {
            let (server, item) = (&server, &item);
            scope.spawn(move || {
                let put = server.request(&format!("PUT {item}{key}"), &[], b"new");
                assert_eq!(put.status, 200, "{key}, once it is free");
            });
            std::thread::sleep(Duration::from_millis(150));
        }
        // Longer than a statement is waited for.
        std::thread::sleep(Duration::from_secs(9));
        let waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                       AND application_name = 'steadfast' AND wait_event_type = 'Lock'";
        let waiting = holder.runtime.block_on(holder.client.query_one(waiting, &[]));
        let waiting = waiting.unwrap().get::<_, i64>(0);
        assert!((1..=2).contains(&waiting), "{waiting} wait for two writes");
        holder.release();
    });
    for key in ["k0", "n0"] {
        assert_eq!(server.request(&format!("GET {item}{key}"), &[], b"").body, b"new", "{key}");
    }
}

/// Passes connections on to a database server, after a pause, until it is frozen: from then on it
/// accepts them, keeps those it has, and says nothing, as a machine does whose processes stand
/// still. Answers its port.
fn passing(host: &str, pause: Duration) -> (u16, Arc<AtomicBool>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let frozen = Arc::new(AtomicBool::new(false));
    let (behind, stands) = (host.to_owned(), frozen.clone());
    let pass = move |mut from: TcpStream, mut to: TcpStream, stands: Arc<AtomicBool>| {
        std::thread::spawn(move || {
            let mut bytes = [0; 1 << 16];
            while let Ok(read @ 1..) = from.read(&mut bytes) {
                while stands.load(Ordering::Relaxed) {
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
        for near in listener.incoming() {
            let near = near.unwrap();
            std::thread::sleep(pause);
            let far = TcpStream::connect(&behind).unwrap();
            pass(near.try_clone().unwrap(), far.try_clone().unwrap(), stands.clone());
            pass(far, near, stands.clone());
        }
    });
    (port, frozen)
}

#[test]
fn a_database_server_that_stands_still_is_left_for_another() {
    let Some(url) = create_database("frozen") else { return };
    let (user, at) = url.split_once('@').unwrap();
    let (host, name) = at.split_once('/').unwrap();
    // Two ways to the same server: the first is taken, being faster, until it stands still.
    let (fast, frozen) = passing(host, Duration::ZERO);
    let (slow, stands) = passing(host, Duration::from_millis(30));
    let url = format!("{user}@127.0.0.1:{fast},127.0.0.1:{slow}/{name}");
    let server = Server::postgres(&url);
    let store = server.create_store("site");
    let item = format!("/resources/stores/kv/{store}/keys/k");
    let used = || {
        std::thread::scope(|scope| {
            for n in 0..16 {
                let (server, item) = (&server, &item);
                scope.spawn(move || {
                    let put = server.request(&format!("PUT {item}{n}"), &[], b"v");
                    assert_eq!(put.status, 200);
                    assert_eq!(server.request(&format!("GET {item}{n}"), &[], b"").body, b"v");
                });
            }
        });
    };
    used();
    frozen.store(true, Ordering::Relaxed);
    let start = Instant::now();
    used();
    let took = start.elapsed();
    assert!(took < Duration::from_secs(25), "{took:?}");
    assert!(took > Duration::from_secs(1), "nobody used the way that was frozen: {took:?}");
    assert!(!stands.load(Ordering::Relaxed));
    // A new one finds its way past it.
    let fresh = Server::postgres(&url);
    assert_eq!(fresh.request(&format!("GET {item}1"), &[], b"").body, b"v");
    assert!(fresh.startup_time < Duration::from_secs(8), "{:?}", fresh.startup_time);
    frozen.store(false, Ordering::Relaxed);
}

/// What a server says that does not start.
fn refused(arguments: &[&str], token: bool) -> String {
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
fn wrong_engines_are_refused_in_words_and_without_their_password() {
    let url = "postgres://user:secret-word@127.0.0.1:1/kv";
    assert!(refused(&["--engine", url], false).contains("set STEADFAST_TOKEN"));
    for (arguments, says) in [
        (vec!["--engine", "mysql://user:secret-word@h/kv"], "begins with postgres://"),
        (vec!["--engine", "postgres://user:secret-word@h:port/kv"], "cannot be read"),
        (vec!["--engine", url, "--memory"], "cannot be used with"),
        (vec!["--engine", url, "--max-value", "1000000000"], "--max-value must be at most"),
    ] {
        let said = refused(&arguments, true);
        assert!(said.contains(says) && !said.contains("secret-word"), "{said}");
    }
}
