//! Tests of startup and shutdown: the banner, tokens, flags, data directories, signals, and the
//! errors of a failed start.

use crate::support::{Client, DiskServer, Server, TOKEN, binary};
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Returns a command that does not inherit the variables that tests or users may set.
fn steadfast(args: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.args(args);
    for name in ["TOKEN", "TOKEN_FILE", "DATA", "LISTEN", "LOG", "LOG_FORMAT", "MAX_VALUE"] {
        command.env_remove(format!("STEADFAST_{name}"));
    }
    command
}

/// Returns a `serve` command for a data directory and a free port.
fn serve(data: &Path) -> Command {
    let mut command = steadfast(&["serve", "--listen", "127.0.0.1:0"]);
    command.arg("--data").arg(data);
    command
}

/// A server whose output is captured. It is killed when this value is dropped.
struct CapturedServer {
    child: Child,
    dir: tempfile::TempDir,
}

impl CapturedServer {
    fn start(mut command: Command) -> CapturedServer {
        let dir = tempfile::tempdir().unwrap();
        command.stdout(File::create(dir.path().join("out")).unwrap());
        command.stderr(File::create(dir.path().join("err")).unwrap());
        let mut run = CapturedServer { child: command.spawn().unwrap(), dir };
        let end = Instant::now() + Duration::from_secs(60);
        while !run.out().contains("# curl") {
            let exited = run.child.try_wait().unwrap();
            assert!(exited.is_none() && Instant::now() < end, "{exited:?}: {}", run.err());
            std::thread::sleep(Duration::from_millis(20));
        }
        run
    }

    fn out(&self) -> String {
        fs::read_to_string(self.dir.path().join("out")).unwrap()
    }

    fn err(&self) -> String {
        fs::read_to_string(self.dir.path().join("err")).unwrap()
    }

    fn url(&self) -> String {
        let out = self.out();
        out.lines().next().unwrap().split("listening on ").nth(1).unwrap().to_owned()
    }

    /// Lists the stores with this token and returns the status of the response.
    fn status(&self, token: &str) -> u16 {
        let mut client = Client::connect(port(&self.url())).unwrap();
        let head = format!("Host: h\r\nFastly-Key: {token}\r\n");
        client.send(format!("GET /resources/stores/kv HTTP/1.1\r\n{head}\r\n")).unwrap();
        client.read_response(false).unwrap().status
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }
}

impl Drop for CapturedServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn port(url: &str) -> u16 {
    url.rsplit(':').next().unwrap().parse().unwrap()
}

/// Runs a command to completion. Returns the exit status, standard output and standard error.
fn run_to_exit(mut command: Command) -> (Option<i32>, String, String) {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// Runs a command that must fail with `status`. Returns the error message, which must be short and
/// contain no backtrace.
fn fails(command: Command, status: i32) -> String {
    let displayed = format!("{command:?}");
    let (code, out, err) = run_to_exit(command);
    assert_eq!(code, Some(status), "{displayed}: {err}");
    assert!(out.is_empty(), "{displayed} printed {out}");
    assert!(!err.contains("panicked") && !err.contains("RUST_BACKTRACE"), "{err}");
    assert!(err.lines().count() <= 12, "{displayed}: {err}");
    err
}

/// Waits for the server to exit. Returns the exit status and the time until the exit.
fn wait(mut run: CapturedServer) -> (ExitStatus, Duration) {
    let start = Instant::now();
    loop {
        if let Some(status) = run.child.try_wait().unwrap() {
            return (status, start.elapsed());
        }
        assert!(start.elapsed() < Duration::from_secs(30), "the server did not exit within 30 s");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn the_banner_shows_the_address_and_shell_exports() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("it's here");
    let run = CapturedServer::start(serve(&data));
    let (out, url) = (run.out(), run.url());
    let version = env!("CARGO_PKG_VERSION");
    let first = format!("steadfast {version} listening on {url}\ndata   {}\n", data.display());
    assert!(out.starts_with(&first), "{out}");
    assert!(url.starts_with("http://127.0.0.1:") && !url.ends_with(":0"));
    // A shell must be able to evaluate the exports.
    let script = run.dir.path().join("exports");
    let exports = out.lines().filter(|line| line.starts_with("export "));
    fs::write(&script, exports.map(|line| format!("{line}\n")).collect::<String>()).unwrap();
    let displayed = "\"$FASTLY_API_ENDPOINT $FASTLY_ACCOUNT_ENDPOINT $FASTLY_API_URL\"; \
                 printf ' %s' \"$FASTLY_API_TOKEN\" \"$FASTLY_API_KEY\"";
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!(". '{}'; printf %s {displayed}", script.display())]);
    let token = fs::read_to_string(data.join("token")).unwrap();
    let token = token.trim();
    assert_eq!(run_to_exit(shell).1, format!("{url} {url} {url} {token} {token}"));
    assert_eq!(run.status(token), 200);
    assert!(!out.contains(token) && !run.err().contains(token));
}

#[test]
fn a_token_is_generated_once_and_readable_only_by_its_owner() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let run = CapturedServer::start(serve(&data));
    let file = data.join("token");
    let created = fs::read_to_string(&file).unwrap();
    let token = created.strip_suffix('\n').unwrap().to_owned();
    assert!(token.len() == 64 && token.bytes().all(|byte| byte.is_ascii_hexdigit()));
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!((run.status(&token), run.status(TOKEN)), (200, 401));
    run.signal("-TERM");
    assert!(wait(run).0.success());
    let run = CapturedServer::start(serve(&data));
    assert_eq!(fs::read_to_string(&file).unwrap(), created);
    assert_eq!(run.status(&token), 200);
    let other = tempfile::tempdir().unwrap();
    let second = CapturedServer::start(serve(&other.path().join("data")));
    assert_eq!(second.status(&token), 401, "each data directory must have its own token");
    drop(run);
    fs::write(&file, "short\n").unwrap();
    let message = fails(serve(&data), 1);
    assert!(message.contains(&file.display().to_string()), "{message}");
}

#[test]
fn the_server_token_is_read_from_the_environment_or_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = serve(&dir.path().join("a"));
    command.env("STEADFAST_TOKEN", "from-the-environment");
    let run = CapturedServer::start(command);
    assert_eq!(run.status("from-the-environment"), 200);
    assert!(run.out().contains("token  $STEADFAST_TOKEN\n"), "{}", run.out());
    assert!(!run.out().contains("from-the-environment"));
    assert!(!dir.path().join("a/token").exists());
    let file = dir.path().join("secret");
    fs::write(&file, "from-a-file-of-mine\r\n").unwrap();
    let mut command = serve(&dir.path().join("b"));
    command.env("STEADFAST_TOKEN_FILE", &file);
    let run = CapturedServer::start(command);
    assert_eq!(run.status("from-a-file-of-mine"), 200);
    assert!(run.out().contains(&format!("token  {}\n", file.display())));
    let mut command = serve(&dir.path().join("c"));
    command.arg("--token-file").arg(&file);
    assert_eq!(CapturedServer::start(command).status("from-a-file-of-mine"), 200);
    let mut conflicting = serve(&dir.path().join("d"));
    conflicting.env("STEADFAST_TOKEN", "from-the-environment").env("STEADFAST_TOKEN_FILE", &file);
    let message = fails(conflicting, 2);
    assert!(message.contains("not both") && !message.contains("from-the"), "{message}");
}

#[test]
fn invalid_tokens_are_usage_errors_and_not_shown() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let long = "verylong".repeat(65);
    for token in
        ["", "fifteen-letters", "sixteen letters and more", "söxteen-letters-and-more", &long]
    {
        let mut variable = serve(&data);
        variable.env("STEADFAST_TOKEN", token);
        // An empty variable is treated as unset.
        let variable = (!token.is_empty()).then_some(variable);
        let file = dir.path().join("secret");
        fs::write(&file, token).unwrap();
        let mut from_file = serve(&data);
        from_file.arg("--token-file").arg(&file);
        let mut flag = serve(&data);
        flag.args(["--token", token]);
        for command in variable.into_iter().chain([from_file, flag]) {
            let message = fails(command, 2);
            assert!(message.to_lowercase().contains("token"), "{message}");
            assert!(token.is_empty() || !message.contains(token), "{message}");
        }
    }
    for (bytes, name) in [(vec![0xff; 20], "bytes"), (vec![b'x'; 5000], "huge")] {
        let file = dir.path().join(name);
        fs::write(&file, bytes).unwrap();
        let mut command = serve(&data);
        command.arg("--token-file").arg(&file);
        assert!(fails(command, 2).contains(name));
    }
    let mut missing = serve(&data);
    missing.env("STEADFAST_TOKEN_FILE", dir.path().join("not-there"));
    assert!(fails(missing, 2).contains("not-there"));
    assert!(!data.exists(), "a failed start must not create the data directory");
}

#[test]
fn help_does_not_show_the_token_from_the_environment() {
    for args in [&["serve", "--help"][..], &["--help"], &["serve", "-h"], &["serve", "--nope"]] {
        let mut command = steadfast(args);
        command.env("STEADFAST_TOKEN", "not-to-be-shown-at-all");
        let (_, out, err) = run_to_exit(command);
        assert!(!out.contains("not-to-be-shown") && !err.contains("not-to-be-shown"));
    }
}

#[test]
fn help_and_version_are_printed() {
    let (code, out, err) = run_to_exit(steadfast(&["--version"]));
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert_eq!(out, format!("steadfast {}\n", env!("CARGO_PKG_VERSION")));
    let (code, out, _) = run_to_exit(steadfast(&["--help"]));
    assert!(code == Some(0) && out.contains("serve"), "{out}");
    let (code, out, _) = run_to_exit(steadfast(&["serve", "--help"]));
    assert_eq!(code, Some(0));
    for flag in ["--listen", "--data", "--memory", "--token-file", "--max-value", "--log-format"] {
        assert!(out.contains(flag), "{flag} is missing from {out}");
    }
    let (code, _, err) = run_to_exit(steadfast(&[]));
    assert!(code == Some(2) && err.contains("serve"), "{err}");
}

#[test]
fn invalid_flags_are_named_in_the_error() {
    for (flag, value) in [
        ("--listen", "nonsense"),
        ("--listen", "127.0.0.1"),
        ("--max-value", "0"),
        ("--max-value", "1073741825"),
        ("--max-value", "25MB"),
        ("--max-connections", "0"),
        ("--max-in-flight", "1000"),
        ("--cache", "many"),
        ("--header-timeout", "0"),
        ("--body-timeout", "1.5"),
        ("--idle-timeout", "90000"),
        ("--log-format", "xml"),
        ("--log", "a=b=c"),
        ("--no-such-flag", "1"),
    ] {
        let message = fails(steadfast(&["serve", "--memory", flag, value]), 2);
        assert!(message.contains(flag), "{flag} {value}: {message}");
    }
    let mut command = steadfast(&["serve", "--memory"]);
    command.env("STEADFAST_MAX_VALUE", "much");
    assert!(fails(command, 2).contains("--max-value"));
    assert!(fails(steadfast(&["sreve"]), 2).contains("sreve"));
}

#[test]
fn listening_on_public_addresses_requires_an_explicit_token() {
    let dir = tempfile::tempdir().unwrap();
    for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"] {
        let mut command = steadfast(&["serve", "--listen", address]);
        command.arg("--data").arg(dir.path().join("data"));
        let message = fails(command, 2);
        assert!(message.contains("STEADFAST_TOKEN") && message.contains("--public"), "{message}");
    }
    assert!(!dir.path().join("data").exists());
}

#[test]
fn an_unusable_data_directory_is_named_in_the_error() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "not a directory").unwrap();
    // Even root cannot create a directory below a file.
    let nowhere = Path::new("/proc/steadfast-data").to_owned();
    for data in [file.clone(), file.join("data"), nowhere] {
        let message = fails(serve(&data), 1);
        assert!(message.contains(&data.display().to_string()), "{message}");
    }
    assert_eq!(fs::read(&file).unwrap(), b"not a directory");
    let deep = dir.path().join("a/b/c");
    assert_eq!(
        CapturedServer::start(serve(&deep)).status(TOKEN),
        401,
        "parent directories must be created"
    );
}

#[test]
fn a_second_server_on_the_same_data_directory_is_refused() {
    let disk = DiskServer::new(&[]);
    let mut second = serve(&disk.data());
    second.env("STEADFAST_TOKEN", TOKEN);
    let message = fails(second, 1);
    assert!(message.contains("is locked by another steadfast"), "{message}");
    assert!(message.contains(&disk.data().display().to_string()), "{message}");
    disk.server.create_store("still-served");
}

#[test]
fn a_port_in_use_is_named_in_the_error() {
    let server = Server::memory(&[]);
    let address = format!("127.0.0.1:{}", server.port);
    let message = fails(steadfast(&["serve", "--memory", "--listen", &address]), 1);
    assert!(message.contains(&format!("cannot listen on {address}")), "{message}");
}

#[test]
fn a_memory_server_warns_in_its_banner_and_removes_its_token_file() {
    let run = CapturedServer::start(steadfast(&["serve", "--memory", "--listen", "127.0.0.1:0"]));
    let out = run.out();
    assert!(out.contains("data   memory (lost when the server stops)\n"), "{out}");
    let line = out.lines().find_map(|line| line.strip_prefix("token  ")).unwrap();
    let file = Path::new(line).to_owned();
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let directory = file.parent().unwrap();
    assert_eq!(fs::metadata(directory).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(run.status(fs::read_to_string(&file).unwrap().trim()), 200);
    run.signal("-TERM");
    assert!(wait(run).0.success());
    assert!(!directory.exists());
}

#[test]
fn sigterm_and_sigint_stop_the_server_despite_idle_connections() {
    for signal in ["-TERM", "-INT"] {
        let dir = tempfile::tempdir().unwrap();
        let mut command = serve(&dir.path().join("data"));
        command.env("STEADFAST_TOKEN", TOKEN);
        let run = CapturedServer::start(command);
        let port = port(&run.url());
        let mut idle: Vec<_> = (0..20).map(|_| Client::connect(port).unwrap()).collect();
        for client in &mut idle[..10] {
            assert_eq!(client.get("/readyz").unwrap().status, 200);
        }
        run.signal(signal);
        let (status, took) = wait(run);
        assert!(status.success(), "{signal}: {status}");
        assert!(took < Duration::from_secs(6), "{signal}: {took:?}");
        assert!(
            idle.iter_mut().all(Client::closes_without_response),
            "idle connections must be closed without a response"
        );
        assert!(Client::connect(port).is_err(), "the port must be closed");
    }
}

#[test]
fn requests_in_progress_finish_before_shutdown() {
    let mut disk = DiskServer::new(&[]);
    let store = disk.server.create_store("s");
    let item = format!("/resources/stores/kv/{store}/keys/k");
    let body = vec![b'v'; 2_000_000];
    let mut client = disk.server.connect();
    let headers = format!("Host: h\r\nFastly-Key: {TOKEN}\r\nContent-Length: {}\r\n", body.len());
    client.send(format!("PUT {item} HTTP/1.1\r\n{headers}\r\n")).unwrap();
    client.send(&body[..1_000_000]).unwrap();
    // Wait until the server has read the head: a request that has not started is not served.
    std::thread::sleep(Duration::from_millis(300));
    disk.server.terminate();
    let end = Instant::now() + Duration::from_secs(5);
    while Client::connect(disk.server.port).is_ok() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(Client::connect(disk.server.port).is_err(), "new connections must be refused");
    client.send(&body[1_000_000..]).unwrap();
    let response = client.read_response(false).unwrap();
    assert_eq!((response.status, response.header("Connection")), (200, "close"));
    drop(client);
    let stopped = std::mem::replace(&mut disk.server, Server::memory(&[]));
    assert!(stopped.wait().success());
    disk.kill_and_restart(&[]);
    assert_eq!(disk.server.get(&item).body, body);
}

#[test]
fn stalled_requests_do_not_prevent_shutdown() {
    let disk = DiskServer::new(&[]);
    let store = disk.server.create_store("s");
    let item = format!("/resources/stores/kv/{store}/keys/k");
    disk.server.request(&format!("PUT {item}"), &[], &vec![b'v'; 20_000_000]);
    let key = format!("Host: h\r\nFastly-Key: {TOKEN}\r\n");
    let mut open: Vec<_> = (0..3).map(|_| disk.server.connect()).collect();
    open[0].send("GET /healthz HTTP/1.1\r\nHost:").unwrap();
    open[1].send(format!("PUT {item} HTTP/1.1\r\n{key}Content-Length: 9\r\n\r\nx")).unwrap();
    open[2].send(format!("GET {item} HTTP/1.1\r\n{key}\r\n")).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    let start = Instant::now();
    disk.server.terminate();
    let DiskServer { server, .. } = disk;
    assert!(server.wait().success());
    // The grace period is 10 s. Allow more time for a busy machine.
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
}

#[test]
fn stored_items_survive_a_shutdown_and_a_kill() {
    let mut disk = DiskServer::new(&[]);
    let store = disk.server.create_store("s");
    let item = format!("/resources/stores/kv/{store}/keys");
    let large = vec![b'l'; 1_700_000];
    let meta = [("metadata", "m")];
    assert_eq!(disk.server.request(&format!("PUT {item}/small"), &meta, b"v").status, 200);
    assert_eq!(disk.server.request(&format!("PUT {item}/large"), &[], &large).status, 200);
    let before = disk.server.get(&format!("{item}/small"));
    for round in ["stop", "kill"] {
        if round == "stop" {
            let fresh = Server::memory(&[]);
            std::mem::replace(&mut disk.server, fresh).stop();
        }
        disk.kill_and_restart(&[]);
        assert_eq!(disk.server.get("/readyz").text(), "ready\n");
        let small = disk.server.get(&format!("{item}/small"));
        assert_eq!((small.text().as_str(), small.header("metadata")), ("v", "m"), "{round}");
        assert_eq!(small.generation(), before.generation(), "{round}");
        assert_eq!(disk.server.get(&format!("{item}/large")).body, large);
    }
}

#[test]
fn sigterm_completes_an_export_that_is_being_read_and_truncates_an_unread_one() {
    let mut disk = DiskServer::new(&[]);
    let store = disk.server.create_store("s");
    let base = format!("/resources/stores/kv/{store}");
    let value = "dmFsdWUh".repeat(2000);
    let lines: String =
        (0..2000).map(|n| format!("{{\"key\":\"k{n:04}\",\"value\":\"{value}\"}}\n")).collect();
    let kind = [("Content-Type", "application/x-ndjson")];
    let loaded = disk.server.request(&format!("PUT {base}/batch"), &kind, lines.as_bytes());
    assert_eq!(loaded.status, 200);
    let head = format!("GET /_/v1/stores/{store}/export HTTP/1.1\r\nHost: h\r\n");
    let request = format!("{head}Fastly-Key: {TOKEN}\r\n\r\n");
    let (mut read, mut unread) = (disk.server.connect(), disk.server.connect());
    unread.send(&request).unwrap();
    read.send(&request).unwrap();
    // The export exceeds the socket buffers, so both exports are running when the signal arrives.
    let reader = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(500));
        read.read_response(false).unwrap()
    });
    std::thread::sleep(Duration::from_millis(200));
    disk.server.terminate();
    let response = reader.join().unwrap();
    assert_eq!((response.status, response.text().lines().count()), (200, 2000));
    let status = disk.server.wait_for_exit(Duration::from_secs(30));
    assert!(status.is_some_and(|status| status.success()), "{status:?}");
    assert!(unread.read_response(false).is_err(), "a truncated export must not look complete");
}
