//! Tests of `serve --simulate`: rate limits, errors, stale reads and latency, and what they must
//! not affect.

use super::support::Response;
use super::{Case, STORES, assert_412, assert_put_ok};
use std::time::{Duration, Instant};

/// The effects of the simulation on a response.
fn effects(response: &Response) -> Vec<&str> {
    response.headers("Steadfast-Simulated")
}

/// A server that simulates, with a token in addition to the root token.
struct Simulated {
    case: Case,
    other: String,
}

impl Simulated {
    fn new(spec: &str, seed: u64) -> Simulated {
        let case = Case::with(&["--simulate", spec, "--simulate-seed", &seed.to_string()]);
        let body = br#"{"name":"other","scope":"global"}"#;
        let created = case.server.request("POST /_/v1/tokens", &[], body).json();
        Simulated { case, other: created["access_token"].as_str().unwrap().to_owned() }
    }

    /// Sends an item request with the other token.
    fn other(&self, method: &str, key: &str, value: &str) -> Response {
        let request = format!("{method} {}", self.case.item_path(key));
        self.case.server.request_as(&self.other, &request, value)
    }
}

/// Starts a server whose reads stay outdated for up to an hour, far longer than a test runs. With
/// this seed, the first answer for the key `k` stays in the cache for most of it.
fn hour_stale() -> Simulated {
    Simulated::new("stale=1h", 1)
}

#[test]
fn a_second_write_to_a_key_gets_the_recorded_429() {
    let case = Case::with(&["--simulate", "rate-limit=1/h per key"]);
    assert_put_ok(&case.put("a/b", &[], b"first"));
    // The same key in another spelling.
    let limited = case.put("a%2Fb", &[], b"second");
    let (retry, reset) =
        (limited.header("Retry-After"), limited.header("Fastly-RateLimit-Reset").to_owned());
    assert!((1..=3600).contains(&retry.parse().unwrap()), "{retry}");
    assert!(reset.parse::<u64>().unwrap() > 1_700_000_000, "{reset}");
    let head = format!(
        "HTTP/1.1 429 Too Many Requests\r\nContent-Type: application/json\r\n\
         Cache-Control: no-store\r\nPragma: no-cache\r\nRetry-After: {retry}\r\n\
         Fastly-RateLimit-Remaining: 0\r\nFastly-RateLimit-Reset: {reset}\r\n\
         Steadfast-Simulated: rate-limit\r\nContent-Length: 293\r\nDate: {}",
        limited.header("Date")
    );
    assert_eq!(limited.head, head);
    let body = "{\"msg\":\"You have exceeded your hourly rate limit. Please contact \
                support@fastly.com if you think this is a mistake.\",\"title\":\"You have exceeded \
                your hourly rate limit. Please contact support@fastly.com if you think this is a \
                mistake.\",\"detail\":\"simulated rate limit: 1/h per key\",\"status\":429}";
    assert_eq!(limited.text(), body);

    assert_eq!(case.delete("a/b", &[]).status, 429);
    assert_eq!(case.get_value("a/b"), b"first");
    assert_put_ok(&case.put("other", &[], b""));
    let batch = format!("PUT {}/batch", case.store_path());
    let line = br#"{"key":"a/b","value":"dGhpcmQ="}"#;
    assert_eq!(case.server.request(&batch, &[], line).status, 200);
    assert_eq!(case.get_value("a/b"), b"third");
}

#[test]
fn an_invalid_request_does_not_count_against_the_rate_limit() {
    let case = Case::with(&["--simulate", "rate-limit=1/h"]);
    for _ in 0..2 {
        assert_eq!(case.put("..", &[], b"").status, 400);
    }
}

/// Sends requests of all kinds for items. Returns the status and the effects of each response.
fn failing_requests(case: &Case) -> Vec<(u16, String)> {
    let mut responses = Vec::new();
    for n in 0..20 {
        let key = format!("k{n}");
        responses.extend([case.put(&key, &[], b"v"), case.get(&key), case.head(&key)]);
    }
    responses.push(case.list(""));
    responses.iter().map(|response| (response.status, effects(response).join(", "))).collect()
}

#[test]
fn simulated_errors_come_before_or_after_the_commit_and_repeat_with_the_seed() {
    let case = Case::with(&["--simulate", "errors=100%", "--simulate-seed", "7"]);
    let failed = failing_requests(&case);
    for (status, effect) in &failed {
        assert!([500, 503].contains(status), "{status}");
        assert!(["error", "error-after-commit"].contains(&effect.as_str()), "{effect}");
    }
    // The endpoints that are not simulated show which writes took effect.
    let items = case.server.get(&format!("/_/v1/stores/{}/items", case.id)).json();
    let stored: Vec<_> =
        items["data"].as_array().unwrap().iter().map(|item| &item["key"]).collect();
    let (mut committed, mut refused) = (0, 0);
    for (n, put) in failed.chunks(3).take(20).map(|requests| &requests[0]).enumerate() {
        let key = serde_json::json!(format!("k{n}"));
        let after = put.1 == "error-after-commit";
        assert_eq!(stored.contains(&&key), after, "{key}");
        *if after { &mut committed } else { &mut refused } += 1;
    }
    assert!(committed > 3 && refused > 3, "{committed} {refused}");

    let again = Case::with(&["--simulate", "errors=100%", "--simulate-seed", "7"]);
    assert_eq!(failing_requests(&again), failed);
    let other = Case::with(&["--simulate", "errors=100%", "--simulate-seed", "8"]);
    assert_ne!(failing_requests(&other), failed);
}

#[test]
fn a_simulated_error_has_the_error_format_and_says_whether_the_write_took_effect() {
    let case = Case::with(&["--simulate", "errors=100%", "--simulate-seed", "1"]);
    for n in 0..40 {
        let failed = case.put(&format!("k{n}"), &[], b"v");
        let detail = failed.expect_error(failed.status);
        let expected = match effects(&failed)[..] {
            ["error"] => "simulated error; the request had no effect",
            ["error-after-commit"] => "simulated error; the write took effect",
            ref other => panic!("{other:?}"),
        };
        assert_eq!(detail, expected);
        assert_eq!(failed.has_header("Retry-After"), failed.status == 503);
    }
    // A write that fails for a real reason keeps its status.
    let statuses =
        (0..40).map(|n| case.put(&format!("n{n}"), &[("if-generation-match", "1")], b"").status);
    assert!(statuses.filter(|status| *status == 412).count() > 3);
}

#[test]
fn errors_affect_neither_stores_nor_health_metrics_tokens_and_backups() {
    let case = Case::with(&["--simulate", "errors=100%"]);
    for path in [
        "/healthz", "/readyz", "/metrics", "/_/v1", "/_/v1/tokens", "/_/v1/backup", "/verify",
        "/tokens/self", STORES,
    ] {
        let response = case.server.get(path);
        assert_eq!((response.status, effects(&response)), (200, Vec::new()), "{path}");
    }
    let export = case.server.get(&format!("/_/v1/stores/{}/export", case.id));
    assert_eq!((export.status, effects(&export)), (200, Vec::new()));
    let metrics = case.server.get("/metrics").text();
    assert!(!metrics.contains("steadfast_simulated_responses_total{"), "{metrics}");
    case.get("k");
    let metrics = case.server.get("/metrics").text();
    let sample = "steadfast_simulated_responses_total{effect=\"error\"} 1\n";
    assert!(metrics.contains(sample), "{metrics}");
}

#[test]
fn a_reader_sees_the_old_value_or_the_absence_after_a_write_with_another_token() {
    let simulated = hour_stale();
    let case = &simulated.case;
    case.get("k").expect_error(404);
    assert_put_ok(&simulated.other("PUT", "k", "new"));
    // The writer sees its write; the reader still sees the absence.
    let own = simulated.other("GET", "k", "");
    assert_eq!((own.status, &own.body[..], effects(&own)), (200, &b"new"[..], Vec::new()));
    for absent in [case.get("k"), case.head("k")] {
        assert_eq!((absent.status, effects(&absent)), (404, vec!["stale"]), "{}", absent.head);
    }
    case.get("k").expect_error(404);

    // After its own write, the reader sees its own value, and keeps seeing it.
    assert_put_ok(&case.put("k", &[("metadata", "m")], b"mine"));
    let mine = case.get("k");
    assert_eq!((&mine.body[..], effects(&mine)), (&b"mine"[..], Vec::new()));
    assert_put_ok(&simulated.other("PUT", "k", "newer"));
    let stale = case.get("k");
    assert_eq!(
        (stale.status, &stale.body[..], effects(&stale)),
        (200, &b"mine"[..], vec!["stale"])
    );
    for name in ["Generation", "Last-Modified", "Metadata", "Stored-Content-Length"] {
        assert_eq!(stale.header(name), mine.header(name));
    }
    assert_eq!(case.head("k").header("Generation"), mine.header("Generation"));
    let path = case.item_path("k");
    let part = case.server.request(&format!("GET {path}"), &[("Range", "bytes=1-2")], b"");
    assert_eq!((part.status, &part.body[..]), (206, &b"in"[..]));
    assert_eq!(simulated.other("DELETE", "k", "").status, 204);
    assert_eq!(case.get_value("k"), b"mine");
    assert_eq!(simulated.other("GET", "k", "").status, 404);
}

#[test]
fn conditions_are_checked_against_the_current_item_despite_stale_reads() {
    let simulated = hour_stale();
    let case = &simulated.case;
    case.get("k").expect_error(404);
    let written = simulated.other("PUT", "k", "new").generation();
    let add = case.server.request(&format!("PUT {}?add=true", case.item_path("k")), &[], b"");
    assert_412(&add);
    let absent = case.put("k", &[("if-generation-match", "0")], b"");
    assert_412(&absent);
    let matching = case.put("k", &[("if-generation-match", &written.to_string())], b"mine");
    assert_put_ok(&matching);
    assert_eq!(case.get_value("k"), b"mine");
}

#[test]
fn only_eventual_lists_are_outdated() {
    let simulated = hour_stale();
    let case = &simulated.case;
    assert_eq!(case.list("?consistency=eventual").json()["data"], serde_json::json!([]));
    assert_put_ok(&simulated.other("PUT", "k", "new"));
    let eventual = case.list("?consistency=eventual");
    let body = "{\"data\":[],\"meta\":{\"limit\":1000,\"consistency\":\"eventual\"}}";
    assert_eq!((eventual.text().as_str(), effects(&eventual)), (body, vec!["stale"]));
    assert!(eventual.header("Age").parse::<u64>().is_ok());
    assert_eq!(case.list_keys(), ["k"]);
    assert_put_ok(&case.put("mine", &[], b""));
    let eventual = case.list("?consistency=eventual");
    assert_eq!(eventual.json()["data"], serde_json::json!(["k", "mine"]));
    assert!(!eventual.has_header("Age"));
}

#[test]
fn a_batch_is_visible_to_its_own_client_and_large_values_are_never_outdated() {
    let simulated = hour_stale();
    let case = &simulated.case;
    case.get("k").expect_error(404);
    let batch = format!("PUT {}/batch", case.store_path());
    let line = br#"{"key":"k","value":"YmF0Y2g="}"#;
    assert_eq!(case.server.request(&batch, &[], line).status, 200);
    assert_eq!(case.get_value("k"), b"batch");

    let large = vec![b'v'; (1 << 20) + 1];
    assert_put_ok(&case.put("large", &[], &large));
    assert_eq!(case.get_value("large"), large);
    assert_put_ok(&simulated.other("PUT", "large", "small"));
    assert_eq!(case.get_value("large"), b"small");
}

#[test]
fn an_outdated_item_still_expires_and_a_deleted_store_is_gone_at_once() {
    let simulated = hour_stale();
    let case = &simulated.case;
    assert_put_ok(&case.put("k", &[("time_to_live_sec", "1")], b"v"));
    case.get("k");
    let end = Instant::now() + Duration::from_secs(60);
    while case.get("k").status != 404 {
        assert!(Instant::now() < end, "the item does not expire");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(case.server.request(&format!("DELETE {}", case.store_path()), &[], b"").status, 204);
    let gone = case.get("k");
    assert_eq!((gone.status, effects(&gone)), (404, Vec::new()));
}

#[test]
fn a_reader_sees_the_new_value_in_the_end() {
    let simulated = Simulated::new("stale=200ms", 1);
    let case = &simulated.case;
    case.get("k").expect_error(404);
    assert_put_ok(&simulated.other("PUT", "k", "new"));
    let end = Instant::now() + Duration::from_secs(60);
    while case.get("k").status != 200 {
        assert!(Instant::now() < end, "the read is outdated for much longer than 200 ms");
    }
}

#[test]
fn latency_delays_item_requests_and_is_named_in_their_responses() {
    let case = Case::with(&["--simulate", "latency=30ms"]);
    let start = Instant::now();
    let responses = [case.put("k", &[], b"v"), case.get("k"), case.head("n"), case.list("")];
    assert!(start.elapsed() >= Duration::from_millis(4 * 30), "{:?}", start.elapsed());
    for (response, status) in responses.iter().zip([200, 200, 404, 200]) {
        assert_eq!((response.status, effects(response)), (status, vec!["latency"]));
    }
    assert_eq!(effects(&case.server.get(STORES)), Vec::<&str>::new());
}
