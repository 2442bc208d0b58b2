//! Checks of KvStoreApi (create, list, get, put to rename, delete), and of tokens.

use fastly_api::apis::kv_store_api::KvStoreListParams;

use crate::checks::{Checks, Verdict, ensure, same};
use crate::client::{Client, must, refused};

const NOWHERE: &str = "0000000000000000000000";

pub async fn run(checks: &mut Checks, client: &Client) {
    checks.section("stores");
    checks.check("create returns id, name and both dates", created(client)).await;
    checks.check("create accepts each location and no other", locations(client)).await;
    checks.check("an invalid, missing or existing name returns 400", bad_names(client)).await;
    checks.check("get returns a created store, or 404 for unknown ids", described(client)).await;
    checks.check("list returns every store once, page by page", listed(client)).await;
    checks.check("list by name returns that store, or none", listed_by_name(client)).await;
    checks.check("an invalid list limit returns 400", bad_limits(client)).await;
    checks.check("put renames a store and changes nothing else", renamed(client)).await;
    checks
        .check("a rename to an invalid or existing name changes nothing", not_renamed(client))
        .await;
    checks
        .check(
            "delete returns 409 for a store with items, 204 once it is empty, then 404",
            deleted(client),
        )
        .await;
    checks.check("every call without a valid token returns 401", unauthorized(client)).await;
}

async fn created(client: &Client) -> Verdict {
    let store = must(client.create_in("rs Störe 1", None).await)?;
    let id = store.id.ok_or("no id")?;
    let plain = |byte: u8| byte.is_ascii_digit() || byte.is_ascii_lowercase();
    ensure(
        id.len() == 22 && id.bytes().all(plain),
        format!("the id must be 22 characters of [0-9a-z]: {id}"),
    )?;
    same("name", store.name.as_deref(), Some("rs Störe 1"))?;
    let created_at = store.created_at.ok_or("created_at")?;
    let shape: String =
        created_at.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    same("format of created_at", shape.as_str(), "0000-00-00 00:00:00")?;
    same("updated_at", store.updated_at, Some(created_at))
}

async fn locations(client: &Client) -> Verdict {
    for location in ["US", "EU", "ASIA", "AUS"] {
        must(client.create_in(&format!("rs in {location}"), Some(location)).await)?;
    }
    refused("location MOON", client.create_in("rs on the moon", Some("MOON")).await, 400)
}

async fn bad_names(client: &Client) -> Verdict {
    for name in ["", "a\nb", "rs Störe 1", &"a".repeat(256)] {
        refused(&format!("{name:?}"), client.create_in(name, None).await, 400)?;
    }
    refused("a body of null", client.create_unnamed().await, 400)
}

async fn described(client: &Client) -> Verdict {
    let made = must(client.create_in("rs described", None).await)?;
    let id = made.id.clone().ok_or("no id")?;
    same("store", must(client.describe(&id).await)?, made)?;
    for unknown in [NOWHERE, "x", "a b"] {
        refused(unknown, client.describe(unknown).await, 404)?;
    }
    Ok(())
}

/// Returns the names of all stores, read in pages of `limit`, and the number of pages.
async fn all_names(client: &Client, limit: Option<i32>) -> Result<(Vec<String>, usize), String> {
    let mut names = Vec::new();
    let mut cursor = None;
    for pages in 1..1000 {
        let params = KvStoreListParams { cursor, limit, name: None };
        let page = must(client.stores(params).await)?;
        let meta = page.meta.ok_or("meta")?;
        same("limit", meta.limit, Some(limit.unwrap_or(1000)))?;
        names.extend(page.data.ok_or("data")?.into_iter().filter_map(|store| store.name));
        cursor = meta.next_cursor;
        if cursor.is_none() {
            return Ok((names, pages));
        }
    }
    Err("paging does not end".to_owned())
}

async fn listed(client: &Client) -> Verdict {
    let (whole, pages) = all_names(client, None).await?;
    same("pages", pages, 1)?;
    ensure(whole.iter().any(|name| name == "rs described"), format!("{whole:?}"))?;
    ensure(whole.is_sorted_by_key(|name| name.to_ascii_uppercase()), format!("{whole:?}"))?;
    for limit in 1..=whole.len() {
        let (paged, pages) = all_names(client, i32::try_from(limit).ok()).await?;
        same("stores", &paged, &whole)?;
        same("pages", pages, whole.len().div_ceil(limit))?;
    }
    Ok(())
}

async fn listed_by_name(client: &Client) -> Verdict {
    for (name, wanted) in [("rs described", 1), ("RS described", 0), ("rs", 0)] {
        let params = KvStoreListParams { name: Some(name.to_owned()), ..Default::default() };
        let data = must(client.stores(params).await)?.data.ok_or("data")?;
        same(name, data.len(), wanted)?;
        ensure(data.iter().all(|store| store.name.as_deref() == Some(name)), format!("{data:?}"))?;
    }
    Ok(())
}

async fn bad_limits(client: &Client) -> Verdict {
    for limit in [0, -1] {
        let params = KvStoreListParams { limit: Some(limit), ..Default::default() };
        refused(&format!("limit {limit}"), client.stores(params).await, 400)?;
    }
    Ok(())
}

async fn renamed(client: &Client) -> Verdict {
    let before = must(client.create_in("rs before", Some("EU")).await)?;
    let id = before.id.clone().ok_or("no id")?;
    must(client.put(&id, "k", "kept").await)?;
    must(client.rename(&id, "rs after").await)?;
    let after = must(client.describe(&id).await)?;
    same("name", after.name.as_deref(), Some("rs after"))?;
    same("created_at", &after.created_at, &before.created_at)?;
    ensure(after.updated_at >= before.updated_at, "updated_at decreased")?;
    same("value", must(client.get(&id, "k").await)?.as_str(), "kept")?;
    must(client.rename(&id, "rs after").await)?;
    // The old name can be reused.
    client.new_store("rs before").await.map(|_| ())
}

async fn not_renamed(client: &Client) -> Verdict {
    let id = client.new_store("rs steady").await?;
    for name in ["", "rs after", &"a".repeat(256)] {
        refused(&format!("{name:?}"), client.rename(&id, name).await, 400)?;
    }
    refused("an unknown store", client.rename(NOWHERE, "rs nobody").await, 404)?;
    same("name", must(client.describe(&id).await)?.name.as_deref(), Some("rs steady"))
}

async fn deleted(client: &Client) -> Verdict {
    let id = client.new_store("rs to be deleted").await?;
    must(client.put(&id, "k", "v").await)?;
    refused("a store with an item", client.delete_store(&id).await, 409)?;
    must(client.delete(&id, "k").await)?;
    must(client.delete_store(&id).await)?;
    refused("a deleted store", client.delete_store(&id).await, 404)?;
    refused("a deleted store", client.describe(&id).await, 404)?;
    refused("an item in a deleted store", client.get(&id, "k").await, 404)?;
    refused("a write to a deleted store", client.put(&id, "k", "v").await, 404)
}

async fn unauthorized(client: &Client) -> Verdict {
    let id = client.new_store("rs guarded").await?;
    let cut = &client.token()[1..];
    for token in [None, Some(""), Some("wrong"), Some(cut)] {
        let stranger = client.with_token(token);
        refused("list", stranger.stores(KvStoreListParams::default()).await, 401)?;
        refused("create", stranger.create_in("rs stranger", None).await, 401)?;
        refused("get", stranger.describe(&id).await, 401)?;
        refused("rename", stranger.rename(&id, "rs taken over").await, 401)?;
        refused("delete", stranger.delete_store(&id).await, 401)?;
        refused("put item", stranger.put(&id, "k", "v").await, 401)?;
        refused("get item", stranger.get(&id, "k").await, 401)?;
        refused("delete item", stranger.delete(&id, "k").await, 401)?;
    }
    same("name", must(client.describe(&id).await)?.name.as_deref(), Some("rs guarded"))
}
