//! The server's log. Lines are queued in memory and written to standard error by a dedicated
//! thread. A blocked or closed standard error therefore does not affect the server.
//!
//! After [`start`], no other code in the server may write to standard error, because a write to a
//! full pipe blocks.

use crate::config::LogFormat;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::panic::PanicHookInfo;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tracing_subscriber::EnvFilter;

/// Maximum size of the queued lines in bytes. Further lines are dropped and counted.
const QUEUE_BYTES_MAX: usize = 1 << 20;
/// Buffer capacity, in bytes, that the writer keeps after a burst of lines.
const BATCH_BYTES_KEPT: usize = 64 << 10;
/// Delay before retrying a write to a full non-blocking pipe.
const RETRY_DELAY: Duration = Duration::from_millis(10);
/// Maximum time that a panicking thread waits for its log line to be written.
const PANIC_FLUSH: Duration = Duration::from_millis(200);

static QUEUE: Queue = Queue::new();

/// Starts the log of this process. Text on a terminal is coloured if `color` is set.
///
/// # Errors
/// If the filter is invalid, the log was already started, or the thread cannot be started.
pub fn start(filter: &str, format: LogFormat, color: bool) -> Result<(), String> {
    let filter = EnvFilter::try_new(filter).map_err(|e| format!("--log: {e}"))?;
    let stderr = io::stderr();
    // Use a duplicate of the descriptor, because a blocked write to `Stderr` holds its lock.
    let out = stderr.as_fd().try_clone_to_owned().map(File::from);
    let out = out.map_err(|e| format!("cannot open standard error: {e}"))?;
    let ansi = color && stderr.is_terminal();
    let writer = std::thread::Builder::new().name("log".into());
    let writer = writer.spawn(move || QUEUE.write_to(out));
    writer.map_err(|e| format!("cannot start the log thread: {e}"))?;
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(|| LineWriter)
        // The subscriber would report errors with `eprintln!`, which panics if standard error is
        // closed.
        .log_internal_errors(false);
    let started = match format {
        LogFormat::Text => logs.with_ansi(ansi).try_init(),
        LogFormat::Json => logs.json().flatten_event(true).try_init(),
    };
    started.map_err(|e| e.to_string())?;
    std::panic::set_hook(Box::new(log_panic));
    Ok(())
}

/// Writes a message without log formatting, such as an error that ends the process.
pub fn print(text: &str) {
    QUEUE.push(format!("{text}\n").as_bytes());
}

/// Waits up to `timeout` for the queued lines to be written.
pub fn flush(timeout: Duration) {
    QUEUE.flush(timeout);
}

/// Returns the number of lines dropped because the queue was full or a write failed.
pub fn dropped_lines() -> u64 {
    QUEUE.dropped.load(Ordering::Relaxed)
}

/// Logs a panic. The default hook is not used, because it writes to standard error directly.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or("unnamed");
    let location = panic.location().map(ToString::to_string).unwrap_or_default();
    let reason = panic.payload_as_str().unwrap_or("unknown");
    let backtrace = Backtrace::capture();
    let backtrace = matches!(backtrace.status(), BacktraceStatus::Captured).then_some(backtrace);
    let backtrace = backtrace.map(|backtrace| backtrace.to_string());
    tracing::error!(thread, location, reason, backtrace, "thread panicked");
    flush(PANIC_FLUSH);
}

/// A writer that queues each line passed to it. Its writes never fail.
struct LineWriter;

impl Write for LineWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        QUEUE.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The lines queued for the writer thread.
struct Queue {
    state: Mutex<State>,
    /// Signals that lines are queued.
    filled: Condvar,
    /// Signals that all lines are written.
    emptied: Condvar,
    dropped: AtomicU64,
}

struct State {
    lines: Vec<u8>,
    /// Whether the writer thread is writing lines that it has dequeued.
    writing: bool,
}

impl Queue {
    const fn new() -> Queue {
        let state = Mutex::new(State { lines: Vec::new(), writing: false });
        let (filled, emptied) = (Condvar::new(), Condvar::new());
        Queue { state, filled, emptied, dropped: AtomicU64::new(0) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, line: &[u8]) {
        let mut state = self.lock();
        if state.lines.len() + line.len() > QUEUE_BYTES_MAX {
            drop(state);
            self.drop_lines(1);
            return;
        }
        let wakes = state.lines.is_empty() && !state.writing;
        state.lines.extend_from_slice(line);
        drop(state);
        if wakes {
            self.filled.notify_one();
        }
    }

    fn drop_lines(&self, count: u64) {
        self.dropped.fetch_add(count, Ordering::Relaxed);
    }

    /// Writes lines as they are queued. Never returns.
    fn write_to(&self, mut out: impl Write) {
        let (mut batch, mut torn) = (Vec::new(), false);
        loop {
            batch.clear();
            batch.shrink_to(BATCH_BYTES_KEPT);
            let mut state = self.lock();
            state.writing = false;
            while state.lines.is_empty() {
                self.emptied.notify_all();
                state = self.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            state.writing = true;
            std::mem::swap(&mut batch, &mut state.lines);
            drop(state);
            let ending = usize::from(torn);
            if torn {
                batch.insert(0, b'\n');
            }
            let written = write_all(&mut out, &batch);
            let lost = batch.get(written.max(ending)..).unwrap_or_default();
            self.drop_lines(lost.iter().filter(|byte| **byte == b'\n').count() as u64);
            torn = match written.checked_sub(1) {
                Some(last) => batch.get(last) != Some(&b'\n'),
                None => torn,
            };
        }
    }

    fn flush(&self, timeout: Duration) {
        let deadline = Instant::now() + timeout;
        let mut state = self.lock();
        while state.writing || !state.lines.is_empty() {
            let remaining = deadline.saturating_duration_since(Instant::now());
            if remaining.is_zero() {
                return;
            }
            let waited = self.emptied.wait_timeout(state, remaining);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// Writes as much as possible and returns the number of bytes written.
fn write_all(out: &mut impl Write, bytes: &[u8]) -> usize {
    let mut written = 0;
    while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
        match out.write(rest) {
            Ok(0) => break,
            Ok(len) => written += len,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => std::thread::sleep(RETRY_DELAY),
            Err(_) => break,
        }
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

    /// Forwards each write to the test and returns the result that the test sends.
    struct Controlled(SyncSender<Vec<u8>>, Receiver<io::Result<usize>>);

    impl Write for Controlled {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.send(bytes.to_vec()).unwrap();
            self.1.recv().unwrap()
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_that_do_not_fit_or_cannot_be_written_are_counted() {
        static QUEUE: Queue = Queue::new();
        let (written, writes) = sync_channel(1);
        let (results, receiver) = sync_channel(1);
        std::thread::spawn(move || QUEUE.write_to(Controlled(written, receiver)));
        let dropped = || QUEUE.dropped.load(Ordering::Relaxed);
        QUEUE.push(b"first\n");
        assert_eq!(writes.recv().unwrap(), b"first\n");
        // The writer is now blocked.
        let line = [b'x'; 1024];
        for _ in 0..QUEUE_BYTES_MAX / line.len() {
            QUEUE.push(&line);
        }
        QUEUE.flush(Duration::from_millis(10));
        assert_eq!(dropped(), 0);
        QUEUE.push(b"does not fit\n");
        assert_eq!(dropped(), 1);
        results.send(Err(io::ErrorKind::StorageFull.into())).unwrap();
        assert_eq!(writes.recv().unwrap().len(), QUEUE_BYTES_MAX);
        assert_eq!(dropped(), 2, "the first line was not counted as dropped");
        results.send(Ok(QUEUE_BYTES_MAX)).unwrap();
        QUEUE.flush(Duration::from_secs(60));
        QUEUE.push(b"last\n");
        assert_eq!(writes.recv().unwrap(), b"\nlast\n", "no line feed ends the torn line");
        results.send(Err(io::ErrorKind::BrokenPipe.into())).unwrap();
        QUEUE.flush(Duration::from_secs(60));
        assert_eq!(dropped(), 3);
    }
}
