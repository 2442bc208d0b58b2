//! A group of commits in one transaction: lock what they name, check what each expects against
//! what those before it leave; write, and end. Two round trips: the end is sent behind the writes
//! without waiting for them, as after one that failed it ends nothing.

use super::super::{Body, Commit, EngineError, NewRecord, Outcome, Precondition, Result};
use super::connection::{Fault, evict, silent, time_for, timely};
use super::{Inner, sql};
use bytes::Bytes;
use deadpool_postgres::Client;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Instant;
use tokio_postgres::Statement;
use tokio_postgres::types::ToSql;

/// What a try came to.
enum Tried {
    Done(Vec<Outcome>),
    /// Nothing was written; from the start again.
    Again(Fault),
    /// The connection broke while the transaction ended; what came of the commits if it was made.
    Unknown(Sent, Vec<Outcome>),
}

/// Why no outcome is known.
pub(super) enum Unmade {
    /// The database refused the commits, and nothing was written.
    Refused(EngineError),
    /// Nobody could be asked, or nobody can tell.
    Lost(EngineError),
    /// A row stayed locked by others, and nothing was written.
    Held,
}

/// For how long a transaction waits for each row that others have locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// Then it is [`Unmade::Held`].
    Briefly,
    /// Again and again.
    Long,
}

impl Unmade {
    /// What is told of it.
    pub(super) fn into_error(self) -> EngineError {
        match self {
            Unmade::Refused(e) | Unmade::Lost(e) => e,
            Unmade::Held => EngineError::Unavailable("others were in the way".into()),
        }
    }
}

/// A transaction whose end was not told.
struct Sent {
    /// A row that it writes, and the version that the row had before, 0 for no row.
    key: Bytes,
    before: i64,
    version: i64,
    mark: i64,
    why: String,
}

/// Bytes of a commit at most; the protocol has no room for much more in one message.
const COMMIT_BYTES_MAX: u64 = 1 << 30;

/// The rows as they are locked: version, and whether there is a record.
type Locked = HashMap<Vec<u8>, (i64, bool)>;

/// Rows to be written, by column.
#[derive(Default)]
struct Columns<'c> {
    key: Vec<&'c [u8]>,
    version: Vec<i64>,
    expires_at: Vec<i64>,
    live: Vec<bool>,
    meta: Vec<&'c [u8]>,
    body: Vec<&'c [u8]>,
}

impl<'c> Columns<'c> {
    fn push(&mut self, key: &'c [u8], version: i64, record: Option<(i64, &'c [u8], &'c [u8])>) {
        let (expires_at, meta, body) = record.unwrap_or_default();
        self.key.push(key);
        self.version.push(version);
        self.expires_at.push(expires_at);
        self.live.push(record.is_some());
        self.meta.push(meta);
        self.body.push(body);
    }

    async fn send(&self, client: &Client, statement: &Statement, mark: i64) -> Done {
        if self.key.is_empty() {
            return Ok(());
        }
        let Columns { key, version, expires_at, live, meta, body } = self;
        let params: [&(dyn ToSql + Sync); 7] = [key, expires_at, live, meta, body, version, &mark];
        client.execute(statement, &params).await.map(|_| ())
    }

    /// Bytes of keys, heads and bodies.
    fn bytes(&self) -> u64 {
        let all = self.key.iter().chain(&self.meta).chain(&self.body);
        all.map(|bytes| bytes.len() as u64).sum()
    }
}

/// The statements that write, prepared before the transaction: what is sent in it is sent at once
/// and in order, and nothing waits.
struct Prepared {
    insert: Statement,
    update: Statement,
    add_counts: Statement,
}

type Done = std::result::Result<(), tokio_postgres::Error>;

/// What a group of commits comes to, against the rows as they are locked.
struct Judged<'c> {
    outcomes: Vec<Outcome>,
    /// The rows that are left, each with the version of the last commit that writes it.
    rows: BTreeMap<&'c [u8], (Option<&'c NewRecord>, i64)>,
}

impl Inner {
    /// Makes commits, again and again while others are in the way or no server answers, until a
    /// moment: all of those whose expectations hold, or none when it fails.
    pub(super) async fn commit(
        &self,
        commits: &[&Commit],
        wait: Wait,
        until: Instant,
    ) -> std::result::Result<Vec<Outcome>, Unmade> {
        let mut patience = super::Patience::until(until);
        loop {
            let fault = match self.client().await {
                Err(fault) => fault,
                Ok(client) => {
                    let tried = self.attempt(client, commits, wait).await;
                    match tried.map_err(Unmade::Refused)? {
                        Tried::Done(outcomes) => return Ok(outcomes),
                        Tried::Again(Fault::Held) if wait == Wait::Briefly => {
                            return Err(Unmade::Held);
                        }
                        Tried::Again(fault) => fault,
                        Tried::Unknown(sent, outcomes) => {
                            match self.resolve(&sent).await.map_err(Unmade::Lost)? {
                                true => return Ok(outcomes),
                                false => Fault::Crossed,
                            }
                        }
                    }
                }
            };
            patience.after(fault).await.map_err(Unmade::Lost)?;
        }
    }

    async fn attempt(&self, client: Client, commits: &[&Commit], wait: Wait) -> Result<Tried> {
        let (prepared, locked) = match timely(lock(&client, commits, wait)).await {
            Ok(locked) => locked,
            Err(fault) => return undone(client, fault).await,
        };
        let judged = self.judge(commits, &locked).and_then(|judged| Ok((judged, random_mark()?)));
        let (Judged { outcomes, rows }, mark) = match judged {
            Ok(judged) => judged,
            Err(e) => return undone(client, Fault::Refused(e)).await,
        };
        if outcomes.iter().all(|outcome| *outcome == Outcome::Conflict) {
            // Whether it is rolled back or cut, nothing is written.
            let _ = roll_back(client).await;
            return Ok(Tried::Done(outcomes));
        }
        match write(&client, &prepared, &rows, &locked, mark).await {
            Ok(None) => Ok(Tried::Done(outcomes)),
            Ok(Some((fault, key, version))) => match fault {
                Fault::Cut(why) => {
                    evict(client);
                    let before = locked.get(&key[..]).map_or(0, |(version, _)| *version);
                    Ok(Tried::Unknown(Sent { key, before, version, mark, why }, outcomes))
                }
                fault @ (Fault::Refused(_) | Fault::Crossed | Fault::Held) => {
                    undone(client, fault).await
                }
            },
            Err(fault) => undone(client, fault).await,
        }
    }

    /// Decides every commit of a group, each as if those before it that hold were made.
    fn judge<'c>(&self, commits: &[&'c Commit], locked: &Locked) -> Result<Judged<'c>> {
        let above = locked.values().map(|(version, _)| version.cast_unsigned()).max();
        let above = above.map_or(0, |version| version + 1);
        let mut judged = Judged { outcomes: Vec::new(), rows: BTreeMap::new() };
        for commit in commits {
            let current = |key: &[u8]| match (judged.rows.get(key), locked.get(key)) {
                (Some((Some(_), version)), _) | (None, Some((version, true))) => *version,
                (Some((None, _)), _) | (None, Some((_, false)) | None) => 0,
            };
            let held = |preconditions: &Precondition| {
                current(&preconditions.key).cast_unsigned() == preconditions.version
            };
            if !commit.preconditions.iter().all(held) {
                judged.outcomes.push(Outcome::Conflict);
                continue;
            }
            let version = self.next_version(commit.version_min.max(above));
            let signed = i64::try_from(version)
                .map_err(|_| EngineError::Failed("a version beyond 63 bits".into()))?;
            // What must stay absent is held by a row that is none.
            for preconditions in
                commit.preconditions.iter().filter(|preconditions| preconditions.version == 0)
            {
                if !locked.contains_key(&preconditions.key[..]) {
                    judged.rows.entry(&preconditions.key).or_insert((None, signed));
                }
            }
            for write in &commit.mutations {
                judged.rows.insert(&write.key, (write.record.as_ref(), signed));
            }
            judged.outcomes.push(Outcome::Committed(version));
        }
        Ok(judged)
    }

    /// For each commit, whether others have locked a row that it needs.
    pub(super) async fn held(&self, commits: &[&Commit]) -> std::result::Result<Vec<bool>, Fault> {
        let client = self.client().await?;
        let held = match timely(look_for_held(&client, commits)).await {
            Ok(held) => held,
            Err(fault) => {
                evict(client);
                return Err(fault);
            }
        };
        let needs = |commit: &&Commit| {
            let written = commit.mutations.iter().map(|write| &write.key);
            let mut named =
                written.chain(commit.preconditions.iter().map(|preconditions| &preconditions.key));
            named.any(|key| held.contains(&key[..]))
        };
        Ok(commits.iter().map(needs).collect())
    }

    /// Whether a transaction whose end was not told was committed. Waits until it has ended.
    async fn resolve(&self, sent: &Sent) -> Result<bool> {
        let mut patience = super::Patience::new();
        loop {
            let looked = async {
                let client = self.client().await?;
                let found = timely(look(&client, &sent.key)).await;
                if found.is_err() {
                    evict(client);
                }
                found
            };
            match looked.await {
                Ok((version, mark)) if version == sent.version && mark == sent.mark => {
                    return Ok(true);
                }
                Ok((version, _)) if version == sent.before => return Ok(false),
                // Written over since, by who knows whom: nobody can say.
                Ok(_) => {
                    let why = format!("a commit's connection broke as it ended ({})", sent.why);
                    return Err(EngineError::Failed(why));
                }
                Err(fault) => patience.after(fault).await.map_err(|e| in_doubt(&e, sent))?,
            }
        }
    }
}

/// Nobody could be asked whether a commit was made: it is not said that it was not.
fn in_doubt(e: &EngineError, sent: &Sent) -> EngineError {
    EngineError::Failed(format!("a commit's end was not told ({}), and then: {e}", sent.why))
}

/// The keys that commits write, and those that they only expect something of.
fn named<'c>(commits: &[&'c Commit]) -> (Vec<&'c [u8]>, Vec<&'c [u8]>) {
    let written = commits.iter().flat_map(|commit| &commit.mutations);
    let writes: BTreeSet<&[u8]> = written.map(|write| &write.key[..]).collect();
    let expected = commits.iter().flat_map(|commit| &commit.preconditions);
    let expects: BTreeSet<&[u8]> = expected.map(|preconditions| &preconditions.key[..]).collect();
    let expects = expects.difference(&writes).copied().collect();
    (writes.into_iter().collect(), expects)
}

/// Begins a transaction and locks all rows that the commits name.
async fn lock(
    client: &Client,
    commits: &[&Commit],
    wait: Wait,
) -> std::result::Result<(Prepared, Locked), tokio_postgres::Error> {
    let (writes, expects) = named(commits);
    let begin = match wait {
        Wait::Briefly => sql::BEGIN_BRIEFLY,
        Wait::Long => sql::BEGIN,
    };
    let prepared = Prepared {
        insert: client.prepare_cached(sql::INSERT).await?,
        update: client.prepare_cached(sql::UPDATE).await?,
        add_counts: client.prepare_cached(sql::ADD_COUNTS).await?,
    };
    let for_update = client.prepare_cached(sql::LOCK_WRITES).await?;
    let for_share = client.prepare_cached(sql::LOCK_EXPECTS).await?;
    let share = async {
        match expects.is_empty() {
            true => Ok(Vec::new()),
            false => client.query(&for_share, &[&expects]).await,
        }
    };
    let update: &[&(dyn ToSql + Sync)] = &[&writes];
    // Sent one behind the other, without waiting. The first that failed tells why: those behind it
    // only say that it did.
    let (begun, written, shared) =
        tokio::join!(client.batch_execute(begin), client.query(&for_update, update), share);
    begun?;
    let (written, shared) = (written?, shared?);
    let rows = written.iter().chain(&shared);
    let mut locked: Locked = HashMap::new();
    for row in rows {
        locked.insert(row.try_get(0)?, (row.try_get(1)?, row.try_get(2)?));
    }
    Ok((prepared, locked))
}

/// The keys of the rows that commits name and others have locked.
async fn look_for_held(
    client: &Client,
    commits: &[&Commit],
) -> std::result::Result<HashSet<Vec<u8>>, tokio_postgres::Error> {
    let (writes, expects) = named(commits);
    let (writes, expects): (&[&(dyn ToSql + Sync)], &[&(dyn ToSql + Sync)]) =
        (&[&writes], &[&expects]);
    let of_writes = client.prepare_cached(sql::HELD_WRITES).await?;
    let of_expects = client.prepare_cached(sql::HELD_EXPECTS).await?;
    // Rolled back: the end of a transaction that locked rows would wait for replicas.
    let (begun, written, expected, ended) = tokio::join!(
        client.batch_execute("BEGIN"),
        client.query(&of_writes, writes),
        client.query(&of_expects, expects),
        client.batch_execute("ROLLBACK"),
    );
    begun?;
    let (written, expected) = (written?, expected?);
    ended?;
    written.iter().chain(&expected).map(|row| row.try_get(0)).collect()
}

type Written = std::result::Result<Option<(Fault, Bytes, i64)>, Fault>;

/// Writes and ends the transaction; a fault comes with a row and its version, by which to see
/// whether it was.
async fn write(
    client: &Client,
    prepared: &Prepared,
    rows: &BTreeMap<&[u8], (Option<&NewRecord>, i64)>,
    locked: &Locked,
    mark: i64,
) -> Written {
    let (mut insert, mut update) = (Columns::default(), Columns::default());
    let mut counts: BTreeMap<i32, i64> = BTreeMap::new();
    for (key, (record, version)) in rows {
        let record = match record {
            None => None,
            Some(record) => {
                let Body::Bytes(body) = &record.body else {
                    let foreign = EngineError::Failed("a stored body of another engine".into());
                    return Err(Fault::Refused(foreign));
                };
                let expires_at = i64::try_from(record.expires_at).unwrap_or(i64::MAX);
                Some((expires_at, &record.meta[..], &body[..]))
            }
        };
        let old = locked.get(*key);
        let was = old.is_some_and(|(_, live)| *live);
        let first = i32::from(key.first().copied().unwrap_or_default());
        *counts.entry(first).or_default() += i64::from(record.is_some()) - i64::from(was);
        let columns = if old.is_some() { &mut update } else { &mut insert };
        columns.push(key, *version, record);
    }
    counts.retain(|_, change| *change != 0);
    let seen = rows.first_key_value();
    let seen = seen.map(|(key, (_, version))| (Bytes::copy_from_slice(key), *version));
    let bytes = insert.bytes() + update.bytes();
    if bytes > COMMIT_BYTES_MAX {
        let e = format!("a commit of more than {COMMIT_BYTES_MAX} bytes");
        return Err(Fault::Refused(EngineError::Failed(e)));
    }
    let sent = async {
        tokio::join!(
            insert.send(client, &prepared.insert, mark),
            update.send(client, &prepared.update, mark),
            add_counts(client, &prepared.add_counts, &counts),
            client.batch_execute("COMMIT"),
        )
    };
    let time = time_for(bytes);
    let Ok((inserted, updated, counted, ended)) = tokio::time::timeout(time, sent).await else {
        return Ok(seen.map(|(key, version)| (silent(), key, version)));
    };
    // In this order: what follows a statement that failed only says so.
    let fault = match inserted.and(updated).and(counted) {
        // A statement that the database refused: the end that followed it rolled back.
        Err(e) if e.as_db_error().is_some() => return Err(e.into()),
        Err(e) => unknown(&e),
        Ok(()) => match ended {
            Ok(()) => return Ok(None),
            Err(e) if e.as_db_error().is_some() => Fault::from(e),
            Err(e) => unknown(&e),
        },
    };
    // A commit that writes nothing has no end to be in doubt of.
    Ok(seen.map(|(key, version)| (fault, key, version)))
}

/// Whatever it was that the database did not say itself: the end may have reached it.
fn unknown(e: &tokio_postgres::Error) -> Fault {
    Fault::Cut(e.to_string())
}

async fn add_counts(client: &Client, statement: &Statement, counts: &BTreeMap<i32, i64>) -> Done {
    if counts.is_empty() {
        return Ok(());
    }
    let first: Vec<i32> = counts.keys().copied().collect();
    let change: Vec<i64> = counts.values().copied().collect();
    client.execute(statement, &[&first, &change]).await.map(|_| ())
}

/// After a fault before the end: the transaction is given up, and nothing of it stays.
async fn undone(client: Client, fault: Fault) -> Result<Tried> {
    match fault {
        Fault::Cut(_) => evict(client),
        Fault::Refused(_) | Fault::Crossed | Fault::Held => {
            let _ = roll_back(client).await;
        }
    }
    match fault {
        Fault::Refused(e) => Err(e),
        fault @ (Fault::Cut(_) | Fault::Crossed | Fault::Held) => Ok(Tried::Again(fault)),
    }
}

async fn roll_back(client: Client) -> std::result::Result<(), Fault> {
    let done = timely(client.batch_execute("ROLLBACK")).await;
    if done.is_err() {
        evict(client);
    }
    done
}

/// Version and mark of a row, once nobody is writing it any more, and once what is found is as
/// durable as the database makes a commit: an earlier one may have ended without its replicas.
async fn look(
    client: &Client,
    key: &Bytes,
) -> std::result::Result<(i64, i64), tokio_postgres::Error> {
    let place = client.prepare_cached(sql::PLACE).await?;
    let touch = client.prepare_cached(sql::TOUCH).await?;
    client.execute(&place, &[&&key[..]]).await?;
    let row = client.query_one(&touch, &[&&key[..]]).await?;
    Ok((row.try_get(0)?, row.try_get(1)?))
}

fn random_mark() -> Result<i64> {
    let mut random = [0; 8];
    getrandom::fill(&mut random)
        .map_err(|e| EngineError::Failed(format!("no random numbers: {e}")))?;
    Ok(i64::from_le_bytes(random))
}
