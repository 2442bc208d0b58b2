//! Tests that the memory use of the transfer commands is limited, regardless of the number of large
//! values.

use crate::command;
use crate::proxy::{self, Faults};
use crate::support::{DiskServer, Server, process_memory};
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

const MIB: u64 = 1 << 20;
/// The number of values.
const VALUES: usize = 12;
/// The size of each value in bytes.
const VALUE_BYTES: usize = 25 << 20;
/// The maximum memory in bytes: enough for the budget of 128 MiB, the next value in order, the
/// batch being sent, and the program itself.
const CEILING: u64 = 320 * MIB;

fn fill(server: &Server, store: &str) {
    for nth in 0..VALUES {
        let value = vec![u8::try_from(nth).unwrap(); VALUE_BYTES];
        let put = format!("PUT /resources/stores/kv/{store}/keys/{nth:02}");
        assert_eq!(server.request(&put, &[], &value).status, 200);
    }
}

/// Runs a command to completion and returns its peak memory in bytes.
fn peak_memory(port: u16, directory: &Path, args: &[&str]) -> u64 {
    let mut command = command(port, directory, args);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut peak = 0;
    while child.try_wait().unwrap().is_none() {
        peak = peak.max(process_memory(child.id(), "VmHWM").unwrap_or(0));
        std::thread::sleep(Duration::from_millis(5));
    }
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    println!("{args:?}: peak memory {} MiB", peak / MIB);
    peak
}

fn assert_below_ceiling(port: u16, directory: &Path, args: &[&str]) {
    let peak = peak_memory(port, directory, args);
    assert!(
        peak < CEILING,
        "{args:?}: used {} MiB, but the limit is {} MiB",
        peak / MIB,
        CEILING / MIB
    );
}

#[test]
fn transfers_of_large_values_use_a_limited_amount_of_memory() {
    let disk = DiskServer::new(&[]);
    let store = disk.server.create_store("s");
    fill(&disk.server, &store);
    let dir = tempfile::tempdir().unwrap();
    let faults = Faults { hosted_api_only: true, ..Faults::default() };
    let hosted = proxy::start(disk.server.port, &faults);
    let port = disk.server.port;
    assert_below_ceiling(port, dir.path(), &["export", "s", "-o", "streamed"]);
    assert_below_ceiling(hosted, dir.path(), &["export", "s", "-o", "listed"]);
    assert_below_ceiling(port, dir.path(), &["sync", "s", "copy", "--create"]);
    let lines = |name: &str| fs::read(dir.path().join(name)).unwrap();
    let keys = |text: &[u8]| text.split(|byte| *byte == b'\n').count() - 1;
    assert_eq!((keys(&lines("streamed")), keys(&lines("listed"))), (VALUES, VALUES));
    assert_below_ceiling(port, dir.path(), &["import", "copy", "streamed", "--jobs", "64"]);
}
