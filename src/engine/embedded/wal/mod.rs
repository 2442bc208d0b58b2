//! The write-ahead log (WAL): record layout, segment files, and recovery. docs/format.md describes
//! the layout, docs/durability.md the guarantees.

mod pool_state;
mod preallocation;
pub(super) mod record;
pub(super) mod recovery;
pub(super) mod segment;
pub(super) mod segment_size;
#[cfg(test)]
mod tests;
