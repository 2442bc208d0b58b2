//! Against a server that has the public API and nothing more, as the hosted one.

use crate::support::TOKEN;
use crate::{Ran, Site, ran};
use serde_json::json;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};

/// Hands on what is asked, one request a connection, but knows nothing under `/_/`. Lives as long
/// as the process.
fn hosted(site: &Site) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let port = site.server.port;
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            std::thread::spawn(move || hand_on(stream, port));
        }
    });
    endpoint
}

fn hand_on(stream: TcpStream, port: u16) -> Option<()> {
    let mut asked = BufReader::new(stream.try_clone().ok()?);
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if asked.read_until(b'\n', &mut head).ok()? == 0 {
            return None;
        }
    }
    let mut stream = stream;
    let target = String::from_utf8_lossy(&head).split(' ').nth(1)?.to_owned();
    if target.starts_with("/_/") {
        let body = "{\"msg\":\"Record not found\"}";
        let length = body.len();
        let answer = format!(
            "HTTP/1.1 404 Not Found\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
        );
        stream.write_all(answer.as_bytes()).ok()?;
        return stream.shutdown(Shutdown::Write).ok();
    }
    let mut server = TcpStream::connect(("127.0.0.1", port)).ok()?;
    let end = head.len() - 2;
    server.write_all(&head[..end]).ok()?;
    server.write_all(b"Connection: close\r\n\r\n").ok()?;
    let mut to = server.try_clone().ok()?;
    std::thread::spawn(move || std::io::copy(&mut asked, &mut to));
    let mut answer = Vec::new();
    server.read_to_end(&mut answer).ok()?;
    stream.write_all(&answer).ok()?;
    stream.shutdown(Shutdown::Both).ok()
}

fn at(site: &Site, endpoint: &str, args: &[&str]) -> Ran {
    let mut command = site.bare(args);
    let ran = ran(command.env("FASTLY_API_ENDPOINT", endpoint).env("FASTLY_API_TOKEN", TOKEN));
    assert!(!ran.err.contains("panicked"), "{}", ran.err);
    ran
}

#[test]
fn the_public_api_is_enough_for_stores_and_items() {
    let site = Site::with_store();
    let endpoint = hosted(&site);
    for nth in 0..40 {
        let put = ["key", "put", "site", &format!("k{nth:02}"), "abc", "--metadata", "m"];
        assert_eq!(at(&site, &endpoint, &put).code, 0);
    }
    let long = at(&site, &endpoint, &["key", "list", "site", "--long", "--json"]);
    assert_eq!(long.code, 0, "{}", long.err);
    let lines: Vec<serde_json::Value> =
        long.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let keys: Vec<_> = lines.iter().map(|line| line["key"].as_str().unwrap()).collect();
    assert!(keys.len() == 40 && keys.is_sorted(), "{keys:?}");
    assert_eq!((&lines[7]["size"], &lines[7]["metadata"]), (&json!(3), &json!("m")));
    assert!(lines[7].get("expires").is_none() && lines[7]["generation"].is_u64());
    assert!(lines[7]["modified"].as_str().unwrap().ends_with('Z'), "{}", lines[7]);
    let head = at(&site, &endpoint, &["key", "head", "site", "k07"]);
    assert!(head.text().contains("expires     ?\n"), "{}", head.text());
    let dry = at(&site, &endpoint, &["key", "delete", "site", "--prefix", "k0", "--dry-run"]);
    assert_eq!((dry.code, dry.text().as_str()), (0, "10\n"), "{}", dry.err);
    let gone =
        at(&site, &endpoint, &["key", "delete", "site", "--prefix", "k0", "--yes", "--json"]);
    assert!(gone.text().contains("\"deleted\":10"), "{} {}", gone.text(), gone.err);
    let rest = at(&site, &endpoint, &["key", "list", "site"]).text();
    assert!(rest.lines().count() == 30 && !rest.contains("k0"), "{rest}");
    let token = at(&site, &endpoint, &["token", "list"]);
    assert_eq!(token.code, 3);
    assert!(token.err.contains("not a Steadfast server"), "{}", token.err);
    let refused = at(&site, &endpoint, &["store", "delete", "site", "--yes"]);
    assert_eq!(refused.code, 4, "{}", refused.err);
    let forced = at(&site, &endpoint, &["store", "delete", "site", "--yes", "--force"]);
    assert_eq!(forced.code, 0, "{}", forced.err);
    assert_eq!(site.ok(&["store", "list"]), "");
}
