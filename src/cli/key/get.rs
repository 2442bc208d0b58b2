//! `steadfast key get` and `steadfast key head`: print the value or the properties of an item.

use super::ItemInfo;
use crate::atomic_file::AtomicFile;
use crate::cli::error::{Result, file_error, local_error};
use crate::cli::output::{Output, print_status, store_label};
use crate::client::{Client, ValueStream};
use crate::config::{KeyGetArgs, KeyHeadArgs};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use std::io::Write;
use std::path::Path;

pub(super) async fn get(client: Client, args: &KeyGetArgs) -> Result<()> {
    let store = client.resolve(&args.store).await?;
    let mut value = client.get(&store, &args.key).await?;
    if let Some(path) = args.output.as_deref().filter(|path| path.as_os_str() != "-") {
        let size = value.headers.size;
        write_file(&mut value, path).await?;
        let (label, path) = (store_label(&client, &store), path.display());
        print_status(&format!("wrote {size} bytes of item {:?} in {label} to {path}", args.key));
        return Ok(());
    }
    let mut out = Output::new();
    if args.client.json {
        return write_json(&args.key, value, &mut out).await;
    }
    while let Some(chunk) = value.next_chunk().await? {
        out.bytes(&chunk)?;
    }
    out.flush()
}

/// Prints an item as one line of JSON. Encodes the value in base64 while it is being received.
async fn write_json(key: &str, mut value: ValueStream, out: &mut Output) -> Result<()> {
    let info = ItemInfo::from_headers(key, value.headers.clone());
    let json = serde_json::to_string(&info.json()).map_err(|e| local_error(e.to_string()))?;
    out.bytes(json.strip_suffix('}').unwrap_or(&json).as_bytes())?;
    out.bytes(b",\"value\":\"")?;
    let mut pending = Vec::new();
    while let Some(chunk) = value.next_chunk().await? {
        pending.extend_from_slice(&chunk);
        // Base64 encodes groups of three bytes. Save an incomplete group for the next chunk.
        let (groups, rest) = pending.split_at(pending.len() / 3 * 3);
        out.bytes(BASE64_STANDARD.encode(groups).as_bytes())?;
        pending = rest.to_vec();
    }
    out.bytes(BASE64_STANDARD.encode(pending).as_bytes())?;
    out.line("\"}")?;
    out.flush()
}

async fn write_file(value: &mut ValueStream, path: &Path) -> Result<()> {
    let mut file = AtomicFile::create(path).map_err(|e| file_error(path, e))?;
    while let Some(chunk) = value.next_chunk().await? {
        file.write_all(&chunk).map_err(|e| file_error(path, e))?;
    }
    file.persist().map_err(|e| file_error(path, e))
}

pub(super) async fn head(client: Client, args: &KeyHeadArgs) -> Result<()> {
    let store = client.resolve(&args.store).await?;
    let mut info = None;
    if client.is_steadfast().await? {
        // The item comes first: in byte order, a key precedes all longer keys that start with it.
        let page = client.details(&store, &args.key, None, 1).await?;
        let item = page.data.into_iter().find(|item| item.key == args.key);
        info = item.map(ItemInfo::from_details);
    }
    let info = match info {
        Some(info) => info,
        None => ItemInfo::from_headers(&args.key, client.head(&store, &args.key).await?),
    };
    let mut out = Output::new();
    if args.client.json {
        out.json(&info.json())?;
    } else {
        let (key, metadata) = (out.sanitize(&info.key), out.sanitize(&info.metadata_text()));
        out.line(&format!("key         {key}"))?;
        out.line(&format!("size        {}", info.size))?;
        out.line(&format!("generation  {}", info.generation))?;
        out.line(&format!("modified    {}", info.modified_text()))?;
        out.line(&format!("expires     {}", info.expires_text()))?;
        out.line(format!("metadata    {metadata}").trim_end())?;
    }
    out.flush()
}
