//! `steadfast key get` and `head`.

use super::Known;
use crate::cli::console::{Out, Stop, local, note, target};
use crate::client::{Client, ValueStream};
use crate::config::{KeyGetArgs, KeyHeadArgs};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

pub(super) async fn get(client: Client, args: &KeyGetArgs) -> Result<(), Stop> {
    let store = client.resolve(&args.store).await?;
    let mut value = client.get(&store, &args.key).await?;
    if let Some(path) = args.output.as_deref().filter(|path| path.as_os_str() != "-") {
        let size = value.headers.size;
        to_file(&mut value, path).await?;
        let whose = target(&client, &store);
        note(&format!("{} has the {size} bytes of item {:?} of {whose}", path.display(), args.key));
        return Ok(());
    }
    let mut out = Out::new();
    if args.client.json {
        return in_json(&args.key, value, &mut out).await;
    }
    while let Some(piece) = value.next_chunk().await? {
        out.bytes(&piece)?;
    }
    out.flush()
}

/// One line with the value in base64, written as it comes.
async fn in_json(key: &str, mut value: ValueStream, out: &mut Out) -> Result<(), Stop> {
    let known = Known::from_head(key, value.headers.clone());
    let known = serde_json::to_string(&known.json()).map_err(|e| local(e.to_string()))?;
    out.bytes(known.strip_suffix('}').unwrap_or(&known).as_bytes())?;
    out.bytes(b",\"value\":\"")?;
    let mut rest = Vec::new();
    while let Some(piece) = value.next_chunk().await? {
        rest.extend_from_slice(&piece);
        // Three bytes make four characters: what is over waits for the next piece.
        let (whole, over) = rest.split_at(rest.len() / 3 * 3);
        out.bytes(BASE64_STANDARD.encode(whole).as_bytes())?;
        rest = over.to_vec();
    }
    out.bytes(BASE64_STANDARD.encode(rest).as_bytes())?;
    out.line("\"}")?;
    out.flush()
}

/// A file that is being written, and goes away unless it becomes whole.
struct Part(PathBuf);

impl Drop for Part {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Writes beside the file and takes its place once all is there; what is no file, such as
/// `/dev/null`, is written to as it is.
async fn to_file(value: &mut ValueStream, path: &Path) -> Result<(), Stop> {
    let failed = |e: io::Error| local(format!("{}: {e}", path.display()));
    if path.exists() && !path.is_file() {
        let mut file = OpenOptions::new().write(true).open(path).map_err(failed)?;
        return pieces(value, &mut file, path).await;
    }
    let Some(name) = path.file_name() else {
        return Err(local(format!("{} is no name of a file", path.display())));
    };
    let beside = format!(".{}.{}.part", name.to_string_lossy(), std::process::id());
    let part = Part(path.with_file_name(beside));
    let mut file = File::create_new(&part.0).map_err(failed)?;
    pieces(value, &mut file, path).await?;
    std::fs::rename(&part.0, path).map_err(failed)
}

async fn pieces(value: &mut ValueStream, file: &mut File, path: &Path) -> Result<(), Stop> {
    while let Some(piece) = value.next_chunk().await? {
        file.write_all(&piece).map_err(|e| local(format!("{}: {e}", path.display())))?;
    }
    Ok(())
}

pub(super) async fn head(client: Client, args: &KeyHeadArgs) -> Result<(), Stop> {
    let store = client.resolve(&args.store).await?;
    let mut known = None;
    if client.is_steadfast().await? {
        // The first key that begins with this one is this one, if it is there.
        let page = client.details(&store, &args.key, None, 1).await?;
        known = page.data.into_iter().find(|item| item.key == args.key).map(Known::from_details);
    }
    let known = match known {
        Some(known) => known,
        None => Known::from_head(&args.key, client.head(&store, &args.key).await?),
    };
    let mut out = Out::new();
    if args.client.json {
        out.json(&known.json())?;
    } else {
        let (key, metadata) = (out.shown(&known.key), out.shown(&known.metadata()));
        out.line(&format!("key         {key}"))?;
        out.line(&format!("size        {}", known.size))?;
        out.line(&format!("generation  {}", known.generation))?;
        out.line(&format!("modified    {}", known.modified()))?;
        out.line(&format!("expires     {}", known.expires()))?;
        out.line(format!("metadata    {metadata}").trim_end())?;
    }
    out.flush()
}
