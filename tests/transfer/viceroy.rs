//! Tests that the local emulator reads an export written for it. The emulator is the program named
//! by `STEADFAST_VICEROY`, or else `viceroy` (`cargo install viceroy`). If the emulator cannot be
//! run, the test is skipped with a message.

use super::{line, pipe, run};
use crate::support::Server;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A program for the emulator. It responds with the item in the store `site` whose key is in the
/// request header `x-key`, and traps if a host call fails.
const PROGRAM: &str = r#"(module
  (import "fastly_abi" "init" (func $init (param i64) (result i32)))
  (import "fastly_http_req" "body_downstream_get" (func $request (param i32 i32) (result i32)))
  (import "fastly_http_req" "header_value_get"
    (func $field (param i32 i32 i32 i32 i32 i32) (result i32)))
  (import "fastly_object_store" "open" (func $open (param i32 i32 i32) (result i32)))
  (import "fastly_object_store" "lookup" (func $lookup (param i32 i32 i32 i32) (result i32)))
  (import "fastly_http_resp" "new" (func $response (param i32) (result i32)))
  (import "fastly_http_resp" "send_downstream" (func $send (param i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "site")
  (data (i32.const 16) "x-key")
  (func $must (param i32) (if (local.get 0) (then unreachable)))
  (func (export "_start")
    (call $must (call $init (i64.const 1)))
    (call $must (call $request (i32.const 64) (i32.const 68)))
    (call $must (call $field (i32.load (i32.const 64)) (i32.const 16) (i32.const 5)
      (i32.const 1024) (i32.const 2048) (i32.const 72)))
    (call $must (call $open (i32.const 0) (i32.const 4) (i32.const 76)))
    (call $must (call $lookup (i32.load (i32.const 76)) (i32.const 1024)
      (i32.load (i32.const 72)) (i32.const 80)))
    (call $must (call $response (i32.const 84)))
    (call $must (call $send (i32.load (i32.const 84)) (i32.load (i32.const 80)) (i32.const 0)))))
"#;

/// An emulator process, which is killed on drop.
struct Emulator {
    child: Child,
    port: u16,
}

impl Emulator {
    /// Runs the program with the stores that `fastly.toml` declares. Returns `None` if no emulator
    /// is installed.
    #[allow(clippy::disallowed_methods, reason = "a test may read the emulator's path")]
    fn start(dir: &Path) -> Option<Emulator> {
        let viceroy = std::env::var("STEADFAST_VICEROY").unwrap_or_else(|_| "viceroy".into());
        if Command::new(&viceroy).arg("--version").output().is_err() {
            println!("skipped: {viceroy} cannot be run; install it with cargo install viceroy");
            return None;
        }
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        std::fs::write(dir.join("read.wat"), PROGRAM).unwrap();
        let address = format!("127.0.0.1:{port}");
        let child = Command::new(&viceroy)
            .args(["serve", "-C", "fastly.toml", "--addr", &address, "read.wat"])
            .current_dir(dir)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut emulator = Emulator { child, port };
        let until = Instant::now() + Duration::from_secs(60);
        while TcpStream::connect(&address).is_err() {
            let exited = emulator.child.try_wait().unwrap();
            assert!(exited.is_none(), "the emulator exited: {exited:?}");
            assert!(Instant::now() < until, "the emulator did not listen within 60 s");
            std::thread::sleep(Duration::from_millis(50));
        }
        Some(emulator)
    }

    /// Reads a key through the emulator, and returns the status and the body of the response.
    fn read(&self, key: &str) -> (String, Vec<u8>) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let request = format!("GET / HTTP/1.0\r\nHost: localhost\r\nx-key: {key}\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut response = Vec::new();
        stream.read_to_end(&mut response).unwrap();
        let head = response.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
        let status = String::from_utf8_lossy(&response[9..12]).into_owned();
        (status, response[head + 4..].to_vec())
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_emulator_reads_an_export_written_for_it() {
    let (server, dir) = (Server::memory(&[]), tempfile::tempdir().unwrap());
    server.create_store("site");
    let items: [(&str, Vec<u8>); 5] = [
        ("index.html", b"<p>hello</p>".to_vec()),
        ("a/b c%2F\u{fc}", b"odd".to_vec()),
        ("binary", (0..=255).cycle().take(300_000).collect()),
        ("empty", Vec::new()),
        ("*", b"a star".to_vec()),
    ];
    let lines: String = items.iter().map(|(key, value)| line(key, value, "")).collect();
    pipe(server.port, dir.path(), &["import", "site", "-"], lines.as_bytes()).expect_exit(0);
    let output =
        run(server.port, dir.path(), &["export", "site", "--to", "viceroy", "out"]).expect_exit(0);
    let manifest =
        format!("manifest_version = 3\nname = \"t\"\nlanguage = \"other\"\n\n{}", output.text());
    std::fs::write(dir.path().join("fastly.toml"), manifest).unwrap();
    let Some(emulator) = Emulator::start(dir.path()) else { return };
    for (key, value) in &items {
        let (status, body) = emulator.read(key);
        assert_eq!(status, "200", "{key}: {}", String::from_utf8_lossy(&body));
        assert!(body == *value, "{key}: {} bytes", body.len());
    }
    assert!(
        emulator.read("not there").1.is_empty(),
        "the emulator returned a value for a missing key"
    );
}
