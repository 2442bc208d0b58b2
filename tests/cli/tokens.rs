//! `steadfast token`.

use crate::{Site, ran};
use serde_json::json;

/// A command with another token than the root's.
fn with(site: &Site, token: &str, args: &[&str]) -> crate::Ran {
    ran(site.command(args).env("FASTLY_API_TOKEN", token))
}

#[test]
fn a_token_is_shown_once_does_what_it_may_and_ends_when_it_is_revoked() {
    let site = Site::with_store();
    site.ok(&["key", "put", "site", "blog/a", "v"]);
    let made = site.run(&["token", "create", "reader", "--scope", "global:read"]);
    assert_eq!(made.code, 0, "{}", made.err);
    let token = made.text().trim().to_owned();
    assert!(token.len() >= 16 && !made.err.contains(&token), "{}", made.err);
    assert_eq!(with(&site, &token, &["key", "get", "site", "blog/a"]).out, b"v");
    let refused = with(&site, &token, &["key", "put", "site", "blog/a", "w"]);
    assert_eq!(refused.code, 5, "{}", refused.err);
    assert_eq!(with(&site, &token, &["token", "list"]).code, 5);
    let listed = site.json(&["token", "list"]);
    assert_eq!((listed.len(), &listed[0]["name"]), (1, &json!("reader")));
    assert!(
        !listed[0].to_string().contains(&token) && !site.ok(&["token", "list"]).contains(&token)
    );
    let id = listed[0]["id"].as_str().unwrap();
    let unasked = site.fails(2, &["token", "revoke", id]);
    assert!(unasked.contains("\"reader\"") && unasked.contains("--yes"), "{unasked}");
    assert_eq!(with(&site, &token, &["store", "list"]).code, 0);
    let revoked = site.json(&["token", "revoke", id, "--yes"]).remove(0);
    assert_eq!(revoked, json!({ "id": id, "name": "reader", "revoked": true }));
    assert_eq!(with(&site, &token, &["store", "list"]).code, 5);
    site.fails(3, &["token", "revoke", id, "--yes"]);
}

#[test]
fn a_token_has_its_limits() {
    let site = Site::with_store();
    site.ok(&["store", "create", "other"]);
    let args =
        ["token", "create", "ci", "--store", "site", "--prefix", "blog/", "--expires", "90d"];
    let made = site.json(&args).remove(0);
    let store = site.json(&["store", "describe", "site"]).remove(0);
    assert_eq!(made["stores"], json!([store["id"]]));
    assert_eq!((&made["scope"], &made["prefix"]), (&json!("global"), &json!("blog/")));
    assert!(made["expires_at"].as_str().unwrap() > made["created_at"].as_str().unwrap());
    let token = made["access_token"].as_str().unwrap();
    let id = store["id"].as_str().unwrap();
    assert_eq!(with(&site, token, &["key", "put", id, "blog/a", "v"]).code, 0);
    assert_eq!(with(&site, token, &["key", "put", id, "page", "v"]).code, 5);
    let row = site.ok(&["token", "list"]);
    assert!(row.contains(&format!("stores {id}")) && row.contains("prefix blog/"), "{row}");
    let at = ["token", "create", "x", "--expires", "2127-01-31T01:00:00+01:00"];
    assert_eq!(site.json(&at)[0]["expires_at"], "2127-01-31T00:00:00.000000Z");
    for wrong in
        [&["--expires", "someday"][..], &["--scope", "all"], &["--expires", "2001-01-01T00:00:00Z"]]
    {
        site.fails(2, &[&["token", "create", "x"], wrong].concat());
    }
    site.fails(3, &["token", "create", "x", "--store", "nowhere"]);
}
