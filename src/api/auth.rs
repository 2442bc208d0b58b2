//! Who may do what: the one check of a request, before every route.
//!
//! A request's token is the root token, which may do everything, or a limited one (see
//! [`crate::kv::tokens`]), which may do what its grant and the rules on this page allow. A limited
//! token is read anew with each request, so that it ends for all servers at once.
//!
//! A new route joins by a line in [`reach`], which the compiler asks for, and by rows in the table
//! of `tests/api/tokens.rs`. If the lines of its body name its keys ([`Reach::Lines`]), its handler
//! of `tests/api/tokens.rs`. If the lines of its body name its keys ([`Reach::Lines`]), its
//! handler also asks [`Principal::check_key`] for each of them. What fits no [`Reach`] gets one of
//! its own, and a rule in [`authorize`].
use super::error::Error;
use super::query::{Query, decode_segment};
use super::{Method, Route, Target};
use crate::http::RequestHead;
use crate::kv::tokens::{Grant, Scope, TokenInfo};
use crate::kv::types::{Key, StoreId};
use crate::kv::{self, Kv};
use crate::wire::{FASTLY_KEY, Token};

/// Knows the root token; finds the others.
#[derive(Clone, Debug)]
pub struct Auth {
    root: Token,
}

impl Auth {
    /// With the root token.
    pub fn new(root: Token) -> Auth {
        Auth { root }
    }

    /// Lets a request pass, or refuses it: 401 for whoever is not known, 403 for what its token may
    /// not do. The root token costs neither a hash nor a read.
    pub(super) async fn authenticate(
        &self,
        kv: &Kv,
        method: Method,
        target: &Target<'_>,
        head: &RequestHead,
    ) -> Result<Principal, Error> {
        let reach = reach(target.route);
        if reach == Reach::Open {
            return Ok(Principal(None));
        }
        let given = given(head, target.route == Route::Metrics).ok_or(Error::Unauthorized)?;
        if self.root.matches(given) {
            return Ok(Principal(None));
        }
        let token = kv.token(given).await?.ok_or(Error::Unauthorized)?;
        authorize(&token.grant, reach, method, target, head.query())?;
        Ok(Principal(Some(Box::new(token))))
    }
}

/// The token that a request gives: its one `Fastly-Key`; or, with `bearer`, that of
/// `Authorization: Bearer`, which collectors of metrics can send.
fn given(head: &RequestHead, bearer: bool) -> Option<&[u8]> {
    let mut keys = head.values(FASTLY_KEY);
    if let (Some(given), None) = (keys.next(), keys.next()) {
        return Some(given);
    }
    let bearers = || head.values("Authorization").filter_map(|v| v.strip_prefix(b"Bearer "));
    if bearer { bearers().next() } else { None }
}

/// What a request was let in with.
#[derive(Debug)]
pub(super) struct Principal(Option<Box<TokenInfo>>);

impl Principal {
    /// The limited token of the request; `None` for the root token, and where none is needed.
    pub(super) fn token(&self) -> Option<&TokenInfo> {
        self.0.as_deref()
    }

    /// The only stores that it reaches; none: all of them.
    pub(super) fn stores(&self) -> &[StoreId] {
        self.token().map_or(&[], |token| token.grant.stores())
    }

    /// Whether a line of a body may name this key.
    pub(super) fn check_key(&self, key: &Key) -> Result<(), kv::Error> {
        match self.token() {
            Some(token) if !token.grant.covers(key.as_bytes()) => {
                Err(kv::Error::Forbidden(OTHER_KEYS))
            }
            _ => Ok(()),
        }
    }
}

/// What a route touches, which decides who may use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    /// Nothing that anyone keeps; no token is needed.
    Open,
    /// Nothing that anyone keeps.
    Nothing,
    /// The token in use, which any token may see and end.
    Token,
    /// What concerns all that the server has, to look at.
    Whole,
    /// The list of stores, from which those are left out that are not reached; and new stores.
    Stores,
    /// The store that the path names.
    Store,
    /// The item that the path names.
    Item,
    /// The items of the path's store whose keys begin with the parameter `prefix`, and, whatever
    /// other parameters say, no more.
    Prefix,
    /// The items of the path's store that the lines of the body name.
    Lines,
    /// What only the root token may touch.
    Root,
}

/// What each route touches.
fn reach(route: Route) -> Reach {
    match route {
        Route::Healthz | Route::OpenApi | Route::OpenIdConfiguration | Route::Readyz => Reach::Open,
        Route::About | Route::Product | Route::Unknown => Reach::Nothing,
        Route::CurrentUser | Route::TokenSelf | Route::Verify => Reach::Token,
        Route::Metrics => Reach::Whole,
        Route::Stores => Reach::Stores,
        Route::Store => Reach::Store,
        Route::Item => Reach::Item,
        Route::Details | Route::Export | Route::Keys => Reach::Prefix,
        Route::Batch | Route::Import => Reach::Lines,
        Route::Backup | Route::Token | Route::Tokens => Reach::Root,
    }
}

/// Whether a route needs no token.
#[cfg(test)]
pub(super) fn is_open(route: Route) -> bool {
    reach(route) == Reach::Open
}

const ROOT_ONLY: &str = "this token may not do this: only the root token may";
const READS_ONLY: &str = "this token of scope global:read may only read, by GET and HEAD";
const OTHER_STORES: &str = "this token may not touch this store: it is limited to others";
const NO_STORES: &str = "this token may not create, rename or delete stores: it is limited to some \
                         stores or keys";
const NOT_WHOLE: &str = "this token may not see the whole server: it is limited to some stores or \
                         keys";
const OTHER_KEYS: &str = "this token may not touch this key: it is limited to keys with a prefix";
const ALL_KEYS: &str = "this token may not touch all keys: it is limited to keys with a prefix, \
                        which the parameter prefix must begin with";

/// The rules for limited tokens, in the order in which they are told.
fn authorize(
    grant: &Grant,
    reach: Reach,
    method: Method,
    target: &Target<'_>,
    query: &[u8],
) -> Result<(), Error> {
    let reads = matches!(method, Method::Get | Method::Head);
    let read_only = grant.scope() == Scope::Read;
    let of_store = matches!(reach, Reach::Store | Reach::Item | Reach::Prefix | Reach::Lines);
    let narrow = !grant.prefix().is_empty();
    // What cannot be decoded names no key that is covered.
    let covered = |key: &[u8]| decode_segment(key).is_some_and(|key| grant.covers(&key));
    let refusal = match reach {
        Reach::Root => Some(ROOT_ONLY),
        // Whoever finds a token can end it.
        Reach::Open | Reach::Token => None,
        _ if read_only && !reads => Some(READS_ONLY),
        _ if of_store && !grant.reaches(target.store) => Some(OTHER_STORES),
        Reach::Whole if grant.partial() => Some(NOT_WHOLE),
        Reach::Stores | Reach::Store if !reads && grant.partial() => Some(NO_STORES),
        Reach::Item if narrow && !covered(target.key) => Some(OTHER_KEYS),
        Reach::Prefix if narrow && !grant.covers(prefix(query)?.as_bytes()) => Some(ALL_KEYS),
        Reach::Nothing
        | Reach::Whole
        | Reach::Stores
        | Reach::Store
        | Reach::Item
        | Reach::Prefix
        | Reach::Lines => None,
    };
    refusal.map_or(Ok(()), |why| Err(Error::Kv(kv::Error::Forbidden(why))))
}

/// The parameter `prefix`, as the handlers read it.
fn prefix(query: &[u8]) -> Result<String, Error> {
    Ok(Query::parse(query)?.text("prefix")?.unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_holds_for_the_decoded_key_and_the_decoded_parameter() {
        let grant = Grant::new("n", Scope::Global, Vec::new(), "a/").unwrap();
        let may = |reach, key: &'static str, query: &str| {
            let target = Target { route: Route::Unknown, store: b"s", key: key.as_bytes() };
            authorize(&grant, reach, Method::Get, &target, query.as_bytes()).is_ok()
        };
        for (key, allowed) in [("a/b", true), ("%61%2fb", true), ("a", false), ("a%252Fb", false)] {
            assert_eq!(may(Reach::Item, key, ""), allowed, "{key}");
        }
        for (query, allowed) in [
            ("prefix=a/", true),
            ("x=1&prefix=%61%2Fb", true),
            ("", false),
            ("prefix", false),
            ("prefix=a", false),
            ("prefix=a%252F", false),
            ("Prefix=a/", false),
            ("prefix=a/&prefix=b", false),
        ] {
            assert_eq!(may(Reach::Prefix, "", query), allowed, "{query}");
        }
        assert!(may(Reach::Lines, "", "") && may(Reach::Store, "", ""));
    }
}
