//! The commit log's frames: one for each group of commits, written and synced as a whole.
//!
//! A frame begins at a multiple of [`PAGE_BYTES`] and shares no page with another, so that a page torn
//! by a power cut belongs to the one frame that nobody was told of. Its rows are under one
//! checksum; each body behind them has its own. docs/format.md has the layout.

use super::super::database::body_checksum;
use super::super::{EngineError, Result};
use bytes::Bytes;

/// Frames begin at multiples of this.
pub(in crate::engine::embedded) const PAGE_BYTES: usize = 4096;
/// Bytes of a frame before its rows.
pub(in crate::engine::embedded) const HEADER_BYTES: usize = 48;
/// A frame's rows and its bodies have at most so many bytes each: what a group may gather, and a
/// commit of many small bodies beyond that.
const SECTION_BYTES_MAX: u64 = 1 << 30;
const MAGIC: [u8; 4] = *b"SDLG";
/// Bytes of a row besides its key and head.
const ENTRY_FIXED_BYTES: usize = 37;

/// What a frame says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::engine::embedded) struct RecordHeader {
    /// The segment it was written into; another number is of an earlier use of the file.
    pub(in crate::engine::embedded) segment: u64,
    /// The last version before it.
    pub(in crate::engine::embedded) base: u64,
    /// The version of its last commit.
    pub(in crate::engine::embedded) last: u64,
    /// Bytes of its rows.
    pub(in crate::engine::embedded) entries_len: u32,
    /// How many rows it has.
    pub(in crate::engine::embedded) entries: u32,
    /// Bytes of the bodies behind the rows.
    pub(in crate::engine::embedded) bodies_len: u64,
    checksum: u32,
}

/// Where a row's body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::engine::embedded) enum BodyLocation {
    /// There is no record any more.
    Removed,
    /// The body is empty.
    Empty,
    /// In the frame, so many bytes behind its rows.
    Inline { at: u64, len: u32, checksum: u32 },
    /// In a blob file.
    Blob { id: i64, len: u64 },
}

/// One write of a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::engine::embedded) struct WalEntry {
    pub(in crate::engine::embedded) key: Bytes,
    pub(in crate::engine::embedded) version: u64,
    pub(in crate::engine::embedded) expires_at: u64,
    pub(in crate::engine::embedded) meta: Bytes,
    pub(in crate::engine::embedded) location: BodyLocation,
}

impl RecordHeader {
    /// Bytes of the whole frame on disk, to the end of its last page.
    pub(in crate::engine::embedded) fn disk_len(&self) -> u64 {
        let len = HEADER_BYTES as u64 + u64::from(self.entries_len) + self.bodies_len;
        len.next_multiple_of(PAGE_BYTES as u64)
    }

    /// Where bodies begin, from the frame's start.
    pub(in crate::engine::embedded) fn bodies_offset(&self) -> u64 {
        HEADER_BYTES as u64 + u64::from(self.entries_len)
    }

    /// Reads the start of what may be a frame; `None` when it is none. Its checksum is of the rows
    /// too, and is checked by [`entries`].
    pub(in crate::engine::embedded) fn parse(bytes: &[u8]) -> Option<RecordHeader> {
        let (magic, rest) = bytes.split_first_chunk::<4>()?;
        let (checksum, rest) = rest.split_first_chunk::<4>()?;
        let (segment, rest) = rest.split_first_chunk::<8>()?;
        let (base, rest) = rest.split_first_chunk::<8>()?;
        let (last, rest) = rest.split_first_chunk::<8>()?;
        let (entries_len, rest) = rest.split_first_chunk::<4>()?;
        let (entries, rest) = rest.split_first_chunk::<4>()?;
        let (bodies_len, _) = rest.split_first_chunk::<8>()?;
        let header = RecordHeader {
            segment: u64::from_le_bytes(*segment),
            base: u64::from_le_bytes(*base),
            last: u64::from_le_bytes(*last),
            entries_len: u32::from_le_bytes(*entries_len),
            entries: u32::from_le_bytes(*entries),
            bodies_len: u64::from_le_bytes(*bodies_len),
            checksum: u32::from_le_bytes(*checksum),
        };
        let plausible = *magic == MAGIC
            && header.last > header.base
            && u64::from(header.entries_len) <= SECTION_BYTES_MAX
            && header.bodies_len <= SECTION_BYTES_MAX;
        plausible.then_some(header)
    }
}

/// The rows of a frame whose bytes up to its bodies are `bytes`; `None` when they are damaged.
pub(in crate::engine::embedded) fn entries(
    salt: u32,
    header: &RecordHeader,
    bytes: &[u8],
) -> Option<Vec<WalEntry>> {
    let end = HEADER_BYTES + header.entries_len as usize;
    let mut rest = bytes.get(HEADER_BYTES..end)?;
    if checksum(salt, bytes.get(8..end)?) != header.checksum {
        return None;
    }
    // A row takes at least its fixed part, so a wrong number cannot reserve much.
    let entries_max = header.entries_len as usize / ENTRY_FIXED_BYTES;
    let mut entries = Vec::with_capacity((header.entries as usize).min(entries_max));
    let mut at = 0_u64;
    for _ in 0..header.entries {
        let (fixed, after) = rest.split_first_chunk::<ENTRY_FIXED_BYTES>()?;
        let read_u64 = |from: usize| {
            let eight = fixed.get(from..from + 8).and_then(|eight| eight.try_into().ok());
            eight.map(u64::from_le_bytes)
        };
        let read_u32 = |from: usize| {
            let four = fixed.get(from..from + 4).and_then(|four| four.try_into().ok());
            four.map(u32::from_le_bytes)
        };
        let (kind, version, expires_at) = (fixed.first()?, read_u64(1)?, read_u64(9)?);
        let (key_len, meta_len) = (read_u32(17)? as usize, read_u32(21)? as usize);
        let (body_len_or_blob, checksum) = (read_u64(25)?, read_u32(33)?);
        let location = match kind {
            0 => BodyLocation::Removed,
            1 => BodyLocation::Empty,
            2 => {
                let len = u32::try_from(body_len_or_blob).ok()?;
                let location = BodyLocation::Inline { at, len, checksum };
                at += body_len_or_blob;
                location
            }
            3 => BodyLocation::Blob {
                id: (body_len_or_blob & i64::MAX as u64).cast_signed(),
                len: 0,
            },
            _ => return None,
        };
        let key = after.get(..key_len)?;
        let after = after.get(key_len..)?;
        let meta = after.get(..meta_len)?;
        rest = after.get(meta_len..)?;
        let (key, meta) = (Bytes::copy_from_slice(key), Bytes::copy_from_slice(meta));
        entries.push(WalEntry { key, version, expires_at, meta, location });
    }
    // The size of a blob stands behind the rows that have one, in their order.
    for entry in &mut entries {
        if let BodyLocation::Blob { len, .. } = &mut entry.location {
            let (eight, after) = rest.split_first_chunk::<8>()?;
            *len = u64::from_le_bytes(*eight);
            rest = after;
        }
    }
    (rest.is_empty() && at == header.bodies_len).then_some(entries)
}

/// The checksum of a frame up to its bodies. Without the salt, which is a random number of the data
/// directory, nobody can make a value that looks like a frame.
fn checksum(salt: u32, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(salt);
    hasher.update(bytes);
    hasher.finalize()
}

/// Gathers the rows of a group and makes their frame.
#[derive(Default)]
pub(in crate::engine::embedded) struct RecordBuilder {
    entries: Vec<u8>,
    blob_sizes: Vec<u8>,
    bodies: Vec<Bytes>,
    bodies_len: u64,
    count: u32,
}

impl RecordBuilder {
    /// Adds a write. `body` holds the bytes of an inline body.
    pub(in crate::engine::embedded) fn push(
        &mut self,
        key: &[u8],
        version: u64,
        record: Option<(u64, &[u8])>,
        body: NewBody<'_>,
    ) -> BodyLocation {
        let (expires_at, meta) = record.unwrap_or((0, b""));
        let (kind, body_len_or_blob, checksum, location) = match body {
            NewBody::Removed => (0_u8, 0, 0, BodyLocation::Removed),
            NewBody::Bytes(bytes) if bytes.is_empty() => (1, 0, 0, BodyLocation::Empty),
            NewBody::Bytes(bytes) => {
                let checksum = body_checksum(version, bytes);
                let at = self.bodies_len;
                self.bodies_len += bytes.len() as u64;
                self.bodies.push(bytes.clone());
                // Inline bodies are far below 4 GiB; a longer one is refused by `finish`.
                let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
                (2, bytes.len() as u64, checksum, BodyLocation::Inline { at, len, checksum })
            }
            NewBody::Blob { id, len } => {
                self.blob_sizes.extend_from_slice(&len.to_le_bytes());
                (3, id.cast_unsigned(), 0, BodyLocation::Blob { id, len })
            }
        };
        self.entries.push(kind);
        self.entries.extend_from_slice(&version.to_le_bytes());
        self.entries.extend_from_slice(&expires_at.to_le_bytes());
        for len in [key.len(), meta.len()] {
            self.entries.extend_from_slice(&u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes());
        }
        self.entries.extend_from_slice(&body_len_or_blob.to_le_bytes());
        self.entries.extend_from_slice(&checksum.to_le_bytes());
        self.entries.extend_from_slice(key);
        self.entries.extend_from_slice(meta);
        self.count += 1;
        location
    }

    /// Bytes of the frame, to the end of its last page.
    pub(in crate::engine::embedded) fn disk_len(&self) -> u64 {
        let len =
            (HEADER_BYTES + self.entries.len() + self.blob_sizes.len()) as u64 + self.bodies_len;
        len.next_multiple_of(PAGE_BYTES as u64)
    }

    /// Writes the frame into `out`, which it clears, and leaves the builder empty.
    ///
    /// # Errors
    /// When the group is too large for a frame.
    pub(in crate::engine::embedded) fn finish(
        &mut self,
        salt: u32,
        (segment, base, last): (u64, u64, u64),
        out: &mut Vec<u8>,
    ) -> Result<RecordHeader> {
        self.entries.append(&mut self.blob_sizes);
        let (bodies, bodies_len) = (std::mem::take(&mut self.bodies), self.bodies_len);
        let entries_len = u32::try_from(self.entries.len()).ok();
        let entries_len = entries_len.filter(|len| u64::from(*len) <= SECTION_BYTES_MAX);
        let (Some(entries_len), true) = (entries_len, bodies_len <= SECTION_BYTES_MAX) else {
            *self = RecordBuilder::default();
            return Err(EngineError::Failed("a commit of more than 1 GiB".into()));
        };
        let mut header = RecordHeader {
            segment,
            base,
            last,
            entries_len,
            entries: self.count,
            bodies_len,
            checksum: 0,
        };
        out.clear();
        out.reserve(usize::try_from(header.disk_len()).unwrap_or(0));
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&[0; 4]);
        for read_u64 in [segment, base, last] {
            out.extend_from_slice(&read_u64.to_le_bytes());
        }
        out.extend_from_slice(&entries_len.to_le_bytes());
        out.extend_from_slice(&self.count.to_le_bytes());
        out.extend_from_slice(&bodies_len.to_le_bytes());
        out.append(&mut self.entries);
        header.checksum = checksum(salt, out.get(8..).unwrap_or_default());
        if let Some(checksum) = out.get_mut(4..8) {
            checksum.copy_from_slice(&header.checksum.to_le_bytes());
        }
        for body in &bodies {
            out.extend_from_slice(body);
        }
        out.resize(out.len().next_multiple_of(PAGE_BYTES), 0);
        (self.bodies_len, self.count) = (0, 0);
        Ok(header)
    }
}

/// A body on its way into a frame.
#[derive(Clone, Copy, Debug)]
pub(in crate::engine::embedded) enum NewBody<'b> {
    /// The record is removed.
    Removed,
    /// Carried by the frame.
    Bytes(&'b Bytes),
    /// Named by the frame.
    Blob { id: i64, len: u64 },
}

/// Reads bytes as a frame, for the fuzz target: those of a sound one are reached by mending the
/// checksum.
#[cfg(fuzzing)]
pub(in crate::engine::embedded) fn fuzz(bytes: &[u8]) {
    let mut bytes = bytes.to_vec();
    bytes.splice(0..bytes.len().min(4), MAGIC);
    let Some(header) = RecordHeader::parse(&bytes) else { return };
    assert!(entries(1, &header, &bytes).is_none() || entries(2, &header, &bytes).is_none());
    let end = HEADER_BYTES + header.entries_len as usize;
    let Some(summed) = bytes.get(8..end) else { return };
    let mended = RecordHeader { checksum: checksum(1, summed), ..header };
    if let Some(entries) = entries(1, &mended, &bytes) {
        assert_eq!(entries.len(), header.entries as usize);
        for entry in entries {
            if let BodyLocation::Inline { at, len, .. } = entry.location {
                assert!(at + u64::from(len) <= header.bodies_len);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SALT: u32 = 0x1234_5678;

    fn record() -> (RecordHeader, Vec<u8>, Vec<BodyLocation>) {
        let (mut builder, mut out) = (RecordBuilder::default(), Vec::new());
        let body = Bytes::from_static(b"body");
        let locations = vec![
            builder.push(b"a", 5, Some((7, b"head")), NewBody::Bytes(&body)),
            builder.push(b"b", 5, None, NewBody::Removed),
            builder.push(b"c", 6, Some((0, b"")), NewBody::Blob { id: 9, len: 1 << 20 }),
            builder.push(b"d", 6, Some((0, b"h")), NewBody::Bytes(&Bytes::new())),
            builder.push(b"", 6, Some((0, b"")), NewBody::Bytes(&body)),
        ];
        let header = builder.finish(SALT, (3, 4, 6), &mut out).unwrap();
        (header, out, locations)
    }

    #[test]
    fn a_frame_is_read_as_it_was_built() {
        let (header, bytes, locations) = record();
        assert_eq!(bytes.len() % PAGE_BYTES, 0);
        assert_eq!(
            (bytes.len() as u64, RecordHeader::parse(&bytes)),
            (header.disk_len(), Some(header))
        );
        let found = entries(SALT, &header, &bytes).unwrap();
        assert_eq!(found.iter().map(|entry| entry.location).collect::<Vec<_>>(), locations);
        let keys: Vec<_> = found.iter().map(|entry| &entry.key[..]).collect();
        assert_eq!(keys, [&b"a"[..], b"b", b"c", b"d", b""]);
        assert_eq!(
            (found[0].version, found[0].expires_at, &found[0].meta[..]),
            (5, 7, &b"head"[..])
        );
        assert_eq!(locations[2], BodyLocation::Blob { id: 9, len: 1 << 20 });
        let at = usize::try_from(header.bodies_offset()).unwrap();
        assert_eq!(&bytes[at..at + 8], b"bodybody");
    }

    #[test]
    fn a_changed_byte_before_the_bodies_is_noticed() {
        let (header, bytes, _) = record();
        for at in 0..usize::try_from(header.bodies_offset()).unwrap() {
            let mut changed = bytes.clone();
            changed[at] ^= 0x10;
            let read =
                RecordHeader::parse(&changed).and_then(|header| entries(SALT, &header, &changed));
            assert_eq!(read, None, "byte {at}");
        }
    }

    #[test]
    fn a_frame_of_another_salt_is_none() {
        let (header, bytes, _) = record();
        assert_eq!(entries(SALT + 1, &header, &bytes), None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_reading_panic(mut bytes: Vec<u8>, plausible: bool) {
            if plausible {
                bytes.splice(0..bytes.len().min(4), MAGIC);
            }
            if let Some(header) = RecordHeader::parse(&bytes) {
                let _ = entries(SALT, &header, &bytes);
            }
        }
    }
}
