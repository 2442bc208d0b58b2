//! In the directory where a server was started its commands need nothing to be named.

use crate::support::{Server, TOKEN, binary};
use std::path::Path;
use std::process::{Command, Output};

/// A command in a folder, with nothing in its environment that names a server or a token.
fn bare(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.args(args).current_dir(folder);
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
fn where_a_server_was_started_its_address_and_token_are_found() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::spawn(bare(dir.path(), &["serve", "--listen", "127.0.0.1:0"]));
    let made = bare(dir.path(), &["store", "create", "site"]).output().unwrap();
    assert_eq!(code(&made), Some(0), "{made:?}");
    let said = String::from_utf8_lossy(&made.stderr).into_owned();
    assert!(said.contains(&format!(":{}", server.port)), "{said}");
    let backup = bare(dir.path(), &["backup", "-o", "all.backup"]).output().unwrap();
    assert_eq!(code(&backup), Some(0), "{backup:?}");
    assert!(String::from_utf8_lossy(&backup.stderr).contains(&format!(":{}", server.port)));
    let at = std::fs::read_to_string(dir.path().join("steadfast-data/address")).unwrap();
    assert_eq!(at, format!("http://127.0.0.1:{}\n", server.port));
    server.terminate();
    assert!(server.ended(std::time::Duration::from_secs(10)).unwrap().success());
    assert!(!dir.path().join("steadfast-data/address").exists(), "it is not there any more");
}

#[test]
fn the_token_that_a_server_is_started_with_opens_it_on_this_machine_alone() {
    let (server, dir) = (Server::memory(&[]), tempfile::tempdir().unwrap());
    let at = format!("http://127.0.0.1:{}", server.port);
    let mut list = bare(dir.path(), &["store", "list", "--endpoint", &at]);
    assert_eq!(code(&list.output().unwrap()), Some(5), "no token is known");
    list.env("STEADFAST_TOKEN", TOKEN);
    assert_eq!(code(&list.output().unwrap()), Some(0));
    let mut away = bare(dir.path(), &["store", "list", "--endpoint", "http://kv.invalid:7678"]);
    let refused = away.env("STEADFAST_TOKEN", TOKEN).output().unwrap();
    assert_eq!(code(&refused), Some(5), "it is not sent to another machine: {refused:?}");
}
