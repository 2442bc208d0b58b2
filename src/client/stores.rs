//! Stores.

use super::request::Request;
use super::{Client, Error};
use crate::wire::{Store, StoreList, StoreName};
use reqwest::Method;

/// Pages of stores at most: ten million stores.
const PAGES_MAX: usize = 10_000;

fn path(id: &str) -> [&str; 4] {
    ["resources", "stores", "kv", id]
}

impl Client {
    /// All stores, page by page until there are no more.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn stores(&self) -> Result<Vec<Store>, Error> {
        self.listed(None, "the list of stores").await
    }

    /// The stores of this name: one, or none.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn store_named(&self, name: &str) -> Result<Option<Store>, Error> {
        let found = self.listed(Some(name), &format!("store {name:?}")).await?;
        // A server that does not know the filter answers with all.
        Ok(found.into_iter().find(|store| store.name == name))
    }

    async fn listed(&self, name: Option<&str>, what: &str) -> Result<Vec<Store>, Error> {
        let (mut all, mut cursor) = (Vec::new(), None::<String>);
        for _ in 0..PAGES_MAX {
            let ask = Request::new(Method::GET, &["resources", "stores", "kv"], what)
                .query("limit", Some("1000"))
                .query("name", name)
                .query("cursor", cursor.as_deref());
            let page: StoreList = self.ask(&ask).await?.json().await?;
            all.extend(page.data);
            match page.meta.next_cursor {
                Some(next) if cursor.as_ref() != Some(&next) => cursor = Some(next),
                Some(_) | None => return Ok(all),
            }
        }
        Ok(all)
    }

    /// The store of this id.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn store(&self, id: &str) -> Result<Store, Error> {
        let (what, path) = (format!("store {id:?}"), path(id));
        let ask = Request::new(Method::GET, &path, &what);
        self.ask(&ask).await?.json().await
    }

    /// The store that is meant by a name or an id.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is none, [`Error::Usage`] if a name is another store's id.
    pub async fn resolve(&self, name_or_id: &str) -> Result<Store, Error> {
        let named = self.store_named(name_or_id).await?;
        let like_an_id = name_or_id.len() == 22 && name_or_id.chars().all(char::is_alphanumeric);
        let known = match like_an_id {
            false => None,
            true => match self.store(name_or_id).await {
                Ok(store) => Some(store),
                Err(Error::Refused { status: 404, .. }) => None,
                Err(e) => return Err(e),
            },
        };
        match (named, known) {
            (Some(named), Some(known)) if named.id != known.id => Err(Error::Usage(format!(
                "{name_or_id:?} is the name of store {} and the id of store {:?}",
                named.id, known.name
            ))),
            (Some(store), _) | (None, Some(store)) => Ok(store),
            (None, None) => {
                let at = self.endpoint();
                Err(Error::NotFound(format!("no store has the name or id {name_or_id:?} at {at}")))
            }
        }
    }

    /// Makes a store. It is not repeated: a second try would find the name taken.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn create_store(&self, name: &str) -> Result<Store, Error> {
        let what = format!("store {name:?}");
        let mut ask = Request::new(Method::POST, &["resources", "stores", "kv"], &what);
        self.tell(&mut ask, &StoreName { name: name.to_owned() }, false).await?.json().await
    }

    /// Gives a store another name.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn rename_store(&self, store: &Store, name: &str) -> Result<(), Error> {
        let what = format!("store {:?}, to be named {name:?}", store.name);
        let path = path(&store.id);
        let mut ask = Request::new(Method::PUT, &path, &what);
        self.tell(&mut ask, &StoreName { name: name.to_owned() }, true).await?;
        Ok(())
    }

    /// Removes a store that is empty.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn delete_store(&self, store: &Store) -> Result<(), Error> {
        let (what, path) = (format!("store {:?}", store.name), path(&store.id));
        let ask = Request::new(Method::DELETE, &path, &what);
        self.once(&ask, None).await?;
        Ok(())
    }
}
