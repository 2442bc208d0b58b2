//! Starting, stopping, and what the server says when it cannot.

use crate::support::{Client, Home, Server, TOKEN, binary};
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// The command without what this process's environment may set.
fn steadfast(args: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.args(args);
    for name in ["TOKEN", "TOKEN_FILE", "DATA", "LISTEN", "LOG", "LOG_FORMAT", "MAX_VALUE"] {
        command.env_remove(format!("STEADFAST_{name}"));
    }
    command
}

/// `serve` on a free port over a data directory.
fn serve(data: &Path) -> Command {
    let mut command = steadfast(&["serve", "--listen", "127.0.0.1:0"]);
    command.arg("--data").arg(data);
    command
}

/// A server whose whole output is kept; killed when dropped.
struct Run {
    child: Child,
    dir: tempfile::TempDir,
}

impl Run {
    fn start(mut command: Command) -> Run {
        let dir = tempfile::tempdir().unwrap();
        command.stdout(File::create(dir.path().join("out")).unwrap());
        command.stderr(File::create(dir.path().join("err")).unwrap());
        let mut run = Run { child: command.spawn().unwrap(), dir };
        let end = Instant::now() + Duration::from_secs(60);
        while !run.out().contains("# curl") {
            let ended = run.child.try_wait().unwrap();
            assert!(ended.is_none() && Instant::now() < end, "{ended:?}: {}", run.err());
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

    /// The status of a list of stores asked with this token.
    fn status(&self, token: &str) -> u16 {
        let mut client = Client::connect(port(&self.url())).unwrap();
        let head = format!("Host: h\r\nFastly-Key: {token}\r\n");
        client.send(format!("GET /resources/stores/kv HTTP/1.1\r\n{head}\r\n")).unwrap();
        client.answer(false).unwrap().status
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn port(url: &str) -> u16 {
    url.rsplit(':').next().unwrap().parse().unwrap()
}

/// Runs a command that must end by itself: its status, output and error output.
fn ended(mut command: Command) -> (Option<i32>, String, String) {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// A start that fails: its complaint, which is one for people.
fn fails(command: Command, status: i32) -> String {
    let shown = format!("{command:?}");
    let (code, out, err) = ended(command);
    assert_eq!(code, Some(status), "{shown}: {err}");
    assert!(out.is_empty(), "{shown} said on its output: {out}");
    assert!(!err.contains("panicked") && !err.contains("RUST_BACKTRACE"), "{err}");
    assert!(err.lines().count() <= 12, "{shown}: {err}");
    err
}

/// Waits for an end that must come by itself.
fn wait(mut run: Run) -> (ExitStatus, Duration) {
    let start = Instant::now();
    loop {
        if let Some(status) = run.child.try_wait().unwrap() {
            return (status, start.elapsed());
        }
        assert!(start.elapsed() < Duration::from_secs(30), "it does not end");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn it_says_where_it_listens_and_what_to_paste() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("it's here");
    let run = Run::start(serve(&data));
    let (out, url) = (run.out(), run.url());
    let version = env!("CARGO_PKG_VERSION");
    let first = format!("steadfast {version} listening on {url}\ndata   {}\n", data.display());
    assert!(out.starts_with(&first), "{out}");
    assert!(url.starts_with("http://127.0.0.1:") && !url.ends_with(":0"));
    // What it prints is what a shell takes.
    let script = run.dir.path().join("exports");
    let exports = out.lines().filter(|line| line.starts_with("export "));
    fs::write(&script, exports.map(|line| format!("{line}\n")).collect::<String>()).unwrap();
    let shown = "\"$FASTLY_API_ENDPOINT $FASTLY_ACCOUNT_ENDPOINT $FASTLY_API_URL\"; \
                 printf ' %s' \"$FASTLY_API_TOKEN\" \"$FASTLY_API_KEY\"";
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!(". '{}'; printf %s {shown}", script.display())]);
    let token = fs::read_to_string(data.join("token")).unwrap();
    let token = token.trim();
    assert_eq!(ended(shell).1, format!("{url} {url} {url} {token} {token}"));
    assert_eq!(run.status(token), 200);
    assert!(!out.contains(token) && !run.err().contains(token));
}

#[test]
fn a_token_is_made_once_for_this_user_alone() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let run = Run::start(serve(&data));
    let file = data.join("token");
    let made = fs::read_to_string(&file).unwrap();
    let token = made.strip_suffix('\n').unwrap().to_owned();
    assert!(token.len() == 64 && token.bytes().all(|byte| byte.is_ascii_hexdigit()));
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!((run.status(&token), run.status(TOKEN)), (200, 401));
    run.signal("-TERM");
    assert!(wait(run).0.success());
    let run = Run::start(serve(&data));
    assert_eq!(fs::read_to_string(&file).unwrap(), made);
    assert_eq!(run.status(&token), 200);
    let other = tempfile::tempdir().unwrap();
    let second = Run::start(serve(&other.path().join("data")));
    assert_eq!(second.status(&token), 401, "each directory has a token of its own");
    drop(run);
    fs::write(&file, "short\n").unwrap();
    let said = fails(serve(&data), 1);
    assert!(said.contains(&file.display().to_string()), "{said}");
}

#[test]
fn a_token_is_taken_from_the_environment_or_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = serve(&dir.path().join("a"));
    command.env("STEADFAST_TOKEN", "from-the-environment");
    let run = Run::start(command);
    assert_eq!(run.status("from-the-environment"), 200);
    assert!(run.out().contains("token  $STEADFAST_TOKEN\n"), "{}", run.out());
    assert!(!run.out().contains("from-the-environment"));
    assert!(!dir.path().join("a/token").exists());
    let file = dir.path().join("secret");
    fs::write(&file, "from-a-file-of-mine\r\n").unwrap();
    let mut command = serve(&dir.path().join("b"));
    command.env("STEADFAST_TOKEN_FILE", &file);
    let run = Run::start(command);
    assert_eq!(run.status("from-a-file-of-mine"), 200);
    assert!(run.out().contains(&format!("token  {}\n", file.display())));
    let mut command = serve(&dir.path().join("c"));
    command.arg("--token-file").arg(&file);
    assert_eq!(Run::start(command).status("from-a-file-of-mine"), 200);
    let mut both = serve(&dir.path().join("d"));
    both.env("STEADFAST_TOKEN", "from-the-environment").env("STEADFAST_TOKEN_FILE", &file);
    let said = fails(both, 2);
    assert!(said.contains("not both") && !said.contains("from-the"), "{said}");
}

#[test]
fn bad_tokens_are_refused_without_being_shown() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let long = "verylong".repeat(65);
    for token in
        ["", "fifteen-letters", "sixteen letters and more", "söxteen-letters-and-more", &long]
    {
        let mut command = serve(&data);
        command.env("STEADFAST_TOKEN", token);
        let file = dir.path().join("secret");
        fs::write(&file, token).unwrap();
        let mut from_file = serve(&data);
        from_file.arg("--token-file").arg(&file);
        let mut flag = serve(&data);
        flag.args(["--token", token]);
        for command in [command, from_file, flag] {
            let said = fails(command, 2);
            assert!(said.to_lowercase().contains("token"), "{said}");
            assert!(token.is_empty() || !said.contains(token), "{said}");
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
    assert!(!data.exists(), "nothing was made");
}

#[test]
fn a_token_in_the_environment_is_not_shown_by_help() {
    for args in [&["serve", "--help"][..], &["--help"], &["serve", "-h"], &["serve", "--nope"]] {
        let mut command = steadfast(args);
        command.env("STEADFAST_TOKEN", "not-to-be-shown-at-all");
        let (_, out, err) = ended(command);
        assert!(!out.contains("not-to-be-shown") && !err.contains("not-to-be-shown"));
    }
}

#[test]
fn help_and_version_are_there() {
    let (code, out, err) = ended(steadfast(&["--version"]));
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert_eq!(out, format!("steadfast {}\n", env!("CARGO_PKG_VERSION")));
    let (code, out, _) = ended(steadfast(&["--help"]));
    assert!(code == Some(0) && out.contains("serve"), "{out}");
    let (code, out, _) = ended(steadfast(&["serve", "--help"]));
    assert_eq!(code, Some(0));
    for flag in ["--listen", "--data", "--memory", "--token-file", "--max-value", "--log-format"] {
        assert!(out.contains(flag), "{flag} in {out}");
    }
    let (code, _, err) = ended(steadfast(&[]));
    assert!(code == Some(2) && err.contains("serve"), "{err}");
}

#[test]
fn bad_flags_are_named() {
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
        let said = fails(steadfast(&["serve", "--memory", flag, value]), 2);
        assert!(said.contains(flag), "{flag} {value}: {said}");
    }
    let mut command = steadfast(&["serve", "--memory"]);
    command.env("STEADFAST_MAX_VALUE", "much");
    assert!(fails(command, 2).contains("--max-value"));
    assert!(fails(steadfast(&["sreve"]), 2).contains("sreve"));
}

#[test]
fn other_machines_are_let_in_only_with_a_token_of_ones_own() {
    let dir = tempfile::tempdir().unwrap();
    for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"] {
        let mut command = steadfast(&["serve", "--listen", address]);
        command.arg("--data").arg(dir.path().join("data"));
        let said = fails(command, 2);
        assert!(said.contains("STEADFAST_TOKEN") && said.contains("--public"), "{said}");
    }
    assert!(!dir.path().join("data").exists());
}

#[test]
fn a_data_directory_that_cannot_be_used_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "not a directory").unwrap();
    // Nobody, not even root, can make a directory there.
    let nowhere = Path::new("/proc/steadfast-data").to_owned();
    for data in [file.clone(), file.join("data"), nowhere] {
        let said = fails(serve(&data), 1);
        assert!(said.contains(&data.display().to_string()), "{said}");
    }
    assert_eq!(fs::read(&file).unwrap(), b"not a directory");
    let deep = dir.path().join("a/b/c");
    assert_eq!(Run::start(serve(&deep)).status(TOKEN), 401, "parents are made");
}

#[test]
fn a_second_server_over_the_same_data_is_refused() {
    let home = Home::new(&[]);
    let mut second = serve(&home.data());
    second.env("STEADFAST_TOKEN", TOKEN);
    let said = fails(second, 1);
    assert!(said.contains("is in use by another steadfast"), "{said}");
    assert!(said.contains(&home.data().display().to_string()), "{said}");
    home.server.store("still-served");
}

#[test]
fn a_port_that_is_taken_is_named() {
    let server = Server::memory(&[]);
    let address = format!("127.0.0.1:{}", server.port);
    let said = fails(steadfast(&["serve", "--memory", "--listen", &address]), 1);
    assert!(said.contains(&format!("cannot listen on {address}")), "{said}");
}

#[test]
fn memory_says_so_and_leaves_no_token_behind() {
    let run = Run::start(steadfast(&["serve", "--memory", "--listen", "127.0.0.1:0"]));
    let out = run.out();
    assert!(out.contains("data   memory (lost when the server stops)\n"), "{out}");
    let line = out.lines().find_map(|line| line.strip_prefix("token  ")).unwrap();
    let file = Path::new(line).to_owned();
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let folder = file.parent().unwrap();
    assert_eq!(fs::metadata(folder).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(run.status(fs::read_to_string(&file).unwrap().trim()), 200);
    run.signal("-TERM");
    assert!(wait(run).0.success());
    assert!(!folder.exists());
}

#[test]
fn both_signals_stop_it_and_idle_connections_do_not_delay_that() {
    for signal in ["-TERM", "-INT"] {
        let dir = tempfile::tempdir().unwrap();
        let mut command = serve(&dir.path().join("data"));
        command.env("STEADFAST_TOKEN", TOKEN);
        let run = Run::start(command);
        let port = port(&run.url());
        let mut idle: Vec<_> = (0..20).map(|_| Client::connect(port).unwrap()).collect();
        for client in &mut idle[..10] {
            assert_eq!(client.ask("GET /readyz", &[], b"").unwrap().status, 200);
        }
        run.signal(signal);
        let (status, took) = wait(run);
        assert!(status.success(), "{signal}: {status}");
        assert!(took < Duration::from_secs(6), "{signal}: {took:?}");
        assert!(idle.iter_mut().all(Client::ends), "closed without a word");
        assert!(Client::connect(port).is_err(), "nobody listens any more");
    }
}

#[test]
fn requests_that_run_are_finished_before_it_stops() {
    let mut home = Home::new(&[]);
    let store = home.server.store("s");
    let item = format!("/resources/stores/kv/{store}/keys/k");
    let body = vec![b'v'; 2_000_000];
    let mut client = home.server.connect();
    let fields = format!("Host: h\r\nFastly-Key: {TOKEN}\r\nContent-Length: {}\r\n", body.len());
    client.send(format!("PUT {item} HTTP/1.1\r\n{fields}\r\n")).unwrap();
    client.send(&body[..1_000_000]).unwrap();
    // For its head to be read: what has not begun when the server stops is not served.
    std::thread::sleep(Duration::from_millis(300));
    home.server.terminate();
    let end = Instant::now() + Duration::from_secs(5);
    while Client::connect(home.server.port).is_ok() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(Client::connect(home.server.port).is_err(), "no more connections are accepted");
    client.send(&body[1_000_000..]).unwrap();
    let answer = client.answer(false).unwrap();
    assert_eq!((answer.status, answer.field("Connection")), (200, "close"));
    drop(client);
    let stopped = std::mem::replace(&mut home.server, Server::memory(&[]));
    assert!(stopped.wait().success());
    home.crash(&[]);
    assert_eq!(home.server.ask(&format!("GET {item}"), &[], b"").body, body);
}

#[test]
fn requests_that_never_end_do_not_hold_it() {
    let home = Home::new(&[]);
    let store = home.server.store("s");
    let item = format!("/resources/stores/kv/{store}/keys/k");
    home.server.ask(&format!("PUT {item}"), &[], &vec![b'v'; 20_000_000]);
    let key = format!("Host: h\r\nFastly-Key: {TOKEN}\r\n");
    let mut held: Vec<_> = (0..3).map(|_| home.server.connect()).collect();
    held[0].send("GET /healthz HTTP/1.1\r\nHost:").unwrap();
    held[1].send(format!("PUT {item} HTTP/1.1\r\n{key}Content-Length: 9\r\n\r\nx")).unwrap();
    held[2].send(format!("GET {item} HTTP/1.1\r\n{key}\r\n")).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    let start = Instant::now();
    home.server.terminate();
    let Home { server, .. } = home;
    assert!(server.wait().success());
    // Promised are 10 s; the machine may be busy.
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
}

#[test]
fn what_was_stored_is_there_after_a_stop_and_after_a_kill() {
    let mut home = Home::new(&[]);
    let store = home.server.store("s");
    let item = format!("/resources/stores/kv/{store}/keys");
    let large = vec![b'l'; 700_000];
    let meta = [("metadata", "m")];
    assert_eq!(home.server.ask(&format!("PUT {item}/small"), &meta, b"v").status, 200);
    assert_eq!(home.server.ask(&format!("PUT {item}/large"), &[], &large).status, 200);
    let before = home.server.ask(&format!("GET {item}/small"), &[], b"");
    for round in ["stop", "kill"] {
        if round == "stop" {
            let fresh = Server::memory(&[]);
            std::mem::replace(&mut home.server, fresh).stop();
        }
        home.crash(&[]);
        assert_eq!(home.server.ask("GET /readyz", &[], b"").text(), "ready\n");
        let small = home.server.ask(&format!("GET {item}/small"), &[], b"");
        assert_eq!((small.text().as_str(), small.field("metadata")), ("v", "m"), "{round}");
        assert_eq!(small.generation(), before.generation(), "{round}");
        assert_eq!(home.server.ask(&format!("GET {item}/large"), &[], b"").body, large);
    }
}
