//! Tests of `steadfast env`, which prints environment variables for other clients or runs a command
//! with them.

use crate::support::TOKEN;
use crate::{Cli, run};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

#[test]
fn env_prints_the_token_file_instead_of_the_token() {
    let cli = Cli::with_store();
    let at = cli.endpoint();
    let file = cli.write_file("it's a token", TOKEN.as_bytes());
    let env = |extra: &[&str]| {
        let args = [&["env", "--endpoint", at.as_str(), "--token-file", &file], extra].concat();
        run(&mut cli.bare_command(&args))
    };
    let text = env(&[]).text();
    for name in ["FASTLY_API_ENDPOINT", "FASTLY_ACCOUNT_ENDPOINT", "FASTLY_API_URL"] {
        assert!(
            text.contains(&format!("{name}={at}\n")) || text.contains(&format!("{name}={at} "))
        );
    }
    assert!(!text.contains(TOKEN), "{text}");
    // A shell that evaluates the output must set the variables.
    let script = format!("{text}\nprintf '%s %s' \"$FASTLY_API_TOKEN\" \"$FASTLY_API_KEY\"");
    let shell = Command::new("sh").args(["-c", &script]).output().unwrap();
    assert_eq!(String::from_utf8(shell.stdout).unwrap(), format!("{TOKEN} {TOKEN}"));
    assert!(env(&["--show-token"]).text().contains(TOKEN));
    let json: serde_json::Value = serde_json::from_str(&env(&["--json"]).text()).unwrap();
    assert_eq!((&json["endpoint"], &json["token"]), (&at.into(), &serde_json::Value::Null));
    let from_env = cli.ok(&["env"]);
    assert!(from_env.contains("FASTLY_API_KEY=\"$FASTLY_API_TOKEN\"") && !from_env.contains(TOKEN));
}

#[test]
fn env_prints_a_reference_to_the_variable_that_contains_the_token() {
    let cli = Cli::new();
    for name in ["FASTLY_API_TOKEN", "STEADFAST_TOKEN"] {
        let mut command = cli.bare_command(&["env"]);
        command.env("FASTLY_API_ENDPOINT", cli.endpoint()).env(name, TOKEN);
        let output = run(&mut command);
        assert_eq!(output.code, 0, "{}", output.err);
        let script =
            format!("{}\nprintf '%s %s' \"$FASTLY_API_TOKEN\" \"$FASTLY_API_KEY\"", output.text());
        let mut shell = Command::new("sh");
        let shell = shell.args(["-c", &script]).env_remove("FASTLY_API_TOKEN").env(name, TOKEN);
        let shell = String::from_utf8(shell.output().unwrap().stdout).unwrap();
        assert_eq!(shell, format!("{TOKEN} {TOKEN}"), "{name}");
        assert!(!output.text().contains(TOKEN), "{}", output.text());
    }
}

#[test]
fn env_runs_a_command_with_the_variables_and_returns_its_status() {
    let cli = Cli::with_store();
    let script = "echo $FASTLY_API_ENDPOINT $FASTLY_ACCOUNT_ENDPOINT $FASTLY_API_URL $STEADFAST_URL
        echo $FASTLY_API_TOKEN $FASTLY_API_KEY; echo \"$NODE_OPTIONS\"; exit 42";
    let mut command = cli.command(&["env", "--", "sh", "-c", script]);
    let output = run(command.env("NODE_OPTIONS", "--no-warnings"));
    let (at, text) = (cli.endpoint(), output.text());
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(output.code, 42, "{}", output.err);
    assert_eq!(lines[..2], [format!("{at} {at} {at} {at}"), format!("{TOKEN} {TOKEN}")]);
    assert!(lines[2].starts_with("--no-warnings --import=data:text/javascript;base64,"));
    cli.fails(127, &["env", "--", "no-such-command-anywhere"]);
    let plain = cli.write_file("plain", b"no program");
    cli.fails(126, &["env", "--", &plain]);
    assert_eq!(cli.ok(&["env", "--", "printf", "%s|", "a b", "--x"]), "a b|--x|");
}

#[test]
fn env_replaces_itself_with_the_command() {
    let cli = Cli::new();
    let mut command = cli.command(&["env", "--", "sleep", "100"]);
    let mut child = command.stdout(Stdio::null()).spawn().unwrap();
    let start = Instant::now();
    // Wait until the process has replaced itself with the command.
    while !std::fs::read_to_string(format!("/proc/{}/comm", child.id())).unwrap().contains("sleep")
    {
        assert!(start.elapsed() < Duration::from_secs(20));
        std::thread::sleep(Duration::from_millis(10));
    }
    Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(15));
}

/// A Node.js program that sends requests to the hosted service with each HTTP API of Node.js.
const PROGRAM: &str = r#"
import https from 'node:https';
import { get } from 'node:https';
const hosted = 'https://api.fastly.com/resources/stores/kv';
const headers = { 'Fastly-Key': process.env.FASTLY_API_TOKEN };
const names = (body) => JSON.parse(body).data.map((store) => store.name).join();
const read = (start) => new Promise((resolve, reject) => {
  const onResponse = (response) => {
    let body = '';
    response.on('data', (piece) => { body += piece; });
    response.on('end', () => resolve(body));
  };
  start(onResponse).on('error', reject).end?.();
});
const url = new URL(hosted);
const options = { host: url.host, path: url.pathname, method: 'GET', headers };
const bodies = [
  await (await fetch(hosted, { headers })).text(),
  await (await fetch(new URL(hosted), { headers })).text(),
  await (await fetch(new Request(hosted, { headers }))).text(),
  await read((onResponse) => https.request(hosted, { headers }, onResponse)),
  await read((onResponse) => https.request(options, onResponse)),
  await read((onResponse) => https.request({ ...options, agent: new https.Agent() }, onResponse)),
  await read((onResponse) => get(url, { headers }, onResponse)),
];
// The undici package uses the global dispatcher of Node.js in the same way.
const dispatcher = globalThis[Symbol.for('undici.globalDispatcher.1')];
bodies.push(await new Promise((resolve, reject) => {
  const pieces = [];
  dispatcher.dispatch({ origin: url.origin, path: url.pathname, method: 'GET', headers }, {
    onConnect() {}, onHeaders() { return true; },
    onData(piece) { pieces.push(piece); return true; },
    onComplete() { resolve(Buffer.concat(pieces).toString()); },
    onError: reject,
  });
}));
console.log(bodies.map(names).join(' '));
const more = { method: 'POST', headers, body: '{"name":"other"}' };
const created = await fetch(new Request(hosted, more));
console.log(created.status);
"#;

#[test]
fn env_redirects_requests_of_a_node_program_for_the_hosted_service() {
    let node = Command::new("node").arg("--version").output();
    let Ok(version) = node.map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
    else {
        println!("skipped: node is not installed");
        return;
    };
    let major: u32 = version.trim_start_matches('v').split('.').next().unwrap().parse().unwrap();
    if major < 20 {
        println!("skipped: node {version} does not support --import of data URLs");
        return;
    }
    let cli = Cli::with_store();
    let program = cli.write_file("program.mjs", PROGRAM.as_bytes());
    let output = cli.run(&["env", "--", "node", &program]);
    assert_eq!(output.code, 0, "{}", output.err);
    assert_eq!(output.text(), "site site site site site site site site\n201\n");
    assert!(cli.ok(&["store", "list"]).contains("other"));
}
