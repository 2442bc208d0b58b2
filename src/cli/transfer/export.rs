//! `steadfast export`.

use super::client;
use super::export_viceroy;
use super::reader::Items;
use crate::cli::error::EXIT_PRECONDITION;
use crate::cli::error::{CommandError, local_error, usage_error};
use crate::cli::output;
use crate::cli::output::{Output, print_status, store_label};
use crate::cli::output_file::{OutputFile, refuse_overwrite};
use crate::client::Client;
use crate::config::{ExportArgs, ExportTo};
use crate::wire::Store;
use serde_json::json;

pub(super) async fn run(args: ExportArgs) -> Result<u8, CommandError> {
    let client = client(args.client.resolve()?)?;
    let stdout = args.output.as_os_str() == "-";
    if args.to == ExportTo::Viceroy {
        let Some(dir) = args.dir.clone() else {
            return Err(usage_error("name the folder to write"));
        };
        return export_viceroy::run(&client, &args, &dir).await;
    }
    if args.dir.is_some() {
        return Err(usage_error("a folder is written with --to viceroy; a file with -o FILE"));
    }
    if stdout && args.client.json {
        return Err(usage_error("--json tells of an export to a file: say -o FILE"));
    }
    if !stdout && refuse_overwrite(&args.output, args.force) {
        return Ok(EXIT_PRECONDITION);
    }
    let store = client.resolve(&args.store).await?;
    let steadfast = client.is_steadfast().await?;
    let mut items = Items::open(&client, &store, &args.prefix, steadfast).await?;
    if !steadfast {
        print_status("this server does not tell when items expire: that is not in the export");
    }
    if stdout {
        let mut out = Output::new();
        copy(&mut items, |piece| out.bytes(piece)).await?;
        out.flush()?;
        return Ok(0);
    }
    let mut part = OutputFile::create(&args.output)?;
    let told = copy(&mut items, |piece| part.write(piece)).await?;
    part.persist()?;
    tell(&client, &store, &args, told)?;
    Ok(0)
}

/// Hands on all pieces; answers how many lines and bytes they are.
async fn copy<W>(items: &mut Items, mut write: W) -> Result<(u64, u64), CommandError>
where
    W: FnMut(&[u8]) -> Result<(), CommandError>,
{
    let bar = output::progress_bar("exporting", "items", None);
    let (mut lines, mut bytes, mut last) = (0, 0, b'\n');
    while let Some(piece) = items.piece().await? {
        write(&piece)?;
        lines += memchr::memchr_iter(b'\n', &piece).count() as u64;
        bytes += piece.len() as u64;
        last = piece.last().copied().unwrap_or(last);
        bar.set_position(lines);
    }
    bar.finish_and_clear();
    if last != b'\n' {
        return Err(local_error("the export ended within a line: it is not whole"));
    }
    Ok((lines, bytes))
}

fn tell(
    client: &Client,
    store: &Store,
    args: &ExportArgs,
    (items, bytes): (u64, u64),
) -> Result<(), CommandError> {
    let file = args.output.display();
    print_status(&format!("{file} has the {items} items of {}", store_label(client, store)));
    if args.client.json {
        let mut out = Output::new();
        out.json(&json!({
            "store": { "id": store.id, "name": store.name }, "file": file.to_string(),
            "items": items, "bytes": bytes,
        }))?;
        out.flush()?;
    }
    Ok(())
}
