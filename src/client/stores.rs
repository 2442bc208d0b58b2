//! Store requests (docs/contract.md section 2).

use super::request::Request;
use super::{Client, Error};
use crate::wire::{Store, StoreList, StoreRequest};
use reqwest::Method;

/// The maximum number of pages in a list of stores: enough for ten million stores.
const PAGES_MAX: usize = 10_000;

fn path(id: &str) -> [&str; 4] {
    ["resources", "stores", "kv", id]
}

impl Client {
    /// Lists all stores.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn stores(&self) -> Result<Vec<Store>, Error> {
        self.list_stores(None, "the list of stores").await
    }

    /// Finds a store by its name.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn store_named(&self, name: &str) -> Result<Option<Store>, Error> {
        let stores = self.list_stores(Some(name), &format!("store {name:?}")).await?;
        // A server that does not support the name filter returns all stores.
        Ok(stores.into_iter().find(|store| store.name == name))
    }

    async fn list_stores(&self, name: Option<&str>, subject: &str) -> Result<Vec<Store>, Error> {
        let (mut all, mut cursor) = (Vec::new(), None::<String>);
        for _ in 0..PAGES_MAX {
            let request = Request::new(Method::GET, &["resources", "stores", "kv"], subject)
                .query("limit", Some("1000"))
                .query("name", name)
                .query("cursor", cursor.as_deref());
            let page: StoreList = self.send(&request).await?.json().await?;
            all.extend(page.data);
            match page.meta.next_cursor {
                Some(next) if cursor.as_ref() != Some(&next) => cursor = Some(next),
                Some(_) | None => return Ok(all),
            }
        }
        Ok(all)
    }

    /// Gets a store by its id.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn store(&self, id: &str) -> Result<Store, Error> {
        let (subject, path) = (format!("store {id:?}"), path(id));
        let request = Request::new(Method::GET, &path, &subject);
        self.send(&request).await?.json().await
    }

    /// Finds a store by its name or id.
    ///
    /// # Errors
    /// Returns [`Error::NotFound`] if no store matches, or [`Error::Usage`] if the name of one
    /// store is the id of another.
    pub async fn resolve(&self, name_or_id: &str) -> Result<Store, Error> {
        let by_name = self.store_named(name_or_id).await?;
        let like_an_id = name_or_id.len() == 22 && name_or_id.chars().all(char::is_alphanumeric);
        let by_id = match like_an_id {
            false => None,
            true => match self.store(name_or_id).await {
                Ok(store) => Some(store),
                Err(Error::Status { status: 404, .. }) => None,
                Err(e) => return Err(e),
            },
        };
        match (by_name, by_id) {
            (Some(by_name), Some(by_id)) if by_name.id != by_id.id => Err(Error::Usage(format!(
                "{name_or_id:?} is ambiguous: it is the name of store {} and the id of store {:?}",
                by_name.id, by_id.name
            ))),
            (Some(store), _) | (None, Some(store)) => Ok(store),
            (None, None) => {
                let at = self.endpoint();
                Err(Error::NotFound(format!("no store with name or id {name_or_id:?} at {at}")))
            }
        }
    }

    /// Creates a store without retries, because a retry fails if the first attempt succeeded.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn create_store(&self, name: &str) -> Result<Store, Error> {
        let subject = format!("store {name:?}");
        let mut request = Request::new(Method::POST, &["resources", "stores", "kv"], &subject);
        let body = StoreRequest { name: name.to_owned() };
        self.send_json(&mut request, &body, false).await?.json().await
    }

    /// Renames a store.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn rename_store(&self, store: &Store, name: &str) -> Result<(), Error> {
        let subject = format!("renaming store {:?} to {name:?}", store.name);
        let path = path(&store.id);
        let mut request = Request::new(Method::PUT, &path, &subject);
        self.send_json(&mut request, &StoreRequest { name: name.to_owned() }, true).await?;
        Ok(())
    }

    /// Deletes an empty store without retries.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn delete_store(&self, store: &Store) -> Result<(), Error> {
        let (subject, path) = (format!("store {:?}", store.name), path(&store.id));
        let request = Request::new(Method::DELETE, &path, &subject);
        self.send_once(&request, None).await?;
        Ok(())
    }
}
