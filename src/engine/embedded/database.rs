//! The SQLite database file: schema, opening, and format checks. docs/format.md describes it.

use super::super::{EngineError, Result};
use super::data_dir::DataDir;
use super::wal::record::WalEntry;
use bytes::{Buf, BufMut};
use rusqlite::ffi::SQLITE_IOERR_SHMSIZE;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, Row, ToSql};
use std::fmt::Write;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The data directory format that this build writes. When a directory of the previous format is
/// opened for writing, it is upgraded.
pub(super) const FORMAT_VERSION: i64 = 2;
const FORMAT_VERSION_MIN: i64 = 1;
/// Identifies the file as a Steadfast database: "STDF".
const APPLICATION_ID: i64 = 0x5354_4446;
/// The row of `counts` with the total size of blob files, in bytes. Rows 0 to 255 count records by
/// first key byte.
pub(super) const BLOB_BYTES_COUNTER: i64 = 256;

/// Page cache of connections for long scans, in KiB.
pub(super) const SCAN_CACHE_KIB: u32 = 4096;

/// Time to wait for a database lock, for example one held by an operator's `sqlite3` shell.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

const SCHEMA: &str = "
    CREATE TABLE meta (
        id INTEGER PRIMARY KEY CHECK (id = 1), last_version INTEGER NOT NULL,
        log_start INTEGER NOT NULL, salt INTEGER NOT NULL, log_end INTEGER NOT NULL DEFAULT 0
    ) STRICT;
    INSERT INTO meta (id, last_version, log_start, salt)
        VALUES (1, 0, 1, abs(random() % 4294967296));
    CREATE TABLE heads (
        key BLOB PRIMARY KEY, due INTEGER NOT NULL, data BLOB NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX heads_due ON heads (due) WHERE due > 0;
    CREATE TABLE bodies (id INTEGER PRIMARY KEY, sum INTEGER NOT NULL, body BLOB NOT NULL) STRICT;
    CREATE TABLE blobs (id INTEGER PRIMARY KEY, size INTEGER NOT NULL) STRICT;
    CREATE TABLE counts (first INTEGER PRIMARY KEY, n INTEGER NOT NULL) STRICT;
";

/// The table that format 2 added.
const SEGMENTS_SCHEMA: &str = "
    CREATE TABLE segments (
        seq INTEGER PRIMARY KEY, file INTEGER NOT NULL, live INTEGER NOT NULL
    ) STRICT;
";

/// The position in the WAL up to which the database is checkpointed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CheckpointPosition {
    /// Version of the last commit that is durable in the database.
    pub(super) last_version: u64,
    /// Sequence number of the first WAL segment to replay.
    pub(super) first_segment: u64,
    /// Initial value of the checksums of WAL records.
    pub(super) salt: u32,
    /// Sequence number after the newest segment known to have commits; 0 before the WAL has files.
    pub(super) wal_end: u64,
}

/// A row of `segments`: a segment that contains bodies of records in the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SegmentRow {
    /// Sequence number of the segment.
    pub(super) seq: u64,
    /// Number of the segment's file.
    pub(super) file: u64,
    /// Live bytes of the segment: the total size, in bytes, of the entries with a body that a
    /// record in the database refers to. The size of an entry includes its body. The whole entry
    /// counts, because the relocation of a body rewrites its entry.
    pub(super) live: u64,
}

/// Returns the rows of `segments` in order of sequence number. Returns none for format 1, which has
/// no such table.
pub(super) fn segment_rows(conn: &Connection) -> Result<Vec<SegmentRow>> {
    let sql = "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = 'segments'";
    if conn.query_row(sql, [], |row| row.get::<_, i64>(0))? == 0 {
        return Ok(Vec::new());
    }
    let mut select = conn.prepare("SELECT seq, file, live FROM segments ORDER BY seq")?;
    let rows = select.query_map([], |row| {
        let number = |column| row.get::<_, i64>(column).map(i64::cast_unsigned);
        Ok(SegmentRow { seq: number(0)?, file: number(1)?, live: number(2)? })
    });
    Ok(rows?.collect::<rusqlite::Result<_>>()?)
}

/// Returns a function that returns whether the database has the record of a WAL entry, with the
/// same version and body.
pub(super) fn lookup(conn: &Connection) -> impl Fn(&WalEntry, BodyRef) -> Result<bool> {
    |entry, body| {
        let mut find = conn.prepare_cached("SELECT data FROM heads WHERE key = ?1")?;
        let is_same = |row: &Row<'_>| {
            let row = RecordRow::decode(&entry.key, row.get_ref(0)?.as_blob()?);
            Ok(row.is_some_and(|row| row.version == entry.version && row.body == body))
        };
        Ok(find.query_row([&entry.key[..]], is_same).optional()?.unwrap_or(false))
    }
}

pub(super) fn checkpoint_position(conn: &Connection) -> Result<CheckpointPosition> {
    let wal_end = if has_wal_end(conn)? { "log_end" } else { "0" };
    let sql = format!("SELECT last_version, log_start, salt, {wal_end} FROM meta");
    let position = conn.query_row(&sql, [], |row| {
        let number = |column| row.get::<_, i64>(column).map(i64::cast_unsigned);
        let (last_version, first_segment, wal_end) = (number(0)?, number(1)?, number(3)?);
        Ok(CheckpointPosition { last_version, first_segment, salt: row.get(2)?, wal_end })
    });
    Ok(position?)
}

/// Returns whether the database can store [`CheckpointPosition::wal_end`]. A database from an
/// earlier build gets the column when the value is first stored. Earlier builds ignore the column.
fn has_wal_end(conn: &Connection) -> rusqlite::Result<bool> {
    let sql = "SELECT count(*) FROM pragma_table_info('meta') WHERE name = 'log_end'";
    conn.query_row(sql, [], |row| row.get::<_, i64>(0)).map(|columns| columns > 0)
}

/// Stores [`CheckpointPosition::wal_end`] durably. The segment before it must be durable.
pub(super) fn save_wal_end(conn: &Connection, wal_end: u64) -> rusqlite::Result<()> {
    if !has_wal_end(conn)? {
        conn.execute_batch("ALTER TABLE meta ADD COLUMN log_end INTEGER NOT NULL DEFAULT 0")?;
    }
    execute_synced(conn, "UPDATE meta SET log_end = ?1 WHERE id = 1", &[&wal_end.cast_signed()])
}

pub(super) fn path(dir: &Path) -> PathBuf {
    dir.join("steadfast.db")
}

/// Returns the path of SQLite's WAL.
pub(super) fn wal_path(dir: &Path) -> PathBuf {
    dir.join("steadfast.db-wal")
}

/// Opens the database for writing, creating it if missing, and makes its contents durable.
pub(super) fn open_writer(dir: &Path) -> Result<Connection> {
    let path = path(dir);
    let conn = Connection::open_with_flags(
        uri(&path, "psow=0"),
        OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_URI
            | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    configure(&conn, dir, &path).map_err(|e| with_advice(e, &path))?;
    sync_recovered_wal(&conn, &wal_path(dir)).map_err(|e| with_advice(e, &path))?;
    Ok(conn)
}

/// Makes the transactions in SQLite's WAL durable. A killed process may not have fsynced the last
/// checkpoint position, and the WAL segments before that position are recycled.
fn sync_recovered_wal(conn: &Connection, wal: &Path) -> Result<()> {
    let path = wal.display();
    let sync_error = |e| EngineError::Failed(format!("could not sync {path}: {e}"));
    let file = match File::open(wal) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        file => file.map_err(sync_error)?,
    };
    if file.metadata().map_err(sync_error)?.len() == 0 {
        return Ok(());
    }
    // This is a commit rather than an fsync, so that later frames share no page with the present
    // ones.
    match sync(conn).map_err(EngineError::from) {
        // A full disk must not prevent reads.
        Err(EngineError::Full(_)) => {
            file.sync_all().map_err(sync_error)?;
            // As there are no readers yet, a checkpoint lets the commit overwrite the file from its
            // start, which needs no space.
            let restarted = conn.query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(()));
            match restarted.and_then(|()| sync(conn)) {
                Err(e) if !is_disk_full(&e) => Err(e.into()),
                Ok(()) | Err(_) => Ok(()),
            }
        }
        result => result,
    }
}

/// Makes all earlier transactions durable.
pub(super) fn sync(conn: &Connection) -> rusqlite::Result<()> {
    // An update that changes nothing writes no frame and does not sync. This pragma does both.
    execute_synced(conn, &format!("PRAGMA user_version = {FORMAT_VERSION}"), &[])
}

/// Executes one statement as a transaction, and makes it and all earlier transactions durable.
pub(super) fn execute_synced(
    conn: &Connection,
    sql: &str,
    params: &[&dyn ToSql],
) -> rusqlite::Result<()> {
    conn.execute_batch("PRAGMA synchronous = FULL")?;
    let result = conn.execute(sql, params);
    let restored = conn.execute_batch("PRAGMA synchronous = NORMAL");
    result.and(restored)
}

/// Builds the URI of a database file. `psow=0` disables SQLite's power-safe overwrite assumption: a
/// synced commit then pads its last 4 KiB page, so that later writes cannot tear it.
fn uri(path: &Path, parameter: &str) -> String {
    // The empty authority keeps SQLite from parsing the start of an absolute path as an authority.
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
    uri.push('?');
    uri.push_str(parameter);
    uri
}

fn configure(conn: &Connection, dir: &Path, path: &Path) -> Result<()> {
    let execute = |sql: &str| conn.execute_batch(sql).map_err(EngineError::from);
    let pragma = |name: &str| -> Result<i64> {
        conn.pragma_query_value(None, name, |row| row.get(0)).map_err(EngineError::from)
    };
    let tables: i64 = conn.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    let is_new = tables == 0 && pragma("user_version")? == 0;
    if is_new {
        if let Some(orphan) = super::wal::recovery::orphaned_data(dir)? {
            return Err(EngineError::Corrupt(format!(
                "{} is missing or empty, but {} exists: part of the data directory was lost; keep \
                 a copy of it, and restore a backup",
                path.display(),
                orphan.display()
            )));
        }
        execute("PRAGMA page_size = 8192; PRAGMA auto_vacuum = INCREMENTAL;")?;
    } else {
        check_format(pragma("application_id")?, pragma("user_version")?, path)?;
    }
    let is_format_1 = !is_new && pragma("user_version")? == FORMAT_VERSION_MIN;
    conn.busy_timeout(BUSY_TIMEOUT)?;
    execute(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA wal_autocheckpoint = 0;
         PRAGMA cache_size = -16384; PRAGMA temp_store = MEMORY; PRAGMA foreign_keys = OFF;
         PRAGMA journal_size_limit = 67108864;",
    )?;
    let mode: String = conn.pragma_query_value(None, "journal_mode", |row| row.get(0))?;
    if mode != "wal" {
        return Err(EngineError::Failed(format!(
            "SQLite cannot use WAL mode for {}; is it on a network file system?",
            path.display()
        )));
    }
    if is_new {
        // The transaction is synced, because the WAL is unreadable without the salt.
        execute(&format!(
            "PRAGMA synchronous = FULL; BEGIN IMMEDIATE; {SCHEMA} {SEGMENTS_SCHEMA} \
             PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {FORMAT_VERSION}; \
             COMMIT; PRAGMA synchronous = NORMAL;"
        ))?;
    }
    if is_format_1 {
        // One transaction creates the table and sets the format version. An older build, which
        // cannot read bodies in segments, therefore rejects the directory before any record refers
        // to a segment.
        execute(&format!(
            "PRAGMA synchronous = FULL; BEGIN IMMEDIATE; {SEGMENTS_SCHEMA} \
             PRAGMA user_version = {FORMAT_VERSION}; COMMIT; PRAGMA synchronous = NORMAL;"
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
    if !(FORMAT_VERSION_MIN..=FORMAT_VERSION).contains(&format) {
        return Err(EngineError::Corrupt(format!(
            "{path} has data format {format}, but this build reads formats {FORMAT_VERSION_MIN} \
             to {FORMAT_VERSION}; run the steadfast version that wrote it, or choose another data \
             directory"
        )));
    }
    Ok(())
}

/// Adds the path and advice to an error about a full disk, and to a corruption error that does not
/// name the data directory.
fn with_advice(e: EngineError, path: &Path) -> EngineError {
    let path = path.display();
    if let EngineError::Full(problem) = &e {
        return EngineError::Full(format!(
            "could not write {path}: {problem}; free disk space, and try again"
        ));
    }
    if let EngineError::Corrupt(problem) = &e
        && !problem.contains("data director")
    {
        return EngineError::Corrupt(format!(
            "{path}: {problem}; keep a copy of the data directory, and restore a backup"
        ));
    }
    e
}

/// Fails if a directory has no database.
pub(super) fn ensure_exists(dir: &Path) -> Result<()> {
    if path(dir).is_file() {
        return Ok(());
    }
    Err(EngineError::Failed(format!("there is no steadfast.db in {}", dir.display())))
}

/// Opens the database read-only after checking its format.
pub(super) fn open_checked(dir: &DataDir) -> Result<Connection> {
    let path = path(dir.path());
    let open = || -> Result<_> {
        let conn = open_reader(dir, SCAN_CACHE_KIB)?;
        let pragma = |name: &str| conn.pragma_query_value(None, name, |row| row.get(0));
        let (application_id, format) = (pragma("application_id")?, pragma("user_version")?);
        let tables: i64 =
            conn.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
        Ok((conn, tables, application_id, format))
    };
    let opened = open().map_err(|e| match with_advice(e, &path) {
        EngineError::Failed(problem) => {
            let advice = if dir.is_writable() { "" } else { "; copy it to a writable file system" };
            EngineError::Failed(format!("could not read {}: {problem}{advice}", path.display()))
        }
        e @ (EngineError::Full(_)
        | EngineError::Corrupt(_)
        | EngineError::Unavailable(_)
        | EngineError::Closed) => e,
    });
    let (conn, tables, application_id, format) = opened?;
    if tables == 0 {
        return Err(EngineError::Corrupt(format!(
            "{} is empty or incomplete: if steadfast.db-wal is missing from the data directory, \
             put it back, or else restore a backup",
            path.display()
        )));
    }
    check_format(application_id, format, &path)?;
    Ok(conn)
}

/// Opens a read-only connection with a page cache of `cache` KiB.
pub(super) fn open_reader(dir: &DataDir, cache: u32) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let path = path(dir.path());
    let exists = |path: &Path| fs::metadata(path).is_ok_and(|found| found.len() > 0);
    // SQLite creates an index of its WAL even for a reader, unless it may ignore the WAL or keep
    // the index in memory. An index in memory rules out locks between connections.
    let in_memory = "vfs=unix-none";
    let parameter = match exists(&wal_path(dir.path())) {
        _ if dir.is_writable() => None,
        false => Some("immutable=1"),
        true if exists(&dir.path().join("steadfast.db-shm")) => None,
        true => Some(in_memory),
    };
    let conn = match parameter {
        None => Connection::open_with_flags(&path, flags)?,
        Some(parameter) => {
            let flags = flags | OpenFlags::SQLITE_OPEN_URI;
            Connection::open_with_flags(uri(&path, parameter), flags)?
        }
    };
    dir.ensure_in_place()?;
    conn.busy_timeout(BUSY_TIMEOUT)?;
    if parameter == Some(in_memory) {
        conn.execute_batch("PRAGMA locking_mode = EXCLUSIVE")?;
    }
    conn.execute_batch(&format!("PRAGMA cache_size = -{cache};"))?;
    Ok(conn)
}

/// Returns whether a write failed because the disk is full. If SQLite cannot extend the index of
/// its WAL, it reports an I/O error instead. The index contains no data.
pub(super) fn is_disk_full(e: &rusqlite::Error) -> bool {
    let is_index = |e: &rusqlite::ffi::Error| e.extended_code == SQLITE_IOERR_SHMSIZE;
    e.sqlite_error_code() == Some(ErrorCode::DiskFull) || e.sqlite_error().is_some_and(is_index)
}

impl From<rusqlite::Error> for EngineError {
    fn from(e: rusqlite::Error) -> EngineError {
        match e.sqlite_error_code() {
            _ if is_disk_full(&e) => EngineError::Full("database or disk is full".into()),
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                EngineError::Corrupt(e.to_string())
            }
            _ => EngineError::Failed(e.to_string()),
        }
    }
}

/// Size in bytes of the fixed part of `heads.data`: version, expiry and body reference (8 each),
/// checksum (4).
const ROW_HEADER_BYTES: usize = 28;
/// Body reference of a record whose body is in a segment. The location of the body follows the
/// checksum of the row.
const IN_SEGMENT: i64 = i64::MIN;
/// Size of an encoded [`SegmentLocation`], in bytes.
const LOCATION_BYTES: usize = 24;

/// The place where the body of a record in the database is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum BodyRef {
    /// The body is empty.
    Empty,
    /// The body is in the row of `bodies` with this id. Only format 1 stored bodies there.
    Row(i64),
    /// The body is in the blob file with this id.
    Blob(i64),
    /// The body is in a WAL segment.
    Segment(SegmentLocation),
}

/// The location of a body in a WAL segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SegmentLocation {
    /// Sequence number of the segment.
    pub(super) seq: u64,
    /// Offset of the body in the file of the segment, in bytes.
    pub(super) at: u64,
    /// Size of the body, in bytes.
    pub(super) len: u32,
    /// Checksum of the body; see [`body_checksum`].
    pub(super) checksum: u32,
}

impl SegmentLocation {
    fn encode(&self) -> [u8; LOCATION_BYTES] {
        let mut bytes = [0; LOCATION_BYTES];
        let mut out = &mut bytes[..];
        out.put_u64_le(self.seq);
        out.put_u64_le(self.at);
        out.put_u32_le(self.len);
        out.put_u32_le(self.checksum);
        bytes
    }

    fn decode(bytes: &[u8; LOCATION_BYTES]) -> SegmentLocation {
        let mut bytes = &bytes[..];
        let (seq, at) = (bytes.get_u64_le(), bytes.get_u64_le());
        SegmentLocation { seq, at, len: bytes.get_u32_le(), checksum: bytes.get_u32_le() }
    }
}

/// The column `data` of a row of `heads`. It is a single column, because SQLite decodes columns one
/// by one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RecordRow<'d> {
    pub(super) version: u64,
    pub(super) expires_at: u64,
    pub(super) body: BodyRef,
    pub(super) meta: &'d [u8],
}

impl<'d> RecordRow<'d> {
    /// Encodes the row with a checksum that covers the key.
    pub(super) fn encode(&self, key: &[u8], out: &mut Vec<u8>) {
        let (body_ref, location) = match self.body {
            BodyRef::Empty => (0, None),
            BodyRef::Row(id) => (id, None),
            BodyRef::Blob(id) => (-id, None),
            BodyRef::Segment(location) => (IN_SEGMENT, Some(location)),
        };
        let mut numbers = [0; ROW_HEADER_BYTES - 4];
        let mut fields = &mut numbers[..];
        fields.put_u64_le(self.version);
        fields.put_u64_le(self.expires_at);
        fields.put_i64_le(body_ref);
        out.clear();
        out.extend_from_slice(&numbers);
        out.put_u32_le(0);
        if let Some(location) = location {
            out.extend_from_slice(&location.encode());
        }
        out.extend_from_slice(self.meta);
        let rest = out.get(ROW_HEADER_BYTES..).unwrap_or_default();
        let sum = row_checksum(key, &numbers, rest).to_le_bytes();
        if let Some(to) = out.get_mut(ROW_HEADER_BYTES - 4..ROW_HEADER_BYTES) {
            to.copy_from_slice(&sum);
        }
    }

    /// Decodes a row; `None` if it is damaged or belongs to another key.
    pub(super) fn decode(key: &[u8], bytes: &'d [u8]) -> Option<RecordRow<'d>> {
        let (fixed, rest) = bytes.split_first_chunk::<ROW_HEADER_BYTES>()?;
        let (numbers, sum) = fixed.split_first_chunk::<{ ROW_HEADER_BYTES - 4 }>()?;
        let ([version, expires_at, body_ref], []) = numbers.as_chunks::<8>() else { return None };
        if sum != row_checksum(key, numbers, rest).to_le_bytes() {
            return None;
        }
        let (version, expires_at) = (u64::from_le_bytes(*version), u64::from_le_bytes(*expires_at));
        let (body, meta) = match i64::from_le_bytes(*body_ref) {
            IN_SEGMENT => {
                let (location, meta) = rest.split_first_chunk::<LOCATION_BYTES>()?;
                (BodyRef::Segment(SegmentLocation::decode(location)), meta)
            }
            0 => (BodyRef::Empty, rest),
            id if id > 0 => (BodyRef::Row(id), rest),
            id => (BodyRef::Blob(-id), rest),
        };
        Some(RecordRow { version, expires_at, body, meta })
    }
}

/// Computes the checksum of a row. The checksum covers the key, the numbers at the start of the
/// row, and everything that follows the checksum.
fn row_checksum(key: &[u8], numbers: &[u8], rest: &[u8]) -> u32 {
    const BUFFER_BYTES: usize = 184;
    // The length separates the key from the rest; keys are short, so it fits.
    let mut hasher = crc32fast::Hasher::new_with_initial(key.len() as u32);
    let parts = [key, numbers, rest];
    let mut buffer = [0; BUFFER_BYTES];
    let mut unfilled = &mut buffer[..];
    // Hashing short parts separately is slower, as the tail of each is hashed byte by byte.
    let fits = parts.iter().all(|part| {
        match std::mem::take(&mut unfilled).split_at_mut_checked(part.len()) {
            Some((to, unused)) => {
                to.copy_from_slice(part);
                unfilled = unused;
                true
            }
            None => false,
        }
    });
    if fits {
        let len = parts.iter().map(|part| part.len()).sum();
        hasher.update(buffer.get(..len).unwrap_or_default());
    } else {
        parts.into_iter().for_each(|part| hasher.update(part));
    }
    hasher.finalize()
}

/// Computes the checksum of a body, which covers the version of its record.
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
    fn row_checksum_does_not_depend_on_the_size_of_its_parts() {
        let bytes = [7; 400];
        for (key, meta) in [(0, 0), (1, 17), (31, 17), (100, 60), (100, 61), (160, 0), (400, 400)] {
            let mut hasher = crc32fast::Hasher::new_with_initial(key as u32);
            for part in [&bytes[..key], &bytes[..24], &bytes[..meta]] {
                hasher.update(part);
            }
            let sum = row_checksum(&bytes[..key], &bytes[..24], &bytes[..meta]);
            assert_eq!(sum, hasher.finalize(), "{key} and {meta} bytes");
        }
    }
    #[test]
    fn rows_round_trip_with_every_kind_of_body() {
        let location = SegmentLocation { seq: 9, at: 1 << 40, len: 77, checksum: 0xdead_beef };
        let bodies =
            [BodyRef::Empty, BodyRef::Row(5), BodyRef::Blob(i64::MAX), BodyRef::Segment(location)];
        for (body, meta) in bodies.iter().flat_map(|body| [(body, &b"meta"[..]), (body, b"")]) {
            let row = RecordRow { version: 7, expires_at: 8, body: *body, meta };
            let mut data = Vec::new();
            row.encode(b"key", &mut data);
            assert_eq!(RecordRow::decode(b"key", &data), Some(row));
            assert_eq!(RecordRow::decode(b"kex", &data), None);
            for at in 0..data.len() {
                let mut damaged = data.clone();
                damaged[at] ^= 4;
                assert_eq!(RecordRow::decode(b"key", &damaged), None, "byte {at}");
            }
        }
    }
}
