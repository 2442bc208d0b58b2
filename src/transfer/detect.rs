//! Opens what items come from: tells its format, and takes it out of its compression.

use super::csv::Table;
use super::directory::{self, Tree};
use super::kv_json::{self, FILE_BYTES_MAX};
use super::ndjson::Lines;
use super::{Broken, Format, Source, fastly_toml, record};
use serde::de::IgnoredAny;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::UNIX_EPOCH;

/// Bytes that are read ahead.
const AHEAD_BYTES: usize = 1 << 20;
/// What a file that is compressed by zstd begins with.
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// A window of compression may have 2 to this many bytes: what the widest usual setting takes.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// A way to items, opened.
pub struct Opened {
    /// Its items.
    pub source: Box<dyn Source>,
    /// What it was taken for.
    pub format: Format,
    /// Bytes of the input, where that is known.
    pub size: Option<u64>,
    /// Bytes of the input that were read so far.
    pub read: Arc<AtomicU64>,
}

/// Counts the bytes that are read.
struct Counted<R> {
    from: R,
    read: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(to)?;
        self.read.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

/// Opens a file, a folder, or the standard input, which is `-`. Values may have so many bytes.
///
/// # Errors
/// In words, without the path.
pub fn open(path: &Path, said: Option<Format>, value_bytes_max: u64) -> Result<Opened, Broken> {
    let read = Arc::new(AtomicU64::new(0));
    if is_stdin(path) {
        let from: Box<dyn BufRead + Send> =
            buffered(Counted { from: io::stdin(), read: read.clone() });
        return stream(from, Path::new(""), said, value_bytes_max, None, read);
    }
    let about = fs::metadata(path)?;
    if about.is_dir() {
        if said.is_some_and(|said| said != Format::Tree) {
            return Err(Broken("is a folder, and another format was named".into()));
        }
        let source = Box::new(Tree::new(path, value_bytes_max)?);
        return Ok(Opened { source, format: Format::Tree, size: None, read });
    }
    if said == Some(Format::Tree) {
        return Err(Broken("must be a folder".into()));
    }
    let from = buffered(Counted { from: File::open(path)?, read: read.clone() });
    let size = about.is_file().then_some(about.len());
    stream(from, path, said, value_bytes_max, size, read)
}

/// Whether a path means the standard input.
pub fn is_stdin(path: &Path) -> bool {
    path == Path::new("-")
}

fn buffered(from: impl Read + Send + 'static) -> Box<dyn BufRead + Send> {
    Box::new(BufReader::with_capacity(AHEAD_BYTES, from))
}

fn stream(
    from: Box<dyn BufRead + Send>,
    path: &Path,
    said: Option<Format>,
    value_bytes_max: u64,
    size: Option<u64>,
    read: Arc<AtomicU64>,
) -> Result<Opened, Broken> {
    let mut from = plain(from, path)?;
    // Some editors begin a text with a mark that is no part of it.
    if from.fill_buf()?.starts_with(b"\xef\xbb\xbf") {
        from.consume(3);
    }
    let named = said.or_else(|| by_name(path));
    let format = match named {
        Some(format) => format,
        None => by_content(from.fill_buf()?)?,
    };
    let source: Box<dyn Source> = match format {
        Format::Ndjson => Box::new(Lines::new(from, record::line_bytes_max(value_bytes_max))),
        Format::Csv => Box::new(Table::new(from, value_bytes_max)),
        Format::Viceroy => {
            let items = kv_json::parse(&whole(from)?, false, value_bytes_max)?;
            Box::new(items.into_iter())
        }
        Format::Manifest | Format::Tree => {
            return Err(Broken("names stores: import it without naming one".into()));
        }
    };
    Ok(Opened { source, format, size, read })
}

/// What an input holds that is compressed by zstd, by its name or its beginning, or the input.
///
/// # Errors
/// When it cannot be read, or is not compressed and its name says so.
pub fn plain(
    mut from: Box<dyn BufRead + Send>,
    path: &Path,
) -> Result<Box<dyn BufRead + Send>, Broken> {
    let named = path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("zst"));
    if !named && !from.fill_buf()?.starts_with(&ZSTD_MAGIC) {
        return Ok(from);
    }
    let mut decoder = zstd::Decoder::with_buffer(from)?;
    decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
    Ok(buffered(decoder))
}

/// All of a file that is held in memory.
fn whole(from: impl Read) -> Result<Vec<u8>, Broken> {
    let mut text = Vec::new();
    from.take(FILE_BYTES_MAX + 1).read_to_end(&mut text)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(Broken(format!("must have at most {FILE_BYTES_MAX} bytes")));
    }
    Ok(text)
}

/// The format that a file's name tells.
pub fn by_name(path: &Path) -> Option<Format> {
    let name = path.file_name()?.to_str()?.to_ascii_lowercase();
    let name = name.strip_suffix(".zst").unwrap_or(&name);
    let (_, ending) = name.rsplit_once('.')?;
    match ending {
        "ndjson" | "jsonl" => Some(Format::Ndjson),
        "json" => Some(Format::Viceroy),
        "csv" => Some(Format::Csv),
        "toml" => Some(Format::Manifest),
        _ => None,
    }
}

/// The format that the beginning of an input without an ending tells: lines of JSON, whatever else
/// is wrong with them. An object over many lines may be meant in two ways, and is taken in none.
fn by_content(beginning: &[u8]) -> Result<Format, Broken> {
    let text = beginning.trim_ascii_start();
    let end = memchr::memchr(b'\n', text);
    let (first, _) = text.split_at(end.unwrap_or(text.len()));
    // Of a long line only the beginning is here.
    let whole = end.is_none() || serde_json::from_slice::<IgnoredAny>(first).is_ok();
    if text.is_empty() || (text.starts_with(b"{") && whole) {
        return Ok(Format::Ndjson);
    }
    let hint = "tells no format by its name or its first line: say --format ndjson, viceroy or csv";
    Err(Broken(hint.into()))
}

/// The stores and items that a `fastly.toml` names.
///
/// # Errors
/// In words, without the path.
pub fn manifest(path: &Path) -> Result<fastly_toml::Manifest, Broken> {
    let text = directory::read(path, FILE_BYTES_MAX).map_err(Broken)?;
    let text = String::from_utf8(text).map_err(|_| Broken("must be UTF-8".into()))?;
    fastly_toml::parse(&text)
}

/// What tells whether an input is the same as before: for a file its size and when it was written,
/// for a folder its names and sizes.
///
/// # Errors
/// When it cannot be read.
pub fn identity(path: &Path) -> Result<String, Broken> {
    let about = fs::metadata(path)?;
    if about.is_dir() {
        return Ok(format!("dir:{}", Tree::identity(path)?));
    }
    let modified = about.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(format!("file:{}:{}", about.len(), modified.as_nanos()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transfer::Next;

    fn read(path: &Path) -> (Format, String) {
        let mut opened = open(path, None, 100).unwrap();
        let mut out = Vec::new();
        while !matches!(opened.source.next(&mut out).unwrap(), Next::End) {}
        (opened.format, String::from_utf8(out).unwrap())
    }

    #[test]
    fn formats_are_told_by_name_and_by_beginning() {
        let dir = tempfile::tempdir().unwrap();
        let line = "{\"key\":\"a\",\"value\":\"MQ==\"}\n";
        let object = "{\n \"a\": \"1\"\n}\n";
        for (name, text, format) in [
            ("x.ndjson", line, Format::Ndjson),
            ("x.jsonl", line, Format::Ndjson),
            ("x", line, Format::Ndjson),
            ("bom", &format!("\u{feff}{line}"), Format::Ndjson),
            ("kv.json", object, Format::Viceroy),
            ("z.csv", "a,1\n", Format::Csv),
        ] {
            let path = dir.path().join(name);
            fs::write(&path, text).unwrap();
            assert_eq!(read(&path), (format, line.to_owned()), "{name}");
            let packed = zstd::encode_all(text.as_bytes(), 1).unwrap();
            // By its ending, and without it by its beginning.
            for name in [format!("{name}.zst"), name.to_owned()] {
                fs::write(dir.path().join(&name), &packed).unwrap();
                assert_eq!(read(&dir.path().join(&name)), (format, line.to_owned()), "{name}");
            }
        }
    }

    #[test]
    fn what_cannot_be_told_or_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let told = |name: &str, text: &[u8], said: Option<Format>| {
            let path = dir.path().join(name);
            fs::write(&path, text).unwrap();
            open(&path, said, 100).map(|opened| opened.format).unwrap_err().to_string()
        };
        assert!(told("a", b"a,1\n", None).contains("--format"));
        let object = "{\n\"key\": \"a\",\n\"value\": \"MQ==\"\n}\n";
        assert!(told("pretty", object.as_bytes(), None).contains("--format"), "two things at once");
        let without = dir.path().join("without");
        fs::write(&without, "{\"key\":\"a\"}\n").unwrap();
        assert_eq!(
            open(&without, None, 100).unwrap().format,
            Format::Ndjson,
            "a line all the same"
        );
        assert!(told("b.zst", b"not packed", None).contains("cannot be read"));
        assert!(told("c.json", b"[1]", None).contains("JSON object"));
        assert!(told("d.toml", b"", None).contains("names stores"));
        assert!(told("e", b"", Some(Format::Tree)).contains("folder"));
        assert!(open(dir.path(), Some(Format::Csv), 1).is_err());
        assert!(open(&dir.path().join("none"), None, 1).is_err());
        let identity = |name: &str| super::identity(&dir.path().join(name)).unwrap();
        assert_ne!(identity("a"), identity("c.json"));
        assert!(super::identity(dir.path()).unwrap().starts_with("dir:"));
    }
}
