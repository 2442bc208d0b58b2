//! Reads that wait together are asked together: one statement with many keys costs the database
//! and the network hardly more than one with a single key. Each is sent after all reads in it came,
//! so that they see every commit that was answered before.

use super::super::{EngineError, Projection, Record, Result};
use super::{Inner, bytes, misshapen, number, record_at, sql};
use bytes::Bytes;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio_postgres::Row;

/// Statements under way at once, for heads and for whole records each.
const AT_ONCE: usize = 2;
/// Keys in one statement at most: bodies come with them, of up to 256 KiB each.
const KEYS_MAX: usize = 32;
/// Reads that wait for their statement; more wait to be taken in.
const WAITING_MAX: usize = 1024;

/// What a read found.
#[derive(Clone, Debug)]
pub(super) enum Found {
    /// No record.
    Nothing,
    /// The record, with its body if that was asked for.
    Record(Record),
    /// One with a body of so many bytes, which is to be read by itself.
    Large(u64),
}

struct Ask {
    key: Bytes,
    reply: oneshot::Sender<Result<Found>>,
}

/// Takes reads in.
pub(super) struct Reads {
    heads: mpsc::Sender<Ask>,
    wholes: mpsc::Sender<Ask>,
}

impl Reads {
    /// Begins to serve; ends when it is dropped.
    pub(super) fn new(inner: &Arc<Inner>) -> Reads {
        let begin = |part: Projection| {
            let (sender, receiver) = mpsc::channel(WAITING_MAX);
            let receiver = Arc::new(Mutex::new(receiver));
            for _ in 0..AT_ONCE {
                tokio::spawn(serve(inner.clone(), receiver.clone(), part));
            }
            sender
        };
        Reads { heads: begin(Projection::Meta), wholes: begin(Projection::Full) }
    }

    /// Reads a record together with others.
    pub(super) async fn read(&self, key: &[u8], part: Projection) -> Result<Found> {
        let (reply, answer) = oneshot::channel();
        let ask = Ask { key: Bytes::copy_from_slice(key), reply };
        let to = match part {
            Projection::Meta => &self.heads,
            Projection::Full => &self.wholes,
        };
        to.send(ask).await.map_err(|_| EngineError::Closed)?;
        answer.await.map_err(|_| EngineError::Closed)?
    }
}

async fn serve(inner: Arc<Inner>, asks: Arc<Mutex<mpsc::Receiver<Ask>>>, part: Projection) {
    loop {
        let taken = {
            let mut asks = asks.lock().await;
            let mut taken = Vec::new();
            if asks.recv_many(&mut taken, KEYS_MAX).await == 0 {
                return;
            }
            taken
        };
        let inner = inner.clone();
        // A task of its own: whatever befalls these, others are served after them.
        let _ = tokio::spawn(async move { answer(&inner, taken, part).await }).await;
    }
}

async fn answer(inner: &Inner, asks: Vec<Ask>, part: Projection) {
    let found = look(inner, &asks, part).await;
    for Ask { key, reply } in asks {
        let answer = match &found {
            // Several may have asked for the same.
            Ok(found) => match found.get(&key[..]) {
                Some(found) => found.clone(),
                None => Ok(Found::Nothing),
            },
            Err(e) => Err(e.clone()),
        };
        let _ = reply.send(answer);
    }
}

type All = HashMap<Vec<u8>, Result<Found>>;

async fn look(inner: &Inner, asks: &[Ask], part: Projection) -> Result<All> {
    let keys: Vec<&[u8]> = asks.iter().map(|ask| &ask.key[..]).collect();
    let text = match part {
        Projection::Meta => sql::READ_HEADS,
        Projection::Full => sql::READ_SMALL,
    };
    let rows = inner.rows(text, &[&keys]).await?;
    rows.iter().map(|row| Ok((bytes(row, 0)?.to_vec(), found(row, part)))).collect()
}

/// What a row tells: its columns are key, version, due, head, and for a whole record the body, if
/// it is small, and its size.
fn found(row: &Row, part: Projection) -> Result<Found> {
    if part == Projection::Meta {
        return record_at(row, 1, Bytes::new()).map(Found::Record);
    }
    let small: Option<&[u8]> = row.try_get(4).map_err(misshapen)?;
    match small {
        Some(body) => record_at(row, 1, Bytes::copy_from_slice(body)).map(Found::Record),
        None => Ok(Found::Large(number(row, 5)?)),
    }
}
