//! `steadfast serve`: runs the server.

use super::env;
use super::error::{EXIT_FAILURE, EXIT_USAGE, local_exit_status};
use super::runtime::{self, fail, finish};
use crate::config::{LogFormat, ServeArgs, ServeConfig, SimulationConfig, TokenLocation};
use crate::logging;
use crate::server::{Reloader, Server};
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The maximum time to write the last log lines before the process exits.
const LOG_FLUSH: Duration = Duration::from_secs(1);

pub(super) const HELP: &str = concat!(
    "\
Examples:
  steadfast serve
  STEADFAST_TOKEN_FILE=/run/secrets/token steadfast serve --listen 0.0.0.0:7678 --data /var/lib/kv
  steadfast serve --memory --listen 127.0.0.1:0
  steadfast serve --memory --simulate stale=5s,latency=20ms,errors=1% --simulate-seed 1

Writes are durable before the server acknowledges them. On SIGTERM or SIGINT, the server completes
the requests in flight, shuts down cleanly and exits within 10 seconds.",
    local_exit_status!()
);

pub(super) fn run(args: ServeArgs) -> ExitCode {
    let config = match args.resolve() {
        Ok(config) => config,
        Err(e) => return fail(&e, EXIT_USAGE),
    };
    if let Err(e) = logging::start(&config.log, config.log_format, config.log_color) {
        return fail(&e, EXIT_USAGE);
    }
    release_memory_when_idle();
    let format = config.log_format;
    let result = match runtime::build() {
        Ok(runtime) => runtime.block_on(serve(config)),
        Err(e) => return finish(Err(e)),
    };
    let status = match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            log_failure(&e, format);
            ExitCode::from(EXIT_FAILURE)
        }
    };
    logging::flush(LOG_FLUSH);
    status
}

/// Lets jemalloc return unused memory to the operating system even if no requests arrive. The other
/// commands do not need this. It would make their peak memory larger, because jemalloc then no
/// longer returns large buffers immediately.
fn release_memory_when_idle() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    if let Err(e) = tikv_jemalloc_ctl::background_thread::write(true) {
        tracing::warn!(error = %e, "unused memory may not be returned while the server is idle");
    }
}

/// Reports the error that stops the server. The error goes through the logger, because a direct
/// write to standard error may block.
fn log_failure(error: &str, format: LogFormat) {
    match format {
        LogFormat::Text => logging::print(&format!("error: {error}")),
        LogFormat::Json => tracing::error!(error, "server failed"),
    }
}

async fn serve(config: ServeConfig) -> Result<(), String> {
    let signals = |e| format!("cannot install signal handlers: {e}");
    let stop = stop_signal().map_err(signals)?;
    // Install the handler before the server starts, because an unhandled SIGHUP terminates the
    // process.
    let hangup = signal(SignalKind::hangup()).map_err(signals)?;
    let (data, format) = (config.engine.to_string(), config.log_format);
    let server = Server::start(config).await.map_err(|e| e.to_string())?;
    let url = server.url().map_err(|e| format!("cannot determine the listen address: {e}"))?;
    let banner = match format {
        LogFormat::Text => banner(&url, &data, server.token_location(), server.simulation()),
        LogFormat::Json => json_banner(&url, server.simulation()),
    };
    // Print on a separate thread, because a write to a full pipe blocks.
    std::thread::spawn(move || print_banner(&banner));
    tokio::spawn(reload_on(hangup, server.reloader()));
    server.run(stop).await.map_err(|e| format!("unclean shutdown (no data was lost): {e}"))
}

async fn reload_on(mut hangup: Signal, reloader: Reloader) {
    while hangup.recv().await.is_some() {
        let reloader = reloader.clone();
        let _ = tokio::task::spawn_blocking(move || reloader.reload()).await;
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

fn print_banner(banner: &str) {
    let mut out = io::stdout().lock();
    if let Err(error) = out.write_all(banner.as_bytes()).and_then(|()| out.flush()) {
        tracing::warn!(%error, "could not print the listen address to standard output");
    }
}

/// Returns the banner, which shows the server's address and how to connect to it. The format of the
/// first line is stable, because programs parse it.
fn banner(
    url: &str,
    data: &str,
    token: &TokenLocation,
    simulation: Option<&SimulationConfig>,
) -> String {
    let (location, value) = match token {
        TokenLocation::Environment(name) => (format!("${name}"), format!("\"${name}\"")),
        TokenLocation::File(path) => (path.display().to_string(), env::read_file(path)),
    };
    let version = env!("CARGO_PKG_VERSION");
    let exports = env::exports(url, &value);
    let warning = simulation.map(simulation_warning).unwrap_or_default();
    format!(
        "steadfast {version} listening on {url}
data   {data}
token  {location}
{warning}
{exports}
# Python       Configuration(host=\"{url}\")
# JavaScript   ApiClient.instance.plugins = [r => {{ r.url = r.url.replace(
#                'https://api.fastly.com', '{url}'); return r }}]
# Rust         Configuration {{ base_path: \"{url}\".into(), .. }}
# curl         curl -H \"Fastly-Key: $FASTLY_API_TOKEN\" {url}/resources/stores/kv
"
    )
}

/// Returns the part of the banner that announces a simulation.
fn simulation_warning(SimulationConfig { spec, seed }: &SimulationConfig) -> String {
    format!(
        "
WARNING: this server simulates the faults of a distributed service. Do not use it in production.
simulate  {spec}
seed      {seed} (repeat with --simulate-seed {seed})
"
    )
}

/// Returns the banner for the JSON log format.
fn json_banner(url: &str, simulation: Option<&SimulationConfig>) -> String {
    let banner = match simulation {
        None => serde_json::json!({"message": "listening", "url": url}),
        Some(SimulationConfig { spec, seed }) => {
            let simulation = serde_json::json!({"spec": spec.to_string(), "seed": seed});
            serde_json::json!({"message": "listening", "simulation": simulation, "url": url})
        }
    };
    format!("{banner}\n")
}
