//! Items as lines of JSON, handed on as they are.

use super::{Broken, Next, Source, Wrong};
use std::io::{self, BufRead};

/// How a line ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was read, and its end is there.
    Whole,
    /// It was longer than allowed, and was passed over.
    TooLong,
    /// There was none.
    Nowhere,
}

/// Reads a line of at most `max` bytes behind what `out` holds; one that lacks its end gets it.
///
/// # Errors
/// When reading fails.
pub fn read_line(from: &mut dyn BufRead, out: &mut Vec<u8>, max: u64) -> io::Result<Ended> {
    let start = out.len();
    let (mut any, mut long) = (false, false);
    loop {
        let held = match from.fill_buf() {
            Ok(held) => held,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        let end = memchr::memchr(b'\n', held);
        let (piece, _) = held.split_at(end.map_or(held.len(), |at| at + 1));
        any |= !piece.is_empty();
        long |= (out.len() - start + piece.len()) as u64 > max.saturating_add(1);
        if !long {
            out.extend_from_slice(piece);
        }
        let (taken, over) = (piece.len(), piece.is_empty());
        from.consume(taken);
        if long {
            out.truncate(start);
        }
        if end.is_some() || over {
            return Ok(match (any, long) {
                (false, _) => Ended::Nowhere,
                (true, true) => Ended::TooLong,
                (true, false) => {
                    if end.is_none() {
                        out.push(b'\n');
                    }
                    Ended::Whole
                }
            });
        }
    }
}

/// The lines of a file or a stream.
pub struct Lines {
    from: Box<dyn BufRead + Send>,
    line_bytes_max: u64,
    number: u64,
}

impl Lines {
    /// Reads lines of at most so many bytes.
    pub fn new(from: Box<dyn BufRead + Send>, line_bytes_max: u64) -> Lines {
        Lines { from, line_bytes_max, number: 0 }
    }
}

impl Source for Lines {
    fn next(&mut self, out: &mut Vec<u8>) -> Result<Next, Broken> {
        loop {
            let start = out.len();
            let ended = read_line(&mut *self.from, out, self.line_bytes_max)?;
            self.number += 1;
            let number = self.number;
            match ended {
                Ended::Nowhere => return Ok(Next::End),
                Ended::TooLong => {
                    let reason = format!("line must have at most {} bytes", self.line_bytes_max);
                    return Ok(Next::Wrong(Wrong { number, key: String::new(), reason }));
                }
                Ended::Whole => {
                    let line = out.get(start..).unwrap_or_default();
                    if !line.trim_ascii().is_empty() {
                        return Ok(Next::Line(number));
                    }
                    out.truncate(start);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(text: &'static str, max: u64) -> (Vec<Next>, String) {
        let mut lines = Lines::new(Box::new(io::BufReader::with_capacity(3, text.as_bytes())), max);
        let (mut told, mut out) = (Vec::new(), Vec::new());
        loop {
            match lines.next(&mut out).unwrap() {
                Next::End => return (told, String::from_utf8(out).unwrap()),
                next @ (Next::Line(_) | Next::Wrong(_)) => told.push(next),
            }
        }
    }

    #[test]
    fn lines_keep_their_numbers_and_blank_ones_are_passed_over() {
        let (told, out) = all("a\n\n  \r\nbb\r\nlast", 100);
        assert_eq!(told, [Next::Line(1), Next::Line(4), Next::Line(5)]);
        assert_eq!(out, "a\nbb\r\nlast\n");
        assert_eq!(all("", 100), (vec![], String::new()));
    }

    #[test]
    fn a_line_that_is_too_long_is_told_and_the_next_is_read() {
        let (told, out) = all("12345\n123456\n1\n1234567", 5);
        let numbers: Vec<_> = told
            .iter()
            .map(|next| match next {
                Next::Line(number) => (*number, true),
                Next::Wrong(wrong) => (wrong.number, false),
                Next::End => (0, false),
            })
            .collect();
        assert_eq!(numbers, [(1, true), (2, false), (3, true), (4, false)]);
        assert_eq!(out, "12345\n1\n");
    }
}
