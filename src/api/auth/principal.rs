//! The authenticated caller that is passed to handlers.

use super::permission::OTHER_KEYS;
use crate::kv;
use crate::kv::tokens::TokenInfo;
use crate::kv::types::{Key, StoreId};

/// The authenticated caller of a request.
#[derive(Debug)]
pub(in crate::api) enum Principal {
    /// The holder of the root token, or the caller of a public route.
    Unlimited,
    /// The holder of a limited token.
    Limited(Box<TokenInfo>),
}

impl Principal {
    /// Returns the limited token, if the caller has one.
    pub(in crate::api) fn token(&self) -> Option<&TokenInfo> {
        match self {
            Principal::Unlimited => None,
            Principal::Limited(token) => Some(token),
        }
    }

    /// Returns the stores that the caller is limited to; empty if there is no limit.
    pub(in crate::api) fn stores(&self) -> &[StoreId] {
        self.token().map_or(&[], |token| token.grant.stores())
    }

    /// Checks that the caller may write the key of a line in a batch or import.
    pub(in crate::api) fn check_key(&self, key: &Key) -> Result<(), kv::Error> {
        match self.token() {
            Some(token) if !token.grant.allows_key(key.as_bytes()) => {
                Err(kv::Error::Forbidden(OTHER_KEYS))
            }
            _ => Ok(()),
        }
    }
}
