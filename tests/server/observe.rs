//! What the server tells of itself: health, metrics and logs.

use crate::logged::Logged;
use crate::support::{Home, Server, TOKEN};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const ITEM: &str = "/resources/stores/kv/{store_id}/keys/{key}";

/// The samples of a text of metrics, by their name with its labels.
struct Metrics(BTreeMap<String, f64>);

impl Metrics {
    fn of(server: &Server) -> Metrics {
        let answer = server.ask("GET /metrics", &[], b"");
        assert_eq!(answer.status, 200);
        let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
        assert_eq!(answer.field("Content-Type"), kind);
        Metrics(parse(&answer.text()))
    }

    fn get(&self, name: &str) -> f64 {
        *self.0.get(name).unwrap_or_else(|| panic!("no {name} in {:#?}", self.0))
    }

    /// Requests that were answered so; 0 when none was.
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

/// The labels of a sample, each of which must be well-formed.
fn labels(text: &str) -> Vec<(&str, &str)> {
    let mut labels = Vec::new();
    for part in text.split("\",").filter(|part| !part.is_empty()) {
        let (name, value) = part.split_once("=\"").unwrap_or_else(|| panic!("labels {text}"));
        let value = value.strip_suffix('"').unwrap_or(value);
        assert!(is_name(name) && !value.contains(['"', '\\', '\n']), "labels {text}");
        labels.push((name, value));
    }
    let names: BTreeSet<_> = labels.iter().map(|(name, _)| name).collect();
    assert_eq!(names.len(), labels.len(), "a label twice in {text}");
    labels
}

/// Checks the text against the format of OpenMetrics, line by line, and gathers its samples.
fn parse(text: &str) -> BTreeMap<String, f64> {
    let (mut family, mut kind) = (String::new(), String::new());
    let (mut samples, mut families) = (BTreeMap::new(), BTreeSet::new());
    let body = text.strip_suffix("# EOF\n").expect("it ends with # EOF");
    for line in body.lines() {
        if let Some(rest) = line.strip_prefix("# ") {
            let mut words = rest.splitn(3, ' ');
            let word = [words.next().unwrap(), words.next().unwrap(), words.next().unwrap()];
            assert!(is_name(word[1]) && !word[2].is_empty(), "{line}");
            match word[0] {
                "HELP" => {
                    assert!(families.insert(word[1].to_owned()), "a family twice: {line}");
                    (family, kind) = (word[1].to_owned(), String::new());
                }
                "TYPE" => {
                    assert_eq!(word[1], family, "{line}");
                    assert!(["counter", "gauge", "histogram"].contains(&word[2]), "{line}");
                    kind = word[2].to_owned();
                }
                other => panic!("{other} in {line}"),
            }
            continue;
        }
        let (sample, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line}"));
        let value: f64 = value.parse().unwrap_or_else(|e| panic!("{e}: {line}"));
        assert!(value.is_finite() && value >= 0.0, "{line}");
        let (name, inner) = match sample.split_once('{') {
            None => (sample, ""),
            Some((name, rest)) => (name, rest.strip_suffix('}').expect("a closing brace")),
        };
        let suffixes: &[&str] = match kind.as_str() {
            "counter" => &["_total"],
            "gauge" => &[""],
            "histogram" => &["_bucket", "_sum", "_count"],
            _ => panic!("no type before {line}"),
        };
        let suffix = name.strip_prefix(family.as_str());
        assert!(suffix.is_some_and(|suffix| suffixes.contains(&suffix)), "{line} in {family}");
        labels(inner);
        assert!(samples.insert(sample.to_owned(), value).is_none(), "twice: {line}");
    }
    samples
}

#[test]
fn every_metric_is_there_and_the_text_keeps_to_its_format() {
    let home = Home::new(&[]);
    let server = &home.server;
    let item = format!("/resources/stores/kv/{}/keys/k", server.store("s"));
    server.ask(&format!("PUT {item}"), &[], b"v");
    server.ask(&format!("GET {item}"), &[], b"");
    let metrics = Metrics::of(server);
    for name in [
        "auth_failures_total",
        "overloads_total",
        "http_connections",
        "stores",
        "items",
        "disk_bytes",
        "wal_bytes",
        "commits_total",
        "commit_conflicts_total",
        "commit_groups_total",
        "sync_seconds_total",
        "cache_hits_total",
        "cache_misses_total",
    ] {
        metrics.get(&format!("steadfast_{name}"));
    }
    assert_eq!((metrics.get("steadfast_stores"), metrics.get("steadfast_items")), (1.0, 1.0));
    assert!(metrics.get("steadfast_disk_bytes") > 0.0);
    assert!(metrics.get("steadfast_http_connections") >= 1.0, "the one that asks");
}

#[test]
fn buckets_of_latency_add_up() {
    let server = Server::memory(&[]);
    for _ in 0..20 {
        server.ask("GET /healthz", &[], b"");
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
fn counts_go_up_by_exactly_the_requests_made() {
    let server = Server::memory(&[]);
    let store = server.store("s");
    let item = format!("/resources/stores/kv/{store}/keys/marked-key");
    let before = Metrics::of(&server);
    for n in 0..7 {
        assert_eq!(server.ask(&format!("PUT {item}{n}"), &[], b"v").status, 200);
    }
    for _ in 0..5 {
        assert_eq!(server.ask(&format!("GET {item}0"), &[], b"").status, 200);
    }
    assert_eq!(server.ask(&format!("HEAD {item}-none"), &[], b"").status, 404);
    assert_eq!(server.ask("BREW /healthz", &[], b"").status, 405);
    assert_eq!(server.ask("GET /some/marked-path", &[], b"").status, 404);
    let mut client = server.connect();
    client.send("GET\r\n\r\n").unwrap();
    assert_eq!(client.answer(false).unwrap().status, 400);
    let after = Metrics::of(&server);
    let rise = |route: &str, method: &str, status: u16| {
        after.requests(route, method, status) - before.requests(route, method, status)
    };
    assert_eq!(rise(ITEM, "PUT", 200), 7.0);
    assert_eq!(rise(ITEM, "GET", 200), 5.0);
    assert_eq!(rise(ITEM, "HEAD", 404), 1.0);
    assert_eq!(rise("/healthz", "other", 405), 1.0);
    assert_eq!(rise("unknown", "GET", 404), 1.0);
    assert_eq!(rise("unreadable", "other", 400), 1.0);
    // The first reading counts too, after it was rendered.
    assert_eq!(rise("/metrics", "GET", 200), 1.0);
    assert_eq!(after.all_requests() - before.all_requests(), 17.0);
}

#[test]
fn labels_are_templates_and_never_keys_or_names() {
    let server = Server::memory(&[]);
    let store = server.store("marked-name");
    let item = format!("/resources/stores/kv/{store}/keys/marked-key");
    server.ask(&format!("PUT {item}"), &[], b"v");
    server.ask("GET /marked/path?marked", &[], b"");
    server.ask("MARKED /healthz", &[], b"");
    let text = server.ask("GET /metrics", &[], b"").text();
    assert!(!text.to_lowercase().contains("marked") && !text.contains(&store), "{text}");
    let families = text.lines().count();
    for n in 0..200 {
        server.ask(&format!("GET {item}{n}"), &[], b"");
        server.ask(&format!("GET /other/{n}"), &[], b"");
        server.ask(&format!("M{n} /healthz"), &[], b"");
    }
    let grown = server.ask("GET /metrics", &[], b"").text().lines().count() - families;
    assert!(grown < 100, "{grown} more lines after 600 requests of three kinds");
}

#[test]
fn failures_of_authentication_are_counted() {
    let server = Server::memory(&[]);
    let before = Metrics::of(&server).get("steadfast_auth_failures_total");
    for fields in ["", "Fastly-Key: wrong\r\n", "Authorization: Bearer x\r\n"] {
        let mut client = server.connect();
        client.send(format!("GET /metrics HTTP/1.1\r\nHost: h\r\n{fields}\r\n")).unwrap();
        client.answer(false).unwrap().refused(401);
    }
    server.ask("GET /verify", &[], b"");
    assert_eq!(Metrics::of(&server).get("steadfast_auth_failures_total") - before, 3.0);
}

#[test]
fn writes_are_seen_as_commits_groups_and_syncs() {
    let home = Home::new(&[]);
    let server = &home.server;
    let item = format!("/resources/stores/kv/{}/keys/k", server.store("s"));
    let before = Metrics::of(server);
    for _ in 0..20 {
        assert_eq!(server.ask(&format!("PUT {item}"), &[], b"v").status, 200);
    }
    let after = Metrics::of(server);
    let rise = |name: &str| after.get(name) - before.get(name);
    assert_eq!(rise("steadfast_commits_total"), 20.0);
    // One after another, each is a group of its own; what else the server commits may be more.
    assert!(rise("steadfast_commit_groups_total") >= 20.0);
    assert!(rise("steadfast_sync_seconds_total") > 0.0);
    for _ in 0..5 {
        server.ask(&format!("GET {item}"), &[], b"");
    }
    let read = Metrics::of(server);
    let hits = read.get("steadfast_cache_hits_total") - after.get("steadfast_cache_hits_total");
    assert!(hits >= 4.0, "{hits}");
}

#[test]
fn health_is_said_without_the_store_and_readiness_with_it() {
    let server = Server::memory(&[]);
    for (path, says) in [("/healthz", "ok\n"), ("/readyz", "ready\n")] {
        let answer = server.ask(&format!("GET {path}"), &[], b"");
        assert_eq!((answer.status, answer.text().as_str()), (200, says));
        assert_eq!(answer.field("Content-Type"), "text/plain");
        assert_eq!(answer.field("Cache-Control"), "no-store");
    }
}

/// The lines of a log of JSON.
fn lines(log: &str) -> Vec<serde_json::Value> {
    let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
    log.lines().map(parse).collect()
}

fn is_id(text: &str) -> bool {
    text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase())
}

#[test]
fn each_line_of_a_json_log_is_json_and_each_request_has_its_own_id() {
    let logged = Logged::new(&["--log", "debug", "--log-format", "json"]);
    let item = format!("/resources/stores/kv/{}/keys/k", logged.server.store("s"));
    for _ in 0..10 {
        logged.server.ask(&format!("PUT {item}"), &[], b"v");
        logged.server.ask(&format!("GET {item}-none"), &[], b"");
        let mut client = logged.server.connect();
        client.send("no request\r\n\r\n").unwrap();
        client.answer(false).unwrap();
    }
    let lines = lines(&logged.stop());
    let mut ids = BTreeSet::new();
    for line in &lines {
        for name in ["timestamp", "level", "target", "message"] {
            assert!(line[name].is_string(), "{name} in {line}");
        }
        if ["request completed", "request rejected"].contains(&line["message"].as_str().unwrap()) {
            let id = line["request_id"].as_str().unwrap_or_else(|| panic!("no id in {line}"));
            assert!(is_id(id) && ids.insert(id.to_owned()), "{line}");
        }
    }
    assert_eq!(ids.len(), 31);
    let put = lines.iter().find(|line| line["method"] == "PUT").unwrap();
    assert_eq!((&put["route"], &put["status"]), (&ITEM.into(), &200.into()));
}

/// The one file of a large value.
fn blob(data: &Path) -> PathBuf {
    let folders = fs::read_dir(data.join("blobs")).unwrap();
    let files = folders.flat_map(|folder| fs::read_dir(folder.unwrap().path()).unwrap());
    let files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    files[0].clone()
}

#[test]
fn a_failure_inside_names_its_request_and_nothing_else() {
    let logged = Logged::new(&["--log-format", "json"]);
    let item = format!("/resources/stores/kv/{}/keys/marked-key", logged.server.store("s"));
    let put = logged.server.ask(&format!("PUT {item}"), &[], &vec![b'v'; 700_000]);
    assert_eq!(put.status, 200);
    let file = blob(&logged.data());
    OpenOptions::new().write(true).open(&file).unwrap().set_len(100).unwrap();
    let answer = logged.server.ask(&format!("GET {item}"), &[], b"");
    let detail = answer.refused(500);
    let said = format!("{}{}", answer.head, answer.text());
    let data = logged.data().display().to_string();
    let name = file.file_name().unwrap().to_str().unwrap();
    for inside in [data.as_str(), name, "blob", "footer", "sqlite", "src/", "marked"] {
        assert!(!said.to_lowercase().contains(inside), "{inside} in {said}");
    }
    let id = detail.rsplit(' ').next().unwrap().to_owned();
    assert!(is_id(&id), "{detail}");
    // It concerns this item alone.
    assert_eq!(logged.server.ask("GET /readyz", &[], b"").status, 200);
    assert_eq!(logged.server.ask(&format!("PUT {item}"), &[], b"whole again").status, 200);
    assert_eq!(logged.server.ask(&format!("GET {item}"), &[], b"").text(), "whole again");
    let lines = lines(&logged.stop());
    let line = lines.iter().find(|line| line["request_id"] == id.as_str());
    let line = line.unwrap_or_else(|| panic!("{id} is not in {lines:#?}"));
    assert_eq!((&line["level"], &line["route"]), (&"ERROR".into(), &ITEM.into()));
    assert!(line["error"].as_str().unwrap().contains(name), "{line}");
}

#[test]
fn a_damaged_value_that_is_sent_at_once_is_a_500_and_not_a_byte_of_it() {
    let logged = Logged::new(&[]);
    let item = format!("/resources/stores/kv/{}/keys/k", logged.server.store("s"));
    logged.server.ask(&format!("PUT {item}"), &[], &vec![b'v'; 700_000]);
    let file = OpenOptions::new().write(true).open(blob(&logged.data())).unwrap();
    file.write_all_at(b"damage", 600_000).unwrap();
    let answer = logged.server.ask(&format!("GET {item}"), &[], b"");
    answer.refused(500);
    assert!(!answer.text().contains("vvv"), "{}", answer.text());
    // Only what is asked for is read, and it is sound.
    let range = [("Range", "bytes=0-9")];
    let part = logged.server.ask(&format!("GET {item}"), &range, b"");
    assert_eq!((part.status, part.text()), (206, "vvvvvvvvvv".to_owned()));
}

#[test]
fn a_value_that_stays_in_memory_is_always_the_last_that_was_written() {
    let logged = Logged::new(&[]);
    let item = format!("/resources/stores/kv/{}/keys/k", logged.server.store("s"));
    let (get, put) = (format!("GET {item}"), format!("PUT {item}"));
    for (round, size) in [300_000, 1 << 20, (1 << 20) + 1, 262_145].into_iter().enumerate() {
        let value: Vec<u8> = (0..size).map(|at: usize| (at * 7 + at / 251 + round) as u8).collect();
        assert_eq!(logged.server.ask(&put, &[], &value).status, 200);
        for _ in 0..3 {
            assert!(logged.server.ask(&get, &[], b"").body == value, "{size}");
            let range = [("Range", "bytes=262140-262148")];
            let part = logged.server.ask(&get, &range, b"");
            assert_eq!(part.status, 206);
            let end = value.len().min(262_149);
            assert_eq!(part.body, value[262_140..end], "{size}");
        }
    }
    assert_eq!(logged.server.ask(&format!("DELETE {item}"), &[], b"").status, 204);
    assert_eq!(logged.server.ask(&get, &[], b"").status, 404);
}

#[test]
fn an_answer_that_fails_on_its_way_is_cut_and_never_looks_whole() {
    let logged = Logged::new(&["--log-format", "json"]);
    let item = format!("/resources/stores/kv/{}/keys/k", logged.server.store("s"));
    logged.server.ask(&format!("PUT {item}"), &[], &vec![b'v'; 1_700_000]);
    let file = OpenOptions::new().write(true).open(blob(&logged.data())).unwrap();
    file.write_all_at(b"damage", 1_600_000).unwrap();
    let mut client = logged.server.connect();
    let cut = client.ask(&format!("GET {item}"), &[], b"");
    assert_eq!(cut.unwrap_err().kind(), std::io::ErrorKind::UnexpectedEof);
    let head = format!("HEAD {item} HTTP/1.1\r\nFastly-Key: {TOKEN}\r\n\r\n");
    let mut client = logged.server.connect();
    client.send(head).unwrap();
    assert_eq!(client.answer(true).unwrap().status, 200, "its head is sound");
    let lines = lines(&logged.stop());
    let line = lines.iter().find(|line| line["message"] == "response aborted");
    let line = line.unwrap_or_else(|| panic!("{lines:#?}"));
    assert!(is_id(line["request_id"].as_str().unwrap()), "{line}");
}
