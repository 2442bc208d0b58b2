//! `steadfast export`.

use super::client;
use super::export_viceroy;
use super::reader::Items;
use crate::cli::atomic_file::{IN_THE_WAY, Part, in_the_way};
use crate::cli::console::{self, Out, Stop, local, note, target, usage};
use crate::client::Client;
use crate::config::{ExportArgs, ExportTo};
use crate::wire::Store;
use serde_json::json;

pub(super) async fn run(args: ExportArgs) -> Result<u8, Stop> {
    let client = client(args.client.resolve()?)?;
    let stdout = args.output.as_os_str() == "-";
    if args.to == ExportTo::Viceroy {
        let Some(dir) = args.dir.clone() else { return Err(usage("name the folder to write")) };
        return export_viceroy::run(&client, &args, &dir).await;
    }
    if args.dir.is_some() {
        return Err(usage("a folder is written with --to viceroy; a file with -o FILE"));
    }
    if stdout && args.client.json {
        return Err(usage("--json tells of an export to a file: say -o FILE"));
    }
    if !stdout && in_the_way(&args.output, args.force) {
        return Ok(IN_THE_WAY);
    }
    let store = client.resolve(&args.store).await?;
    let steadfast = client.is_steadfast().await?;
    let mut items = Items::open(&client, &store, &args.prefix, steadfast).await?;
    if !steadfast {
        note("this server does not tell when items expire: that is not in the export");
    }
    if stdout {
        let mut out = Out::new();
        copy(&mut items, |piece| out.bytes(piece)).await?;
        out.flush()?;
        return Ok(0);
    }
    let mut part = Part::new(&args.output)?;
    let told = copy(&mut items, |piece| part.write(piece)).await?;
    part.keep()?;
    tell(&client, &store, &args, told)?;
    Ok(0)
}

/// Hands on all pieces; answers how many lines and bytes they are.
async fn copy<W>(items: &mut Items, mut write: W) -> Result<(u64, u64), Stop>
where
    W: FnMut(&[u8]) -> Result<(), Stop>,
{
    let bar = console::bar("exporting", "items", None);
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
        return Err(local("the export ended within a line: it is not whole"));
    }
    Ok((lines, bytes))
}

fn tell(
    client: &Client,
    store: &Store,
    args: &ExportArgs,
    (items, bytes): (u64, u64),
) -> Result<(), Stop> {
    let file = args.output.display();
    note(&format!("{file} has the {items} items of {}", target(client, store)));
    if args.client.json {
        let mut out = Out::new();
        out.json(&json!({
            "store": { "id": store.id, "name": store.name }, "file": file.to_string(),
            "items": items, "bytes": bytes,
        }))?;
        out.flush()?;
    }
    Ok(())
}
