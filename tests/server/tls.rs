//! Tests of HTTPS: handshakes, certificate reloads, client certificates, plain HTTP on the TLS
//! port, and the command line as a client.

use crate::support::{Client, CommandOutput, Server, TOKEN, binary, process_memory, run};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use std::fs;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A certificate authority.
struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Ca {
    fn new(name: &str) -> Ca {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Ca { issuer: Issuer::new(params, key), pem }
    }

    /// Issues a certificate. Writes the certificate to `NAME.pem` and its key to `NAME.key`.
    fn issue(&self, dir: &Path, name: &str) -> (PathBuf, PathBuf) {
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        let files = (dir.join(format!("{name}.pem")), dir.join(format!("{name}.key")));
        fs::write(&files.0, cert.pem()).unwrap();
        fs::write(&files.1, key.serialize_pem()).unwrap();
        files
    }
}

/// A server with TLS, the authority that issued its certificate, and a directory for files.
struct TlsServer {
    server: Server,
    ca: Ca,
    dir: tempfile::TempDir,
}

impl TlsServer {
    fn new(flags: &[&str]) -> TlsServer {
        let (ca, dir) = (Ca::new("test CA"), tempfile::tempdir().unwrap());
        fs::write(dir.path().join("ca.pem"), &ca.pem).unwrap();
        let (cert, key) = ca.issue(dir.path(), "server");
        let mut command = Command::new(binary());
        command.args(["serve", "--memory", "--listen", "127.0.0.1:0", "--tls-cert"]).arg(cert);
        command.arg("--tls-key").arg(key).args(flags).env("STEADFAST_TOKEN", TOKEN);
        command.stderr(fs::File::create(dir.path().join("log")).unwrap());
        TlsServer { server: Server::spawn(command), ca, dir }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.file("log")).unwrap()
    }

    fn wait_for_log(&self, text: &str) {
        let end = Instant::now() + Duration::from_secs(30);
        while !self.log().contains(text) {
            assert!(Instant::now() < end, "the log does not contain {text:?}: {}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn connect(&self) -> TlsClient {
        TlsClient::connect(self.server.port, client_config(&self.ca)).unwrap()
    }

    fn hang_up(&self) {
        let pid = self.server.pid().to_string();
        assert!(Command::new("kill").args(["-HUP", &pid]).status().unwrap().success());
    }

    /// Returns a client command that connects to the server.
    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.args(args).env_clear().current_dir(self.dir.path()).stdin(Stdio::null());
        command.env("FASTLY_API_TOKEN", TOKEN);
        command.env("FASTLY_API_ENDPOINT", format!("https://127.0.0.1:{}", self.server.port));
        command
    }

    fn run(&self, args: &[&str]) -> CommandOutput {
        run(&mut self.command(args))
    }
}

fn builder(ca: &Ca) -> rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.pem.as_bytes()).unwrap()).unwrap();
    let provider = rustls::crypto::ring::default_provider();
    let builder = ClientConfig::builder_with_provider(provider.into());
    builder.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots)
}

fn client_config(ca: &Ca) -> ClientConfig {
    builder(ca).with_no_client_auth()
}

/// A TLS connection to a server.
struct TlsClient(StreamOwned<ClientConnection, TcpStream>);

impl TlsClient {
    /// Connects and completes the handshake.
    fn connect(port: u16, config: ClientConfig) -> io::Result<TlsClient> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        stream.set_write_timeout(Some(Duration::from_secs(60)))?;
        let name = ServerName::try_from("localhost").unwrap();
        let mut session =
            ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
        while session.is_handshaking() {
            session.complete_io(&mut stream)?;
        }
        Ok(TlsClient(StreamOwned::new(session, stream)))
    }

    fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).unwrap();
        self.0.flush().unwrap();
    }

    /// Reads a response with a `Content-Length`. Returns the status, the head and the body.
    fn read_response(&mut self) -> io::Result<(u16, String, Vec<u8>)> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            self.0.read_exact(&mut byte)?;
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap();
        let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
        let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
        self.0.read_exact(&mut body)?;
        Ok((head[9..12].parse().unwrap(), head, body))
    }

    fn request(&mut self, request: &str, body: &[u8]) -> io::Result<(u16, String, Vec<u8>)> {
        let (token, length) = (TOKEN, body.len());
        let head = format!("{request} HTTP/1.1\r\nHost: h\r\nFastly-Key: {token}\r\n");
        self.send(format!("{head}Content-Length: {length}\r\n\r\n").as_bytes());
        self.send(body);
        self.read_response()
    }

    fn certificate(&self) -> Vec<u8> {
        self.0.conn.peer_certificates().unwrap()[0].to_vec()
    }
}

#[test]
fn https_serves_requests_of_all_sizes_on_one_connection() {
    let tls = TlsServer::new(&[]);
    let mut client = tls.connect();
    assert_eq!(client.0.conn.alpn_protocol(), None, "the client offered no protocol");
    let body = br#"{"name":"s"}"#;
    let (status, _, created) = client.request("POST /resources/stores/kv", body).unwrap();
    assert_eq!(status, 201);
    let created: serde_json::Value = serde_json::from_slice(&created).unwrap();
    let item = format!("/resources/stores/kv/{}/keys/k", created["id"].as_str().unwrap());
    for size in [0, 1, 16_000, 16_400, 70_000, 1_000_000, 5_000_000] {
        let value: Vec<u8> = (0..size).map(|n: u32| n.to_le_bytes()[0] ^ 7).collect();
        assert_eq!(client.request(&format!("PUT {item}"), &value).unwrap().0, 200, "{size}");
        let (status, _, read) = client.request(&format!("GET {item}"), b"").unwrap();
        assert!(status == 200 && read == value, "{size}");
    }
    let mut config = client_config(&tls.ca);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let client = TlsClient::connect(tls.server.port, config).unwrap();
    assert_eq!(client.0.conn.alpn_protocol(), Some(&b"http/1.1"[..]));
    tls.server.stop();
}

#[test]
fn idle_and_stopped_tls_connections_end_with_close_notify() {
    let tls = TlsServer::new(&["--idle-timeout", "1"]);
    let mut client = tls.connect();
    assert_eq!(client.request("GET /healthz", b"").unwrap().0, 200);
    let mut rest = Vec::new();
    // Without a close_notify, the read fails with UnexpectedEof.
    assert_eq!(client.0.read_to_end(&mut rest).unwrap(), 0);
    let mut client = tls.connect();
    assert_eq!(client.request("GET /healthz", b"").unwrap().0, 200);
    tls.server.terminate();
    assert_eq!(client.0.read_to_end(&mut rest).unwrap(), 0);
}

#[test]
fn idle_tls_connections_use_little_memory() {
    const CONNECTIONS: u64 = 500;
    const BYTES_MAX: u64 = 32 * 1024;
    let tls = TlsServer::new(&[]);
    let memory = || process_memory(tls.server.pid(), "VmRSS").unwrap();
    let connect = || {
        let mut client = tls.connect();
        assert_eq!(client.request("GET /healthz", b"").unwrap().0, 200);
        client
    };
    let mut clients: Vec<_> = (0..50).map(|_| connect()).collect();
    let before = memory();
    clients.extend((0..CONNECTIONS).map(|_| connect()));
    let each = memory().saturating_sub(before) / CONNECTIONS;
    println!("{CONNECTIONS} connections use {each} bytes each");
    assert!(each < BYTES_MAX, "an idle connection uses {each} bytes");
}

#[test]
fn plain_http_on_the_tls_port_is_answered_with_400() {
    let tls = TlsServer::new(&[]);
    let mut client = tls.server.connect();
    let refused = client.get("/healthz").unwrap();
    let detail = refused.expect_error(400);
    assert!(detail.contains("HTTPS"), "{detail}");
    assert!(client.closes_without_response());
    // The error arrives even if the client sends a large body before it reads the response.
    let refused = tls.server.request("PUT /x", &[], &vec![b'v'; 25 << 20]);
    refused.expect_error(400);
}

#[test]
fn a_certificate_is_reloaded_on_sighup_and_connections_stay_open() {
    let tls = TlsServer::new(&[]);
    let mut open = tls.connect();
    let first = open.certificate();
    tls.ca.issue(tls.dir.path(), "server");
    tls.hang_up();
    tls.wait_for_log("TLS certificate reloaded");
    let second = tls.connect().certificate();
    assert_ne!(first, second);
    assert_eq!(open.request("GET /healthz", b"").unwrap().0, 200);
    // Try a key that does not match, a file without a certificate, and a missing file.
    let key = fs::read(tls.file("server.key")).unwrap();
    let broken: [(&str, Option<Vec<u8>>); 3] = [
        ("server.key", Some(KeyPair::generate().unwrap().serialize_pem().into())),
        ("server.pem", Some(b"no certificate".to_vec())),
        ("server.pem", None),
    ];
    for (name, bytes) in broken {
        let errors = || tls.log().matches("could not reload").count();
        let (before, end) = (errors(), Instant::now() + Duration::from_secs(30));
        let original = fs::read(tls.file(name)).unwrap();
        match bytes {
            Some(bytes) => fs::write(tls.file(name), bytes).unwrap(),
            None => fs::remove_file(tls.file(name)).unwrap(),
        }
        tls.hang_up();
        while errors() == before {
            assert!(Instant::now() < end, "{}", tls.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(
            tls.connect().certificate(),
            second,
            "the server must keep the previous certificate"
        );
        fs::write(tls.file(name), original).unwrap();
    }
    assert_eq!(fs::read(tls.file("server.key")).unwrap(), key);
    assert_eq!(open.request("GET /healthz", b"").unwrap().0, 200);
    tls.server.stop();
}

#[test]
fn a_certificate_is_reloaded_when_its_files_change() {
    let tls = TlsServer::new(&[]);
    let first = tls.connect().certificate();
    let staging = tempfile::tempdir().unwrap();
    tls.ca.issue(staging.path(), "server");
    fs::copy(staging.path().join("server.pem"), tls.file("server.pem")).unwrap();
    fs::copy(staging.path().join("server.key"), tls.file("server.key")).unwrap();
    let end = Instant::now() + Duration::from_secs(60);
    while tls.connect().certificate() == first {
        assert!(Instant::now() < end, "{}", tls.log());
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn sighup_does_not_stop_a_server_without_tls() {
    let mut server = Server::memory(&[]);
    let pid = server.pid().to_string();
    for _ in 0..3 {
        assert!(Command::new("kill").args(["-HUP", &pid]).status().unwrap().success());
    }
    assert!(server.wait_for_exit(Duration::from_millis(500)).is_none());
    assert_eq!(server.get("/healthz").status, 200);
    server.stop();
}

#[test]
fn only_clients_with_a_certificate_from_the_client_ca_are_admitted() {
    let (clients, dir) = (Ca::new("client CA"), tempfile::tempdir().unwrap());
    let ca = dir.path().join("clients.pem");
    fs::write(&ca, &clients.pem).unwrap();
    let tls = TlsServer::new(&["--tls-client-ca", ca.to_str().unwrap()]);
    let status_with = |issuer: &Ca| {
        let (cert, key) = issuer.issue(tls.dir.path(), "client");
        let cert = CertificateDer::from_pem_slice(&fs::read(cert).unwrap()).unwrap();
        let key = PrivateKeyDer::from_pem_slice(&fs::read(key).unwrap()).unwrap();
        let config = builder(&tls.ca).with_client_auth_cert(vec![cert], key).unwrap();
        let mut client = TlsClient::connect(tls.server.port, config)?;
        client.request("GET /healthz", b"").map(|(status, ..)| status)
    };
    assert_eq!(status_with(&clients).unwrap(), 200);
    let https = ["store", "list", "--ca-file", "ca.pem", "--client-cert", "client.pem"];
    let list = tls.run(&[&https[..], &["--client-key", "client.key"]].concat());
    assert_eq!(list.code, 0, "{}", list.err);
    let refused = status_with(&Ca::new("another CA")).unwrap_err();
    assert!(refused.to_string().contains("alert"), "{refused}");
    // With TLS 1.3, the client notices the rejection only when it reads.
    let without = TlsClient::connect(tls.server.port, client_config(&tls.ca));
    let refused = without.and_then(|mut client| client.request("GET /healthz", b"")).unwrap_err();
    assert!(refused.to_string().contains("CertificateRequired"), "{refused}");
    let without = tls.run(&["store", "list", "--ca-file", "ca.pem"]);
    assert_eq!(without.code, 6, "{}", without.err);
}

#[test]
fn an_early_error_reaches_a_tls_client_that_sends_a_large_body() {
    let tls = TlsServer::new(&["--max-value", "1000000"]);
    let mut client = tls.connect();
    let body = br#"{"name":"s"}"#;
    let (_, _, created) = client.request("POST /resources/stores/kv", body).unwrap();
    let created: serde_json::Value = serde_json::from_slice(&created).unwrap();
    let item = format!("/resources/stores/kv/{}/keys/k", created["id"].as_str().unwrap());
    let upload = vec![b'v'; 25 << 20];
    let (status, head, body) = client.request(&format!("PUT {item}"), &upload).unwrap();
    assert_eq!(status, 413, "{head}");
    assert!(head.contains("Connection: close"), "{head}");
    assert!(String::from_utf8(body).unwrap().contains("1000000"));
    assert_eq!(client.0.read_to_end(&mut Vec::new()).unwrap(), 0, "expected a close_notify");
    let mut client = tls.connect();
    client.send(b"PUT /x HTTP/1.1\r\nHost: h\r\nContent-Length: 26214400\r\n\r\n");
    client.send(&upload);
    assert_eq!(client.read_response().unwrap().0, 401);
}

#[test]
fn unfinished_handshakes_are_closed_and_counted_as_connections() {
    let tls = TlsServer::new(&["--header-timeout", "1", "--max-connections", "2"]);
    let mut silent = Client::connect(tls.server.port).unwrap();
    let mut partial = Client::connect(tls.server.port).unwrap();
    partial.send([0x16, 3, 1, 0]).unwrap();
    // This client is served once the server has closed the other two connections.
    let mut client = tls.connect();
    assert_eq!(client.request("GET /healthz", b"").unwrap().0, 200);
    assert!(silent.closes_without_response() && partial.closes_without_response());
    let mut garbage = Client::connect(tls.server.port).unwrap();
    garbage.send([0x16, 3, 1, 0, 4, 1, 2, 3, 4]).unwrap();
    drop(garbage);
    let (_, _, metrics) = client.request("GET /metrics", b"").unwrap();
    let metrics = String::from_utf8(metrics).unwrap();
    assert!(metrics.contains("steadfast_http_connections "), "{metrics}");
}

#[test]
fn an_oversized_handshake_is_refused_before_it_is_complete() {
    let tls = TlsServer::new(&["--header-timeout", "3600"]);
    // Send a ClientHello of 64 KiB in records of 16 KiB, without the last bytes.
    let mut hello = vec![1, 0, 0xff, 0xff, 3, 3];
    hello.resize(64_000, b'x');
    let mut client = Client::connect(tls.server.port).unwrap();
    for part in hello.chunks(16_000) {
        let length = u16::try_from(part.len()).unwrap().to_be_bytes();
        let record = [&[0x16, 3, 1][..], &length, part].concat();
        // The server may close the connection before everything is sent.
        if client.send(record).is_err() {
            break;
        }
    }
    // The header timeout is an hour, so only the size limit can close the connection promptly.
    assert!(client.closes_without_response());
}

#[test]
fn a_request_sent_with_the_end_of_the_handshake_is_served() {
    let tls = TlsServer::new(&[]);
    let mut stream = TcpStream::connect(("127.0.0.1", tls.server.port)).unwrap();
    let (config, name) = (Arc::new(client_config(&tls.ca)), ServerName::try_from("localhost"));
    let mut session = ClientConnection::new(config, name.unwrap()).unwrap();
    while session.is_handshaking() {
        while session.is_handshaking() && session.wants_write() {
            session.write_tls(&mut stream).unwrap();
        }
        session.read_tls(&mut stream).unwrap();
        session.process_new_packets().unwrap();
    }
    let mut client = TlsClient(StreamOwned::new(session, stream));
    let body = vec![b'v'; 1_000_000];
    assert_eq!(client.request("PUT /no/such/path", &body).unwrap().0, 404);
}

#[test]
fn unusable_tls_files_are_named_in_the_startup_error() {
    let (ca, dir) = (Ca::new("test CA"), tempfile::tempdir().unwrap());
    let (cert, key) = ca.issue(dir.path(), "server");
    let (_, other_key) = ca.issue(dir.path(), "other");
    let (empty, missing) = (dir.path().join("empty"), dir.path().join("missing"));
    fs::write(&empty, "").unwrap();
    let none = PathBuf::new();
    for (cert, key, client_ca, status, named) in [
        (&missing, &key, &none, 1, "missing"),
        (&cert, &missing, &none, 1, "missing"),
        (&empty, &key, &none, 1, "empty"),
        (&cert, &empty, &none, 1, "empty"),
        (&cert, &other_key, &none, 1, "do not match"),
        (&cert, &key, &empty, 1, "--tls-client-ca"),
        (&cert, &none, &none, 2, "--tls-key"),
        (&none, &key, &none, 2, "--tls-cert"),
        (&none, &none, &cert, 2, "--tls-cert"),
    ] {
        let mut command = Command::new(binary());
        command.args(["serve", "--memory", "--listen", "127.0.0.1:0"]);
        let flags = [("--tls-cert", cert), ("--tls-key", key), ("--tls-client-ca", client_ca)];
        for (flag, path) in flags.into_iter().filter(|(_, path)| **path != none) {
            command.arg(flag).arg(path);
        }
        let output = run(&mut command);
        assert_eq!(output.code, status, "{}", output.err);
        output.assert_err(named);
    }
}

#[test]
fn commands_trust_the_ca_file_or_the_system_certificates() {
    let tls = TlsServer::new(&[]);
    let list = tls.run(&["store", "list", "--ca-file", "ca.pem"]);
    assert_eq!(list.code, 0, "{}", list.err);
    let list = run(tls.command(&["store", "list"]).env("SSL_CERT_FILE", tls.file("ca.pem")));
    assert_eq!(list.code, 0, "{}", list.err);
    fs::write(tls.file("other.pem"), Ca::new("another CA").pem).unwrap();
    let list = tls.run(&["store", "list", "--ca-file", "other.pem"]);
    assert_eq!(list.code, 6, "{}", list.err);
    list.assert_err("--ca-file");
    fs::write(tls.file("empty.pem"), "").unwrap();
    for unusable in ["empty.pem", "missing.pem"] {
        let list = tls.run(&["store", "list", "--ca-file", unusable]);
        assert_eq!(list.code, 2, "{}", list.err);
        list.assert_err(unusable);
    }
    let env = tls.run(&["env", "--ca-file", "ca.pem"]);
    assert!(env.text().contains("FASTLY_API_URL=https://127.0.0.1:"), "{}", env.text());
    assert!(env.text().contains("NODE_EXTRA_CA_CERTS='ca.pem'"), "{}", env.text());
    let plain = format!("http://127.0.0.1:{}", tls.server.port);
    let list = tls.run(&["store", "list", "--endpoint", &plain]);
    assert_eq!(list.code, 2, "{}", list.err);
    list.assert_err("HTTPS");
}

#[test]
fn the_banner_and_the_address_file_have_the_https_url() {
    let (ca, dir) = (Ca::new("test CA"), tempfile::tempdir().unwrap());
    let (cert, key) = ca.issue(dir.path(), "server");
    fs::write(dir.path().join("ca.pem"), &ca.pem).unwrap();
    let mut command = Command::new(binary());
    command.args(["serve", "--listen", "127.0.0.1:0", "--tls-cert"]).arg(cert);
    command.arg("--tls-key").arg(key).current_dir(dir.path()).env_clear();
    let mut server = Server::spawn(command);
    let address = fs::read_to_string(dir.path().join("steadfast-data/address")).unwrap();
    let url = format!("https://127.0.0.1:{}", server.port);
    assert_eq!(address.lines().next(), Some(url.as_str()));
    assert!(server.read_output_to("# curl").contains(&format!("FASTLY_API_URL={url}\n")));
    let mut list = Command::new(binary());
    list.args(["store", "list", "--ca-file", "ca.pem"]).env_clear().current_dir(dir.path());
    let list = run(&mut list);
    assert_eq!(list.code, 0, "{}", list.err);
}

/// Returns the number of abandoned exports.
fn abandoned_exports(tls: &TlsServer) -> u64 {
    let (_, _, metrics) = tls.connect().request("GET /metrics", b"").unwrap();
    let sample = "steadfast_http_requests_total{route=\"/_/v1/stores/{store_id}/export\",\
                  method=\"GET\",status=\"499\"} ";
    let metrics = String::from_utf8(metrics).unwrap();
    let value = metrics.lines().find_map(|line| line.strip_prefix(sample));
    value.map_or(0, |value| value.parse().unwrap())
}

#[test]
fn a_request_over_tls_is_abandoned_when_its_client_disconnects() {
    let tls = TlsServer::new(&["--body-timeout", "120"]);
    let body = br#"{"name":"s"}"#;
    let (_, _, created) = tls.connect().request("POST /resources/stores/kv", body).unwrap();
    let created: serde_json::Value = serde_json::from_slice(&created).unwrap();
    let store = created["id"].as_str().unwrap();
    let put = format!("PUT /resources/stores/kv/{store}/keys/k");
    assert_eq!(tls.connect().request(&put, &vec![b'v'; 25 << 20]).unwrap().0, 200);
    let export = format!("GET /_/v1/stores/{store}/export HTTP/1.1\r\nHost: h\r\nFastly-Key: ");
    let start = || {
        let mut client = tls.connect();
        client.send(format!("{export}{TOKEN}\r\n\r\n").as_bytes());
        client
    };
    // Start the maximum number of concurrent exports. A further export waits for up to 30 s.
    let mut exports: Vec<_> = (0..4).map(|_| start()).collect();
    for export in &mut exports {
        assert_eq!(export.read_response().unwrap().0, 200);
    }
    let close_notify = |client: &mut TlsClient| {
        std::thread::sleep(Duration::from_millis(200));
        client.0.conn.send_close_notify();
        client.0.flush().unwrap();
    };
    for (number, notifies) in [(1, true), (2, false)] {
        let mut client = start();
        if notifies {
            close_notify(&mut client);
        }
        std::thread::sleep(Duration::from_millis(200));
        drop(client);
        let end = Instant::now() + Duration::from_secs(20);
        while abandoned_exports(&tls) < number {
            assert!(Instant::now() < end, "the export was not abandoned, close_notify: {notifies}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    let mut client = start();
    close_notify(&mut client);
    assert_eq!(client.read_response().unwrap().0, 102);
    drop(exports.pop());
    while client.read_response().unwrap().0 != 200 {}
    assert_eq!(abandoned_exports(&tls), 2);
}
