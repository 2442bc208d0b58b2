//! Tests of the commands with a server that supports only the hosted API and none of the
//! extensions.

use crate::Cli;
use crate::proxy::{self, Faults};
use crate::support::{CommandOutput, TOKEN, run};
use serde_json::json;

/// Starts a proxy that hides the extensions, and returns its endpoint.
fn hosted_endpoint(cli: &Cli) -> String {
    let faults = Faults { hosted_api_only: true, ..Faults::default() };
    format!("http://127.0.0.1:{}", proxy::start(cli.server.port, &faults))
}

fn run_at(cli: &Cli, url: &str, args: &[&str]) -> CommandOutput {
    let mut command = cli.bare_command(args);
    let output = run(command.env("FASTLY_API_ENDPOINT", url).env("FASTLY_API_TOKEN", TOKEN));
    assert!(!output.err.contains("panicked"), "{}", output.err);
    output
}

#[test]
fn store_and_item_commands_need_only_the_hosted_api() {
    let cli = Cli::with_store();
    let url = hosted_endpoint(&cli);
    for nth in 0..40 {
        let put = ["key", "put", "site", &format!("k{nth:02}"), "abc", "--metadata", "m"];
        assert_eq!(run_at(&cli, &url, &put).code, 0);
    }
    let long_list = run_at(&cli, &url, &["key", "list", "site", "--long", "--json"]);
    assert_eq!(long_list.code, 0, "{}", long_list.err);
    let lines: Vec<serde_json::Value> =
        long_list.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let keys: Vec<_> = lines.iter().map(|line| line["key"].as_str().unwrap()).collect();
    assert!(keys.len() == 40 && keys.is_sorted(), "{keys:?}");
    assert_eq!((&lines[7]["size"], &lines[7]["metadata"]), (&json!(3), &json!("m")));
    assert!(lines[7].get("expires").is_none() && lines[7]["generation"].is_u64());
    assert!(lines[7]["modified"].as_str().unwrap().ends_with('Z'), "{}", lines[7]);
    let head = run_at(&cli, &url, &["key", "head", "site", "k07"]);
    assert!(head.text().contains("expires     ?\n"), "{}", head.text());
    let dry_run = run_at(&cli, &url, &["key", "delete", "site", "--prefix", "k0", "--dry-run"]);
    assert_eq!((dry_run.code, dry_run.text().as_str()), (0, "10\n"), "{}", dry_run.err);
    let deleted =
        run_at(&cli, &url, &["key", "delete", "site", "--prefix", "k0", "--yes", "--json"]);
    assert!(deleted.text().contains("\"deleted\":10"), "{} {}", deleted.text(), deleted.err);
    let remaining = run_at(&cli, &url, &["key", "list", "site"]).text();
    assert!(remaining.lines().count() == 30 && !remaining.contains("k0"), "{remaining}");
    let token = run_at(&cli, &url, &["token", "list"]);
    assert_eq!(token.code, 3);
    token.assert_err("not a Steadfast server");
    let refused = run_at(&cli, &url, &["store", "delete", "site", "--yes"]);
    assert_eq!(refused.code, 4, "{}", refused.err);
    let forced = run_at(&cli, &url, &["store", "delete", "site", "--yes", "--force"]);
    assert_eq!(forced.code, 0, "{}", forced.err);
    assert_eq!(cli.ok(&["store", "list"]), "");
}
