//! Tests that the memory use of the transfer commands is limited, regardless of the number of large
//! values.

use crate::command;
use crate::proxy::{self, Faults};
use crate::support::{CommandOutput, DiskServer, Server, process_memory};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
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

/// Runs a command to completion. Returns its peak memory in bytes and its output.
fn peak_memory(port: u16, directory: &Path, args: &[&str]) -> (u64, CommandOutput) {
    let mut command = command(port, directory, args);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut peak = 0;
    while child.try_wait().unwrap().is_none() {
        peak = peak.max(process_memory(child.id(), "VmHWM").unwrap_or(0));
        std::thread::sleep(Duration::from_millis(5));
    }
    println!("{args:?}: peak memory {} MiB", peak / MIB);
    (peak, CommandOutput::from(child.wait_with_output().unwrap()))
}

fn assert_below_ceiling(port: u16, directory: &Path, args: &[&str], code: i32) -> CommandOutput {
    let (peak, output) = peak_memory(port, directory, args);
    assert!(
        peak < CEILING,
        "{args:?}: used {} MiB, but the limit is {} MiB",
        peak / MIB,
        CEILING / MIB
    );
    output.expect_exit(code)
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
    assert_below_ceiling(port, dir.path(), &["export", "s", "-o", "streamed"], 0);
    assert_below_ceiling(hosted, dir.path(), &["export", "s", "-o", "listed"], 0);
    assert_below_ceiling(port, dir.path(), &["sync", "s", "copy", "--create"], 0);
    let lines = |name: &str| fs::read(dir.path().join(name)).unwrap();
    let keys = |text: &[u8]| text.split(|byte| *byte == b'\n').count() - 1;
    assert_eq!((keys(&lines("streamed")), keys(&lines("listed"))), (VALUES, VALUES));
    assert_below_ceiling(port, dir.path(), &["import", "copy", "streamed", "--jobs", "64"], 0);
}

/// Writes a JSON array, as Consul exports it, of [`VALUES`] items and of one item whose value is
/// larger than the memory that an import may use.
fn write_large_array(path: &Path) {
    let mut file = BufWriter::new(File::create(path).unwrap());
    file.write_all(b"[\n\t{\n\t\t\"key\": \"huge\",\n\t\t\"flags\": 0,\n\t\t\"value\": \"")
        .unwrap();
    io::copy(&mut io::repeat(b'A').take(CEILING), &mut file).unwrap();
    file.write_all(b"\"\n\t}").unwrap();
    for nth in 0..VALUES {
        let value = BASE64_STANDARD.encode(vec![u8::try_from(nth).unwrap(); VALUE_BYTES]);
        write!(file, ",{{\"key\":\"{nth:02}\",\"flags\":0,\"value\":\"{value}\"}}").unwrap();
    }
    file.write_all(b"]\n").unwrap();
    file.into_inner().unwrap();
}

#[test]
fn a_json_array_larger_than_memory_is_imported() {
    let disk = DiskServer::new(&[]);
    let store = disk.server.create_store("s");
    let dir = tempfile::tempdir().unwrap();
    write_large_array(&dir.path().join("consul.json"));
    let args = ["import", "s", "consul.json"];
    let output = assert_below_ceiling(disk.server.port, dir.path(), &args, 1);
    output.assert_err("item 1, line 2, key \"huge\": item must be at most ");
    output.assert_err(&format!("imported {VALUES} items, 0 skipped, 1 failed"));
    let last = crate::value(&disk.server, &store, "11").unwrap();
    assert!(last.len() == VALUE_BYTES && last.iter().all(|byte| *byte == 11));
    let args = ["import", "s", "consul.json", "--dry-run"];
    assert_below_ceiling(disk.server.port, dir.path(), &args, 1);
}
