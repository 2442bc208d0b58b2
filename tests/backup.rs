//! Backups and their way back, by the commands, against real servers.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test may panic"
)]

mod support;

use std::collections::HashMap;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use support::{Home, Server, TOKEN, binary};

fn steadfast(args: &[&str]) -> Output {
    let mut command = Command::new(binary());
    command.args(args).env("FASTLY_API_TOKEN", TOKEN);
    command.env_remove("STEADFAST_DATA").env_remove("FASTLY_API_ENDPOINT");
    command.output().unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn done(output: &Output) -> String {
    let say = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{say}{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn export(server: &Server, id: &str) -> String {
    let answer = server.ask(&format!("GET /_/v1/stores/{id}/export"), &[], b"");
    assert_eq!(answer.status, 200);
    answer.text()
}

fn put(server: &Server, id: &str, key: &str, fields: &[(&str, &str)], value: &[u8]) {
    let path = format!("PUT /resources/stores/kv/{id}/keys/{key}");
    assert_eq!(server.ask(&path, fields, value).status, 200, "{key}");
}

#[test]
fn a_backup_comes_back_as_it_was_running_or_not() {
    let home = Home::new(&[]);
    let id = home.server.store("site");
    put(&home.server, &id, "plain", &[("metadata", "m\u{e9}")], b"value");
    put(&home.server, &id, "empty", &[], b"");
    put(&home.server, &id, "short", &[("time_to_live_sec", "86400")], &[1; 3000]);
    put(&home.server, &id, "large", &[], &vec![3; 25 << 20]);
    put(&home.server, &id, "middle", &[], &vec![4; 300_000]);
    let token =
        home.server.ask("POST /_/v1/tokens", &[], br#"{"name":"ci","scope":"global:read"}"#);
    let token = token.json()["access_token"].as_str().unwrap().to_owned();
    let (before, data) = (export(&home.server, &id), home.data());
    let files = tempfile::tempdir().unwrap();
    let (running, stopped) = (files.path().join("a.backup.zst"), files.path().join("b.backup"));
    done(&steadfast(&["backup", "--data", text(&data), "-o", text(&running)]));
    // What is there is not replaced unawares.
    let again = steadfast(&["backup", "--data", text(&data), "-o", text(&running)]);
    assert_eq!(again.status.code(), Some(4));
    let Home { mut server, .. } = home_parts(home, |home| {
        home.server.terminate();
        assert!(home.server.ended(Duration::from_secs(10)).unwrap().success());
        done(&steadfast(&["backup", "--data", text(&data), "-o", text(&stopped)]));
    });
    server.kill();
    assert!(std::fs::metadata(&running).unwrap().len() < 100_000, "compressed");
    for (file, to) in [(&running, "one"), (&stopped, "two")] {
        let said = done(&steadfast(&["check", "--backup", text(file)]));
        assert_eq!(said, "1 stores, 5 items: no problems found\n");
        let to = files.path().join(to);
        let told = done(&steadfast(&["restore", text(file), "--data", text(&to), "--json"]));
        assert_eq!(told, "{\"items\":5,\"stores\":1}\n");
        let twice = steadfast(&["restore", text(file), "--data", text(&to)]);
        assert_eq!(twice.status.code(), Some(1), "it is not empty any more");
        let said = done(&steadfast(&["check", "--data", text(&to)]));
        assert!(
            said.starts_with("1 stores, 5 items") && said.ends_with("no problems found\n"),
            "{said}"
        );
        let server = Server::start(&to, &[]);
        assert!(export(&server, &id) == before, "generations, times and all");
        let put = server.ask(&format!("PUT /resources/stores/kv/{id}/keys/plain"), &[], b"new");
        assert!(before.lines().all(|line| {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            line["generation"].as_u64().unwrap() < put.generation()
        }));
        let mut client = server.connect();
        let list =
            format!("GET /resources/stores/kv HTTP/1.1\r\nHost: t\r\nFastly-Key: {token}\r\n\r\n");
        client.send(list).unwrap();
        assert_eq!(client.answer(false).unwrap().status, 200, "limited tokens come back too");
    }
}

/// Works with a home and hands it on.
fn home_parts(mut home: Home, work: impl FnOnce(&mut Home)) -> Home {
    work(&mut home);
    home
}

/// A write: when it was sent, and when its answer was there.
type Sent = (Instant, Instant);

/// Writes under keys of its own until it is told to stop.
fn write_on(server: &Server, id: &str, writer: usize, stop: &AtomicBool) -> HashMap<String, Sent> {
    let (mut client, mut all) = (server.connect(), HashMap::new());
    for n in 0.. {
        let key = format!("{writer}-{n:06}");
        let sent = Instant::now();
        // Some of them are large, and so of another kind.
        let value = vec![b'x'; if n % 50 == 7 { 300_000 } else { 700 }];
        let path = format!("PUT /resources/stores/kv/{id}/keys/{key}");
        assert_eq!(client.ask(&path, &[], &value).unwrap().status, 200);
        all.insert(key, (sent, Instant::now()));
        if stop.load(Ordering::Relaxed) {
            return all;
        }
    }
    all
}

#[test]
fn a_backup_beside_writes_is_of_one_moment() {
    let home = Home::new(&["--wal-bytes", "4194304"]);
    let id = home.server.store("site");
    let (stop, files) = (AtomicBool::new(false), tempfile::tempdir().unwrap());
    let (server, data) = (&home.server, home.data());
    let (journal, backups) = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..8)
            .map(|writer| {
                scope.spawn({
                    let (stop, id) = (&stop, &id);
                    move || write_on(server, id, writer, stop)
                })
            })
            .collect();
        let mut backups = Vec::new();
        for n in 0..4 {
            std::thread::sleep(Duration::from_millis(700));
            let file = files.path().join(format!("{n}.backup"));
            let begun = Instant::now();
            done(&steadfast(&["backup", "--data", text(&data), "-o", text(&file)]));
            backups.push((file, begun, Instant::now()));
        }
        stop.store(true, Ordering::Relaxed);
        let journal: HashMap<String, Sent> =
            writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect();
        (journal, backups)
    });
    for (file, begun, ended) in backups {
        let to = file.with_extension("data");
        done(&steadfast(&["restore", text(&file), "--data", text(&to)]));
        done(&steadfast(&["check", "--data", text(&to)]));
        let restored = Server::start(&to, &[]);
        let there: Vec<String> = export(&restored, &id)
            .lines()
            .map(|line| {
                let line: serde_json::Value = serde_json::from_str(line).unwrap();
                line["key"].as_str().unwrap().to_owned()
            })
            .collect();
        let there: std::collections::HashSet<_> = there.iter().map(String::as_str).collect();
        // All that was answered before a write that is there was sent must be there too.
        let last_sent = there.iter().map(|key| journal[*key].0).max().unwrap();
        let absent = journal.iter().filter(|(key, _)| !there.contains(key.as_str()));
        for (key, (_, answered)) in absent {
            assert!(*answered > last_sent, "{key} was answered before, and is not there");
            assert!(*answered > begun, "{key} was answered before the backup began");
        }
        assert!(last_sent < ended && there.len() > 50, "{}", there.len());
        println!("{} of {} writes are in it", there.len(), journal.len());
    }
}

#[test]
fn a_backup_that_is_damaged_or_cut_is_reported_and_never_served() {
    let home = Home::new(&[]);
    let id = home.server.store("site");
    for n in 0..50 {
        put(&home.server, &id, &format!("k{n}"), &[], &vec![n; 400 * usize::from(n)]);
    }
    put(&home.server, &id, "large", &[], &vec![7; 700_000]);
    let files = tempfile::tempdir().unwrap();
    let file = files.path().join("whole");
    done(&steadfast(&["backup", "--data", text(&home.data()), "-o", text(&file)]));
    let whole = std::fs::read(&file).unwrap();
    let (bad, to) = (files.path().join("bad"), files.path().join("data"));
    let step = whole.len() / 97;
    let mut seen = 0;
    for at in (0..whole.len()).step_by(step) {
        let mut flipped = whole.clone();
        flipped[at] ^= 0x10;
        for bytes in [&flipped[..], &whole[..at]] {
            std::fs::write(&bad, bytes).unwrap();
            let checked = steadfast(&["check", "--backup", text(&bad)]);
            let code = checked.status.code();
            assert!(code == Some(1) || (at < 8 && code == Some(2)), "{at}: {checked:?}");
            seen += 1;
        }
    }
    assert!(seen > 150);
    std::fs::write(&bad, [&whole[..], b"x"].concat()).unwrap();
    assert_eq!(steadfast(&["check", "--backup", text(&bad)]).status.code(), Some(1));
    std::fs::write(&bad, &whole[..whole.len() / 2]).unwrap();
    let cut = steadfast(&["restore", text(&bad), "--data", text(&to)]);
    assert_eq!(cut.status.code(), Some(1));
    let served = steadfast(&["serve", "--data", text(&to), "--listen", "127.0.0.1:0"]);
    assert_eq!(served.status.code(), Some(1), "what is not whole is not served");
    let said = String::from_utf8_lossy(&served.stderr).into_owned();
    assert!(said.contains("unfinished"), "{said}");
    let again = steadfast(&["restore", text(&file), "--data", text(&to)]);
    assert_eq!(again.status.code(), Some(1), "nor is it filled again");
    // What is no backup leaves nothing, and what is there already is left alone.
    let other = files.path().join("other");
    std::fs::write(&bad, "{\"key\":\"a\",\"value\":\"\"}\n").unwrap();
    assert_eq!(steadfast(&["restore", text(&bad), "--data", text(&other)]).status.code(), Some(1));
    assert!(!other.exists());
    std::fs::create_dir(&other).unwrap();
    std::fs::write(other.join("index.html"), "a site").unwrap();
    assert_eq!(steadfast(&["restore", text(&file), "--data", text(&other)]).status.code(), Some(1));
    assert_eq!(std::fs::read_dir(&other).unwrap().count(), 1);
    // Whoever names another server does not get this directory's backup.
    let elsewhere = ["--endpoint", "http://127.0.0.1:1", "-o", text(&bad), "--force"];
    let data = home.data();
    let wrong = [&["backup", "--data", text(&data)][..], &elsewhere].concat();
    assert_eq!(steadfast(&wrong).status.code(), Some(2));
    let unreached = [&["backup", "--online"][..], &elsewhere].concat();
    assert_eq!(steadfast(&unreached).status.code(), Some(6));
    let none = files.path().join("nothing");
    let missing = steadfast(&["backup", "--data", text(&none), "-o", text(&bad), "--force"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(!none.exists(), "a directory that is not there is not made");
}
