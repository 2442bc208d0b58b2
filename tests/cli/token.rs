//! Tests of `steadfast token`: create, list and revoke.

use crate::support::CommandOutput;
use crate::{Cli, run};
use serde_json::json;

/// Runs a command with a limited token.
fn run_with_token(cli: &Cli, token: &str, args: &[&str]) -> CommandOutput {
    run(cli.command(args).env("FASTLY_API_TOKEN", token))
}

#[test]
fn a_created_token_is_shown_once_and_stops_working_when_revoked() {
    let cli = Cli::with_store();
    cli.ok(&["key", "put", "site", "blog/a", "v"]);
    let created = cli.run(&["token", "create", "reader", "--scope", "global:read"]);
    assert_eq!(created.code, 0, "{}", created.err);
    let token = created.text().trim().to_owned();
    assert!(token.len() >= 16 && !created.err.contains(&token), "{}", created.err);
    assert_eq!(run_with_token(&cli, &token, &["key", "get", "site", "blog/a"]).out, b"v");
    let refused = run_with_token(&cli, &token, &["key", "put", "site", "blog/a", "w"]);
    assert_eq!(refused.code, 5, "{}", refused.err);
    assert_eq!(run_with_token(&cli, &token, &["token", "list"]).code, 5);
    let listed = cli.json(&["token", "list"]);
    assert_eq!((listed.len(), &listed[0]["name"]), (1, &json!("reader")));
    assert!(
        !listed[0].to_string().contains(&token) && !cli.ok(&["token", "list"]).contains(&token)
    );
    let id = listed[0]["id"].as_str().unwrap();
    let unconfirmed = cli.fails(2, &["token", "revoke", id]);
    assert!(unconfirmed.contains("\"reader\"") && unconfirmed.contains("--yes"), "{unconfirmed}");
    assert_eq!(run_with_token(&cli, &token, &["store", "list"]).code, 0);
    let revoked = cli.json(&["token", "revoke", id, "--yes"]).remove(0);
    assert_eq!(revoked, json!({ "id": id, "name": "reader", "revoked": true }));
    assert_eq!(run_with_token(&cli, &token, &["store", "list"]).code, 5);
    cli.fails(3, &["token", "revoke", id, "--yes"]);
}

#[test]
fn token_create_sets_stores_prefix_and_expiry() {
    let cli = Cli::with_store();
    cli.ok(&["store", "create", "other"]);
    let args =
        ["token", "create", "ci", "--store", "site", "--prefix", "blog/", "--expires", "90d"];
    let created = cli.json(&args).remove(0);
    let store = cli.json(&["store", "describe", "site"]).remove(0);
    assert_eq!(created["stores"], json!([store["id"]]));
    assert_eq!((&created["scope"], &created["prefix"]), (&json!("global"), &json!("blog/")));
    assert!(created["expires_at"].as_str().unwrap() > created["created_at"].as_str().unwrap());
    let token = created["access_token"].as_str().unwrap();
    let id = store["id"].as_str().unwrap();
    assert_eq!(run_with_token(&cli, token, &["key", "put", id, "blog/a", "v"]).code, 0);
    assert_eq!(run_with_token(&cli, token, &["key", "put", id, "page", "v"]).code, 5);
    let row = cli.ok(&["token", "list"]);
    assert!(row.contains(&format!("stores {id}")) && row.contains("prefix blog/"), "{row}");
    let at = ["token", "create", "x", "--expires", "2127-01-31T01:00:00+01:00"];
    assert_eq!(cli.json(&at)[0]["expires_at"], "2127-01-31T00:00:00.000000Z");
    for invalid in
        [&["--expires", "someday"][..], &["--scope", "all"], &["--expires", "2001-01-01T00:00:00Z"]]
    {
        cli.fails(2, &[&["token", "create", "x"], invalid].concat());
    }
    cli.fails(3, &["token", "create", "x", "--store", "nowhere"]);
}

#[test]
fn an_empty_prefix_or_store_is_refused() {
    let cli = Cli::with_store();
    for flag in ["--prefix", "--store"] {
        let error = cli.fails(2, &["token", "create", "x", flag, ""]);
        assert!(error.contains(flag), "{error}");
    }
    assert_eq!(cli.ok(&["token", "list"]), "");
}
