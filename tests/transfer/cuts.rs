//! Imports that are killed, interrupted or refused, and go on.

use crate::between::{Ways, between};
use crate::support::{Home, Server};
use crate::{command, exported, many, run};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How far an import has come by its state.
fn acknowledged(state: &Path) -> u64 {
    let Ok(text) = fs::read(state) else { return 0 };
    let json: serde_json::Value = serde_json::from_slice(&text).unwrap();
    json["acknowledged"].as_u64().unwrap()
}

#[test]
fn an_import_that_is_killed_at_random_goes_on_and_ends_complete() {
    let home = Home::new(&[]);
    let dir = tempfile::tempdir().unwrap();
    let text = many(12_000, 1000);
    fs::write(dir.path().join("in.ndjson"), &text).unwrap();
    home.server.store("s");
    // Slow enough that each run is killed within it, at some point or other.
    let ways = Ways { slow: Duration::from_millis(20), ..Ways::default() };
    let port = between(home.server.port, &ways);
    let args = ["import", "s", "in.ndjson", "--resume", "--if-exists", "fail", "-j", "3", "--json"];
    let mut random = [0; 1];
    let mut kills = 0;
    let last = loop {
        getrandom::fill(&mut random).unwrap();
        let mut import = command(port, dir.path(), &args);
        let mut import = import.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let until = Instant::now() + Duration::from_millis(30 + u64::from(random[0]) / 2);
        while kills < 12 && Instant::now() < until && import.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(2));
        }
        if kills >= 12 || import.try_wait().unwrap().is_some() {
            break crate::Done::of(&import.wait_with_output().unwrap());
        }
        import.kill().unwrap();
        import.wait().unwrap();
        kills += 1;
    };
    println!("killed {kills} times");
    assert!(kills > 1, "it was killed {kills} times");
    let last = last.ends(0);
    let told: serde_json::Value = serde_json::from_str(last.out.trim()).unwrap();
    assert_eq!((told["failed"].as_u64(), told["complete"].as_bool()), (Some(0), Some(true)));
    let all = told["written"].as_u64().unwrap() + told["skipped"].as_u64().unwrap();
    assert_eq!(all, 12_000, "{told}");
    assert!(exported(&home.server, "s") == text, "all is there, once, unchanged");
    assert!(!dir.path().join("in.ndjson.resume").exists());
}

#[test]
fn an_interrupted_import_keeps_its_state_and_says_how_to_go_on() {
    let server = Server::memory(&[]);
    let dir = tempfile::tempdir().unwrap();
    let text = many(8000, 1000);
    fs::write(dir.path().join("in.ndjson"), &text).unwrap();
    server.store("s");
    let slow = Ways { slow: Duration::from_millis(150), ..Ways::default() };
    let port = between(server.port, &slow);
    let args = ["import", "s", "in.ndjson", "-j", "1", "--if-exists", "fail"];
    let mut import = command(port, dir.path(), &args);
    let import = import.stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let state = dir.path().join("in.ndjson.resume");
    while acknowledged(&state) == 0 {
        std::thread::sleep(Duration::from_millis(5));
    }
    let pid = import.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    let told = crate::Done::of(&import.wait_with_output().unwrap()).ends(130);
    assert!(told.err.contains("interrupted") && told.err.contains("--resume"), "{}", told.err);
    let (done, there) = (acknowledged(&state), exported(&server, "s").lines().count() as u64);
    assert!(done > 0 && done < 8000);
    assert_eq!(done, there, "what was under way was finished, and counted");

    // Of another input, or with another intent, it does not go on.
    let other = ["import", "s", "in.ndjson", "--resume"];
    let told = run(server.port, dir.path(), &other).ends(1);
    assert!(told.err.contains("another"), "{}", told.err);
    let resumed = [&args[..], &["--resume"]].concat();
    let told = run(port, dir.path(), &resumed).ends(0);
    assert!(told.err.contains(&format!("the first {done} items are done")), "{}", told.err);
    assert!(told.err.contains("8000 written, 0 skipped, 0 failed"), "{}", told.err);
    assert!(exported(&server, "s") == text);
    assert!(!state.exists());
}

#[test]
fn requests_that_are_refused_or_lose_their_answer_are_sent_again() {
    let server = Server::memory(&[]);
    let dir = tempfile::tempdir().unwrap();
    let text = many(12_000, 1000);
    fs::write(dir.path().join("in.ndjson"), &text).unwrap();
    server.store("s");
    let ways = Ways { busy: 3, lost: 4, ..Ways::default() };
    let port = between(server.port, &ways);
    let told = run(port, dir.path(), &["import", "s", "in.ndjson", "--if-exists", "fail"]).ends(0);
    assert!(told.err.contains("0 failed"), "{}", told.err);
    assert!(ways.writes() > 8, "{}", ways.writes());
    assert!(exported(&server, "s") == text);
}

#[test]
fn a_server_that_stays_away_ends_an_import_with_its_state_kept() {
    let dir = tempfile::tempdir().unwrap();
    let text = many(6000, 1000);
    fs::write(dir.path().join("in.ndjson"), &text).unwrap();
    let mut home = Home::new(&[]);
    home.server.store("s");
    let slow = Ways { slow: Duration::from_millis(100), ..Ways::default() };
    let port = between(home.server.port, &slow);
    let mut import = command(port, dir.path(), &["import", "s", "in.ndjson", "-j", "1"]);
    let import = import.stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let state = dir.path().join("in.ndjson.resume");
    while acknowledged(&state) == 0 {
        std::thread::sleep(Duration::from_millis(5));
    }
    home.crash(&[]);
    // The way to the server that is gone stays cut.
    let told = crate::Done::of(&import.wait_with_output().unwrap()).ends(6);
    assert!(told.err.contains("--resume goes on"), "{}", told.err);
    assert!(acknowledged(&state) < 6000);
    // The state names the server, whose port is another one now.
    let kept = fs::read_to_string(&state).unwrap();
    let now = kept.replace(&format!(":{port}\""), &format!(":{}\"", home.server.port));
    fs::write(&state, now).unwrap();
    let resumed = ["import", "s", "in.ndjson", "--resume"];
    run(home.server.port, dir.path(), &resumed).ends(0);
    assert!(exported(&home.server, "s") == text);
}

#[test]
fn an_export_that_is_cut_leaves_no_file() {
    let server = Server::memory(&[]);
    let dir = tempfile::tempdir().unwrap();
    let input = many(2000, 1000);
    crate::fed(server.port, dir.path(), &["import", "s", "-", "--create"], input.as_bytes())
        .ends(0);
    let port = between(server.port, &Ways { cut: 1_000_000, ..Ways::default() });
    for args in [
        &["export", "s", "-o", "out.ndjson"][..],
        &["export", "s", "-o", "out.ndjson.zst"],
        &["export", "s", "--to", "viceroy", "seed"],
    ] {
        let told = run(port, dir.path(), args).ends(6);
        assert!(told.err.contains("was cut"), "{}", told.err);
    }
    let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|f| f.unwrap().file_name()).collect();
    assert!(left.is_empty() || left == ["seed"], "{left:?}");
    let seed = fs::read_dir(dir.path().join("seed")).map(Iterator::count).unwrap_or(0);
    assert_eq!(seed, 0, "the folder is empty");
    assert_eq!(run(port, dir.path(), &["export", "s"]).code, 6, "a pipe is told too");
}
