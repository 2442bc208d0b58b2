//! The writer thread: commits in groups. For each group it checks the preconditions in order,
//! appends one WAL record, fsyncs it, publishes the mutations to readers, and replies.

use super::super::{Body, Commit, EngineError, Mutation, Outcome, Precondition, Record, Result};
use super::blob_files::{Blob, io_error};
use super::connection_pool::ConnectionPool;
use super::data_dir::ensure_linked;
use super::load_monitor::LoadMonitor;
use super::maintenance::{BlobDeletions, MaintenanceTask};
use super::memtable::MemtableEntry;
use super::relocation::{Relocation, RelocationRequest};
use super::segment_allocation::{ActiveSegment, Purpose};
use super::wal::record::{
    BodyLocation, EncodedRecord, NewBody, RecordBuilder, RecordHeader, WalEntry,
};
use super::wal::segment::{PlantedFault, Segment};
use super::{FatalErrorHandler, Shared, WalPosition};
use bytes::Bytes;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError};
use std::time::Instant;
use tokio::sync::oneshot;

/// Maximum number of commits in a group.
const GROUP_COMMITS_MAX: usize = 1024;
/// Size in bytes at which a group takes no further commits.
const GROUP_BYTES_MAX: u64 = 4 << 20;
/// Maximum number of versions cached for preconditions.
const KNOWN_VERSIONS_MAX: usize = 4096;

/// A commit and the channel for its reply.
pub(super) struct QueuedCommit {
    pub(super) commit: Commit,
    pub(super) reply: oneshot::Sender<Result<Outcome>>,
}

pub(super) enum WriterCommand {
    Commit(QueuedCommit),
    /// Continue in a new segment, so that the active one can be checkpointed.
    RotateSegment,
    /// Move bodies of records in the database to the end of the WAL.
    Relocate(RelocationRequest),
}

pub(super) struct Writer {
    pub(super) commands: Receiver<WriterCommand>,
    pub(super) maintenance: SyncSender<MaintenanceTask>,
    /// Deletions of replaced blob files.
    pub(super) deletions: BlobDeletions,
    pub(super) shared: Arc<Shared>,
    pub(super) pool: Arc<ConnectionPool>,
    pub(super) fatal: FatalErrorHandler,
    pub(super) salt: u32,
    pub(super) last_version: u64,
    /// Sequence number of the next segment.
    pub(super) next_seq: u64,
    pub(super) active: Option<ActiveSegment>,
    pub(super) load: LoadMonitor,
    pub(super) scratch: Scratch,
}

/// Buffers reused from group to group.
#[derive(Default)]
pub(super) struct Scratch {
    builder: RecordBuilder,
    record: EncodedRecord,
    /// Versions of the keys written by the current group; 0 for a deleted record.
    pending_versions: HashMap<Bytes, u64>,
    /// Current versions of keys recently named in preconditions.
    known_versions: HashMap<Bytes, u64>,
}

/// The versions that the preconditions of a commit require, by key.
enum RequiredVersions<'c> {
    Few(&'c [Precondition]),
    Many(HashMap<&'c Bytes, u64>),
}

impl<'c> RequiredVersions<'c> {
    fn new(commit: &'c Commit) -> RequiredVersions<'c> {
        /// Number of preconditions up to which a linear search is faster than a map.
        const FEW: usize = 8;
        let preconditions = &commit.preconditions;
        if preconditions.len() <= FEW || commit.mutations.len() <= FEW {
            return RequiredVersions::Few(preconditions);
        }
        let by_key = preconditions.iter().map(|required| (&required.key, required.version));
        RequiredVersions::Many(by_key.collect())
    }

    fn get(&self, key: &Bytes) -> Option<u64> {
        match self {
            RequiredVersions::Few(preconditions) => {
                let required = preconditions.iter().find(|required| required.key == *key);
                required.map(|required| required.version)
            }
            RequiredVersions::Many(by_key) => by_key.get(key).copied(),
        }
    }
}

/// The result of checking a group: the outcomes, and the entries to write.
struct Evaluation {
    outcomes: Vec<Result<Outcome>>,
    /// The entries, and for each of them whether the database has a record for its key, if known.
    entries: Vec<(WalEntry, Option<bool>)>,
    last: u64,
    any_committed: bool,
}

impl Writer {
    /// Runs until every sender is dropped; returns the end of the WAL.
    pub(super) fn run(mut self) -> WalPosition {
        while let Ok(command) = self.commands.recv() {
            if self.load.is_read_mostly(&self.shared.counters) {
                // A commit wakes this thread, which often preempts the one that handles requests.
                // More commits arrive while that one continues, so groups are larger.
                std::thread::yield_now();
            }
            let mut next = Some(command);
            while let Some(command) = next.take() {
                match command {
                    WriterCommand::RotateSegment => self.rotate(),
                    WriterCommand::Relocate(request) => self.relocate(request),
                    WriterCommand::Commit(first) => {
                        let group;
                        (group, next) = self.collect_group(first);
                        self.commit_group(group);
                    }
                }
            }
            self.deletions.send();
        }
        self.deletions.send_all();
        self.rotate();
        self.shared.wal_position()
    }

    /// Closes the active segment.
    pub(super) fn rotate(&mut self) {
        if self.active.take().is_some_and(|active| active.is_reserved) {
            self.shared.segments.set_reserved_room(0);
        }
        let position = WalPosition { version: self.last_version, seq: self.next_seq };
        *self.shared.wal_position_mut() = position;
    }

    /// Dequeues commits up to the group limits. Also returns the command after the group if it is
    /// not a commit.
    fn collect_group(&self, first: QueuedCommit) -> (Vec<QueuedCommit>, Option<WriterCommand>) {
        let mut bytes = commit_bytes(&first.commit);
        let mut group = vec![first];
        while group.len() < GROUP_COMMITS_MAX && bytes < GROUP_BYTES_MAX {
            match self.commands.try_recv() {
                Ok(WriterCommand::Commit(queued)) => {
                    bytes += commit_bytes(&queued.commit);
                    group.push(queued);
                }
                Ok(command @ (WriterCommand::RotateSegment | WriterCommand::Relocate(_))) => {
                    return (group, Some(command));
                }
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
            }
        }
        (group, None)
    }

    /// Commits a group: one WAL record, one fsync, then the replies.
    fn commit_group(&mut self, group: Vec<QueuedCommit>) {
        let reply_all = |group: Vec<QueuedCommit>, outcomes: Vec<Result<Outcome>>| {
            for (queued, outcome) in group.into_iter().zip(outcomes) {
                let _ = queued.reply.send(outcome);
            }
        };
        let fail_all = |group: Vec<QueuedCommit>, e: &EngineError| {
            tracing::error!(error = %e, "group commit failed");
            for queued in group {
                let _ = queued.reply.send(Err(e.clone()));
            }
        };
        if self.shared.backpressure.should_stall(&self.shared) {
            // Rotate, so that the active segment can be checkpointed as well.
            self.rotate();
            if let Err(e) = self.shared.backpressure.wait(&self.shared) {
                return fail_all(group, &e);
            }
        }
        let delay = self.shared.backpressure.delay(&self.shared);
        if !delay.is_zero() && !self.shared.backpressure.is_closing() {
            std::thread::sleep(delay);
        }
        let evaluated = self.evaluate(&group);
        if !evaluated.any_committed {
            self.count_outcomes(&group, &evaluated.outcomes);
            return reply_all(group, evaluated.outcomes);
        }
        let start = Instant::now();
        match self.append_record(evaluated.last, Purpose::Commits) {
            Ok((segment, bodies_offset)) => {
                let micros = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
                self.shared.counters.sync_micros.fetch_add(micros, Ordering::Relaxed);
                self.shared.counters.groups.fetch_add(1, Ordering::Relaxed);
                self.last_version = evaluated.last;
                let refreshed = self.refreshed(&group, &evaluated);
                self.update_known_versions();
                self.publish(&group, evaluated.entries, &segment, bodies_offset);
                for (key, record) in refreshed {
                    self.shared.cache.refresh(key, record);
                }
                self.count_outcomes(&group, &evaluated.outcomes);
                reply_all(group, evaluated.outcomes);
            }
            Err(e) => {
                self.scratch.builder = RecordBuilder::default();
                self.scratch.pending_versions.clear();
                fail_all(group, &e);
            }
        }
    }

    /// Checks each commit of a group and adds the successful ones to the WAL record.
    fn evaluate(&mut self, group: &[QueuedCommit]) -> Evaluation {
        let mut evaluated = Evaluation {
            outcomes: Vec::with_capacity(group.len()),
            entries: Vec::with_capacity(group.len()),
            last: self.last_version,
            any_committed: false,
        };
        for QueuedCommit { commit, .. } in group {
            let outcome = self.preconditions_hold(&commit.preconditions).and_then(|hold| {
                if hold { self.apply(commit, &mut evaluated) } else { Ok(Outcome::Conflict) }
            });
            evaluated.any_committed |= matches!(outcome, Ok(Outcome::Committed(_)));
            evaluated.outcomes.push(outcome);
        }
        evaluated
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

    /// Returns the version of a record before the group; 0 when there is none.
    fn version(&mut self, key: &Bytes) -> Result<u64> {
        if let Some(version) = self.scratch.known_versions.get(key) {
            return Ok(*version);
        }
        let current = |entry: &MemtableEntry| if entry.is_live() { entry.version } else { 0 };
        let in_memtable = self.shared.memtable().get(key).map(current);
        let version = in_memtable.map_or_else(|| self.pool.version(key), Ok)?;
        if self.scratch.known_versions.len() >= KNOWN_VERSIONS_MAX {
            self.scratch.known_versions.clear();
        }
        self.scratch.known_versions.insert(key.clone(), version);
        Ok(version)
    }

    /// Adds a commit whose preconditions hold to the WAL record.
    fn apply(&mut self, commit: &Commit, evaluated: &mut Evaluation) -> Result<Outcome> {
        let version = commit.version_min.max(evaluated.last + 1);
        let mut bodies = Vec::with_capacity(commit.mutations.len());
        for Mutation { record, .. } in &commit.mutations {
            bodies.push(match record.as_ref().map(|record| &record.body) {
                None => NewBody::Removed,
                Some(Body::Bytes(bytes)) => NewBody::Bytes(bytes),
                Some(Body::Stored(stored)) => {
                    let foreign = || EngineError::Failed("a body belongs to another engine".into());
                    let blob = stored.as_any().downcast_ref::<Blob>().ok_or_else(foreign)?;
                    NewBody::Blob { id: blob.id(), len: stored.len() }
                }
            });
        }
        let required = RequiredVersions::new(commit);
        for (Mutation { key, record }, body) in commit.mutations.iter().zip(bodies) {
            let (expires_at, meta) = match record {
                Some(record) => (record.expires_at, record.meta.clone()),
                None => (0, Bytes::new()),
            };
            let expiry_and_meta = record.is_some().then_some((expires_at, &meta[..]));
            let location = self.scratch.builder.push(key, version, expiry_and_meta, body);
            let in_db = required.get(key).map(|version| version != 0);
            // Key and meta are copied, so that the entry does not keep a larger buffer alive.
            let (key, meta) = (Bytes::copy_from_slice(key), Bytes::copy_from_slice(&meta));
            let entry = WalEntry { key, version, expires_at, meta, location };
            let current = if record.is_some() { version } else { 0 };
            self.scratch.pending_versions.insert(entry.key.clone(), current);
            evaluated.entries.push((entry, in_db));
        }
        evaluated.last = version;
        Ok(Outcome::Committed(version))
    }

    /// Writes the WAL record and fsyncs it. Returns its segment and the offset of its bodies
    /// section.
    fn append_record(&mut self, last: u64, purpose: Purpose) -> Result<(Arc<Segment>, u64)> {
        let len = self.scratch.builder.disk_len();
        let (segment, at) = self.segment_with_room(len, purpose)?;
        let sequence = (segment.seq, self.last_version, last);
        let Scratch { builder, record, .. } = &mut self.scratch;
        let header: RecordHeader = builder.finish(self.salt, sequence, record)?;
        let written = record.write_to(segment.file(), at);
        record.clear();
        if let Err(e) = written {
            let error = io_error("write the WAL", &e);
            if matches!(error, EngineError::Full(_)) {
                self.shared.segments.report_full();
            } else {
                self.fatal.stop(&format!("could not make a commit durable: {e}"));
            }
            // Part of the record may remain in a preallocated file. The next record overwrites it,
            // or is in another segment and has the same base. Recovery then discards the partial
            // record.
            segment.truncate(at);
            return Err(error);
        }
        if let Err(e) = segment.file().sync_data() {
            // After a failed fsync the state on disk is unknown, and a retry could report a false
            // success.
            self.fatal.stop(&format!("could not make a commit durable: {e}"));
            return Err(io_error("fsync the WAL", &e));
        }
        if let Err(e) = ensure_linked(segment.file(), self.shared.dir.path()) {
            // Relocations may continue briefly after the engine was dropped, when the directory may
            // already be removed. If the directory is removed earlier, the checkpointer or the next
            // commit detects this.
            if purpose == Purpose::Commits {
                self.fatal.stop(&e.to_string());
            }
            return Err(e);
        }
        self.shared.wal_end.store(segment.seq + 1, Ordering::Release);
        segment.set_end(at + len);
        if let Some(active) = &mut self.active {
            active.end = at + len;
            if active.is_reserved {
                let room = segment.disk_bytes().saturating_sub(active.end);
                self.shared.segments.set_reserved_room(room);
            }
        }
        Ok((segment, at + header.bodies_offset()))
    }

    /// Moves bodies of records in the database to the end of the WAL.
    fn relocate(&mut self, request: RelocationRequest) {
        if !request.claim() {
            return;
        }
        let result = match self.append_relocations(&request.relocations, Purpose::Relocations) {
            // Garbage collection needs space to free space, so it may use a reserved file.
            Err(EngineError::Full(_)) if request.frees_segment => {
                self.append_relocations(&request.relocations, Purpose::ReservedRelocations)
            }
            result => result,
        };
        let _ = request.reply.send(result);
    }

    fn append_relocations(&mut self, relocations: &[Relocation], purpose: Purpose) -> Result<()> {
        let mut entries = Vec::with_capacity(relocations.len());
        for Relocation { key, version, expires_at, meta, body } in relocations {
            // Skips a record that was replaced, deleted or relocated since the checkpointer
            // selected it. The check misses no commit, because this thread publishes all commits.
            let is_planted = self.shared.segments.has_fault(PlantedFault::RelocateReplaced);
            if self.shared.memtable().get(key).is_some() && !is_planted {
                continue;
            }
            let (version, expires_at) = (*version, *expires_at);
            let record = Some((expires_at, &meta[..]));
            let location = self.scratch.builder.push(key, version, record, NewBody::Bytes(body));
            // Copies the key and the meta, because they may share a buffer with entries that are
            // not relocated.
            let (key, meta) = (Bytes::copy_from_slice(key), Bytes::copy_from_slice(meta));
            entries.push(WalEntry { key, version, expires_at, meta, location });
        }
        if entries.is_empty() {
            return Ok(());
        }
        // The WAL record uses up a version, because each WAL record must have a greater last
        // version than the previous one.
        let last = self.last_version + 1;
        let appended = self.append_record(last, purpose);
        let (segment, bodies_offset) =
            appended.inspect_err(|_| self.scratch.builder = RecordBuilder::default())?;
        self.last_version = last;
        // Cached records remain valid, because a relocation changes neither version nor content.
        let mut memtable = self.shared.memtable_mut();
        for entry in entries {
            let (key, entry) = memtable_entry(entry, &segment, bodies_offset, Some(true));
            memtable.put(key, entry);
        }
        Ok(())
    }

    /// Moves the group's versions into the cache of known versions.
    fn update_known_versions(&mut self) {
        let Scratch { pending_versions, known_versions, .. } = &mut self.scratch;
        for (key, version) in pending_versions.drain() {
            if let Some(known) = known_versions.get_mut(&key) {
                *known = version;
            }
        }
    }

    /// Makes a durable group visible to readers, atomically.
    fn publish(
        &mut self,
        group: &[QueuedCommit],
        entries: Vec<(WalEntry, Option<bool>)>,
        segment: &Arc<Segment>,
        bodies_offset: u64,
    ) {
        let stripes = self.shared.cache.begin_write(entries.iter().map(|(entry, _)| &entry.key));
        let mut replaced = Vec::new();
        {
            let mut memtable = self.shared.memtable_mut();
            for (entry, in_db) in entries {
                let (key, entry) = memtable_entry(entry, segment, bodies_offset, in_db);
                replaced.extend(memtable.put(key, entry));
            }
        }
        self.shared.cache.end_write(&stripes);
        for mutation in group.iter().flat_map(|queued| &queued.commit.mutations) {
            if let Some(blob) = staged_blob(mutation)
                && self.is_referenced(&mutation.key, blob)
            {
                blob.set_committed();
            }
        }
        self.deletions.extend(replaced);
    }

    /// Returns the records of the group that replace cached ones.
    fn refreshed(&self, group: &[QueuedCommit], evaluated: &Evaluation) -> Vec<(Bytes, Record)> {
        let committed = group.iter().zip(&evaluated.outcomes);
        let committed =
            committed.filter(|(_, outcome)| matches!(outcome, Ok(Outcome::Committed(_))));
        // Entries and mutations correspond one to one, in order.
        let mutations = committed.flat_map(|(queued, _)| &queued.commit.mutations);
        let refreshed =
            evaluated.entries.iter().zip(mutations).filter_map(|((entry, _), mutation)| {
                debug_assert_eq!(entry.key, mutation.key);
                let newest = self.scratch.pending_versions.get(&entry.key).copied()?;
                let record = self.shared.cache.refreshed_record(entry, mutation, newest)?;
                Some((entry.key.clone(), record))
            });
        refreshed.collect()
    }

    /// Returns whether the record of `key` refers to `blob`. It does not if the commit conflicted,
    /// or a later commit of the group replaced the record.
    fn is_referenced(&self, key: &Bytes, blob: &Blob) -> bool {
        match self.shared.memtable().get(key).map(|entry| entry.location) {
            Some(BodyLocation::Blob { id, .. }) => id == blob.id(),
            _ => false,
        }
    }

    fn count_outcomes(&self, group: &[QueuedCommit], outcomes: &[Result<Outcome>]) {
        debug_assert_eq!(group.len(), outcomes.len());
        let count = |matches: fn(&Outcome) -> bool| {
            outcomes.iter().flatten().filter(|outcome| matches(outcome)).count() as u64
        };
        let counters = &self.shared.counters;
        let conflicts = count(|outcome| *outcome == Outcome::Conflict);
        counters.conflicts.fetch_add(conflicts, Ordering::Relaxed);
        let committed = count(|outcome| *outcome != Outcome::Conflict);
        counters.commits.fetch_add(committed, Ordering::Relaxed);
    }
}

/// Converts a WAL entry into a memtable entry.
pub(super) fn memtable_entry(
    entry: WalEntry,
    segment: &Arc<Segment>,
    bodies_offset: u64,
    in_db: Option<bool>,
) -> (Bytes, MemtableEntry) {
    let body_at = match entry.location {
        BodyLocation::Inline { at, .. } => Some((segment.clone(), bodies_offset + at)),
        BodyLocation::Removed | BodyLocation::Empty | BodyLocation::Blob { .. } => None,
    };
    let WalEntry { key, version, expires_at, meta, location } = entry;
    (key, MemtableEntry { version, expires_at, meta, location, body_at, in_db })
}

fn commit_bytes(commit: &Commit) -> u64 {
    let mutation_bytes = |mutation: &Mutation| {
        let body = mutation.record.as_ref().map(|record| &record.body);
        let body = body.map_or(0, |body| match body {
            Body::Bytes(bytes) => bytes.len() as u64,
            Body::Stored(_) => 0,
        });
        mutation.key.len() as u64 + body
    };
    commit.mutations.iter().map(mutation_bytes).sum()
}

fn staged_blob(mutation: &Mutation) -> Option<&Blob> {
    match &mutation.record.as_ref()?.body {
        Body::Stored(stored) => stored.as_any().downcast_ref(),
        Body::Bytes(_) => None,
    }
}
