//! Creating, listing, renaming and deleting stores (docs/contract.md section 2).

use super::auth::Principal;
use super::error::{Error, json, json_admitted, without_body};
use super::limiter::MemoryLimiter;
use super::query::Query;
use super::{Api, json_body};
use crate::http::{Body, RequestHead, Response, Stream};
use crate::kv::limits::LIST_LIMIT_MAX;
use crate::kv::stores::ListStores;
use crate::kv::types::{Location, StoreId, StoreName};
use crate::kv::{self, StoreInfo, cursor};
use crate::wire;

/// Memory reserved per store in a list response, in bytes: the record, decoded and as JSON, with a
/// name of 255 four-byte characters.
const STORE_BYTES_MAX: u64 = 6 * 1024;

fn to_wire(info: &StoreInfo) -> wire::Store {
    wire::Store {
        id: info.id.to_string(),
        name: info.name.as_str().into(),
        created_at: wire::timestamp(info.created_at),
        updated_at: wire::timestamp(info.updated_at),
    }
}

impl Api {
    pub(super) async fn create_store<S: Stream>(
        &self,
        head: &RequestHead,
        body: &mut Body<'_, S>,
    ) -> Result<Response, Error> {
        let query = Query::parse(head.query())?;
        let location = query.text("location")?.map(Location::parse).transpose()?;
        let name = read_name(body, &self.limiter).await?;
        let info = self.kv.create_store(name, location).await?;
        Ok(json(201, &to_wire(&info)))
    }

    /// Lists all stores, or only those that the token may access.
    pub(super) async fn list_stores(
        &self,
        head: &RequestHead,
        principal: &Principal,
    ) -> Result<Response, Error> {
        let query = Query::parse(head.query())?;
        let limit = query.limit(LIST_LIMIT_MAX)?;
        let after = query.text("cursor")?.map(name_cursor).transpose()?;
        let name = query.text("name")?.map(str::to_owned);
        let list = ListStores { name, after, limit };
        let permit = self.limiter.download(limit as u64 * STORE_BYTES_MAX).await?;
        let page = match principal.stores() {
            [] => self.kv.list_stores(&list).await?,
            ids => self.kv.list_stores_among(&list, ids).await?,
        };
        let last = page.stores.last().filter(|_| page.more);
        let next_cursor = last.map(|info| cursor::encode(info.name.as_str().as_bytes()));
        let meta = wire::StoreListMeta { limit, total: page.total, next_cursor };
        let data = page.stores.iter().map(to_wire).collect();
        Ok(json_admitted(&wire::StoreList { data, meta }, permit))
    }

    pub(super) async fn describe_store(&self, store: StoreId) -> Result<Response, Error> {
        Ok(json(200, &to_wire(&self.kv.describe_store(&store).await?)))
    }

    pub(super) async fn rename_store<S: Stream>(
        &self,
        store: StoreId,
        body: &mut Body<'_, S>,
    ) -> Result<Response, Error> {
        // An unknown store is reported before an invalid name.
        self.kv.describe_store(&store).await?;
        let name = read_name(body, &self.limiter).await?;
        self.kv.rename_store(&store, name).await?;
        Ok(without_body(200))
    }

    pub(super) async fn delete_store(&self, store: StoreId) -> Result<Response, Error> {
        self.kv.delete_store(&store).await?;
        Ok(without_body(204))
    }
}

/// Reads the store name from a JSON body.
async fn read_name<S: Stream>(
    body: &mut Body<'_, S>,
    limiter: &MemoryLimiter,
) -> Result<StoreName, Error> {
    let fields = json_body::read(body, limiter).await?;
    Ok(StoreName::parse(json_body::text(&fields, "name")?.unwrap_or_default())?)
}

fn name_cursor(text: &str) -> Result<String, kv::Error> {
    let name = cursor::decode(text)?;
    String::from_utf8(name)
        .map_err(|_| kv::Error::invalid("cursor", "must be the next_cursor of a list of stores"))
}
