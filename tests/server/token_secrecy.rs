//! Tests that the secret of a limited token appears only in the response that creates the token:
//! not in a file, a log or another response.

use crate::support::{DiskServer, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

const TRACE: &[&str] = &["--log", "trace"];

fn files(at: &Path) -> Vec<PathBuf> {
    if at.is_file() {
        return vec![at.to_owned()];
    }
    let entries = fs::read_dir(at).unwrap();
    entries.flat_map(|entry| files(&entry.unwrap().path())).collect()
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    memchr::memmem::find(bytes, part).is_some()
}

/// Checks that no file contains one of the secrets, as text or decoded. Also checks that the search
/// finds `present`, which is stored in a file.
fn assert_in_no_file(data: &Path, secrets: &[String], present: &str) {
    let mut found = false;
    for path in files(data) {
        let bytes = match fs::read(&path) {
            // The server may remove a file while the directory is being read.
            Err(e) if e.kind() == ErrorKind::NotFound => continue,
            bytes => bytes.unwrap(),
        };
        found |= contains(&bytes, present.as_bytes());
        for secret in secrets {
            let text = secret.strip_prefix("sf_").unwrap();
            let raw = URL_SAFE_NO_PAD.decode(text).unwrap();
            assert_eq!(raw.len(), 32);
            let contains = contains(&bytes, text.as_bytes()) || contains(&bytes, &raw);
            assert!(!contains, "{} contains a secret", path.display());
        }
    }
    assert!(found, "the search did not find {present:?}, which is stored");
}

#[test]
fn token_secrets_appear_in_no_file_log_or_other_response() {
    let mut logged = DiskServer::logged(TRACE);
    let (mut secrets, mut ids) = (Vec::new(), Vec::new());
    for name in ["active-by-name", "revoked", "given-up"] {
        let body = format!("{{\"name\":\"{name}\",\"scope\":\"global\",\"prefix\":\"in/\"}}");
        let created = logged.server.request("POST /_/v1/tokens", &[], body.as_bytes());
        assert_eq!(created.status, 201);
        let text = |name: &str| created.json()[name].as_str().unwrap().to_owned();
        secrets.push(text("access_token"));
        ids.push(text("id"));
    }
    let [active, revoked, self_revoked] = [0, 1, 2].map(|at| secrets[at].clone());
    let store = logged.server.create_store("s");
    let keys = format!("/resources/stores/kv/{store}/keys");
    let mut responses = vec![
        logged.server.get("/_/v1/tokens"),
        logged.server.request(&format!("DELETE /_/v1/tokens/{}", ids[1]), &[], b""),
        logged.server.request_as(&self_revoked, "DELETE /tokens/self", ""),
        logged.server.request_as(&active, &format!("PUT {keys}/in/k"), "v"),
        logged.server.request_as(&active, &format!("PUT {keys}/out"), "v"),
        logged.server.request_as(&active, "GET /verify", ""),
        logged.server.request_as(&active, "GET /current_user", ""),
        logged.server.request_as(&active, "GET /tokens/self", ""),
        logged.server.request_as(&active, "GET /no/such/path", ""),
        logged.server.request_as(&active, "POST /_/v1/tokens", "{}"),
        logged.server.request_as(&revoked, "GET /verify", ""),
        logged.server.request_as(&format!("{active}x"), "GET /verify", ""),
        logged.server.get("/metrics"),
    ];
    assert_in_no_file(&logged.data(), &secrets, "active-by-name");
    logged.kill_and_restart(TRACE);
    responses.push(logged.server.request_as(&active, &format!("GET {keys}/in/k"), ""));
    responses.push(logged.server.request_as(&active, &format!("GET {keys}/out"), ""));
    responses.push(logged.server.request_as(&revoked, "GET /verify", ""));
    responses.push(logged.server.request_as(&self_revoked, "GET /verify", ""));
    responses.push(logged.server.get("/_/v1/tokens"));
    let statuses: Vec<_> = responses.iter().map(|response| response.status).collect();
    let before = [200, 204, 204, 200, 403, 200, 200, 200, 404, 403, 401, 401, 200];
    assert_eq!(statuses, [&before[..], &[200, 403, 401, 401, 200]].concat());
    assert_in_no_file(&logged.data(), &secrets, "active-by-name");
    let log = logged.stop_and_read_log();
    assert!(
        log.contains("TRACE") || log.contains("DEBUG"),
        "the log contains no debug or trace lines"
    );
    for text in secrets.iter().map(|secret| &secret[3..]) {
        assert!(!log.contains(text));
        let displayed = |response: &Response| {
            contains(&response.body, text.as_bytes()) || response.head.contains(text)
        };
        assert!(!responses.iter().any(displayed));
    }
}
