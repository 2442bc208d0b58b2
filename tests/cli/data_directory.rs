//! Commands find the endpoint and the token of a server in the data directory below the working
//! directory.

use crate::support::{Server, TOKEN, binary};
use std::path::Path;
use std::process::{Command, Output};

/// A command in a working directory, without variables that name a server or a token.
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
    let at = std::fs::read_to_string(dir.path().join("steadfast-data/address")).unwrap();
    assert_eq!(at, format!("http://127.0.0.1:{}\n", server.port));
    server.terminate();
    assert!(server.wait_for_exit(std::time::Duration::from_secs(10)).unwrap().success());
    assert!(
        !dir.path().join("steadfast-data/address").exists(),
        "the address file must be removed on shutdown"
    );
}

#[test]
fn steadfast_token_is_used_for_local_servers_only() {
    let (server, dir) = (Server::memory(&[]), tempfile::tempdir().unwrap());
    let at = format!("http://127.0.0.1:{}", server.port);
    let mut list = bare_command(dir.path(), &["store", "list", "--endpoint", &at]);
    assert_eq!(code(&list.output().unwrap()), Some(5), "a command without a token must fail");
    list.env("STEADFAST_TOKEN", TOKEN);
    assert_eq!(code(&list.output().unwrap()), Some(0));
    let mut remote =
        bare_command(dir.path(), &["store", "list", "--endpoint", "http://kv.invalid:7678"]);
    let refused = remote.env("STEADFAST_TOKEN", TOKEN).output().unwrap();
    assert_eq!(code(&refused), Some(5), "the token must not be sent to another host: {refused:?}");
}
