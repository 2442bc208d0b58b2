//! The one writer: a thread that takes all commits that wait, checks each against the state its
//! predecessors leave, writes those that hold into the log as one frame, syncs once, shows them to
//! readers, and answers.

use super::super::{Body, Commit, EngineError, Mutation, Outcome, Precondition, Record, Result};
use super::blob_files::{Blob, io_failed};
use super::connection_pool::Readers;
use super::maintenance::Chore;
use super::memtable::Entry;
use super::wal::record::{Builder, Header, Home, Placed, Row};
use super::wal::segment::{SEGMENT_BYTES, Segment};
use super::{Boundary, FatalErrorHandler, Shared};
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
const KNOWN_MAX: usize = 4096;
/// A frame's buffer is kept for the next up to this size.
const BUFFER_KEPT: usize = 8 << 20;

/// A commit and where its answer goes.
pub(super) struct Job {
    pub(super) commit: Commit,
    pub(super) reply: oneshot::Sender<Result<Outcome>>,
}

/// What the writer is asked to do.
pub(super) enum Task {
    /// Mutation a commit.
    Commit(Job),
    /// Go on in a new segment, so that the one that is written to can be folded.
    Rotate,
}

/// What the writer thread owns.
pub(super) struct Writer {
    pub(super) tasks: Receiver<Task>,
    pub(super) keeper: SyncSender<Chore>,
    pub(super) shared: Arc<Shared>,
    pub(super) readers: Arc<Readers>,
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
    builder: Builder,
    buffer: Vec<u8>,
    /// Versions that commits of the group leave; 0 for no record.
    pending: HashMap<Bytes, u64>,
    /// Versions of records that were demanded lately.
    known: HashMap<Bytes, u64>,
}

/// A group that was checked: the outcomes, and the rows to be written.
struct Checked {
    outcomes: Vec<Result<Outcome>>,
    rows: Vec<(Row, Option<bool>)>,
    last: u64,
    written: bool,
}

impl Writer {
    /// Serves until every sender is gone; answers where the log ends.
    pub(super) fn run(mut self) -> Boundary {
        while let Ok(task) = self.tasks.recv() {
            let rotate = match task {
                Task::Rotate => true,
                Task::Commit(first) => {
                    let (jobs, rotate) = self.gather(first);
                    self.group(jobs);
                    rotate
                }
            };
            if rotate {
                self.rotate();
            }
        }
        self.rotate();
        self.shared.boundary()
    }

    /// Ends the segment that is written to.
    fn rotate(&mut self) {
        self.active = None;
        self.shared.set_boundary(Boundary { version: self.last_version, seq: self.next_seq });
    }

    /// All that waits, up to a group's bounds; and whether to go on in a new segment after it.
    fn gather(&self, first: Job) -> (Vec<Job>, bool) {
        let mut bytes = size(&first.commit);
        let mut jobs = vec![first];
        while jobs.len() < GROUP_COMMITS_MAX && bytes < GROUP_BYTES_MAX {
            match self.tasks.try_recv() {
                Ok(Task::Commit(job)) => {
                    bytes += size(&job.commit);
                    jobs.push(job);
                }
                Ok(Task::Rotate) => return (jobs, true),
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
            }
        }
        (jobs, false)
    }

    /// One frame, one sync, then the answers.
    fn group(&mut self, jobs: Vec<Job>) {
        let answer = |jobs: Vec<Job>, outcomes: Vec<Result<Outcome>>| {
            for (job, outcome) in jobs.into_iter().zip(outcomes) {
                let _ = job.reply.send(outcome);
            }
        };
        let refuse = |jobs: Vec<Job>, e: &EngineError| {
            tracing::error!(error = %e, "a group of commits was not written");
            for job in jobs {
                let _ = job.reply.send(Err(e.clone()));
            }
        };
        if self.shared.pressure.full(&self.shared) {
            // All there is can be folded then, this segment too.
            self.rotate();
            if let Err(e) = self.shared.pressure.wait(&self.shared) {
                return refuse(jobs, &e);
            }
        }
        let checked = self.check(&jobs);
        if !checked.written {
            self.count(&jobs, &checked.outcomes);
            return answer(jobs, checked.outcomes);
        }
        match self.append(checked.last) {
            Ok((segment, bodies)) => {
                self.last_version = checked.last;
                let renewed = self.renewed(&jobs, &checked);
                self.remember();
                self.publish(&jobs, checked.rows, &segment, bodies);
                for (key, record) in renewed {
                    self.shared.cache.renew(key, record);
                }
                self.count(&jobs, &checked.outcomes);
                answer(jobs, checked.outcomes);
            }
            Err(e) => {
                self.scratch.builder = Builder::default();
                self.scratch.pending.clear();
                refuse(jobs, &e);
            }
        }
    }

    /// Decides every commit of a group, and builds the frame of those that hold.
    fn check(&mut self, jobs: &[Job]) -> Checked {
        let mut checked = Checked {
            outcomes: Vec::with_capacity(jobs.len()),
            rows: Vec::with_capacity(jobs.len()),
            last: self.last_version,
            written: false,
        };
        for Job { commit, .. } in jobs {
            let held = self.hold(&commit.preconditions).and_then(|held| {
                if held { self.place(commit, &mut checked) } else { Ok(Outcome::Conflict) }
            });
            checked.written |= matches!(held, Ok(Outcome::Committed(_)));
            checked.outcomes.push(held);
        }
        checked
    }

    fn hold(&mut self, preconditions: &[Precondition]) -> Result<bool> {
        for Precondition { key, version } in preconditions {
            let current = match self.scratch.pending.get(key) {
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
        if let Some(version) = self.scratch.known.get(key) {
            return Ok(*version);
        }
        let above = self.shared.overlay().get(key).map(|entry| (entry.live(), entry.version));
        let version = match above {
            Some((live, version)) => {
                if live {
                    version
                } else {
                    0
                }
            }
            None => self.readers.version(key)?,
        };
        if self.scratch.known.len() >= KNOWN_MAX {
            self.scratch.known.clear();
        }
        self.scratch.known.insert(key.clone(), version);
        Ok(version)
    }

    /// Adds a commit that holds to the frame.
    fn place(&mut self, commit: &Commit, checked: &mut Checked) -> Result<Outcome> {
        let version = commit.version_min.max(checked.last + 1);
        let mut staged = Vec::with_capacity(commit.mutations.len());
        for Mutation { record, .. } in &commit.mutations {
            staged.push(match record.as_ref().map(|record| &record.body) {
                None => Placed::Removed,
                Some(Body::Bytes(bytes)) => Placed::Bytes(bytes),
                Some(Body::Stored(stored)) => {
                    let blob = stored.as_any().downcast_ref::<Blob>();
                    let foreign = || EngineError::Failed("a stored body of another engine".into());
                    let blob = blob.ok_or_else(foreign)?;
                    Placed::Blob { id: blob.id(), len: stored.len() }
                }
            });
        }
        for (Mutation { key, record }, body) in commit.mutations.iter().zip(staged) {
            let (expires_at, meta) = match record {
                Some(record) => (record.expires_at, record.meta.clone()),
                None => (0, Bytes::new()),
            };
            let named = record.is_some().then_some((expires_at, &meta[..]));
            let home = self.scratch.builder.push(key, version, named, body);
            let expected =
                commit.preconditions.iter().find(|preconditions| preconditions.key == *key);
            let below = expected.map(|preconditions| preconditions.version != 0);
            // A copy, so that the entry does not keep a larger buffer alive.
            let kept = |bytes: &Bytes| Bytes::copy_from_slice(bytes);
            let row = Row { key: kept(key), version, expires_at, meta: kept(&meta), home };
            let live = if record.is_some() { version } else { 0 };
            self.scratch.pending.insert(row.key.clone(), live);
            checked.rows.push((row, below));
        }
        checked.last = version;
        Ok(Outcome::Committed(version))
    }

    /// Writes and syncs the frame; answers its segment and where its bodies begin.
    fn append(&mut self, last: u64) -> Result<(Arc<Segment>, u64)> {
        let len = self.scratch.builder.frame_len();
        let (segment, at) = self.room(len)?;
        let numbers = (segment.seq, self.last_version, last);
        let Scratch { builder, buffer, .. } = &mut self.scratch;
        let header: Header = builder.finish(self.salt, numbers, buffer)?;
        let written = segment.file().write_all_at(buffer, at);
        if buffer.capacity() > BUFFER_KEPT {
            *buffer = Vec::new();
        }
        if let Err(e) = written {
            let failed = io_failed("write the log", &e);
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
            return Err(io_failed("sync the log", &e));
        }
        let micros = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.shared.figures.sync_micros.fetch_add(micros, Ordering::Relaxed);
        self.shared.figures.groups.fetch_add(1, Ordering::Relaxed);
        let bodies = at + header.bodies_at();
        self.active = Some((segment.clone(), at + len));
        Ok((segment, bodies))
    }

    /// A segment with room for a frame, and the place in it.
    fn room(&mut self, len: u64) -> Result<(Arc<Segment>, u64)> {
        if let Some((segment, at)) = &self.active {
            let fits = *at == 0 || at + len <= SEGMENT_BYTES;
            // One that was made in haste is left as soon as a better one waits.
            if fits && (segment.filled() || !self.shared.slots.has_filled()) {
                return Ok((segment.clone(), *at));
            }
        }
        let segment = self.shared.slots.begin(self.next_seq)?;
        self.rotate();
        self.next_seq += 1;
        self.active = Some((segment.clone(), 0));
        let _ = self.keeper.try_send(Chore::Prepare);
        Ok((segment, 0))
    }

    /// Takes the group's versions over into those that are known.
    fn remember(&mut self) {
        let Scratch { pending, known, .. } = &mut self.scratch;
        for (key, version) in pending.drain() {
            if let Some(known) = known.get_mut(&key) {
                *known = version;
            }
        }
    }

    /// Shows a durable group to readers, all of it at once.
    fn publish(
        &self,
        jobs: &[Job],
        rows: Vec<(Row, Option<bool>)>,
        segment: &Arc<Segment>,
        bodies: u64,
    ) {
        let slots = self.shared.cache.begin(rows.iter().map(|(row, _)| &row.key));
        let mut dropped = Vec::new();
        {
            let mut overlay = self.shared.overlay_mut();
            for (row, below) in rows {
                let (key, entry) = entry(row, segment, bodies, below);
                dropped.extend(overlay.put(key, entry).blob);
            }
        }
        self.shared.cache.end(&slots);
        for write in jobs.iter().flat_map(|job| &job.commit.mutations) {
            if let Some(blob) = staged_blob(write)
                && self.names(&write.key, blob)
            {
                blob.set_committed();
            }
        }
        for id in dropped {
            let _ = self.keeper.send(Chore::Unlink(id));
        }
    }

    /// What a group leaves of the records that are cached.
    fn renewed(&self, jobs: &[Job], checked: &Checked) -> Vec<(Bytes, Record)> {
        let written = jobs.iter().zip(&checked.outcomes);
        let written = written.filter(|(_, outcome)| matches!(outcome, Ok(Outcome::Committed(_))));
        // Each write of these has its row, in their order.
        let writes = written.flat_map(|(job, _)| &job.commit.mutations);
        let renewed = checked.rows.iter().zip(writes).filter_map(|((row, _), write)| {
            debug_assert_eq!(row.key, write.key);
            let newest = self.scratch.pending.get(&row.key).copied()?;
            let record = self.shared.cache.renewed(row, write, newest)?;
            Some((row.key.clone(), record))
        });
        renewed.collect()
    }

    /// Whether the commit of a write was made, as its blob is now named or was just replaced.
    fn names(&self, key: &Bytes, blob: &Blob) -> bool {
        match self.shared.overlay().get(key).map(|entry| entry.home) {
            Some(Home::Blob { id, .. }) => id == blob.id(),
            _ => false,
        }
    }

    fn count(&self, jobs: &[Job], outcomes: &[Result<Outcome>]) {
        debug_assert_eq!(jobs.len(), outcomes.len());
        let of = |wanted: fn(&Outcome) -> bool| {
            outcomes.iter().flatten().filter(|outcome| wanted(outcome)).count() as u64
        };
        let figures = &self.shared.figures;
        let conflicts = of(|outcome| *outcome == Outcome::Conflict);
        figures.conflicts.fetch_add(conflicts, Ordering::Relaxed);
        let written = of(|outcome| *outcome != Outcome::Conflict);
        figures.commits.fetch_add(written, Ordering::Relaxed);
    }
}

/// The overlay's entry for a row of the log.
pub(super) fn entry(
    row: Row,
    segment: &Arc<Segment>,
    bodies: u64,
    below: Option<bool>,
) -> (Bytes, Entry) {
    let place = match row.home {
        Home::Inline { at, .. } => Some((segment.clone(), bodies + at)),
        Home::Removed | Home::Empty | Home::Blob { .. } => None,
    };
    let Row { key, version, expires_at, meta, home } = row;
    (key, Entry { version, expires_at, meta, home, place, below })
}

fn size(commit: &Commit) -> u64 {
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
