//! Tokens of a Steadfast server.

use super::request::Request;
use super::{Client, Error};
use crate::wire::{LimitedToken, TokenList, TokenRequest};
use reqwest::Method;

impl Client {
    /// The tokens there are, without the tokens themselves.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn tokens(&self) -> Result<Vec<LimitedToken>, Error> {
        let ask = Request::new(Method::GET, &["_", "v1", "tokens"], "the list of tokens");
        let list: TokenList = self.ask(&ask).await?.json().await?;
        Ok(list.data)
    }

    /// Makes a token. It is not repeated: there would be two.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn create_token(&self, request: &TokenRequest) -> Result<LimitedToken, Error> {
        let what = format!("token {:?}", request.name);
        let mut ask = Request::new(Method::POST, &["_", "v1", "tokens"], &what);
        let made: LimitedToken = self.tell(&mut ask, request, false).await?.json().await?;
        if made.access_token.is_none() {
            return Err(Error::Unexpected { what, why: "it holds no token".into() });
        }
        Ok(made)
    }

    /// Makes a token worthless.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn revoke_token(&self, id: &str) -> Result<(), Error> {
        let what = format!("token {id:?}");
        let path = ["_", "v1", "tokens", id];
        self.once(&Request::new(Method::DELETE, &path, &what), None).await?;
        Ok(())
    }
}
