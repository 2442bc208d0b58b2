//! The stream of a connection, with read and write buffers and a timer.

use super::Stream;
use super::transfer_rate::TransferRate;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, Sleep, sleep_until};

/// Buffer space reserved for a read, in bytes.
const READ_BYTES: usize = 8 * 1024;
/// Capacity in bytes that each buffer of an idle connection keeps.
const IDLE_BYTES: usize = 8 * 1024;
/// Interval at which a client that has shut down its sending side is probed.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// Reads up to this size are copied out of the input buffer. Larger reads get their own buffer.
const COPY_BYTES_MAX: usize = 8 * 1024;

pub(super) struct BufferedStream<S> {
    stream: S,
    /// Bytes that have been read but not consumed.
    pub(super) input: BytesMut,
    /// Bytes to write before the next read.
    pub(super) output: Vec<u8>,
    /// The timer shared by all waits. It is reset only if a wait has an earlier deadline, or if the
    /// timer fires too early. Most waits therefore need no timer operation.
    timer: Pin<Box<Sleep>>,
}

/// How the server watches for a disconnect while it processes a request.
#[derive(Clone, Copy)]
enum Watch {
    /// Reading, until the client shuts down its sending side.
    Reading,
    /// Waiting until this time to send the next probe.
    Waiting(Instant),
    /// Writing a probe.
    Probing,
}

impl<S: Stream> BufferedStream<S> {
    pub(super) fn new(stream: S) -> BufferedStream<S> {
        let (input, output) = (BytesMut::new(), Vec::new());
        let timer = Box::pin(sleep_until(Instant::now() + Duration::from_secs(3600)));
        BufferedStream { stream, input, output, timer }
    }

    /// Flushes the output, then reads more input. Returns 0 at the end of the stream.
    pub(super) async fn fill(&mut self, timeout: Duration) -> io::Result<usize> {
        self.flush(timeout).await?;
        self.input.reserve(READ_BYTES);
        let read = self.stream.read_buf(&mut self.input);
        with_timeout(&mut self.timer, timeout, read).await
    }

    /// Like [`BufferedStream::fill`], but reads a body and enforces its minimum rate.
    pub(super) async fn fill_body(&mut self, rate: &mut TransferRate) -> io::Result<usize> {
        self.flush(rate.timeout()).await?;
        self.input.reserve(READ_BYTES);
        read(&mut self.stream, &mut self.timer, &mut self.input, rate).await
    }

    /// Reads exactly `len` bytes of a body. Fails if the stream ends earlier.
    pub(super) async fn read_exact(
        &mut self,
        len: usize,
        rate: &mut TransferRate,
    ) -> io::Result<Bytes> {
        if len <= COPY_BYTES_MAX {
            while self.input.len() < len {
                if self.fill_body(rate).await? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
            return Ok(Bytes::copy_from_slice(&self.input.split_to(len)));
        }
        self.flush(rate.timeout()).await?;
        let mut bytes = BytesMut::with_capacity(len);
        bytes.put(self.input.split_to(self.input.len().min(len)));
        while bytes.len() < len {
            let mut rest = (&mut bytes).limit(0);
            rest.set_limit(len - rest.get_ref().len());
            if read(&mut self.stream, &mut self.timer, &mut rest, rate).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(bytes.freeze())
    }

    /// Releases buffers that have grown. Called before the connection waits for a request.
    pub(super) fn shrink(&mut self) {
        if self.output.is_empty() && self.output.capacity() > IDLE_BYTES {
            self.output = Vec::new();
        }
        if self.input.is_empty() && self.input.try_reclaim(IDLE_BYTES + 1) {
            self.input = BytesMut::new();
        }
    }

    /// Reads and discards `len` bytes without buffering them. Returns whether all of them arrived
    /// within `limit`.
    pub(super) async fn discard(&mut self, len: u64, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        let mut remaining = len;
        loop {
            let buffered = usize::try_from(remaining).unwrap_or(usize::MAX).min(self.input.len());
            self.input.advance(buffered);
            remaining -= buffered as u64;
            if remaining == 0 {
                return true;
            }
            let wait = deadline.saturating_duration_since(Instant::now());
            if wait.is_zero() || !matches!(self.fill(wait).await, Ok(1..)) {
                return false;
            }
        }
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

    /// Writes the output buffer and `bytes` of a body together, because two writes would wake the
    /// client twice.
    pub(super) async fn write(&mut self, bytes: &[u8], rate: &mut TransferRate) -> io::Result<()> {
        let mut written = 0;
        loop {
            let buffered = self.output.get(written..).unwrap_or_default();
            let rest = written.saturating_sub(self.output.len());
            let rest = bytes.get(rest..).unwrap_or_default();
            if buffered.is_empty() && rest.is_empty() {
                break;
            }
            let (wait, start) = (rate.next_wait()?, Instant::now());
            let both = [IoSlice::new(buffered), IoSlice::new(rest)];
            let write = async {
                match buffered.is_empty() {
                    true => self.stream.write(rest).await,
                    false => self.stream.write_vectored(&both).await,
                }
            };
            match with_timeout(&mut self.timer, wait, write).await {
                Ok(bytes) => {
                    rate.record_bytes(bytes, start.elapsed());
                    written += nonzero(bytes)?;
                }
                Err(e) if e.kind() == io::ErrorKind::TimedOut => rate.record_wait(wait),
                Err(e) => return Err(e),
            }
        }
        self.output.clear();
        // A TLS stream may hold bytes back until it is flushed.
        with_timeout(&mut self.timer, rate.timeout(), self.stream.flush()).await
    }

    /// Runs `work`, which must not use the stream, as long as the client is connected.
    ///
    /// The stream is used only if `work` waits. Input that arrives in the meantime is kept. Once
    /// the input buffer is full, disconnects are no longer detected. A client that shuts down its
    /// sending side may have closed the connection, or may still be waiting for the response. To
    /// find out, the server sends `interim`: if the connection is closed, the client's operating
    /// system answers with a reset.
    ///
    /// # Errors
    /// Fails if the connection is closed or reset before `work` completes.
    pub(super) async fn while_connected<T>(
        &mut self,
        interim: &[u8],
        mut work: Pin<&mut (impl Future<Output = T> + Send + ?Sized)>,
    ) -> io::Result<T> {
        let mut watch = Watch::Reading;
        poll_fn(|cx| match work.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Ok(output)),
            Poll::Pending => self.poll_disconnected(cx, interim, &mut watch).map(Err),
        })
        .await
    }

    /// Waits until the client is known to have disconnected.
    fn poll_disconnected(
        &mut self,
        cx: &mut Context<'_>,
        interim: &[u8],
        watch: &mut Watch,
    ) -> Poll<io::Error> {
        loop {
            let done = match *watch {
                Watch::Reading if self.input.len() >= READ_BYTES => return Poll::Pending,
                Watch::Reading => {
                    self.input.reserve(READ_BYTES);
                    let read = pin!(self.stream.read_buf(&mut self.input));
                    ready!(read.poll(cx)).map(|bytes| match bytes {
                        0 => Watch::Waiting(Instant::now() + PROBE_INTERVAL),
                        _ => Watch::Reading,
                    })
                }
                Watch::Waiting(until) => {
                    ready!(poll_timer(&mut self.timer, until, cx));
                    self.output.extend_from_slice(interim);
                    Ok(Watch::Probing)
                }
                Watch::Probing => ready!(self.poll_probe(cx))
                    .map(|()| Watch::Waiting(Instant::now() + PROBE_INTERVAL)),
            };
            match done {
                Ok(next) => *watch = next,
                Err(e) => return Poll::Ready(e),
            }
        }
    }

    /// Writes the output buffer. Unlike [`BufferedStream::flush`], this may be cancelled at any
    /// point. An empty buffer causes an empty write, which fails if the connection was reset.
    fn poll_probe(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let stream = Pin::new(&mut self.stream);
            let written = ready!(stream.poll_write(cx, &self.output))?;
            if self.output.is_empty() {
                break;
            }
            self.output.drain(..nonzero(written)?);
            if self.output.is_empty() {
                break;
            }
        }
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// Shuts down the sending side.
    pub(super) async fn shutdown(&mut self, timeout: Duration) -> io::Result<()> {
        with_timeout(&mut self.timer, timeout, self.stream.shutdown()).await
    }

    /// Flushes the output, shuts down the sending side and discards input for up to 10 s, so that
    /// the client receives the response instead of a reset.
    pub(super) async fn linger(&mut self, timeout: Duration) {
        const BYTES_MAX: usize = 64 << 20;
        const QUIET_MAX: Duration = Duration::from_secs(5);
        let deadline = Instant::now() + Duration::from_secs(10);
        if self.flush(timeout).await.is_err() || self.shutdown(timeout).await.is_err() {
            return;
        }
        self.shrink();
        let mut discarded = 0;
        while discarded < BYTES_MAX {
            self.input.clear();
            let wait = deadline.saturating_duration_since(Instant::now()).min(QUIET_MAX);
            match self.fill(wait).await {
                Ok(0) | Err(_) => return,
                Ok(read) => discarded += read,
            }
        }
    }
}

/// Reads bytes of a body and enforces its minimum rate. Returns 0 at the end of the stream.
async fn read<S: Stream>(
    stream: &mut S,
    timer: &mut Pin<Box<Sleep>>,
    into: &mut (impl BufMut + Send),
    rate: &mut TransferRate,
) -> io::Result<usize> {
    loop {
        let (wait, start) = (rate.next_wait()?, Instant::now());
        match with_timeout(timer, wait, stream.read_buf(into)).await {
            Ok(bytes) => {
                rate.record_bytes(bytes, start.elapsed());
                return Ok(bytes);
            }
            Err(e) if e.kind() == io::ErrorKind::TimedOut => rate.record_wait(wait),
            Err(e) => return Err(e),
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
        poll_timer(timer, deadline, cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    })
    .await
}

/// Waits until `deadline` on a shared timer.
fn poll_timer(timer: &mut Pin<Box<Sleep>>, deadline: Instant, cx: &mut Context<'_>) -> Poll<()> {
    if timer.deadline() > deadline {
        timer.as_mut().reset(deadline);
    }
    while timer.as_mut().poll(cx).is_ready() {
        if Instant::now() >= deadline {
            return Poll::Ready(());
        }
        timer.as_mut().reset(deadline);
    }
    Poll::Pending
}
