//! Remembers which bodies in segments were replaced or deleted. Garbage collection then does not
//! have to look up the records of these bodies, each of which is on a different page of the
//! database if keys are random.

use super::database::SegmentLocation;
use std::collections::HashMap;

/// Maximum number of bodies that are remembered. Each takes four bytes, or twice that while the
/// vector of its segment grows.
const BODIES_MAX: usize = 8 << 20;

/// Offsets of bodies that no record refers to. Incomplete: it has no bodies replaced before the
/// last start or within the WAL, and none beyond the maximum.
#[derive(Debug, Default)]
pub(super) struct ReplacedBodies {
    /// Offsets of the bodies in bytes, by the sequence number of their segment.
    by_segment: HashMap<u64, Vec<u32>>,
    len: usize,
}

impl ReplacedBodies {
    pub(super) fn add(&mut self, bodies: &[SegmentLocation]) {
        for SegmentLocation { seq, at, .. } in bodies {
            if let Ok(at) = u32::try_from(*at)
                && self.len < BODIES_MAX
            {
                self.by_segment.entry(*seq).or_default().push(at);
                self.len += 1;
            }
        }
    }

    /// Removes the bodies of a segment and returns their offsets in bytes, in ascending order.
    pub(super) fn take(&mut self, seq: u64) -> Vec<u32> {
        let mut offsets = self.by_segment.remove(&seq).unwrap_or_default();
        self.len -= offsets.len();
        offsets.sort_unstable();
        offsets
    }

    /// Removes the bodies of segments for which `exists` returns `false`.
    pub(super) fn retain_segments(&mut self, exists: impl Fn(u64) -> bool) {
        self.by_segment.retain(|seq, _| exists(*seq));
        self.len = self.by_segment.values().map(Vec::len).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(seq: u64, at: u64) -> SegmentLocation {
        SegmentLocation { seq, at, len: 1, checksum: 0 }
    }

    #[test]
    fn the_offsets_of_a_segment_are_removed_with_it() {
        let mut replaced = ReplacedBodies::default();
        replaced.add(&[body(1, 30), body(2, 20), body(1, 10), body(3, 0), body(3, 1 << 40)]);
        assert_eq!(replaced.take(1), [10, 30]);
        assert!(replaced.take(1).is_empty());
        replaced.retain_segments(|seq| seq == 3);
        assert!(replaced.len == 1 && replaced.take(2).is_empty());
        assert_eq!(replaced.take(3), [0]);
        assert_eq!(replaced.len, 0);
    }

    #[test]
    fn the_number_of_bodies_is_limited() {
        let mut replaced = ReplacedBodies { len: BODIES_MAX - 1, ..ReplacedBodies::default() };
        replaced.add(&[body(1, 10), body(1, 20)]);
        assert_eq!(replaced.by_segment.get(&1), Some(&vec![10]));
    }
}
