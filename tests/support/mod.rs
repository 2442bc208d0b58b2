//! Helpers for the black-box suites: a server process, an HTTP/1.1 client that can send arbitrary
//! bytes, and commands that run to completion.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "not every suite uses every helper; tests may panic and read the environment"
)]

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

/// The root token of every server under test.
pub(crate) const TOKEN: &str = "black-box-token-0123456789";

/// Returns the path of the binary under test: `STEADFAST_BIN` if it is set, otherwise the binary
/// that cargo built.
pub(crate) fn binary() -> String {
    std::env::var("STEADFAST_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_steadfast").into())
}

/// Returns a `serve` command with a free port and the root token. The caller adds the data
/// directory or the engine.
fn serve(flags: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.args(["serve", "--listen", "127.0.0.1:0"]).args(flags).env("STEADFAST_TOKEN", TOKEN);
    command
}

/// A server process on a free port. It is killed when this value is dropped.
pub(crate) struct Server {
    child: Child,
    pub(crate) port: u16,
    /// The time from the start of the process to the line with the port.
    pub(crate) startup_time: Duration,
    /// Kept open, because the server cannot write to a closed pipe.
    out: BufReader<std::process::ChildStdout>,
}

impl Server {
    /// Starts a server with a data directory.
    pub(crate) fn start(data: &Path, flags: &[&str]) -> Server {
        let mut command = serve(flags);
        command.arg("--data").arg(data);
        Server::spawn(command)
    }

    /// Starts a server that stores everything in memory.
    pub(crate) fn memory(flags: &[&str]) -> Server {
        let mut command = serve(flags);
        command.arg("--memory");
        Server::spawn(command)
    }

    /// Starts a server with a PostgreSQL database, which other servers may share.
    pub(crate) fn postgres(url: &str) -> Server {
        Server::postgres_with_flags(url, &[])
    }

    /// Starts a server with a PostgreSQL database and additional flags.
    pub(crate) fn postgres_with_flags(url: &str, flags: &[&str]) -> Server {
        let mut command = serve(flags);
        command.args(["--engine-connections", "16"]).env("STEADFAST_ENGINE", url);
        Server::spawn(command)
    }

    /// Runs a command that starts a server, and reads the port from the first line of its output.
    pub(crate) fn spawn(mut command: Command) -> Server {
        let start = Instant::now();
        let mut child = command
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap_or_else(|e| panic!("{command:?}: {e}"));
        let mut line = String::new();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        out.read_line(&mut line).unwrap();
        // With the JSON log format, the line is a JSON object.
        let port = line.trim().trim_end_matches(['"', '}']).rsplit(':').next();
        let port = port.and_then(|port| port.parse().ok());
        let port = port.unwrap_or_else(|| panic!("there is no port in the first line: {line:?}"));
        Server { child, port, startup_time: start.elapsed(), out }
    }

    /// Opens a connection to the server.
    pub(crate) fn connect(&self) -> Client {
        Client::connect(self.port).unwrap()
    }

    /// Sends a request on a new connection; see [`Client::request`].
    pub(crate) fn request(&self, request: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
        self.connect().request(request, headers, body).unwrap()
    }

    /// Sends a GET request on a new connection.
    pub(crate) fn get(&self, path: &str) -> Response {
        self.connect().get(path).unwrap()
    }

    /// Sends a request on a new connection, with this token instead of the root token.
    pub(crate) fn request_as(&self, token: &str, request: &str, body: &str) -> Response {
        let head = format!("{request} HTTP/1.1\r\nHost: h\r\nFastly-Key: {token}\r\n");
        let mut client = self.connect();
        client.send(format!("{head}Content-Length: {}\r\n\r\n{body}", body.len())).unwrap();
        client.read_response(request.starts_with("HEAD")).unwrap()
    }

    /// Creates a store and returns its id.
    pub(crate) fn create_store(&self, name: &str) -> String {
        let body = serde_json::json!({ "name": name }).to_string();
        let created = self.request("POST /resources/stores/kv", &[], body.as_bytes());
        assert_eq!(created.status, 201, "{created:?}");
        created.json()["id"].as_str().unwrap().to_owned()
    }

    /// Reads the standard output up to the line that starts with `last`.
    pub(crate) fn read_output_to(&mut self, last: &str) -> String {
        let mut text = String::new();
        while !text.lines().last().is_some_and(|line| line.starts_with(last)) {
            assert!(
                self.out.read_line(&mut text).unwrap() > 0,
                "the output does not contain {last:?}: {text}"
            );
        }
        text
    }

    /// Returns the process id, for signals.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends SIGTERM.
    pub(crate) fn terminate(&self) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    }

    /// Waits for the process to exit.
    pub(crate) fn wait(mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }

    /// Waits for the process to exit. Returns `None` if it is still running after `within`.
    pub(crate) fn wait_for_exit(&mut self, within: Duration) -> Option<ExitStatus> {
        let until = Instant::now() + within;
        loop {
            let status = self.child.try_wait().unwrap();
            if status.is_some() || Instant::now() > until {
                return status;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Shuts the server down with SIGTERM.
    pub(crate) fn stop(self) {
        self.terminate();
        let status = self.wait();
        assert!(status.success(), "{status}");
    }

    /// Sends SIGKILL to the whole process group, because a traced server is a grandchild process.
    pub(crate) fn kill(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let group = format!("-{}", self.child.id());
            let _ = Command::new("kill").args(["-KILL", "--", &group]).status();
            let _ = self.child.wait();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Returns the memory of a process in bytes: `VmRSS` (current) or `VmHWM` (peak). Returns `None` if
/// the process has ended.
pub(crate) fn process_memory(pid: u32, name: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.trim_matches([':', ' ', '\t', 'k', 'B']).parse().unwrap();
    Some(kib * 1024)
}

/// Creates a database on the server at `STEADFAST_TEST_POSTGRES` and returns the URL of the
/// database. Prints a notice and returns `None` if the variable is not set.
pub(crate) fn create_database(name: &str) -> Option<String> {
    let Ok(server) = std::env::var("STEADFAST_TEST_POSTGRES") else {
        println!("skipped: STEADFAST_TEST_POSTGRES is not set");
        return None;
    };
    let name = format!("{name}_{}", std::process::id());
    execute(&server, &format!("CREATE DATABASE {name}"));
    let (host, _) = server.rsplit_once('/').unwrap();
    Some(format!("{host}/{name}"))
}

/// Drops a database that [`create_database`] created.
pub(crate) fn drop_database(url: &str) {
    let (host, name) = url.rsplit_once('/').unwrap();
    execute(&format!("{host}/postgres"), &format!("DROP DATABASE {name} WITH (FORCE)"));
}

/// Executes a statement on a PostgreSQL server.
fn execute(url: &str, statement: &str) {
    let executed = async {
        let (client, connection) =
            tokio_postgres::connect(url, tokio_postgres::NoTls).await.unwrap();
        let connection = tokio::spawn(connection);
        client.batch_execute(statement).await.unwrap();
        connection.abort();
    };
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(executed);
}

/// A server with a temporary data directory, which is deleted when this value is dropped.
pub(crate) struct DiskServer {
    pub(crate) server: Server,
    dir: tempfile::TempDir,
    logged: bool,
}

impl DiskServer {
    pub(crate) fn new(flags: &[&str]) -> DiskServer {
        DiskServer::create(flags, false)
    }

    /// Starts a server that writes its log to a file. [`DiskServer::stop_and_read_log`] returns the
    /// log.
    pub(crate) fn logged(flags: &[&str]) -> DiskServer {
        DiskServer::create(flags, true)
    }

    fn create(flags: &[&str], logged: bool) -> DiskServer {
        let dir = tempfile::tempdir().unwrap();
        DiskServer { server: DiskServer::spawn(dir.path(), flags, logged), dir, logged }
    }

    fn spawn(dir: &Path, flags: &[&str], logged: bool) -> Server {
        let mut command = serve(flags);
        command.arg("--data").arg(dir.join("data"));
        if logged {
            command
                .stderr(File::options().create(true).append(true).open(dir.join("log")).unwrap());
        }
        Server::spawn(command)
    }

    /// Returns the path of the data directory.
    pub(crate) fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// Kills the server with SIGKILL and starts it again. The new process appends to the same log
    /// file, if there is one.
    pub(crate) fn kill_and_restart(&mut self, flags: &[&str]) {
        self.server.kill();
        self.server = DiskServer::spawn(self.dir.path(), flags, self.logged);
    }

    /// Shuts the server down and returns its log.
    pub(crate) fn stop_and_read_log(self) -> String {
        let DiskServer { server, dir, .. } = self;
        server.stop();
        fs::read_to_string(dir.path().join("log")).unwrap()
    }
}

/// The result of a completed command.
pub(crate) struct CommandOutput {
    /// The exit status, or -1 if a signal ended the command.
    pub(crate) code: i32,
    pub(crate) out: Vec<u8>,
    pub(crate) err: String,
}

impl CommandOutput {
    /// Returns the standard output as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.out.clone()).unwrap()
    }

    /// Checks that the standard error contains the given text.
    #[track_caller]
    pub(crate) fn assert_err(&self, part: &str) {
        assert!(
            self.err.contains(part),
            "the standard error does not contain {part:?}: {}",
            self.err
        );
    }

    /// Checks the exit status.
    #[track_caller]
    pub(crate) fn expect_exit(self, code: i32) -> CommandOutput {
        let out = String::from_utf8_lossy(&self.out);
        assert_eq!(self.code, code, "{out}\n{}", self.err);
        self
    }
}

impl From<Output> for CommandOutput {
    fn from(output: Output) -> CommandOutput {
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        CommandOutput { code: output.status.code().unwrap_or(-1), out: output.stdout, err }
    }
}

/// Runs a command to completion.
pub(crate) fn run(command: &mut Command) -> CommandOutput {
    command.output().unwrap().into()
}

/// Runs a command to completion with `input` on its standard input.
pub(crate) fn run_with_input(mut command: Command, input: &[u8]) -> CommandOutput {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    std::thread::scope(|threads| {
        // The command may exit before it has read all of its input.
        threads.spawn(move || stdin.write_all(input).is_ok());
        child.wait_with_output().unwrap().into()
    })
}

/// Copies a directory tree. Skips files that disappear, because an engine may recycle WAL segments
/// during the copy.
pub(crate) fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy_dir(&entry.path(), &target),
            false => match fs::copy(entry.path(), target) {
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                copied => assert!(copied.is_ok(), "{copied:?}"),
            },
        }
    }
}

/// A response as it was received.
#[derive(Clone, Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    /// The status line and the headers, up to the empty line, decoded as Latin-1.
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Response {
    /// Returns all values of a header.
    pub(crate) fn headers(&self, name: &str) -> Vec<&str> {
        let lines = self.head.split("\r\n").skip(1).filter_map(|line| line.split_once(':'));
        let named = lines.filter(|(n, _)| n.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.strip_prefix(' ').unwrap_or(value)).collect()
    }

    /// Returns the value of a header, which must be present exactly once.
    pub(crate) fn header(&self, name: &str) -> &str {
        match self.headers(name)[..] {
            [value] => value,
            ref other => panic!("expected one header {name}, got {other:?} in {}", self.head),
        }
    }

    /// Returns whether a header is present.
    pub(crate) fn has_header(&self, name: &str) -> bool {
        !self.headers(name).is_empty()
    }

    /// Returns the generation of the item, from its header.
    pub(crate) fn generation(&self) -> u64 {
        self.header("Generation").parse().unwrap()
    }

    /// Returns the body as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    /// Returns the body as JSON.
    pub(crate) fn json(&self) -> serde_json::Value {
        assert_eq!(self.header("Content-Type"), "application/json", "{}", self.head);
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {:?}", self.text()))
    }

    /// Checks the status and the exact format of an error body, and returns the `detail`.
    pub(crate) fn expect_error(&self, status: u16) -> String {
        assert_eq!(self.status, status, "{}\n{}", self.head, String::from_utf8_lossy(&self.body));
        let json = self.json();
        let text = |name: &str| json[name].as_str().unwrap_or_else(|| panic!("{json}")).to_owned();
        let (msg, title, detail) = (text("msg"), text("title"), text("detail"));
        let quoted = |text: &str| serde_json::to_string(text).unwrap();
        let shape = format!(
            "{{\"msg\":{},\"title\":{},\"detail\":{},\"status\":{status}}}",
            quoted(&msg),
            quoted(&title),
            quoted(&detail)
        );
        assert_eq!(self.text(), shape);
        detail
    }
}

/// A connection to a server.
pub(crate) struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    pub(crate) fn connect(port: u16) -> std::io::Result<Client> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        stream.set_write_timeout(Some(Duration::from_secs(60)))?;
        Ok(Client { stream: BufReader::new(stream) })
    }

    /// Limits how long a read waits for bytes.
    pub(crate) fn set_read_timeout(&mut self, time: Duration) {
        self.stream.get_mut().set_read_timeout(Some(time)).unwrap();
    }

    /// Limits how long a write waits until the server accepts bytes.
    pub(crate) fn set_write_timeout(&mut self, time: Duration) {
        self.stream.get_mut().set_write_timeout(Some(time)).unwrap();
    }

    /// Sends raw bytes.
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        self.stream.get_mut().write_all(bytes.as_ref())
    }

    /// Returns another handle to the connection, for sending on one thread and reading on another.
    pub(crate) fn try_clone(&self) -> Client {
        Client { stream: BufReader::new(self.stream.get_ref().try_clone().unwrap()) }
    }

    /// Shuts down the sending side.
    pub(crate) fn shutdown_write(&mut self) {
        self.stream.get_mut().shutdown(Shutdown::Write).unwrap();
    }

    /// Waits for bytes without reading them. Closing a connection with unread bytes resets it.
    pub(crate) fn wait_for_bytes(&mut self) {
        assert_eq!(self.stream.get_ref().peek(&mut [0]).unwrap(), 1);
    }

    /// Sends a request with the root token, and reads the response. `request` is `METHOD TARGET`.
    /// Header values are sent as Latin-1, so any byte can be sent. `Content-Length` is added to PUT
    /// and POST, and to other methods if there is a body.
    pub(crate) fn request(
        &mut self,
        request: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> std::io::Result<Response> {
        let mut head =
            format!("{request} HTTP/1.1\r\nHost: test\r\nFastly-Key: {TOKEN}\r\n").into_bytes();
        for (name, value) in headers {
            head.extend_from_slice(name.as_bytes());
            head.extend_from_slice(b": ");
            head.extend(value.chars().map(|c| u8::try_from(u32::from(c)).unwrap()));
            head.extend_from_slice(b"\r\n");
        }
        let has_body = request.starts_with("PUT") || request.starts_with("POST");
        if has_body || !body.is_empty() {
            head.extend_from_slice(format!("Content-Length: {}\r\n", body.len()).as_bytes());
        }
        head.extend_from_slice(b"\r\n");
        head.extend_from_slice(body);
        self.send(head)?;
        self.read_response(request.starts_with("HEAD"))
    }

    /// Sends a GET request and reads the response.
    pub(crate) fn get(&mut self, path: &str) -> std::io::Result<Response> {
        self.request(&format!("GET {path}"), &[], b"")
    }

    /// Reads a response, which may be an informational one. Set `bodiless` for a response to HEAD.
    pub(crate) fn read_response(&mut self, bodiless: bool) -> std::io::Result<Response> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            if self.stream.read_until(b'\n', &mut head)? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
        }
        head.truncate(head.len() - 4);
        let head: String = head.iter().map(|byte| char::from(*byte)).collect();
        let status = head.get(9..12).and_then(|code| code.parse().ok());
        let status = status.unwrap_or_else(|| panic!("there is no status line in {head:?}"));
        let mut response = Response { status, head, body: Vec::new() };
        if !bodiless && status >= 200 && status != 204 {
            if response.has_header("Transfer-Encoding") {
                response.body = self.read_chunked_body()?;
                return Ok(response);
            }
            let length = response.header("Content-Length").parse().unwrap();
            response.body = vec![0; length];
            self.stream.read_exact(&mut response.body)?;
        }
        Ok(response)
    }

    /// Reads a chunked body to its end.
    fn read_chunked_body(&mut self) -> std::io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let mut line = String::new();
            self.stream.read_line(&mut line)?;
            let truncated = || std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
            let len = usize::from_str_radix(line.strip_suffix("\r\n").ok_or_else(truncated)?, 16);
            let start = body.len();
            body.resize(start + len.unwrap() + 2, 0);
            self.stream.read_exact(&mut body[start..])?;
            assert!(body.ends_with(b"\r\n"), "a chunk does not end where its length says");
            body.truncate(body.len() - 2);
            if body.len() == start {
                return Ok(body);
            }
        }
    }

    /// Returns whether the server closes the connection without sending anything more.
    pub(crate) fn closes_without_response(&mut self) -> bool {
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest).is_ok() && rest.is_empty()
    }
}
