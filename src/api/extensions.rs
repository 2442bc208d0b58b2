//! Endpoints under `/_/v1` that the hosted API does not have: the server's version, lists of items
//! with details, and deletion by prefix.

use super::Api;
use super::error::{Error, json, json_bytes_admitted};
use super::keys::{list_meta, page_bytes_max, push_json, utf8};
use super::query::Query;
use crate::http::{Body, RequestHead, Response, Stream};
use crate::kv::cursor;
use crate::kv::delete_prefix::{PrefixCount, PrefixDeletion, SCAN_ITEMS};
use crate::kv::items::Item;
use crate::kv::types::StoreId;
use crate::wire::server_secret::is_challenge;
use crate::wire::{self, ServerSecret};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::pin::pin;

/// Maximum and default number of items deleted by one request.
const DELETE_LIMIT_MAX: usize = 10_000;

/// Typical size in bytes of an item's details as JSON, without its key and metadata.
const DETAILS_BYTES: usize = 160;

/// Identifies the server as Steadfast: returns its version, its answer to a challenge, and the
/// simulation that it runs, if any.
pub(super) fn about(
    head: &RequestHead,
    secret: Option<&ServerSecret>,
    simulation: Option<wire::SimulationInfo>,
) -> Result<Response, Error> {
    let query = Query::parse(head.query())?;
    let challenge = query.text("challenge")?;
    if challenge.is_some_and(|challenge| !is_challenge(challenge)) {
        let rule = "challenge must have 64 lowercase hexadecimal digits";
        return Err(Error::Invalid(rule.into()));
    }
    let proof = challenge.and_then(|challenge| secret.map(|secret| secret.prove(challenge)));
    let (name, version) = ("steadfast".into(), env!("CARGO_PKG_VERSION").into());
    Ok(json(200, &wire::ServerInfo { name, version, proof, simulation }))
}

impl Api {
    pub(super) async fn list_items(
        &self,
        store: Result<StoreId, Error>,
        head: &RequestHead,
    ) -> Result<Response, Error> {
        let list = Query::parse(head.query())?.list_keys()?;
        let permit = self.limiter.download(2 * page_bytes_max(list.limit)).await?;
        let page = self.kv.list_keys(&store?, &list).await?;
        // Serialize item by item, because collecting the details first would double the memory
        // used.
        let mut body = Vec::with_capacity(64 + page.bytes() + page.len() * DETAILS_BYTES);
        body.extend_from_slice(b"{\"data\":[");
        let mut last = None;
        for item in page.items() {
            let (key, item) = item?;
            if last.replace(key).is_some() {
                body.push(b',');
            }
            push_json(&mut body, &details(key, item)?)?;
        }
        let meta = list_meta(list, last.filter(|_| page.more));
        body.extend_from_slice(b"],\"meta\":");
        push_json(&mut body, &meta)?;
        body.push(b'}');
        Ok(json_bytes_admitted(body, permit))
    }

    pub(super) async fn delete_items<S: Stream>(
        &self,
        store: Result<StoreId, Error>,
        head: &RequestHead,
        body: &mut Body<'_, S>,
    ) -> Result<Response, Error> {
        let query = Query::parse(head.query())?;
        let (prefix, all) = (query.text("prefix")?, query.flag("all")?);
        let limit = query.limit(DELETE_LIMIT_MAX)? as u64;
        let dry_run = query.flag("dry_run")?;
        let prefix = match (prefix, all) {
            (Some(prefix), false) => prefix,
            (None, true) => "",
            (Some(_), true) | (None, false) => {
                return Err(Error::Invalid(
                    "exactly one of prefix and all=true is required".into(),
                ));
            }
        };
        // Both a dry run and a deletion scan the items page by page.
        let permit = pin!(self.limiter.download(page_bytes_max(SCAN_ITEMS)));
        let _permit = body.while_connected(permit).await??;
        if dry_run {
            let after = query.text("cursor")?.map(cursor::decode).transpose()?;
            let store = store?;
            let count = pin!(self.kv.count_prefix(&store, prefix, after.as_deref()));
            let PrefixCount { matched, last } = body.while_connected(count).await??;
            let next_cursor = last.as_deref().map(cursor::encode);
            return Ok(json(200, &wire::MatchedCount { matched, next_cursor }));
        }
        let deletion = self.kv.delete_prefix(&store?, prefix, limit).await?;
        let PrefixDeletion { deleted, more } = deletion;
        Ok(json(200, &wire::DeletedCount { deleted, more }))
    }
}

fn details(key: &[u8], item: Item) -> Result<wire::ItemDetails, Error> {
    let metadata = item.metadata.as_bytes();
    let text = std::str::from_utf8(metadata).ok();
    Ok(wire::ItemDetails {
        key: utf8(key)?.into(),
        size: item.size,
        metadata: text.map(str::to_owned),
        metadata_base64: text.is_none().then(|| STANDARD.encode(metadata)),
        generation: item.generation,
        modified: wire::rfc3339(item.modified_at),
        expires: item.expires_at.map(wire::rfc3339),
    })
}
