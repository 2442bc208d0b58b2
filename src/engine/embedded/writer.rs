//! The one writer: a thread that takes all commits that wait, checks each against the state its
//! predecessors leave, writes those that hold into the log as one frame, syncs once, shows them to
//! readers, and answers.

use super::super::{Body, Commit, EngineError, Mutation, Outcome, Precondition, Record, Result};
use super::blob_files::{Blob, io_error};
use super::connection_pool::ConnectionPool;
use super::maintenance::MaintenanceTask;
use super::memtable::MemtableEntry;
use super::wal::record::{BodyLocation, NewBody, RecordBuilder, RecordHeader, WalEntry};
use super::wal::segment::{SEGMENT_BYTES, Segment};
use super::{FatalErrorHandler, Shared, WalPosition};
use bytes::Bytes;
use std::collections::HashMap;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError};
use std::time::Instant;
use tokio::sync::oneshot;

/// Commits in one group at most.
const GROUP_COMMITS_MAX: usize = 1024;
/// Bytes in one group at most; a larger commit is a group by itself.
const GROUP_BYTES_MAX: u64 = 4 << 20;
/// Versions kept of records that commits demand, such as those of stores.
const KNOWN_VERSIONS_MAX: usize = 4096;
/// A frame's buffer is kept for the next up to this size.
const BUFFER_BYTES_MAX: usize = 8 << 20;

/// A commit and where its answer goes.
pub(super) struct QueuedCommit {
    pub(super) commit: Commit,
    pub(super) reply: oneshot::Sender<Result<Outcome>>,
}

/// What the writer is asked to do.
pub(super) enum WriterCommand {
    /// Mutation a commit.
    Commit(QueuedCommit),
    /// Go on in a new segment, so that the one that is written to can be folded.
    RotateSegment,
}

/// What the writer thread owns.
pub(super) struct Writer {
    pub(super) commands: Receiver<WriterCommand>,
    pub(super) maintenance: SyncSender<MaintenanceTask>,
    pub(super) shared: Arc<Shared>,
    pub(super) pool: Arc<ConnectionPool>,
    pub(super) fatal: FatalErrorHandler,
    pub(super) salt: u32,
    pub(super) last_version: u64,
    /// The number of the next segment.
    pub(super) next_seq: u64,
    /// The segment that is written to, and how far.
    pub(super) active: Option<(Arc<Segment>, u64)>,
    pub(super) scratch: Scratch,
}

/// What is made anew for each group, in memory that is not.
#[derive(Default)]
pub(super) struct Scratch {
    builder: RecordBuilder,
    buffer: Vec<u8>,
    /// Versions that commits of the group leave; 0 for no record.
    pending_versions: HashMap<Bytes, u64>,
    /// Versions of records that were demanded lately.
    known_versions: HashMap<Bytes, u64>,
}

/// A group that was checked: the outcomes, and the rows to be written.
struct Checked {
    outcomes: Vec<Result<Outcome>>,
    entries: Vec<(WalEntry, Option<bool>)>,
    last: u64,
    written: bool,
}

impl Writer {
    /// Serves until every sender is gone; answers where the log ends.
    pub(super) fn run(mut self) -> WalPosition {
        while let Ok(command) = self.commands.recv() {
            let rotate = match command {
                WriterCommand::RotateSegment => true,
                WriterCommand::Commit(first) => {
                    let (group, rotate) = self.collect_group(first);
                    self.commit_group(group);
                    rotate
                }
            };
            if rotate {
                self.rotate();
            }
        }
        self.rotate();
        self.shared.wal_position()
    }

    /// Ends the segment that is written to.
    fn rotate(&mut self) {
        self.active = None;
        self.shared
            .set_wal_position(WalPosition { version: self.last_version, seq: self.next_seq });
    }

    /// All that waits, up to a group's bounds; and whether to go on in a new segment after it.
    fn collect_group(&self, first: QueuedCommit) -> (Vec<QueuedCommit>, bool) {
        let mut bytes = commit_bytes(&first.commit);
        let mut group = vec![first];
        while group.len() < GROUP_COMMITS_MAX && bytes < GROUP_BYTES_MAX {
            match self.commands.try_recv() {
                Ok(WriterCommand::Commit(queued)) => {
                    bytes += commit_bytes(&queued.commit);
                    group.push(queued);
                }
                Ok(WriterCommand::RotateSegment) => return (group, true),
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
            }
        }
        (group, false)
    }

    /// One frame, one sync, then the answers.
    fn commit_group(&mut self, group: Vec<QueuedCommit>) {
        let reply_all = |group: Vec<QueuedCommit>, outcomes: Vec<Result<Outcome>>| {
            for (queued, outcome) in group.into_iter().zip(outcomes) {
                let _ = queued.reply.send(outcome);
            }
        };
        let fail_all = |group: Vec<QueuedCommit>, e: &EngineError| {
            tracing::error!(error = %e, "a group of commits was not written");
            for queued in group {
                let _ = queued.reply.send(Err(e.clone()));
            }
        };
        if self.shared.backpressure.should_stall(&self.shared) {
            // All there is can be folded then, this segment too.
            self.rotate();
            if let Err(e) = self.shared.backpressure.wait(&self.shared) {
                return fail_all(group, &e);
            }
        }
        let checked = self.evaluate(&group);
        if !checked.written {
            self.count_outcomes(&group, &checked.outcomes);
            return reply_all(group, checked.outcomes);
        }
        match self.append_record(checked.last) {
            Ok((segment, bodies)) => {
                self.last_version = checked.last;
                let refreshed = self.refreshed(&group, &checked);
                self.update_known_versions();
                self.publish(&group, checked.entries, &segment, bodies);
                for (key, record) in refreshed {
                    self.shared.cache.refresh(key, record);
                }
                self.count_outcomes(&group, &checked.outcomes);
                reply_all(group, checked.outcomes);
            }
            Err(e) => {
                self.scratch.builder = RecordBuilder::default();
                self.scratch.pending_versions.clear();
                fail_all(group, &e);
            }
        }
    }

    /// Decides every commit of a group, and builds the frame of those that hold.
    fn evaluate(&mut self, group: &[QueuedCommit]) -> Checked {
        let mut checked = Checked {
            outcomes: Vec::with_capacity(group.len()),
            entries: Vec::with_capacity(group.len()),
            last: self.last_version,
            written: false,
        };
        for QueuedCommit { commit, .. } in group {
            let outcome = self.preconditions_hold(&commit.preconditions).and_then(|outcome| {
                if outcome { self.apply(commit, &mut checked) } else { Ok(Outcome::Conflict) }
            });
            checked.written |= matches!(outcome, Ok(Outcome::Committed(_)));
            checked.outcomes.push(outcome);
        }
        checked
    }

    fn preconditions_hold(&mut self, preconditions: &[Precondition]) -> Result<bool> {
        for Precondition { key, version } in preconditions {
            let current = match self.scratch.pending_versions.get(key) {
                Some(version) => *version,
                None => self.version(key)?,
            };
            if current != *version {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The version of a record before the group; 0 when there is none.
    fn version(&mut self, key: &Bytes) -> Result<u64> {
        if let Some(version) = self.scratch.known_versions.get(key) {
            return Ok(*version);
        }
        let above = self
            .shared
            .memtable()
            .get(key)
            .map(|memtable_entry| (memtable_entry.is_live(), memtable_entry.version));
        let version = match above {
            Some((is_live, version)) => {
                if is_live {
                    version
                } else {
                    0
                }
            }
            None => self.pool.version(key)?,
        };
        if self.scratch.known_versions.len() >= KNOWN_VERSIONS_MAX {
            self.scratch.known_versions.clear();
        }
        self.scratch.known_versions.insert(key.clone(), version);
        Ok(version)
    }

    /// Adds a commit that holds to the frame.
    fn apply(&mut self, commit: &Commit, checked: &mut Checked) -> Result<Outcome> {
        let version = commit.version_min.max(checked.last + 1);
        let mut staged = Vec::with_capacity(commit.mutations.len());
        for Mutation { record, .. } in &commit.mutations {
            staged.push(match record.as_ref().map(|record| &record.body) {
                None => NewBody::Removed,
                Some(Body::Bytes(bytes)) => NewBody::Bytes(bytes),
                Some(Body::Stored(stored)) => {
                    let blob = stored.as_any().downcast_ref::<Blob>();
                    let foreign = || EngineError::Failed("a stored body of another engine".into());
                    let blob = blob.ok_or_else(foreign)?;
                    NewBody::Blob { id: blob.id(), len: stored.len() }
                }
            });
        }
        for (Mutation { key, record }, body) in commit.mutations.iter().zip(staged) {
            let (expires_at, meta) = match record {
                Some(record) => (record.expires_at, record.meta.clone()),
                None => (0, Bytes::new()),
            };
            let named = record.is_some().then_some((expires_at, &meta[..]));
            let location = self.scratch.builder.push(key, version, named, body);
            let expected =
                commit.preconditions.iter().find(|preconditions| preconditions.key == *key);
            let in_db = expected.map(|preconditions| preconditions.version != 0);
            // A copy, so that the entry does not keep a larger buffer alive.
            let kept = |bytes: &Bytes| Bytes::copy_from_slice(bytes);
            let entry =
                WalEntry { key: kept(key), version, expires_at, meta: kept(&meta), location };
            let is_live = if record.is_some() { version } else { 0 };
            self.scratch.pending_versions.insert(entry.key.clone(), is_live);
            checked.entries.push((entry, in_db));
        }
        checked.last = version;
        Ok(Outcome::Committed(version))
    }

    /// Writes and syncs the frame; answers its segment and where its bodies begin.
    fn append_record(&mut self, last: u64) -> Result<(Arc<Segment>, u64)> {
        let len = self.scratch.builder.disk_len();
        let (segment, at) = self.segment_with_room(len)?;
        let numbers = (segment.seq, self.last_version, last);
        let Scratch { builder, buffer, .. } = &mut self.scratch;
        let header: RecordHeader = builder.finish(self.salt, numbers, buffer)?;
        let written = segment.file().write_all_at(buffer, at);
        if buffer.capacity() > BUFFER_BYTES_MAX {
            *buffer = Vec::new();
        }
        if let Err(e) = written {
            let failed = io_error("write the log", &e);
            if !matches!(failed, EngineError::Full(_)) {
                self.fatal.stop(&format!("could not make a commit durable: {e}"));
            }
            // What was written in part matches no checksum, and the next frame takes its place.
            return Err(failed);
        }
        let start = Instant::now();
        if let Err(e) = segment.file().sync_data() {
            // Nobody knows what reached the disk: no answer is honest, and a retry may pretend.
            self.fatal.stop(&format!("could not make a commit durable: {e}"));
            return Err(io_error("sync the log", &e));
        }
        let micros = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.shared.counters.sync_micros.fetch_add(micros, Ordering::Relaxed);
        self.shared.counters.groups.fetch_add(1, Ordering::Relaxed);
        let bodies = at + header.bodies_offset();
        self.active = Some((segment.clone(), at + len));
        Ok((segment, bodies))
    }

    /// A segment with room for a frame, and the place in it.
    fn segment_with_room(&mut self, len: u64) -> Result<(Arc<Segment>, u64)> {
        if let Some((segment, at)) = &self.active {
            let fits = *at == 0 || at + len <= SEGMENT_BYTES;
            // One that was made in haste is left as soon as a better one waits.
            if fits && (segment.preallocated() || !self.shared.segments.has_preallocated()) {
                return Ok((segment.clone(), *at));
            }
        }
        let segment = self.shared.segments.allocate(self.next_seq)?;
        self.rotate();
        self.next_seq += 1;
        self.active = Some((segment.clone(), 0));
        let _ = self.maintenance.try_send(MaintenanceTask::AllocateSegments);
        Ok((segment, 0))
    }

    /// Takes the group's versions over into those that are known.
    fn update_known_versions(&mut self) {
        let Scratch { pending_versions, known_versions, .. } = &mut self.scratch;
        for (key, version) in pending_versions.drain() {
            if let Some(known_versions) = known_versions.get_mut(&key) {
                *known_versions = version;
            }
        }
    }

    /// Shows a durable group to readers, all of it at once.
    fn publish(
        &self,
        group: &[QueuedCommit],
        entries: Vec<(WalEntry, Option<bool>)>,
        segment: &Arc<Segment>,
        bodies: u64,
    ) {
        let stripes = self.shared.cache.begin_write(entries.iter().map(|(entry, _)| &entry.key));
        let mut replaced = Vec::new();
        {
            let mut memtable = self.shared.memtable_mut();
            for (entry, in_db) in entries {
                let (key, memtable_entry) = memtable_entry(entry, segment, bodies, in_db);
                replaced.extend(memtable.put(key, memtable_entry).blob);
            }
        }
        self.shared.cache.end_write(&stripes);
        for write in group.iter().flat_map(|queued| &queued.commit.mutations) {
            if let Some(blob) = staged_blob(write)
                && self.is_referenced(&write.key, blob)
            {
                blob.set_committed();
            }
        }
        for id in replaced {
            let _ = self.maintenance.send(MaintenanceTask::DeleteBlob(id));
        }
    }

    /// What a group leaves of the records that are cached.
    fn refreshed(&self, group: &[QueuedCommit], checked: &Checked) -> Vec<(Bytes, Record)> {
        let written = group.iter().zip(&checked.outcomes);
        let written = written.filter(|(_, outcome)| matches!(outcome, Ok(Outcome::Committed(_))));
        // Each write of these has its row, in their order.
        let writes = written.flat_map(|(queued, _)| &queued.commit.mutations);
        let refreshed = checked.entries.iter().zip(writes).filter_map(|((entry, _), write)| {
            debug_assert_eq!(entry.key, write.key);
            let newest = self.scratch.pending_versions.get(&entry.key).copied()?;
            let record = self.shared.cache.refreshed_record(entry, write, newest)?;
            Some((entry.key.clone(), record))
        });
        refreshed.collect()
    }

    /// Whether the commit of a write was made, as its blob is now named or was just replaced.
    fn is_referenced(&self, key: &Bytes, blob: &Blob) -> bool {
        match self.shared.memtable().get(key).map(|memtable_entry| memtable_entry.location) {
            Some(BodyLocation::Blob { id, .. }) => id == blob.id(),
            _ => false,
        }
    }

    fn count_outcomes(&self, group: &[QueuedCommit], outcomes: &[Result<Outcome>]) {
        debug_assert_eq!(group.len(), outcomes.len());
        let of = |wanted: fn(&Outcome) -> bool| {
            outcomes.iter().flatten().filter(|outcome| wanted(outcome)).count() as u64
        };
        let counters = &self.shared.counters;
        let conflicts = of(|outcome| *outcome == Outcome::Conflict);
        counters.conflicts.fetch_add(conflicts, Ordering::Relaxed);
        let written = of(|outcome| *outcome != Outcome::Conflict);
        counters.commits.fetch_add(written, Ordering::Relaxed);
    }
}

/// The overlay's entry for a row of the log.
pub(super) fn memtable_entry(
    entry: WalEntry,
    segment: &Arc<Segment>,
    bodies: u64,
    in_db: Option<bool>,
) -> (Bytes, MemtableEntry) {
    let body_at = match entry.location {
        BodyLocation::Inline { at, .. } => Some((segment.clone(), bodies + at)),
        BodyLocation::Removed | BodyLocation::Empty | BodyLocation::Blob { .. } => None,
    };
    let WalEntry { key, version, expires_at, meta, location } = entry;
    (key, MemtableEntry { version, expires_at, meta, location, body_at, in_db })
}

fn commit_bytes(commit: &Commit) -> u64 {
    let write = |write: &Mutation| {
        let body = write.record.as_ref().map(|record| &record.body);
        let body = body.map_or(0, |body| match body {
            Body::Bytes(bytes) => bytes.len() as u64,
            Body::Stored(_) => 0,
        });
        write.key.len() as u64 + body
    };
    commit.mutations.iter().map(write).sum()
}

fn staged_blob(write: &Mutation) -> Option<&Blob> {
    match &write.record.as_ref()?.body {
        Body::Stored(stored) => stored.as_any().downcast_ref(),
        Body::Bytes(_) => None,
    }
}
