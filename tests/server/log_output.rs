//! Tests of a server that cannot write its log or banner: it keeps serving requests without delay.

use crate::support::{Server, TOKEN, binary, run};
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Number of requests whose debug log lines together exceed the capacity of a pipe.
const REQUESTS: usize = 2000;

fn serve(flags: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.args(["serve", "--memory", "--listen", "127.0.0.1:0"]).args(flags);
    command.env("STEADFAST_TOKEN", TOKEN);
    command
}

/// Sends [`REQUESTS`] requests and returns the total number of dropped log lines.
fn dropped_lines(server: &Server) -> u64 {
    let mut client = server.connect();
    for _ in 0..REQUESTS {
        assert_eq!(client.get("/healthz").unwrap().status, 200);
    }
    let metrics = server.get("/metrics").text();
    let line = metrics.lines().find(|line| line.starts_with("steadfast_log_lines_dropped_total "));
    line.unwrap().rsplit(' ').next().unwrap().parse().unwrap()
}

fn expect_clean_shutdown(mut server: Server) {
    server.terminate();
    let status = server.wait_for_exit(Duration::from_secs(15));
    assert!(status.is_some_and(|status| status.success()), "{status:?}");
}

#[test]
fn a_server_with_a_full_log_device_serves_requests() {
    let mut command = serve(&["--log", "debug"]);
    command.stderr(File::options().write(true).open("/dev/full").unwrap());
    let server = Server::spawn(command);
    let end = Instant::now() + Duration::from_secs(30);
    while dropped_lines(&server) < REQUESTS as u64 {
        assert!(Instant::now() < end, "no dropped log lines were counted");
    }
    expect_clean_shutdown(server);
}

#[test]
fn a_server_with_a_closed_log_pipe_serves_requests() {
    let (reader, writer) = std::io::pipe().unwrap();
    let mut command = serve(&["--log", "debug"]);
    command.stderr(writer);
    let server = Server::spawn(command);
    drop(reader);
    let end = Instant::now() + Duration::from_secs(30);
    while dropped_lines(&server) < REQUESTS as u64 {
        assert!(Instant::now() < end, "no dropped log lines were counted");
    }
    expect_clean_shutdown(server);
}

#[test]
fn a_server_with_an_unread_log_pipe_serves_requests() {
    let (mut reader, writer) = std::io::pipe().unwrap();
    let mut command = serve(&["--log", "debug"]);
    command.stderr(writer);
    let server = Server::spawn(command);
    let end = Instant::now() + Duration::from_secs(60);
    // The queue has a capacity of 1 MiB. When it is full, lines are dropped.
    while dropped_lines(&server) == 0 {
        assert!(Instant::now() < end, "no log lines were dropped");
    }
    expect_clean_shutdown(server);
    let mut log = String::new();
    reader.read_to_string(&mut log).unwrap();
    assert!(log.contains("server ready"), "{log}");
}

#[test]
fn a_server_that_cannot_print_its_banner_keeps_running() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let mut command = serve(&[]);
    command.stdout(File::options().write(true).open("/dev/full").unwrap());
    command.stderr(File::create(&log).unwrap());
    let mut child = command.spawn().unwrap();
    let end = Instant::now() + Duration::from_secs(30);
    let log = || fs::read_to_string(&log).unwrap();
    while !(log().contains("server ready") && log().contains("could not print")) {
        assert!(Instant::now() < end && child.try_wait().unwrap().is_none(), "{}", log());
        std::thread::sleep(Duration::from_millis(20));
    }
    Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    assert!(child.wait().unwrap().success());
}

#[test]
fn every_line_of_output_is_json_with_the_json_log_format() {
    let dir = tempfile::tempdir().unwrap();
    let output = |name: &str| File::create(dir.path().join(name)).unwrap();
    let mut command = serve(&["--log-format", "json"]);
    command.stdout(output("out")).stderr(output("err"));
    let mut child = command.spawn().unwrap();
    let read = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
    let end = Instant::now() + Duration::from_secs(30);
    while !(read("out").ends_with('\n') && read("err").contains("server ready")) {
        assert!(Instant::now() < end && child.try_wait().unwrap().is_none(), "{}", read("err"));
        std::thread::sleep(Duration::from_millis(20));
    }
    Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    assert!(child.wait().unwrap().success());
    let lines = |name: &str| -> Vec<serde_json::Value> {
        read(name).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let (out, err) = (lines("out"), lines("err"));
    assert!(out.len() == 1 && out[0]["url"].as_str().unwrap().starts_with("http://"), "{out:?}");
    assert!(err.iter().any(|line| line["message"] == "server stopped"), "{err:?}");
    let mut failing = serve(&["--log-format", "json", "--tls-cert", "/none", "--tls-key", "/none"]);
    let failed = run(failing.stdin(Stdio::null())).expect_exit(1);
    for line in failed.err.lines() {
        serde_json::from_str::<serde_json::Value>(line).unwrap();
    }
}

#[test]
fn listening_on_a_public_address_without_tls_logs_a_warning() {
    let dir = tempfile::tempdir().unwrap();
    let warned = |address: &str, path: &Path| {
        let mut command = Command::new(binary());
        command.args(["serve", "--memory", "--listen", address, "--public"]);
        command.env("STEADFAST_TOKEN", TOKEN).stderr(File::create(path).unwrap());
        expect_clean_shutdown(Server::spawn(command));
        fs::read_to_string(path).unwrap().contains("unencrypted")
    };
    assert!(warned("0.0.0.0:0", &dir.path().join("public")));
    assert!(!warned("127.0.0.1:0", &dir.path().join("local")));
}
