//! The API's description, and the test that it describes this router.

use super::error::json_bytes;
use crate::http::Response;
use crate::wire;
use bytes::Bytes;

/// The description, which needs no token: it tells of nothing that anyone keeps.
pub(super) fn document() -> Response {
    json_bytes(200, Bytes::from_static(wire::OPENAPI))
}

#[cfg(test)]
mod tests {
    use super::super::Route;
    use super::super::auth::is_open;
    use crate::wire;
    use serde_json::Value;
    use std::collections::BTreeSet;

    fn read() -> Value {
        serde_json::from_slice(wire::OPENAPI).unwrap()
    }

    /// The route behind a route, so that the compiler asks for a new one here.
    fn after(route: Route) -> Option<Route> {
        Some(match route {
            Route::Unknown => Route::About,
            Route::About => Route::Backup,
            Route::Backup => Route::Batch,
            Route::Batch => Route::CurrentUser,
            Route::CurrentUser => Route::Details,
            Route::Details => Route::Export,
            Route::Export => Route::Healthz,
            Route::Healthz => Route::Import,
            Route::Import => Route::Item,
            Route::Item => Route::Keys,
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
        std::iter::successors(after(Route::Unknown), |route| after(*route))
    }

    /// HEAD is left to GET, as the description says.
    #[test]
    fn the_description_has_every_route_with_its_methods_and_no_more() {
        let document = read();
        let rule = document["info"]["description"].as_str().unwrap();
        assert!(rule.contains("HEAD on a path that has GET answers as GET would"), "{rule}");
        let methods = ["delete", "get", "head", "options", "patch", "post", "put", "trace"];
        let mut described = BTreeSet::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            for method in methods.iter().filter(|method| item.get(**method).is_some()) {
                described.insert((path.clone(), method.to_uppercase()));
            }
        }
        let mut routed = BTreeSet::new();
        for route in routes() {
            let (template, methods) = route.describe();
            assert_eq!(Route::match_route(template.as_bytes()).route, route, "{template}");
            for method in methods.split(", ").filter(|method| *method != "HEAD") {
                routed.insert((template.to_owned(), method.to_owned()));
            }
        }
        assert_eq!(described, routed);
    }

    #[test]
    fn the_description_asks_for_a_token_where_the_router_does() {
        let document = read();
        assert_eq!(document["security"], serde_json::json!([{"token": []}]));
        for route in routes() {
            let item = document["paths"][route.describe().0].as_object().unwrap();
            for (name, operation) in item.iter().filter(|(name, _)| *name != "parameters") {
                let free = operation["security"].as_array().is_some_and(Vec::is_empty);
                assert_eq!(free, is_open(route), "{route:?} {name}");
                let refuses = operation["responses"].get("401").is_some();
                assert_eq!(refuses, !free, "{route:?} {name} answers 401");
            }
        }
    }

    #[test]
    fn the_description_is_of_this_version() {
        assert_eq!(read()["info"]["version"], env!("CARGO_PKG_VERSION"));
    }

    /// Every reference in a part of the document.
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
    fn what_the_description_refers_to_is_there() {
        let document = read();
        let mut found = BTreeSet::new();
        references(&document, &mut found);
        assert!(found.len() > 50, "{}", found.len());
        for reference in found {
            assert!(document.pointer(&reference[1..]).is_some(), "{reference}");
        }
    }
}
