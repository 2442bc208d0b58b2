//! `steadfast sync`.

use super::merge_join::{End, Pair, Pairs, Seen};
use super::reader::PARALLEL;
use super::request::Sender;
use super::{client, found};
use crate::cli::confirm::confirm;
use crate::cli::error;
use crate::cli::error::{CommandError, usage_error};
use crate::cli::output;
use crate::cli::output::{Output, print_status, store_label};
use crate::client::{Client, Error, IfExists, Value};
use crate::config::SyncArgs;
use crate::transfer::batches::Batch;
use crate::transfer::record::{self, Item};
use crate::wire::{Details, Store};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use indicatif::ProgressBar;
use serde_json::json;
use sha2::{Digest, Sha256};
use std::collections::VecDeque;
use tokio::task::{JoinHandle, JoinSet};

/// Lines and bytes of lines that are sent together.
const SENT_LINES: usize = 1000;
const SENT_BYTES: usize = 2 << 20;

pub(super) async fn run(args: SyncArgs) -> Result<u8, CommandError> {
    let (from, to) = ends(&args).await?;
    print_status(&format!("from {}", store_label(&from.client, &from.store)));
    print_status(&format!("to   {}", store_label(&to.client, &to.store)));
    if from.store.id == to.store.id && from.client.endpoint() == to.client.endpoint() {
        return Err(usage_error("both are the same store"));
    }
    if args.quick && !(from.steadfast && to.steadfast) {
        return Err(usage_error("--quick needs times that only Steadfast tells, at both ends"));
    }
    if !from.steadfast && !args.dry_run {
        print_status("the first server does not tell when items expire: copies are kept for ever");
    }
    let sender = Sender::new(&to.client, &to.store, IfExists::Overwrite, args.max_value).await?;
    let mut sync = Sync {
        pairs: Pairs::new(from.clone(), to.clone(), &args.prefix),
        judge: Judge { from, to, quick: args.quick, dry: args.dry_run, most: args.max_value },
        bar: output::progress_bar("comparing", "items", None),
        out: Output::new(),
        sender,
        args,
        batch: Batch::default(),
        gone: Vec::new(),
        told: Told::default(),
    };
    let done = Box::pin(sync.copy()).await;
    sync.bar.finish_and_clear();
    done?;
    if sync.args.delete && !sync.args.dry_run {
        sync.delete().await?;
    }
    sync.summary()
}

/// The two stores, each at its server.
async fn ends(args: &SyncArgs) -> Result<(End, End), CommandError> {
    let part = |text: &str| {
        let at = ["@http://", "@https://"].iter().filter_map(|mark| text.rfind(mark)).max();
        match at.map(|at| text.split_at(at)) {
            Some((name, at)) => (name.to_owned(), at.trim_start_matches('@').to_owned()),
            None => (text.to_owned(), args.client.endpoint().to_owned()),
        }
    };
    let ((from, from_at), (to, to_at)) = (part(&args.from), part(&args.to));
    let reach = |at: &str, file: &Option<std::path::PathBuf>, flag: &str| {
        client(args.client.resolve_for(at, file.as_deref(), flag)?)
    };
    let from_client = reach(&from_at, &args.from_token_file, "--from-token-file")?;
    let to_client = reach(&to_at, &args.to_token_file, "--to-token-file")?;
    let from = from_client.resolve(&from).await?;
    let to = found(&to_client, &to, args.create && !args.dry_run).await?;
    let end = async |client: Client, store| -> Result<End, CommandError> {
        let steadfast = client.is_steadfast().await?;
        Ok(End { client, store, steadfast })
    };
    Ok((end(from_client, from).await?, end(to_client, to).await?))
}

/// What was found and done.
#[derive(Default)]
struct Told {
    new: u64,
    changed: u64,
    gone: u64,
    deleted: u64,
    same: u64,
    failed: u64,
}

struct Sync {
    args: SyncArgs,
    pairs: Pairs,
    judge: Judge,
    sender: Sender,
    bar: ProgressBar,
    out: Output,
    batch: Batch,
    /// Keys that the first store has not.
    gone: Vec<String>,
    told: Told,
}

impl Sync {
    /// Compares all, and copies what differs.
    async fn copy(&mut self) -> Result<(), CommandError> {
        let mut asked: VecDeque<JoinHandle<Result<Judged, Error>>> = VecDeque::new();
        let mut listed = false;
        loop {
            while asked.len() < PARALLEL && !listed {
                match self.pairs.next().await? {
                    Some(pair) => {
                        let judge = self.judge.clone();
                        asked.push_back(tokio::spawn(
                            async move { Box::pin(judge.judge(pair)).await },
                        ));
                    }
                    None => listed = true,
                }
            }
            let Some(next) = asked.pop_front() else { break };
            let judged =
                next.await.map_err(|e| error::local_error(format!("a task ended: {e}")))??;
            self.take(judged)?;
            self.bar.inc(1);
            let full = self.batch.numbers.len() >= SENT_LINES;
            if full || self.batch.lines.len() >= SENT_BYTES {
                self.send().await?;
            }
        }
        self.send().await?;
        self.out.flush()
    }

    fn take(&mut self, judged: Judged) -> Result<(), CommandError> {
        let Judged { key, verdict, line } = judged;
        let (mark, change) = match verdict {
            Verdict::Same => {
                self.told.same += 1;
                return Ok(());
            }
            Verdict::TooLarge(reason) => {
                self.told.failed += 1;
                self.bar.suspend(|| print_status(&format!("item {key:?}: {reason}")));
                return Ok(());
            }
            Verdict::Gone => {
                self.told.gone += 1;
                if !self.args.delete {
                    return Ok(());
                }
                self.gone.push(key.clone());
                ('-', "deleted")
            }
            Verdict::New => {
                self.told.new += 1;
                ('+', "new")
            }
            Verdict::Changed => {
                self.told.changed += 1;
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
            self.batch.lines.extend_from_slice(&line);
            self.batch.numbers.push(self.told.new + self.told.changed);
        }
        Ok(())
    }

    async fn send(&mut self) -> Result<(), CommandError> {
        if self.batch.numbers.is_empty() {
            return Ok(());
        }
        self.out.flush()?;
        let outcome = self.sender.send(std::mem::take(&mut self.batch)).await?;
        self.told.failed += outcome.counts.failed;
        self.bar.suspend(|| {
            for wrong in &outcome.failures {
                print_status(&format!("item {:?}: {}", wrong.key, wrong.reason));
            }
        });
        Ok(())
    }

    /// Deletes what the first store has not.
    async fn delete(&mut self) -> Result<(), CommandError> {
        let keys = std::mem::take(&mut self.gone);
        if keys.is_empty() {
            return Ok(());
        }
        let End { client, store, .. } = &self.judge.to;
        let whose = store_label(client, store);
        let question = format!("delete {} items that FROM has not from {whose}", keys.len());
        confirm(&question, self.args.yes).await?;
        let bar = output::progress_bar("deleting", "items", Some(keys.len() as u64));
        let (mut keys, mut running) = (keys.into_iter(), JoinSet::new());
        loop {
            while running.len() < PARALLEL
                && let Some(key) = keys.next()
            {
                let (client, store) = (client.clone(), store.clone());
                running.spawn(async move { client.delete(&store, &key, true, None).await });
            }
            let Some(done) = running.join_next().await else { break };
            done.map_err(|e| error::local_error(format!("a task ended: {e}")))??;
            self.told.deleted += 1;
            bar.inc(1);
        }
        bar.finish_and_clear();
        Ok(())
    }

    fn summary(mut self) -> Result<u8, CommandError> {
        let Told { new, changed, gone, deleted, same, failed } = self.told;
        let dry = if self.args.dry_run { "dry run: " } else { "" };
        let rest = match (self.args.delete, self.args.dry_run) {
            (true, true) => format!("{gone} to delete"),
            (true, false) => format!("{deleted} deleted"),
            (false, _) => format!("{gone} that FROM has not"),
        };
        let End { client, store, .. } = &self.judge.to;
        let whose = store_label(client, store);
        print_status(&format!(
            "{dry}{new} new, {changed} changed, {rest}, {same} the same, {failed} failed: {whose}"
        ));
        if self.args.client.json {
            let end = |end: &End| {
                let Store { id, name, .. } = &end.store;
                json!({ "endpoint": end.client.endpoint().as_str(), "id": id, "name": name })
            };
            self.out.json(&json!({
                "from": end(&self.judge.from), "to": end(&self.judge.to), "new": new,
                "changed": changed, "only_in_to": gone, "deleted": deleted, "same": same,
                "failed": failed, "dry_run": self.args.dry_run,
            }))?;
        }
        self.out.flush()?;
        Ok(u8::from(failed > 0))
    }
}

/// What is to happen to an item.
enum Verdict {
    New,
    Changed,
    Gone,
    Same,
    TooLarge(String),
}

struct Judged {
    key: String,
    verdict: Verdict,
    /// What is to be sent.
    line: Option<Vec<u8>>,
}

/// Compares items.
#[derive(Clone)]
struct Judge {
    from: End,
    to: End,
    quick: bool,
    dry: bool,
    most: u64,
}

impl Judge {
    async fn judge(self, pair: Pair) -> Result<Judged, Error> {
        match pair {
            Pair::To(seen) => Ok(Judged { key: seen.key, verdict: Verdict::Gone, line: None }),
            Pair::From(seen) if self.dry => {
                Ok(Judged { key: seen.key, verdict: Verdict::New, line: None })
            }
            Pair::From(seen) => self.copied(seen, Verdict::New).await,
            Pair::Both(from, to) => {
                if self.differ_in_details(&from, &to).await? {
                    if self.dry {
                        return Ok(Judged { key: from.key, verdict: Verdict::Changed, line: None });
                    }
                    return self.copied(from, Verdict::Changed).await;
                }
                let times = |seen: &Seen| seen.details.as_ref().map(|d| d.modified.clone());
                if self.quick && times(&from) == times(&to) {
                    return Ok(Judged { key: from.key, verdict: Verdict::Same, line: None });
                }
                self.compared(from).await
            }
        }
    }

    /// Whether what is told beside the values differs.
    async fn differ_in_details(&self, from: &Seen, to: &Seen) -> Result<bool, Error> {
        if let (Some(from), Some(to)) = (&from.details, &to.details) {
            let differ = from.size != to.size || from.expires != to.expires;
            return Ok(differ || metadata(from) != metadata(to));
        }
        let heads = tokio::try_join!(about(&self.from, from), about(&self.to, to));
        match heads {
            Ok((from, to)) => Ok(from != to),
            // One of them is gone by now; the reading of the value will tell.
            Err(e) if e.status() == Some(404) => Ok(true),
            Err(e) => Err(e),
        }
    }

    /// Compares the values of both.
    async fn compared(&self, seen: Seen) -> Result<Judged, Error> {
        let End { client, store, .. } = &self.to;
        let there = match client.get(store, &seen.key).await {
            Ok(value) => Some(hash(value).await?),
            Err(e) if e.status() == Some(404) => None,
            Err(e) => return Err(e),
        };
        let End { client, store, .. } = &self.from;
        if self.dry || there.is_none() {
            let same = match client.get(store, &seen.key).await {
                Ok(value) => Some(hash(value).await?) == there,
                Err(e) if e.status() == Some(404) => true,
                Err(e) => return Err(e),
            };
            if same || self.dry {
                let verdict = if same { Verdict::Same } else { Verdict::Changed };
                return Ok(Judged { key: seen.key, verdict, line: None });
            }
            return self.copied(seen, Verdict::Changed).await;
        }
        self.read(seen, Verdict::Changed, there).await
    }

    async fn copied(&self, seen: Seen, verdict: Verdict) -> Result<Judged, Error> {
        self.read(seen, verdict, None).await
    }

    /// Reads an item as a line, unless its value has this hash.
    async fn read(
        &self,
        seen: Seen,
        verdict: Verdict,
        there: Option<[u8; 32]>,
    ) -> Result<Judged, Error> {
        let End { client, store, .. } = &self.from;
        let value = match client.get(store, &seen.key).await {
            Ok(value) => value,
            // Deleted since the list.
            Err(e) if e.status() == Some(404) => {
                return Ok(Judged { key: seen.key, verdict: Verdict::Same, line: None });
            }
            Err(e) => return Err(e),
        };
        let head = value.head.clone();
        if head.size > self.most {
            let verdict = Verdict::TooLarge(record::too_large(self.most));
            return Ok(Judged { key: seen.key, verdict, line: None });
        }
        let bytes = value.all(usize::try_from(self.most).unwrap_or(usize::MAX)).await?;
        if there.is_some_and(|there| Sha256::digest(&bytes)[..] == there) {
            return Ok(Judged { key: seen.key, verdict: Verdict::Same, line: None });
        }
        let told = seen.details.as_ref();
        let modified = match told {
            Some(details) => Some(details.modified.clone()),
            None => head.modified.as_deref().and_then(record::modified),
        };
        let item = Item {
            key: &seen.key,
            value: &bytes,
            metadata: &head.metadata,
            expires: told.and_then(|details| details.expires.as_deref()),
            modified: modified.as_deref(),
            ..Item::default()
        };
        let mut line = Vec::new();
        item.write(&mut line);
        Ok(Judged { key: seen.key, verdict, line: Some(line) })
    }
}

/// The bytes of an item's metadata.
fn metadata(details: &Details) -> Vec<u8> {
    match (&details.metadata, &details.metadata_base64) {
        (_, Some(packed)) => BASE64_STANDARD.decode(packed).unwrap_or_default(),
        (Some(text), None) => text.clone().into_bytes(),
        (None, None) => Vec::new(),
    }
}

/// Size and metadata of an item.
async fn about(end: &End, seen: &Seen) -> Result<(u64, Vec<u8>), Error> {
    if let Some(details) = &seen.details {
        return Ok((details.size, metadata(details)));
    }
    let head = end.client.head(&end.store, &seen.key).await?;
    Ok((head.size, head.metadata))
}

async fn hash(mut value: Value) -> Result<[u8; 32], Error> {
    let mut hash = Sha256::new();
    while let Some(piece) = value.piece().await? {
        hash.update(&piece);
    }
    Ok(hash.finalize().into())
}
