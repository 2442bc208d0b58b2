//! Bodies in WAL segments that are too large to be read with their record. The first access to a
//! body reads the whole body.

use super::super::{Body, BoxFuture, EngineError, INLINE_BYTES_MAX, Result, StoredBody};
use super::blob_files::{BlobFiles, blocking};
use super::body_cache::BodyKey;
use super::database::SegmentLocation;
use super::wal::recovery;
use super::wal::segment::Segment;
use bytes::Bytes;
use std::any::Any;
use std::sync::{Arc, OnceLock};

/// Maximum size in bytes of a body that is read with its record.
pub(super) const READ_WITH_RECORD_MAX: u32 = INLINE_BYTES_MAX as u32;

/// A body in a WAL segment. Its reference to the segment prevents the segment from being recycled.
struct SegmentBody {
    segment: Arc<Segment>,
    location: SegmentLocation,
    version: u64,
    blobs: Arc<BlobFiles>,
    /// The verified body after the first read. A single checksum covers the whole body, so without
    /// this copy each read of a range would have to read the whole body again.
    content: OnceLock<Bytes>,
}

/// Returns the body at a location. Reads and verifies the body if it has at most
/// [`READ_WITH_RECORD_MAX`] bytes; otherwise returns a handle that reads it on first access.
pub(super) fn open_body(
    blobs: &Arc<BlobFiles>,
    segment: Arc<Segment>,
    location: SegmentLocation,
    version: u64,
) -> Result<Body> {
    if location.len <= READ_WITH_RECORD_MAX {
        return Ok(Body::Bytes(recovery::read_located(&segment, location, version)?));
    }
    let (blobs, content) = (blobs.clone(), OnceLock::new());
    Ok(Body::Stored(Arc::new(SegmentBody { segment, location, version, blobs, content })))
}

impl SegmentBody {
    async fn content(&self) -> Result<Bytes> {
        if let Some(content) = self.content.get() {
            return Ok(content.clone());
        }
        let SegmentLocation { seq, at, .. } = self.location;
        let key = BodyKey::Segment { seq, at };
        let content = match self.blobs.body_cache().get(key) {
            Some(content) => content,
            None => {
                let (segment, location, version) =
                    (self.segment.clone(), self.location, self.version);
                let read = move || recovery::read_located(&segment, location, version);
                let content = blocking(read).await?;
                self.blobs.body_cache().insert(key, content.clone());
                content
            }
        };
        Ok(self.content.get_or_init(|| content).clone())
    }
}

impl StoredBody for SegmentBody {
    fn len(&self) -> u64 {
        self.location.len.into()
    }

    fn read(&self, offset: u64, len: usize) -> BoxFuture<'_, Result<Bytes>> {
        Box::pin(async move {
            let content = self.content().await?;
            let start = usize::try_from(offset).unwrap_or(usize::MAX);
            let end = start.checked_add(len).filter(|end| *end <= content.len());
            let past_end = || EngineError::Corrupt("read past the end of a body".into());
            Ok(content.slice(start..end.ok_or_else(past_end)?))
        })
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
