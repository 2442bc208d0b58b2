//! Tests of how a server announces that it simulates faults, and of invalid settings.

use crate::support::{DiskServer, Server, TOKEN, binary, run};
use std::process::Command;

fn serve(flags: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.args(["serve", "--memory", "--listen", "127.0.0.1:0"]).args(flags);
    command.env("STEADFAST_TOKEN", TOKEN);
    command
}

/// Returns what `/_/v1` says about the simulation.
fn info(server: &Server) -> serde_json::Value {
    server.get("/_/v1").json()["simulation"].clone()
}

#[test]
fn a_simulating_server_announces_the_settings_and_the_seed() {
    let flags = ["--simulate", "errors=1%,stale=5s", "--simulate", "rate-limit=1/s per key"];
    let flags = [&flags[..], &["--simulate-seed", "42"]].concat();
    let mut disk = DiskServer::logged(&flags);
    let banner = disk.server.read_output_to("# curl");
    let warning = "\n\
        \nWARNING: this server simulates the faults of a distributed service. Do not use it in \
        production.\nsimulate  stale=5s, errors=1%, rate-limit=1/s per key\n\
        seed      42 (repeat with --simulate-seed 42)\n\n";
    assert!(banner.contains(warning), "{banner}");
    let expected =
        serde_json::json!({"spec": "stale=5s, errors=1%, rate-limit=1/s per key", "seed": 42});
    assert_eq!(info(&disk.server), expected);
    let log = disk.stop_and_read_log();
    let line = log.lines().find(|line| line.contains("WARN") && line.contains("simulating"));
    let line = line.unwrap_or_else(|| panic!("{log}"));
    assert!(line.contains("stale=5s, errors=1%") && line.contains("seed=42"), "{line}");
}

#[test]
fn settings_can_come_from_the_environment_and_a_seed_is_chosen() {
    let mut command = serve(&["--log-format", "json"]);
    command.env("STEADFAST_SIMULATE", "latency=1ms,errors=0.5%");
    let server = Server::spawn(command);
    let info = info(&server);
    assert_eq!(info["spec"], "latency=1ms, errors=0.5%");
    assert!(info["seed"].is_u64(), "{info}");
}

#[test]
fn a_server_simulates_nothing_by_default() {
    let mut disk = DiskServer::logged(&[]);
    let banner = disk.server.read_output_to("# curl");
    assert!(!banner.contains("WARNING") && !banner.contains("simulate"), "{banner}");
    assert!(info(&disk.server).is_null());
    assert!(!disk.stop_and_read_log().contains("simulating"));
}

#[test]
fn an_invalid_simulation_is_a_usage_error_that_names_the_setting() {
    for (flags, part) in [
        (&["--simulate", "stale=soon"][..], "stale must be from 1ms to 1h, such as 5s"),
        (&["--simulate", "latency=1ms,errors=2"], "errors must be from 0.0001% to 100%"),
        (&["--simulate", "rate-limit=often"], "rate-limit must be a number of writes"),
        (&["--simulate", "chaos=1"], "unknown setting \"chaos\""),
        (&["--simulate", "stale=1s", "--simulate", "stale=2s"], "stale must not be repeated"),
        (&["--simulate-seed", "1"], "--simulate <SPEC>"),
        (&["--simulate", "stale=1s", "--simulate-seed", "x"], "--simulate-seed"),
    ] {
        let output = run(&mut serve(flags));
        assert_eq!(output.code, 2, "{flags:?}: {}", output.err);
        assert!(output.err.contains(part), "{flags:?}: {}", output.err);
    }
}
