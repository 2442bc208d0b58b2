//! Values that say themselves whose they are: a value is a sequence of pieces, one for each put,
//! append or prepend that made it, and each piece carries its key, its writer, a sequence number,
//! its length and a checksum, so that a torn, mixed or misplaced value shows.

use crate::random::Random;

const MAGIC: &[u8; 4] = b"PIEC";
/// Magic (4), length (4), writer (4), sequence (8), checksum (4), length of the key (2).
const HEAD: usize = 26;
const SUM: std::ops::Range<usize> = 20..24;

/// One piece of a value; its bytes follow from this and the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Piece {
    pub(crate) writer: u32,
    pub(crate) sequence: u64,
    /// Of the whole piece.
    pub(crate) bytes: u32,
}

impl Piece {
    /// A piece of about so many bytes: never less than what names it.
    pub(crate) fn new(key: &str, writer: u32, sequence: u64, bytes: u32) -> Piece {
        Piece { writer, sequence, bytes: bytes.max((HEAD + key.len()) as u32) }
    }

    /// Its bytes.
    pub(crate) fn make(&self, key: &str) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.bytes as usize + 8);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&self.bytes.to_le_bytes());
        bytes.extend_from_slice(&self.writer.to_le_bytes());
        bytes.extend_from_slice(&self.sequence.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&(key.len() as u16).to_le_bytes());
        bytes.extend_from_slice(key.as_bytes());
        let mut random = Random(self.sequence ^ u64::from(self.writer) << 40);
        while bytes.len() < self.bytes as usize {
            bytes.extend_from_slice(&random.next().to_le_bytes());
        }
        bytes.truncate(self.bytes as usize);
        let sum = crc32fast::hash(&bytes).to_le_bytes();
        bytes[SUM].copy_from_slice(&sum);
        bytes
    }
}

fn word<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().unwrap()
}

/// The pieces of a value under a key.
///
/// # Errors
/// In words, when the value is not a sequence of whole pieces of this key.
pub(crate) fn parse(key: &str, value: &[u8]) -> Result<Vec<Piece>, String> {
    let (mut pieces, mut rest, mut at) = (Vec::new(), value, 0);
    while !rest.is_empty() {
        if rest.len() < HEAD || &rest[..4] != MAGIC {
            return Err(format!("no piece begins at byte {at} of {}", value.len()));
        }
        let bytes = u32::from_le_bytes(word(rest, 4));
        let writer = u32::from_le_bytes(word(rest, 8));
        let sequence = u64::from_le_bytes(word(rest, 12));
        let piece = Piece { writer, sequence, bytes };
        let size = bytes as usize;
        if size < HEAD || size > rest.len() {
            return Err(format!("{piece:?} at byte {at} is cut after {} bytes", rest.len()));
        }
        let (own, next) = rest.split_at(size);
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&own[..SUM.start]);
        hasher.update(&[0; 4]);
        hasher.update(&own[SUM.end..]);
        if hasher.finalize().to_le_bytes() != own[SUM] {
            return Err(format!("{piece:?} at byte {at} does not match its checksum"));
        }
        let name = usize::from(u16::from_le_bytes(word(own, 24)));
        if own.get(HEAD..HEAD + name) != Some(key.as_bytes()) {
            return Err(format!("{piece:?} at byte {at} belongs to another key"));
        }
        pieces.push(piece);
        (rest, at) = (next, at + size);
    }
    Ok(pieces)
}
