//! The database file: how it is made, opened and recognised. docs/format.md describes it.

use super::super::{EngineError, Result};
use rusqlite::{Connection, ErrorCode, OpenFlags, ToSql};
use std::fmt::Write;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The version of the data directory's format that this build writes and reads.
pub(super) const FORMAT_VERSION: i64 = 1;
/// Marks the file as ours: "STDF".
const APPLICATION_ID: i64 = 0x5354_4446;
/// The row of `counts` that holds the bytes of all blob files; rows 0 to 255 count records by the
/// first byte of their keys.
pub(super) const BLOB_BYTES_COUNTER: i64 = 256;

/// KiB of pages kept by connections that read much once.
pub(super) const SCAN_CACHE_KIB: u32 = 4096;

/// How long to wait for a lock that a tool of the operator's may hold on the file.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

const SCHEMA: &str = "
    CREATE TABLE meta (
        id INTEGER PRIMARY KEY CHECK (id = 1), last_version INTEGER NOT NULL,
        log_start INTEGER NOT NULL, salt INTEGER NOT NULL
    ) STRICT;
    INSERT INTO meta VALUES (1, 0, 1, abs(random() % 4294967296));
    CREATE TABLE heads (
        key BLOB PRIMARY KEY, due INTEGER NOT NULL, data BLOB NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX heads_due ON heads (due) WHERE due > 0;
    CREATE TABLE bodies (id INTEGER PRIMARY KEY, sum INTEGER NOT NULL, body BLOB NOT NULL) STRICT;
    CREATE TABLE blobs (id INTEGER PRIMARY KEY, size INTEGER NOT NULL) STRICT;
    CREATE TABLE counts (first INTEGER PRIMARY KEY, n INTEGER NOT NULL) STRICT;
";

/// Where the commit log goes on from what the database has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CheckpointPosition {
    /// The last version that the database has for certain.
    pub(super) last_version: u64,
    /// Segments of the log before this one count no more.
    pub(super) log_start: u64,
    /// What the checksums of the log's frames begin with.
    pub(super) salt: u32,
}

/// Reads the mark.
pub(super) fn checkpoint_position(conn: &Connection) -> Result<CheckpointPosition> {
    let numbers = conn
        .query_row("SELECT last_version, log_start, salt FROM meta", [], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, u32>(2)?))
        })
        .map_err(|e| sqlite_error(&e))?;
    let (last_version, log_start, salt) = numbers;
    let (last_version, log_start) = (last_version.cast_unsigned(), log_start.cast_unsigned());
    Ok(CheckpointPosition { last_version, log_start, salt })
}

/// The database file in a data directory.
pub(super) fn path(dir: &Path) -> PathBuf {
    dir.join("steadfast.db")
}

/// The log beside it.
pub(super) fn wal_path(dir: &Path) -> PathBuf {
    dir.join("steadfast.db-wal")
}

/// Opens the database for writing; makes it when there is none. What it shows is durable.
pub(super) fn open_writer(dir: &Path) -> Result<Connection> {
    let path = path(dir);
    let conn = Connection::open_with_flags(
        uri(&path),
        OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_URI
            | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )
    .map_err(|e| sqlite_error(&e))?;
    configure(&conn, dir, &path).map_err(|e| with_advice(e, &path))?;
    sync_recovered_wal(&conn, &wal_path(dir)).map_err(|e| with_advice(e, &path))?;
    Ok(conn)
}

/// Makes durable what a killed process left in the database's log: a mark in it may never have been
/// synced, and whoever reads it gives up the segments of the commit log before it.
fn sync_recovered_wal(conn: &Connection, log: &Path) -> Result<()> {
    let unsynced =
        |e: io::Error| EngineError::Failed(format!("could not sync {}: {e}", log.display()));
    let file = match File::open(log) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        file => file.map_err(unsynced)?,
    };
    if file.metadata().map_err(unsynced)?.len() == 0 {
        return Ok(());
    }
    // A commit, for what follows in the log must not share a page with what is there.
    match sync(conn).map_err(|e| sqlite_error(&e)) {
        // Reads go on when the disk is full.
        Err(EngineError::Full(_)) => file.sync_all().map_err(unsynced),
        done => done,
    }
}

/// Makes durable all that was committed.
pub(super) fn sync(conn: &Connection) -> rusqlite::Result<()> {
    // An update that changes no byte would write nothing, and so sync nothing; this does.
    execute_synced(conn, &format!("PRAGMA user_version = {FORMAT_VERSION}"), &[])
}

/// A transaction of one statement that is durable, with all before it, when this returns.
pub(super) fn execute_synced(
    conn: &Connection,
    sql: &str,
    params: &[&dyn ToSql],
) -> rusqlite::Result<()> {
    conn.execute_batch("PRAGMA synchronous = FULL")?;
    let done = conn.execute(sql, params);
    let back = conn.execute_batch("PRAGMA synchronous = NORMAL");
    done.and(back)
}

/// The file as a URI that says not to count on power-safe overwrites: a synced commit then ends
/// with its page of 4 KiB, so that what is written after it cannot tear it.
fn uri(path: &Path) -> String {
    // An empty authority, or the start of an absolute path could be read as one.
    let mut uri = String::from(if path.is_absolute() { "file://" } else { "file:" });
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'/' | b'.' | b'-' | b'_' => {
                uri.push(char::from(*byte));
            }
            other => {
                let _ = write!(uri, "%{other:02X}");
            }
        }
    }
    uri.push_str("?psow=0");
    uri
}

fn configure(conn: &Connection, dir: &Path, path: &Path) -> Result<()> {
    let sql = |text: &str| conn.execute_batch(text).map_err(|e| sqlite_error(&e));
    let number = |name: &str| -> Result<i64> {
        conn.pragma_query_value(None, name, |row| row.get(0)).map_err(|e| sqlite_error(&e))
    };
    let tables: i64 = conn
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        .map_err(|e| sqlite_error(&e))?;
    let is_new = tables == 0 && number("user_version")? == 0;
    if is_new {
        if let Some(orphan) = super::wal::recovery::orphaned_data(dir)? {
            return Err(EngineError::Corrupt(format!(
                "{} is missing or empty, but {} of an earlier one is there: some of the data \
                 directory is lost; keep a copy of it as it is, and restore a backup",
                path.display(),
                orphan.display()
            )));
        }
        sql("PRAGMA page_size = 8192; PRAGMA auto_vacuum = INCREMENTAL;")?;
    } else {
        check_format(number("application_id")?, number("user_version")?, path)?;
    }
    conn.busy_timeout(BUSY_TIMEOUT).map_err(|e| sqlite_error(&e))?;
    sql("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA wal_autocheckpoint = 0;
         PRAGMA cache_size = -16384; PRAGMA temp_store = MEMORY; PRAGMA foreign_keys = OFF;
         PRAGMA journal_size_limit = 67108864;")?;
    let mode: String = conn
        .pragma_query_value(None, "journal_mode", |row| row.get(0))
        .map_err(|e| sqlite_error(&e))?;
    if mode != "wal" {
        return Err(EngineError::Failed(format!(
            "{} cannot have a write-ahead log here (a network file system?)",
            path.display()
        )));
    }
    if is_new {
        // Synced: without the salt nobody can read the log.
        sql(&format!(
            "PRAGMA synchronous = FULL; BEGIN IMMEDIATE; {SCHEMA} \
             PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {FORMAT_VERSION}; COMMIT; \
             PRAGMA synchronous = NORMAL;"
        ))?;
    }
    Ok(())
}

fn check_format(application_id: i64, format: i64, path: &Path) -> Result<()> {
    let path = path.display();
    if application_id != APPLICATION_ID {
        return Err(EngineError::Corrupt(format!(
            "{path} is a database of another program; choose another data directory"
        )));
    }
    if format != FORMAT_VERSION {
        return Err(EngineError::Corrupt(format!(
            "{path} has data format {format}, and this build reads format {FORMAT_VERSION}; run the \
             version of steadfast that wrote it, or choose another data directory"
        )));
    }
    Ok(())
}

fn with_advice(e: EngineError, path: &Path) -> EngineError {
    let path = path.display();
    match e {
        EngineError::Corrupt(what) if !what.contains("data director") => {
            EngineError::Corrupt(format!(
                "{path}: {what}; keep a copy of the data directory as it is, and restore a backup"
            ))
        }
        e @ (EngineError::Corrupt(_)
        | EngineError::Full(_)
        | EngineError::Failed(_)
        | EngineError::Unavailable(_)
        | EngineError::Closed) => e,
    }
}

/// Opens a database for reads, if it is one of this format.
pub(super) fn open_checked(dir: &Path) -> Result<Connection> {
    let conn = open_reader(dir, SCAN_CACHE_KIB)?;
    let path = path(dir);
    let number = |name: &str| -> Result<i64> {
        let number = conn.pragma_query_value(None, name, |row| row.get(0));
        number.map_err(|e| with_advice(sqlite_error(&e), &path))
    };
    check_format(number("application_id")?, number("user_version")?, &path)?;
    Ok(conn)
}

/// Opens one more connection, for reads alone, that keeps so many KiB of pages at most.
pub(super) fn open_reader(dir: &Path, cache: u32) -> Result<Connection> {
    let conn = Connection::open_with_flags(
        path(dir),
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )
    .map_err(|e| sqlite_error(&e))?;
    conn.busy_timeout(BUSY_TIMEOUT).map_err(|e| sqlite_error(&e))?;
    conn.execute_batch(&format!("PRAGMA cache_size = -{cache};")).map_err(|e| sqlite_error(&e))?;
    Ok(conn)
}

/// Sorts the library's errors into the seam's.
pub(super) fn sqlite_error(e: &rusqlite::Error) -> EngineError {
    match e.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => EngineError::Full(e.to_string()),
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            EngineError::Corrupt(e.to_string())
        }
        _ => EngineError::Failed(e.to_string()),
    }
}

/// Bytes of `heads.data` before the head: version, due, home (8 each) and the checksum (4).
const ROW_HEADER_BYTES: usize = 28;

/// A row of `heads`: one column, so that a scan reads few.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RecordRow<'d> {
    pub(super) version: u64,
    pub(super) expires_at: u64,
    /// Where the body is: 0 nowhere, above 0 a row of `bodies`, below 0 a blob.
    pub(super) body_ref: i64,
    pub(super) meta: &'d [u8],
}

impl<'d> RecordRow<'d> {
    /// To bytes, with the checksum that binds them to their key.
    pub(super) fn encode(&self, key: &[u8], out: &mut Vec<u8>) {
        out.clear();
        out.extend_from_slice(&self.version.to_le_bytes());
        out.extend_from_slice(&self.expires_at.to_le_bytes());
        out.extend_from_slice(&self.body_ref.to_le_bytes());
        let sum = row_checksum(key, out, self.meta);
        out.extend_from_slice(&sum.to_le_bytes());
        out.extend_from_slice(self.meta);
    }

    /// From bytes; `None` when they are damaged or of another key.
    pub(super) fn decode(key: &[u8], bytes: &'d [u8]) -> Option<RecordRow<'d>> {
        let (fixed, meta) = bytes.split_first_chunk::<ROW_HEADER_BYTES>()?;
        let (numbers, sum) = fixed.split_first_chunk::<24>()?;
        let ([version, expires_at, body_ref], []) = numbers.as_chunks::<8>() else { return None };
        if sum != row_checksum(key, numbers, meta).to_le_bytes() {
            return None;
        }
        let (version, expires_at) = (u64::from_le_bytes(*version), u64::from_le_bytes(*expires_at));
        Some(RecordRow { version, expires_at, body_ref: i64::from_le_bytes(*body_ref), meta })
    }
}

fn row_checksum(key: &[u8], numbers: &[u8], meta: &[u8]) -> u32 {
    const BUFFER_BYTES: usize = 160;
    // The key's length, so that no byte can move from it to what follows; keys are short.
    let mut hasher = crc32fast::Hasher::new_with_initial(key.len() as u32);
    let parts = [key, numbers, meta];
    let mut buffer = [0; BUFFER_BYTES];
    let mut rest = &mut buffer[..];
    // Short parts are copied into one: what is left over of each by wide steps goes byte by byte.
    let fits =
        parts.iter().all(|part| match std::mem::take(&mut rest).split_at_mut_checked(part.len()) {
            Some((to, orphan)) => {
                to.copy_from_slice(part);
                rest = orphan;
                true
            }
            None => false,
        });
    if fits {
        let len = parts.iter().map(|part| part.len()).sum();
        hasher.update(buffer.get(..len).unwrap_or_default());
    } else {
        parts.into_iter().for_each(|part| hasher.update(part));
    }
    hasher.finalize()
}

/// The checksum of a body; it binds the body to the version of its head.
pub(super) fn body_checksum(version: u64, body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&version.to_le_bytes());
    hasher.update(body);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checksum_is_the_same_however_its_parts_are_read() {
        let bytes = [7; 400];
        for (key, meta) in [(0, 0), (1, 17), (31, 17), (100, 36), (100, 37), (160, 0), (400, 400)] {
            let mut hasher = crc32fast::Hasher::new_with_initial(key as u32);
            for part in [&bytes[..key], &bytes[..24], &bytes[..meta]] {
                hasher.update(part);
            }
            let sum = row_checksum(&bytes[..key], &bytes[..24], &bytes[..meta]);
            assert_eq!(sum, hasher.finalize(), "{key} and {meta} bytes");
        }
    }
}
