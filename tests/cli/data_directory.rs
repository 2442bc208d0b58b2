//! Tests that commands find the endpoint and the token of a server in the data directory
//! `./steadfast-data`.

use crate::support::{Server, TOKEN, binary};
use sha2::{Digest, Sha256};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};

/// Returns a command that runs in `directory`, without variables that name a server or a token.
fn bare_command(directory: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.args(args).current_dir(directory);
    for name in ["FASTLY_API_ENDPOINT", "FASTLY_API_TOKEN", "STEADFAST_TOKEN_FILE"] {
        command.env_remove(name);
    }
    command.env_remove("STEADFAST_TOKEN").env_remove("STEADFAST_DATA");
    command
}

fn code(output: &Output) -> Option<i32> {
    output.status.code()
}

#[test]
fn commands_find_the_address_and_token_in_the_data_directory() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::spawn(bare_command(dir.path(), &["serve", "--listen", "127.0.0.1:0"]));
    let created = bare_command(dir.path(), &["store", "create", "site"]).output().unwrap();
    assert_eq!(code(&created), Some(0), "{created:?}");
    let message = String::from_utf8_lossy(&created.stderr).into_owned();
    assert!(message.contains(&format!(":{}", server.port)), "{message}");
    let backup = bare_command(dir.path(), &["backup", "-o", "all.backup"]).output().unwrap();
    assert_eq!(code(&backup), Some(0), "{backup:?}");
    assert!(String::from_utf8_lossy(&backup.stderr).contains(&format!(":{}", server.port)));
    let file = dir.path().join("steadfast-data/address");
    let at = fs::read_to_string(&file).unwrap();
    assert_eq!(at.lines().next().unwrap(), format!("http://127.0.0.1:{}", server.port));
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    server.terminate();
    assert!(server.wait_for_exit(std::time::Duration::from_secs(10)).unwrap().success());
    assert!(
        !dir.path().join("steadfast-data/address").exists(),
        "the address file was not removed on shutdown"
    );
}

#[test]
fn steadfast_token_is_used_for_local_servers_only() {
    let (server, dir) = (Server::memory(&[]), tempfile::tempdir().unwrap());
    let at = format!("http://127.0.0.1:{}", server.port);
    let mut list = bare_command(dir.path(), &["store", "list", "--endpoint", &at]);
    assert_eq!(code(&list.output().unwrap()), Some(5), "a command without a token did not fail");
    list.env("STEADFAST_TOKEN", TOKEN);
    assert_eq!(code(&list.output().unwrap()), Some(0));
    let mut remote =
        bare_command(dir.path(), &["store", "list", "--endpoint", "http://kv.invalid:7678"]);
    let refused = remote.env("STEADFAST_TOKEN", TOKEN).output().unwrap();
    assert_eq!(code(&refused), Some(5), "the token was used for another host: {refused:?}");
}

/// Responds to every request as a server does, but with a wrong proof. Returns the bytes received.
fn impostor(listener: TcpListener) -> Arc<Mutex<Vec<u8>>> {
    let received = Arc::new(Mutex::new(Vec::new()));
    let record = Arc::clone(&received);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, mut head) = (stream.unwrap(), [0; 8192]);
            let read = stream.read(&mut head).unwrap_or(0);
            record.lock().unwrap().extend_from_slice(&head[..read]);
            let proof = "0".repeat(64);
            let body = format!(r#"{{"name":"steadfast","version":"0.1.0","proof":"{proof}"}}"#);
            let length = body.len();
            let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}");
        }
    });
    received
}

#[test]
fn the_address_file_of_a_killed_server_is_ignored() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::spawn(bare_command(dir.path(), &["serve", "--listen", "127.0.0.1:0"]));
    server.kill();
    assert!(dir.path().join("steadfast-data/address").exists());
    let received = impostor(TcpListener::bind(("127.0.0.1", server.port)).unwrap());
    for args in [&["store", "list"][..], &["env"], &["env", "--", "true"]] {
        let output = bare_command(dir.path(), args).output().unwrap();
        assert_eq!(code(&output), Some(6), "{output:?}");
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(message.contains("no server is running on ./steadfast-data"), "{message}");
    }
    // Concurrent commands all probe the directory lock. No command may mistake another command for
    // the server.
    let list = || bare_command(dir.path(), &["store", "list"]).stderr(Stdio::null()).spawn();
    let mut parallel: Vec<_> = (0..20).map(|_| list().unwrap()).collect();
    for child in &mut parallel {
        assert_eq!(child.wait().unwrap().code(), Some(6));
    }
    let backup = bare_command(dir.path(), &["backup", "-o", "all.backup"]).output().unwrap();
    assert_eq!(
        code(&backup),
        Some(0),
        "the backup command did not read the data directory: {backup:?}"
    );
    assert!(received.lock().unwrap().is_empty());
}

#[test]
fn no_token_is_sent_to_a_server_that_cannot_prove_its_identity() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::spawn(bare_command(dir.path(), &["serve", "--listen", "127.0.0.1:0"]));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let other = format!("http://{}", listener.local_addr().unwrap());
    let received = impostor(listener);
    // The address file names another server, as if it were left over from an earlier start.
    let file = dir.path().join("steadfast-data/address");
    let original = fs::read_to_string(&file).unwrap();
    let secret = original.lines().nth(1).unwrap();
    fs::write(&file, format!("{other}\n{secret}\n")).unwrap();
    let commands: [&[&str]; 4] =
        [&["store", "list"], &["env"], &["env", "--", "true"], &["backup", "-o", "all.backup"]];
    for args in commands {
        let output = bare_command(dir.path(), args).output().unwrap();
        assert_eq!(code(&output), Some(6), "{output:?}");
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(message.contains(&other) && message.contains("no token was sent"), "{message}");
    }
    let sent = String::from_utf8(received.lock().unwrap().clone()).unwrap().to_lowercase();
    assert!(sent.starts_with("get /_/v1?challenge="), "{sent}");
    assert!(!sent.contains("fastly-key") && !sent.contains(secret), "{sent}");
    // Another version may write an address file without a secret.
    fs::write(&file, format!("{other}\n")).unwrap();
    let output = bare_command(dir.path(), &["store", "list"]).output().unwrap();
    assert_eq!(code(&output), Some(2), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("--endpoint"), "{output:?}");
    fs::write(&file, &original).unwrap();
    let output = bare_command(dir.path(), &["store", "list"]).output().unwrap();
    assert_eq!(code(&output), Some(0), "{output:?}");
    // A server whose endpoint the user specified does not need to prove its identity.
    let endpoint = format!("http://127.0.0.1:{}", server.port);
    let args = ["store", "list", "--endpoint", &endpoint];
    let output = bare_command(dir.path(), &args).output().unwrap();
    assert_eq!(code(&output), Some(0), "{output:?}");
}

#[test]
fn a_server_proves_that_it_knows_the_secret_in_its_address_file() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::spawn(bare_command(dir.path(), &["serve", "--listen", "127.0.0.1:0"]));
    let address = fs::read_to_string(dir.path().join("steadfast-data/address")).unwrap();
    let secret = address.lines().nth(1).unwrap();
    let challenge = "0123456789abcdef".repeat(4);
    let about = |query: &str| {
        let mut client = server.connect();
        client.send(format!("GET /_/v1{query} HTTP/1.1\r\nHost: h\r\n\r\n")).unwrap();
        client.read_response(false).unwrap()
    };
    let hash = Sha256::digest(format!("{secret}{challenge}"));
    let proof: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(about(&format!("?challenge={challenge}")).json()["proof"], proof);
    assert_eq!(about("").json()["proof"], serde_json::Value::Null);
    let short = &challenge[1..];
    for invalid in [short, &challenge.to_uppercase(), &format!("{short}g"), &challenge.repeat(2)] {
        let detail = about(&format!("?challenge={invalid}")).expect_error(400);
        assert!(detail.contains("challenge"), "{detail}");
    }
    let memory = Server::memory(&[]);
    let about = memory.get(&format!("/_/v1?challenge={challenge}"));
    assert_eq!(about.json()["proof"], serde_json::Value::Null);
}
