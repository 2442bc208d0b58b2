//! Starts the benchmark targets and formats requests for them.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The names of all targets, in the order of the results table.
pub const NAMES: [&str; 5] = ["baseline", "baseline-prealloc", "steadfast", "nginx", "webdis"];
const TOKEN: &str = "bench-token-0123456789abcdef";
/// The placeholder that the load generator replaces with a key.
pub const KEY: &str = "KKKKKKKKK";

/// The cores that a target and the load generator run on.
#[derive(Clone, Copy, PartialEq)]
pub enum Cores {
    /// The target runs on core 0, and the load generator on core 1.
    Separate,
    /// Both run on cores 0 and 1.
    Shared,
}

impl Cores {
    fn of_target(self) -> &'static str {
        match self {
            Cores::Separate => "0",
            Cores::Shared => "0,1",
        }
    }

    /// Returns the cores of the load generator, in the format of taskset.
    pub fn of_generator(self) -> &'static str {
        match self {
            Cores::Separate => "1",
            Cores::Shared => "0,1",
        }
    }
}

/// A running server with its own port and directory.
pub struct Target {
    name: &'static str,
    /// The cores to use from the next start on.
    pub cores: Cores,
    children: Vec<Child>,
    port: u16,
    dir: tempfile::TempDir,
    steadfast: PathBuf,
    /// The id of Steadfast's store.
    store: String,
    /// Time from the start to the first response.
    pub ready: Duration,
}

impl Drop for Target {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = Command::new("kill").arg(child.id().to_string()).status();
        }
        for child in &mut self.children {
            let _ = child.wait();
        }
    }
}

/// Returns whether the programs of a target are installed.
#[expect(clippy::disallowed_methods, reason = "the search path is not part of the configuration")]
pub fn installed(name: &str, steadfast: &Path) -> bool {
    let there = |program: &str| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
    };
    match name {
        "steadfast" => steadfast.is_file(),
        "nginx" => there("nginx"),
        "webdis" => there("webdis") && there("redis-server"),
        _ => true,
    }
}

fn free_port() -> Result<u16, String> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(|e| e.to_string())?;
    Ok(listener.local_addr().map_err(|e| e.to_string())?.port())
}

fn pinned(cores: Cores, program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", cores.of_target()]).arg(program);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

impl Target {
    /// Starts a target on core 0 with an empty directory and waits for its first response.
    pub fn start(name: &'static str, steadfast: &Path) -> Result<Target, String> {
        Target::start_on(Cores::Separate, name, steadfast)
    }

    /// Starts a target with an empty directory and waits for its first response.
    pub fn start_on(cores: Cores, name: &'static str, steadfast: &Path) -> Result<Target, String> {
        let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
        let port = free_port()?;
        let mut commands = commands(name, cores, steadfast, port, dir.path())?;
        let begin = Instant::now();
        let spawned: Result<Vec<_>, _> = commands.iter_mut().map(Command::spawn).collect();
        let children = spawned.map_err(|e| format!("{name}: {e}"))?;
        let (store, ready) = (String::new(), Duration::ZERO);
        let steadfast = steadfast.into();
        let mut target = Target { name, cores, children, port, dir, steadfast, store, ready };
        target.wait_until_ready(begin)?;
        if name == "steadfast" {
            let body = "{\"name\":\"bench\"}";
            let response =
                target.send(&target.request("POST", "/resources/stores/kv", body.as_bytes()));
            let response =
                String::from_utf8_lossy(&response.map_err(|e| e.to_string())?).into_owned();
            let id = response.split("\"id\":\"").nth(1).and_then(|rest| rest.get(..22));
            target.store = id.ok_or(format!("cannot create the store: {response}"))?.into();
        }
        Ok(target)
    }

    fn wait_until_ready(&mut self, begin: Instant) -> Result<(), String> {
        while self.send(&self.get("k00000000")).is_err() {
            if begin.elapsed() > Duration::from_secs(60) {
                return Err(format!("{} does not respond", self.name));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        self.ready = begin.elapsed();
        if self.name == "webdis" { self.wait_for_redis(begin) } else { Ok(()) }
    }

    /// Waits until webdis is connected to Redis. Until then, webdis loses the requests that it
    /// accepts.
    fn wait_for_redis(&self, begin: Instant) -> Result<(), String> {
        const CONSECUTIVE: usize = 500;
        let mut successes = 0;
        while successes < CONSECUTIVE {
            if begin.elapsed() > Duration::from_secs(60) {
                return Err("webdis cannot reach Redis".into());
            }
            let value = successes.to_string();
            let put = self.send(&self.put("probe", value.as_bytes()));
            let got = put.and_then(|_| self.send(&self.get("probe")));
            successes =
                if got.is_ok_and(|got| got == value.as_bytes()) { successes + 1 } else { 0 };
        }
        Ok(())
    }

    /// Sends a signal to stop the target, and restarts it with the same data.
    pub fn restart(&mut self, signal: &str) -> Result<(), String> {
        for child in &mut self.children {
            let kill = Command::new("kill").args(["-s", signal, &child.id().to_string()]).status();
            kill.and_then(|_| child.wait()).map_err(|e| e.to_string())?;
        }
        let mut commands =
            commands(self.name, self.cores, &self.steadfast, self.port, self.dir.path())?;
        let begin = Instant::now();
        let spawned: Result<Vec<_>, _> = commands.iter_mut().map(Command::spawn).collect();
        self.children = spawned.map_err(|e| e.to_string())?;
        self.wait_until_ready(begin)
    }

    /// Returns the port of the server.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns the resident memory of all processes, in MB.
    pub fn rss(&self) -> f64 {
        let of = |child: &Child| {
            let status = fs::read_to_string(format!("/proc/{}/status", child.id())).ok()?;
            let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
            line.split_whitespace().nth(1)?.parse::<f64>().ok()
        };
        self.children.iter().filter_map(of).sum::<f64>() / 1000.0
    }

    /// Returns the disk usage, in MB.
    pub fn disk(&self) -> f64 {
        fn size(path: &Path) -> u64 {
            use std::os::unix::fs::MetadataExt;
            let Ok(entries) = fs::read_dir(path) else { return 0 };
            let sizes = entries.flatten().map(|entry| match entry.metadata() {
                Ok(meta) if meta.is_dir() => size(&entry.path()),
                Ok(meta) => meta.blocks() * 512,
                Err(_) => 0,
            });
            sizes.sum()
        }
        size(self.dir.path()) as f64 / 1e6
    }

    /// Returns the number of bytes that the processes have written to disk since they started. The
    /// kernel counts a page as soon as it is modified in the page cache.
    pub fn bytes_written(&self) -> u64 {
        let of = |child: &Child| {
            let io = fs::read_to_string(format!("/proc/{}/io", child.id())).ok()?;
            let line = io.lines().find_map(|line| line.strip_prefix("write_bytes:"))?;
            line.trim().parse::<u64>().ok()
        };
        self.children.iter().filter_map(of).sum()
    }

    /// Returns the bytes written since the system started to the device with the data directory.
    /// Returns `None` if the file system is not on a block device.
    pub fn device_bytes_written(&self) -> Option<u64> {
        use std::os::unix::fs::MetadataExt;
        let device = fs::metadata(self.dir.path()).ok()?.dev();
        let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
        let device = [major.to_string(), minor.to_string()];
        let stats = fs::read_to_string("/proc/diskstats").ok()?;
        let mut lines = stats.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let fields = lines.find(|fields| fields.iter().take(2).eq(&device))?;
        let sectors: u64 = fields.get(9)?.parse().ok()?;
        // The kernel counts sectors of 512 bytes, regardless of the sector size of the device.
        Some(sectors * 512)
    }

    /// Opens a connection.
    pub fn connect(&self) -> std::io::Result<TcpStream> {
        let stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// Sends one request on a new connection and reads the response.
    pub fn send(&self, request: &[u8]) -> std::io::Result<Vec<u8>> {
        let mut stream = self.connect()?;
        stream.write_all(request)?;
        read_response(&mut stream)
    }

    fn request(&self, method: &str, path: &str, body: &[u8]) -> Vec<u8> {
        let length = match method {
            "GET" | "DELETE" => String::new(),
            _ => format!("Content-Length: {}\r\n", body.len()),
        };
        let token = match self.name {
            "steadfast" => format!("Fastly-Key: {TOKEN}\r\n"),
            _ => String::new(),
        };
        let head = format!("{method} {path} HTTP/1.1\r\nHost: bench\r\n{token}{length}\r\n");
        [head.as_bytes(), body].concat()
    }

    fn path(&self, key: &str) -> String {
        match self.name {
            "steadfast" => format!("/resources/stores/kv/{}/keys/{key}", self.store),
            "webdis" => format!("/GET/{key}.bin"),
            _ => format!("/{key}"),
        }
    }

    /// Formats a request that reads a key.
    pub fn get(&self, key: &str) -> Vec<u8> {
        self.request("GET", &self.path(key), b"")
    }

    /// Formats a request that writes a key.
    pub fn put(&self, key: &str, value: &[u8]) -> Vec<u8> {
        match self.name {
            "webdis" => self.request("PUT", &format!("/SET/{key}"), value),
            _ => self.request("PUT", &self.path(key), value),
        }
    }

    /// Formats a request that lists 1000 keys. Returns `None` if the target cannot list keys.
    pub fn list(&self) -> Option<Vec<u8>> {
        // The load generator requires a placeholder, so put one into a header field that the server
        // ignores.
        let path = format!("/resources/stores/kv/{}/keys?prefix=k00012", self.store);
        let list = self.request("GET", &path, b"");
        let field = format!("X-Key: {KEY}\r\n\r\n");
        let list = [&list[..list.len() - 2], field.as_bytes()].concat();
        (self.name == "steadfast").then_some(list)
    }

    /// Formats a request that deletes a key.
    pub fn delete(&self, key: &str) -> Vec<u8> {
        self.request("DELETE", &self.path(key), b"")
    }

    /// Formats a request that lists the keys with a prefix.
    pub fn page(&self, prefix: &str) -> Vec<u8> {
        let path = format!("/resources/stores/kv/{}/keys?prefix={prefix}", self.store);
        self.request("GET", &path, b"")
    }

    /// Formats a request that writes many keys. Returns `None` if the target does not support
    /// batches.
    pub fn batch(&self, keys: &[String], value: &[u8], ttl_secs: Option<u64>) -> Option<Vec<u8>> {
        use base64::Engine as _;
        let body = match self.name {
            "steadfast" => {
                let value = base64::engine::general_purpose::STANDARD.encode(value);
                let ttl_secs =
                    ttl_secs.map_or(String::new(), |s| format!(",\"time_to_live_sec\":{s}"));
                let line = |key| format!("{{\"key\":\"{key}\",\"value\":\"{value}\"{ttl_secs}}}\n");
                keys.iter().map(line).collect::<String>().into_bytes()
            }
            "baseline" | "baseline-prealloc" => value.repeat(keys.len()),
            _ => return None,
        };
        Some(self.batch_of_lines(&body))
    }

    /// Formats a batch request from its lines.
    pub fn batch_of_lines(&self, lines: &[u8]) -> Vec<u8> {
        self.request("PUT", &format!("/resources/stores/kv/{}/batch", self.store), lines)
    }
}

fn commands(
    name: &str,
    cores: Cores,
    steadfast: &Path,
    port: u16,
    dir: &Path,
) -> Result<Vec<Command>, String> {
    let write = |file: &str, text: String| -> Result<PathBuf, String> {
        let path = dir.join(file);
        fs::write(&path, text).map_err(|e| e.to_string())?;
        Ok(path)
    };
    let at = dir.display();
    let command = match name {
        "baseline" | "baseline-prealloc" => {
            let this = std::env::current_exe().map_err(|e| e.to_string())?;
            let mode = if name == "baseline" { "append" } else { "prealloc" };
            let mut command = pinned(cores, this);
            command.arg("serve-baseline").arg(port.to_string()).arg(dir.join("log")).arg(mode);
            vec![command]
        }
        "steadfast" => {
            let mut command = pinned(cores, steadfast);
            command.args(["serve", "--listen", &format!("127.0.0.1:{port}")]);
            command.arg("--data").arg(dir.join("data")).env("STEADFAST_TOKEN", TOKEN);
            vec![command]
        }
        "nginx" => {
            fs::create_dir(dir.join("files")).map_err(|e| e.to_string())?;
            let text = format!(
                "daemon off; worker_processes 1; pid {at}/pid; error_log /dev/null; \
                 user root; events {{ worker_connections 1024; }} http {{ access_log off; \
                 keepalive_requests 1000000000; client_max_body_size 100m; client_body_temp_path \
                 {at}/temp; server {{ listen 127.0.0.1:{port}; root {at}/files; \
                 dav_methods PUT DELETE; }} }}"
            );
            let mut command = pinned(cores, "nginx");
            command.arg("-c").arg(write("nginx.conf", text)?).arg("-p").arg(dir);
            vec![command]
        }
        "webdis" => {
            let redis_port = free_port()?;
            let mut redis = pinned(cores, "redis-server");
            let redis_port_text = redis_port.to_string();
            redis.args(["--port", &redis_port_text, "--bind", "127.0.0.1"]).arg("--dir").arg(dir);
            redis.args(["--appendonly", "yes", "--appendfsync", "always", "--save", ""]);
            let text = format!(
                "{{\"redis_host\":\"127.0.0.1\",\"redis_port\":{redis_port},\"http_host\":\
                 \"127.0.0.1\",\"http_port\":{port},\"threads\":1,\"pool_size\":20,\
                 \"http_max_request_size\":134217728,\"verbosity\":0,\"logfile\":\"/dev/null\"}}"
            );
            let mut webdis = pinned(cores, "webdis");
            webdis.arg(write("webdis.json", text)?);
            vec![redis, webdis]
        }
        _ => return Err(format!("{name} is not a target")),
    };
    Ok(command)
}

/// Sends a request and reads the response. Fails unless the status is 2xx.
pub fn send_checked(stream: &mut TcpStream, request: &[u8]) -> Result<(), String> {
    let sent = stream.write_all(request).and_then(|()| read_status_and_body(stream));
    match sent.map_err(|e| e.to_string())? {
        (200..300, _) => Ok(()),
        (status, body) => Err(format!("status {status}: {}", String::from_utf8_lossy(&body))),
    }
}

/// Reads a whole response with a Content-Length. Returns only the start of a large body: at most
/// 1 KiB of each read after the first.
pub fn read_response(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    read_status_and_body(stream).map(|(_, body)| body)
}

/// Reads a response like [`read_response`], and returns its status too.
pub fn read_status_and_body(stream: &mut TcpStream) -> std::io::Result<(u16, Vec<u8>)> {
    let (mut bytes, mut chunk) = (Vec::new(), vec![0; 1 << 18]);
    let end = loop {
        let read = stream.read(&mut chunk)?;
        if read == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        bytes.extend_from_slice(&chunk[..read]);
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break end;
        }
    };
    let status = crate::generator::status(&bytes[..end]);
    let mut left = crate::generator::length(&bytes[..end]).saturating_sub(bytes.len() - end - 4);
    let mut body = bytes.split_off(end + 4);
    while left > 0 {
        let read = stream.read(&mut chunk)?;
        if read == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        left = left.saturating_sub(read);
        body.extend_from_slice(&chunk[..read.min(1024)]);
    }
    Ok((status, body))
}
