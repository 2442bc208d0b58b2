//! A connection's stream with its read and write buffers and its timer.

use super::Stream;
use bytes::{BufMut, Bytes, BytesMut};
use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, Sleep, sleep_until};

/// Buffer space reserved for a read, in bytes.
const READ_BYTES: usize = 16 * 1024;
/// Reads up to this size are copied out of the input buffer; larger ones get their own buffer.
const COPY_BYTES_MAX: usize = 8 * 1024;

pub(super) struct BufferedStream<S> {
    stream: S,
    /// Bytes read and not yet consumed.
    pub(super) input: BytesMut,
    /// Bytes to write before the next read.
    pub(super) output: Vec<u8>,
    /// Reset only to an earlier deadline, so that most waits need no timer operation.
    timer: Pin<Box<Sleep>>,
}

impl<S: Stream> BufferedStream<S> {
    pub(super) fn new(stream: S) -> BufferedStream<S> {
        let (input, output) = (BytesMut::new(), Vec::new());
        let timer = Box::pin(sleep_until(Instant::now() + Duration::from_secs(3600)));
        BufferedStream { stream, input, output, timer }
    }

    /// Flushes the output, then reads more input; 0 at the end of the stream.
    pub(super) async fn fill(&mut self, timeout: Duration) -> io::Result<usize> {
        self.flush(timeout).await?;
        self.input.reserve(READ_BYTES);
        let read = self.stream.read_buf(&mut self.input);
        with_timeout(&mut self.timer, timeout, read).await
    }

    /// Reads exactly `len` bytes; an earlier end of the stream is an error.
    pub(super) async fn read_exact(&mut self, len: usize, timeout: Duration) -> io::Result<Bytes> {
        if len <= COPY_BYTES_MAX {
            while self.input.len() < len {
                if self.fill(timeout).await? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
            return Ok(Bytes::copy_from_slice(&self.input.split_to(len)));
        }
        self.flush(timeout).await?;
        let mut bytes = BytesMut::with_capacity(len);
        bytes.put(self.input.split_to(self.input.len().min(len)));
        while bytes.len() < len {
            let mut rest = (&mut bytes).limit(0);
            rest.set_limit(len - rest.get_ref().len());
            let read = self.stream.read_buf(&mut rest);
            if with_timeout(&mut self.timer, timeout, read).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(bytes.freeze())
    }

    /// Writes the output buffer.
    pub(super) async fn flush(&mut self, timeout: Duration) -> io::Result<()> {
        if self.output.is_empty() {
            return Ok(());
        }
        write_all(&mut self.stream, &mut self.timer, &self.output, timeout).await?;
        self.output.clear();
        Ok(())
    }

    /// Writes the output buffer and `bytes` together: a separate write would wake the client twice.
    pub(super) async fn write(&mut self, bytes: &[u8], timeout: Duration) -> io::Result<()> {
        let mut written = 0;
        while let Some(buffered) = self.output.get(written..).filter(|rest| !rest.is_empty()) {
            let both = [IoSlice::new(buffered), IoSlice::new(bytes)];
            let write = self.stream.write_vectored(&both);
            written += nonzero(with_timeout(&mut self.timer, timeout, write).await?)?;
        }
        let rest = bytes.get(written - self.output.len()..).unwrap_or_default();
        self.output.clear();
        write_all(&mut self.stream, &mut self.timer, rest, timeout).await
    }

    /// Shuts down writing.
    pub(super) async fn shutdown(&mut self, timeout: Duration) -> io::Result<()> {
        with_timeout(&mut self.timer, timeout, self.stream.shutdown()).await
    }

    /// Shuts down writing, then discards input for up to 10 s, so that the client receives the
    /// response instead of a reset.
    pub(super) async fn linger(&mut self, timeout: Duration) {
        const BYTES_MAX: usize = 64 << 20;
        const QUIET_MAX: Duration = Duration::from_secs(5);
        let deadline = Instant::now() + Duration::from_secs(10);
        if self.flush(timeout).await.is_err() || self.shutdown(timeout).await.is_err() {
            return;
        }
        let mut discarded = 0;
        while discarded < BYTES_MAX && Instant::now() < deadline {
            self.input.clear();
            match self.fill(QUIET_MAX).await {
                Ok(0) | Err(_) => return,
                Ok(read) => discarded += read,
            }
        }
    }
}

async fn write_all<S: Stream>(
    stream: &mut S,
    timer: &mut Pin<Box<Sleep>>,
    mut bytes: &[u8],
    timeout: Duration,
) -> io::Result<()> {
    while !bytes.is_empty() {
        let written = nonzero(with_timeout(timer, timeout, stream.write(bytes)).await?)?;
        bytes = bytes.get(written..).unwrap_or_default();
    }
    // A TLS stream may hold bytes back until it is flushed.
    with_timeout(timer, timeout, stream.flush()).await
}

/// Turns a write of no bytes into an error.
fn nonzero(written: usize) -> io::Result<usize> {
    if written == 0 { Err(io::ErrorKind::WriteZero.into()) } else { Ok(written) }
}

/// Runs an operation with a timeout on a shared timer.
async fn with_timeout<T>(
    timer: &mut Pin<Box<Sleep>>,
    timeout: Duration,
    operation: impl Future<Output = io::Result<T>>,
) -> io::Result<T> {
    let mut operation = pin!(operation);
    let mut deadline = None;
    poll_fn(move |cx| {
        if let Poll::Ready(done) = operation.as_mut().poll(cx) {
            return Poll::Ready(done);
        }
        let deadline = *deadline.get_or_insert_with(|| Instant::now() + timeout);
        if timer.deadline() > deadline {
            timer.as_mut().reset(deadline);
        }
        while timer.as_mut().poll(cx).is_ready() {
            if Instant::now() >= deadline {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            timer.as_mut().reset(deadline);
        }
        Poll::Pending
    })
    .await
}
