//! Tests of `steadfast store`: create, list, describe, rename and delete.

use crate::Cli;
use serde_json::json;

#[test]
fn stores_are_created_listed_described_renamed_and_deleted() {
    let cli = Cli::new();
    let id = cli.ok(&["store", "create", "site"]).trim().to_owned();
    assert_eq!(id.len(), 22);
    assert!(cli.ok(&["store", "list"]).contains(&format!("{id}  ")));
    for name_or_id in ["site", &id] {
        let text = cli.ok(&["store", "describe", name_or_id]);
        assert!(text.starts_with("name     site\nid       "), "{text}");
        assert!(text.contains(&id) && text.contains("created  20"), "{text}");
    }
    let renamed = cli.json(&["store", "rename", &id, "other"]);
    assert_eq!(renamed, [json!({ "id": id, "name": "other", "was": "site" })]);
    cli.fails(3, &["store", "describe", "site"]);
    let deleted = cli.json(&["store", "delete", "other", "--yes"]);
    assert_eq!(deleted, [json!({ "id": id, "name": "other", "deleted_items": 0 })]);
    assert_eq!(cli.ok(&["store", "list"]), "");
}

#[test]
fn the_json_output_for_a_store_has_the_fields_of_the_api() {
    let cli = Cli::new();
    let created = cli.json(&["store", "create", "My Störe"]).remove(0);
    let fields: Vec<_> = created.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(fields, ["created_at", "id", "name", "updated_at"]);
    assert_eq!(created["name"], "My Störe");
    cli.ok(&["store", "create", "another"]);
    let listed = cli.json(&["store", "list"]);
    assert_eq!(listed.len(), 2);
    assert_eq!(listed[1], created);
    assert_eq!(cli.json(&["store", "describe", "My Störe"]), [created]);
}

#[test]
fn store_list_reads_all_pages() {
    let cli = Cli::new();
    let mut client = cli.server.connect();
    for nth in 0..1005 {
        let body = format!("{{\"name\":\"s{nth:04}\"}}");
        let created = client.request("POST /resources/stores/kv", &[], body.as_bytes()).unwrap();
        assert_eq!(created.status, 201);
    }
    let names: Vec<_> = cli.json(&["store", "list"]).iter().map(|s| s["name"].clone()).collect();
    assert_eq!(names.len(), 1005);
    assert_eq!((&names[0], &names[1004]), (&json!("s0000"), &json!("s1004")));
}

#[test]
fn store_errors_name_the_store_and_have_specific_exit_statuses() {
    let cli = Cli::with_store();
    let taken = cli.fails(4, &["store", "create", "site"]);
    assert!(taken.contains("store \"site\"") && taken.contains("already exists"), "{taken}");
    cli.ok(&["store", "create", "other"]);
    cli.fails(4, &["store", "rename", "other", "site"]);
    let invalid = cli.fails(2, &["store", "create", "nine\nlives"]);
    assert!(invalid.contains("nine"), "{invalid}");
    let missing = cli.fails(3, &["store", "describe", "nothing"]);
    assert!(missing.contains("nothing") && missing.contains(&cli.endpoint()), "{missing}");
    cli.fails(3, &["store", "delete", "nothing", "--yes"]);
    cli.fails(3, &["store", "rename", "aaaaaaaaaaaaaaaaaaaaaa", "x"]);
    cli.fails(2, &["store", "create"]);
}

#[test]
fn a_store_with_items_is_deleted_only_with_force() {
    let cli = Cli::with_store();
    for key in ["a", "b", "c"] {
        cli.ok(&["key", "put", "site", key, "v"]);
    }
    let refused = cli.fails(4, &["store", "delete", "site", "--yes"]);
    assert!(refused.contains("--force"), "{refused}");
    // Without a terminal, the command cannot ask for confirmation.
    let unconfirmed = cli.fails(2, &["store", "delete", "site", "--force"]);
    assert!(unconfirmed.contains("its 3 items") && unconfirmed.contains("--yes"), "{unconfirmed}");
    assert!(
        unconfirmed.contains("\"site\"") && unconfirmed.contains(&cli.endpoint()),
        "{unconfirmed}"
    );
    assert_eq!(cli.ok(&["key", "list", "site"]), "a\nb\nc\n");
    let deleted = cli.json(&["store", "delete", "site", "--force", "--yes"]).remove(0);
    assert_eq!((&deleted["name"], &deleted["deleted_items"]), (&json!("site"), &json!(3)));
    cli.fails(3, &["store", "describe", "site"]);
}

#[test]
fn a_name_that_equals_the_id_of_another_store_is_ambiguous() {
    let cli = Cli::with_store();
    let id = cli.server.create_store("s");
    cli.ok(&["store", "create", &id]);
    let ambiguous = cli.fails(2, &["store", "describe", &id]);
    assert!(ambiguous.contains("is the name of store"), "{ambiguous}");
}
