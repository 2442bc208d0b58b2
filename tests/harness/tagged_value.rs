//! Self-describing values that expose torn, mixed and misplaced data.
//!
//! A value is a sequence of chunks, one for each put, append or prepend. Each chunk contains the
//! key, the writer, a sequence number, the length and a checksum.

use super::random::Random;

const MAGIC: &[u8; 4] = b"CHNK";
/// Size of the chunk header in bytes: magic number (4), length (4), writer (4), sequence number
/// (8), checksum (4) and key length (2).
const HEADER_BYTES: usize = 26;
const CHECKSUM: std::ops::Range<usize> = 20..24;

/// A chunk of a value. These fields and the key determine its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Chunk {
    pub(crate) writer: u32,
    pub(crate) sequence: u64,
    /// The length of the chunk in bytes, including the header.
    pub(crate) bytes: u32,
}

impl Chunk {
    /// Creates a chunk of `bytes` bytes, or of the size of its header and key if that is larger.
    pub(crate) fn new(key: &str, writer: u32, sequence: u64, bytes: u32) -> Chunk {
        Chunk { writer, sequence, bytes: bytes.max((HEADER_BYTES + key.len()) as u32) }
    }

    /// Returns the bytes of the chunk.
    pub(crate) fn encode(&self, key: &str) -> Vec<u8> {
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
        bytes[CHECKSUM].copy_from_slice(&sum);
        bytes
    }
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().unwrap()
}

/// Splits the value of a key into its chunks.
///
/// # Errors
/// Returns a description of the damage if the value is not a sequence of complete chunks of the
/// key.
pub(crate) fn decode(key: &str, value: &[u8]) -> Result<Vec<Chunk>, String> {
    let (mut chunks, mut rest, mut at) = (Vec::new(), value, 0);
    while !rest.is_empty() {
        if rest.len() < HEADER_BYTES || &rest[..4] != MAGIC {
            return Err(format!("there is no chunk header at byte {at} of {}", value.len()));
        }
        let bytes = u32::from_le_bytes(array_at(rest, 4));
        let writer = u32::from_le_bytes(array_at(rest, 8));
        let sequence = u64::from_le_bytes(array_at(rest, 12));
        let chunk = Chunk { writer, sequence, bytes };
        let size = bytes as usize;
        if size < HEADER_BYTES || size > rest.len() {
            return Err(format!("{chunk:?} at byte {at} is truncated after {} bytes", rest.len()));
        }
        let (own, next) = rest.split_at(size);
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&own[..CHECKSUM.start]);
        hasher.update(&[0; 4]);
        hasher.update(&own[CHECKSUM.end..]);
        if hasher.finalize().to_le_bytes() != own[CHECKSUM] {
            return Err(format!("{chunk:?} at byte {at} does not match its checksum"));
        }
        let name = usize::from(u16::from_le_bytes(array_at(own, 24)));
        if own.get(HEADER_BYTES..HEADER_BYTES + name) != Some(key.as_bytes()) {
            return Err(format!("{chunk:?} at byte {at} belongs to another key"));
        }
        chunks.push(chunk);
        (rest, at) = (next, at + size);
    }
    Ok(chunks)
}
