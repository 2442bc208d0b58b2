//! The OpenAPI document, and tests that compare it with the router.

use super::error::json_bytes;
use crate::http::Response;
use crate::wire;
use bytes::Bytes;

/// Serves the OpenAPI document, without authentication: it exposes no stored data.
pub(super) fn document() -> Response {
    json_bytes(200, Bytes::from_static(wire::OPENAPI))
}

#[cfg(test)]
mod tests {
    use super::super::auth::is_public;
    use super::super::router::{Route, match_route};
    use crate::wire;
    use serde_json::Value;
    use std::collections::BTreeSet;

    fn read() -> Value {
        serde_json::from_slice(wire::OPENAPI).unwrap()
    }

    /// Returns the next route. The match is exhaustive, so a new route does not compile until it is
    /// added here.
    fn next(route: Route) -> Option<Route> {
        Some(match route {
            Route::Unknown => Route::About,
            Route::About => Route::Backup,
            Route::Backup => Route::Batch,
            Route::Batch => Route::CurrentUser,
            Route::CurrentUser => Route::Export,
            Route::Export => Route::Healthz,
            Route::Healthz => Route::Import,
            Route::Import => Route::Item,
            Route::Item => Route::Items,
            Route::Items => Route::Keys,
            Route::Keys => Route::Metrics,
            Route::Metrics => Route::OpenApi,
            Route::OpenApi => Route::OpenIdConfiguration,
            Route::OpenIdConfiguration => Route::Product,
            Route::Product => Route::Readyz,
            Route::Readyz => Route::Store,
            Route::Store => Route::Stores,
            Route::Stores => Route::Token,
            Route::Token => Route::TokenSelf,
            Route::TokenSelf => Route::Tokens,
            Route::Tokens => Route::Verify,
            Route::Verify => return None,
        })
    }

    fn routes() -> impl Iterator<Item = Route> {
        std::iter::successors(next(Route::Unknown), |route| next(*route))
    }

    /// The document states that every path with GET also supports HEAD.
    #[test]
    fn the_openapi_document_has_exactly_the_routes_and_methods_of_the_router() {
        let document = read();
        let rule = document["info"]["description"].as_str().unwrap();
        assert!(rule.contains("Every path with GET also supports HEAD"), "{rule}");
        let methods = ["delete", "get", "head", "options", "patch", "post", "put", "trace"];
        let mut described = BTreeSet::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            for method in methods.iter().filter(|method| item.get(**method).is_some()) {
                described.insert((path.clone(), method.to_uppercase()));
            }
        }
        let mut routed = BTreeSet::new();
        for route in routes() {
            let template = route.template();
            assert_eq!(match_route(template.as_bytes()).route, route, "{template}");
            for method in route.methods().split(", ").filter(|method| *method != "HEAD") {
                routed.insert((template.to_owned(), method.to_owned()));
            }
        }
        assert_eq!(described, routed);
    }

    #[test]
    fn the_openapi_document_requires_a_token_where_the_router_does() {
        let document = read();
        assert_eq!(document["security"], serde_json::json!([{"token": []}]));
        for route in routes() {
            let item = document["paths"][route.template()].as_object().unwrap();
            for (name, operation) in item.iter().filter(|(name, _)| *name != "parameters") {
                let public = operation["security"].as_array().is_some_and(Vec::is_empty);
                assert_eq!(public, is_public(route), "{route:?} {name}");
                let has_401 = operation["responses"].get("401").is_some();
                assert_eq!(has_401, !public, "401 response of {route:?} {name}");
            }
        }
    }

    #[test]
    fn the_openapi_document_has_the_version_of_the_crate() {
        assert_eq!(read()["info"]["version"], env!("CARGO_PKG_VERSION"));
    }

    /// Collects every `$ref` below a part of the document.
    fn references<'v>(part: &'v Value, found: &mut BTreeSet<&'v str>) {
        match part {
            Value::Object(fields) => {
                found.extend(fields.get("$ref").and_then(Value::as_str));
                fields.values().for_each(|inner| references(inner, found));
            }
            Value::Array(parts) => parts.iter().for_each(|inner| references(inner, found)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    #[test]
    fn references_in_the_openapi_document_resolve() {
        let document = read();
        let mut found = BTreeSet::new();
        references(&document, &mut found);
        assert!(found.len() > 50, "{}", found.len());
        for reference in found {
            assert!(document.pointer(&reference[1..]).is_some(), "{reference}");
        }
    }
}
