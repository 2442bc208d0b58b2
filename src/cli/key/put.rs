//! `steadfast key put`: writes an item.

use crate::cli::error::{Result, file_error, local_error};
use crate::cli::input::{self, Value};
use crate::cli::output::{print_json_if, print_status, store_label};
use crate::client::{Client, PutMode, PutOptions};
use crate::config::KeyPutArgs;
use serde_json::json;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use tokio::task::spawn_blocking;

/// The maximum size of a metadata file in bytes. The server's limit is lower.
const METADATA_FILE_BYTES_MAX: u64 = 64 << 10;

pub(super) async fn put(client: Client, args: &KeyPutArgs) -> Result<()> {
    let options = options(args)?;
    // Open the input before the first request, so that a missing file fails early.
    let value = args.value.as_ref().filter(|value| *value != "-");
    let file = args.file.as_deref().unwrap_or(Path::new("-"));
    let input = if value.is_none() { Some(input::open(file)?) } else { None };
    let store = client.resolve(&args.store).await?;
    let value = match input {
        Some((reader, size)) => {
            let read = spawn_blocking(move || input::read_value(reader, size)).await;
            let read = read.map_err(|e| local_error(format!("task failed: {e}")))?;
            read.map_err(|e| file_error(file, e))?
        }
        None => Value::Bytes(value.cloned().unwrap_or_default().into_vec().into()),
    };
    match value {
        Value::Bytes(value) => client.put(&store, &args.key, value, &options).await?,
        Value::Stream(body) => client.put_stream(&store, &args.key, body, &options).await?,
    }
    print_status(&format!("wrote item {:?} to {}", args.key, store_label(&client, &store)));
    let result = json!({ "store": store.name, "store_id": store.id, "key": args.key });
    print_json_if(args.client.json, &result)
}

fn options(args: &KeyPutArgs) -> Result<PutOptions> {
    let metadata = match (&args.metadata, &args.metadata_file) {
        (Some(text), _) => Some(text.clone().into_vec()),
        (None, Some(file)) => {
            Some(without_line_break(input::read_small(file, METADATA_FILE_BYTES_MAX)?))
        }
        (None, None) => None,
    };
    let mode = match (args.add, args.append, args.prepend) {
        (true, ..) => PutMode::Add,
        (_, true, _) => PutMode::Append,
        (.., true) => PutMode::Prepend,
        _ => PutMode::Overwrite,
    };
    let if_generation_match = args.if_generation_match;
    Ok(PutOptions { metadata, time_to_live: args.ttl, mode, if_generation_match })
}

fn without_line_break(bytes: Vec<u8>) -> Vec<u8> {
    let Some(line) = bytes.strip_suffix(b"\n") else { return bytes };
    line.strip_suffix(b"\r").unwrap_or(line).to_vec()
}
