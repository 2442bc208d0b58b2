//! All records as they were at one moment: a copy of the overlay, over a snapshot of the database
//! on a connection of its own. While it lives, no blob file is removed and no segment of the log
//! that it names is used again; the database's own log grows by what is folded meanwhile.

use super::super::{
    Body, BoxFuture, EngineError, KeyedRecord, Projection, Record, Result, Snapshot,
};
use super::blob_files::Pin;
use super::connection_pool::Reading;
use super::memtable::Entry;
use super::read_path::{Reads, resolve};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// What a body in a file counts for among the bytes in memory: it is an open file.
const STORED_BYTES: u64 = 256 << 10;

/// See the module.
pub(super) struct Frozen(Arc<State>);

struct State {
    reads: Arc<Reads>,
    /// One read at a time.
    reading: Mutex<Reading>,
    above: BTreeMap<Bytes, Entry>,
    _pin: Pin,
}

/// Where a record of a page is.
enum Found {
    /// In the log.
    Above(Entry),
    /// In the database, its body at this home.
    Below(Record, i64),
}

impl Frozen {
    /// A snapshot of this moment.
    pub(super) fn of(reads: Arc<Reads>) -> Result<Frozen> {
        // Files first: what the snapshot names must not go before it is known.
        let pin = reads.blobs.pin();
        let mut reading = reads.readers.apart()?;
        let above = {
            // Nothing moves from the overlay to the database meanwhile.
            let _view = reads.shared.view();
            reading.pin(0)?;
            reads.shared.overlay().entries()
        };
        let reading = Mutex::new(reading);
        Ok(Frozen(Arc::new(State { reads, reading, above, _pin: pin })))
    }
}

impl State {
    fn scan(
        &self,
        start: &Bytes,
        end: &Bytes,
        limit: usize,
        bytes: u64,
    ) -> Result<Vec<KeyedRecord>> {
        if start >= end {
            return Ok(Vec::new());
        }
        let reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        let below = reading.heads(start, end, limit, |key| !self.above.contains_key(key))?;
        let mut found: Vec<(Bytes, Found)> = Vec::with_capacity(below.len());
        let above = self.above.range::<Bytes, _>(start..end).filter(|(_, entry)| entry.live());
        let mut above = above.map(|(key, entry)| (key.clone(), entry.clone())).peekable();
        for (key, record, home) in below {
            while let Some((key, entry)) = above.next_if(|(other, _)| *other < key) {
                found.push((key, Found::Above(entry)));
            }
            if found.len() >= limit {
                break;
            }
            found.push((key, Found::Below(record, home)));
        }
        let room = limit.saturating_sub(found.len());
        found.extend(above.take(room).map(|(key, entry)| (key, Found::Above(entry))));
        found.truncate(limit);
        let (mut whole, mut held) = (Vec::with_capacity(found.len()), 0);
        for (key, found) in found {
            let record = self.whole(&reading, found)?;
            held += match &record.body {
                Body::Bytes(bytes) => bytes.len() as u64,
                Body::Stored(_) => STORED_BYTES,
            };
            whole.push((key, record));
            if held >= bytes {
                break;
            }
        }
        Ok(whole)
    }

    fn whole(&self, reading: &Reading, found: Found) -> Result<Record> {
        let (mut record, blob) = match found {
            Found::Above(entry) => resolve(entry, Projection::Full)?
                .ok_or_else(|| EngineError::Corrupt("a removal among records".into()))?,
            Found::Below(mut record, home) => {
                if home > 0 {
                    record.body = Body::Bytes(reading.body(record.version, home)?);
                }
                (record, (home < 0).then_some(-home))
            }
        };
        if let Some(id) = blob {
            let missing = || EngineError::Corrupt(format!("blob file {id:016x} is missing"));
            record.body = Body::Stored(Arc::new(self.reads.blobs.open(id)?.ok_or_else(missing)?));
        }
        Ok(record)
    }
}

impl Snapshot for Frozen {
    fn scan(
        &mut self,
        start: Bytes,
        end: Bytes,
        limit: usize,
        bytes: u64,
    ) -> BoxFuture<'_, Result<Vec<KeyedRecord>>> {
        let state = self.0.clone();
        Box::pin(async move {
            let read = move || state.scan(&start, &end, limit, bytes);
            let read = tokio::task::spawn_blocking(read).await;
            read.map_err(|e| EngineError::Failed(e.to_string()))?
        })
    }
}
