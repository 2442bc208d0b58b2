//! Streams a backup of all stores.

use super::Api;
use super::error::{Error, log_aborted};
use crate::http::{BodySource, Payload, Response};
use crate::kv;
use crate::kv::backup::BackupStream;
use bytes::Bytes;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::time::{Duration, Instant};

/// Memory reserved for one backup, in bytes.
const BACKUP_BYTES: u64 = 4 << 20;
/// Time limit of a backup. While its snapshot is open, space used by deleted data is not reclaimed.
const TIME_MAX: Duration = Duration::from_secs(6 * 3600);

/// Streams a backup as a response body.
struct BackupSource {
    backup: BackupStream,
    request_id: u64,
    deadline: Instant,
}

impl Api {
    pub(super) async fn backup(&self, request_id: u64) -> Result<Response, Error> {
        let memory = BACKUP_BYTES + self.kv.held_memory_bytes_max();
        let permits = (self.limiter.snapshot().await?, self.limiter.download(memory).await?);
        let backup = self.kv.backup().await?;
        let source = BackupSource { backup, request_id, deadline: Instant::now() + TIME_MAX };
        Ok(Response::new(200)
            .header("Content-Type", b"application/octet-stream")
            .header("Cache-Control", b"no-store")
            .payload(Payload::Chunked(Box::new(source)))
            .holding(Some(permits)))
    }
}

impl BodySource for BackupSource {
    fn next(&mut self) -> Pin<Box<dyn Future<Output = io::Result<Option<Bytes>>> + Send + '_>> {
        Box::pin(async move {
            let next = if Instant::now() > self.deadline {
                let secs = TIME_MAX.as_secs();
                Err(kv::Error::Internal(format!("the backup took more than {secs} s")))
            } else {
                self.backup.next().await
            };
            next.map_err(|e| log_aborted(self.request_id, &e))
        })
    }
}
