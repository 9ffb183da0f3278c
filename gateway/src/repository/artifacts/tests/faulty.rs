//! A store that does what is wrong on request, around one that works.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    ops::Range,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream::BoxStream};
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
    UploadPart, path::Path,
};
use tokio::sync::Semaphore;

#[derive(Clone, Copy, Debug)]
pub enum PutFault {
    /// Nothing is done, and that is what is said.
    Refuse,
    /// It is done, and not said.
    LoseAnswer,
    /// Nothing is done, and it is said to exist (S3's 409).
    Conflict,
}

type Change = fn(Vec<u8>) -> Vec<u8>;

pub struct Faulty {
    inner: Arc<dyn ObjectStore>,
    puts: Mutex<VecDeque<PutFault>>,
    list: Mutex<Option<Vec<ObjectMeta>>>,
    gate: Mutex<Option<Gate>>,
    change: Mutex<Option<Change>>,
    /// How far the store's clock is ahead, and how far it was when each object was written.
    clock: Mutex<Duration>,
    ahead: Mutex<BTreeMap<Path, Duration>>,
    down: AtomicBool,
    overwrite: AtomicBool,
    counts: Arc<Counts>,
}

/// What was asked of the store.
#[derive(Debug, Default)]
pub struct Counts {
    pub puts: AtomicUsize,
    pub parts: AtomicUsize,
    pub parts_at_once: AtomicUsize,
    pub most_parts_at_once: AtomicUsize,
    pub largest_part: AtomicUsize,
    pub completed: AtomicUsize,
    pub aborted: AtomicUsize,
    pub lists: AtomicUsize,
    pub gets: AtomicUsize,
    pub gets_at_once: AtomicUsize,
    pub most_gets_at_once: AtomicUsize,
    /// That part fails.
    pub failing_part: AtomicUsize,
}

/// Holds a listing that has been made back from who asked for it.
#[derive(Clone)]
pub struct Gate {
    listed: Arc<Semaphore>,
    go_on: Arc<Semaphore>,
}

impl Gate {
    pub async fn listed(&self) {
        self.listed.acquire().await.expect("it is not closed").forget();
    }

    pub fn open(&self) {
        self.go_on.add_permits(1);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no test panicked")
}

fn failed() -> Error {
    Error::Generic { store: "faulty", source: "as requested".into() }
}

impl Faulty {
    pub fn new(inner: Arc<dyn ObjectStore>) -> Self {
        Self {
            inner,
            puts: Mutex::default(),
            list: Mutex::default(),
            gate: Mutex::default(),
            change: Mutex::default(),
            clock: Mutex::default(),
            ahead: Mutex::default(),
            down: AtomicBool::default(),
            overwrite: AtomicBool::default(),
            counts: Arc::default(),
        }
    }

    pub fn fail_puts(&self, faults: Vec<PutFault>) {
        lock(&self.puts).extend(faults);
    }

    /// Lists go on showing what is there now.
    pub async fn freeze_lists(&self) {
        let now = self.inner.list(None).try_collect().await.expect("the inner store works");
        *lock(&self.list) = Some(now);
    }

    pub fn thaw_lists(&self) {
        *lock(&self.list) = None;
    }

    pub fn hold_next_list(&self) -> Gate {
        let gate = Gate { listed: Arc::new(Semaphore::new(0)), go_on: Arc::new(Semaphore::new(0)) };
        *lock(&self.gate) = Some(gate.clone());
        gate
    }

    /// What is read comes changed.
    pub fn change_reads(&self, change: Option<Change>) {
        *lock(&self.change) = change;
    }

    pub fn set_down(&self, down: bool) {
        self.down.store(down, SeqCst);
    }

    /// The store's clock jumps to so far ahead of ours.
    pub fn set_clock(&self, ahead: Duration) {
        *lock(&self.clock) = ahead;
    }

    fn stamp(&self, object: &mut ObjectMeta) {
        object.last_modified += lock(&self.ahead).get(&object.location).copied().unwrap_or_default();
    }

    /// Takes every create-if-absent for a put.
    pub fn overwrite(&self, overwrite: bool) {
        self.overwrite.store(overwrite, SeqCst);
    }

    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    pub async fn paths(&self) -> Vec<String> {
        let all: Vec<_> = self.inner.list(None).try_collect().await.expect("the inner store works");
        all.into_iter().map(|object| object.location.to_string()).collect()
    }

    fn up(&self) -> Result<()> {
        if self.down.load(SeqCst) { Err(failed()) } else { Ok(()) }
    }
}

impl fmt::Debug for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Faulty")
    }
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Faulty")
    }
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(&self, path: &Path, payload: PutPayload, mut options: PutOptions) -> Result<PutResult> {
        self.up()?;
        // Asking the store what time it is takes one as well.
        if !path.as_ref().starts_with("probes/") {
            self.counts.puts.fetch_add(1, SeqCst);
        }
        if self.overwrite.load(SeqCst) {
            options.mode = PutMode::Overwrite;
        }
        let fault = lock(&self.puts).pop_front();
        let clock = *lock(&self.clock);
        if options.mode == PutMode::Overwrite || self.inner.head(path).await.is_err() {
            lock(&self.ahead).insert(path.clone(), clock);
        }
        match fault {
            None => self.inner.put_opts(path, payload, options).await,
            Some(PutFault::Refuse) => Err(failed()),
            Some(PutFault::LoseAnswer) => {
                let _ = self.inner.put_opts(path, payload, options).await;
                Err(failed())
            }
            Some(PutFault::Conflict) => {
                Err(Error::AlreadyExists { path: path.to_string(), source: "as requested".into() })
            }
        }
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.up()?;
        let inner = self.inner.put_multipart_opts(path, options).await?;
        let fault = lock(&self.puts).pop_front();
        Ok(Box::new(Upload { inner, counts: self.counts.clone(), fault }))
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        self.up()?;
        let head = options.head;
        self.counts.gets.fetch_add(1, SeqCst);
        let at_once = self.counts.gets_at_once.fetch_add(1, SeqCst) + 1;
        self.counts.most_gets_at_once.fetch_max(at_once, SeqCst);
        // The memory answers at once; a store that is asked for more meanwhile is what is to be seen.
        tokio::task::yield_now().await;
        let found = self.inner.get_opts(path, options).await;
        self.counts.gets_at_once.fetch_sub(1, SeqCst);
        let mut found = found?;
        self.stamp(&mut found.meta);
        let change = *lock(&self.change);
        if let (Some(change), false) = (change, head) {
            let (meta, range) = (found.meta.clone(), found.range.clone());
            let (attributes, extensions) = (found.attributes.clone(), found.extensions.clone());
            let bytes: Bytes = change(found.bytes().await?.to_vec()).into();
            let payload = GetResultPayload::Stream(futures_util::stream::iter([Ok(bytes)]).boxed());
            found = GetResult { payload, meta, range, attributes, extensions };
        }
        Ok(found)
    }

    async fn get_ranges(&self, path: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.up()?;
        self.inner.get_ranges(path, ranges).await
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        if let Err(error) = self.up() {
            return futures_util::stream::iter([Err(error)]).boxed();
        }
        self.counts.lists.fetch_add(1, SeqCst);
        if let Some(frozen) = &*lock(&self.list) {
            let below =
                |object: &ObjectMeta| prefix.is_none_or(|prefix| object.location.prefix_matches(prefix));
            let objects: Vec<_> = frozen.iter().filter(|object| below(object)).cloned().map(Ok).collect();
            return futures_util::stream::iter(objects).boxed();
        }
        let ahead = lock(&self.ahead).clone();
        let stamp = move |mut object: ObjectMeta| {
            object.last_modified += ahead.get(&object.location).copied().unwrap_or_default();
            object
        };
        let listing = self.inner.list(prefix).map_ok(stamp).boxed();
        let Some(gate) = lock(&self.gate).take() else { return listing };
        let held = async move {
            let objects: Vec<Result<ObjectMeta>> = listing.collect().await;
            gate.listed.add_permits(1);
            gate.go_on.acquire().await.expect("it is not closed").forget();
            futures_util::stream::iter(objects)
        };
        futures_util::stream::once(held).flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

#[derive(Debug)]
struct Upload {
    inner: Box<dyn MultipartUpload>,
    counts: Arc<Counts>,
    /// Of the completion.
    fault: Option<PutFault>,
}

#[async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, payload: PutPayload) -> UploadPart {
        let counts = self.counts.clone();
        counts.largest_part.fetch_max(payload.content_length(), SeqCst);
        let number = counts.parts.fetch_add(1, SeqCst) + 1;
        let at_once = counts.parts_at_once.fetch_add(1, SeqCst) + 1;
        counts.most_parts_at_once.fetch_max(at_once, SeqCst);
        let part = self.inner.put_part(payload);
        Box::pin(async move {
            let done = part.await;
            counts.parts_at_once.fetch_sub(1, SeqCst);
            if counts.failing_part.load(SeqCst) == number { Err(failed()) } else { done }
        })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        match self.fault {
            None => {
                self.counts.completed.fetch_add(1, SeqCst);
                self.inner.complete().await
            }
            Some(PutFault::LoseAnswer) => {
                let _ = self.inner.complete().await;
                Err(failed())
            }
            Some(_) => Err(failed()),
        }
    }

    async fn abort(&mut self) -> Result<()> {
        self.counts.aborted.fetch_add(1, SeqCst);
        self.inner.abort().await
    }
}
