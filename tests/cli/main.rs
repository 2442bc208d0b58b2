//! Tests of the client commands. They run the binary against a real server and check its output,
//! messages and exit statuses.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests may panic")]
#![allow(clippy::expect_used, reason = "tests may panic")]
#![allow(clippy::disallowed_methods, reason = "tests may read the environment")]

#[path = "../support/mod.rs"]
mod support;

#[path = "../support/proxy.rs"]
#[allow(dead_code, reason = "this suite uses only one of the faults")]
mod proxy;

mod completions_and_man;
mod data_directory;
mod empty_variables;
mod endpoint_and_token;
mod env;
mod hosted_api;
mod key_delete;
mod key_list;
mod key_put_get;
mod output_files;
mod store;
mod token;

use std::process::{Command, Stdio};
use support::{CommandOutput, Server, TOKEN, binary, run, run_with_input};

/// A server, and a working directory for the commands that use the server.
struct Cli {
    server: Server,
    dir: tempfile::TempDir,
}

impl Cli {
    fn new() -> Cli {
        Cli { server: Server::memory(&[]), dir: tempfile::tempdir().unwrap() }
    }

    /// Starts a server and creates a store named `site`.
    fn with_store() -> Cli {
        let cli = Cli::new();
        cli.server.create_store("site");
        cli
    }

    fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.server.port)
    }

    /// Returns a command whose environment is empty except for PATH.
    fn bare_command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.args(args).env_clear().current_dir(self.dir.path()).stdin(Stdio::null());
        command.envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
        command
    }

    /// Returns a command with the endpoint and the token of the server in its environment.
    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.bare_command(args);
        command.env("FASTLY_API_ENDPOINT", self.endpoint()).env("FASTLY_API_TOKEN", TOKEN);
        command
    }

    fn run(&self, args: &[&str]) -> CommandOutput {
        run(&mut self.command(args))
    }

    fn run_with_input(&self, args: &[&str], input: &[u8]) -> CommandOutput {
        run_with_input(self.command(args), input)
    }

    /// Runs a command that must succeed, and returns its standard output.
    fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert_eq!(output.code, 0, "{args:?}: {}", output.err);
        output.text()
    }

    /// Runs a command that must fail with the given exit status, and returns its standard error.
    fn fails(&self, code: i32, args: &[&str]) -> String {
        let output = self.run(args);
        assert_eq!(output.code, code, "{args:?}: {}", output.err);
        assert!(output.out.is_empty(), "{args:?} printed {}", output.text());
        assert!(!output.err.contains("panicked") && !output.err.contains(TOKEN), "{}", output.err);
        output.err
    }

    /// Writes a file in the working directory, and returns the path of the file.
    fn write_file(&self, name: &str, bytes: &[u8]) -> String {
        let path = self.dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// Runs a command with `--json`, and returns one value per line of its output.
    fn json(&self, args: &[&str]) -> Vec<serde_json::Value> {
        let args = [args, &["--json"]].concat();
        let text = self.ok(&args);
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}
