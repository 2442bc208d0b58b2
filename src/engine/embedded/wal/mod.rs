//! The write-ahead log: the layout of its records, its segment files, and recovery.

pub(super) mod record;
pub(super) mod recovery;
pub(super) mod segment;
