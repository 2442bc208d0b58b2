//! Requests for the limited tokens of a Steadfast server.

use super::request::Request;
use super::{Client, Error};
use crate::wire::{LimitedToken, TokenList, TokenRequest};
use reqwest::Method;

impl Client {
    /// Lists the limited tokens, without their secrets.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn tokens(&self) -> Result<Vec<LimitedToken>, Error> {
        let request = Request::new(Method::GET, &["_", "v1", "tokens"], "the list of tokens");
        let list: TokenList = self.send(&request).await?.json().await?;
        Ok(list.data)
    }

    /// Creates a limited token without retries, because a retry could create a second token.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn create_token(&self, token: &TokenRequest) -> Result<LimitedToken, Error> {
        let subject = format!("token {:?}", token.name);
        let mut request = Request::new(Method::POST, &["_", "v1", "tokens"], &subject);
        let token: LimitedToken = self.send_json(&mut request, token, false).await?.json().await?;
        if token.access_token.is_none() {
            return Err(Error::Unexpected { subject, reason: "no access token".into() });
        }
        Ok(token)
    }

    /// Revokes a limited token.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn revoke_token(&self, id: &str) -> Result<(), Error> {
        let subject = format!("token {id:?}");
        let path = ["_", "v1", "tokens", id];
        self.send_once(&Request::new(Method::DELETE, &path, &subject), None).await?;
        Ok(())
    }
}
