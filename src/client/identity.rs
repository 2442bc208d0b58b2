//! Verifies that a server runs on a given data directory before a token is sent to it.

use super::request::Request;
use super::{Client, Error};
use crate::wire::{ServerInfo, ServerSecret, server_secret};
use reqwest::Method;
use tokio::sync::OnceCell;

/// The expected identity of a server.
#[derive(Debug)]
pub(super) struct Identity {
    secret: ServerSecret,
    /// The data directory, for error messages.
    data: String,
    verified: OnceCell<()>,
}

impl Identity {
    pub(super) fn new(secret: ServerSecret, data: String) -> Identity {
        Identity { secret, data, verified: OnceCell::new() }
    }
}

impl Client {
    /// Verifies the server's identity if one is expected. A successful check is not repeated.
    ///
    /// # Errors
    /// See [`Error`]. Returns [`Error::Unreachable`] if the server does not prove its identity.
    pub async fn verify_identity(&self) -> Result<(), Error> {
        let Some(identity) = &self.identity else { return Ok(()) };
        let verify = || async {
            let challenge = server_secret::challenge().map_err(Error::Local)?;
            let subject = "the server";
            let request = Request::new(Method::GET, &["_", "v1"], subject);
            let request = request.query("challenge", Some(&challenge));
            let answer = match self.send_without_token(&request).await {
                Ok((200, response)) => response.json::<ServerInfo>().await.ok(),
                Ok(_) => None,
                Err(e) => return Err(e),
            };
            if answer.and_then(|info| info.proof) == Some(identity.secret.prove(&challenge)) {
                return Ok(());
            }
            let data = &identity.data;
            let reason = format!(
                "the server did not prove that it runs on {data}, so no token was sent; pass the \
                 URL of the intended server with --endpoint"
            );
            let (subject, endpoint) = (subject.to_owned(), self.endpoint().to_string());
            Err(Error::Unreachable { subject, endpoint, reason })
        };
        identity.verified.get_or_try_init(verify).await.copied()
    }
}
