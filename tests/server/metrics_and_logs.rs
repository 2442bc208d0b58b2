//! Tests of health checks, metrics and logs, including the logging of internal errors.

use crate::support::{DiskServer, Server, TOKEN};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const ITEM: &str = "/resources/stores/kv/{store_id}/keys/{key}";

/// The samples in a response from `/metrics`, by name and labels.
struct Metrics(BTreeMap<String, f64>);

impl Metrics {
    fn of(server: &Server) -> Metrics {
        let response = server.get("/metrics");
        assert_eq!(response.status, 200);
        let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
        assert_eq!(response.header("Content-Type"), kind);
        Metrics(parse(&response.text()))
    }

    fn get(&self, name: &str) -> f64 {
        *self.0.get(name).unwrap_or_else(|| panic!("there is no sample {name} in {:#?}", self.0))
    }

    /// Returns the number of requests with these labels, or 0 if there is no such sample.
    fn requests(&self, route: &str, method: &str, status: u16) -> f64 {
        let labels = format!("route=\"{route}\",method=\"{method}\",status=\"{status}\"");
        let name = format!("steadfast_http_requests_total{{{labels}}}");
        self.0.get(&name).copied().unwrap_or(0.0)
    }

    fn all_requests(&self) -> f64 {
        let requests = self.0.iter().filter(|(name, _)| name.contains("_http_requests_total{"));
        requests.map(|(_, value)| value).sum()
    }
}

fn is_name(text: &str) -> bool {
    let first = text.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase());
    first && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

/// Checks that the labels of a sample are well-formed, and returns them.
fn labels(text: &str) -> Vec<(&str, &str)> {
    let mut labels = Vec::new();
    for part in text.split("\",").filter(|part| !part.is_empty()) {
        let (name, value) =
            part.split_once("=\"").unwrap_or_else(|| panic!("malformed labels: {text}"));
        let value = value.strip_suffix('"').unwrap_or(value);
        assert!(is_name(name) && !value.contains(['"', '\\', '\n']), "malformed labels: {text}");
        labels.push((name, value));
    }
    let names: BTreeSet<_> = labels.iter().map(|(name, _)| name).collect();
    assert_eq!(names.len(), labels.len(), "duplicate label in {text}");
    labels
}

/// Checks that every line conforms to the OpenMetrics format, and returns the samples.
fn parse(text: &str) -> BTreeMap<String, f64> {
    let (mut family, mut kind) = (String::new(), String::new());
    let (mut samples, mut families) = (BTreeMap::new(), BTreeSet::new());
    let body = text.strip_suffix("# EOF\n").expect("the response must end with # EOF");
    for line in body.lines() {
        if let Some(rest) = line.strip_prefix("# ") {
            let mut words = rest.splitn(3, ' ');
            let word = [words.next().unwrap(), words.next().unwrap(), words.next().unwrap()];
            assert!(is_name(word[1]) && !word[2].is_empty(), "{line}");
            match word[0] {
                "HELP" => {
                    assert!(families.insert(word[1].to_owned()), "duplicate family: {line}");
                    (family, kind) = (word[1].to_owned(), String::new());
                }
                "TYPE" => {
                    assert_eq!(word[1], family, "{line}");
                    assert!(["counter", "gauge", "histogram"].contains(&word[2]), "{line}");
                    kind = word[2].to_owned();
                }
                other => panic!("unknown keyword {other} in {line}"),
            }
            continue;
        }
        let (sample, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line}"));
        let value: f64 = value.parse().unwrap_or_else(|e| panic!("{e}: {line}"));
        assert!(value.is_finite() && value >= 0.0, "{line}");
        let (name, inner) = match sample.split_once('{') {
            None => (sample, ""),
            Some((name, rest)) => {
                (name, rest.strip_suffix('}').expect("the labels must end with a brace"))
            }
        };
        let suffixes: &[&str] = match kind.as_str() {
            "counter" => &["_total"],
            "gauge" => &[""],
            "histogram" => &["_bucket", "_sum", "_count"],
            _ => panic!("there is no type line before {line}"),
        };
        let suffix = name.strip_prefix(family.as_str());
        assert!(
            suffix.is_some_and(|suffix| suffixes.contains(&suffix)),
            "{line} does not belong to the family {family}"
        );
        labels(inner);
        assert!(samples.insert(sample.to_owned(), value).is_none(), "duplicate sample: {line}");
    }
    samples
}

#[test]
fn the_item_count_includes_writes_that_are_not_yet_checkpointed() {
    let disk = DiskServer::new(&[]);
    let batch = format!("PUT /resources/stores/kv/{}/batch", disk.server.create_store("s"));
    let line = |number| format!("{{\"key\":\"k{number}\",\"value\":\"\"}}\n");
    let lines: String = (0..5000).map(line).collect();
    assert_eq!(disk.server.request(&batch, &[], lines.as_bytes()).status, 200);
    assert_eq!(Metrics::of(&disk.server).get("steadfast_items"), 5000.0);
}

#[test]
fn metrics_are_complete_and_valid_openmetrics() {
    let disk = DiskServer::new(&[]);
    let server = &disk.server;
    let item = format!("/resources/stores/kv/{}/keys/k", server.create_store("s"));
    server.request(&format!("PUT {item}"), &[], b"v");
    server.get(&item);
    let metrics = Metrics::of(server);
    for name in [
        "auth_failures_total", "overloads_total", "log_lines_dropped_total", "http_connections",
        "stores", "items", "disk_bytes", "wal_bytes", "commits_total", "commit_conflicts_total",
        "commit_groups_total", "sync_seconds_total", "cache_hits_total", "cache_misses_total",
    ] {
        metrics.get(&format!("steadfast_{name}"));
    }
    assert_eq!((metrics.get("steadfast_stores"), metrics.get("steadfast_items")), (1.0, 1.0));
    assert!(metrics.get("steadfast_disk_bytes") > 0.0);
    assert!(
        metrics.get("steadfast_http_connections") >= 1.0,
        "the connection of this request must be counted"
    );
}

#[test]
fn latency_buckets_are_cumulative() {
    let server = Server::memory(&[]);
    for _ in 0..20 {
        server.get("/healthz");
    }
    let metrics = Metrics::of(&server);
    let labels = "route=\"/healthz\",method=\"GET\"";
    let family = "steadfast_http_request_duration_seconds";
    assert_eq!(metrics.get(&format!("{family}_count{{{labels}}}")), 20.0);
    let own = metrics.0.iter().filter(|(name, _)| {
        name.starts_with(&format!("{family}_bucket{{")) && name.contains(labels)
    });
    let mut buckets: Vec<(f64, f64)> = own
        .map(|(name, count)| {
            let le = name.split("le=\"").nth(1).unwrap().split('"').next().unwrap();
            (le.parse().unwrap(), *count)
        })
        .collect();
    buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
    assert!(buckets.len() > 5 && buckets.windows(2).all(|two| two[0].1 <= two[1].1));
    assert_eq!(*buckets.last().unwrap(), (f64::INFINITY, 20.0));
}

#[test]
fn request_counters_match_the_requests_sent() {
    let server = Server::memory(&[]);
    let store = server.create_store("s");
    let item = format!("/resources/stores/kv/{store}/keys/marked-key");
    let before = Metrics::of(&server);
    for n in 0..7 {
        assert_eq!(server.request(&format!("PUT {item}{n}"), &[], b"v").status, 200);
    }
    for _ in 0..5 {
        assert_eq!(server.get(&format!("{item}0")).status, 200);
    }
    assert_eq!(server.request(&format!("HEAD {item}-none"), &[], b"").status, 404);
    assert_eq!(server.request("BREW /healthz", &[], b"").status, 405);
    assert_eq!(server.get("/some/marked-path").status, 404);
    let mut client = server.connect();
    client.send("GET\r\n\r\n").unwrap();
    assert_eq!(client.read_response(false).unwrap().status, 400);
    let after = Metrics::of(&server);
    let increase = |route: &str, method: &str, status: u16| {
        after.requests(route, method, status) - before.requests(route, method, status)
    };
    assert_eq!(increase(ITEM, "PUT", 200), 7.0);
    assert_eq!(increase(ITEM, "GET", 200), 5.0);
    assert_eq!(increase(ITEM, "HEAD", 404), 1.0);
    assert_eq!(increase("/healthz", "other", 405), 1.0);
    assert_eq!(increase("unknown", "GET", 404), 1.0);
    assert_eq!(increase("unreadable", "other", 400), 1.0);
    // A request for `/metrics` is counted only after the response is rendered.
    assert_eq!(increase("/metrics", "GET", 200), 1.0);
    assert_eq!(after.all_requests() - before.all_requests(), 17.0);
}

#[test]
fn labels_are_route_templates_and_never_keys_or_names() {
    let server = Server::memory(&[]);
    let store = server.create_store("marked-name");
    let item = format!("/resources/stores/kv/{store}/keys/marked-key");
    server.request(&format!("PUT {item}"), &[], b"v");
    server.get("/marked/path?marked");
    server.request("MARKED /healthz", &[], b"");
    let text = server.get("/metrics").text();
    assert!(!text.to_lowercase().contains("marked") && !text.contains(&store), "{text}");
    let families = text.lines().count();
    for n in 0..200 {
        server.get(&format!("{item}{n}"));
        server.get(&format!("/other/{n}"));
        server.request(&format!("M{n} /healthz"), &[], b"");
    }
    let grown = server.get("/metrics").text().lines().count() - families;
    assert!(grown < 100, "600 requests to three routes added {grown} lines");
}

#[test]
fn authentication_failures_are_counted() {
    let server = Server::memory(&[]);
    let before = Metrics::of(&server).get("steadfast_auth_failures_total");
    for headers in ["", "Fastly-Key: wrong\r\n", "Authorization: Bearer x\r\n"] {
        let mut client = server.connect();
        client.send(format!("GET /metrics HTTP/1.1\r\nHost: h\r\n{headers}\r\n")).unwrap();
        client.read_response(false).unwrap().expect_error(401);
    }
    server.get("/verify");
    assert_eq!(Metrics::of(&server).get("steadfast_auth_failures_total") - before, 3.0);
}

#[test]
fn writes_are_counted_as_commits_groups_and_syncs() {
    let disk = DiskServer::new(&[]);
    let server = &disk.server;
    let item = format!("/resources/stores/kv/{}/keys/k", server.create_store("s"));
    let before = Metrics::of(server);
    for _ in 0..20 {
        assert_eq!(server.request(&format!("PUT {item}"), &[], b"v").status, 200);
    }
    let after = Metrics::of(server);
    let increase = |name: &str| after.get(name) - before.get(name);
    assert_eq!(increase("steadfast_commits_total"), 20.0);
    // Each sequential commit forms its own group. Maintenance may add more groups.
    assert!(increase("steadfast_commit_groups_total") >= 20.0);
    assert!(increase("steadfast_sync_seconds_total") > 0.0);
    for _ in 0..5 {
        server.get(&item);
    }
    let read = Metrics::of(server);
    let hits = read.get("steadfast_cache_hits_total") - after.get("steadfast_cache_hits_total");
    assert!(hits >= 4.0, "{hits}");
}

#[test]
fn healthz_and_readyz_respond_in_plain_text() {
    let server = Server::memory(&[]);
    for (path, body) in [("/healthz", "ok\n"), ("/readyz", "ready\n")] {
        let response = server.get(path);
        assert_eq!((response.status, response.text().as_str()), (200, body));
        assert_eq!(response.header("Content-Type"), "text/plain");
        assert_eq!(response.header("Cache-Control"), "no-store");
    }
}

/// Parses a JSON log and returns its lines.
fn lines(log: &str) -> Vec<serde_json::Value> {
    let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
    log.lines().map(parse).collect()
}

fn is_id(text: &str) -> bool {
    text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase())
}

#[test]
fn json_log_lines_are_valid_and_each_request_has_a_unique_id() {
    let logged = DiskServer::logged(&["--log", "debug", "--log-format", "json"]);
    let item = format!("/resources/stores/kv/{}/keys/k", logged.server.create_store("s"));
    for _ in 0..10 {
        logged.server.request(&format!("PUT {item}"), &[], b"v");
        logged.server.get(&format!("{item}-none"));
        let mut client = logged.server.connect();
        client.send("no request\r\n\r\n").unwrap();
        client.read_response(false).unwrap();
    }
    let lines = lines(&logged.stop_and_read_log());
    let mut ids = BTreeSet::new();
    for line in &lines {
        for name in ["timestamp", "level", "target", "message"] {
            assert!(line[name].is_string(), "{name} is not a string in {line}");
        }
        if ["request completed", "request rejected"].contains(&line["message"].as_str().unwrap()) {
            let id = line["request_id"]
                .as_str()
                .unwrap_or_else(|| panic!("there is no request_id in {line}"));
            assert!(is_id(id) && ids.insert(id.to_owned()), "{line}");
        }
    }
    assert_eq!(ids.len(), 31);
    let put = lines.iter().find(|line| line["method"] == "PUT").unwrap();
    assert_eq!((&put["route"], &put["status"]), (&ITEM.into(), &200.into()));
}

/// Returns the path of the only blob file, and checks that there is only one.
fn only_blob_file(data: &Path) -> PathBuf {
    let directories = fs::read_dir(data.join("blobs")).unwrap();
    let files = directories.flat_map(|directory| fs::read_dir(directory.unwrap().path()).unwrap());
    let files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    files[0].clone()
}

#[test]
fn an_internal_error_shows_the_request_id_and_no_internals() {
    let logged = DiskServer::logged(&["--log-format", "json"]);
    let item = format!("/resources/stores/kv/{}/keys/marked-key", logged.server.create_store("s"));
    let put = logged.server.request(&format!("PUT {item}"), &[], &vec![b'v'; 1_700_000]);
    assert_eq!(put.status, 200);
    let file = only_blob_file(&logged.data());
    OpenOptions::new().write(true).open(&file).unwrap().set_len(100).unwrap();
    let response = logged.server.get(&item);
    let detail = response.expect_error(500);
    let message = format!("{}{}", response.head, response.text());
    let data = logged.data().display().to_string();
    let name = file.file_name().unwrap().to_str().unwrap();
    for internal in [data.as_str(), name, "blob", "footer", "sqlite", "src/", "marked"] {
        assert!(
            !message.to_lowercase().contains(internal),
            "the response contains {internal:?}: {message}"
        );
    }
    let id = detail.rsplit(' ').next().unwrap().to_owned();
    assert!(is_id(&id), "{detail}");
    // The damage affects only this item.
    assert_eq!(logged.server.get("/readyz").status, 200);
    assert_eq!(logged.server.request(&format!("PUT {item}"), &[], b"whole again").status, 200);
    assert_eq!(logged.server.get(&item).text(), "whole again");
    let lines = lines(&logged.stop_and_read_log());
    let line = lines.iter().find(|line| line["request_id"] == id.as_str());
    let line = line.unwrap_or_else(|| panic!("no line with the request id {id} in {lines:#?}"));
    assert_eq!((&line["level"], &line["route"]), (&"ERROR".into(), &ITEM.into()));
    assert!(line["error"].as_str().unwrap().contains(name), "{line}");
}

#[test]
fn reading_a_damaged_value_into_memory_returns_500() {
    let logged = DiskServer::logged(&[]);
    let item = format!("/resources/stores/kv/{}/keys/k", logged.server.create_store("s"));
    logged.server.request(&format!("PUT {item}"), &[], &vec![b'v'; 700_000]);
    damage_segments(&logged.data(), &[b'v'; 1000]);
    let response = logged.server.get(&item);
    response.expect_error(500);
    assert!(!response.text().contains("vvv"), "{}", response.text());
    // A single checksum covers the whole value, so an undamaged range cannot be read either.
    let range = [("Range", "bytes=0-9")];
    logged.server.request(&format!("GET {item}"), &range, b"").expect_error(500);
}

/// Changes a byte of the first occurrence of `value` in each segment that contains it.
fn damage_segments(data: &Path, value: &[u8]) {
    let mut damaged = 0;
    for entry in fs::read_dir(data.join("log")).unwrap() {
        let path = entry.unwrap().path();
        let bytes = fs::read(&path).unwrap();
        if let Some(at) = bytes.windows(value.len()).position(|window| window == value) {
            let file = OpenOptions::new().write(true).open(&path).unwrap();
            file.write_all_at(b"!", at as u64 + 500).unwrap();
            damaged += 1;
        }
    }
    assert!(damaged > 0, "no segment contains the value");
}

#[test]
fn cached_values_are_never_stale() {
    let logged = DiskServer::logged(&[]);
    let item = format!("/resources/stores/kv/{}/keys/k", logged.server.create_store("s"));
    let (get, put) = (format!("GET {item}"), format!("PUT {item}"));
    for (round, size) in
        [300_000, 1 << 20, (1 << 20) + 1, 262_145, 1_048_577].into_iter().enumerate()
    {
        let value: Vec<u8> = (0..size).map(|at: usize| (at * 7 + at / 251 + round) as u8).collect();
        assert_eq!(logged.server.request(&put, &[], &value).status, 200);
        for _ in 0..3 {
            assert!(logged.server.request(&get, &[], b"").body == value, "{size}");
            let range = [("Range", "bytes=262140-262148")];
            let part = logged.server.request(&get, &range, b"");
            assert_eq!(part.status, 206);
            let end = value.len().min(262_149);
            assert_eq!(part.body, value[262_140..end], "{size}");
        }
    }
    assert_eq!(logged.server.request(&format!("DELETE {item}"), &[], b"").status, 204);
    assert_eq!(logged.server.request(&get, &[], b"").status, 404);
}

#[test]
fn a_response_that_fails_midway_is_truncated_and_closes_the_connection() {
    let logged = DiskServer::logged(&["--log-format", "json"]);
    let item = format!("/resources/stores/kv/{}/keys/k", logged.server.create_store("s"));
    logged.server.request(&format!("PUT {item}"), &[], &vec![b'v'; 1_700_000]);
    let file = OpenOptions::new().write(true).open(only_blob_file(&logged.data())).unwrap();
    file.write_all_at(b"damage", 1_600_000).unwrap();
    let mut client = logged.server.connect();
    let truncated = client.get(&item);
    assert_eq!(truncated.unwrap_err().kind(), std::io::ErrorKind::UnexpectedEof);
    let head = format!("HEAD {item} HTTP/1.1\r\nHost: h\r\nFastly-Key: {TOKEN}\r\n\r\n");
    let mut client = logged.server.connect();
    client.send(head).unwrap();
    assert_eq!(client.read_response(true).unwrap().status, 200, "HEAD must not read the value");
    let lines = lines(&logged.stop_and_read_log());
    let line = lines.iter().find(|line| line["message"] == "response aborted");
    let line = line.unwrap_or_else(|| panic!("{lines:#?}"));
    assert!(is_id(line["request_id"].as_str().unwrap()), "{line}");
}
