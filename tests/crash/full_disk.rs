//! Tests with a small file system that is really full. Require root, to mount it.

use crate::harness::random::{Random, run_seed};
use crate::support::{self, Client, Server, TOKEN};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::ops::RangeInclusive;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Size of the file system, in MiB.
const DISK_MIB: usize = 112;
const KEYS: u64 = 450;
const VALUE_BYTES: usize = 100_000;
/// Minimum size of a segment file, in bytes.
const SEGMENT_BYTES: u64 = 8 << 20;
const OVERWRITES: u64 = 2000;
const RESTARTS: usize = 10;
/// Maximum time without a successful write.
const TIMEOUT: Duration = Duration::from_secs(20);

/// A tmpfs, which is unmounted when this value is dropped.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// Prints a notice and returns `None` if mounting is not possible.
    fn mount() -> Option<SmallDisk> {
        let dir = tempfile::tempdir().unwrap();
        let size = format!("size={DISK_MIB}m");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &size, "steadfast-test"]).arg(dir.path());
        if mount.output().is_ok_and(|output| output.status.success()) {
            return Some(SmallDisk(dir));
        }
        println!("skipped: mounting a tmpfs requires root");
        None
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.path()).status();
    }
}

/// A store and the numbers of the writes whose values it must contain, by key.
struct Contents {
    keys: String,
    written: BTreeMap<u64, u64>,
}

impl Contents {
    fn value(key: u64, number: u64) -> Vec<u8> {
        let mut value = format!("{key} {number} ").into_bytes();
        value.resize(VALUE_BYTES, b'v');
        value
    }

    /// Puts a value. Returns `false` if the disk is full.
    fn put(&mut self, client: &mut Client, key: u64, number: u64) -> bool {
        let request = format!("PUT {}/{key}", self.keys);
        let reply = client.request(&request, &[], &Contents::value(key, number)).unwrap();
        if reply.status == 200 {
            self.written.insert(key, number);
            return true;
        }
        assert!(reply.expect_error(507).contains("full"));
        false
    }

    fn check(&self, server: &Server) {
        let mut client = server.connect();
        for (key, number) in &self.written {
            let found = client.get(&format!("{}/{key}", self.keys)).unwrap();
            assert_eq!(found.status, 200, "{key}");
            assert!(found.body == Contents::value(*key, *number), "the value of {key} is wrong");
        }
    }
}

/// Starts a server with a small WAL and without a log, because each refused write is logged.
fn start(data: &Path) -> Server {
    let mut command = Command::new(support::binary());
    command.args(["serve", "--listen", "127.0.0.1:0", "--wal-bytes", "1048576", "--data"]);
    command.arg(data).env("STEADFAST_TOKEN", TOKEN).stderr(Stdio::null());
    Server::spawn(command)
}

/// Overwrites values with those of the numbers. Repeats each refused write. Calls `after_put` after
/// each successful write. Returns the number of refused writes.
fn overwrite(
    server: &Server,
    contents: &mut Contents,
    random: &mut Random,
    numbers: RangeInclusive<u64>,
    mut after_put: impl FnMut(),
) -> u64 {
    let mut client = server.connect();
    let (mut refused, mut last_success) = (0_u64, Instant::now());
    for number in numbers {
        while !contents.put(&mut client, random.below(KEYS), number) {
            refused += 1;
            assert!(last_success.elapsed() < TIMEOUT, "writes fail after {number} overwrites");
            std::thread::sleep(Duration::from_millis(20));
        }
        last_success = Instant::now();
        after_put();
    }
    refused
}

/// Overwrites values on a full disk, and checks them before and after kills. `after_put` gets the
/// path of the file system after each write before the first kill.
fn overwrite_on_full_disk(test: &str, mut after_put: impl FnMut(&Path)) {
    let Some(disk) = SmallDisk::mount() else { return };
    let mut random = Random(run_seed(test));
    let data = disk.path().join("data");
    let mut server = start(&data);
    let keys = format!("/resources/stores/kv/{}/keys", server.create_store("s"));
    let mut contents = Contents { keys, written: BTreeMap::new() };
    let mut client = server.connect();
    for key in 0..KEYS {
        assert!(contents.put(&mut client, key, 0));
    }
    // This writes several times the size of the disk.
    let mut number = OVERWRITES;
    let mut refused =
        overwrite(&server, &mut contents, &mut random, 1..=number, || after_put(disk.path()));
    assert!(refused > 0, "the disk was not full");
    contents.check(&server);
    // A kill may interrupt relocations that use a reserved file.
    for _ in 0..RESTARTS {
        server.kill();
        server = start(&data);
        contents.check(&server);
        let numbers = number + 1..=number + OVERWRITES / 20;
        number = *numbers.end();
        refused += overwrite(&server, &mut contents, &mut random, numbers, || {});
    }
    println!("{test}: {refused} writes refused, {number} successful");
    contents.check(&server);
    server.stop();
    let mut check = Command::new(support::binary());
    support::run(check.args(["check", "--data"]).arg(&data)).expect_exit(0);
}

#[test]
fn values_on_a_disk_filled_by_the_server_can_be_overwritten() {
    overwrite_on_full_disk("disk filled by the server", |_| {});
}

#[test]
fn values_on_a_disk_filled_by_another_program_can_be_overwritten() {
    // The database can then grow only if the server deletes a file. The space of that file must not
    // be taken, so the disk is filled before the first write is refused.
    let mut is_filled = false;
    overwrite_on_full_disk("disk filled by another program", |disk| {
        let space = rustix::fs::statvfs(disk).unwrap();
        if is_filled || space.f_bavail * space.f_frsize >= SEGMENT_BYTES {
            return;
        }
        is_filled = true;
        let mut file = File::create(disk.join("other")).unwrap();
        let mut block = vec![b'o'; 1 << 20];
        while !block.is_empty() {
            if file.write_all(&block).is_err() {
                block.truncate(block.len() / 2);
            }
        }
    });
}
