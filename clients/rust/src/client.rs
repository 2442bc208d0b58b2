//! Wraps the calls of the crate. Each call has its own configuration, but all share one connection
//! pool. The many error types of the crate are converted to one.

use std::env;
use std::fmt::Debug;

use fastly_api::apis::configuration::{ApiKey, Configuration};
use fastly_api::apis::kv_store_api::{self as store_api, *};
use fastly_api::apis::kv_store_item_api::{self as item_api, *};
use fastly_api::apis::{Error, urlencode};
use fastly_api::models::{
    InlineResponse20017 as StorePage, InlineResponse20018 as KeyPage, KvStoreDetails,
    KvStoreRequestCreateOrUpdate as StoreName,
};

use crate::checks::{Verdict, ensure, same};

/// The reason why a call failed: the server rejected it, the crate could not decode the response,
/// or another error occurred.
#[derive(Debug)]
pub enum Failure {
    Refused { status: u16, content: String, decoded: Option<String> },
    Unreadable,
    Broken(String),
}

pub type CallResult<T> = Result<T, Failure>;

fn convert<T, E: Debug>(result: Result<T, Error<E>>) -> CallResult<T> {
    result.map_err(|error| match error {
        Error::ResponseError(response) => Failure::Refused {
            status: response.status.as_u16(),
            content: response.content,
            decoded: response.entity.map(|entity| format!("{entity:?}")),
        },
        Error::Serde(_) => Failure::Unreadable,
        other => Failure::Broken(format!("{other:?}")),
    })
}

/// Returns the result of a call that must succeed, or a description of the failure.
pub fn must<T>(result: CallResult<T>) -> Result<T, String> {
    result.map_err(|failure| match failure {
        Failure::Broken(reason) => reason,
        other => format!("{other:?}"),
    })
}

/// Succeeds if the server responded with this status and, except for 412, a problem body.
pub fn refused<T: Debug>(what: &str, result: CallResult<T>, wanted: u16) -> Verdict {
    match result {
        Err(Failure::Refused { status, content, decoded }) => {
            same(&format!("status for {what} ({content})"), status, wanted)?;
            if status == 412 {
                return same("body of a 412", content.as_str(), "");
            }
            let decoded = decoded.ok_or(format!("{what}: the crate reads {content:?} as JSON"))?;
            for name in ["msg", "title", "detail", "status"] {
                ensure(decoded.contains(name), format!("{what}: {name} in {content}"))?;
            }
            Ok(())
        }
        other => Err(format!("{what}: got {other:?}, wanted status {wanted}")),
    }
}

/// Succeeds if the server responded with a 4xx.
pub fn refused_somehow<T: Debug>(what: &str, result: CallResult<T>) -> Verdict {
    match result {
        Err(Failure::Refused { status: 400..=499, .. }) => Ok(()),
        other => Err(format!("{what}: got {other:?}, wanted a 4xx")),
    }
}

#[derive(Clone)]
pub struct Client {
    config: Configuration,
}

impl Client {
    pub fn from_env() -> Result<Self, String> {
        let need = |name: &str| env::var(name).map_err(|_| format!("{name} is not set"));
        let mut config = Configuration::new();
        config.base_path = need("STEADFAST_URL")?.trim_end_matches('/').to_owned();
        let client = Self { config };
        Ok(client.with_token(Some(&need("STEADFAST_TOKEN")?)))
    }

    /// Returns a client for the same server with another token, or without a token.
    pub fn with_token(&self, token: Option<&str>) -> Self {
        let mut config = self.config.clone();
        config.api_key = token.map(|key| ApiKey { prefix: None, key: key.to_owned() });
        Self { config }
    }

    pub fn token(&self) -> &str {
        self.config.api_key.as_ref().map_or("", |api_key| &api_key.key)
    }

    pub async fn create_in(
        &self,
        name: &str,
        location: Option<&str>,
    ) -> CallResult<KvStoreDetails> {
        let params = KvStoreCreateParams {
            location: location.map(str::to_owned),
            kv_store_request_create_or_update: Some(StoreName::new(name.to_owned())),
        };
        convert(store_api::kv_store_create(&mut self.config.clone(), params).await)
    }

    pub async fn create_unnamed(&self) -> CallResult<KvStoreDetails> {
        let params = KvStoreCreateParams::default();
        convert(store_api::kv_store_create(&mut self.config.clone(), params).await)
    }

    /// Creates a store and returns its id.
    pub async fn new_store(&self, name: &str) -> Result<String, String> {
        must(self.create_in(name, None).await)?.id.ok_or("no id".to_owned())
    }

    pub async fn describe(&self, store_id: &str) -> CallResult<KvStoreDetails> {
        let params = KvStoreGetParams { store_id: store_id.to_owned() };
        convert(store_api::kv_store_get(&mut self.config.clone(), params).await)
    }

    pub async fn stores(&self, params: KvStoreListParams) -> CallResult<StorePage> {
        convert(store_api::kv_store_list(&mut self.config.clone(), params).await)
    }

    pub async fn rename(&self, store_id: &str, name: &str) -> CallResult<()> {
        let params = KvStorePutParams {
            store_id: store_id.to_owned(),
            kv_store_request_create_or_update: Some(StoreName::new(name.to_owned())),
        };
        convert(store_api::kv_store_put(&mut self.config.clone(), params).await)
    }

    pub async fn delete_store(&self, store_id: &str) -> CallResult<()> {
        let params = KvStoreDeleteParams { store_id: store_id.to_owned() };
        convert(store_api::kv_store_delete(&mut self.config.clone(), params).await)
    }

    pub async fn upsert(&self, params: KvStoreUpsertItemParams) -> CallResult<()> {
        convert(item_api::kv_store_upsert_item(&mut self.config.clone(), params).await)
    }

    pub async fn put(&self, store_id: &str, key: &str, value: &str) -> CallResult<()> {
        self.upsert(put_params(store_id, key, value)).await
    }

    pub async fn get(&self, store_id: &str, key: &str) -> CallResult<String> {
        let params = KvStoreGetItemParams { store_id: store_id.to_owned(), key: key.to_owned() };
        convert(item_api::kv_store_get_item(&mut self.config.clone(), params).await)
    }

    pub async fn keys(&self, params: KvStoreListItemKeysParams) -> CallResult<KeyPage> {
        convert(item_api::kv_store_list_item_keys(&mut self.config.clone(), params).await)
    }

    pub async fn delete_with(&self, params: KvStoreDeleteItemParams) -> CallResult<()> {
        convert(item_api::kv_store_delete_item(&mut self.config.clone(), params).await)
    }

    pub async fn delete(&self, store_id: &str, key: &str) -> CallResult<()> {
        self.delete_with(delete_params(store_id, key)).await
    }

    /// Returns an item's value and metadata as stored. Reads them directly with the crate's HTTP
    /// client, because the crate itself decodes values.
    pub async fn stored(&self, store_id: &str, key: &str) -> Result<(String, String), String> {
        let base = &self.config.base_path;
        let url = format!("{base}/resources/stores/kv/{store_id}/keys/{}", urlencode(key));
        let request = self.config.client.get(url).header("Fastly-Key", self.token());
        let response = request.send().await.map_err(|error| error.to_string())?;
        same("status of a plain read", response.status().as_u16(), 200)?;
        let metadata = response.headers().get("metadata").ok_or("no Metadata header")?;
        let metadata = String::from_utf8_lossy(metadata.as_bytes()).into_owned();
        Ok((response.text().await.map_err(|error| error.to_string())?, metadata))
    }
}

pub fn put_params(store_id: &str, key: &str, value: &str) -> KvStoreUpsertItemParams {
    KvStoreUpsertItemParams {
        store_id: store_id.to_owned(),
        key: key.to_owned(),
        body: Some(value.to_owned()),
        ..Default::default()
    }
}

pub fn delete_params(store_id: &str, key: &str) -> KvStoreDeleteItemParams {
    KvStoreDeleteItemParams {
        store_id: store_id.to_owned(),
        key: key.to_owned(),
        ..Default::default()
    }
}
