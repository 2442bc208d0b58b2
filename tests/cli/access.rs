//! Endpoint and token: where they come from, where a token never goes, and how failures end.

use crate::support::{Server, TOKEN};
use crate::{Site, ran};
use std::fs;
use std::io::Read;
use std::net::TcpListener;
use std::time::{Duration, Instant};

const LIST: [&str; 2] = ["store", "list"];

#[test]
fn the_token_comes_from_a_file_or_the_environment_and_never_from_the_command_line() {
    let site = Site::with_store();
    let at = site.endpoint();
    let file = site.file("token", format!("{TOKEN}\n").as_bytes());
    let bad = site.file("bad", b"another-token-0123456789");
    let run = |extra: &[&str], env: &[(&str, &str)]| {
        let args = [&LIST, &["--endpoint", at.as_str()][..], extra].concat();
        ran(site.bare(&args).envs(env.iter().copied()))
    };
    assert_eq!(run(&[], &[("FASTLY_API_TOKEN", TOKEN)]).code, 0);
    assert_eq!(run(&["--token-file", &file], &[]).code, 0);
    assert_eq!(run(&[], &[("STEADFAST_TOKEN_FILE", &file)]).code, 0);
    let flag_wins = run(&["--token-file", &file], &[("FASTLY_API_TOKEN", "wrong-0123456789")]);
    assert_eq!(flag_wins.code, 0, "{}", flag_wins.err);
    assert_eq!(run(&["--token-file", &bad], &[("FASTLY_API_TOKEN", TOKEN)]).code, 5);
    let none = run(&[], &[]);
    assert_eq!(none.code, 5);
    assert!(none.err.contains("FASTLY_API_TOKEN") && none.err.contains("--token-file"));
    assert_eq!(run(&[], &[("FASTLY_API_TOKEN", "")]).code, 5);
    let wrong = run(&[], &[("FASTLY_API_TOKEN", "wrong-0123456789")]);
    assert_eq!(wrong.code, 5);
    assert!(!wrong.err.contains("wrong-0123456789"), "{}", wrong.err);
    assert_eq!(run(&["--token-file", "/no/such/file"], &[]).code, 5);
    let aloud = run(&["--fastly-api-token", TOKEN], &[]);
    assert_eq!(aloud.code, 2);
    assert!(aloud.err.contains("FASTLY_API_TOKEN") && !aloud.err.contains(TOKEN));
    assert_eq!(run(&["--token", TOKEN], &[]).code, 2);
}

#[test]
fn a_token_that_nobody_named_stays_on_this_machine() {
    let site = Site::with_store();
    fs::create_dir(site.dir.path().join("steadfast-data")).unwrap();
    fs::write(site.dir.path().join("steadfast-data/token"), TOKEN).unwrap();
    let to = |endpoint: &str| ran(&mut site.bare(&["store", "list", "--endpoint", endpoint]));
    assert_eq!(to(&site.endpoint()).code, 0);
    assert_eq!(to(&format!("http://localhost:{}", site.server.port)).code, 0);
    // It ends before anything is sent: the name cannot be resolved.
    let far = to("http://kv.invalid");
    assert_eq!(far.code, 5, "{}", far.err);
    assert!(far.err.contains("no token for http://kv.invalid"), "{}", far.err);
}

#[test]
fn an_endpoint_is_checked_before_anything_is_sent() {
    let site = Site::new();
    for bad in ["", "127.0.0.1", "ftp://h", "http://h/path", "http://u:secret@h", "http://h?x"] {
        let said = site.fails(2, &["store", "list", "--endpoint", bad]);
        assert!(said.contains("endpoint") && !said.contains("secret"), "{said}");
    }
}

#[test]
fn a_server_that_is_not_there_is_told_of_at_once() {
    let site = Site::new();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", closed.local_addr().unwrap());
    drop(closed);
    let start = Instant::now();
    let said = site.fails(6, &["store", "list", "--endpoint", &endpoint]);
    assert!(said.contains("cannot reach") && said.contains(&endpoint), "{said}");
    assert!(start.elapsed() < Duration::from_secs(5));
    let said = site.fails(6, &["store", "list", "--endpoint", "http://kv.invalid"]);
    assert!(said.contains("kv.invalid"), "{said}");
}

#[test]
fn a_server_that_hangs_up_or_is_none_is_no_panic() {
    let site = Site::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let answers: [&[u8]; 4] = [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"data\":[",
        b"HTTP/1.1 302 Found\r\nLocation: http://kv.invalid/\r\nContent-Length: 0\r\n\r\n",
    ];
    let codes = [6, 1, 6, 1];
    let serve = std::thread::spawn(move || {
        for answer in answers {
            // A cut connection is tried again as often as the policy says.
            let times = if answer.is_empty() { 4 } else { 1 };
            for _ in 0..times {
                let (mut stream, _) = listener.accept().unwrap();
                let mut head = [0; 4096];
                let _ = stream.read(&mut head).unwrap();
                std::io::Write::write_all(&mut stream, answer).unwrap();
            }
        }
    });
    for code in codes {
        site.fails(code, &["store", "list", "--endpoint", &endpoint]);
    }
    serve.join().unwrap();
}

#[test]
fn a_server_that_says_later_is_asked_again() {
    let site = Site::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let serve = std::thread::spawn(move || {
        let busy =
            "HTTP/1.1 503 Busy\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        let body = "{\"data\":[],\"meta\":{\"limit\":1000,\"total\":0}}";
        let fine = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        for answer in [busy, busy, &fine] {
            let (mut stream, _) = listener.accept().unwrap();
            let mut head = [0; 4096];
            let read = stream.read(&mut head).unwrap();
            assert!(head[..read].starts_with(b"GET /resources/stores/kv?limit=1000 HTTP/1.1"));
            std::io::Write::write_all(&mut stream, answer.as_bytes()).unwrap();
        }
    });
    let start = Instant::now();
    site.ok(&["store", "list", "--endpoint", &endpoint]);
    assert!(start.elapsed() >= Duration::from_secs(2), "it waited as it was told");
    serve.join().unwrap();
}

#[test]
fn an_interrupt_ends_with_130() {
    let site = Site::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let mut command = site.command(&["store", "list", "--endpoint", &endpoint]);
    let mut child = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
    let (_held, _) = listener.accept().unwrap();
    let pid = child.id().to_string();
    std::process::Command::new("kill").args(["-INT", &pid]).status().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
}

#[test]
fn the_servers_own_token_serves_in_its_directory() {
    let dir = tempfile::tempdir().unwrap();
    let site = Site::new();
    let mut serve = site.bare(&["serve", "--listen", "127.0.0.1:0"]);
    serve.current_dir(dir.path());
    let server = Server::spawn(serve);
    let endpoint = format!("http://127.0.0.1:{}", server.port);
    let mut list = site.bare(&["store", "list", "--endpoint", &endpoint]);
    let listed = ran(list.current_dir(dir.path()));
    assert_eq!((listed.code, listed.err.as_str()), (0, ""));
}
