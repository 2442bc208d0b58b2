//! The schema and all SQL statements.
//!
//! The statements use only features that all PostgreSQL-compatible databases have in common. They
//! use no stored functions, advisory locks or extensions. In the tables, the column `due` is a
//! record's `expires_at`, and `head` is its `meta`.

/// The schema version that this build creates and reads.
pub(super) const FORMAT: i32 = 1;

/// Creates the metadata table. The row with id 1 is locked while the other tables are created.
pub(super) const META: &str = "
    CREATE SCHEMA IF NOT EXISTS steadfast;
    CREATE TABLE IF NOT EXISTS steadfast.meta (
        id INT PRIMARY KEY, format INT NOT NULL, version_floor BIGINT NOT NULL
    );
    INSERT INTO steadfast.meta (id, format, version_floor) VALUES (1, 0, 0)
        ON CONFLICT (id) DO NOTHING;
";
pub(super) const LOCK_META: &str = "SELECT format FROM steadfast.meta WHERE id = 1 FOR UPDATE";

/// A removed record leaves a tombstone, a row with `live = false`, so that the versions of its key
/// keep increasing, whichever process writes next. `mark` is a random number that is chosen per
/// transaction. It distinguishes transactions with the same version.
pub(super) const TABLES: &str = "
    CREATE TABLE steadfast.records (
        key BYTEA PRIMARY KEY, version BIGINT NOT NULL, due BIGINT NOT NULL, live BOOL NOT NULL,
        mark BIGINT NOT NULL, head BYTEA NOT NULL, body BYTEA NOT NULL
    );
    CREATE INDEX records_due ON steadfast.records (due) WHERE live AND due > 0;
    CREATE INDEX records_live ON steadfast.records (key) WHERE live;
    CREATE INDEX records_removed ON steadfast.records (version) WHERE NOT live;
    CREATE TABLE steadfast.counts (first INT NOT NULL, n BIGINT NOT NULL);
    UPDATE steadfast.meta SET format = 1 WHERE id = 1;
";
/// Disables compression of bodies. A failure is ignored, because other databases may not support
/// this setting.
pub(super) const DISABLE_COMPRESSION: &str =
    "ALTER TABLE steadfast.records ALTER COLUMN body SET STORAGE EXTERNAL";

/// Returns whether the index that scans use is valid, or no row if the index does not exist.
/// Databases created by earlier versions lack the index. An interrupted build leaves it invalid.
pub(super) const LIVE_INDEX_VALID: &str = "
    SELECT i.indisvalid FROM pg_catalog.pg_index AS i
    JOIN pg_catalog.pg_class AS c ON c.oid = i.indexrelid
    JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    WHERE n.nspname = 'steadfast' AND c.relname = 'records_live'";
pub(super) const CREATE_LIVE_INDEX: &str =
    "CREATE INDEX CONCURRENTLY IF NOT EXISTS records_live ON steadfast.records (key) WHERE live";
pub(super) const DROP_LIVE_INDEX: &str = "DROP INDEX CONCURRENTLY IF EXISTS steadfast.records_live";
/// Creates the row that a server locks while it builds the index. Maintenance never updates this
/// row. A second connection locks it, because a concurrent build cannot run in a transaction.
pub(super) const ADD_BUILD_LOCK: &str = "
    INSERT INTO steadfast.meta (id, format, version_floor) VALUES (2, 0, 0)
    ON CONFLICT (id) DO NOTHING";
/// Locks the row of [`ADD_BUILD_LOCK`]; returns no row if another server has locked it. Must be
/// sent as a simple query: a prepared statement keeps its snapshot until the transaction ends, and
/// the build waits for that snapshot.
pub(super) const LOCK_BUILD: &str =
    "BEGIN; SELECT id FROM steadfast.meta WHERE id = 2 FOR UPDATE SKIP LOCKED";
/// Disables timeouts, because a build waits until all older transactions have ended.
pub(super) const NO_TIMEOUTS: &str = "SET lock_timeout = 0; SET statement_timeout = 0";
/// Limits the wait of [`DROP_LIVE_INDEX`] for a build whose server has disconnected. That build
/// waits for the drop too, so the limit is shorter than `deadlock_timeout`.
pub(super) const SHORT_LOCK_TIMEOUT: &str = "SET lock_timeout = 500";

pub(super) const READ_META: &str =
    "SELECT key, version, due, head FROM steadfast.records WHERE key = ANY($1) AND live";
/// Returns bodies of up to 256 KiB, and the size of every body.
pub(super) const READ_SMALL: &str = "
    SELECT key, version, due, head, CASE WHEN octet_length(body) <= 262144 THEN body END,
    octet_length(body)::BIGINT FROM steadfast.records WHERE key = ANY($1) AND live";
pub(super) const READ_LARGE: &str = "
    SELECT version, due, head, body FROM steadfast.records
    WHERE key = $1 AND live AND octet_length(body)::BIGINT <= $2";
pub(super) const SCAN: &str = "
    SELECT key, version, due, head FROM steadfast.records
    WHERE key >= $1 AND key < $2 AND live AND (due = 0 OR due > $3) ORDER BY key LIMIT $4";
/// Returns bodies of up to 256 KiB, and the size of every body.
pub(super) const SCAN_FULL: &str = "
    SELECT key, version, due, head, CASE WHEN octet_length(body) <= 262144 THEN body END,
    octet_length(body)::BIGINT FROM steadfast.records
    WHERE key >= $1 AND key < $2 AND live ORDER BY key LIMIT $3";
/// Begins a transaction and runs a query, because PostgreSQL takes the snapshot at the first query.
pub(super) const BEGIN_SNAPSHOT: &str = "
    BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SELECT id FROM steadfast.meta";
/// Skips locked rows, which another server may be removing.
pub(super) const EXPIRED: &str = "
    SELECT key, version FROM steadfast.records
    WHERE live AND due > 0 AND due <= $1 ORDER BY due LIMIT $2 FOR UPDATE SKIP LOCKED";
pub(super) const COUNT: &str =
    "SELECT coalesce(sum(n), 0)::BIGINT FROM steadfast.counts WHERE first = $1";

/// Lock the rows of a commit. Rows that it writes are locked exclusively. Rows that it only checks
/// are locked in share mode, so that puts into the same store do not block each other.
pub(super) const LOCK_WRITES: &str = "
    SELECT key, version, live FROM steadfast.records WHERE key = ANY($1) ORDER BY key FOR UPDATE";
pub(super) const LOCK_CHECKS: &str = "
    SELECT key, version, live FROM steadfast.records WHERE key = ANY($1) ORDER BY key FOR SHARE";
/// Begin a transaction with a lock timeout in milliseconds. The long timeout is shorter than the
/// client's statement timeout. Otherwise a transaction whose client has closed the connection could
/// keep waiting, and keep the locks that it already holds.
pub(super) const BEGIN_SHORT_WAIT: &str = "BEGIN; SET LOCAL lock_timeout = 500";
pub(super) const BEGIN_LONG_WAIT: &str = "BEGIN; SET LOCAL lock_timeout = 7000";
/// Select the keys of the rows that [`LOCK_WRITES`] and [`LOCK_CHECKS`] cannot lock immediately.
pub(super) const BLOCKED_WRITES: &str = "
    SELECT key FROM steadfast.records WHERE key = ANY($1) AND key NOT IN (
        SELECT key FROM steadfast.records WHERE key = ANY($1) FOR UPDATE SKIP LOCKED)";
pub(super) const BLOCKED_CHECKS: &str = "
    SELECT key FROM steadfast.records WHERE key = ANY($1) AND key NOT IN (
        SELECT key FROM steadfast.records WHERE key = ANY($1) FOR SHARE SKIP LOCKED)";
/// Parameters: $1 key, $2 due, $3 live, $4 head, $5 body, $6 version, $7 mark.
pub(super) const INSERT: &str = "
    INSERT INTO steadfast.records (key, version, due, live, mark, head, body)
    SELECT w.key, w.version, w.due, w.live, $7, w.head, w.body FROM
    unnest($1::BYTEA[], $2::BIGINT[], $3::BOOL[], $4::BYTEA[], $5::BYTEA[], $6::BIGINT[])
    AS w (key, due, live, head, body, version)";
pub(super) const UPDATE: &str = "
    UPDATE steadfast.records AS r
    SET version = w.version, due = w.due, live = w.live, mark = $7, head = w.head, body = w.body
    FROM unnest($1::BYTEA[], $2::BIGINT[], $3::BOOL[], $4::BYTEA[], $5::BYTEA[], $6::BIGINT[])
    AS w (key, due, live, head, body, version) WHERE r.key = w.key";
pub(super) const ADD_COUNTS: &str = "
    INSERT INTO steadfast.counts (first, n)
    SELECT c.first, c.n FROM unnest($1::INT[], $2::BIGINT[]) AS c (first, n)";

/// Waits for a concurrent insert of the key, and ensures that the key has a row that can be locked.
pub(super) const ENSURE_ROW: &str = "
    INSERT INTO steadfast.records (key, version, due, live, mark, head, body)
    VALUES ($1, 0, 0, false, 0, '', '') ON CONFLICT (key) DO NOTHING";
/// Updates a row without changing it. The update commits after all earlier transactions on the row.
pub(super) const TOUCH_ROW: &str =
    "UPDATE steadfast.records SET mark = mark WHERE key = $1 RETURNING version, mark";

pub(super) const NOW: &str = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::BIGINT";
pub(super) const RAISE_VERSION_FLOOR: &str = "
    UPDATE steadfast.meta SET version_floor = greatest(version_floor, $1) WHERE id = 1
    RETURNING version_floor";
pub(super) const PURGE_TOMBSTONES: &str = "
    DELETE FROM steadfast.records WHERE key IN (
        SELECT key FROM steadfast.records WHERE NOT live AND version < $1 ORDER BY version
        LIMIT 1000 FOR UPDATE SKIP LOCKED)";
pub(super) const COMPACT_COUNTS: &str = "
    WITH gone AS (DELETE FROM steadfast.counts RETURNING first, n)
    INSERT INTO steadfast.counts (first, n) SELECT first, sum(n)::BIGINT FROM gone GROUP BY first";
