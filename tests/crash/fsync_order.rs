//! Uses strace to test that a commit is fsynced before the response is sent.

use crate::support::{self, Server, TOKEN};
use std::path::Path;
use std::process::{Command, Stdio};

/// Runs puts on a traced server and returns its fsync and send calls in order.
fn traced_calls(data: &Path, trace: &Path) -> Vec<String> {
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-s", "40", "-e", "trace=fdatasync,fsync,write,sendto,writev"]);
    command.arg("-o").arg(trace).arg(support::binary());
    command.args(["serve", "--listen", "127.0.0.1:0", "--data"]).arg(data);
    command.env("STEADFAST_TOKEN", TOKEN);
    let server = Server::spawn(command);
    let store = server.create_store("s");
    for size in [10, 700_000, 1_300_000] {
        let request = format!("PUT /resources/stores/kv/{store}/keys/k");
        assert_eq!(server.request(&request, &[], &vec![b'v'; size]).status, 200);
    }
    drop(server);
    std::fs::read_to_string(trace).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn the_wal_is_fsynced_before_the_response() {
    if Command::new("strace").arg("-V").stdout(Stdio::null()).status().is_err() {
        println!("skipped: strace is not installed");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let calls = traced_calls(&dir.path().join("data"), &dir.path().join("trace"));
    let replies: Vec<_> =
        calls.iter().enumerate().filter(|(_, call)| call.contains("\"HTTP/1.1 20")).collect();
    assert_eq!(replies.len(), 4, "{calls:#?}");
    let mut from = 0;
    for (at, reply) in replies {
        let synced = calls[from..at].iter().any(|call| {
            let sync = call.contains("fdatasync(") || call.contains("fsync(");
            sync || call.contains("fdatasync resumed") || call.contains("fsync resumed")
        });
        assert!(synced, "there is no fsync before {reply} in {:#?}", &calls[from..at]);
        from = at + 1;
    }
}
