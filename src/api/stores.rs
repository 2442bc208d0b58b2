//! Endpoints of stores (contract.md, section 2).

use super::Api;
use super::error::{Error, json};
use super::query::Query;
use crate::http::{Body, Head, Response, Stream};
use crate::kv::limits::LIST_LIMIT_MAX;
use crate::kv::stores::ListStores;
use crate::kv::types::{Location, StoreId, StoreName};
use crate::kv::{self, StoreInfo, cursor};
use crate::wire;
use serde_json::Value;

/// Bytes of a JSON body at most; a name of 255 characters takes 3 KiB when all of it is escaped.
const JSON_BYTES_MAX: usize = 64 * 1024;

fn shown(info: &StoreInfo) -> wire::Store {
    wire::Store {
        id: info.id.to_string(),
        name: info.name.as_str().into(),
        created_at: wire::timestamp(info.created),
        updated_at: wire::timestamp(info.updated),
    }
}

impl Api {
    pub(super) async fn create_store<S: Stream>(
        &self,
        head: &Head,
        body: &mut Body<'_, S>,
    ) -> Result<Response, Error> {
        let query = Query::parse(head.query())?;
        let location = query.text("location")?.map(Location::parse).transpose()?;
        let name = self.read_name(body).await?;
        let info = self.kv.create_store(name, location).await?;
        Ok(json(201, &shown(&info)))
    }

    pub(super) async fn list_stores(&self, head: &Head) -> Result<Response, Error> {
        let query = Query::parse(head.query())?;
        let limit = query.limit(LIST_LIMIT_MAX)?;
        let after = query.text("cursor")?.map(name_cursor).transpose()?;
        let name = query.text("name")?.map(str::to_owned);
        let page = self.kv.list_stores(&ListStores { name, after, limit }).await?;
        let last = page.stores.last().filter(|_| page.more);
        let next_cursor = last.map(|info| cursor::encode(info.name.as_str().as_bytes()));
        let meta = wire::StoreListMeta { limit, total: page.total, next_cursor };
        Ok(json(200, &wire::StoreList { data: page.stores.iter().map(shown).collect(), meta }))
    }

    pub(super) async fn describe_store(&self, store: StoreId) -> Result<Response, Error> {
        Ok(json(200, &shown(&self.kv.describe_store(&store).await?)))
    }

    pub(super) async fn rename_store<S: Stream>(
        &self,
        store: StoreId,
        body: &mut Body<'_, S>,
    ) -> Result<Response, Error> {
        // A store that is not there is said before its new name is judged.
        self.kv.describe_store(&store).await?;
        let name = self.read_name(body).await?;
        self.kv.rename_store(&store, name).await?;
        Ok(Response::new(200))
    }

    pub(super) async fn delete_store(&self, store: StoreId) -> Result<Response, Error> {
        self.kv.delete_store(&store).await?;
        Ok(Response::new(204))
    }

    /// The name in a JSON body, whatever its type is said to be.
    async fn read_name<S: Stream>(&self, body: &mut Body<'_, S>) -> Result<StoreName, Error> {
        let invalid = |what: &str| Error::Invalid(format!("the body {what}"));
        let mut bytes = Vec::new();
        while let Some(chunk) = body.chunk().await? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() > JSON_BYTES_MAX {
                return Err(invalid(&format!("must have at most {JSON_BYTES_MAX} bytes")));
            }
        }
        if bytes.is_empty() {
            return Err(invalid("must be JSON with a name, and is empty"));
        }
        let value: Value = serde_json::from_slice(&bytes)
            .map_err(|e| invalid(&format!("must be JSON with a name: {e}")))?;
        match value.get("name") {
            Some(Value::String(name)) => Ok(StoreName::parse(name)?),
            Some(_) => Err(Error::Invalid("name must be a string".into())),
            None => Err(invalid("must be a JSON object with a name")),
        }
    }
}

fn name_cursor(text: &str) -> Result<String, kv::Error> {
    let name = cursor::decode(text)?;
    String::from_utf8(name)
        .map_err(|_| kv::Error::invalid("cursor", "must be one that a list of stores answered"))
}
