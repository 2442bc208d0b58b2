//! The tables, and every statement. They keep to what other databases that speak the protocol
//! document too: no functions of our own, no advisory locks, no extensions.

/// The version of the tables that this build makes and uses.
pub(super) const FORMAT: i32 = 1;

/// Made first, by whoever comes first; its one row is locked while the rest is made.
pub(super) const META: &str = "
    CREATE SCHEMA IF NOT EXISTS steadfast;
    CREATE TABLE IF NOT EXISTS steadfast.meta (
        id INT PRIMARY KEY, format INT NOT NULL, version_floor BIGINT NOT NULL
    );
    INSERT INTO steadfast.meta (id, format, version_floor) VALUES (1, 0, 0)
        ON CONFLICT (id) DO NOTHING;
";
pub(super) const LOCK_META: &str = "SELECT format FROM steadfast.meta WHERE id = 1 FOR UPDATE";

/// A removed record stays as a row that is not live, so that versions under its key go on growing
/// whichever process writes next; `mark` tells apart commits that chose the same version.
pub(super) const TABLES: &str = "
    CREATE TABLE steadfast.records (
        key BYTEA PRIMARY KEY, version BIGINT NOT NULL, due BIGINT NOT NULL, live BOOL NOT NULL,
        mark BIGINT NOT NULL, head BYTEA NOT NULL, body BYTEA NOT NULL
    );
    CREATE INDEX records_due ON steadfast.records (due) WHERE live AND due > 0;
    CREATE INDEX records_removed ON steadfast.records (version) WHERE NOT live;
    CREATE TABLE steadfast.counts (first INT NOT NULL, n BIGINT NOT NULL);
    UPDATE steadfast.meta SET format = 1 WHERE id = 1;
";
/// Values are stored as they are. Databases that do not know this do so anyway, and may refuse.
pub(super) const STORE_PLAIN: &str =
    "ALTER TABLE steadfast.records ALTER COLUMN body SET STORAGE EXTERNAL";

pub(super) const READ_HEADS: &str =
    "SELECT key, version, due, head FROM steadfast.records WHERE key = ANY($1) AND live";
/// With the body while it is small, and its size.
pub(super) const READ_SMALL: &str = "
    SELECT key, version, due, head, CASE WHEN octet_length(body) <= 262144 THEN body END,
    octet_length(body)::BIGINT FROM steadfast.records WHERE key = ANY($1) AND live";
pub(super) const READ_LARGE: &str = "
    SELECT version, due, head, body FROM steadfast.records
    WHERE key = $1 AND live AND octet_length(body)::BIGINT <= $2";
pub(super) const SCAN: &str = "
    SELECT key, version, due, head FROM steadfast.records
    WHERE key >= $1 AND key < $2 AND live AND (due = 0 OR due > $3) ORDER BY key LIMIT $4";
/// The same with bodies while they are small, and their sizes.
pub(super) const SCAN_WHOLE: &str = "
    SELECT key, version, due, head, CASE WHEN octet_length(body) <= 262144 THEN body END,
    octet_length(body)::BIGINT FROM steadfast.records
    WHERE key >= $1 AND key < $2 AND live ORDER BY key LIMIT $3";
/// Begins what sees nothing later; its first statement takes the moment.
pub(super) const FREEZE: &str = "
    BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SELECT id FROM steadfast.meta";
/// What another server is removing at the moment is left to it.
pub(super) const DUE: &str = "
    SELECT key, version FROM steadfast.records
    WHERE live AND due > 0 AND due <= $1 ORDER BY due LIMIT $2 FOR UPDATE SKIP LOCKED";
pub(super) const COUNT: &str =
    "SELECT coalesce(sum(n), 0)::BIGINT FROM steadfast.counts WHERE first = $1";

/// What a commit writes is locked against all, what it only expects against writers: puts into one
/// store do not wait for each other.
pub(super) const LOCK_WRITES: &str = "
    SELECT key, version, live FROM steadfast.records WHERE key = ANY($1) ORDER BY key FOR UPDATE";
pub(super) const LOCK_EXPECTS: &str = "
    SELECT key, version, live FROM steadfast.records WHERE key = ANY($1) ORDER BY key FOR SHARE";
/// Begin a transaction that waits for a lock for so many milliseconds. The longer time ends before
/// that of a statement here: a wait that the database does not end goes on after who waited is
/// gone, and holds what was locked before.
pub(super) const BEGIN_BRIEFLY: &str = "BEGIN; SET LOCAL lock_timeout = 500";
pub(super) const BEGIN: &str = "BEGIN; SET LOCAL lock_timeout = 7000";
/// Those of the rows that cannot be locked at once, as the statements above lock them.
pub(super) const HELD_WRITES: &str = "
    SELECT key FROM steadfast.records WHERE key = ANY($1) AND key NOT IN (
        SELECT key FROM steadfast.records WHERE key = ANY($1) FOR UPDATE SKIP LOCKED)";
pub(super) const HELD_EXPECTS: &str = "
    SELECT key FROM steadfast.records WHERE key = ANY($1) AND key NOT IN (
        SELECT key FROM steadfast.records WHERE key = ANY($1) FOR SHARE SKIP LOCKED)";
/// The columns are $1 key, $2 due, $3 live, $4 head, $5 body, $6 version; $7 is the mark.
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

/// Waits for whoever is inserting the key, and leaves a row that can be locked.
pub(super) const PLACE: &str = "
    INSERT INTO steadfast.records (key, version, due, live, mark, head, body)
    VALUES ($1, 0, 0, false, 0, '', '') ON CONFLICT (key) DO NOTHING";
/// Changes nothing, and is a commit all the same, behind all that came before it.
pub(super) const TOUCH: &str =
    "UPDATE steadfast.records SET mark = mark WHERE key = $1 RETURNING version, mark";

pub(super) const NOW: &str = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::BIGINT";
pub(super) const RAISE_FLOOR: &str = "
    UPDATE steadfast.meta SET version_floor = greatest(version_floor, $1) WHERE id = 1
    RETURNING version_floor";
pub(super) const DROP_REMOVED: &str = "
    DELETE FROM steadfast.records WHERE key IN (
        SELECT key FROM steadfast.records WHERE NOT live AND version < $1 ORDER BY version
        LIMIT 1000 FOR UPDATE SKIP LOCKED)";
pub(super) const FOLD_COUNTS: &str = "
    WITH gone AS (DELETE FROM steadfast.counts RETURNING first, n)
    INSERT INTO steadfast.counts (first, n) SELECT first, sum(n)::BIGINT FROM gone GROUP BY first";
