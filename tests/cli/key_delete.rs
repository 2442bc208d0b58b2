//! Tests of `steadfast key delete`: confirmation, dry runs, and selection by key, prefix and file.

use crate::Cli;
use serde_json::json;

fn with_items() -> Cli {
    let cli = Cli::with_store();
    for key in ["blog/a", "blog/b", "blog/c", "page", "ü"] {
        cli.ok(&["key", "put", "site", key, "v"]);
    }
    cli
}

fn remaining_keys(cli: &Cli) -> Vec<String> {
    cli.ok(&["key", "list", "site"]).lines().map(str::to_owned).collect()
}

#[test]
fn key_delete_requires_confirmation() {
    let cli = with_items();
    let file = cli.write_file("keys", b"page\n");
    for (selection, expected) in [
        (&["page"][..], "item \"page\""),
        (&["--prefix", "blog/"], "3 items with the key prefix \"blog/\""),
        (&["--all"], "all items (5)"),
        (&["--from", &file], "up to 1 item listed in"),
        (&["--from", "-"], "read from standard input"),
    ] {
        let message = cli.fails(2, &[&["key", "delete", "site"], selection].concat());
        assert!(message.contains(expected) && message.contains("--yes"), "{message}");
        assert!(
            message.contains("store \"site\" (") && message.contains(&cli.endpoint()),
            "{message}"
        );
    }
    for invalid in [&[][..], &["page", "--all"], &["--prefix", ""], &["--all", "--prefix", "a"]] {
        cli.fails(2, &[&["key", "delete", "site", "--yes"], invalid].concat());
    }
    assert_eq!(remaining_keys(&cli).len(), 5);
}

#[test]
fn a_key_delete_dry_run_counts_items_but_does_not_delete_them() {
    let cli = with_items();
    let file = cli.write_file("keys", "page\nü\nnot there\n\n".as_bytes());
    for (selection, count) in [
        (&["page"][..], 1),
        (&["--prefix", "blog/"], 3),
        (&["--prefix", "none"], 0),
        (&["--all"], 5),
        (&["--from", &file], 2),
    ] {
        let args = [&["key", "delete", "site", "--dry-run"], selection].concat();
        assert_eq!(cli.ok(&args), format!("{count}\n"));
        let shape = cli.json(&args).remove(0);
        assert_eq!((&shape["store"], &shape["matched"]), (&json!("site"), &json!(count)));
    }
    let output =
        cli.run_with_input(&["key", "delete", "site", "--dry-run", "--from", "-"], b"page\r\n");
    assert_eq!((output.code, output.text().as_str()), (0, "1\n"));
    cli.fails(3, &["key", "delete", "site", "not there", "--dry-run"]);
    let invalid = ["key", "delete", "site", "page", "--dry-run", "--if-generation-match", "1"];
    cli.fails(4, &invalid);
    assert_eq!(remaining_keys(&cli).len(), 5);
}

#[test]
fn key_delete_deletes_exactly_the_selected_items() {
    let cli = with_items();
    let delete = |selection: &[&str]| {
        let args = [&["key", "delete", "site", "--yes"], selection].concat();
        cli.json(&args)[0]["deleted"].clone()
    };
    assert_eq!(delete(&["page"]), 1);
    cli.fails(3, &["key", "delete", "site", "page", "--yes"]);
    assert_eq!(delete(&["--prefix", "blog/"]), 3);
    assert_eq!(remaining_keys(&cli), ["ü"]);
    assert_eq!(delete(&["--all"]), 1);
    assert_eq!(delete(&["--all"]), 0);
    for nth in 0..40 {
        cli.ok(&["key", "put", "site", &format!("k{nth}"), "v"]);
    }
    let some: String = (0..39).map(|nth| format!("k{nth}\n")).collect();
    let file = cli.write_file("keys", some.as_bytes());
    let output = cli.run(&["key", "delete", "site", "--yes", "--from", &file]);
    assert_eq!((output.code, output.text().as_str()), (0, ""), "{}", output.err);
    output.assert_err("deleted 39 items from store \"site\"");
    let output = cli.run_with_input(&["key", "delete", "site", "--yes", "--from", "-"], b"k39");
    assert_eq!(output.code, 0, "{}", output.err);
    assert!(remaining_keys(&cli).is_empty());
}

#[test]
fn key_delete_reports_the_invalid_line_of_a_key_file() {
    let cli = with_items();
    for (bytes, expected) in
        [(&b"page\n\xff\n"[..], ", line 2: "), (&[b'x'; 5000][..], "longer than 4096 bytes")]
    {
        let file = cli.write_file("keys", bytes);
        let message = cli.fails(1, &["key", "delete", "site", "--yes", "--from", &file]);
        assert!(message.contains(expected), "{message}");
    }
    assert_eq!(
        remaining_keys(&cli).len(),
        5,
        "items were deleted although the key file is invalid"
    );
}

#[test]
fn key_files_may_start_with_a_byte_order_mark_but_utf_16_is_rejected() {
    let cli = with_items();
    let file = cli.write_file("keys", "\u{feff}page\r\n".as_bytes());
    cli.ok(&["key", "delete", "site", "--yes", "--from", &file]);
    assert_eq!(remaining_keys(&cli).len(), 4);
    for text in ["\u{feff}\u{fc}\n", "blog/1\n"] {
        let utf_16: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let file = cli.write_file("keys", &utf_16);
        let message = cli.fails(1, &["key", "delete", "site", "--yes", "--from", &file]);
        assert!(message.contains("UTF-16"), "{message}");
    }
    assert_eq!(remaining_keys(&cli).len(), 4);
}
