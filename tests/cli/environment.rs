//! `steadfast env`.

use crate::support::TOKEN;
use crate::{Site, ran};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

#[test]
fn exports_name_the_file_of_a_token_and_not_the_token() {
    let site = Site::with_store();
    let at = site.endpoint();
    let file = site.file("it's a token", TOKEN.as_bytes());
    let env = |extra: &[&str]| {
        let args = [&["env", "--endpoint", at.as_str(), "--token-file", &file], extra].concat();
        ran(&mut site.bare(&args))
    };
    let text = env(&[]).text();
    for name in ["FASTLY_API_ENDPOINT", "FASTLY_ACCOUNT_ENDPOINT", "FASTLY_API_URL"] {
        assert!(
            text.contains(&format!("{name}={at}\n")) || text.contains(&format!("{name}={at} "))
        );
    }
    assert!(!text.contains(TOKEN), "{text}");
    // A shell that takes them can go on.
    let script = format!("{text}\nprintf '%s %s' \"$FASTLY_API_TOKEN\" \"$FASTLY_API_KEY\"");
    let shell = Command::new("sh").args(["-c", &script]).output().unwrap();
    assert_eq!(String::from_utf8(shell.stdout).unwrap(), format!("{TOKEN} {TOKEN}"));
    assert!(env(&["--show-token"]).text().contains(TOKEN));
    let json: serde_json::Value = serde_json::from_str(&env(&["--json"]).text()).unwrap();
    assert_eq!((&json["endpoint"], &json["token"]), (&at.into(), &serde_json::Value::Null));
    let from_env = site.ok(&["env"]);
    assert!(from_env.contains("FASTLY_API_KEY=\"$FASTLY_API_TOKEN\"") && !from_env.contains(TOKEN));
}

#[test]
fn a_command_finds_the_variables_and_its_exit_status_is_kept() {
    let site = Site::with_store();
    let script = "echo $FASTLY_API_ENDPOINT $FASTLY_ACCOUNT_ENDPOINT $FASTLY_API_URL $STEADFAST_URL
        echo $FASTLY_API_TOKEN $FASTLY_API_KEY; echo \"$NODE_OPTIONS\"; exit 42";
    let mut command = site.command(&["env", "--", "sh", "-c", script]);
    let ran = ran(command.env("NODE_OPTIONS", "--no-warnings"));
    let (at, text) = (site.endpoint(), ran.text());
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(ran.code, 42, "{}", ran.err);
    assert_eq!(lines[..2], [format!("{at} {at} {at} {at}"), format!("{TOKEN} {TOKEN}")]);
    assert!(lines[2].starts_with("--no-warnings --import=data:text/javascript;base64,"));
    site.fails(127, &["env", "--", "no-such-command-anywhere"]);
    let plain = site.file("plain", b"no program");
    site.fails(126, &["env", "--", &plain]);
    assert_eq!(site.ok(&["env", "--", "printf", "%s|", "a b", "--x"]), "a b|--x|");
}

#[test]
fn signals_reach_the_command() {
    let site = Site::new();
    let mut command = site.command(&["env", "--", "sleep", "100"]);
    let mut child = command.stdout(Stdio::null()).spawn().unwrap();
    let start = Instant::now();
    // Until it is the command that runs under this number.
    while !std::fs::read_to_string(format!("/proc/{}/comm", child.id())).unwrap().contains("sleep")
    {
        assert!(start.elapsed() < Duration::from_secs(20));
        std::thread::sleep(Duration::from_millis(10));
    }
    Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(15));
}

/// A Node.js program that knows the hosted address only, by each way of asking that it has.
const PROGRAM: &str = r#"
import https from 'node:https';
import { get } from 'node:https';
const hosted = 'https://api.fastly.com/resources/stores/kv';
const headers = { 'Fastly-Key': process.env.FASTLY_API_TOKEN };
const names = (body) => JSON.parse(body).data.map((store) => store.name).join();
const read = (start) => new Promise((done, failed) => {
  const answered = (response) => {
    let body = '';
    response.on('data', (piece) => { body += piece; });
    response.on('end', () => done(body));
  };
  start(answered).on('error', failed).end?.();
});
const url = new URL(hosted);
const options = { host: url.host, path: url.pathname, method: 'GET', headers };
const bodies = [
  await (await fetch(hosted, { headers })).text(),
  await (await fetch(new URL(hosted), { headers })).text(),
  await (await fetch(new Request(hosted, { headers }))).text(),
  await read((answered) => https.request(hosted, { headers }, answered)),
  await read((answered) => https.request(options, answered)),
  await read((answered) => https.request({ ...options, agent: new https.Agent() }, answered)),
  await read((answered) => get(url, { headers }, answered)),
];
console.log(bodies.map(names).join(' '));
const more = { method: 'POST', headers, body: '{"name":"other"}' };
const made = await fetch(new Request(hosted, more));
console.log(made.status);
"#;

#[test]
fn a_node_program_with_the_hosted_address_in_it_asks_this_server() {
    let node = Command::new("node").arg("--version").output();
    let Ok(version) = node.map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
    else {
        println!("skipped: there is no node");
        return;
    };
    let major: u32 = version.trim_start_matches('v').split('.').next().unwrap().parse().unwrap();
    if major < 20 {
        println!("skipped: node {version} has no --import for addresses of data");
        return;
    }
    let site = Site::with_store();
    let program = site.file("program.mjs", PROGRAM.as_bytes());
    let ran = site.run(&["env", "--", "node", &program]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert_eq!(ran.text(), "site site site site site site site\n201\n");
    assert!(site.ok(&["store", "list"]).contains("other"));
}
