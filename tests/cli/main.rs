//! The commands that speak to a server, seen from outside: what they print, where, how they end.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a test may panic and hand on its PATH"
)]

#[path = "../support/mod.rs"]
mod support;

mod access;
mod deletes;
mod documents;
mod environment;
mod home;
mod hosted;
mod items;
mod lists;
mod stores;
mod tokens;

use std::io::Write;
use std::process::{Command, Output, Stdio};
use support::{Server, TOKEN, binary};

/// A server, a directory to work in, and the command pointed at both.
struct Site {
    server: Server,
    dir: tempfile::TempDir,
}

/// How a command ended.
struct Ran {
    code: i32,
    out: Vec<u8>,
    err: String,
}

impl Site {
    fn new() -> Site {
        Site { server: Server::memory(&[]), dir: tempfile::tempdir().unwrap() }
    }

    /// With a store named `site`.
    fn with_store() -> Site {
        let site = Site::new();
        site.server.store("site");
        site
    }

    fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.server.port)
    }

    /// The command with nothing of this process's environment but its PATH.
    fn bare(&self, args: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.args(args).env_clear().current_dir(self.dir.path()).stdin(Stdio::null());
        command.envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
        command
    }

    /// The command with the endpoint and the token of the server.
    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.bare(args);
        command.env("FASTLY_API_ENDPOINT", self.endpoint()).env("FASTLY_API_TOKEN", TOKEN);
        command
    }

    fn run(&self, args: &[&str]) -> Ran {
        ran(&mut self.command(args))
    }

    /// The same, with bytes on the standard input.
    fn feed(&self, args: &[&str], input: &[u8]) -> Ran {
        feed(self.command(args), input)
    }

    /// Runs what must go well, and gives what it prints.
    fn ok(&self, args: &[&str]) -> String {
        let ran = self.run(args);
        assert_eq!(ran.code, 0, "{args:?}: {}", ran.err);
        ran.text()
    }

    /// Runs what must end with this status, and gives what it says.
    fn fails(&self, code: i32, args: &[&str]) -> String {
        let ran = self.run(args);
        assert_eq!(ran.code, code, "{args:?}: {}", ran.err);
        assert!(ran.out.is_empty(), "{args:?} prints {}", ran.text());
        assert!(!ran.err.contains("panicked") && !ran.err.contains(TOKEN), "{}", ran.err);
        ran.err
    }

    /// A file in the directory.
    fn file(&self, name: &str, bytes: &[u8]) -> String {
        let path = self.dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// What a command prints as lines of JSON.
    fn json(&self, args: &[&str]) -> Vec<serde_json::Value> {
        let args = [args, &["--json"]].concat();
        let text = self.ok(&args);
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

fn ran(command: &mut Command) -> Ran {
    of(command.output().unwrap())
}

fn feed(mut command: Command, input: &[u8]) -> Ran {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    // A command that refuses at once reads none of it.
    let fed = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().unwrap();
    let _ = fed.join().unwrap();
    of(output)
}

fn of(output: Output) -> Ran {
    let code = output.status.code().unwrap_or(-1);
    Ran { code, out: output.stdout, err: String::from_utf8_lossy(&output.stderr).into_owned() }
}

impl Ran {
    fn text(&self) -> String {
        String::from_utf8(self.out.clone()).unwrap()
    }
}
