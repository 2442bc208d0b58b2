//! `steadfast store`.

use crate::Site;
use serde_json::json;

#[test]
fn a_store_is_made_listed_described_renamed_and_deleted_by_name_or_id() {
    let site = Site::new();
    let id = site.ok(&["store", "create", "site"]).trim().to_owned();
    assert_eq!(id.len(), 22);
    assert!(site.ok(&["store", "list"]).contains(&format!("{id}  ")));
    for which in ["site", &id] {
        let shown = site.ok(&["store", "describe", which]);
        assert!(shown.starts_with("name     site\nid       "), "{shown}");
        assert!(shown.contains(&id) && shown.contains("created  20"), "{shown}");
    }
    let renamed = site.json(&["store", "rename", &id, "other"]);
    assert_eq!(renamed, [json!({ "id": id, "name": "other", "was": "site" })]);
    site.fails(3, &["store", "describe", "site"]);
    let deleted = site.json(&["store", "delete", "other", "--yes"]);
    assert_eq!(deleted, [json!({ "id": id, "name": "other", "deleted_items": 0 })]);
    assert_eq!(site.ok(&["store", "list"]), "");
}

#[test]
fn stores_in_json_have_the_shape_of_the_api() {
    let site = Site::new();
    let made = site.json(&["store", "create", "My Störe"]).remove(0);
    let fields: Vec<_> = made.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(fields, ["created_at", "id", "name", "updated_at"]);
    assert_eq!(made["name"], "My Störe");
    site.ok(&["store", "create", "another"]);
    let listed = site.json(&["store", "list"]);
    assert_eq!(listed.len(), 2);
    assert_eq!(listed[1], made);
    assert_eq!(site.json(&["store", "describe", "My Störe"]), [made]);
}

#[test]
fn all_pages_of_stores_are_listed() {
    let site = Site::new();
    let mut client = site.server.connect();
    for nth in 0..1005 {
        let body = format!("{{\"name\":\"s{nth:04}\"}}");
        let made = client.ask("POST /resources/stores/kv", &[], body.as_bytes()).unwrap();
        assert_eq!(made.status, 201);
    }
    let names: Vec<_> = site.json(&["store", "list"]).iter().map(|s| s["name"].clone()).collect();
    assert_eq!(names.len(), 1005);
    assert_eq!((&names[0], &names[1004]), (&json!("s0000"), &json!("s1004")));
}

#[test]
fn refusals_of_stores_have_their_exit_status_and_name_the_store() {
    let site = Site::with_store();
    let taken = site.fails(4, &["store", "create", "site"]);
    assert!(taken.contains("store \"site\"") && taken.contains("already exists"), "{taken}");
    site.ok(&["store", "create", "other"]);
    site.fails(4, &["store", "rename", "other", "site"]);
    let wrong = site.fails(2, &["store", "create", "9lives"]);
    assert!(wrong.contains("9lives"), "{wrong}");
    let missing = site.fails(3, &["store", "describe", "nothing"]);
    assert!(missing.contains("nothing") && missing.contains(&site.endpoint()), "{missing}");
    site.fails(3, &["store", "delete", "nothing", "--yes"]);
    site.fails(3, &["store", "rename", "aaaaaaaaaaaaaaaaaaaaaa", "x"]);
    site.fails(2, &["store", "create"]);
}

#[test]
fn a_store_that_holds_items_goes_only_by_force() {
    let site = Site::with_store();
    for key in ["a", "b", "c"] {
        site.ok(&["key", "put", "site", key, "v"]);
    }
    let refused = site.fails(4, &["store", "delete", "site", "--yes"]);
    assert!(refused.contains("--force"), "{refused}");
    // Without a terminal nobody can say yes.
    let unasked = site.fails(2, &["store", "delete", "site", "--force"]);
    assert!(unasked.contains("its 3 items") && unasked.contains("--yes"), "{unasked}");
    assert!(unasked.contains("\"site\"") && unasked.contains(&site.endpoint()), "{unasked}");
    assert_eq!(site.ok(&["key", "list", "site"]), "a\nb\nc\n");
    let gone = site.json(&["store", "delete", "site", "--force", "--yes"]).remove(0);
    assert_eq!((&gone["name"], &gone["deleted_items"]), (&json!("site"), &json!(3)));
    site.fails(3, &["store", "describe", "site"]);
}

#[test]
fn a_name_that_is_another_stores_id_is_not_guessed_at() {
    let site = Site::with_store();
    // Ids may begin with a digit, names may not: make stores until an id can be a name.
    let id = (0..)
        .map(|nth| site.server.store(&format!("s{nth}")))
        .find(|id| id.starts_with(|c: char| c.is_ascii_alphabetic()))
        .unwrap();
    site.ok(&["store", "create", &id]);
    let unclear = site.fails(2, &["store", "describe", &id]);
    assert!(unclear.contains("is the name of store"), "{unclear}");
}
