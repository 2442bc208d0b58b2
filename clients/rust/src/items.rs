//! Checks of KvStoreItemApi: upsert, get and delete with their options.

use std::time::Duration;

use fastly_api::apis::kv_store_item_api::{KvStoreDeleteItemParams, KvStoreUpsertItemParams};
use tokio::time::sleep;

use crate::checks::{Checks, Verdict, ensure, same};
use crate::client::{Client, Failure, delete_params, must, put_params, refused};

pub async fn run(checks: &mut Checks, client: &Client) {
    checks.section("items");
    let store = match client.new_store("rs items").await {
        Ok(id) => Items { client: client.clone(), id },
        Err(reason) => return checks.check("create a store", async { Err(reason) }).await,
    };
    checks.check("a value round-trips", store.values()).await;
    checks.check("the JSON that the crate sends is stored unchanged", store.json_text()).await;
    checks
        .check(
            "a value that is not JSON is served, although the crate cannot decode it",
            store.no_json(),
        )
        .await;
    checks.check("metadata is stored, and removed when omitted or empty", store.metadata()).await;
    checks.check("add creates a new key and rejects an existing one", store.add()).await;
    checks.check("append and prepend extend a value", store.joined()).await;
    checks.check("modes set to false have no effect", store.false_modes()).await;
    checks.check("two modes at once return 400", store.two_modes()).await;
    checks
        .check("if-generation-match 0 requires a missing key; others return 412", store.compare())
        .await;
    checks.check("an item exists until it expires", store.lifetime()).await;
    checks.check("a time to live below 1 returns 400", store.bad_lifetime()).await;
    checks.check("delete returns 204, then 404, or 204 with force", store.delete()).await;
    checks.check("delete with another generation returns 412", store.delete_compared()).await;
}

/// A store, with calls on its items.
struct Items {
    client: Client,
    id: String,
}

type Change = fn(&mut KvStoreUpsertItemParams);

impl Items {
    async fn put(&self, key: &str, value: &str) -> Verdict {
        must(self.client.put(&self.id, key, value).await)
    }

    async fn put_with(&self, key: &str, value: &str, change: Change) -> Result<(), Failure> {
        let mut params = put_params(&self.id, key, value);
        change(&mut params);
        self.client.upsert(params).await
    }

    async fn delete_with(
        &self,
        key: &str,
        change: fn(&mut KvStoreDeleteItemParams),
    ) -> Result<(), Failure> {
        let mut params = delete_params(&self.id, key);
        change(&mut params);
        self.client.delete_with(params).await
    }

    async fn reads(&self, key: &str, wanted: &str) -> Verdict {
        same(key, must(self.client.get(&self.id, key).await)?.as_str(), wanted)
    }

    async fn stores(&self, key: &str, wanted: &str) -> Verdict {
        same(key, self.client.stored(&self.id, key).await?.0.as_str(), wanted)
    }

    async fn values(&self) -> Verdict {
        let long = "é✓ long ".repeat(200_000);
        for value in ["hello", "", "é✓😀", "\"quoted\" \\ \r\n\t\u{0}\u{2028}", "{\"a\":1}", &long]
        {
            self.put("value", value).await?;
            self.reads("value", value).await?;
        }
        Ok(())
    }

    async fn json_text(&self) -> Verdict {
        self.put("json", "hello").await?;
        self.stores("json", "\"hello\"").await?;
        must(self.put_with("json", "", |params| params.body = None).await)?;
        self.stores("json", "null").await
    }

    async fn no_json(&self) -> Verdict {
        // Two JSON strings in a row are not valid JSON.
        self.put("no json", "a").await?;
        must(self.put_with("no json", "b", |params| params.append = Some(true)).await)?;
        let result = self.client.get(&self.id, "no json").await;
        ensure(matches!(result, Err(Failure::Unreadable)), format!("{result:?}"))?;
        refused("a missing key", self.client.get(&self.id, "nowhere").await, 404)
    }

    async fn metadata(&self) -> Verdict {
        let with: Change = |params| params.metadata = Some("{\"a\":\"é✓\"}".to_owned());
        let without: [Change; 2] =
            [|params| params.metadata = None, |params| params.metadata = Some(String::new())];
        for change in without {
            must(self.put_with("meta", "v", with).await)?;
            let (_, metadata) = self.client.stored(&self.id, "meta").await?;
            same("metadata", metadata.as_str(), "{\"a\":\"é✓\"}")?;
            must(self.put_with("meta", "v", change).await)?;
            let (_, metadata) = self.client.stored(&self.id, "meta").await?;
            same("metadata", metadata.as_str(), "")?;
        }
        let long: Change = |params| params.metadata = Some("m".repeat(2001));
        refused("2001 bytes of metadata", self.put_with("meta", "w", long).await, 400)?;
        self.reads("meta", "v").await
    }

    async fn add(&self) -> Verdict {
        let add: Change = |params| params.add = Some(true);
        must(self.put_with("added", "first", add).await)?;
        refused("a second add", self.put_with("added", "second", add).await, 412)?;
        self.reads("added", "first").await
    }

    async fn joined(&self) -> Verdict {
        let append: Change = |params| params.append = Some(true);
        let prepend: Change = |params| params.prepend = Some(true);
        must(self.put_with("joined", "b", append).await)?;
        self.reads("joined", "b").await?;
        must(self.put_with("joined", "c", append).await)?;
        must(self.put_with("joined", "a", prepend).await)?;
        self.stores("joined", "\"a\"\"b\"\"c\"").await
    }

    async fn false_modes(&self) -> Verdict {
        let none: Change = |params| {
            params.add = Some(false);
            params.append = Some(false);
            params.prepend = Some(false);
            params.background_fetch = Some(false);
        };
        must(self.put_with("plain", "one", none).await)?;
        must(self.put_with("plain", "two", none).await)?;
        self.reads("plain", "two").await?;
        let in_background: Change = |params| params.background_fetch = Some(true);
        must(self.put_with("plain", "three", in_background).await)?;
        self.reads("plain", "three").await
    }

    async fn two_modes(&self) -> Verdict {
        let both: Change = |params| {
            params.append = Some(true);
            params.prepend = Some(true);
        };
        self.put("modes", "v").await?;
        refused("append and prepend", self.put_with("modes", "w", both).await, 400)?;
        self.reads("modes", "v").await
    }

    async fn compare(&self) -> Verdict {
        let zero: Change = |params| params.if_generation_match = Some(0);
        let most: Change = |params| params.if_generation_match = Some(i32::MAX);
        let below: Change = |params| params.if_generation_match = Some(-1);
        refused("a missing key", self.put_with("compared", "v", most).await, 412)?;
        must(self.put_with("compared", "v", zero).await)?;
        refused("0 on a key", self.put_with("compared", "w", zero).await, 412)?;
        refused("another generation", self.put_with("compared", "w", most).await, 412)?;
        refused("a negative generation", self.put_with("compared", "w", below).await, 400)?;
        self.reads("compared", "v").await
    }

    async fn lifetime(&self) -> Verdict {
        let short: Change = |params| params.time_to_live_sec = Some(2);
        let most: Change = |params| params.time_to_live_sec = Some(i32::MAX);
        must(self.put_with("short", "v", short).await)?;
        must(self.put_with("long", "v", most).await)?;
        self.reads("short", "v").await?;
        sleep(Duration::from_millis(2050)).await;
        refused("an expired item", self.client.get(&self.id, "short").await, 404)?;
        self.reads("long", "v").await?;
        // A key that expires between a list and its deletion must not fail the deletion.
        must(self.client.delete(&self.id, "short").await)
    }

    async fn bad_lifetime(&self) -> Verdict {
        let zero: Change = |params| params.time_to_live_sec = Some(0);
        let below: Change = |params| params.time_to_live_sec = Some(-5);
        for change in [zero, below] {
            refused("an invalid time to live", self.put_with("long", "w", change).await, 400)?;
        }
        self.reads("long", "v").await
    }

    async fn delete(&self) -> Verdict {
        let forced = |params: &mut KvStoreDeleteItemParams| params.force = Some(true);
        let unforced = |params: &mut KvStoreDeleteItemParams| params.force = Some(false);
        self.put("del", "v").await?;
        must(self.client.delete(&self.id, "del").await)?;
        refused("a second delete", self.client.delete(&self.id, "del").await, 404)?;
        refused("force=false", self.delete_with("del", unforced).await, 404)?;
        must(self.delete_with("del", forced).await)?;
        refused("a deleted item", self.client.get(&self.id, "del").await, 404)
    }

    async fn delete_compared(&self) -> Verdict {
        self.put("del", "v").await?;
        let other = |params: &mut KvStoreDeleteItemParams| params.if_generation_match = Some(17);
        refused("another generation", self.delete_with("del", other).await, 412)?;
        self.reads("del", "v").await
    }
}
