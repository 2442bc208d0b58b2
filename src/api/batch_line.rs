//! Parses and validates the lines of batches and imports (docs/contract.md section 3.5).

use crate::kv;
use crate::kv::import::ImportedGeneration;
use crate::kv::types::{Key, Metadata, Ttl};
use crate::wire::item_line::{FieldError, LineError, LineFields, ParsedLine};
use bytes::Bytes;

/// The key of a rejected line, and the reason for the rejection. The key is empty if it could not
/// be parsed.
pub(super) type RejectedLine = (String, kv::Error);

/// A parsed and validated line.
pub(super) struct ValidLine {
    pub(super) key: Key,
    pub(super) ttl: Option<Ttl>,
    pub(super) metadata: Metadata,
    pub(super) value: Bytes,
    /// The expiry time. This field and those below are used only by imports; see
    /// [`kv::import::ImportItem`].
    pub(super) expires: Option<u64>,
    pub(super) generation: Option<ImportedGeneration>,
    pub(super) modified: Option<u64>,
}

/// Parses and validates a line. `now` is the current time. `authorize` checks the key of the line
/// before the value is decoded.
pub(super) fn parse(
    line: &[u8],
    fields: LineFields,
    value_bytes_max: u64,
    now: u64,
    authorize: impl Fn(&Key) -> Result<(), kv::Error>,
) -> Result<ValidLine, RejectedLine> {
    let line = ParsedLine::parse(line, fields)
        .map_err(|LineError { key, error }| (key, invalid(error)))?;
    let check = || {
        let key = Key::parse(line.key.as_bytes())?;
        authorize(&key)?;
        let ttl = line.time_to_live_sec.map(Ttl::new).transpose()?;
        let expires = line.expires_at().map_err(invalid)?;
        let modified = line.modified_at().map_err(invalid)?;
        let generation = line.generation.map(|n| ImportedGeneration::new(n, now)).transpose()?;
        let metadata = Metadata::parse(&line.metadata().map_err(invalid)?)?;
        let value = line.value().map_err(invalid)?;
        if value.len() as u64 > value_bytes_max {
            return Err(kv::Error::TooLarge(value_bytes_max));
        }
        Ok(ValidLine { key, ttl, metadata, value: value.into(), expires, generation, modified })
    };
    check().map_err(|e| (line.key.clone().into_owned(), e))
}

fn invalid(e: FieldError) -> kv::Error {
    kv::Error::invalid(e.field, e.reason)
}
