//! Items by the batch: what goes over the network at once, and is tried again at once.

use super::{Broken, Next, Source, Wrong, record};
use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};

/// When a batch is full.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// By lines.
    pub lines: usize,
    /// By bytes of lines; one line may be longer.
    pub bytes: usize,
    /// Whether a key may be in it only once.
    pub apart: bool,
}

/// Some items that follow each other.
#[derive(Debug, Default)]
pub struct Batch {
    /// How many items come before it.
    pub from: u64,
    /// How many come before the next.
    pub to: u64,
    /// The lines of those that can be taken.
    pub lines: Vec<u8>,
    /// The number of each line, as people count.
    pub numbers: Vec<u64>,
    /// A hash of the key of each line that has one.
    pub keys: Vec<u64>,
    /// Those that cannot be taken.
    pub wrongs: Vec<Wrong>,
    /// Whether some of it may have been sent before.
    pub again: bool,
}

/// A source, cut into batches.
pub struct Batches {
    source: Box<dyn Source>,
    bounds: Bounds,
    position: u64,
    /// Items before this one may have been sent.
    sent: u64,
    /// What was read and did not fit.
    ahead: Option<(Next, Vec<u8>)>,
    ended: bool,
}

impl Batches {
    /// Begins behind the first `done` items; those before `sent` may have been sent before.
    ///
    /// # Errors
    /// When the source breaks, or has fewer items.
    pub fn new(
        mut source: Box<dyn Source>,
        bounds: Bounds,
        done: u64,
        sent: u64,
    ) -> Result<Batches, Broken> {
        let mut passed = Vec::new();
        for _ in 0..done {
            passed.clear();
            if source.next(&mut passed)? == Next::End {
                return Err(Broken("has fewer items than were sent before".into()));
            }
        }
        Ok(Batches { source, bounds, position: done, sent, ahead: None, ended: false })
    }

    /// The next batch; `None` when all was read.
    ///
    /// # Errors
    /// When the source breaks.
    pub fn cut(&mut self) -> Result<Option<Batch>, Broken> {
        let from = self.position;
        let mut batch = Batch { from, to: from, again: from < self.sent, ..Batch::default() };
        let mut seen = HashSet::new();
        while !self.ended && !self.full(&batch) {
            let start = batch.lines.len();
            let next = match self.ahead.take() {
                Some((next, line)) => {
                    batch.lines.extend_from_slice(&line);
                    next
                }
                None => self.source.next(&mut batch.lines)?,
            };
            match next {
                Next::End => {
                    self.ended = true;
                    break;
                }
                Next::Wrong(wrong) => batch.wrongs.push(wrong),
                Next::Line(number) => {
                    let key = hash(batch.lines.get(start..).unwrap_or_default());
                    if let Some(key) = key {
                        if self.bounds.apart && !seen.insert(key) {
                            let line = batch.lines.split_off(start);
                            self.ahead = Some((Next::Line(number), line));
                            break;
                        }
                        batch.keys.push(key);
                    }
                    batch.numbers.push(number);
                }
            }
            self.position += 1;
            batch.to = self.position;
        }
        Ok((batch.to > from).then_some(batch))
    }

    fn full(&self, batch: &Batch) -> bool {
        batch.to - batch.from >= self.bounds.lines as u64
            || batch.lines.len() >= self.bounds.bytes
            || (batch.again && batch.to >= self.sent)
    }
}

fn hash(line: &[u8]) -> Option<u64> {
    let key = record::key_of(line)?;
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    Some(hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::super::ndjson::Lines;
    use super::*;

    fn cut(text: &'static str, bounds: Bounds, done: u64, sent: u64) -> Vec<Batch> {
        let source = Box::new(Lines::new(Box::new(text.as_bytes()), 60));
        let mut batches = Batches::new(source, bounds, done, sent).unwrap();
        std::iter::from_fn(|| batches.cut().unwrap()).collect()
    }

    const BOUNDS: Bounds = Bounds { lines: 2, bytes: 1000, apart: false };
    const TEXT: &str = "{\"key\":\"a\"}\n\n{\"key\":\"b\"}\n{\"key\":\"a\"}\nbad\n{\"key\":\"c\"}";

    #[test]
    fn batches_are_cut_by_lines_by_bytes_and_at_what_was_sent() {
        let spans = |batches: &[Batch]| -> Vec<_> {
            batches.iter().map(|batch| (batch.from, batch.to, batch.again)).collect()
        };
        let all = cut(TEXT, BOUNDS, 0, 0);
        assert_eq!(spans(&all), [(0, 2, false), (2, 4, false), (4, 5, false)]);
        assert_eq!(all[0].numbers, [1, 3]);
        assert_eq!(all[1].numbers, [4, 5]);
        assert_eq!((all[1].keys.len(), all[1].keys[0]), (1, all[0].keys[0]));
        assert_eq!(all[2].lines, b"{\"key\":\"c\"}\n");
        let bytes = Bounds { bytes: 5, ..BOUNDS };
        assert_eq!(cut(TEXT, bytes, 0, 0).len(), 4, "the fourth line is shorter");
        let resumed = cut(TEXT, Bounds { lines: 10, ..BOUNDS }, 1, 3);
        assert_eq!(spans(&resumed), [(1, 3, true), (3, 5, false)]);
    }

    #[test]
    fn a_key_that_comes_again_begins_a_batch_where_that_matters() {
        let apart = Bounds { lines: 10, apart: true, ..BOUNDS };
        let spans: Vec<_> =
            cut(TEXT, apart, 0, 0).iter().map(|batch| (batch.from, batch.to)).collect();
        assert_eq!(spans, [(0, 2), (2, 5)]);
    }

    #[test]
    fn a_source_with_fewer_items_than_before_is_refused() {
        let source = Box::new(Lines::new(Box::new(&b"a\n"[..]), 60));
        assert!(Batches::new(source, BOUNDS, 2, 2).is_err());
    }
}
