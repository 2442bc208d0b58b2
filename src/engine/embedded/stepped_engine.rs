//! An engine without threads, for unit tests. A test runs commits, checkpoints and quanta of
//! garbage collection one at a time, and can take the place of the writer.

use super::checkpoint::Checkpointer;
use super::garbage_collection::GarbageCollector;
use super::load_monitor::LoadMonitor;
use super::maintenance::{BlobDeletions, MaintenanceTask};
use super::memtable::MemtableEntry;
use super::migration::Migration;
use super::wal::record::BodyLocation;
use super::writer::{Scratch, Writer};
use super::*;
use crate::engine::{Body, Mutation, NewRecord};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

const QUEUE_MAX: usize = 64;

pub(super) struct SteppedEngine {
    pub(super) checkpointer: Checkpointer,
    pub(super) shared: Arc<Shared>,
    /// The queue of the writer. The checkpointer sends its requests to it.
    pub(super) queue: Receiver<WriterCommand>,
    commands: CommandSender,
    engine: Embedded,
    salt: u32,
    fatal: FatalErrorHandler,
    _maintenance: Receiver<MaintenanceTask>,
}

impl SteppedEngine {
    /// Opens a data directory. `wal_bytes` is the maximum WAL size that triggers a checkpoint.
    pub(super) fn open(dir: &Path, wal_bytes: u64) -> SteppedEngine {
        let fatal = FatalErrorHandler::new(|reason| panic!("{reason}"));
        let dir = Arc::new(DataDir::create(dir).unwrap());
        let conn = database::open_writer(dir.path()).unwrap();
        let position = database::checkpoint_position(&conn).unwrap();
        let rows = database::segment_rows(&conn).unwrap();
        let (segments, files) = SegmentPool::open(dir.clone(), &rows).unwrap();
        let recovered =
            recover(&segments, (files, &rows), position, &conn, RecoveryMode::ReadWrite);
        let (memtable, wal_position, _) = recovered.unwrap();
        let blobs = BlobFiles::create(dir.clone(), 0, &fatal).unwrap();
        let shared = Shared::new(dir, memtable, segments, wal_position, (0, wal_bytes));
        let engine = Embedded::new(shared, &conn, blobs).unwrap();
        let (shared, pool) = (engine.shared.clone(), engine.read_path.pool.clone());
        shared.adapt_sizes();
        let (sender, queue) = sync_channel(QUEUE_MAX);
        let commands = Arc::new(sender);
        let (maintenance, tasks) = sync_channel(QUEUE_MAX);
        let (_, wal_end) = sync_channel(1);
        let checkpointer = Checkpointer {
            conn,
            pinned_frames: 0,
            garbage: GarbageCollector::new(position.salt),
            migration: Migration::default(),
            withdrawn: None,
            saved_wal_end: (0, None),
            blobs: engine.read_path.blobs.clone(),
            wal_end,
            commands: Arc::downgrade(&commands),
            maintenance,
            shared: shared.clone(),
            pool,
            fatal: fatal.clone(),
        };
        let (salt, _maintenance) = (position.salt, tasks);
        SteppedEngine { checkpointer, shared, queue, commands, engine, salt, fatal, _maintenance }
    }

    /// Creates a writer that receives its commands from `commands`.
    pub(super) fn writer(&self, commands: Receiver<WriterCommand>) -> Writer {
        let WalPosition { version, seq } = self.shared.wal_position();
        let maintenance = self.checkpointer.maintenance.clone();
        Writer {
            commands,
            deletions: BlobDeletions::new(maintenance.clone()),
            maintenance,
            shared: self.shared.clone(),
            pool: self.engine.read_path.pool.clone(),
            fatal: self.fatal.clone(),
            salt: self.salt,
            last_version: version,
            next_seq: seq,
            active: None,
            load: LoadMonitor::default(),
            scratch: Scratch::default(),
        }
    }

    /// Commits values in a WAL segment of their own.
    pub(super) fn commit(&self, values: impl Iterator<Item = (String, Bytes)>) {
        let mutations = values.map(|(key, value)| {
            let record = NewRecord { expires_at: 0, meta: Bytes::new(), body: Body::Bytes(value) };
            Mutation { key: Bytes::from(key), record: Some(record) }
        });
        let commit = Commit { mutations: mutations.collect(), ..Commit::default() };
        let (sender, commands) = sync_channel(1);
        let (reply, outcome) = oneshot::channel();
        sender.send(WriterCommand::Commit(QueuedCommit { commit, reply })).unwrap();
        drop(sender);
        self.writer(commands).run();
        assert!(matches!(outcome.blocking_recv(), Ok(Ok(Outcome::Committed(_)))));
    }

    /// Checkpoints all commits, without garbage collection.
    pub(super) fn checkpoint(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(600);
        self.checkpointer.checkpoint(self.shared.wal_position(), Some(deadline)).unwrap();
        assert_eq!(self.shared.memtable().len(), 0);
    }

    /// Creates three sealed segments of 10 MiB each with 2 MiB of live bytes.
    pub(super) fn create_garbage(&mut self) {
        let key = |segment, number| format!("k{segment}-{number:02}");
        for segment in 0..3 {
            let body = Bytes::from(vec![b'v'; 512 << 10]);
            self.commit((0..20).map(|number| (key(segment, number), body.clone())));
        }
        let numbers = (0..20).filter(|number| number % 5 != 0);
        let keys = numbers.flat_map(|number| (0..3).map(move |segment| key(segment, number)));
        self.commit(keys.map(|key| (key, Bytes::from_static(b"replaced"))));
        self.checkpoint();
    }

    /// Adds deletions of records that do not exist to the memtable.
    pub(super) fn fill_memtable(shared: &Shared, count: usize) {
        let entry = MemtableEntry {
            version: 1,
            expires_at: 0,
            meta: Bytes::new(),
            location: BodyLocation::Removed,
            body_at: None,
            in_db: Some(false),
        };
        let mut memtable = shared.memtable_mut();
        for number in 0..count {
            memtable.put(Bytes::from(format!("x{number:05}")), entry.clone());
        }
    }

    /// Runs `steps` while another thread passes each command of the queue to `handle`.
    pub(super) fn with_writer<T>(
        self,
        handle: impl Fn(WriterCommand) + Send,
        steps: impl FnOnce(&mut Checkpointer) -> T,
    ) -> T {
        let SteppedEngine { mut checkpointer, queue, commands, engine, .. } = self;
        std::thread::scope(|scope| {
            scope.spawn(move || queue.iter().for_each(handle));
            let result = steps(&mut checkpointer);
            drop((commands, engine));
            result
        })
    }
}
