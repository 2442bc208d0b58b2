//! `steadfast export`: writes the items of a store to a file or to standard output.

use super::export_viceroy;
use super::item_reader::ItemReader;
use crate::cli::error::{EXIT_PRECONDITION, Result, local_error, usage_error};
use crate::cli::output::{counted, print_json_if, print_status, progress_bar, store_label};
use crate::cli::output_file::{OutputFile, refuse_overwrite};
use crate::cli::runtime::connect;
use crate::config::{ExportArgs, ExportFormat};
use crate::transfer::detect::is_dash;
use serde_json::json;

/// The error message for an export whose last line is incomplete.
pub(super) const INCOMPLETE: &str = "incomplete export: the last line is truncated";

pub(super) async fn run(args: ExportArgs) -> Result<u8> {
    let client = connect(args.client.resolve()?)?;
    let stdout = is_dash(&args.output);
    if args.to == ExportFormat::Viceroy {
        let Some(dir) = args.dir.clone() else {
            return Err(usage_error("--to viceroy requires an output directory"));
        };
        return export_viceroy::run(&client, &args, &dir).await;
    }
    if args.dir.is_some() {
        return Err(usage_error("DIR requires --to viceroy: use -o FILE to write to a file"));
    }
    if stdout && args.client.json {
        return Err(usage_error("--json requires an output file: use -o FILE"));
    }
    if refuse_overwrite(&args.output, args.force) {
        return Ok(EXIT_PRECONDITION);
    }
    let store = client.resolve(&args.store).await?;
    let steadfast = client.is_steadfast().await?;
    let mut items = ItemReader::open(&client, &store, &args.prefix, steadfast).await?;
    if !steadfast {
        print_status("warning: the server does not return expiry times; the export contains none");
    }
    let mut file = OutputFile::create(&args.output)?;
    let (lines, bytes) = copy(&mut items, &mut file).await?;
    file.persist()?;
    if !stdout {
        let path = args.output.display().to_string();
        let (count, label) = (counted(lines, "item"), store_label(&client, &store));
        print_status(&format!("exported {count} from {label} to {path}"));
        let result = json!({
            "store": { "id": store.id, "name": store.name }, "file": path, "items": lines,
            "bytes": bytes,
        });
        print_json_if(args.client.json, &result)?;
    }
    Ok(0)
}

/// Copies all items to the output file, and returns the numbers of lines and bytes.
async fn copy(items: &mut ItemReader, to: &mut OutputFile) -> Result<(u64, u64)> {
    let bar = progress_bar("exporting", "items", None);
    let (mut lines, mut bytes, mut last) = (0, 0, b'\n');
    while let Some(chunk) = items.next_chunk().await? {
        to.write(&chunk)?;
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
