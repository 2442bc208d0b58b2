//! The size of new WAL segment files.

/// Minimum size of a new file in bytes. A file grows beyond its initial size only to hold a single
/// larger WAL record.
pub(crate) const SEGMENT_BYTES_MIN: u64 = 8 << 20;
/// Maximum size of a new file in bytes, unless there is so much data that larger files are needed
/// to limit their number.
pub(super) const SEGMENT_BYTES_MAX: u64 = 64 << 20;
/// Total live bytes divided by the size of a new file of up to [`SEGMENT_BYTES_MAX`], and of a
/// larger one.
const SEGMENT_PART: u64 = 64;
const LARGE_SEGMENT_PART: u64 = 512;
/// WAL bytes per memtable entry at which a checkpoint starts; see
/// [`Backpressure`](super::super::backpressure::Backpressure).
const CHECKPOINT_ENTRY_BYTES: u64 = 1024;

/// Returns the size of new files in bytes. `live` is the total live bytes of `records` records, and
/// `wal_bytes` is the WAL size in bytes that triggers a checkpoint.
///
/// Every file stays open, so the size grows with the data. A checkpoint seals whole segments, and
/// the unused part of a segment is garbage. A checkpoint should therefore cover several segments.
pub(super) fn segment_bytes(live: u64, records: u64, wal_bytes: u64) -> u64 {
    // The number of entries also triggers checkpoints. If entries are small, the WAL is then
    // smaller than `wal_bytes`.
    let entry_bytes = (live / records.max(1)).min(CHECKPOINT_ENTRY_BYTES);
    let checkpoint_bytes = wal_bytes / CHECKPOINT_ENTRY_BYTES * entry_bytes;
    let large_max = (live / LARGE_SEGMENT_PART).min(checkpoint_bytes / 2);
    let max = (wal_bytes / 8).min(SEGMENT_BYTES_MAX).max(large_max);
    (live / SEGMENT_PART).min(max).next_multiple_of(1 << 20).max(SEGMENT_BYTES_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;

    /// Returns the number of files after values of 1 KiB were added until there are `live` bytes.
    fn files(live: u64, wal_bytes: u64) -> u64 {
        let (mut written, mut files) = (0, 0);
        while written < live {
            // The WAL size that triggers a checkpoint also grows with the data.
            let wal_bytes = (written / 4).max(128 * MIB).min(wal_bytes);
            written += segment_bytes(written, written / 1024, wal_bytes);
            files += 1;
        }
        files
    }

    #[test]
    fn the_number_of_files_stays_bounded_as_the_data_grows() {
        assert!(files(64 * GIB, GIB) < 1100, "{}", files(64 * GIB, GIB));
        assert!(files(1024 * GIB, GIB) < 3500, "{}", files(1024 * GIB, GIB));
        // A small WAL limits the size of the segments.
        assert!(files(64 * GIB, 64 * MIB) < 3000, "{}", files(64 * GIB, 64 * MIB));
    }

    #[test]
    fn a_checkpoint_covers_several_segments() {
        for live in [0, GIB, 100 * GIB, 10_000 * GIB] {
            for wal_bytes in [MIB, 64 * MIB, 128 * MIB, GIB, 16 * GIB] {
                for entry_bytes in [64, 256, 1024, 100_000] {
                    let bytes = segment_bytes(live, live / entry_bytes, wal_bytes);
                    let entries_bytes = wal_bytes / CHECKPOINT_ENTRY_BYTES * entry_bytes;
                    let max = (wal_bytes.min(entries_bytes) / 2).max(wal_bytes / 8);
                    let max = max.next_multiple_of(MIB).max(SEGMENT_BYTES_MIN);
                    assert!(
                        (SEGMENT_BYTES_MIN..=max).contains(&bytes) && bytes.is_multiple_of(MIB),
                        "{live} bytes, WAL of {wal_bytes}, entries of {entry_bytes}: {bytes}"
                    );
                }
            }
        }
    }
}
