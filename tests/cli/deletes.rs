//! `steadfast key delete`.

use crate::Site;
use serde_json::json;

fn filled() -> Site {
    let site = Site::with_store();
    for key in ["blog/a", "blog/b", "blog/c", "page", "ü"] {
        site.ok(&["key", "put", "site", key, "v"]);
    }
    site
}

fn left(site: &Site) -> Vec<String> {
    site.ok(&["key", "list", "site"]).lines().map(str::to_owned).collect()
}

#[test]
fn nothing_is_deleted_unless_somebody_said_yes() {
    let site = filled();
    let file = site.file("keys", b"page\n");
    for (which, what) in [
        (&["page"][..], "item \"page\""),
        (&["--prefix", "blog/"], "3 items with the key prefix \"blog/\""),
        (&["--all"], "all items (5)"),
        (&["--from", &file], "the items of 1 key in"),
        (&["--from", "-"], "from the standard input"),
    ] {
        let said = site.fails(2, &[&["key", "delete", "site"], which].concat());
        assert!(said.contains(what) && said.contains("--yes"), "{said}");
        assert!(said.contains("store \"site\" (") && said.contains(&site.endpoint()), "{said}");
    }
    for wrong in [&[][..], &["page", "--all"], &["--prefix", ""], &["--all", "--prefix", "a"]] {
        site.fails(2, &[&["key", "delete", "site", "--yes"], wrong].concat());
    }
    assert_eq!(left(&site).len(), 5);
}

#[test]
fn a_dry_run_counts_and_deletes_nothing() {
    let site = filled();
    let file = site.file("keys", "page\nü\nnot there\n\n".as_bytes());
    for (which, count) in [
        (&["page"][..], 1),
        (&["--prefix", "blog/"], 3),
        (&["--prefix", "none"], 0),
        (&["--all"], 5),
        (&["--from", &file], 2),
    ] {
        let args = [&["key", "delete", "site", "--dry-run"], which].concat();
        assert_eq!(site.ok(&args), format!("{count}\n"));
        let shape = site.json(&args).remove(0);
        assert_eq!((&shape["store"], &shape["matched"]), (&json!("site"), &json!(count)));
    }
    let fed = site.feed(&["key", "delete", "site", "--dry-run", "--from", "-"], b"page\r\n");
    assert_eq!((fed.code, fed.text().as_str()), (0, "1\n"));
    site.fails(3, &["key", "delete", "site", "not there", "--dry-run"]);
    let wrong = ["key", "delete", "site", "page", "--dry-run", "--if-generation-match", "1"];
    site.fails(4, &wrong);
    assert_eq!(left(&site).len(), 5);
}

#[test]
fn one_or_many_items_are_deleted() {
    let site = filled();
    let gone = |which: &[&str]| {
        let args = [&["key", "delete", "site", "--yes"], which].concat();
        site.json(&args)[0]["deleted"].clone()
    };
    assert_eq!(gone(&["page"]), 1);
    site.fails(3, &["key", "delete", "site", "page", "--yes"]);
    assert_eq!(gone(&["--prefix", "blog/"]), 3);
    assert_eq!(left(&site), ["ü"]);
    assert_eq!(gone(&["--all"]), 1);
    assert_eq!(gone(&["--all"]), 0);
    for nth in 0..40 {
        site.ok(&["key", "put", "site", &format!("k{nth}"), "v"]);
    }
    let some: String = (0..39).map(|nth| format!("k{nth}\n")).collect();
    let file = site.file("keys", some.as_bytes());
    let ran = site.run(&["key", "delete", "site", "--yes", "--from", &file]);
    assert_eq!((ran.code, ran.text().as_str()), (0, ""), "{}", ran.err);
    assert!(ran.err.contains("deleted 39 items from store \"site\""), "{}", ran.err);
    let fed = site.feed(&["key", "delete", "site", "--yes", "--from", "-"], b"k39");
    assert_eq!(fed.code, 0, "{}", fed.err);
    assert!(left(&site).is_empty());
}

#[test]
fn a_file_that_holds_no_keys_is_refused_by_its_line() {
    let site = filled();
    for (bytes, what) in
        [(&b"page\n\xff\n"[..], ", line 2: "), (&[b'x'; 5000][..], "longer than 4096 bytes")]
    {
        let file = site.file("keys", bytes);
        let said = site.fails(1, &["key", "delete", "site", "--yes", "--from", &file]);
        assert!(said.contains(what), "{said}");
    }
    assert_eq!(left(&site).len(), 5, "the file is read to its end before anything is deleted");
}
