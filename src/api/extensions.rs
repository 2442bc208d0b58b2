//! Endpoints under `/_/v1` that the hosted API does not have: the server's version, items with
//! details, and deletion by prefix.

use super::Api;
use super::error::{Error, json};
use super::keys::{list_meta, utf8};
use super::query::Query;
use crate::http::{RequestHead, Response};
use crate::kv::delete_prefix::PrefixDeletion;
use crate::kv::items::Item;
use crate::kv::types::StoreId;
use crate::wire::server_secret::is_challenge;
use crate::wire::{self, ServerSecret};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Maximum and default number of items deleted by one request.
const DELETE_LIMIT_MAX: usize = 10_000;

/// Identifies the server as Steadfast, with its version and its answer to a challenge.
pub(super) fn about(head: &RequestHead, secret: Option<&ServerSecret>) -> Result<Response, Error> {
    let query = Query::parse(head.query())?;
    let challenge = query.text("challenge")?;
    if challenge.is_some_and(|challenge| !is_challenge(challenge)) {
        let rule = "challenge must have 64 lowercase hexadecimal digits";
        return Err(Error::Invalid(rule.into()));
    }
    let proof = challenge.and_then(|challenge| secret.map(|secret| secret.prove(challenge)));
    let (name, version) = ("steadfast".into(), env!("CARGO_PKG_VERSION").into());
    Ok(json(200, &wire::ServerInfo { name, version, proof }))
}

impl Api {
    pub(super) async fn list_items(
        &self,
        store: Result<StoreId, Error>,
        head: &RequestHead,
    ) -> Result<Response, Error> {
        let list = Query::parse(head.query())?.list_keys()?;
        let page = self.kv.list_keys(&store?, &list).await?;
        let data = page.items().map(|item| details(item?)).collect::<Result<Vec<_>, Error>>()?;
        let last = data.last().filter(|_| page.more);
        let meta = list_meta(list, last.map(|last| last.key.as_bytes()));
        Ok(json(200, &wire::ItemDetailsList { data, meta }))
    }

    pub(super) async fn delete_items(
        &self,
        store: Result<StoreId, Error>,
        head: &RequestHead,
    ) -> Result<Response, Error> {
        let query = Query::parse(head.query())?;
        let (prefix, all) = (query.text("prefix")?, query.flag("all")?);
        let limit = query.limit(DELETE_LIMIT_MAX)? as u64;
        let dry_run = query.flag("dry_run")?;
        let prefix = match (prefix, all) {
            (Some(prefix), false) => prefix,
            (None, true) => "",
            (Some(_), true) | (None, false) => {
                return Err(Error::Invalid("either prefix or all=true is required".into()));
            }
        };
        if dry_run {
            let matched = self.kv.count_prefix(&store?, prefix).await?;
            return Ok(json(200, &wire::MatchedCount { matched }));
        }
        let deletion = self.kv.delete_prefix(&store?, prefix, limit).await?;
        let PrefixDeletion { deleted, more } = deletion;
        Ok(json(200, &wire::DeletedCount { deleted, more }))
    }
}

fn details((key, item): (&[u8], Item)) -> Result<wire::ItemDetails, Error> {
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
