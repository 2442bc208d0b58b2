//! `steadfast key put`.

use crate::cli::console::{Out, Stop, note, target};
use crate::cli::input;
use crate::client::{Client, PutMode, PutOptions};
use crate::config::KeyPutArgs;
use serde_json::json;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

/// A metadata file may have so many bytes; the server's own limit is lower.
const METADATA_FILE_BYTES_MAX: u64 = 64 << 10;

pub(super) async fn put(client: Client, args: &KeyPutArgs) -> Result<(), Stop> {
    let options = options(args)?;
    // What is to be sent is looked at before anybody is asked anything.
    let given = args.value.as_ref().filter(|value| *value != "-");
    let file = args.file.as_deref().unwrap_or(Path::new("-"));
    let opened = if given.is_none() { Some(input::open(file)?) } else { None };
    let store = client.resolve(&args.store).await?;
    if let Some((reader, length)) = opened {
        let body = input::body(reader, length);
        client.put_stream(&store, &args.key, body, &options).await?;
    } else {
        let value = given.cloned().unwrap_or_default().into_vec();
        client.put(&store, &args.key, value.into(), &options).await?;
    }
    note(&format!("wrote item {:?} of {}", args.key, target(&client, &store)));
    let mut out = Out::new();
    if args.client.json {
        out.json(&json!({ "store": store.name, "store_id": store.id, "key": args.key }))?;
    }
    out.flush()
}

fn options(args: &KeyPutArgs) -> Result<PutOptions, Stop> {
    let metadata = match (&args.metadata, &args.metadata_file) {
        (Some(text), _) => Some(text.clone().into_vec()),
        (None, Some(file)) => Some(without_line_end(input::small(file, METADATA_FILE_BYTES_MAX)?)),
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

fn without_line_end(mut bytes: Vec<u8>) -> Vec<u8> {
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
    }
    bytes
}
