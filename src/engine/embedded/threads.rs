//! The threads of an open data directory: writer, checkpointer and maintenance.

use super::super::{EngineError, Result};
use super::checkpoint::Checkpointer;
use super::garbage_collection::GarbageCollector;
use super::load_monitor::LoadMonitor;
use super::maintenance::{BlobDeletions, Maintenance, MaintenanceTask};
use super::migration::Migration;
use super::read_path::ReadPath;
use super::writer::{Scratch, Writer};
use super::{COMMIT_QUEUE_MAX, CommandSender, FatalErrorHandler, WalPosition, database};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::sync_channel;
use std::thread::JoinHandle;

/// Extra capacity of the writer's queue for commands that are not commits.
const COMMAND_QUEUE_SPARE: usize = 16;
/// Maximum number of tasks in the maintenance thread's queue. While it is full, the checkpointer
/// blocks, and the writer keeps its deletions in memory.
const MAINTENANCE_QUEUE_MAX: usize = 4096;

/// Starts the writer, checkpointer and maintenance threads. Returns the sending half of the
/// writer's queue, and the handles of the threads.
pub(super) fn start(
    conn: rusqlite::Connection,
    read_path: &ReadPath,
    fatal: &FatalErrorHandler,
    salt: u32,
) -> Result<(CommandSender, Vec<JoinHandle<()>>)> {
    let (shared, pool) = (read_path.shared.clone(), read_path.pool.clone());
    let (maintenance, tasks) = sync_channel(MAINTENANCE_QUEUE_MAX);
    let (commands, command_receiver) = sync_channel(COMMIT_QUEUE_MAX + COMMAND_QUEUE_SPARE);
    let (wal_end_sender, wal_end) = sync_channel(1);
    let commands = Arc::new(commands);
    for task in [MaintenanceTask::AllocateSegments, MaintenanceTask::DeleteOrphans] {
        let _ = maintenance.send(task);
    }
    let maintenance_thread = Maintenance {
        conn: database::open_reader(&shared.dir, database::SCAN_CACHE_KIB)?,
        tasks,
        blobs: read_path.blobs.clone(),
        shared: shared.clone(),
    };
    let checkpointer = Checkpointer {
        conn,
        pinned_frames: 0,
        garbage: GarbageCollector::new(salt),
        migration: Migration::default(),
        withdrawn: None,
        saved_wal_end: (shared.wal_end.load(Ordering::Relaxed), None),
        blobs: read_path.blobs.clone(),
        wal_end,
        commands: Arc::downgrade(&commands),
        maintenance: maintenance.clone(),
        shared: shared.clone(),
        pool: pool.clone(),
        fatal: fatal.clone(),
    };
    let WalPosition { version, seq } = shared.wal_position();
    let writer = Writer {
        commands: command_receiver,
        deletions: BlobDeletions::new(maintenance.clone()),
        maintenance,
        shared,
        pool,
        fatal: fatal.clone(),
        salt,
        last_version: version,
        next_seq: seq,
        active: None,
        load: LoadMonitor::default(),
        scratch: Scratch::default(),
    };
    let run_writer = move || {
        let _ = wal_end_sender.send(writer.run());
    };
    let threads = vec![
        spawn("writer", fatal, run_writer)?,
        spawn("checkpointer", fatal, move || checkpointer.run())?,
        spawn("maintenance", fatal, move || maintenance_thread.run())?,
    ];
    Ok((commands, threads))
}

/// Stops the process if a storage thread panics, because writes would hang otherwise.
struct AbortOnPanic(FatalErrorHandler);

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.stop("a storage thread panicked");
        }
    }
}

fn spawn(
    name: &str,
    fatal: &FatalErrorHandler,
    work: impl FnOnce() + Send + 'static,
) -> Result<JoinHandle<()>> {
    let guard = AbortOnPanic(fatal.clone());
    let thread = std::thread::Builder::new().name(name.into()).spawn(move || {
        let _guard = guard;
        work();
    });
    thread.map_err(|e| EngineError::Failed(format!("could not start the {name} thread: {e}")))
}
