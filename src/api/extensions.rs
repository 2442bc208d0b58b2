//! Endpoints beyond the hosted API, under `/_/v1`: lists with details, deletion by prefix, exports.

use super::Api;
use super::error::{Error, json};
use super::export::ExportBody;
use super::query::Query;
use crate::http::{Payload, RequestHead, Response};
use crate::kv::items::Item;
use crate::kv::limits::LIST_LIMIT_MAX;
use crate::kv::listing::ListKeys;
use crate::kv::types::StoreId;
use crate::kv::{self, cursor};
use crate::wire;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Items that one request deletes at most, which is also the default.
const CLEAR_LIMIT_MAX: usize = 10_000;
/// Bytes that an export holds at once.
const EXPORT_BYTES: u64 = 4 << 20;

/// What a client tells this server by.
pub(super) fn about() -> Response {
    let (name, version) = ("steadfast".into(), env!("CARGO_PKG_VERSION").into());
    json(200, &wire::ServerInfo { name, version })
}

impl Api {
    pub(super) async fn list_details(
        &self,
        store: Result<StoreId, Error>,
        head: &RequestHead,
    ) -> Result<Response, Error> {
        let query = Query::parse(head.query())?;
        let limit = query.limit(LIST_LIMIT_MAX)?;
        let after = query.text("cursor")?.map(cursor::decode).transpose()?;
        let given = query.text("prefix")?;
        let prefix = given.unwrap_or_default().into();
        let list = ListKeys { prefix, after, limit, eventual: false };
        let page = self.kv.list_keys(&store?, &list).await?;
        let data = page.items().map(|found| details(found?)).collect::<Result<Vec<_>, Error>>()?;
        let last = data.last().filter(|_| page.more);
        let next_cursor = last.map(|last| cursor::encode(last.key.as_bytes()));
        let prefix = given.map(str::to_owned);
        let meta = wire::KeyListMeta { limit, next_cursor, prefix, consistency: None };
        Ok(json(200, &wire::ItemDetailsList { data, meta }))
    }

    pub(super) async fn clear(
        &self,
        store: Result<StoreId, Error>,
        head: &RequestHead,
    ) -> Result<Response, Error> {
        let query = Query::parse(head.query())?;
        let (prefix, all) = (query.text("prefix")?, query.flag("all")?);
        let limit = query.limit(CLEAR_LIMIT_MAX)? as u64;
        let dry_run = query.flag("dry_run")?;
        let prefix = match (prefix, all) {
            (Some(prefix), false) => prefix,
            (None, true) => "",
            (Some(_), true) | (None, false) => {
                let reason = "either prefix or all=true must say which items to delete";
                return Err(Error::Invalid(reason.into()));
            }
        };
        if dry_run {
            let matched = self.kv.count_prefix(&store?, prefix).await?;
            return Ok(json(200, &wire::MatchedCount { matched }));
        }
        let kv::delete_prefix::PrefixDeletion { deleted, more } =
            self.kv.delete_prefix(&store?, prefix, limit).await?;
        Ok(json(200, &wire::DeletedCount { deleted, more }))
    }

    pub(super) async fn export(
        &self,
        store: Result<StoreId, Error>,
        head: &RequestHead,
        request: u64,
    ) -> Result<Response, Error> {
        let query = Query::parse(head.query())?;
        let prefix = query.text("prefix")?.unwrap_or_default();
        let store = store?;
        self.kv.describe_store(&store).await?;
        let places =
            (self.admission.snapshot().await?, self.admission.download(EXPORT_BYTES).await?);
        let export = self.kv.export(&store, prefix).await?;
        let mut response = Response::new(200)
            .field("Content-Type", b"application/x-ndjson")
            .field("Cache-Control", b"no-store")
            .payload(Payload::Open(Box::new(ExportBody::new(export, request))));
        response.hold = Some(Box::new(places));
        Ok(response)
    }
}

fn details((key, item): (&[u8], Item)) -> Result<wire::ItemDetails, Error> {
    let key = std::str::from_utf8(key).map_err(|_| {
        Error::Kv(kv::Error::Internal("stored data is damaged: a key is not UTF-8".into()))
    })?;
    let text = std::str::from_utf8(item.metadata.as_bytes()).ok();
    Ok(wire::ItemDetails {
        key: key.into(),
        size: item.size,
        metadata: text.map(str::to_owned),
        metadata_base64: match text {
            None => Some(STANDARD.encode(item.metadata.as_bytes())),
            Some(_) => None,
        },
        generation: item.generation,
        modified: wire::rfc3339(item.modified),
        expires: item.expires.map(wire::rfc3339),
    })
}
