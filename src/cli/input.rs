//! Reads input files and standard input.

use super::error::{Result, file_error};
use crate::client::RequestBody;
pub(super) use crate::transfer::detect::is_dash;
use bytes::Bytes;
use futures_util::stream::poll_fn;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use tokio::sync::mpsc;

/// The size of a read in bytes.
const READ_BYTES: usize = 256 << 10;
/// The number of chunks read ahead of the connection.
const READ_AHEAD: usize = 4;

/// Opens a file, or standard input for `-`. Returns the length of a regular file.
pub(super) fn open(path: &Path) -> Result<(Box<dyn Read + Send>, Option<u64>)> {
    if is_dash(path) {
        return Ok((Box::new(io::stdin()), None));
    }
    let file = File::open(path).map_err(|e| file_error(path, e))?;
    let metadata = file.metadata().map_err(|e| file_error(path, e))?;
    if metadata.is_dir() {
        return Err(file_error(path, "is a directory"));
    }
    let length = metadata.is_file().then_some(metadata.len());
    Ok((Box::new(file), length))
}

/// Streams a reader as a request body. A separate thread reads ahead of the connection.
pub(super) fn body(mut reader: Box<dyn Read + Send>, length: Option<u64>) -> RequestBody {
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
    let mut bytes = Vec::new();
    let read = reader.take(max + 1).read_to_end(&mut bytes).map_err(|e| file_error(path, e))?;
    if read as u64 > max {
        return Err(file_error(path, format!("larger than {max} bytes")));
    }
    Ok(bytes)
}
