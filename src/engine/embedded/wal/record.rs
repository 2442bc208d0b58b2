//! The commit log's frames: one for each group of commits, written and synced as a whole.
//!
//! A frame begins at a multiple of [`PAGE`] and shares no page with another, so that a page torn
//! by a power cut belongs to the one frame that nobody was told of. Its rows are under one
//! checksum; each body behind them has its own. docs/format.md has the layout.

use super::super::database::body_sum;
use super::super::{EngineError, Result};
use bytes::Bytes;

/// Frames begin at multiples of this.
pub(in crate::engine::embedded) const PAGE: usize = 4096;
/// Bytes of a frame before its rows.
pub(in crate::engine::embedded) const HEADER: usize = 48;
/// A frame's rows and its bodies have at most so many bytes each: what a group may gather, and a
/// commit of many small bodies beyond that.
const PART_BYTES_MAX: u64 = 1 << 30;
const MAGIC: [u8; 4] = *b"SDLG";
/// Bytes of a row besides its key and head.
const ROW: usize = 37;

/// What a frame says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::engine::embedded) struct Header {
    /// The segment it was written into; another number is of an earlier use of the file.
    pub(in crate::engine::embedded) segment: u64,
    /// The last version before it.
    pub(in crate::engine::embedded) base: u64,
    /// The version of its last commit.
    pub(in crate::engine::embedded) last: u64,
    /// Bytes of its rows.
    pub(in crate::engine::embedded) rows_len: u32,
    /// How many rows it has.
    pub(in crate::engine::embedded) rows: u32,
    /// Bytes of the bodies behind the rows.
    pub(in crate::engine::embedded) bodies_len: u64,
    sum: u32,
}

/// Where a row's body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::engine::embedded) enum Home {
    /// There is no record any more.
    Removed,
    /// The body is empty.
    Empty,
    /// In the frame, so many bytes behind its rows.
    Inline { at: u64, len: u32, sum: u32 },
    /// In a blob file.
    Blob { id: i64, len: u64 },
}

/// One write of a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::engine::embedded) struct Row {
    pub(in crate::engine::embedded) key: Bytes,
    pub(in crate::engine::embedded) version: u64,
    pub(in crate::engine::embedded) expires_at: u64,
    pub(in crate::engine::embedded) meta: Bytes,
    pub(in crate::engine::embedded) home: Home,
}

impl Header {
    /// Bytes of the whole frame on disk, to the end of its last page.
    pub(in crate::engine::embedded) fn frame_len(&self) -> u64 {
        let len = HEADER as u64 + u64::from(self.rows_len) + self.bodies_len;
        len.next_multiple_of(PAGE as u64)
    }

    /// Where bodies begin, from the frame's start.
    pub(in crate::engine::embedded) fn bodies_at(&self) -> u64 {
        HEADER as u64 + u64::from(self.rows_len)
    }

    /// Reads the start of what may be a frame; `None` when it is none. Its checksum is of the rows
    /// too, and is checked by [`rows`].
    pub(in crate::engine::embedded) fn parse(bytes: &[u8]) -> Option<Header> {
        let (magic, rest) = bytes.split_first_chunk::<4>()?;
        let (sum, rest) = rest.split_first_chunk::<4>()?;
        let (segment, rest) = rest.split_first_chunk::<8>()?;
        let (base, rest) = rest.split_first_chunk::<8>()?;
        let (last, rest) = rest.split_first_chunk::<8>()?;
        let (rows_len, rest) = rest.split_first_chunk::<4>()?;
        let (rows, rest) = rest.split_first_chunk::<4>()?;
        let (bodies_len, _) = rest.split_first_chunk::<8>()?;
        let header = Header {
            segment: u64::from_le_bytes(*segment),
            base: u64::from_le_bytes(*base),
            last: u64::from_le_bytes(*last),
            rows_len: u32::from_le_bytes(*rows_len),
            rows: u32::from_le_bytes(*rows),
            bodies_len: u64::from_le_bytes(*bodies_len),
            sum: u32::from_le_bytes(*sum),
        };
        let sound = *magic == MAGIC
            && header.last > header.base
            && u64::from(header.rows_len) <= PART_BYTES_MAX
            && header.bodies_len <= PART_BYTES_MAX;
        sound.then_some(header)
    }
}

/// The rows of a frame whose bytes up to its bodies are `bytes`; `None` when they are damaged.
pub(in crate::engine::embedded) fn rows(
    salt: u32,
    header: &Header,
    bytes: &[u8],
) -> Option<Vec<Row>> {
    let end = HEADER + header.rows_len as usize;
    let mut rest = bytes.get(HEADER..end)?;
    if sum(salt, bytes.get(8..end)?) != header.sum {
        return None;
    }
    // A row takes at least its fixed part, so a wrong number cannot reserve much.
    let most = header.rows_len as usize / ROW;
    let mut rows = Vec::with_capacity((header.rows as usize).min(most));
    let mut at = 0_u64;
    for _ in 0..header.rows {
        let (fixed, after) = rest.split_first_chunk::<ROW>()?;
        let number = |from: usize| {
            let eight = fixed.get(from..from + 8).and_then(|eight| eight.try_into().ok());
            eight.map(u64::from_le_bytes)
        };
        let short = |from: usize| {
            let four = fixed.get(from..from + 4).and_then(|four| four.try_into().ok());
            four.map(u32::from_le_bytes)
        };
        let (kind, version, expires_at) = (fixed.first()?, number(1)?, number(9)?);
        let (key_len, head_len) = (short(17)? as usize, short(21)? as usize);
        let (a, sum) = (number(25)?, short(33)?);
        let home = match kind {
            0 => Home::Removed,
            1 => Home::Empty,
            2 => {
                let len = u32::try_from(a).ok()?;
                let home = Home::Inline { at, len, sum };
                at += a;
                home
            }
            3 => Home::Blob { id: (a & i64::MAX as u64).cast_signed(), len: 0 },
            _ => return None,
        };
        let key = after.get(..key_len)?;
        let after = after.get(key_len..)?;
        let meta = after.get(..head_len)?;
        rest = after.get(head_len..)?;
        let (key, meta) = (Bytes::copy_from_slice(key), Bytes::copy_from_slice(meta));
        rows.push(Row { key, version, expires_at, meta, home });
    }
    // The size of a blob stands behind the rows that have one, in their order.
    for row in &mut rows {
        if let Home::Blob { len, .. } = &mut row.home {
            let (eight, after) = rest.split_first_chunk::<8>()?;
            *len = u64::from_le_bytes(*eight);
            rest = after;
        }
    }
    (rest.is_empty() && at == header.bodies_len).then_some(rows)
}

/// The checksum of a frame up to its bodies. Without the salt, which is a random number of the data
/// directory, nobody can make a value that looks like a frame.
fn sum(salt: u32, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(salt);
    hasher.update(bytes);
    hasher.finalize()
}

/// Gathers the rows of a group and makes their frame.
#[derive(Default)]
pub(in crate::engine::embedded) struct Builder {
    rows: Vec<u8>,
    sizes: Vec<u8>,
    bodies: Vec<Bytes>,
    bodies_len: u64,
    count: u32,
}

impl Builder {
    /// Adds a write. `body` holds the bytes of an inline body.
    pub(in crate::engine::embedded) fn push(
        &mut self,
        key: &[u8],
        version: u64,
        record: Option<(u64, &[u8])>,
        body: Placed<'_>,
    ) -> Home {
        let (expires_at, meta) = record.unwrap_or((0, b""));
        let (kind, a, sum, home) = match body {
            Placed::Removed => (0_u8, 0, 0, Home::Removed),
            Placed::Bytes(bytes) if bytes.is_empty() => (1, 0, 0, Home::Empty),
            Placed::Bytes(bytes) => {
                let sum = body_sum(version, bytes);
                let at = self.bodies_len;
                self.bodies_len += bytes.len() as u64;
                self.bodies.push(bytes.clone());
                // Inline bodies are far below 4 GiB; a longer one is refused by `finish`.
                let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
                (2, bytes.len() as u64, sum, Home::Inline { at, len, sum })
            }
            Placed::Blob { id, len } => {
                self.sizes.extend_from_slice(&len.to_le_bytes());
                (3, id.cast_unsigned(), 0, Home::Blob { id, len })
            }
        };
        self.rows.push(kind);
        self.rows.extend_from_slice(&version.to_le_bytes());
        self.rows.extend_from_slice(&expires_at.to_le_bytes());
        for len in [key.len(), meta.len()] {
            self.rows.extend_from_slice(&u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes());
        }
        self.rows.extend_from_slice(&a.to_le_bytes());
        self.rows.extend_from_slice(&sum.to_le_bytes());
        self.rows.extend_from_slice(key);
        self.rows.extend_from_slice(meta);
        self.count += 1;
        home
    }

    /// Bytes of the frame, to the end of its last page.
    pub(in crate::engine::embedded) fn frame_len(&self) -> u64 {
        let len = (HEADER + self.rows.len() + self.sizes.len()) as u64 + self.bodies_len;
        len.next_multiple_of(PAGE as u64)
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
    ) -> Result<Header> {
        self.rows.append(&mut self.sizes);
        let (bodies, bodies_len) = (std::mem::take(&mut self.bodies), self.bodies_len);
        let rows_len = u32::try_from(self.rows.len()).ok();
        let rows_len = rows_len.filter(|len| u64::from(*len) <= PART_BYTES_MAX);
        let (Some(rows_len), true) = (rows_len, bodies_len <= PART_BYTES_MAX) else {
            *self = Builder::default();
            return Err(EngineError::Failed("a commit of more than 1 GiB".into()));
        };
        let mut header =
            Header { segment, base, last, rows_len, rows: self.count, bodies_len, sum: 0 };
        out.clear();
        out.reserve(usize::try_from(header.frame_len()).unwrap_or(0));
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&[0; 4]);
        for number in [segment, base, last] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&rows_len.to_le_bytes());
        out.extend_from_slice(&self.count.to_le_bytes());
        out.extend_from_slice(&bodies_len.to_le_bytes());
        out.append(&mut self.rows);
        header.sum = sum(salt, out.get(8..).unwrap_or_default());
        if let Some(sum) = out.get_mut(4..8) {
            sum.copy_from_slice(&header.sum.to_le_bytes());
        }
        for body in &bodies {
            out.extend_from_slice(body);
        }
        out.resize(out.len().next_multiple_of(PAGE), 0);
        (self.bodies_len, self.count) = (0, 0);
        Ok(header)
    }
}

/// A body on its way into a frame.
#[derive(Clone, Copy, Debug)]
pub(in crate::engine::embedded) enum Placed<'b> {
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
    let Some(header) = Header::parse(&bytes) else { return };
    assert!(rows(1, &header, &bytes).is_none() || rows(2, &header, &bytes).is_none());
    let end = HEADER + header.rows_len as usize;
    let Some(summed) = bytes.get(8..end) else { return };
    let mended = Header { sum: sum(1, summed), ..header };
    if let Some(rows) = rows(1, &mended, &bytes) {
        assert_eq!(rows.len(), header.rows as usize);
        for row in rows {
            if let Home::Inline { at, len, .. } = row.home {
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

    fn frame() -> (Header, Vec<u8>, Vec<Home>) {
        let (mut builder, mut out) = (Builder::default(), Vec::new());
        let body = Bytes::from_static(b"body");
        let homes = vec![
            builder.push(b"a", 5, Some((7, b"head")), Placed::Bytes(&body)),
            builder.push(b"b", 5, None, Placed::Removed),
            builder.push(b"c", 6, Some((0, b"")), Placed::Blob { id: 9, len: 1 << 20 }),
            builder.push(b"d", 6, Some((0, b"h")), Placed::Bytes(&Bytes::new())),
            builder.push(b"", 6, Some((0, b"")), Placed::Bytes(&body)),
        ];
        let header = builder.finish(SALT, (3, 4, 6), &mut out).unwrap();
        (header, out, homes)
    }

    #[test]
    fn a_frame_is_read_as_it_was_built() {
        let (header, bytes, homes) = frame();
        assert_eq!(bytes.len() % PAGE, 0);
        assert_eq!((bytes.len() as u64, Header::parse(&bytes)), (header.frame_len(), Some(header)));
        let found = rows(SALT, &header, &bytes).unwrap();
        assert_eq!(found.iter().map(|row| row.home).collect::<Vec<_>>(), homes);
        let keys: Vec<_> = found.iter().map(|row| &row.key[..]).collect();
        assert_eq!(keys, [&b"a"[..], b"b", b"c", b"d", b""]);
        assert_eq!(
            (found[0].version, found[0].expires_at, &found[0].meta[..]),
            (5, 7, &b"head"[..])
        );
        assert_eq!(homes[2], Home::Blob { id: 9, len: 1 << 20 });
        let at = usize::try_from(header.bodies_at()).unwrap();
        assert_eq!(&bytes[at..at + 8], b"bodybody");
    }

    #[test]
    fn a_changed_byte_before_the_bodies_is_noticed() {
        let (header, bytes, _) = frame();
        for at in 0..usize::try_from(header.bodies_at()).unwrap() {
            let mut changed = bytes.clone();
            changed[at] ^= 0x10;
            let read = Header::parse(&changed).and_then(|header| rows(SALT, &header, &changed));
            assert_eq!(read, None, "byte {at}");
        }
    }

    #[test]
    fn a_frame_of_another_salt_is_none() {
        let (header, bytes, _) = frame();
        assert_eq!(rows(SALT + 1, &header, &bytes), None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_reading_panic(mut bytes: Vec<u8>, sound: bool) {
            if sound {
                bytes.splice(0..bytes.len().min(4), MAGIC);
            }
            if let Some(header) = Header::parse(&bytes) {
                let _ = rows(SALT, &header, &bytes);
            }
        }
    }
}
