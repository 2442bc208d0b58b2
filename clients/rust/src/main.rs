//! Runs the crate `fastly-api` against Steadfast. The crate has limitations: it sends values as
//! JSON strings, reads only JSON strings, cannot represent a real generation (`i32`), and sends
//! spaces in keys as `+`. Requires an empty server. Started by `./run`.

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
            println!("cannot create a tokio runtime: {error}");
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
