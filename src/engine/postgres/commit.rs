//! Commits a group in one transaction of two round trips. The first round trip locks all rows, so
//! that the commits can be evaluated. The second writes the rows and commits the transaction.
//! COMMIT is pipelined after the writes; if a write failed, COMMIT rolls back.

use super::super::{Body, Commit, EngineError, NewRecord, Outcome, Result};
use super::connection::{Fault, Params, evict, timed_out, transfer_timeout, with_deadline};
use super::{Backoff, Inner, sql};
use bytes::Bytes;
use deadpool_postgres::Client;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Instant;
use tokio_postgres::Statement;
use tokio_postgres::types::ToSql;

/// Maximum size of the rows that a transaction writes, in bytes. The protocol limits the size of a
/// message.
const TRANSACTION_BYTES_MAX: u64 = 1 << 30;

/// Why a group was not committed.
pub(super) enum CommitError {
    /// The database rejected the transaction; nothing was written.
    Rejected(EngineError),
    /// The retries were exhausted, or the outcome is unknown.
    Failed(EngineError),
    /// The wait of [`LockWait::Short`] expired; nothing was written.
    LockTimeout,
}

impl CommitError {
    /// Converts the error into the one returned to the caller.
    pub(super) fn into_engine_error(self) -> EngineError {
        match self {
            CommitError::Rejected(e) | CommitError::Failed(e) => e,
            CommitError::LockTimeout => super::contention(),
        }
    }
}

/// How long a transaction waits for each locked row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LockWait {
    /// Waits half a second, then fails with [`CommitError::LockTimeout`].
    Short,
    /// Waits several seconds, and retries until the deadline.
    Long,
}

enum Attempt {
    Done(Vec<Outcome>),
    /// Nothing was written; retry.
    Retry(Fault),
    /// The connection was lost during COMMIT; the outcomes are valid if the transaction committed.
    InDoubt(InDoubt, Vec<Outcome>),
}

/// A transaction whose COMMIT was not acknowledged, identified by one of the rows it writes.
struct InDoubt {
    key: Bytes,
    /// The row's version before the transaction; 0 if the row did not exist.
    old_version: i64,
    version: i64,
    mark: i64,
    cause: String,
}

/// The locked rows by key, each with its version and whether it is live.
type LockedRows = HashMap<Vec<u8>, (i64, bool)>;

/// The rows to write, each with the version of the last commit that writes it; `None` is a
/// tombstone.
type NewRows<'c> = BTreeMap<&'c [u8], (Option<&'c NewRecord>, i64)>;
type OutcomesAndRows<'c> = (Vec<Outcome>, NewRows<'c>);

type StatementResult<T = ()> = Result<T, tokio_postgres::Error>;

/// The rows to write, as one array per column.
#[derive(Default)]
struct RowColumns<'c> {
    key: Vec<&'c [u8]>,
    version: Vec<i64>,
    expires_at: Vec<i64>,
    live: Vec<bool>,
    meta: Vec<&'c [u8]>,
    body: Vec<&'c [u8]>,
}

impl<'c> RowColumns<'c> {
    fn push(&mut self, key: &'c [u8], version: i64, record: Option<(i64, &'c [u8], &'c [u8])>) {
        let (expires_at, meta, body) = record.unwrap_or_default();
        self.key.push(key);
        self.version.push(version);
        self.expires_at.push(expires_at);
        self.live.push(record.is_some());
        self.meta.push(meta);
        self.body.push(body);
    }

    async fn send(&self, client: &Client, statement: &Statement, mark: i64) -> StatementResult {
        if self.key.is_empty() {
            return Ok(());
        }
        let RowColumns { key, version, expires_at, live, meta, body } = self;
        let params: [&(dyn ToSql + Sync); 7] = [key, expires_at, live, meta, body, version, &mark];
        client.execute(statement, &params).await.map(|_| ())
    }

    /// Returns the total size of the keys, metas and bodies, in bytes.
    fn bytes(&self) -> u64 {
        let all = self.key.iter().chain(&self.meta).chain(&self.body);
        all.map(|bytes| bytes.len() as u64).sum()
    }
}

/// The write statements, prepared before the transaction so that they can be pipelined in it.
struct WriteStatements {
    insert: Statement,
    update: Statement,
    add_counts: Statement,
}

impl Inner {
    /// Commits a group atomically, retrying on conflicts and lost connections until `deadline`.
    /// Commits whose preconditions fail are skipped.
    pub(super) async fn commit(
        &self,
        commits: &[&Commit],
        wait: LockWait,
        deadline: Instant,
    ) -> Result<Vec<Outcome>, CommitError> {
        let mut backoff = Backoff::until(deadline);
        loop {
            let fault = match self.client().await {
                Err(fault) => fault,
                Ok(client) => {
                    let attempt = self.attempt(client, commits, wait).await;
                    match attempt.map_err(CommitError::Rejected)? {
                        Attempt::Done(outcomes) => return Ok(outcomes),
                        Attempt::Retry(Fault::LockTimeout) if wait == LockWait::Short => {
                            return Err(CommitError::LockTimeout);
                        }
                        Attempt::Retry(fault) => fault,
                        Attempt::InDoubt(transaction, outcomes) => {
                            match self.resolve(&transaction).await.map_err(CommitError::Failed)? {
                                true => return Ok(outcomes),
                                false => Fault::Conflict,
                            }
                        }
                    }
                }
            };
            backoff.wait(fault).await.map_err(CommitError::Failed)?;
        }
    }

    async fn attempt(&self, client: Client, group: &[&Commit], wait: LockWait) -> Result<Attempt> {
        let (statements, locked) = match with_deadline(begin(&client, group, wait)).await {
            Ok(locked) => locked,
            Err(fault) => return abort(client, fault).await,
        };
        let evaluated = self.evaluate(group, &locked);
        let ((outcomes, rows), mark) = match evaluated.and_then(|rows| Ok((rows, random_mark()?))) {
            Ok(evaluated) => evaluated,
            Err(e) => return abort(client, Fault::Rejected(e)).await,
        };
        if outcomes.iter().all(|outcome| *outcome == Outcome::Conflict) {
            // Nothing is written even if the rollback fails.
            let _ = roll_back(client).await;
            return Ok(Attempt::Done(outcomes));
        }
        match write_and_commit(&client, &statements, &rows, &locked, mark).await {
            Ok(None) => Ok(Attempt::Done(outcomes)),
            Ok(Some((fault, key, version))) => match fault {
                Fault::Disconnected(cause) => {
                    evict(client);
                    let old_version = locked.get(&key[..]).map_or(0, |(version, _)| *version);
                    let transaction = InDoubt { key, old_version, version, mark, cause };
                    Ok(Attempt::InDoubt(transaction, outcomes))
                }
                fault @ (Fault::Rejected(_) | Fault::Conflict | Fault::LockTimeout) => {
                    abort(client, fault).await
                }
            },
            Err(fault) => abort(client, fault).await,
        }
    }

    /// Evaluates each commit against the locked rows as modified by the preceding commits. Returns
    /// the outcomes and the rows to write.
    fn evaluate<'c>(&self, all: &[&'c Commit], locked: &LockedRows) -> Result<OutcomesAndRows<'c>> {
        let highest = locked.values().map(|(version, _)| version.cast_unsigned()).max();
        let version_min = highest.map_or(0, |version| version + 1);
        let (mut outcomes, mut rows) = (Vec::new(), NewRows::new());
        for commit in all {
            let version_of = |key: &[u8]| match (rows.get(key), locked.get(key)) {
                (Some((Some(_), version)), _) | (None, Some((version, true))) => *version,
                (Some((None, _)), _) | (None, Some((_, false)) | None) => 0,
            };
            if !commit.preconditions.iter().all(|p| version_of(&p.key).cast_unsigned() == p.version)
            {
                outcomes.push(Outcome::Conflict);
                continue;
            }
            let version = self.next_version(commit.version_min.max(version_min));
            let signed = i64::try_from(version)
                .map_err(|_| EngineError::Failed("the version exceeds 63 bits".into()))?;
            // A missing row cannot be locked. Insert a tombstone instead, to detect a concurrent
            // insert.
            for absent in commit.preconditions.iter().filter(|p| p.version == 0) {
                if !locked.contains_key(&absent.key[..]) {
                    rows.entry(&absent.key).or_insert((None, signed));
                }
            }
            for mutation in &commit.mutations {
                rows.insert(&mutation.key, (mutation.record.as_ref(), signed));
            }
            outcomes.push(Outcome::Committed(version));
        }
        Ok((outcomes, rows))
    }

    /// Returns, for each commit, whether it needs a row that another transaction has locked.
    pub(super) async fn blocked(&self, commits: &[&Commit]) -> Result<Vec<bool>, Fault> {
        let client = self.client().await?;
        let blocked = with_deadline(blocked_keys(&client, commits)).await;
        if blocked.is_err() {
            evict(client);
        }
        let blocked = blocked?;
        let is_blocked = |commit: &&Commit| {
            let written = commit.mutations.iter().map(|mutation| &mutation.key);
            let mut keys = written.chain(commit.preconditions.iter().map(|p| &p.key));
            keys.any(|key| blocked.contains(&key[..]))
        };
        Ok(commits.iter().map(is_blocked).collect())
    }

    /// Waits for an in-doubt transaction to end, and returns whether it committed.
    async fn resolve(&self, transaction: &InDoubt) -> Result<bool> {
        let mut backoff = Backoff::new();
        loop {
            let lookup = async {
                let client = self.client().await?;
                let row = with_deadline(touch_row(&client, &transaction.key)).await;
                if row.is_err() {
                    evict(client);
                }
                row
            };
            let cause = &transaction.cause;
            match lookup.await {
                Ok((version, mark))
                    if version == transaction.version && mark == transaction.mark =>
                {
                    return Ok(true);
                }
                Ok((version, _)) if version == transaction.old_version => return Ok(false),
                // The row has been overwritten since the commit, so the outcome cannot be
                // determined.
                Ok(_) => {
                    let e = format!("the connection was lost during a commit ({cause})");
                    return Err(EngineError::Failed(e));
                }
                // Do not return `Unavailable`, because it states that nothing was written.
                Err(fault) => backoff.wait(fault).await.map_err(|e| {
                    EngineError::Failed(format!("a commit was not acknowledged ({cause}): {e}"))
                })?,
            }
        }
    }
}

/// Returns the keys that the commits write, and the keys that they only check.
fn keys<'c>(commits: &[&'c Commit]) -> (Vec<&'c [u8]>, Vec<&'c [u8]>) {
    let mutations = commits.iter().flat_map(|commit| &commit.mutations);
    let writes: BTreeSet<&[u8]> = mutations.map(|mutation| &mutation.key[..]).collect();
    let preconditions = commits.iter().flat_map(|commit| &commit.preconditions);
    let checks: BTreeSet<&[u8]> = preconditions.map(|p| &p.key[..]).collect();
    let checks = checks.difference(&writes).copied().collect();
    (writes.into_iter().collect(), checks)
}

/// Begins a transaction and locks all rows that the commits write or check.
async fn begin(
    client: &Client,
    commits: &[&Commit],
    wait: LockWait,
) -> StatementResult<(WriteStatements, LockedRows)> {
    let (writes, checks) = keys(commits);
    let begin = match wait {
        LockWait::Short => sql::BEGIN_SHORT_WAIT,
        LockWait::Long => sql::BEGIN_LONG_WAIT,
    };
    let statements = WriteStatements {
        insert: client.prepare_cached(sql::INSERT).await?,
        update: client.prepare_cached(sql::UPDATE).await?,
        add_counts: client.prepare_cached(sql::ADD_COUNTS).await?,
    };
    let lock_writes = client.prepare_cached(sql::LOCK_WRITES).await?;
    let lock_checks = client.prepare_cached(sql::LOCK_CHECKS).await?;
    let checked = async {
        match checks.is_empty() {
            true => Ok(Vec::new()),
            false => client.query(&lock_checks, &[&checks]).await,
        }
    };
    let params: Params<'_> = &[&writes];
    // The statements are pipelined. Report the first failure; later ones only state that the
    // transaction was aborted.
    let (begun, written, checked) =
        tokio::join!(client.batch_execute(begin), client.query(&lock_writes, params), checked);
    begun?;
    let (written, checked) = (written?, checked?);
    let mut locked = LockedRows::new();
    for row in written.iter().chain(&checked) {
        locked.insert(row.try_get(0)?, (row.try_get(1)?, row.try_get(2)?));
    }
    Ok((statements, locked))
}

/// Returns those keys of the commits that have a row locked by another transaction.
async fn blocked_keys(client: &Client, commits: &[&Commit]) -> StatementResult<HashSet<Vec<u8>>> {
    let (writes, checks) = keys(commits);
    let (writes, checks): (Params<'_>, Params<'_>) = (&[&writes], &[&checks]);
    let blocked_writes = client.prepare_cached(sql::BLOCKED_WRITES).await?;
    let blocked_checks = client.prepare_cached(sql::BLOCKED_CHECKS).await?;
    // End with ROLLBACK, because COMMIT of a transaction that locked rows waits for synchronous
    // replicas.
    let (begun, written, checked, ended) = tokio::join!(
        client.batch_execute("BEGIN"),
        client.query(&blocked_writes, writes),
        client.query(&blocked_checks, checks),
        client.batch_execute("ROLLBACK"),
    );
    begun?;
    let (written, checked) = (written?, checked?);
    ended?;
    written.iter().chain(&checked).map(|row| row.try_get(0)).collect()
}

/// Writes the rows and commits. `Err` means that nothing was written. `Ok(Some(_))` is a fault
/// during COMMIT, with the key and version of one of the rows written.
async fn write_and_commit(
    client: &Client,
    statements: &WriteStatements,
    rows: &NewRows<'_>,
    locked: &LockedRows,
    mark: i64,
) -> Result<Option<(Fault, Bytes, i64)>, Fault> {
    let (mut insert, mut update) = (RowColumns::default(), RowColumns::default());
    let mut counts: BTreeMap<i32, i64> = BTreeMap::new();
    for (key, (record, version)) in rows {
        let record = match record {
            None => None,
            Some(record) => {
                let Body::Bytes(body) = &record.body else {
                    let e = EngineError::Failed("the body belongs to another engine".into());
                    return Err(Fault::Rejected(e));
                };
                let expires_at = i64::try_from(record.expires_at).unwrap_or(i64::MAX);
                Some((expires_at, &record.meta[..], &body[..]))
            }
        };
        let old = locked.get(*key);
        let was_live = old.is_some_and(|(_, live)| *live);
        let first = i32::from(key.first().copied().unwrap_or_default());
        *counts.entry(first).or_default() += i64::from(record.is_some()) - i64::from(was_live);
        let columns = if old.is_some() { &mut update } else { &mut insert };
        columns.push(key, *version, record);
    }
    counts.retain(|_, change| *change != 0);
    // A transaction that writes no rows cannot be in doubt.
    let first_row = rows.first_key_value();
    let first_row = first_row.map(|(key, (_, version))| (Bytes::copy_from_slice(key), *version));
    let bytes = insert.bytes() + update.bytes();
    if bytes > TRANSACTION_BYTES_MAX {
        let e = format!("a commit has more than {TRANSACTION_BYTES_MAX} bytes");
        return Err(Fault::Rejected(EngineError::Failed(e)));
    }
    let pipeline = async {
        tokio::join!(
            insert.send(client, &statements.insert, mark),
            update.send(client, &statements.update, mark),
            add_counts(client, &statements.add_counts, &counts),
            client.batch_execute("COMMIT"),
        )
    };
    let finished = tokio::time::timeout(transfer_timeout(bytes), pipeline).await;
    let Ok((inserted, updated, counted, committed)) = finished else {
        return Ok(first_row.map(|(key, version)| (timed_out(), key, version)));
    };
    // If the error is not from the database itself, COMMIT may have been executed.
    let lost = |e: tokio_postgres::Error| Fault::Disconnected(e.to_string());
    // Report the first failure; later ones only state that the transaction was aborted.
    let fault = match inserted.and(updated).and(counted) {
        // The COMMIT that followed rolled back.
        Err(e) if e.as_db_error().is_some() => return Err(e.into()),
        Err(e) => lost(e),
        Ok(()) => match committed {
            Ok(()) => return Ok(None),
            Err(e) if e.as_db_error().is_some() => Fault::from(e),
            Err(e) => lost(e),
        },
    };
    Ok(first_row.map(|(key, version)| (fault, key, version)))
}

async fn add_counts(
    client: &Client,
    statement: &Statement,
    counts: &BTreeMap<i32, i64>,
) -> StatementResult {
    if counts.is_empty() {
        return Ok(());
    }
    let first: Vec<i32> = counts.keys().copied().collect();
    let change: Vec<i64> = counts.values().copied().collect();
    client.execute(statement, &[&first, &change]).await.map(|_| ())
}

/// Ends a transaction that failed before COMMIT; nothing was written.
async fn abort(client: Client, fault: Fault) -> Result<Attempt> {
    if let Fault::Disconnected(_) = fault {
        evict(client);
    } else {
        let _ = roll_back(client).await;
    }
    if let Fault::Rejected(e) = fault { Err(e) } else { Ok(Attempt::Retry(fault)) }
}

async fn roll_back(client: Client) -> Result<(), Fault> {
    let result = with_deadline(client.batch_execute("ROLLBACK")).await;
    if result.is_err() {
        evict(client);
    }
    result
}

/// Returns the version and the mark of a row, after all earlier transactions on it have ended.
///
/// The update makes the result as durable as any commit. Without it, the synchronous replicas may
/// not have confirmed the transaction that wrote the row.
async fn touch_row(client: &Client, key: &Bytes) -> StatementResult<(i64, i64)> {
    let ensure = client.prepare_cached(sql::ENSURE_ROW).await?;
    let touch = client.prepare_cached(sql::TOUCH_ROW).await?;
    client.execute(&ensure, &[&&key[..]]).await?;
    let row = client.query_one(&touch, &[&&key[..]]).await?;
    Ok((row.try_get(0)?, row.try_get(1)?))
}

fn random_mark() -> Result<i64> {
    let mut random = [0; 8];
    getrandom::fill(&mut random)
        .map_err(|e| EngineError::Failed(format!("could not generate a random number: {e}")))?;
    Ok(i64::from_le_bytes(random))
}
