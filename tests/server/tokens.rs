//! Where the secret of a limited token is: in the answer that made it, and nowhere else.

use crate::logged::Logged;
use crate::support::Answer;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use std::fs;
use std::path::{Path, PathBuf};

const TRACE: &[&str] = &["--log", "trace"];

fn ask(logged: &Logged, secret: &str, request: &str, body: &str) -> Answer {
    let head = format!("{request} HTTP/1.1\r\nHost: h\r\nFastly-Key: {secret}\r\n");
    let mut client = logged.server.connect();
    client.send(format!("{head}Content-Length: {}\r\n\r\n{body}", body.len())).unwrap();
    client.answer(request.starts_with("HEAD")).unwrap()
}

fn files(at: &Path) -> Vec<PathBuf> {
    if at.is_file() {
        return vec![at.to_owned()];
    }
    let entries = fs::read_dir(at).unwrap();
    entries.flat_map(|entry| files(&entry.unwrap().path())).collect()
}

fn holds(bytes: &[u8], part: &[u8]) -> bool {
    memchr::memmem::find(bytes, part).is_some()
}

/// Fails when any file has a secret, as text or as the bytes that the text stands for, or when the
/// search does not find what is there.
fn nowhere_in(data: &Path, secrets: &[String], there: &str) {
    let mut found = false;
    for path in files(data) {
        let bytes = fs::read(&path).unwrap();
        found |= holds(&bytes, there.as_bytes());
        for secret in secrets {
            let text = secret.strip_prefix("sf_").unwrap();
            let raw = URL_SAFE_NO_PAD.decode(text).unwrap();
            assert_eq!(raw.len(), 32);
            let holds = holds(&bytes, text.as_bytes()) || holds(&bytes, &raw);
            assert!(!holds, "{} has a secret", path.display());
        }
    }
    assert!(found, "{there} is there");
}

#[test]
fn a_secret_is_in_no_log_no_file_and_no_other_answer_and_its_token_survives() {
    let mut logged = Logged::new(TRACE);
    let (mut secrets, mut ids) = (Vec::new(), Vec::new());
    for name in ["kept-by-name", "revoked", "given-up"] {
        let body = format!("{{\"name\":\"{name}\",\"scope\":\"global\",\"prefix\":\"in/\"}}");
        let made = logged.server.ask("POST /_/v1/tokens", &[], body.as_bytes());
        assert_eq!(made.status, 201);
        let text = |name: &str| made.json()[name].as_str().unwrap().to_owned();
        secrets.push(text("access_token"));
        ids.push(text("id"));
    }
    let [kept, revoked, given_up] = [0, 1, 2].map(|at| secrets[at].clone());
    let store = logged.server.store("s");
    let keys = format!("/resources/stores/kv/{store}/keys");
    let mut answers = vec![
        logged.server.ask("GET /_/v1/tokens", &[], b""),
        logged.server.ask(&format!("DELETE /_/v1/tokens/{}", ids[1]), &[], b""),
        ask(&logged, &given_up, "DELETE /tokens/self", ""),
        ask(&logged, &kept, &format!("PUT {keys}/in/k"), "v"),
        ask(&logged, &kept, &format!("PUT {keys}/out"), "v"),
        ask(&logged, &kept, "GET /verify", ""),
        ask(&logged, &kept, "GET /current_user", ""),
        ask(&logged, &kept, "GET /tokens/self", ""),
        ask(&logged, &kept, "GET /no/such/path", ""),
        ask(&logged, &kept, "POST /_/v1/tokens", "{}"),
        ask(&logged, &revoked, "GET /verify", ""),
        ask(&logged, &format!("{kept}x"), "GET /verify", ""),
        logged.server.ask("GET /metrics", &[], b""),
    ];
    nowhere_in(&logged.data(), &secrets, "kept-by-name");
    logged.crash(TRACE);
    answers.push(ask(&logged, &kept, &format!("GET {keys}/in/k"), ""));
    answers.push(ask(&logged, &kept, &format!("GET {keys}/out"), ""));
    answers.push(ask(&logged, &revoked, "GET /verify", ""));
    answers.push(ask(&logged, &given_up, "GET /verify", ""));
    answers.push(logged.server.ask("GET /_/v1/tokens", &[], b""));
    let statuses: Vec<_> = answers.iter().map(|answer| answer.status).collect();
    let before = [200, 204, 204, 200, 403, 200, 200, 200, 404, 403, 401, 401, 200];
    assert_eq!(statuses, [&before[..], &[200, 403, 401, 401, 200]].concat());
    nowhere_in(&logged.data(), &secrets, "kept-by-name");
    let log = logged.stop();
    assert!(log.contains("TRACE") || log.contains("DEBUG"), "the log is full");
    for text in secrets.iter().map(|secret| &secret[3..]) {
        assert!(!log.contains(text));
        let shown =
            |answer: &Answer| holds(&answer.body, text.as_bytes()) || answer.head.contains(text);
        assert!(!answers.iter().any(shown));
    }
}
