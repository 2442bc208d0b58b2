//! A connection's stream with its buffers and its one timer.

use super::Stream;
use bytes::{BufMut, Bytes, BytesMut};
use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, Sleep, sleep_until};

/// Bytes asked of the stream at once.
const READ_BYTES: usize = 16 * 1024;
/// Up to so many bytes are copied out of the read buffer; more are read where they stay.
const COPY_BYTES: usize = 8 * 1024;

pub(super) struct BufferedStream<S> {
    pub(super) stream: S,
    /// What was read and not yet used.
    pub(super) input: BytesMut,
    /// What is to be written before the next read.
    pub(super) output: Vec<u8>,
    /// Reset only when it must fire earlier, so that most waits cost no timer operation.
    timer: Pin<Box<Sleep>>,
}

impl<S: Stream> BufferedStream<S> {
    pub(super) fn new(stream: S) -> BufferedStream<S> {
        let (input, output) = (BytesMut::new(), Vec::new());
        let timer = Box::pin(sleep_until(Instant::now() + Duration::from_secs(3600)));
        BufferedStream { stream, input, output, timer }
    }

    /// Reads more input, after writing what is to be written; answers 0 at the end.
    pub(super) async fn fill(&mut self, limit: Duration) -> io::Result<usize> {
        self.flush(limit).await?;
        self.input.reserve(READ_BYTES);
        let read = self.stream.read_buf(&mut self.input);
        within(&mut self.timer, limit, read).await
    }

    /// Exactly `len` bytes of input; an end before is an error.
    pub(super) async fn take(&mut self, len: usize, limit: Duration) -> io::Result<Bytes> {
        if len <= COPY_BYTES {
            while self.input.len() < len {
                if self.fill(limit).await? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
            return Ok(Bytes::copy_from_slice(&self.input.split_to(len)));
        }
        self.flush(limit).await?;
        let mut bytes = BytesMut::with_capacity(len);
        bytes.put(self.input.split_to(self.input.len().min(len)));
        while bytes.len() < len {
            let mut rest = (&mut bytes).limit(0);
            rest.set_limit(len - rest.get_ref().len());
            let read = self.stream.read_buf(&mut rest);
            if within(&mut self.timer, limit, read).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(bytes.freeze())
    }

    /// Writes what is to be written.
    pub(super) async fn flush(&mut self, limit: Duration) -> io::Result<()> {
        if self.output.is_empty() {
            return Ok(());
        }
        write(&mut self.stream, &mut self.timer, &self.output, limit).await?;
        self.output.clear();
        Ok(())
    }

    /// Writes what is to be written and `bytes` after it, together: each write of its own wakes
    /// whoever waits for it.
    pub(super) async fn write(&mut self, bytes: &[u8], limit: Duration) -> io::Result<()> {
        let mut written = 0;
        while let Some(before) = self.output.get(written..).filter(|before| !before.is_empty()) {
            let both = [IoSlice::new(before), IoSlice::new(bytes)];
            let write = self.stream.write_vectored(&both);
            written += some(within(&mut self.timer, limit, write).await?)?;
        }
        let rest = bytes.get(written - self.output.len()..).unwrap_or_default();
        self.output.clear();
        write(&mut self.stream, &mut self.timer, rest, limit).await
    }

    /// Ends the writing side, then takes what still comes for a while, so that the client gets to
    /// read its answer instead of a reset.
    pub(super) async fn linger(&mut self, limit: Duration) {
        const BYTES: usize = 64 << 20;
        const QUIET: Duration = Duration::from_secs(5);
        let end = Instant::now() + Duration::from_secs(10);
        if self.flush(limit).await.is_err() || self.stream.shutdown().await.is_err() {
            return;
        }
        let mut taken = 0;
        while taken < BYTES && Instant::now() < end {
            self.input.clear();
            match self.fill(QUIET).await {
                Ok(0) | Err(_) => return,
                Ok(read) => taken += read,
            }
        }
    }
}

async fn write<S: Stream>(
    stream: &mut S,
    timer: &mut Pin<Box<Sleep>>,
    mut bytes: &[u8],
    limit: Duration,
) -> io::Result<()> {
    while !bytes.is_empty() {
        let written = some(within(timer, limit, stream.write(bytes)).await?)?;
        bytes = bytes.get(written..).unwrap_or_default();
    }
    Ok(())
}

/// A write of nothing is an error.
fn some(written: usize) -> io::Result<usize> {
    if written == 0 { Err(io::ErrorKind::WriteZero.into()) } else { Ok(written) }
}

/// Bounds the time of an operation on a stream.
async fn within<T>(
    timer: &mut Pin<Box<Sleep>>,
    limit: Duration,
    work: impl Future<Output = io::Result<T>>,
) -> io::Result<T> {
    let mut work = pin!(work);
    let mut end = None;
    poll_fn(move |cx| {
        if let Poll::Ready(done) = work.as_mut().poll(cx) {
            return Poll::Ready(done);
        }
        let end = *end.get_or_insert_with(|| Instant::now() + limit);
        if timer.deadline() > end {
            timer.as_mut().reset(end);
        }
        while timer.as_mut().poll(cx).is_ready() {
            if Instant::now() >= end {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            timer.as_mut().reset(end);
        }
        Poll::Pending
    })
    .await
}
