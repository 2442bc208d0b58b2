//! Tests of the sources of the endpoint and the token, and of connection failures.

use crate::support::{Server, TOKEN};
use crate::{Cli, run};
use std::fs;
use std::io::Read;
use std::net::TcpListener;
use std::time::{Duration, Instant};

const LIST: [&str; 2] = ["store", "list"];

#[test]
fn the_token_is_read_from_a_file_or_the_environment_but_never_from_arguments() {
    let cli = Cli::with_store();
    let endpoint = cli.endpoint();
    let file = cli.write_file("token", format!("{TOKEN}\n").as_bytes());
    let bad = cli.write_file("bad", b"another-token-0123456789");
    let run = |extra: &[&str], env: &[(&str, &str)]| {
        let args = [&LIST, &["--endpoint", endpoint.as_str()][..], extra].concat();
        run(cli.bare_command(&args).envs(env.iter().copied()))
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
    let invalid = run(&[], &[("FASTLY_API_TOKEN", "wrong-0123456789")]);
    assert_eq!(invalid.code, 5);
    assert!(!invalid.err.contains("wrong-0123456789"), "{}", invalid.err);
    assert_eq!(run(&["--token-file", "/no/such/file"], &[]).code, 5);
    let as_argument = run(&["--fastly-api-token", TOKEN], &[]);
    assert_eq!(as_argument.code, 2);
    assert!(as_argument.err.contains("FASTLY_API_TOKEN") && !as_argument.err.contains(TOKEN));
    assert_eq!(run(&["--token", TOKEN], &[]).code, 2);
}

#[test]
fn a_token_from_the_data_directory_is_sent_to_local_servers_only() {
    let cli = Cli::with_store();
    fs::create_dir(cli.dir.path().join("steadfast-data")).unwrap();
    fs::write(cli.dir.path().join("steadfast-data/token"), TOKEN).unwrap();
    let list_at =
        |endpoint: &str| run(&mut cli.bare_command(&["store", "list", "--endpoint", endpoint]));
    assert_eq!(list_at(&cli.endpoint()).code, 0);
    assert_eq!(list_at(&format!("http://localhost:{}", cli.server.port)).code, 0);
    // The command must fail before it resolves the host name. A failed lookup has a different exit
    // status.
    let remote = list_at("http://kv.invalid");
    assert_eq!(remote.code, 5, "{}", remote.err);
    remote.assert_err("no token for http://kv.invalid");
}

#[test]
fn an_invalid_endpoint_is_a_usage_error() {
    let cli = Cli::new();
    for bad in ["", "127.0.0.1", "ftp://h", "http://h/path", "http://u:secret@h", "http://h?x"] {
        let message = cli.fails(2, &["store", "list", "--endpoint", bad]);
        assert!(message.contains("endpoint") && !message.contains("secret"), "{message}");
    }
}

#[test]
fn an_unreachable_server_is_reported_at_once() {
    let cli = Cli::new();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", closed.local_addr().unwrap());
    drop(closed);
    let start = Instant::now();
    let message = cli.fails(6, &["store", "list", "--endpoint", &endpoint]);
    assert!(message.contains("cannot reach") && message.contains(&endpoint), "{message}");
    assert!(start.elapsed() < Duration::from_secs(5));
    let message = cli.fails(6, &["store", "list", "--endpoint", "http://kv.invalid"]);
    assert!(message.contains("kv.invalid"), "{message}");
}

#[test]
fn closed_connections_and_unexpected_responses_are_errors() {
    let cli = Cli::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let responses: [&[u8]; 4] = [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"data\":[",
        b"HTTP/1.1 302 Found\r\nLocation: http://kv.invalid/\r\nContent-Length: 0\r\n\r\n",
    ];
    let codes = [6, 1, 6, 1];
    let serve = std::thread::spawn(move || {
        for response in responses {
            // If a connection is closed, the client retries three times.
            let times = if response.is_empty() { 4 } else { 1 };
            for _ in 0..times {
                let (mut stream, _) = listener.accept().unwrap();
                let mut head = [0; 4096];
                let _ = stream.read(&mut head).unwrap();
                std::io::Write::write_all(&mut stream, response).unwrap();
            }
        }
    });
    for code in codes {
        cli.fails(code, &["store", "list", "--endpoint", &endpoint]);
    }
    serve.join().unwrap();
}

#[test]
fn a_request_that_returns_503_is_retried_after_the_retry_after_delay() {
    let cli = Cli::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let serve = std::thread::spawn(move || {
        let busy =
            "HTTP/1.1 503 Busy\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        let body = "{\"data\":[],\"meta\":{\"limit\":1000,\"total\":0}}";
        let success = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        for response in [busy, busy, &success] {
            let (mut stream, _) = listener.accept().unwrap();
            let mut head = [0; 4096];
            let read = stream.read(&mut head).unwrap();
            assert!(head[..read].starts_with(b"GET /resources/stores/kv?limit=1000 HTTP/1.1"));
            std::io::Write::write_all(&mut stream, response.as_bytes()).unwrap();
        }
    });
    let start = Instant::now();
    cli.ok(&["store", "list", "--endpoint", &endpoint]);
    assert!(start.elapsed() >= Duration::from_secs(2), "the client did not wait for Retry-After");
    serve.join().unwrap();
}

#[test]
fn an_interrupted_command_exits_with_130() {
    let cli = Cli::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let mut command = cli.command(&["store", "list", "--endpoint", &endpoint]);
    let mut child = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
    let (_open, _) = listener.accept().unwrap();
    let pid = child.id().to_string();
    std::process::Command::new("kill").args(["-INT", &pid]).status().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
}

#[test]
fn commands_in_the_working_directory_of_the_server_use_its_token() {
    let dir = tempfile::tempdir().unwrap();
    let cli = Cli::new();
    let mut serve = cli.bare_command(&["serve", "--listen", "127.0.0.1:0"]);
    serve.current_dir(dir.path());
    let server = Server::spawn(serve);
    let endpoint = format!("http://127.0.0.1:{}", server.port);
    let mut list = cli.bare_command(&["store", "list", "--endpoint", &endpoint]);
    let listed = run(list.current_dir(dir.path()));
    assert_eq!((listed.code, listed.err.as_str()), (0, ""));
}
