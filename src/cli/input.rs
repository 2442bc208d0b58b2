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

/// The size of a read in bytes.
const READ_BYTES: usize = 256 << 10;
/// Values up to this size in bytes are read into memory before they are sent.
const SMALL_BYTES: u64 = 1 << 20;
/// The number of chunks read ahead of the connection.
const READ_AHEAD: usize = 4;

/// Opens a file, or standard input for `-`. Returns the size of a regular file.
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
    /// A value that was read completely.
    Bytes(Bytes),
    /// A larger value.
    Stream(RequestBody),
}

/// Reads a value into memory if it is small, and otherwise streams it. The size of a file in
/// `/proc` or `/sys` is not the length of its content, which is unknown until it has been read.
pub(super) fn read_value(mut reader: Box<dyn Read + Send>, size: Option<u64>) -> io::Result<Value> {
    let mut start = Vec::new();
    reader.by_ref().take(SMALL_BYTES + 1).read_to_end(&mut start)?;
    let read = start.len() as u64;
    if read <= SMALL_BYTES {
        return Ok(Value::Bytes(start.into()));
    }
    let reader = io::Cursor::new(start).chain(reader);
    Ok(Value::Stream(match size.filter(|size| *size > read) {
        // If the file grows meanwhile, only the bytes it had when it was opened are sent.
        Some(size) => body(Box::new(ExactReader { from: reader, remaining: size }), Some(size)),
        None => body(Box::new(reader), None),
    }))
}

/// Reads the given number of bytes, and fails if there are fewer.
struct ExactReader<R> {
    from: R,
    remaining: u64,
}

impl<R: Read> Read for ExactReader<R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let read = self.from.by_ref().take(self.remaining).read(to)?;
        if read == 0 && self.remaining > 0 && !to.is_empty() {
            return Err(io::Error::other("the file became shorter while it was read"));
        }
        self.remaining -= read as u64;
        Ok(read)
    }
}

/// Streams a reader as a request body. A separate thread reads ahead of the connection.
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

/// Reads a file of at most `max` bytes.
pub(super) fn read_small(path: &Path, max: u64) -> Result<Vec<u8>> {
    let (reader, _) = open(path)?;
    small_file::read_to_end(reader, max).map_err(|e| file_error(path, e))
}
