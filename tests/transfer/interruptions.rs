//! Tests of interrupted transfers. An import that was killed, interrupted or disconnected can be
//! resumed, and an export that is cut off leaves no file.

use crate::proxy::{self, Faults};
use crate::support::{CommandOutput, DiskServer, Server};
use crate::{command, export, numbered_lines, pipe, run};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Returns the number of acknowledged items in a resume file, or 0 if there is no such file.
fn acknowledged(state: &Path) -> u64 {
    let Ok(text) = fs::read(state) else { return 0 };
    let json: serde_json::Value = serde_json::from_slice(&text).unwrap();
    json["acknowledged"].as_u64().unwrap()
}

#[test]
fn a_killed_import_can_be_resumed_until_it_is_complete() {
    let disk = DiskServer::new(&[]);
    let dir = tempfile::tempdir().unwrap();
    let text = numbered_lines(12_000, 1000);
    fs::write(dir.path().join("in.ndjson"), &text).unwrap();
    disk.server.create_store("s");
    // The delay ensures that the import is still running when it is killed.
    let faults = Faults { write_delay: Duration::from_millis(20), ..Faults::default() };
    let port = proxy::start(disk.server.port, &faults);
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
            break CommandOutput::from(import.wait_with_output().unwrap());
        }
        import.kill().unwrap();
        import.wait().unwrap();
        kills += 1;
    };
    println!("killed {kills} times");
    assert!(kills > 1, "the import was killed only {kills} times");
    let last = last.expect_exit(0);
    let summary: serde_json::Value = serde_json::from_str(last.text().trim()).unwrap();
    assert_eq!((summary["failed"].as_u64(), summary["complete"].as_bool()), (Some(0), Some(true)));
    let total = summary["written"].as_u64().unwrap() + summary["skipped"].as_u64().unwrap();
    assert_eq!(total, 12_000, "{summary}");
    assert!(export(&disk.server, "s") == text, "the store differs from the input");
    assert!(!dir.path().join("in.ndjson.resume").exists());
}

#[test]
fn an_interrupted_import_saves_its_progress_and_can_be_resumed() {
    let server = Server::memory(&[]);
    let dir = tempfile::tempdir().unwrap();
    let text = numbered_lines(8000, 1000);
    fs::write(dir.path().join("in.ndjson"), &text).unwrap();
    server.create_store("s");
    let faults = Faults { write_delay: Duration::from_millis(150), ..Faults::default() };
    let port = proxy::start(server.port, &faults);
    let args = ["import", "s", "in.ndjson", "-j", "1", "--if-exists", "fail"];
    let mut import = command(port, dir.path(), &args);
    let import = import.stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let state = dir.path().join("in.ndjson.resume");
    while acknowledged(&state) == 0 {
        std::thread::sleep(Duration::from_millis(5));
    }
    let pid = import.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    let output = CommandOutput::from(import.wait_with_output().unwrap()).expect_exit(130);
    output.assert_err("interrupted");
    output.assert_err("--resume");
    let (done, stored) = (acknowledged(&state), export(&server, "s").lines().count() as u64);
    assert!(done > 0 && done < 8000);
    assert_eq!(done, stored, "the requests in flight were not completed and counted");

    // A resume file is refused if the arguments differ.
    let other = ["import", "s", "in.ndjson", "--resume"];
    let output = run(server.port, dir.path(), &other).expect_exit(1);
    output.assert_err("another");
    let resumed = [&args[..], &["--resume"]].concat();
    let output = run(port, dir.path(), &resumed).expect_exit(0);
    output.assert_err(&format!("resuming after {done} items"));
    output.assert_err("imported 8000 items, 0 skipped, 0 failed");
    assert!(export(&server, "s") == text);
    assert!(!state.exists());
}

#[test]
fn rejected_and_unanswered_requests_are_retried() {
    let server = Server::memory(&[]);
    let dir = tempfile::tempdir().unwrap();
    let text = numbered_lines(12_000, 1000);
    fs::write(dir.path().join("in.ndjson"), &text).unwrap();
    server.create_store("s");
    let faults = Faults { reject_every: 3, drop_response_every: 4, ..Faults::default() };
    let port = proxy::start(server.port, &faults);
    let output =
        run(port, dir.path(), &["import", "s", "in.ndjson", "--if-exists", "fail"]).expect_exit(0);
    output.assert_err("0 failed");
    assert!(faults.writes() > 8, "{}", faults.writes());
    assert!(export(&server, "s") == text);
}

#[test]
fn an_import_that_loses_its_server_fails_and_keeps_its_resume_file() {
    let dir = tempfile::tempdir().unwrap();
    let text = numbered_lines(6000, 1000);
    fs::write(dir.path().join("in.ndjson"), &text).unwrap();
    let mut disk = DiskServer::new(&[]);
    disk.server.create_store("s");
    let faults = Faults { write_delay: Duration::from_millis(100), ..Faults::default() };
    let port = proxy::start(disk.server.port, &faults);
    let mut import = command(port, dir.path(), &["import", "s", "in.ndjson", "-j", "1"]);
    let import = import.stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let state = dir.path().join("in.ndjson.resume");
    while acknowledged(&state) == 0 {
        std::thread::sleep(Duration::from_millis(5));
    }
    disk.kill_and_restart(&[]);
    // The proxy still forwards to the old port.
    let output = CommandOutput::from(import.wait_with_output().unwrap()).expect_exit(6);
    output.assert_err("run the same command again with --resume");
    assert!(acknowledged(&state) < 6000);
    // The resume file names the endpoint, but the restarted server has another port.
    let saved = fs::read_to_string(&state).unwrap();
    let moved = saved.replace(&format!(":{port}\""), &format!(":{}\"", disk.server.port));
    fs::write(&state, moved).unwrap();
    let resumed = ["import", "s", "in.ndjson", "--resume"];
    run(disk.server.port, dir.path(), &resumed).expect_exit(0);
    assert!(export(&disk.server, "s") == text);
}

#[test]
fn a_truncated_export_leaves_no_file() {
    let server = Server::memory(&[]);
    let dir = tempfile::tempdir().unwrap();
    let input = numbered_lines(2000, 1000);
    pipe(server.port, dir.path(), &["import", "s", "-", "--create"], input.as_bytes())
        .expect_exit(0);
    let port =
        proxy::start(server.port, &Faults { truncate_after: 1_000_000, ..Faults::default() });
    for args in [
        &["export", "s", "-o", "out.ndjson"][..],
        &["export", "s", "-o", "out.ndjson.zst"],
        &["export", "s", "--to", "viceroy", "out"],
    ] {
        let output = run(port, dir.path(), args).expect_exit(6);
        output.assert_err("lost the connection");
    }
    let files: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|f| f.unwrap().file_name()).collect();
    assert!(files.is_empty() || files == ["out"], "{files:?}");
    let entries = fs::read_dir(dir.path().join("out")).map(Iterator::count).unwrap_or(0);
    assert_eq!(entries, 0, "the directory is not empty");
    assert_eq!(run(port, dir.path(), &["export", "s"]).code, 6, "an export to a pipe did not fail");
}
