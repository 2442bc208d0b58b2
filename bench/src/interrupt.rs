//! Handles Ctrl-C, so that the targets are stopped and their directories are removed.

use std::process::exit;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Lets the program survive the first Ctrl-C. The targets and the load generator receive the signal
/// too and stop, so the measurement in progress fails and its target is dropped.
pub fn catch() -> Result<(), String> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_io().build().map_err(|e| e.to_string())?;
    std::thread::spawn(move || {
        runtime.block_on(async {
            while tokio::signal::ctrl_c().await.is_ok() {
                if INTERRUPTED.swap(true, Ordering::Relaxed) {
                    exit(130);
                }
                eprintln!("interrupted; stopping the server");
            }
        });
    });
    Ok(())
}

/// Sleeps. Fails at once if the program is interrupted.
pub fn sleep(duration: Duration) -> Result<(), String> {
    let end = Instant::now() + duration;
    loop {
        if INTERRUPTED.load(Ordering::Relaxed) {
            return Err("interrupted".into());
        }
        let remaining = end.saturating_duration_since(Instant::now());
        if remaining.is_zero() {
            return Ok(());
        }
        std::thread::sleep(remaining.min(Duration::from_millis(100)));
    }
}
