//! Reads small files, such as tokens and certificates, up to a limit.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Reads a file of at most `max` bytes.
///
/// # Errors
/// Returns [`io::ErrorKind::FileTooLarge`] if the file is larger, or the error if reading fails.
pub fn read(path: &Path, max: u64) -> io::Result<Vec<u8>> {
    read_to_end(File::open(path)?, max)
}

/// Reads a file of at most `max` bytes as UTF-8 text.
///
/// # Errors
/// See [`read`]. Returns [`io::ErrorKind::InvalidData`] if the file is not UTF-8.
pub fn read_text(path: &Path, max: u64) -> io::Result<String> {
    io::read_to_string(&read(path, max)?[..])
}

/// Reads everything from a reader that has at most `max` bytes. Does not query the size, because
/// the size of a pipe or a device is unknown.
///
/// # Errors
/// See [`read`].
pub fn read_to_end(from: impl Read, max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(max.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > max {
        let reason = format!("larger than {max} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, reason));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_up_to_the_limit_are_read() {
        assert_eq!(read_to_end(&b"four"[..], 4).unwrap(), b"four");
        let e = read_to_end(&b"four"[..], 3).unwrap_err();
        assert_eq!(e.kind(), io::ErrorKind::FileTooLarge);
        assert_eq!(e.to_string(), "larger than 3 bytes");
        let endless = read(Path::new("/dev/zero"), 100).unwrap_err();
        assert_eq!(endless.kind(), io::ErrorKind::FileTooLarge);
        assert_eq!(read_text(Path::new("/dev/null"), 0).unwrap(), "");
    }
}
