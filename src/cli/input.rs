//! Values and lines from files and from the standard input.

use super::console::{Stop, local};
use crate::client::RequestBody;
use bytes::Bytes;
use futures_util::stream::poll_fn;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use tokio::sync::mpsc;

/// How much is read at once.
const PIECE: usize = 256 << 10;
/// Pieces that are read ahead.
const AHEAD: usize = 4;

/// Whether a path means the standard input.
pub(super) fn is_stdin(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// Opens a file, or the standard input for `-`, and says how long it is where that is known.
pub(super) fn open(path: &Path) -> Result<(Box<dyn Read + Send>, Option<u64>), Stop> {
    if is_stdin(path) {
        return Ok((Box::new(io::stdin()), None));
    }
    let failed = |e: io::Error| local(format!("{}: {e}", path.display()));
    let file = File::open(path).map_err(failed)?;
    let kind = file.metadata().map_err(failed)?;
    if kind.is_dir() {
        return Err(local(format!("{} is a directory", path.display())));
    }
    let length = kind.is_file().then_some(kind.len());
    Ok((Box::new(file), length))
}

/// The body that a reader gives, read on a thread of its own, a little ahead of the connection.
pub(super) fn body(mut reader: Box<dyn Read + Send>, length: Option<u64>) -> RequestBody {
    let (pieces, mut taken) = mpsc::channel::<io::Result<Bytes>>(AHEAD);
    std::thread::spawn(move || {
        loop {
            let mut piece = vec![0; PIECE];
            let read = match reader.read(&mut piece) {
                Ok(0) => return,
                Ok(read) => read,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => {
                    let _ = pieces.blocking_send(Err(e));
                    return;
                }
            };
            piece.truncate(read);
            if pieces.blocking_send(Ok(piece.into())).is_err() {
                return;
            }
        }
    });
    RequestBody::stream(poll_fn(move |context| taken.poll_recv(context)), length)
}

/// All of a small file.
pub(super) fn small(path: &Path, most: u64) -> Result<Vec<u8>, Stop> {
    let (reader, _) = open(path)?;
    let mut all = Vec::new();
    let read = reader.take(most + 1).read_to_end(&mut all);
    let read = read.map_err(|e| local(format!("{}: {e}", path.display())))?;
    if read as u64 > most {
        return Err(local(format!("{} has more than {most} bytes", path.display())));
    }
    Ok(all)
}
