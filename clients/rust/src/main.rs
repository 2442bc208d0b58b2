//! The crate `fastly-api` against Steadfast, within the limits of the crate itself: it sends a
//! value as a JSON string, reads only JSON strings back, cannot hold a real generation (`i32`),
//! and writes the spaces of a key as `+`. Expects an empty server; started by `./run`.

mod checks;
mod client;
mod items;
mod keys;
mod stores;

use std::process::ExitCode;

use checks::Checks;
use client::Client;

fn main() -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            println!("no runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let client = match Client::from_env() {
        Ok(client) => client,
        Err(error) => {
            println!("{error}");
            return ExitCode::FAILURE;
        }
    };
    runtime.block_on(async {
        let mut checks = Checks::default();
        stores::run(&mut checks, &client).await;
        items::run(&mut checks, &client).await;
        keys::run(&mut checks, &client).await;
        checks.finish()
    })
}
