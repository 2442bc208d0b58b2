//! `steadfast export`.

use super::client;
use super::export_viceroy;
use super::reader::ItemReader;
use crate::cli::error::{CommandError, EXIT_PRECONDITION, local_error, usage_error};
use crate::cli::output::{Output, counted, print_status, progress_bar, store_label};
use crate::cli::output_file::{OutputFile, refuse_overwrite};
use crate::client::Client;
use crate::config::{ExportArgs, ExportTo};
use crate::transfer::detect::is_stdin;
use crate::wire::Store;
use serde_json::json;

/// The error of an export that does not end with a complete line.
pub(super) const INCOMPLETE: &str = "incomplete export: the last line has no end";

pub(super) async fn run(args: ExportArgs) -> Result<u8, CommandError> {
    let client = client(args.client.resolve()?)?;
    let stdout = is_stdin(&args.output);
    if args.to == ExportTo::Viceroy {
        let Some(dir) = args.dir.clone() else {
            return Err(usage_error("--to viceroy requires an output directory"));
        };
        return export_viceroy::run(&client, &args, &dir).await;
    }
    if args.dir.is_some() {
        return Err(usage_error("DIR requires --to viceroy; use -o FILE to write to a file"));
    }
    if stdout && args.client.json {
        return Err(usage_error("--json requires an output file: add -o FILE"));
    }
    if !stdout && refuse_overwrite(&args.output, args.force) {
        return Ok(EXIT_PRECONDITION);
    }
    let store = client.resolve(&args.store).await?;
    let steadfast = client.is_steadfast().await?;
    let mut items = ItemReader::open(&client, &store, &args.prefix, steadfast).await?;
    if !steadfast {
        print_status("warning: the server does not report when items expire; exporting without it");
    }
    if stdout {
        let mut out = Output::new();
        copy(&mut items, |chunk| out.bytes(chunk)).await?;
        out.flush()?;
        return Ok(0);
    }
    let mut file = OutputFile::create(&args.output)?;
    let (lines, bytes) = copy(&mut items, |chunk| file.write(chunk)).await?;
    file.persist()?;
    report(&client, &store, &args, lines, bytes)?;
    Ok(0)
}

/// Copies the export and returns the number of lines and bytes.
async fn copy<W>(items: &mut ItemReader, mut write: W) -> Result<(u64, u64), CommandError>
where
    W: FnMut(&[u8]) -> Result<(), CommandError>,
{
    let bar = progress_bar("exporting", "items", None);
    let (mut lines, mut bytes, mut last) = (0, 0, b'\n');
    while let Some(chunk) = items.next_chunk().await? {
        write(&chunk)?;
        lines += memchr::memchr_iter(b'\n', &chunk).count() as u64;
        bytes += chunk.len() as u64;
        last = chunk.last().copied().unwrap_or(last);
        bar.set_position(lines);
    }
    bar.finish_and_clear();
    if last != b'\n' {
        return Err(local_error(INCOMPLETE));
    }
    Ok((lines, bytes))
}

fn report(
    client: &Client,
    store: &Store,
    args: &ExportArgs,
    items: u64,
    bytes: u64,
) -> Result<(), CommandError> {
    let file = args.output.display();
    let (count, label) = (counted(items, "item"), store_label(client, store));
    print_status(&format!("exported {count} to {file}: {label}"));
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
