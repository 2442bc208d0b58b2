//! The real server under test, and a client that speaks literal bytes.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "each suite uses its part; a test may panic and read its environment"
)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// The root token of every server under test.
pub(crate) const TOKEN: &str = "black-box-token-0123456789";

/// The binary under test: the release build where `STEADFAST_BIN` names it.
pub(crate) fn binary() -> String {
    std::env::var("STEADFAST_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_steadfast").into())
}

/// A server on a port of its own, killed when dropped.
pub(crate) struct Server {
    child: Child,
    pub(crate) port: u16,
    pub(crate) started: Duration,
    /// Kept open: a server whose output nobody takes would be told so.
    out: BufReader<std::process::ChildStdout>,
}

impl Server {
    /// On a data directory, with further flags.
    pub(crate) fn start(data: &Path, flags: &[&str]) -> Server {
        let mut command = Command::new(binary());
        command.args(["serve", "--listen", "127.0.0.1:0", "--data"]).arg(data).args(flags);
        command.env("STEADFAST_TOKEN", TOKEN);
        Server::spawn(command)
    }

    /// In memory, with further flags.
    pub(crate) fn memory(flags: &[&str]) -> Server {
        let mut command = Command::new(binary());
        command.args(["serve", "--listen", "127.0.0.1:0", "--memory"]).args(flags);
        command.env("STEADFAST_TOKEN", TOKEN);
        Server::spawn(command)
    }

    /// Over a database, beside others.
    pub(crate) fn over(url: &str) -> Server {
        Server::over_with(url, &[])
    }

    /// The same, with further flags.
    pub(crate) fn over_with(url: &str, flags: &[&str]) -> Server {
        let mut command = Command::new(binary());
        command.args(["serve", "--listen", "127.0.0.1:0", "--engine-connections", "16"]);
        command.args(flags);
        command.env("STEADFAST_ENGINE", url).env("STEADFAST_TOKEN", TOKEN);
        Server::spawn(command)
    }

    /// By a command that prints the server's first line.
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
        let port = line.trim().rsplit(':').next().and_then(|port| port.parse().ok());
        let port = port.unwrap_or_else(|| panic!("the first line was {line:?}"));
        Server { child, port, started: start.elapsed(), out }
    }

    /// A new connection.
    pub(crate) fn connect(&self) -> Client {
        Client::connect(self.port).unwrap()
    }

    /// One request on a connection of its own; see [`Client::ask`].
    pub(crate) fn ask(&self, request: &str, fields: &[(&str, &str)], body: &[u8]) -> Answer {
        self.connect().ask(request, fields, body).unwrap()
    }

    /// Makes a store and answers its id.
    pub(crate) fn store(&self, name: &str) -> String {
        let body = serde_json::json!({ "name": name }).to_string();
        let made = self.ask("POST /resources/stores/kv", &[], body.as_bytes());
        assert_eq!(made.status, 201, "{made:?}");
        made.json()["id"].as_str().unwrap().to_owned()
    }

    /// The process, for signals.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends SIGTERM.
    pub(crate) fn terminate(&self) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    }

    /// Waits for the end of the process.
    pub(crate) fn wait(mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }

    /// The status it ended with, once it did, within a time.
    pub(crate) fn ended(&mut self, within: Duration) -> Option<ExitStatus> {
        let until = Instant::now() + within;
        loop {
            let status = self.child.try_wait().unwrap();
            if status.is_some() || Instant::now() > until {
                return status;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Stops it in order.
    pub(crate) fn stop(self) {
        self.terminate();
        let status = self.wait();
        assert!(status.success(), "{status}");
    }

    /// kill -9 to the whole group: under a tracer the server is a child of the child.
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

/// The URL of a new database on the server of `STEADFAST_TEST_POSTGRES`; `None`, said aloud,
/// without one.
pub(crate) fn database(name: &str) -> Option<String> {
    let Ok(server) = std::env::var("STEADFAST_TEST_POSTGRES") else {
        println!("skipped: STEADFAST_TEST_POSTGRES names no database server");
        return None;
    };
    let name = format!("{name}_{}", std::process::id());
    let make = async {
        let (client, connection) =
            tokio_postgres::connect(&server, tokio_postgres::NoTls).await.unwrap();
        let connection = tokio::spawn(connection);
        client.batch_execute(&format!("CREATE DATABASE {name}")).await.unwrap();
        connection.abort();
    };
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(make);
    let (host, _) = server.rsplit_once('/').unwrap();
    Some(format!("{host}/{name}"))
}

/// A server with its data in a directory that goes with it.
pub(crate) struct Home {
    pub(crate) server: Server,
    dir: tempfile::TempDir,
}

impl Home {
    pub(crate) fn new(flags: &[&str]) -> Home {
        let dir = tempfile::tempdir().unwrap();
        let server = Server::start(&dir.path().join("data"), flags);
        Home { server, dir }
    }

    /// The data directory.
    pub(crate) fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// Kills it with -9 and starts it again.
    pub(crate) fn crash(&mut self, flags: &[&str]) {
        self.server.kill();
        self.server = Server::start(&self.data(), flags);
    }
}

/// An answer, to the byte.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// The status line and the header fields as they came, up to the empty line.
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// The values of a header field, as bytes were read as Latin-1.
    pub(crate) fn fields(&self, name: &str) -> Vec<&str> {
        let lines = self.head.split("\r\n").skip(1).filter_map(|line| line.split_once(':'));
        let named = lines.filter(|(n, _)| n.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.strip_prefix(' ').unwrap_or(value)).collect()
    }

    /// The value of a header field that must be there once.
    pub(crate) fn field(&self, name: &str) -> &str {
        match self.fields(name)[..] {
            [value] => value,
            ref other => panic!("{name} is {other:?} in {}", self.head),
        }
    }

    /// Whether a header field is there.
    pub(crate) fn has(&self, name: &str) -> bool {
        !self.fields(name).is_empty()
    }

    /// The generation of an item.
    pub(crate) fn generation(&self) -> u64 {
        self.field("Generation").parse().unwrap()
    }

    /// The body as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    /// The body as JSON.
    pub(crate) fn json(&self) -> serde_json::Value {
        assert_eq!(self.field("Content-Type"), "application/json", "{}", self.head);
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {:?}", self.text()))
    }

    /// The detail of a refusal, whose whole shape is checked.
    pub(crate) fn refused(&self, status: u16) -> String {
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

/// One connection.
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

    /// Gives an answer up after so long.
    pub(crate) fn wait_at_most(&mut self, time: Duration) {
        self.stream.get_mut().set_read_timeout(Some(time)).unwrap();
    }

    /// Sends bytes as they are.
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        self.stream.get_mut().write_all(bytes.as_ref())
    }

    /// The same connection once more, to send on one thread and read on another.
    pub(crate) fn second(&self) -> Client {
        Client { stream: BufReader::new(self.stream.get_ref().try_clone().unwrap()) }
    }

    /// Ends the sending side.
    pub(crate) fn finish(&mut self) {
        self.stream.get_mut().shutdown(Shutdown::Write).unwrap();
    }

    /// Sends a request with the token and the body's length (none for GET, HEAD and DELETE without
    /// a body), and reads its answer. `request` is `METHOD TARGET`, which may hold any byte that
    /// a string can; header fields go out as Latin-1.
    pub(crate) fn ask(
        &mut self,
        request: &str,
        fields: &[(&str, &str)],
        body: &[u8],
    ) -> std::io::Result<Answer> {
        let mut head =
            format!("{request} HTTP/1.1\r\nHost: test\r\nFastly-Key: {TOKEN}\r\n").into_bytes();
        for (name, value) in fields {
            head.extend_from_slice(name.as_bytes());
            head.extend_from_slice(b": ");
            // Characters up to U+00FF as one byte each, so that any byte can be sent.
            head.extend(value.chars().map(|c| u8::try_from(u32::from(c)).unwrap()));
            head.extend_from_slice(b"\r\n");
        }
        let writes = request.starts_with("PUT") || request.starts_with("POST");
        if writes || !body.is_empty() {
            head.extend_from_slice(format!("Content-Length: {}\r\n", body.len()).as_bytes());
        }
        head.extend_from_slice(b"\r\n");
        head.extend_from_slice(body);
        self.send(head)?;
        self.answer(request.starts_with("HEAD"))
    }

    /// Reads an answer; `bodiless` for one to HEAD. Informational answers are answers too.
    pub(crate) fn answer(&mut self, bodiless: bool) -> std::io::Result<Answer> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            if self.stream.read_until(b'\n', &mut head)? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
        }
        head.truncate(head.len() - 4);
        let head: String = head.iter().map(|byte| char::from(*byte)).collect();
        let status = head.get(9..12).and_then(|code| code.parse().ok());
        let status = status.unwrap_or_else(|| panic!("no status line: {head:?}"));
        let mut answer = Answer { status, head, body: Vec::new() };
        if !bodiless && status >= 200 && status != 204 {
            if answer.has("Transfer-Encoding") {
                answer.body = self.chunks()?;
                return Ok(answer);
            }
            let length = answer.field("Content-Length").parse().unwrap();
            answer.body = vec![0; length];
            self.stream.read_exact(&mut answer.body)?;
        }
        Ok(answer)
    }

    /// Reads a body in chunks to its end.
    fn chunks(&mut self) -> std::io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let mut line = String::new();
            self.stream.read_line(&mut line)?;
            let cut = || std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
            let len = usize::from_str_radix(line.strip_suffix("\r\n").ok_or_else(cut)?, 16);
            let start = body.len();
            body.resize(start + len.unwrap() + 2, 0);
            self.stream.read_exact(&mut body[start..])?;
            assert!(body.ends_with(b"\r\n"), "a chunk has another length than it says");
            body.truncate(body.len() - 2);
            if body.len() == start {
                return Ok(body);
            }
        }
    }

    /// Whether the server ends the connection, and sends nothing before it does.
    pub(crate) fn ends(&mut self) -> bool {
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest).is_ok() && rest.is_empty()
    }
}
