//! `steadfast sync`: copies new and changed items from one store to another.

use super::batch_sender::BatchSender;
use super::find_or_create;
use super::item_reader::CONCURRENCY;
use super::memory_budget::{OrderedReads, Reservation, ValueReader};
use super::merge_join::{JoinedItem, ListedItem, MergeJoin, SyncStore};
use crate::cli::confirm::confirm;
use crate::cli::error::{Result, local_error, usage_error};
use crate::cli::key::metadata;
use crate::cli::output::{Output, counted, print_error, print_status, progress_bar, store_label};
use crate::cli::runtime::connect;
use crate::client::{Client, Error};
use crate::config::SyncArgs;
use crate::transfer::ItemPosition;
use crate::transfer::batches::{Batch, BatchEntry};
use crate::transfer::checked_item::too_large;
use crate::wire::item_line::ItemLine;
use crate::wire::{IfExists, Store, http_date_to_rfc3339};
use indicatif::ProgressBar;
use serde_json::json;
use sha2::{Digest, Sha256};
use std::path::PathBuf;
use tokio::task::JoinSet;

/// A batch is sent once it has this many lines.
const BATCH_LINES: usize = 1000;
/// A batch is sent once its lines have this many bytes.
const BATCH_BYTES: usize = 2 << 20;

pub(super) async fn run(args: SyncArgs) -> Result<u8> {
    let (from, to) = resolve_stores(&args).await?;
    print_status(&format!("from {}", store_label(&from.client, &from.store)));
    print_status(&format!("to   {}", store_label(&to.client, &to.store)));
    if from.store.id == to.store.id && from.client.endpoint() == to.client.endpoint() {
        return Err(usage_error("FROM and TO are the same store"));
    }
    if args.quick && !(from.steadfast && to.steadfast) {
        return Err(usage_error("--quick requires Steadfast servers on both sides"));
    }
    if !from.steadfast && !args.dry_run {
        print_status("warning: the source does not return expiry times; copies will not expire");
    }
    let max_value = args.max_value;
    let sender = BatchSender::new(&to.client, &to.store, IfExists::Overwrite, max_value).await?;
    let (quick, dry_run) = (args.quick, args.dry_run);
    let mut sync = Syncer {
        join: MergeJoin::new(from.clone(), to.clone(), args.prefix.as_deref().unwrap_or_default()),
        comparer: Comparer { from, to, quick, dry_run, value_bytes_max: max_value },
        bar: progress_bar("comparing", "items", None),
        out: Output::new(),
        sender,
        args,
        batch: Batch::default(),
        only_in_to: Vec::new(),
        counts: SyncCounts::default(),
    };
    let copied = Box::pin(sync.copy()).await;
    sync.bar.finish_and_clear();
    copied?;
    if sync.args.delete && !sync.args.dry_run {
        sync.delete().await?;
    }
    sync.report()
}

async fn resolve_stores(args: &SyncArgs) -> Result<(SyncStore, SyncStore)> {
    let split = |text: &str| {
        let at = ["@http://", "@https://"].iter().filter_map(|mark| text.rfind(mark)).max();
        match at.map(|at| text.split_at(at)) {
            Some((name, at)) => (name.to_owned(), Some(at.trim_start_matches('@').to_owned())),
            None => (text.to_owned(), None),
        }
    };
    let ((from, from_endpoint), (to, to_endpoint)) = (split(&args.from), split(&args.to));
    let client = |endpoint: Option<String>, token_file: &Option<PathBuf>, flag: &str| {
        connect(args.client.resolve_for(endpoint, token_file.as_deref(), flag)?)
    };
    let from_client = client(from_endpoint, &args.from_token_file, "--from-token-file")?;
    let to_client = client(to_endpoint, &args.to_token_file, "--to-token-file")?;
    let from = from_client.resolve(&from).await?;
    let to = find_or_create(&to_client, &to, args.create && !args.dry_run).await?;
    let sync_store = async |client: Client, store| -> Result<SyncStore> {
        let steadfast = client.is_steadfast().await?;
        Ok(SyncStore { client, store, steadfast })
    };
    Ok((sync_store(from_client, from).await?, sync_store(to_client, to).await?))
}

#[derive(Default)]
struct SyncCounts {
    new: u64,
    changed: u64,
    only_in_to: u64,
    deleted: u64,
    unchanged: u64,
    failed: u64,
}

struct Syncer {
    args: SyncArgs,
    join: MergeJoin,
    comparer: Comparer,
    sender: BatchSender,
    bar: ProgressBar,
    out: Output,
    batch: Batch,
    /// The keys of the items to delete.
    only_in_to: Vec<String>,
    counts: SyncCounts,
}

impl Syncer {
    /// Compares all items and copies those that differ.
    async fn copy(&mut self) -> Result<()> {
        let mut running = OrderedReads::new();
        let mut ended = false;
        loop {
            while running.len() < CONCURRENCY && !ended {
                match self.join.next().await? {
                    Some(item) => {
                        let comparer = self.comparer.clone();
                        running.push(|reader| async move {
                            Box::pin(comparer.compare(item, reader)).await
                        });
                    }
                    None => ended = true,
                }
            }
            let Some(comparison) = running.next().await? else { break };
            self.apply(comparison)?;
            self.bar.inc(1);
            let full = self.batch.positions.len() >= BATCH_LINES;
            if full || self.batch.bytes >= BATCH_BYTES {
                self.send().await?;
            }
        }
        self.send().await?;
        self.out.flush()
    }

    /// Counts and prints a difference. If the item is to be copied, adds it to the batch.
    fn apply(&mut self, comparison: Comparison) -> Result<()> {
        let Comparison { key, difference, line, reservation: _reservation } = comparison;
        let (mark, change) = match difference {
            Difference::None => {
                self.counts.unchanged += 1;
                return Ok(());
            }
            Difference::TooLarge => {
                self.counts.failed += 1;
                let reason = too_large(self.args.max_value);
                self.bar.suspend(|| print_error(&format!("item {key:?}: {reason}")));
                return Ok(());
            }
            Difference::OnlyInTo => {
                self.counts.only_in_to += 1;
                if !self.args.delete {
                    return Ok(());
                }
                self.only_in_to.push(key.clone());
                ('-', "deleted")
            }
            Difference::New => {
                self.counts.new += 1;
                ('+', "new")
            }
            Difference::Changed => {
                self.counts.changed += 1;
                ('~', "changed")
            }
        };
        if self.args.client.json {
            self.out.json(&json!({ "change": change, "key": key }))?;
        } else {
            let shown = self.out.sanitize(&key);
            self.out.line(&format!("{mark} {shown}"))?;
        }
        if let Some(line) = line {
            let item = self.counts.new + self.counts.changed;
            let position = ItemPosition { item, line: 0 };
            self.batch.push(BatchEntry::new(position, line, self.sender.limits().decode));
        }
        Ok(())
    }

    async fn send(&mut self) -> Result<()> {
        let batch = std::mem::take(&mut self.batch);
        if batch.positions.is_empty() && batch.rejected.is_empty() {
            return Ok(());
        }
        self.out.flush()?;
        let outcome = self.sender.send(batch).await?;
        self.counts.failed += outcome.counts.failed;
        self.bar.suspend(|| {
            for item in &outcome.failures {
                print_error(&format!("item {:?}: {}", item.key, item.reason));
            }
        });
        Ok(())
    }

    /// Deletes the items that exist only in the destination.
    async fn delete(&mut self) -> Result<()> {
        let keys = std::mem::take(&mut self.only_in_to);
        if keys.is_empty() {
            return Ok(());
        }
        let SyncStore { client, store, .. } = &self.comparer.to;
        let (count, label) = (keys.len() as u64, store_label(client, store));
        let action = format!("delete {} found only in {label}", counted(count, "item"));
        confirm(&action, self.args.yes).await?;
        let bar = progress_bar("deleting", "items", Some(count));
        let (mut keys, mut running) = (keys.into_iter(), JoinSet::new());
        loop {
            while running.len() < CONCURRENCY
                && let Some(key) = keys.next()
            {
                let (client, store) = (client.clone(), store.clone());
                running.spawn(async move { client.delete(&store, &key, true, None).await });
            }
            let Some(done) = running.join_next().await else { break };
            done.map_err(|e| local_error(format!("task failed: {e}")))??;
            self.counts.deleted += 1;
            bar.inc(1);
        }
        bar.finish_and_clear();
        Ok(())
    }

    /// Prints the counts and returns the exit status.
    fn report(mut self) -> Result<u8> {
        let SyncCounts { new, changed, only_in_to, deleted, unchanged, failed } = self.counts;
        let dry_run = if self.args.dry_run { "dry run: " } else { "" };
        let extra = match (self.args.delete, self.args.dry_run) {
            (true, true) => format!("{only_in_to} to delete"),
            (true, false) => format!("{deleted} deleted"),
            (false, _) => format!("{only_in_to} only in destination"),
        };
        let SyncStore { client, store, .. } = &self.comparer.to;
        let label = store_label(client, store);
        print_status(&format!(
            "{dry_run}{new} new, {changed} changed, {extra}, {unchanged} unchanged, {failed} \
             failed: {label}"
        ));
        if self.args.client.json {
            let end = |end: &SyncStore| {
                let Store { id, name, .. } = &end.store;
                json!({ "endpoint": end.client.endpoint().as_str(), "id": id, "name": name })
            };
            self.out.json(&json!({
                "from": end(&self.comparer.from), "to": end(&self.comparer.to), "new": new,
                "changed": changed, "only_in_to": only_in_to, "deleted": deleted,
                "same": unchanged, "failed": failed, "dry_run": self.args.dry_run,
            }))?;
        }
        self.out.flush()?;
        Ok(u8::from(failed > 0))
    }
}

enum Difference {
    None,
    New,
    Changed,
    OnlyInTo,
    /// The item differs and is too large to be copied.
    TooLarge,
}

struct Comparison {
    key: String,
    difference: Difference,
    /// The line of the item, if it is to be copied.
    line: Option<Vec<u8>>,
    /// The reservation of the memory for the line.
    reservation: Option<Reservation>,
}

impl Comparison {
    fn new(item: ListedItem, difference: Difference) -> Comparison {
        Comparison { key: item.key, difference, line: None, reservation: None }
    }
}

/// Compares items, and reads the items to be copied.
#[derive(Clone)]
struct Comparer {
    from: SyncStore,
    to: SyncStore,
    quick: bool,
    dry_run: bool,
    value_bytes_max: u64,
}

impl Comparer {
    async fn compare(self, item: JoinedItem, reader: ValueReader) -> Result<Comparison, Error> {
        let (from, to) = match item {
            JoinedItem::To(item) => return Ok(Comparison::new(item, Difference::OnlyInTo)),
            JoinedItem::From(item) if self.dry_run => {
                return Ok(Comparison::new(item, Difference::New));
            }
            JoinedItem::From(item) => return self.read(item, reader, Difference::New, None).await,
            JoinedItem::Both(from, to) => (from, to),
        };
        if self.properties_differ(&from, &to).await? {
            if self.dry_run {
                return Ok(Comparison::new(from, Difference::Changed));
            }
            return self.read(from, reader, Difference::Changed, None).await;
        }
        let modified = |item: &ListedItem| item.details.as_ref().map(|d| d.modified.clone());
        if self.quick && modified(&from) == modified(&to) {
            return Ok(Comparison::new(from, Difference::None));
        }
        self.compare_values(from, reader).await
    }

    /// Returns whether the items differ in anything except their values.
    async fn properties_differ(&self, from: &ListedItem, to: &ListedItem) -> Result<bool, Error> {
        if let (Some(from), Some(to)) = (&from.details, &to.details) {
            let differ = from.size != to.size || from.expires != to.expires;
            return Ok(differ || metadata(from) != metadata(to));
        }
        match tokio::try_join!(size_and_metadata(&self.from, from), size_and_metadata(&self.to, to))
        {
            Ok((from, to)) => Ok(from != to),
            // One of the items was deleted after it was listed. Reading the value shows which one.
            Err(e) if e.status() == Some(404) => Ok(true),
            Err(e) => Err(e),
        }
    }

    async fn compare_values(
        &self,
        item: ListedItem,
        reader: ValueReader,
    ) -> Result<Comparison, Error> {
        let to_hash = value_hash(&self.to, &item.key).await?;
        if to_hash.is_none() || self.dry_run {
            let from_hash = value_hash(&self.from, &item.key).await?;
            // An item that was deleted from the source after it was listed is not copied.
            if from_hash.is_none() || from_hash == to_hash {
                return Ok(Comparison::new(item, Difference::None));
            }
            if self.dry_run {
                return Ok(Comparison::new(item, Difference::Changed));
            }
        }
        self.read(item, reader, Difference::Changed, to_hash).await
    }

    /// Reads an item from the source. Returns its line unless the hash of its value is `to_hash`.
    async fn read(
        &self,
        item: ListedItem,
        mut reader: ValueReader,
        difference: Difference,
        to_hash: Option<[u8; 32]>,
    ) -> Result<Comparison, Error> {
        let SyncStore { client, store, .. } = &self.from;
        let (value, reservation) = match reader.get(client, store, &item.key).await {
            Ok(value) => value,
            // The item was deleted after it was listed.
            Err(e) if e.status() == Some(404) => {
                return Ok(Comparison::new(item, Difference::None));
            }
            Err(e) => return Err(e),
        };
        let headers = value.headers.clone();
        if headers.size > self.value_bytes_max {
            return Ok(Comparison::new(item, Difference::TooLarge));
        }
        let max = usize::try_from(self.value_bytes_max).unwrap_or(usize::MAX);
        let bytes = value.read_to_end(max).await?;
        if to_hash.is_some_and(|hash| Sha256::digest(&bytes)[..] == hash) {
            return Ok(Comparison::new(item, Difference::None));
        }
        let details = item.details.as_ref();
        let modified = match details {
            Some(details) => Some(details.modified.clone()),
            None => headers.modified.as_deref().and_then(http_date_to_rfc3339),
        };
        let mut line = Vec::new();
        ItemLine {
            key: &item.key,
            value: &bytes,
            metadata: &headers.metadata,
            expires: details.and_then(|details| details.expires.as_deref()),
            modified: modified.as_deref(),
            ..ItemLine::default()
        }
        .write(&mut line);
        Ok(Comparison { line: Some(line), reservation, ..Comparison::new(item, difference) })
    }
}

async fn size_and_metadata(store: &SyncStore, item: &ListedItem) -> Result<(u64, Vec<u8>), Error> {
    if let Some(details) = &item.details {
        return Ok((details.size, metadata(details)));
    }
    let headers = store.client.head(&store.store, &item.key).await?;
    Ok((headers.size, headers.metadata))
}

/// Returns the SHA-256 of an item's value, or `None` if the item does not exist.
async fn value_hash(store: &SyncStore, key: &str) -> Result<Option<[u8; 32]>, Error> {
    let mut value = match store.client.get(&store.store, key).await {
        Ok(value) => value,
        Err(e) if e.status() == Some(404) => return Ok(None),
        Err(e) => return Err(e),
    };
    let mut hash = Sha256::new();
    while let Some(chunk) = value.next_chunk().await? {
        hash.update(&chunk);
    }
    Ok(Some(hash.finalize().into()))
}
