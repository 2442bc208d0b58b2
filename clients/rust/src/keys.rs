//! Checks of keys: unusual keys, rejected keys, and key lists.

use fastly_api::apis::kv_store_item_api::{KvStoreDeleteItemParams, KvStoreListItemKeysParams};

use crate::checks::{Checks, Verdict, ensure, same};
use crate::client::{Client, delete_params, must, refused, refused_somehow};

const ODD: [&str; 24] = [
    "a/b",
    "a+b",
    "a%2Fb",
    "a%252Fb",
    "x//y",
    "/x",
    "x/",
    "//",
    "é✓",
    "日本語",
    "😀",
    "a:b@c=&$,",
    "!*'()",
    "[a]",
    "~",
    "%",
    "%2e%2e",
    "\"",
    "\\",
    "..x",
    ".hidden",
    "a..",
    "a\tb",
    "a\u{2028}b",
];

/// Keys that the crate turns into the path of the list or of the store itself.
const COLLAPSING: [&str; 3] = [".", "..", ""];

const ILLEGAL: [&str; 12] = [
    "a#b",
    "a;b",
    "a?b",
    "a^b",
    "a|b",
    "a\rb",
    "a\nb",
    "../a",
    "a/./b",
    "a/..",
    ".well-known/acme-challenge/token",
    "\u{1}",
];

const MANY: usize = 1100;

pub async fn run(checks: &mut Checks, client: &Client) {
    checks.section("keys");
    checks.check("unusual keys are distinct items and are listed", odd(client)).await;
    checks
        .check("a space in a key is stored as the plus that the crate sends", spaces(client))
        .await;
    for key in COLLAPSING {
        let name = format!("every call with the key {key:?} is rejected and deletes nothing");
        checks.check(&name, collapsing(client, key)).await;
    }
    checks.check("invalid keys return 400", illegal(client)).await;
    checks.check("prefix, limit, cursor and consistency select keys", selection(client)).await;
    checks
        .check("an invalid limit, cursor or consistency is rejected", bad_selection(client))
        .await;
    checks.check("1100 keys are listed in two pages and can all be deleted", many(client)).await;
}

fn list(store_id: &str) -> KvStoreListItemKeysParams {
    KvStoreListItemKeysParams { store_id: store_id.to_owned(), ..Default::default() }
}

fn forced(store_id: &str, key: &str) -> KvStoreDeleteItemParams {
    KvStoreDeleteItemParams { force: Some(true), ..delete_params(store_id, key) }
}

/// The keys on a page, its limit, and the cursor of the next page.
async fn page(
    client: &Client,
    params: KvStoreListItemKeysParams,
) -> Result<(Vec<String>, i32, Option<String>), String> {
    let page = must(client.keys(params).await)?;
    let meta = page.meta.ok_or("meta")?;
    Ok((page.data.ok_or("data")?, meta.limit.ok_or("limit")?, meta.next_cursor))
}

async fn odd(client: &Client) -> Verdict {
    let id = client.new_store("rs odd keys").await?;
    for key in ODD {
        must(client.put(&id, key, &format!("value of {key}")).await)?;
    }
    for key in ODD {
        same(key, must(client.get(&id, key).await)?, format!("value of {key}"))?;
    }
    let mut wanted = ODD.map(str::to_owned).to_vec();
    wanted.sort();
    let (keys, limit, cursor) = page(client, list(&id)).await?;
    same("keys", &keys, &wanted)?;
    same("limit", limit, 1000)?;
    same("cursor", cursor, None)?;
    for key in ODD {
        must(client.delete(&id, key).await)?;
        wanted.retain(|other| other != key);
        same("keys left", &page(client, list(&id)).await?.0, &wanted)?;
    }
    must(client.delete_store(&id).await)
}

async fn spaces(client: &Client) -> Verdict {
    let id = client.new_store("rs spaces").await?;
    must(client.put(&id, "a b", "spaced").await)?;
    same("keys", page(client, list(&id)).await?.0, vec!["a+b".to_owned()])?;
    same("value", must(client.get(&id, "a b").await)?.as_str(), "spaced")?;
    same("value", must(client.get(&id, "a+b").await)?.as_str(), "spaced")
}

async fn collapsing(client: &Client, key: &str) -> Verdict {
    let name = format!("rs for {key:?}");
    let id = client.new_store(&name).await?;
    for empty in [true, false] {
        if !empty {
            must(client.put(&id, "keep", "kept").await)?;
        }
        refused_somehow("put", client.put(&id, key, "x").await)?;
        refused_somehow("get", client.get(&id, key).await)?;
        refused_somehow("delete", client.delete(&id, key).await)?;
        refused_somehow("forced delete", client.delete_with(forced(&id, key)).await)?;
        same("name", must(client.describe(&id).await)?.name, Some(name.clone()))?;
    }
    same("value", must(client.get(&id, "keep").await)?.as_str(), "kept")?;
    same("keys", page(client, list(&id)).await?.0, vec!["keep".to_owned()])
}

async fn illegal(client: &Client) -> Verdict {
    let id = client.new_store("rs illegal keys").await?;
    let long = "k".repeat(1025);
    for key in ILLEGAL.into_iter().chain([long.as_str()]) {
        refused(&format!("put {key:?}"), client.put(&id, key, "x").await, 400)?;
        refused(&format!("get {key:?}"), client.get(&id, key).await, 400)?;
        refused(&format!("delete {key:?}"), client.delete(&id, key).await, 400)?;
    }
    must(client.put(&id, &long[1..], "longest").await)?;
    same("keys", page(client, list(&id)).await?.0, vec![long[1..].to_owned()])
}

async fn selection(client: &Client) -> Verdict {
    let id = client.new_store("rs lists").await?;
    same("keys", page(client, list(&id)).await?, (vec![], 1000, None))?;
    for key in ["apple", "batch-1", "batch-2", "batch-3"] {
        must(client.put(&id, key, "v").await)?;
    }
    for consistency in ["strong", "eventual"] {
        let mut params = list(&id);
        params.prefix = Some("batch".to_owned());
        params.limit = Some(2);
        params.consistency = Some(consistency.to_owned());
        let (keys, limit, cursor) = page(client, params.clone()).await?;
        same("first page", keys, vec!["batch-1".to_owned(), "batch-2".to_owned()])?;
        same("limit", limit, 2)?;
        same("cursor", cursor.as_deref(), Some("CgdiYXRjaC0y"))?;
        params.cursor = cursor;
        let rest = (vec!["batch-3".to_owned()], 2, None);
        same("second page", page(client, params).await?, rest)?;
    }
    Ok(())
}

async fn bad_selection(client: &Client) -> Verdict {
    let id = client.new_store("rs bad lists").await?;
    for limit in [0, -1] {
        let params = KvStoreListItemKeysParams { limit: Some(limit), ..list(&id) };
        refused(&format!("limit {limit}"), client.keys(params).await, 400)?;
    }
    let params = KvStoreListItemKeysParams { cursor: Some("?!".to_owned()), ..list(&id) };
    refused("a bad cursor", client.keys(params).await, 400)?;
    let params = KvStoreListItemKeysParams { consistency: Some("weak".to_owned()), ..list(&id) };
    refused("a bad consistency", client.keys(params).await, 400)?;
    let nowhere = "0000000000000000000000";
    refused("an unknown store", client.keys(list(nowhere)).await, 404)
}

async fn many(client: &Client) -> Verdict {
    let id = client.new_store("rs many keys").await?;
    for index in 0..MANY {
        must(client.put(&id, &format!("many/{index:05}"), "v").await)?;
    }
    let (first, _, cursor) = page(client, list(&id)).await?;
    same("first page", first.len(), 1000)?;
    ensure(cursor.is_some(), "the first page has no cursor")?;
    for key in &first {
        must(client.delete(&id, key).await)?;
    }
    let params = KvStoreListItemKeysParams { cursor, ..list(&id) };
    let (second, _, cursor) = page(client, params).await?;
    same("second page", second.len(), MANY - 1000)?;
    same("cursor of the second page", cursor, None)?;
    for key in &second {
        must(client.delete(&id, key).await)?;
    }
    must(client.delete_store(&id).await)
}
