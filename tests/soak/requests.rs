//! Generates random valid and abusive requests from the OpenAPI description.

use crate::random::Random;
use crate::support::binary;
use serde_json::Value;
use std::process::Command;

/// Keys as they are encoded in request paths.
const KEYS: [&str; 9] = ["k", "k1", "k2", "k3", "dir/a", "dir%2Fa", "%F0%9F%8E%88", "%ff", "a%00b"];
/// Values for parameters. The first ones are valid for some parameters.
const TEXTS: [&str; 14] = [
    "1", "true", "2", "false", "k", "eventual", "overwrite", "", "-1", "99999999999999999999",
    "%zz", "%ff", "bytes=0-3", "ä",
];
const DECLARED_BYTES_MAX: u64 = 1 << 20;

/// An operation in the API description.
#[derive(Debug)]
pub(crate) struct Operation {
    /// The method and the path template.
    pub(crate) name: String,
    method: String,
    path: String,
    query: Vec<String>,
    headers: Vec<String>,
    has_body: bool,
    statuses: Vec<u16>,
}

impl Operation {
    /// Reads the operations from `steadfast openapi`. Adds a HEAD operation for each GET.
    pub(crate) fn all() -> Vec<Operation> {
        let printed = Command::new(binary()).arg("openapi").output().unwrap().stdout;
        let api: Value = serde_json::from_slice(&printed).unwrap();
        let mut all = Vec::new();
        for (path, methods) in api["paths"].as_object().unwrap() {
            for (method, described) in methods.as_object().unwrap() {
                if method == "parameters" {
                    continue;
                }
                let operation = Operation::new(&api, path, &method.to_uppercase(), described);
                if method == "get" {
                    all.push(Operation::new(&api, path, "HEAD", described));
                }
                all.push(operation);
            }
        }
        all
    }

    fn new(api: &Value, path: &str, method: &str, described: &Value) -> Operation {
        let (mut query, mut headers) = (Vec::new(), Vec::new());
        for parameter in described["parameters"].as_array().into_iter().flatten() {
            let parameter = match parameter["$ref"].as_str() {
                Some(at) => api.pointer(at.trim_start_matches('#')).unwrap(),
                None => parameter,
            };
            let name = parameter["name"].as_str().unwrap().to_owned();
            match parameter["in"].as_str().unwrap() {
                "query" => query.push(name),
                "header" => headers.push(name),
                _ => {}
            }
        }
        let responses = described["responses"].as_object().unwrap();
        Operation {
            name: format!("{method} {path}"),
            method: method.to_owned(),
            path: path.to_owned(),
            query,
            headers,
            has_body: described.get("requestBody").is_some(),
            statuses: responses.keys().map(|status| status.parse().unwrap()).collect(),
        }
    }
}

/// A request, and how the server must respond to it.
pub(crate) struct RandomRequest {
    pub(crate) operation: String,
    pub(crate) method: String,
    pub(crate) bytes: Vec<u8>,
    /// Whether the request is complete and well-formed HTTP, so that it must get a response.
    pub(crate) is_valid: bool,
    /// Whether the end of the request is missing.
    pub(crate) is_truncated: bool,
    pub(crate) statuses: Vec<u16>,
}

impl RandomRequest {
    pub(crate) fn new(
        operation: &Operation,
        store: &str,
        token: &str,
        random: &mut Random,
    ) -> RandomRequest {
        let target = target(operation, store, random);
        let mut head = format!("{} {target} HTTP/1.1\r\nHost: test\r\n", operation.method);
        match random.below(20) {
            0 => {}
            1 => head.push_str("Fastly-Key: wrong\r\n"),
            _ => head.push_str(&format!("Fastly-Key: {token}\r\n")),
        }
        for name in &operation.headers {
            if random.one_in(3) {
                head.push_str(&format!("{name}: {}\r\n", pick(&TEXTS, random)));
            }
        }
        let body = match operation.has_body || random.one_in(30) {
            true => body(operation, random),
            false => Vec::new(),
        };
        let abusive_head = random.one_in(40);
        if abusive_head {
            head.push_str(pick(
                &["Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "a b: c\r\n", "\0\r\n"],
                random,
            ));
        }
        let mut bytes = framed(head, &body, operation.has_body, random);
        let is_truncated = random.one_in(40);
        if is_truncated {
            bytes.truncate(random.below(bytes.len() as u64) as usize);
        }
        RandomRequest {
            operation: operation.name.clone(),
            method: operation.method.clone(),
            bytes,
            is_valid: !abusive_head && !is_truncated,
            is_truncated,
            statuses: operation.statuses.clone(),
        }
    }

    /// Returns the beginning of the request, for messages.
    pub(crate) fn text(&self) -> String {
        let start = &self.bytes[..self.bytes.len().min(300)];
        String::from_utf8_lossy(start).into_owned()
    }
}

fn pick<'a>(from: &[&'a str], random: &mut Random) -> &'a str {
    from[random.below(from.len() as u64) as usize]
}

fn target(operation: &Operation, store: &str, random: &mut Random) -> String {
    let store = match random.below(12) {
        0 => "0000000000000000000000",
        _ => store,
    };
    let key = match random.below(30) {
        0 => "x".repeat(1024),
        1 => "y".repeat(1025),
        _ => pick(&KEYS, random).to_owned(),
    };
    let path = operation.path.replace("{store_id}", store).replace("{key}", &key);
    let path = path.replace("{token_id}", store);
    let mut query = Vec::new();
    for name in &operation.query {
        if random.one_in(3) {
            query.push(format!("{name}={}", pick(&TEXTS, random)));
        }
    }
    match query.is_empty() {
        true => path,
        false => format!("{path}?{}", query.join("&")),
    }
}

/// Completes the head and appends the body, either with a Content-Length or in chunks.
fn framed(mut head: String, body: &[u8], has_body: bool, random: &mut Random) -> Vec<u8> {
    if body.is_empty() && !has_body {
        head.push_str("\r\n");
        return head.into_bytes();
    }
    if random.one_in(4) {
        head.push_str("Transfer-Encoding: chunked\r\n\r\n");
        let mut bytes = head.into_bytes();
        for chunk in body.chunks(1 + random.below(100_000) as usize) {
            bytes.extend(format!("{:x}\r\n", chunk.len()).into_bytes());
            bytes.extend_from_slice(chunk);
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(b"0\r\n\r\n");
        return bytes;
    }
    if random.one_in(10) {
        head.push_str("Expect: 100-continue\r\n");
    }
    head.push_str(&format!("Content-Length: {}\r\n\r\n", body.len()));
    [head.as_bytes(), body].concat()
}

fn body(operation: &Operation, random: &mut Random) -> Vec<u8> {
    match random.below(12) {
        0 => Vec::new(),
        1 => (0..random.below(5000)).map(|_| random.next() as u8).collect(),
        2 => vec![b'['; 1 + random.below(100_000) as usize],
        3 => vec![b'v'; random.below(DECLARED_BYTES_MAX) as usize],
        _ if operation.path.ends_with("/batch") || operation.path.ends_with("/import") => {
            (0..random.below(30)).map(|_| line(random)).collect::<String>().into_bytes()
        }
        _ if operation.path.ends_with("/tokens") => {
            let scope = pick(&["global", "global:read", "all", ""], random);
            let prefix = pick(&["k", "dir/", "", "\\u0000"], random);
            format!(r#"{{"name":"t","scope":"{scope}","prefix":"{prefix}"}}"#).into_bytes()
        }
        _ if operation.path.ends_with("{key}") => {
            vec![b'a' + random.below(26) as u8; random.below(10_000) as usize]
        }
        _ => format!(r#"{{"name":"s{}"}}"#, random.below(1000)).into_bytes(),
    }
}

/// Returns a line of a batch or an import. Most lines are valid.
fn line(random: &mut Random) -> String {
    let key = random.below(50);
    let more = match random.below(12) {
        0 => r#","metadata":"m""#,
        1 => r#","time_to_live_sec":1"#,
        2 => r#","expires":"9999-12-31T23:59:59-01:00""#,
        3 => r#","generation":9007199254740991"#,
        4 => r#","modified":"2020-01-01T00:00:00Z""#,
        5 => r#","value":"b""#,
        _ => "",
    };
    match random.below(20) {
        0 => "{\"key\":\n".to_owned(),
        1 => format!("{{\"key\":\"{}\",\"value\":\"YQ==\"}}\n", "k".repeat(2000)),
        2 => "[[[[[[[[[[\n".to_owned(),
        _ => format!("{{\"key\":\"k{key}\",\"value\":\"YQ==\"{more}}}\n"),
    }
}
