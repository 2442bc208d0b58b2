//! The layout of WAL records. Each record carries one commit group and is written and fsynced as a
//! whole.
//!
//! A record starts at a multiple of [`PAGE_BYTES`] and shares no page with another record, so a
//! torn write can only damage the last, unacknowledged record. One checksum covers the header and
//! the entries; each body has its own. docs/format.md describes the layout.

use super::super::database::body_checksum;
use super::super::{EngineError, Result};
use bytes::{Buf, BufMut, Bytes};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Alignment of WAL records, in bytes.
pub(crate) const PAGE_BYTES: usize = 4096;
/// Size of a record's header, in bytes.
pub(crate) const HEADER_BYTES: usize = 48;
/// Maximum size of the entries section and of the bodies section, in bytes. It is far above the
/// limit of a commit group, because a single commit may exceed that limit.
const SECTION_BYTES_MAX: u64 = 1 << 30;
const MAGIC: [u8; 4] = *b"SDLG";
/// Minimum size of a body that is not copied to the buffer of its record, in bytes.
const LARGE_BODY_BYTES_MIN: usize = 64 << 10;
/// Maximum size of the buffer of a record kept for reuse, in bytes.
const BUFFER_BYTES_MAX: usize = 8 << 20;
/// Size of an entry without its key and meta, in bytes.
const ENTRY_FIXED_BYTES: usize = 37;

/// The header of a WAL record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecordHeader {
    /// Sequence number of the segment. A different number marks a record left from an earlier use
    /// of the file.
    pub(crate) segment: u64,
    /// Version of the last commit before this record.
    pub(crate) base: u64,
    /// Version of the last commit in this record.
    pub(crate) last: u64,
    /// Size of the entries section, in bytes, and the number of entries in it.
    pub(crate) entries_len: u32,
    pub(crate) count: u32,
    /// Size of the bodies section, in bytes.
    pub(crate) bodies_len: u64,
    checksum: u32,
}

/// Where the body of an entry is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BodyLocation {
    /// Nowhere: the entry deletes the record.
    Removed,
    /// Nowhere: the body is empty.
    Empty,
    /// In the WAL record, at offset `at` of its bodies section.
    Inline { at: u64, len: u32, checksum: u32 },
    /// In a blob file.
    Blob { id: i64, len: u64 },
}

/// One mutation of a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WalEntry {
    pub(crate) key: Bytes,
    pub(crate) version: u64,
    pub(crate) expires_at: u64,
    pub(crate) meta: Bytes,
    pub(crate) location: BodyLocation,
}

/// Returns the size of an entry in a WAL record, including its body of `body_len` bytes, in bytes.
pub(crate) fn entry_bytes(key: &[u8], meta: &[u8], body_len: u32) -> u64 {
    (ENTRY_FIXED_BYTES + key.len() + meta.len()) as u64 + u64::from(body_len)
}

impl RecordHeader {
    /// Returns the size of the record on disk, in bytes, including padding to a full page.
    pub(crate) fn disk_len(&self) -> u64 {
        let len = HEADER_BYTES as u64 + u64::from(self.entries_len) + self.bodies_len;
        len.next_multiple_of(PAGE_BYTES as u64)
    }

    /// Returns the offset of the bodies section from the start of the record.
    pub(crate) fn bodies_offset(&self) -> u64 {
        HEADER_BYTES as u64 + u64::from(self.entries_len)
    }

    /// Parses a header and checks its plausibility; `None` if the bytes are not a header. The
    /// checksum also covers the entries, so [`decode_entries`] verifies it.
    pub(crate) fn parse(bytes: &[u8]) -> Option<RecordHeader> {
        let (magic, mut rest) = bytes.get(..HEADER_BYTES)?.split_at_checked(4)?;
        let checksum = rest.get_u32_le();
        let (segment, base, last) = (rest.get_u64_le(), rest.get_u64_le(), rest.get_u64_le());
        let (entries_len, count) = (rest.get_u32_le(), rest.get_u32_le());
        let bodies_len = rest.get_u64_le();
        let plausible = magic == MAGIC
            && last > base
            && u64::from(entries_len) <= SECTION_BYTES_MAX
            && bodies_len <= SECTION_BYTES_MAX;
        let header = RecordHeader { segment, base, last, entries_len, count, bodies_len, checksum };
        plausible.then_some(header)
    }
}

/// Decodes the entries of a record after verifying its checksum; `None` if they are damaged.
/// `bytes` extends at least to the bodies section. The keys and metas of the entries share one copy
/// of the entries section.
pub(crate) fn decode_entries(
    salt: u32,
    header: &RecordHeader,
    bytes: &[u8],
) -> Option<Vec<WalEntry>> {
    let end = HEADER_BYTES + header.entries_len as usize;
    let section = bytes.get(HEADER_BYTES..end)?;
    if record_checksum(salt, bytes.get(8..end)?) != header.checksum {
        return None;
    }
    // Bounds the allocation if the count is wrong: every entry has at least its fixed part.
    let entries_max = header.entries_len as usize / ENTRY_FIXED_BYTES;
    let mut entries = Vec::with_capacity((header.count as usize).min(entries_max));
    let (mut at, mut rest) = (0_u64, Bytes::copy_from_slice(section));
    for _ in 0..header.count {
        let mut fixed = rest.get(..ENTRY_FIXED_BYTES)?;
        let (kind, version, expires_at) = (fixed.get_u8(), fixed.get_u64_le(), fixed.get_u64_le());
        let (key_len, meta_len) = (fixed.get_u32_le() as usize, fixed.get_u32_le() as usize);
        let (len_or_id, checksum) = (fixed.get_u64_le(), fixed.get_u32_le());
        let location = match kind {
            0 => BodyLocation::Removed,
            1 => BodyLocation::Empty,
            2 => {
                let len = u32::try_from(len_or_id).ok()?;
                let location = BodyLocation::Inline { at, len, checksum };
                at += len_or_id;
                location
            }
            3 => BodyLocation::Blob { id: (len_or_id & i64::MAX as u64).cast_signed(), len: 0 },
            _ => return None,
        };
        if ENTRY_FIXED_BYTES + key_len + meta_len > rest.len() {
            return None;
        }
        rest.advance(ENTRY_FIXED_BYTES);
        let (key, meta) = (rest.split_to(key_len), rest.split_to(meta_len));
        entries.push(WalEntry { key, version, expires_at, meta, location });
    }
    // Blob sizes follow the entries, in the order of the entries that refer to a blob.
    for entry in &mut entries {
        if let BodyLocation::Blob { len, .. } = &mut entry.location {
            *len = rest.try_get_u64_le().ok()?;
        }
    }
    (rest.is_empty() && at == header.bodies_len).then_some(entries)
}

/// Computes the checksum of a record's header and entries. The random salt of the data directory
/// keeps clients from crafting a value that looks like a WAL record.
fn record_checksum(salt: u32, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(salt);
    hasher.update(bytes);
    hasher.finalize()
}

/// Collects the entries of a commit group and encodes them as one WAL record.
#[derive(Default)]
pub(crate) struct RecordBuilder {
    entries: Vec<u8>,
    blob_sizes: Vec<u8>,
    bodies: Vec<Bytes>,
    bodies_len: u64,
    count: u32,
}

impl RecordBuilder {
    /// Appends an entry and returns the location of its body.
    pub(crate) fn push(
        &mut self,
        key: &[u8],
        version: u64,
        record: Option<(u64, &[u8])>,
        body: NewBody<'_>,
    ) -> BodyLocation {
        let (expires_at, meta) = record.unwrap_or((0, b""));
        let (kind, len_or_id, checksum, location) = match body {
            NewBody::Removed => (0_u8, 0, 0, BodyLocation::Removed),
            NewBody::Bytes(bytes) if bytes.is_empty() => (1, 0, 0, BodyLocation::Empty),
            NewBody::Bytes(bytes) => {
                let checksum = body_checksum(version, bytes);
                let at = self.bodies_len;
                self.bodies_len += bytes.len() as u64;
                self.bodies.push(bytes.clone());
                // Inline bodies are far below 4 GiB; `finish` rejects larger ones.
                let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
                (2, bytes.len() as u64, checksum, BodyLocation::Inline { at, len, checksum })
            }
            NewBody::Blob { id, len } => {
                self.blob_sizes.put_u64_le(len);
                (3, id.cast_unsigned(), 0, BodyLocation::Blob { id, len })
            }
        };
        self.entries.put_u8(kind);
        self.entries.put_u64_le(version);
        self.entries.put_u64_le(expires_at);
        self.entries.put_u32_le(u32::try_from(key.len()).unwrap_or(u32::MAX));
        self.entries.put_u32_le(u32::try_from(meta.len()).unwrap_or(u32::MAX));
        self.entries.put_u64_le(len_or_id);
        self.entries.put_u32_le(checksum);
        self.entries.put_slice(key);
        self.entries.put_slice(meta);
        self.count += 1;
        location
    }

    /// Returns the size of the encoded record, in bytes, including padding to a full page.
    pub(crate) fn disk_len(&self) -> u64 {
        let bodies_offset = HEADER_BYTES + self.entries.len() + self.blob_sizes.len();
        (bodies_offset as u64 + self.bodies_len).next_multiple_of(PAGE_BYTES as u64)
    }

    /// Encodes the record into `record`, replacing its contents, and resets the builder.
    ///
    /// # Errors
    /// Fails if the entries or the bodies exceed 1 GiB.
    pub(crate) fn finish(
        &mut self,
        salt: u32,
        (segment, base, last): (u64, u64, u64),
        record: &mut EncodedRecord,
    ) -> Result<RecordHeader> {
        self.entries.append(&mut self.blob_sizes);
        let (bodies, bodies_len) = (std::mem::take(&mut self.bodies), self.bodies_len);
        let entries_len = u32::try_from(self.entries.len()).ok();
        let entries_len = entries_len.filter(|len| u64::from(*len) <= SECTION_BYTES_MAX);
        let (Some(entries_len), true) = (entries_len, bodies_len <= SECTION_BYTES_MAX) else {
            *self = RecordBuilder::default();
            return Err(EngineError::Failed("the commit exceeds 1 GiB".into()));
        };
        let (count, checksum) = (self.count, 0);
        let mut header =
            RecordHeader { segment, base, last, entries_len, count, bodies_len, checksum };
        record.clear();
        let is_large = |body: &Bytes| body.len() >= LARGE_BODY_BYTES_MIN;
        let large_len: usize = bodies.iter().filter(|body| is_large(body)).map(Bytes::len).sum();
        let disk_len = usize::try_from(header.disk_len()).unwrap_or(usize::MAX);
        let buffer_len = disk_len.saturating_sub(large_len);
        let EncodedRecord { buffer: out, large } = record;
        out.reserve(buffer_len);
        out.put_slice(&MAGIC);
        out.put_u32_le(0);
        [segment, base, last].into_iter().for_each(|number| out.put_u64_le(number));
        out.put_u32_le(entries_len);
        out.put_u32_le(count);
        out.put_u64_le(bodies_len);
        out.append(&mut self.entries);
        header.checksum = record_checksum(salt, out.get(8..).unwrap_or_default());
        if let Some(checksum) = out.get_mut(4..8) {
            checksum.copy_from_slice(&header.checksum.to_le_bytes());
        }
        for body in bodies {
            match is_large(&body) {
                true => large.push((out.len(), body)),
                false => out.extend_from_slice(&body),
            }
        }
        out.resize(buffer_len, 0);
        (self.bodies_len, self.count) = (0, 0);
        Ok(header)
    }
}

/// An encoded WAL record. Large bodies are written from where they are, without a copy.
#[derive(Debug, Default)]
pub(crate) struct EncodedRecord {
    /// The record without its large bodies.
    buffer: Vec<u8>,
    /// The large bodies, each with the size of the part of the buffer before it, in bytes.
    large: Vec<(usize, Bytes)>,
}

impl EncodedRecord {
    /// Writes the record to a file at offset `at`.
    ///
    /// # Errors
    /// Fails if a write fails. Part of the record may then have been written.
    pub(crate) fn write_to(&self, file: &File, at: u64) -> io::Result<()> {
        let mut at = at;
        let mut write = |bytes: &[u8]| {
            file.write_all_at(bytes, at)?;
            at += bytes.len() as u64;
            io::Result::Ok(())
        };
        let mut from = 0;
        for (to, body) in &self.large {
            write(self.buffer.get(from..*to).unwrap_or_default())?;
            write(body)?;
            from = *to;
        }
        write(self.buffer.get(from..).unwrap_or_default())
    }

    /// Releases the bodies, and the buffer if it is large.
    pub(crate) fn clear(&mut self) {
        self.large = Vec::new();
        self.buffer.clear();
        if self.buffer.capacity() > BUFFER_BYTES_MAX {
            self.buffer = Vec::new();
        }
    }
}

/// The body of an entry to be encoded.
#[derive(Clone, Copy, Debug)]
pub(crate) enum NewBody<'b> {
    /// No body: the entry deletes the record.
    Removed,
    /// Stored inline in the WAL record.
    Bytes(&'b Bytes),
    /// Stored in a blob file.
    Blob { id: i64, len: u64 },
}

/// Decodes bytes as a WAL record, for the fuzz target. Fixes up the magic number and the checksum,
/// so that the fuzzer gets past them.
#[cfg(fuzzing)]
pub(crate) fn fuzz(bytes: &[u8]) {
    let mut bytes = bytes.to_vec();
    bytes.splice(0..bytes.len().min(4), MAGIC);
    let Some(header) = RecordHeader::parse(&bytes) else { return };
    let is_valid = |salt| decode_entries(salt, &header, &bytes).is_some();
    assert!(!is_valid(1) || !is_valid(2));
    let end = HEADER_BYTES + header.entries_len as usize;
    let Some(covered) = bytes.get(8..end) else { return };
    let fixed_up = RecordHeader { checksum: record_checksum(1, covered), ..header };
    if let Some(entries) = decode_entries(1, &fixed_up, &bytes) {
        assert_eq!(entries.len(), header.count as usize);
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
        let (mut builder, mut out) = (RecordBuilder::default(), EncodedRecord::default());
        let body = Bytes::from_static(b"body");
        let locations = vec![
            builder.push(b"a", 5, Some((7, b"meta")), NewBody::Bytes(&body)),
            builder.push(b"b", 5, None, NewBody::Removed),
            builder.push(b"c", 6, Some((0, b"")), NewBody::Blob { id: 9, len: 1 << 20 }),
            builder.push(b"d", 6, Some((0, b"h")), NewBody::Bytes(&Bytes::new())),
            builder.push(b"", 6, Some((0, b"")), NewBody::Bytes(&body)),
        ];
        let header = builder.finish(SALT, (3, 4, 6), &mut out).unwrap();
        (header, out.buffer, locations)
    }

    #[test]
    fn large_bodies_are_written_in_their_place() {
        let body = |byte, len| Bytes::from(vec![byte; len]);
        let bodies = [
            body(1, LARGE_BODY_BYTES_MIN),
            body(2, 10),
            body(3, LARGE_BODY_BYTES_MIN - 1),
            body(4, 2 * LARGE_BODY_BYTES_MIN),
            body(5, LARGE_BODY_BYTES_MIN),
        ];
        let (mut builder, mut record) = (RecordBuilder::default(), EncodedRecord::default());
        for (number, body) in bodies.iter().enumerate() {
            builder.push(&[number as u8], 1, Some((0, b"")), NewBody::Bytes(body));
        }
        let disk_len = builder.disk_len();
        let header = builder.finish(SALT, (1, 0, 1), &mut record).unwrap();
        assert_eq!(record.large.len(), 3);
        let file = tempfile::NamedTempFile::new().unwrap();
        record.write_to(file.as_file(), PAGE_BYTES as u64).unwrap();
        let written = std::fs::read(file.path()).unwrap().split_off(PAGE_BYTES);
        assert_eq!((written.len() as u64, header.disk_len()), (disk_len, disk_len));
        assert!(decode_entries(SALT, &header, &written).is_some());
        let at = usize::try_from(header.bodies_offset()).unwrap();
        let expected = bodies.concat();
        assert!(written[at..].starts_with(&expected));
        assert!(written[at + expected.len()..].iter().all(|byte| *byte == 0));
        record.clear();
        assert!(record.buffer.is_empty() && record.large.is_empty());
    }

    #[test]
    fn wal_records_round_trip() {
        let (header, bytes, locations) = record();
        assert_eq!(bytes.len() % PAGE_BYTES, 0);
        let parsed = RecordHeader::parse(&bytes);
        assert_eq!((bytes.len() as u64, parsed), (header.disk_len(), Some(header)));
        let decoded = decode_entries(SALT, &header, &bytes).unwrap();
        assert_eq!(decoded.iter().map(|entry| entry.location).collect::<Vec<_>>(), locations);
        let keys: Vec<_> = decoded.iter().map(|entry| &entry.key[..]).collect();
        assert_eq!(keys, [&b"a"[..], b"b", b"c", b"d", b""]);
        let WalEntry { version, expires_at, meta, .. } = &decoded[0];
        assert_eq!((*version, *expires_at, &meta[..]), (5, 7, &b"meta"[..]));
        assert_eq!(locations[2], BodyLocation::Blob { id: 9, len: 1 << 20 });
        let at = usize::try_from(header.bodies_offset()).unwrap();
        assert_eq!(&bytes[at..at + 8], b"bodybody");
    }

    #[test]
    fn a_changed_byte_before_the_bodies_fails_the_checksum() {
        let (header, bytes, _) = record();
        for at in 0..usize::try_from(header.bodies_offset()).unwrap() {
            let mut changed = bytes.clone();
            changed[at] ^= 0x10;
            let read = RecordHeader::parse(&changed)
                .and_then(|header| decode_entries(SALT, &header, &changed));
            assert_eq!(read, None, "byte {at}");
        }
    }

    #[test]
    fn a_record_with_another_salt_is_rejected() {
        let (header, bytes, _) = record();
        assert_eq!(decode_entries(SALT + 1, &header, &bytes), None);
    }

    proptest! {
        #[test]
        fn decoding_arbitrary_bytes_never_panics(mut bytes: Vec<u8>, plausible: bool) {
            if plausible {
                bytes.splice(0..bytes.len().min(4), MAGIC);
            }
            if let Some(header) = RecordHeader::parse(&bytes) {
                let _ = decode_entries(SALT, &header, &bytes);
            }
        }
    }
}
