//! Opens the input of an import and detects its format and compression.

use super::csv::CsvSource;
use super::directory::DirectorySource;
use super::json_array::{ArrayFormat, JsonArraySource};
use super::json_reader::JsonReader;
use super::kv_json::{self, FILE_BYTES_MAX};
use super::ndjson::NdjsonSource;
use super::source_notes::SourceNotes;
use super::{ItemSource, SourceError, fastly_toml};
use crate::config::ImportFormat;
use crate::wire::BOM;
use crate::wire::item_line::line_bytes_max;
use serde::de::IgnoredAny;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::UNIX_EPOCH;

/// Size of the read buffer in bytes.
const BUFFER_BYTES: usize = 1 << 20;
/// The number of bytes from which the format is detected.
const DETECTION_BYTES: u64 = 64 * 1024;
/// The magic number of a zstd frame.
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// An unsupported format: its name, a command that converts it, and a function that detects it from
/// the first bytes.
type Foreign = (&'static str, &'static str, fn(&[u8]) -> bool);
const FOREIGN: [Foreign; 7] = [
    ("UTF-32", "iconv -f UTF-32 -t UTF-8 FILE", |start| {
        start.starts_with(b"\xff\xfe\0\0") || start.starts_with(b"\0\0\xfe\xff")
    }),
    ("UTF-16", "iconv -f UTF-16 -t UTF-8 FILE", is_utf_16),
    ("compressed with gzip", "gzip -dc FILE", |start| start.starts_with(b"\x1f\x8b")),
    ("compressed with xz", "xz -dc FILE", |start| start.starts_with(b"\xfd7zXZ\0")),
    ("compressed with bzip2", "bzip2 -dc FILE", |start| {
        start.starts_with(b"BZh") && start.get(4..10) == Some(b"1AY&SY")
    }),
    ("compressed with lz4", "lz4 -dc FILE", |start| start.starts_with(b"\x04\x22\x4d\x18")),
    ("a zip archive", "unzip -p FILE", |start| start.starts_with(b"PK\x03\x04")),
];
/// The base-2 logarithm of the maximum zstd window size in bytes; the default of `zstd --long`.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// An open input.
pub struct OpenSource {
    /// The items of the input.
    pub source: Box<dyn ItemSource>,
    /// The format of the input.
    pub format: ImportFormat,
    /// Files that are named in the input and contain values of items.
    pub files: Vec<PathBuf>,
    /// Size of the input in bytes, if known.
    pub size: Option<u64>,
    /// Number of bytes of the input that have been read.
    pub bytes_read: Arc<AtomicU64>,
    /// Properties of the input that the store cannot represent.
    pub notes: Arc<SourceNotes>,
}

impl OpenSource {
    /// Creates a source of unknown size.
    pub fn new(source: Box<dyn ItemSource>, format: ImportFormat) -> OpenSource {
        let (bytes_read, notes) = (Arc::default(), Arc::default());
        OpenSource { source, format, files: Vec::new(), size: None, bytes_read, notes }
    }
}

/// A reader that counts the bytes that are read from it.
struct CountingReader<R> {
    from: R,
    bytes_read: Arc<AtomicU64>,
}

impl<R: Read> Read for CountingReader<R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(to)?;
        self.bytes_read.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

/// Opens a file, a directory or, for `-`, standard input. Detects the format if none is given.
///
/// # Errors
/// Returns a [`SourceError`] that does not contain the path.
pub fn open(
    path: &Path,
    format: Option<ImportFormat>,
    value_bytes_max: u64,
) -> Result<OpenSource, SourceError> {
    let bytes_read = Arc::new(AtomicU64::new(0));
    if is_dash(path) {
        let from = buffered(CountingReader { from: io::stdin(), bytes_read: bytes_read.clone() });
        let opened = open_stream(from, Path::new(""), format, value_bytes_max)?;
        return Ok(OpenSource { bytes_read, ..opened });
    }
    let file = fs::metadata(path)?;
    if file.is_dir() {
        if format.is_some_and(|format| format != ImportFormat::Directory) {
            return Err(SourceError("is a directory, which requires --format dir".into()));
        }
        let source = Box::new(DirectorySource::new(path, value_bytes_max)?);
        return Ok(OpenSource { bytes_read, ..OpenSource::new(source, ImportFormat::Directory) });
    }
    if format == Some(ImportFormat::Directory) {
        return Err(SourceError("is not a directory, which --format dir requires".into()));
    }
    let from = buffered(CountingReader { from: File::open(path)?, bytes_read: bytes_read.clone() });
    let size = file.is_file().then_some(file.len());
    let opened = open_stream(from, path, format, value_bytes_max)?;
    Ok(OpenSource { size, bytes_read, ..opened })
}

/// Returns whether a path is `-`, for standard input or output.
pub fn is_dash(path: &Path) -> bool {
    path == Path::new("-")
}

/// Returns whether a file name has the extension of zstd files.
pub fn is_zstd_name(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("zst"))
}

fn buffered(from: impl Read + Send + 'static) -> Box<dyn BufRead + Send> {
    Box::new(BufReader::with_capacity(BUFFER_BYTES, from))
}

fn open_stream(
    from: Box<dyn BufRead + Send>,
    path: &Path,
    format: Option<ImportFormat>,
    value_bytes_max: u64,
) -> Result<OpenSource, SourceError> {
    let mut from = skip_bom(decompress(from, path)?)?;
    let format = match (format, format_of_name(path)) {
        (Some(format), _) => format,
        // Several JSON formats share an extension.
        (None, named @ (None | Some(ImportFormat::KvJson))) => {
            let mut start = Vec::new();
            from.by_ref().take(DETECTION_BYTES).read_to_end(&mut start)?;
            let format = format_of_json(&start).or(named);
            let format = format.map_or_else(|| format_of_content(&start), Ok)?;
            from = Box::new(io::Cursor::new(start).chain(from));
            format
        }
        (None, Some(format)) => format,
    };
    let (mut files, notes) = (Vec::new(), Arc::<SourceNotes>::default());
    let array = |from, format| -> Box<dyn ItemSource> {
        Box::new(JsonArraySource::new(from, format, value_bytes_max, notes.clone()))
    };
    let source: Box<dyn ItemSource> = match format {
        ImportFormat::Ndjson => Box::new(NdjsonSource::new(from, line_bytes_max(value_bytes_max))),
        ImportFormat::Csv => Box::new(CsvSource::new(from, value_bytes_max)),
        ImportFormat::KvJson => {
            let items = kv_json::parse(&read_to_end(from)?, false, value_bytes_max)?;
            files = items.iter().filter_map(|item| item.value.file().map(Path::to_owned)).collect();
            Box::new(items.into_iter())
        }
        ImportFormat::Cloudflare => array(from, ArrayFormat::Cloudflare),
        ImportFormat::Consul => array(from, ArrayFormat::Consul),
        ImportFormat::Etcd => array(from, ArrayFormat::Etcd),
        ImportFormat::FastlyToml => {
            return Err(SourceError("names its stores; omit STORE to import it".into()));
        }
        ImportFormat::Directory => {
            return Err(SourceError("is not a directory, which --format dir requires".into()));
        }
    };
    Ok(OpenSource { files, notes, ..OpenSource::new(source, format) })
}

/// Skips a UTF-8 byte order mark.
fn skip_bom(mut from: Box<dyn BufRead + Send>) -> io::Result<Box<dyn BufRead + Send>> {
    if from.fill_buf()?.first() != BOM.first() {
        return Ok(from);
    }
    // A read from a pipe can end in the middle of the mark.
    let mut start = Vec::new();
    from.by_ref().take(BOM.len() as u64).read_to_end(&mut start)?;
    if start == BOM {
        return Ok(from);
    }
    Ok(Box::new(io::Cursor::new(start).chain(from)))
}

/// Decompresses input that has a `.zst` name or the zstd magic number. Returns other input
/// unchanged.
///
/// # Errors
/// Returns a [`SourceError`] if reading fails, or if the input has an unsupported encoding or
/// compression.
pub fn decompress(
    mut from: Box<dyn BufRead + Send>,
    path: &Path,
) -> Result<Box<dyn BufRead + Send>, SourceError> {
    let start = from.fill_buf()?;
    if let Some((name, converter, _)) = FOREIGN.iter().find(|(.., is)| is(start)) {
        return Err(SourceError(format!("is {name}: convert it first, e.g. with {converter}")));
    }
    if !is_zstd_name(path) && !start.starts_with(&ZSTD_MAGIC) {
        return Ok(from);
    }
    let mut decoder = zstd::Decoder::with_buffer(from)?;
    decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
    Ok(buffered(decoder))
}

fn read_to_end(from: impl Read) -> Result<Vec<u8>, SourceError> {
    let mut text = Vec::new();
    from.take(FILE_BYTES_MAX + 1).read_to_end(&mut text)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(SourceError(format!("must be at most {FILE_BYTES_MAX} bytes")));
    }
    Ok(text)
}

/// Detects the format from the file extension, ignoring a final `.zst`.
pub fn format_of_name(path: &Path) -> Option<ImportFormat> {
    let name = path.file_name()?.to_str()?.to_ascii_lowercase();
    let name = name.strip_suffix(".zst").unwrap_or(&name);
    let (_, extension) = name.rsplit_once('.')?;
    match extension {
        "ndjson" | "jsonl" => Some(ImportFormat::Ndjson),
        "json" => Some(ImportFormat::KvJson),
        "csv" => Some(ImportFormat::Csv),
        "toml" => Some(ImportFormat::FastlyToml),
        _ => None,
    }
}

/// Detects NDJSON from the first line. An object that spans several lines is refused, because it
/// may be a `kv.json` or a single item.
fn format_of_content(start: &[u8]) -> Result<ImportFormat, SourceError> {
    let text = start.trim_ascii_start();
    let end = memchr::memchr(b'\n', text);
    let (first, _) = text.split_at(end.unwrap_or(text.len()));
    // `start` may contain only the beginning of a long line.
    let object = end.is_none() || serde_json::from_slice::<IgnoredAny>(first).is_ok();
    if text.is_empty() || (text.starts_with(b"{") && object) {
        return Ok(ImportFormat::Ndjson);
    }
    let formats = "ndjson, viceroy, csv, cloudflare, consul or etcd";
    Err(SourceError(format!("has an unknown format: pass --format {formats}")))
}

/// Detects the format of a JSON export from the first bytes of a text, which may be incomplete.
pub(super) fn format_of_json(start: &[u8]) -> Option<ImportFormat> {
    read_json_format(&mut JsonReader::new(start)).ok().flatten()
}

fn read_json_format(reader: &mut JsonReader<&[u8]>) -> Result<Option<ImportFormat>, SourceError> {
    if reader.consume_if(b'{')? {
        let is_etcd = match next_name(reader)?.as_slice() {
            b"\"header\"" if reader.consume_if(b'{')? => {
                let fields = ["cluster_id", "member_id", "revision", "raft_term"];
                let name = next_name(reader)?;
                fields.iter().any(|field| name == format!("\"{field}\"").as_bytes())
            }
            b"\"kvs\"" => reader.peek()? == Some(b'['),
            _ => false,
        };
        return Ok(is_etcd.then_some(ImportFormat::Etcd));
    }
    reader.require(b'[')?;
    if reader.consume_if(b']')? {
        return Ok(Some(ImportFormat::Cloudflare));
    }
    reader.require(b'{')?;
    let mut has_key = false;
    loop {
        match next_name(reader) {
            Ok(name) if name == b"\"flags\"" => return Ok(Some(ImportFormat::Consul)),
            Ok(name) => has_key |= name == b"\"key\"",
            // The text may end here.
            Err(_) => break,
        }
        let skipped = reader.read_value(&mut Vec::new(), 0);
        if skipped.is_err() || !reader.consume_if(b',')? {
            break;
        }
    }
    Ok(has_key.then_some(ImportFormat::Cloudflare))
}

/// Reads the name of a member, with its quotes, and the colon.
fn next_name(reader: &mut JsonReader<&[u8]>) -> Result<Vec<u8>, SourceError> {
    let mut name = Vec::new();
    reader.read_value(&mut name, DETECTION_BYTES)?;
    reader.require(b':')?;
    Ok(name)
}

/// Reads the stores that a `fastly.toml` declares.
///
/// # Errors
/// Returns a [`SourceError`] that does not contain the path.
pub fn fastly_toml(path: &Path) -> Result<fastly_toml::DeclaredStores, SourceError> {
    let text = String::from_utf8(read_text(path)?);
    fastly_toml::parse(&text.map_err(|_| SourceError("must be UTF-8".into()))?)
}

/// Reads a text file into memory, decompressed and without a byte order mark.
///
/// # Errors
/// Returns a [`SourceError`] that does not contain the path.
pub(super) fn read_text(path: &Path) -> Result<Vec<u8>, SourceError> {
    let from = buffered(File::open(path)?);
    read_to_end(skip_bom(decompress(from, path)?)?)
}

/// Returns whether the input looks like UTF-16: it starts with a UTF-16 byte order mark, or with
/// ASCII characters encoded as two bytes each.
pub fn is_utf_16(start: &[u8]) -> bool {
    match start {
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => true,
        [0, first, 0, second, ..] | [first, 0, second, 0, ..] => *first > 0 && *second > 0,
        _ => false,
    }
}

/// Returns a fingerprint that detects changes to an input: the size and modification time of a
/// file, or a hash of the names and sizes of the files in a directory.
///
/// # Errors
/// Returns a [`SourceError`] if the input cannot be read.
pub fn fingerprint(path: &Path) -> Result<String, SourceError> {
    let file = fs::metadata(path)?;
    if file.is_dir() {
        return Ok(format!("dir:{}", DirectorySource::fingerprint(path)?));
    }
    let modified = file.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(format!("file:{}:{}", file.len(), modified.as_nanos()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transfer::NextItem;

    fn read(path: &Path) -> (ImportFormat, String) {
        let mut opened = open(path, None, 100).unwrap();
        let mut out = Vec::new();
        while !matches!(opened.source.next_item(&mut out).unwrap(), NextItem::End) {}
        (opened.format, String::from_utf8(out).unwrap())
    }

    #[test]
    fn formats_are_detected_by_name_and_content() {
        let dir = tempfile::tempdir().unwrap();
        let line = "{\"key\":\"a\",\"value\":\"MQ==\"}\n";
        let object = "{\n \"a\": \"1\"\n}\n";
        for (name, text, format) in [
            ("x.ndjson", line, ImportFormat::Ndjson),
            ("x.jsonl", line, ImportFormat::Ndjson),
            ("x", line, ImportFormat::Ndjson),
            ("bom", &format!("\u{feff}{line}"), ImportFormat::Ndjson),
            ("kv.json", object, ImportFormat::KvJson),
            ("z.csv", "a,1\n", ImportFormat::Csv),
        ] {
            let path = dir.path().join(name);
            fs::write(&path, text).unwrap();
            assert_eq!(read(&path), (format, line.to_owned()), "{name}");
            let compressed = zstd::encode_all(text.as_bytes(), 1).unwrap();
            // Compression is detected by the extension or, without it, by the magic number.
            for name in [format!("{name}.zst"), name.to_owned()] {
                fs::write(dir.path().join(&name), &compressed).unwrap();
                assert_eq!(read(&dir.path().join(&name)), (format, line.to_owned()), "{name}");
            }
        }
    }

    #[test]
    fn json_exports_are_detected_from_their_first_bytes() {
        use ImportFormat::{Cloudflare, Consul, Etcd};
        for (text, format) in [
            ("[]", Some(Cloudflare)),
            ("[{\"key\":\"a\",\"value\":\"1\"}]", Some(Cloudflare)),
            ("[{\"value\":\"1\",\"key\":\"a\"}]", Some(Cloudflare)),
            ("[{\"key\":\"a\",\"value\":\"1", Some(Cloudflare)),
            ("[\n\t{\n\t\t\"key\": \"a\",\n\t\t\"flags\": 0,", Some(Consul)),
            ("[{\"value\":\"\",\"key\":\"a\",\"flags\":0}]", Some(Consul)),
            ("{\"header\":{\"cluster_id\":1,", Some(Etcd)),
            ("{ \"header\" : {\"revision\" :", Some(Etcd)),
            ("{\"kvs\":[", Some(Etcd)),
            ("{\"header\":{\"data\":\"v\"}}", None),
            ("{\"header\":\"v\"}", None),
            ("{\"kvs\":\"v\"}", None),
            ("{\"key\":\"a\",\"value\":\"\"}", None),
            ("[{\"name\":\"a\"}]", None),
            ("[1]", None),
            ("[", None),
            ("", None),
            ("a,1\n", None),
        ] {
            assert_eq!(format_of_json(text.as_bytes()), format, "{text}");
        }
    }

    #[test]
    fn unknown_formats_and_unreadable_inputs_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let error = |name: &str, text: &[u8], format: Option<ImportFormat>| {
            let path = dir.path().join(name);
            fs::write(&path, text).unwrap();
            open(&path, format, 100).map(|opened| opened.format).unwrap_err().to_string()
        };
        assert!(error("a", b"a,1\n", None).contains("--format"));
        let object = "{\n\"key\": \"a\",\n\"value\": \"MQ==\"\n}\n";
        assert!(error("pretty", object.as_bytes(), None).contains("--format"), "ambiguous");
        let without = dir.path().join("without");
        fs::write(&without, "{\"key\":\"a\"}\n").unwrap();
        assert_eq!(
            open(&without, None, 100).unwrap().format,
            ImportFormat::Ndjson,
            "an invalid line must not change the format"
        );
        assert!(error("b.zst", b"not compressed", None).contains("cannot be read"));
        assert!(error("c.json", b"[1]", None).contains("JSON object"));
        assert!(error("d.toml", b"", None).contains("names its stores"));
        assert!(error("e", b"", Some(ImportFormat::Directory)).contains("directory"));
        assert!(open(dir.path(), Some(ImportFormat::Csv), 1).is_err());
        assert!(open(&dir.path().join("none"), None, 1).is_err());
        let fingerprint = |name: &str| super::fingerprint(&dir.path().join(name)).unwrap();
        assert_ne!(fingerprint("a"), fingerprint("c.json"));
        assert!(super::fingerprint(dir.path()).unwrap().starts_with("dir:"));
    }
}
