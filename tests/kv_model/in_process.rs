//! A store on engines in the test process. The test sets the clock.

use crate::engines::{ProcessPicker, Subject};
use crate::store_under_test::{ReadItem, StoreUnderTest};
use crate::{MAX, START};
use bytes::Bytes;
use std::sync::Arc;
use steadfast::kv::batch::BatchItem;
use steadfast::kv::clock::ManualClock;
use steadfast::kv::items::{DeleteRequest, PutRequest};
use steadfast::kv::listing::ListKeys;
use steadfast::kv::types::{Key, Metadata, StoreId, StoreName, Ttl};
use steadfast::kv::{Error, Kv, Value};

pub(crate) struct InProcess {
    subject: Subject,
    kvs: Vec<Arc<Kv>>,
    clock: Arc<ManualClock>,
    store: StoreId,
    turns: ProcessPicker,
}

fn key(text: &str) -> Key {
    Key::parse(text.as_bytes()).unwrap()
}

impl InProcess {
    pub(crate) async fn new(subject: Subject) -> InProcess {
        let clock = Arc::new(ManualClock::new(START));
        let kvs = subject.kvs(&clock, MAX);
        let store = kvs[0].create_store(StoreName::parse("s0").unwrap(), None).await.unwrap().id;
        InProcess { turns: ProcessPicker::new(kvs.len()), subject, kvs, clock, store }
    }

    fn next_kv(&self) -> &Kv {
        &self.kvs[self.next()]
    }
}

impl StoreUnderTest for InProcess {
    fn processes(&self) -> usize {
        self.kvs.len()
    }

    fn next(&self) -> usize {
        self.turns.next()
    }

    async fn put(&self, by: usize, key: &str, put: &PutRequest, body: &[u8]) -> Result<u64, Error> {
        let mut upload = self.kvs[by].upload();
        for chunk in body.chunks(60_000) {
            upload.push(Bytes::copy_from_slice(chunk)).await?;
        }
        let value = upload.finish().await?;
        self.kvs[by].put(&self.store, &self::key(key), put, value).await
    }

    async fn delete(&self, by: usize, key: &str, delete: DeleteRequest) -> Result<(), Error> {
        self.kvs[by].delete(&self.store, &self::key(key), delete).await
    }

    async fn batch(&self, by: usize, lines: &[(&str, Option<Ttl>, Vec<u8>)]) {
        let line = |(key, ttl, value): &(&str, Option<Ttl>, Vec<u8>)| {
            let value = Value::from(Bytes::from(value.clone()));
            BatchItem { key: self::key(key), ttl: *ttl, metadata: Metadata::NONE, value }
        };
        self.kvs[by].put_batch(&self.store, lines.iter().map(line).collect()).await.unwrap();
    }

    async fn list(&self, prefix: &str, limit: usize) -> Vec<String> {
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let list = ListKeys { prefix: prefix.into(), after, limit, eventual: false };
            let page = self.next_kv().list_keys(&self.store, &list).await.unwrap();
            found.extend(page.keys().map(|key| String::from_utf8(key.to_vec()).unwrap()));
            after = page.keys().last().map(<[u8]>::to_vec);
            if !page.more {
                return found;
            }
        }
    }

    async fn get(&self, key: &str) -> Option<ReadItem> {
        match self.next_kv().get(&self.store, &self::key(key)).await {
            Ok(item) => Some(ReadItem {
                value: item.value.read_all().await.unwrap().to_vec(),
                metadata: item.metadata.as_bytes().to_vec(),
                generation: item.generation,
                expires: Some(item.expires_at),
            }),
            Err(Error::NoItem) => None,
            Err(e) => panic!("{e}"),
        }
    }

    async fn head(&self, key: &str) -> (u64, u64) {
        let head = self.next_kv().head(&self.store, &self::key(key)).await.unwrap();
        (head.size, head.generation)
    }

    async fn name(&self) -> String {
        self.next_kv().describe_store(&self.store).await.unwrap().name.as_str().into()
    }

    async fn rename(&self, name: &str) {
        let name = StoreName::parse(name).unwrap();
        self.next_kv().rename_store(&self.store, name).await.unwrap();
    }

    async fn delete_store(&self) -> Result<(), Error> {
        self.next_kv().delete_store(&self.store).await
    }

    async fn reopen(&mut self) -> Option<usize> {
        self.subject.reopen().await;
        self.kvs = self.subject.kvs(&self.clock, MAX);
        None
    }

    fn set_clock(&self, now: u64) -> bool {
        self.clock.set(now);
        true
    }

    async fn sweep(&self) {
        while self.next_kv().purge_expired().await.unwrap() > 0 {}
    }

    async fn count(&self) -> Option<u64> {
        Some(self.next_kv().items_count().await.unwrap())
    }

    async fn close(&self) {
        self.subject.engine.close().await.unwrap();
    }
}
