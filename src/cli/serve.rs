//! `steadfast serve`.

use super::env;
use crate::config::{LogFormat, ServeArgs, ServeConfig, TokenLocation};
use crate::server::Server;
use std::io::{self, Write};
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

pub(super) const HELP: &str = "\
Examples:
  steadfast serve
  STEADFAST_TOKEN_FILE=/run/secrets/token steadfast serve --listen 0.0.0.0:7678 --data /var/lib/kv
  steadfast serve --memory --listen 127.0.0.1:0

Every write is on disk before its answer leaves. SIGTERM and SIGINT end the requests that run,
flush, and exit within 10 seconds.

Exit status: 0 it ended in order, 1 it did not, 2 it was called wrongly.";

/// The exit status for a mistake in how the command was called.
const USAGE: u8 = 2;

pub(super) fn run(args: ServeArgs) -> ExitCode {
    let config = match args.resolve() {
        Ok(config) => config,
        Err(e) => return fail(&e, USAGE),
    };
    if let Err(e) = start_logging(&config) {
        return fail(&e, USAGE);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    match runtime {
        Ok(runtime) => runtime.block_on(serve(config)),
        Err(e) => fail(&format!("cannot start threads: {e}"), 1),
    }
}

fn fail(what: &str, status: u8) -> ExitCode {
    let _ = writeln!(io::stderr(), "steadfast: {what}");
    ExitCode::from(status)
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
        Err(e) => return fail(&format!("cannot listen for signals: {e}"), 1),
    };
    let place = config.place.clone();
    let server = match Server::start(config).await {
        Ok(server) => server,
        Err(e) => return fail(&e.to_string(), 1),
    };
    let shown = server.address().and_then(|address| {
        show(&format!("http://{address}"), &place.to_string(), server.token_at())
    });
    if let Err(e) = shown {
        return fail(&format!("cannot say where it listens: {e}"), 1);
    }
    match server.run(stop).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => fail(&format!("the data was not closed in order, and is safe: {e}"), 1),
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

/// Says what a person pastes next. The first line is stable, for programs that start a server.
fn show(url: &str, data: &str, token: &TokenLocation) -> io::Result<()> {
    let (at, value) = match token {
        TokenLocation::Environment => {
            ("$STEADFAST_TOKEN".to_owned(), "\"$STEADFAST_TOKEN\"".to_owned())
        }
        TokenLocation::File(path) => (path.display().to_string(), env::read_file(path)),
    };
    let version = env!("CARGO_PKG_VERSION");
    let exports = env::exports(url, &value);
    let text = format!(
        "steadfast {version} listening on {url}
data   {data}
token  {at}

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
