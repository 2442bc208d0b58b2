//! Tests of `steadfast backup`, `restore` and `check --backup` against real servers.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests may panic")]
#![allow(clippy::disallowed_methods, reason = "tests may read the environment")]

mod support;

use bytes::Bytes;
use std::collections::HashMap;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use steadfast::engine::embedded::{Embedded, FatalErrorHandler, Options};
use steadfast::engine::{Commit, Engine, Mutation, NewRecord, Outcome, Projection, Record};
use support::{DiskServer, Server, TOKEN, binary};

fn steadfast(args: &[&str]) -> Output {
    let mut command = Command::new(binary());
    command.args(args).env("FASTLY_API_TOKEN", TOKEN);
    command.env_remove("STEADFAST_DATA").env_remove("FASTLY_API_ENDPOINT");
    command.output().unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Checks that a command succeeded; returns the standard output.
fn succeed(output: &Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn export(server: &Server, id: &str) -> String {
    let response = server.get(&format!("/_/v1/stores/{id}/export"));
    assert_eq!(response.status, 200);
    response.text()
}

fn put(server: &Server, id: &str, key: &str, headers: &[(&str, &str)], value: &[u8]) {
    let path = format!("PUT /resources/stores/kv/{id}/keys/{key}");
    assert_eq!(server.request(&path, headers, value).status, 200, "{key}");
}

#[test]
fn a_backup_of_a_running_or_stopped_server_restores_everything() {
    let mut disk = DiskServer::new(&[]);
    let id = disk.server.create_store("site");
    put(&disk.server, &id, "plain", &[("metadata", "m\u{e9}")], b"value");
    put(&disk.server, &id, "empty", &[], b"");
    put(&disk.server, &id, "short", &[("time_to_live_sec", "86400")], &[1; 3000]);
    put(&disk.server, &id, "large", &[], &vec![3; 25 << 20]);
    put(&disk.server, &id, "middle", &[], &vec![4; 1_300_000]);
    let token =
        disk.server.request("POST /_/v1/tokens", &[], br#"{"name":"ci","scope":"global:read"}"#);
    let token = token.json()["access_token"].as_str().unwrap().to_owned();
    let (before, data) = (export(&disk.server, &id), disk.data());
    let files = tempfile::tempdir().unwrap();
    let (running, stopped) = (files.path().join("a.backup.zst"), files.path().join("b.backup"));
    succeed(&steadfast(&["backup", "--data", text(&data), "-o", text(&running)]));
    // Without --force, a backup must not overwrite an existing file.
    let repeated = steadfast(&["backup", "--data", text(&data), "-o", text(&running)]);
    assert_eq!(repeated.status.code(), Some(4));
    disk.server.terminate();
    assert!(disk.server.wait_for_exit(Duration::from_secs(10)).unwrap().success());
    succeed(&steadfast(&["backup", "--data", text(&data), "-o", text(&stopped)]));
    disk.server.kill();
    assert!(std::fs::metadata(&running).unwrap().len() < 100_000, "the backup is not compressed");
    for (file, to) in [(&running, "one"), (&stopped, "two")] {
        let message = succeed(&steadfast(&["check", "--backup", text(file)]));
        assert_eq!(message, "1 store, 5 items: no problems found\n");
        let to = files.path().join(to);
        let output = succeed(&steadfast(&["restore", text(file), "--data", text(&to), "--json"]));
        assert_eq!(output, "{\"items\":5,\"stores\":1}\n");
        let repeated = steadfast(&["restore", text(file), "--data", text(&to)]);
        assert_eq!(
            repeated.status.code(),
            Some(1),
            "a restore into a non-empty directory must fail"
        );
        let message = succeed(&steadfast(&["check", "--data", text(&to)]));
        assert!(
            message.starts_with("1 store, 5 items") && message.ends_with("no problems found\n"),
            "{message}"
        );
        let server = Server::start(&to, &[]);
        assert!(export(&server, &id) == before, "the restored items differ");
        let put = server.request(&format!("PUT /resources/stores/kv/{id}/keys/plain"), &[], b"new");
        assert!(before.lines().all(|line| {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            line["generation"].as_u64().unwrap() < put.generation()
        }));
        let mut client = server.connect();
        let list =
            format!("GET /resources/stores/kv HTTP/1.1\r\nHost: t\r\nFastly-Key: {token}\r\n\r\n");
        client.send(list).unwrap();
        assert_eq!(
            client.read_response(false).unwrap().status,
            200,
            "the limited token was not restored"
        );
    }
}

/// The times at which a write was sent and acknowledged.
type WriteTimes = (Instant, Instant);

/// Until `stop` is set, writes keys that no other writer uses.
fn write_until_stopped(
    server: &Server,
    id: &str,
    writer: usize,
    stop: &AtomicBool,
) -> HashMap<String, WriteTimes> {
    let (mut client, mut all) = (server.connect(), HashMap::new());
    for n in 0.. {
        let key = format!("{writer}-{n:06}");
        let sent = Instant::now();
        // Some values are large enough to be stored in blob files.
        let value = vec![b'x'; if n % 50 == 7 { 1_100_000 } else { 700 }];
        let path = format!("PUT /resources/stores/kv/{id}/keys/{key}");
        assert_eq!(client.request(&path, &[], &value).unwrap().status, 200);
        all.insert(key, (sent, Instant::now()));
        if stop.load(Ordering::Relaxed) {
            return all;
        }
    }
    all
}

#[test]
fn a_backup_during_writes_is_a_consistent_snapshot() {
    let disk = DiskServer::new(&["--wal-bytes", "4194304"]);
    let id = disk.server.create_store("site");
    let (stop, files) = (AtomicBool::new(false), tempfile::tempdir().unwrap());
    let (server, data) = (&disk.server, disk.data());
    let (journal, backups) = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..8)
            .map(|writer| {
                scope.spawn({
                    let (stop, id) = (&stop, &id);
                    move || write_until_stopped(server, id, writer, stop)
                })
            })
            .collect();
        let mut backups = Vec::new();
        for n in 0..4 {
            std::thread::sleep(Duration::from_millis(700));
            let file = files.path().join(format!("{n}.backup"));
            let started = Instant::now();
            succeed(&steadfast(&["backup", "--data", text(&data), "-o", text(&file)]));
            backups.push((file, started, Instant::now()));
        }
        stop.store(true, Ordering::Relaxed);
        let journal: HashMap<String, WriteTimes> =
            writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect();
        (journal, backups)
    });
    for (file, started, finished) in backups {
        let to = file.with_extension("data");
        succeed(&steadfast(&["restore", text(&file), "--data", text(&to)]));
        succeed(&steadfast(&["check", "--data", text(&to)]));
        let restored = Server::start(&to, &[]);
        let present: Vec<String> = export(&restored, &id)
            .lines()
            .map(|line| {
                let line: serde_json::Value = serde_json::from_str(line).unwrap();
                line["key"].as_str().unwrap().to_owned()
            })
            .collect();
        let present: std::collections::HashSet<_> = present.iter().map(String::as_str).collect();
        // For each write in the backup, the backup must also contain all writes acknowledged before
        // that write was sent.
        let last_sent = present.iter().map(|key| journal[*key].0).max().unwrap();
        let absent = journal.iter().filter(|(key, _)| !present.contains(key.as_str()));
        for (key, (_, acknowledged)) in absent {
            assert!(
                *acknowledged > last_sent,
                "{key} is missing, but a later write is in the backup"
            );
            assert!(
                *acknowledged > started,
                "{key} is missing, but was acknowledged before the backup started"
            );
        }
        assert!(last_sent < finished && present.len() > 50, "{}", present.len());
        println!("{} of {} writes are in the backup", present.len(), journal.len());
    }
}

/// Rewrites an item's record with a version above the maximum that servers accept.
async fn write_with_version(data: &Path, key: &str, version: u64) {
    let fatal = FatalErrorHandler::new(|reason| panic!("{reason}"));
    let options = Options { dir: data.into(), cache_bytes: 0, wal_bytes: 1 << 20, fatal };
    let engine = Embedded::open(options).unwrap();
    let key = Bytes::from(key.to_owned());
    let Record { expires_at, meta, body, .. } =
        engine.read(&key, Projection::Full).await.unwrap().unwrap();
    let record = Some(NewRecord { expires_at, meta, body });
    let mutations = vec![Mutation { key, record }];
    let commit = Commit { version_min: version, mutations, ..Commit::default() };
    assert!(matches!(engine.commit(commit).await, Ok(Outcome::Committed(_))));
    engine.close().await.unwrap();
}

#[tokio::test]
async fn generations_above_the_maximum_are_reported_and_not_restored() {
    let mut disk = DiskServer::new(&[]);
    let id = disk.server.create_store("site");
    put(&disk.server, &id, "kept", &[], b"value");
    put(&disk.server, &id, "raised", &[], b"value");
    let kept = disk.server.get(&format!("/resources/stores/kv/{id}/keys/kept")).generation();
    disk.server.terminate();
    assert!(disk.server.wait_for_exit(Duration::from_secs(10)).unwrap().success());
    let (data, key) = (disk.data(), format!("i{id}raised"));
    write_with_version(&data, &key, 1 << 53).await;
    let files = tempfile::tempdir().unwrap();
    let (file, to) = (files.path().join("backup"), files.path().join("restored"));
    succeed(&steadfast(&["backup", "--data", text(&data), "-o", text(&file)]));
    for check in [["--data", text(&data)], ["--backup", text(&file)]] {
        let output = steadfast(&[&["check"], &check[..]].concat());
        let message = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.code(), Some(1), "{message}");
        let problem = format!("record \"{key}\" has generation 9007199254740992, 2^53 or greater");
        assert!(message.starts_with(&problem) && message.ends_with(": 1 problem\n"), "{message}");
    }
    let restored = steadfast(&["restore", text(&file), "--data", text(&to)]);
    succeed(&restored);
    let message = String::from_utf8_lossy(&restored.stderr).into_owned();
    assert!(message.contains("1 item got a new generation"), "{message}");
    succeed(&steadfast(&["check", "--data", text(&to)]));
    let server = Server::start(&to, &[]);
    let get = |key| server.get(&format!("/resources/stores/kv/{id}/keys/{key}"));
    assert_eq!(get("kept").generation(), kept);
    let raised = get("raised");
    assert_eq!(raised.text(), "value");
    assert!((kept..1 << 53).contains(&raised.generation()), "{}", raised.generation());
}

#[test]
fn a_damaged_or_truncated_backup_is_reported_and_never_served() {
    let disk = DiskServer::new(&[]);
    let id = disk.server.create_store("site");
    for n in 0..50 {
        put(&disk.server, &id, &format!("k{n}"), &[], &vec![n; 400 * usize::from(n)]);
    }
    put(&disk.server, &id, "large", &[], &vec![7; 700_000]);
    let files = tempfile::tempdir().unwrap();
    let file = files.path().join("whole");
    succeed(&steadfast(&["backup", "--data", text(&disk.data()), "-o", text(&file)]));
    let original = std::fs::read(&file).unwrap();
    let (bad, to) = (files.path().join("bad"), files.path().join("data"));
    let step = original.len() / 97;
    let mut seen = 0;
    for at in (0..original.len()).step_by(step) {
        let mut flipped = original.clone();
        flipped[at] ^= 0x10;
        for bytes in [&flipped[..], &original[..at]] {
            std::fs::write(&bad, bytes).unwrap();
            let checked = steadfast(&["check", "--backup", text(&bad)]);
            let code = checked.status.code();
            assert!(code == Some(1) || (at < 8 && code == Some(2)), "{at}: {checked:?}");
            seen += 1;
        }
    }
    assert!(seen > 150);
    std::fs::write(&bad, [&original[..], b"x"].concat()).unwrap();
    assert_eq!(steadfast(&["check", "--backup", text(&bad)]).status.code(), Some(1));
    std::fs::write(&bad, &original[..original.len() / 2]).unwrap();
    let truncated = steadfast(&["restore", text(&bad), "--data", text(&to)]);
    assert_eq!(truncated.status.code(), Some(1));
    let served = steadfast(&["serve", "--data", text(&to), "--listen", "127.0.0.1:0"]);
    assert_eq!(served.status.code(), Some(1), "a server must not start on an unfinished restore");
    let message = String::from_utf8_lossy(&served.stderr).into_owned();
    assert!(message.contains("incomplete"), "{message}");
    let repeated = steadfast(&["restore", text(&file), "--data", text(&to)]);
    assert_eq!(
        repeated.status.code(),
        Some(1),
        "a restore must not continue in an unfinished restore"
    );
    // Restoring a file that is not a backup must create nothing and change no existing files.
    let other = files.path().join("other");
    std::fs::write(&bad, "{\"key\":\"a\",\"value\":\"\"}\n").unwrap();
    assert_eq!(steadfast(&["restore", text(&bad), "--data", text(&other)]).status.code(), Some(1));
    assert!(!other.exists());
    std::fs::create_dir(&other).unwrap();
    std::fs::write(other.join("index.html"), "a site").unwrap();
    assert_eq!(steadfast(&["restore", text(&file), "--data", text(&other)]).status.code(), Some(1));
    assert_eq!(std::fs::read_dir(&other).unwrap().count(), 1);
    // --data conflicts with the endpoint of a running server.
    let other_server = ["--endpoint", "http://127.0.0.1:1", "-o", text(&bad), "--force"];
    let data = disk.data();
    let conflicting = [&["backup", "--data", text(&data)][..], &other_server].concat();
    assert_eq!(steadfast(&conflicting).status.code(), Some(2));
    let unreachable = [&["backup", "--online"][..], &other_server].concat();
    assert_eq!(steadfast(&unreachable).status.code(), Some(6));
    let none = files.path().join("nothing");
    let missing = steadfast(&["backup", "--data", text(&none), "-o", text(&bad), "--force"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(!none.exists(), "a missing data directory must not be created");
}
