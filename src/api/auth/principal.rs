//! The authenticated caller, as handlers see it.

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

    /// Returns the only stores the caller may access; empty for all of them.
    pub(in crate::api) fn stores(&self) -> &[StoreId] {
        self.token().map_or(&[], |token| token.grant.stores())
    }

    /// Checks that a line of a batch or import may write this key.
    pub(in crate::api) fn check_key(&self, key: &Key) -> Result<(), kv::Error> {
        match self.token() {
            Some(token) if !token.grant.covers(key.as_bytes()) => {
                Err(kv::Error::Forbidden(OTHER_KEYS))
            }
            _ => Ok(()),
        }
    }
}
