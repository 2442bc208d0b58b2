//! Backups over HTTP.

use super::Api;
use super::error::Error;
use crate::http::{BodySource, Payload, Response};
use crate::kv;
use crate::kv::backup::BackupStream;
use bytes::Bytes;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::time::{Duration, Instant};

/// Bytes that a backup holds at once.
const HELD_BYTES: u64 = 4 << 20;
/// For how long a backup may take: its snapshot keeps what was deleted from being given back.
const TIME_MAX: Duration = Duration::from_secs(6 * 3600);

struct Pieces {
    backup: BackupStream,
    request: u64,
    end: Instant,
}

impl Api {
    pub(super) async fn backup(&self, request: u64) -> Result<Response, Error> {
        let places = (self.admission.snapshot().await?, self.admission.download(HELD_BYTES).await?);
        let backup = self.kv.backup().await?;
        let pieces = Pieces { backup, request, end: Instant::now() + TIME_MAX };
        let mut response = Response::new(200)
            .field("Content-Type", b"application/octet-stream")
            .field("Cache-Control", b"no-store")
            .payload(Payload::Open(Box::new(pieces)));
        response.hold = Some(Box::new(places));
        Ok(response)
    }
}

impl BodySource for Pieces {
    fn next(&mut self) -> Pin<Box<dyn Future<Output = io::Result<Option<Bytes>>> + Send + '_>> {
        Box::pin(async move {
            let next = match Instant::now() > self.end {
                true => Err(kv::Error::Internal(format!("more than {} s", TIME_MAX.as_secs()))),
                false => self.backup.next().await,
            };
            next.map_err(|e| {
                let request = format_args!("{:016x}", self.request);
                tracing::error!(%request, error = %e, "a backup was cut short");
                io::Error::other(e.to_string())
            })
        })
    }
}
