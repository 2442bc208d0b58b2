//! `steadfast serve`: runs the server.

use super::env;
use super::error::{EXIT_FAILURE, EXIT_USAGE, local_exit_status};
use super::runtime::{self, fail, finish};
use crate::config::{LogFormat, ServeArgs, ServeConfig, TokenLocation};
use crate::server::Server;
use std::io::{self, Write};
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

pub(super) const HELP: &str = concat!(
    "\
Examples:
  steadfast serve
  STEADFAST_TOKEN_FILE=/run/secrets/token steadfast serve --listen 0.0.0.0:7678 --data /var/lib/kv
  steadfast serve --memory --listen 127.0.0.1:0

Writes are durable before the server responds to them. On SIGTERM or SIGINT, the server completes
requests in flight, shuts down cleanly and exits within 10 seconds.",
    local_exit_status!()
);

pub(super) fn run(args: ServeArgs) -> ExitCode {
    let config = match args.resolve() {
        Ok(config) => config,
        Err(e) => return fail(&e, EXIT_USAGE),
    };
    if let Err(e) = start_logging(&config) {
        return fail(&e, EXIT_USAGE);
    }
    match runtime::build() {
        Ok(runtime) => runtime.block_on(serve(config)),
        Err(e) => finish(Err(e)),
    }
}

fn start_logging(config: &ServeConfig) -> Result<(), String> {
    let filter = EnvFilter::try_new(&config.log).map_err(|e| format!("--log: {e}"))?;
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    let started = match config.log_format {
        LogFormat::Text => logs.with_ansi(io::IsTerminal::is_terminal(&io::stderr())).try_init(),
        LogFormat::Json => logs.json().flatten_event(true).try_init(),
    };
    started.map_err(|e| e.to_string())
}

async fn serve(config: ServeConfig) -> ExitCode {
    let stop = match stop_signal() {
        Ok(stop) => stop,
        Err(e) => return fail(&format!("cannot install signal handlers: {e}"), EXIT_FAILURE),
    };
    let engine = config.engine.clone();
    let server = match Server::start(config).await {
        Ok(server) => server,
        Err(e) => return fail(&e.to_string(), EXIT_FAILURE),
    };
    let printed = server.address().and_then(|address| {
        let url = format!("http://{address}");
        print_banner(&url, &engine.to_string(), server.token_location())
    });
    if let Err(e) = printed {
        return fail(&format!("cannot print the listen address: {e}"), EXIT_FAILURE);
    }
    match server.run(stop).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => fail(&format!("unclean shutdown (no data was lost): {e}"), EXIT_FAILURE),
    }
}

fn stop_signal() -> io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// Prints the address and how to connect. Programs parse the first line: its format is stable.
fn print_banner(url: &str, data: &str, token: &TokenLocation) -> io::Result<()> {
    let (location, value) = match token {
        TokenLocation::Environment(name) => (format!("${name}"), format!("\"${name}\"")),
        TokenLocation::File(path) => (path.display().to_string(), env::read_file(path)),
    };
    let version = env!("CARGO_PKG_VERSION");
    let exports = env::exports(url, &value);
    let text = format!(
        "steadfast {version} listening on {url}
data   {data}
token  {location}

{exports}
# Python       Configuration(host=\"{url}\")
# JavaScript   ApiClient.instance.plugins = [r => {{ r.url = r.url.replace(
#                'https://api.fastly.com', '{url}'); return r }}]
# Rust         Configuration {{ base_path: \"{url}\".into(), .. }}
# curl         curl -H \"Fastly-Key: $FASTLY_API_TOKEN\" {url}/resources/stores/kv
"
    );
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}
