//! Reads input files and standard input.

use super::error::{Result, file_error};
use crate::client::RequestBody;
use crate::small_file;
pub(super) use crate::transfer::detect::is_dash;
use bytes::Bytes;
use futures_util::stream::poll_fn;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use tokio::sync::mpsc;

/// The maximum number of bytes per read.
const READ_BYTES: usize = 256 << 10;
/// The maximum size in bytes of a value that is read into memory before it is sent.
const SMALL_BYTES: u64 = 1 << 20;
/// The maximum number of chunks that are read before they can be sent.
const READ_AHEAD: usize = 4;

/// Opens a file, or standard input if the path is `-`. Also returns the size of the file in bytes
/// if it is a regular file.
pub(super) fn open(path: &Path) -> Result<(Box<dyn Read + Send>, Option<u64>)> {
    if is_dash(path) {
        return Ok((Box::new(io::stdin()), None));
    }
    let file = File::open(path).map_err(|e| file_error(path, e))?;
    let metadata = file.metadata().map_err(|e| file_error(path, e))?;
    if metadata.is_dir() {
        return Err(file_error(path, "is a directory"));
    }
    let size = metadata.is_file().then_some(metadata.len());
    Ok((Box::new(file), size))
}

/// A value to send.
pub(super) enum Value {
    /// A value that was read into memory.
    Bytes(Bytes),
    /// A value too large to buffer, which is read while it is sent.
    Stream(RequestBody),
}

/// Reads a value into memory if it is small, and otherwise streams it. `size` is the size of a
/// regular file. The size is used only if it exceeds the number of bytes read so far, because files
/// in `/proc` and `/sys` report sizes that differ from the lengths of their contents.
pub(super) fn read_value(mut reader: Box<dyn Read + Send>, size: Option<u64>) -> io::Result<Value> {
    let mut start = Vec::new();
    reader.by_ref().take(SMALL_BYTES + 1).read_to_end(&mut start)?;
    let read = start.len() as u64;
    if read <= SMALL_BYTES {
        return Ok(Value::Bytes(start.into()));
    }
    let reader = io::Cursor::new(start).chain(reader);
    Ok(Value::Stream(match size.filter(|size| *size > read) {
        // If the file grows while it is being read, the additional bytes are not sent.
        Some(size) => body(Box::new(ExactReader { from: reader, remaining: size }), Some(size)),
        None => body(Box::new(reader), None),
    }))
}

/// A reader that returns exactly `remaining` more bytes, and fails if the file ends earlier.
struct ExactReader<R> {
    from: R,
    remaining: u64,
}

impl<R: Read> Read for ExactReader<R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let read = self.from.by_ref().take(self.remaining).read(to)?;
        if read == 0 && self.remaining > 0 && !to.is_empty() {
            return Err(io::Error::other("the file shrank while it was being read"));
        }
        self.remaining -= read as u64;
        Ok(read)
    }
}

/// Returns a request body that streams from a reader. A separate thread reads up to [`READ_AHEAD`]
/// chunks ahead.
fn body(mut reader: Box<dyn Read + Send>, length: Option<u64>) -> RequestBody {
    let (sender, mut receiver) = mpsc::channel::<io::Result<Bytes>>(READ_AHEAD);
    std::thread::spawn(move || {
        loop {
            let mut buffer = vec![0; READ_BYTES];
            let read = match reader.read(&mut buffer) {
                Ok(0) => return,
                Ok(read) => read,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => {
                    let _ = sender.blocking_send(Err(e));
                    return;
                }
            };
            buffer.truncate(read);
            if sender.blocking_send(Ok(buffer.into())).is_err() {
                return;
            }
        }
    });
    RequestBody::stream(poll_fn(move |context| receiver.poll_recv(context)), length)
}

/// Reads a file into memory. Fails if the file is larger than `max` bytes.
pub(super) fn read_small(path: &Path, max: u64) -> Result<Vec<u8>> {
    let (reader, _) = open(path)?;
    small_file::read_to_end(reader, max).map_err(|e| file_error(path, e))
}
