//! The ledger: what was used, on disk, in files that only ever grow.
//!
//! Each start of a gateway writes files of its own, `INSTANCE.jsonl`, then `INSTANCE-0002.jsonl` and so on, one JSON line
//! for each tenant, model and outcome that moved since the last flush. A line holds what was added, so the sum of all
//! lines of all files is the usage, and the lines of an instance are numbered without a gap.
//!
//! After a crash what was used in the last second is missing, and the last line may be torn: it is dropped when it is
//! read. A full disk loses nothing as long as the process lives. Nor does one that cannot make durable what it took: what
//! a file holds after a failed fsync nobody knows, and asking once more only seems to succeed. Such a file is never written
//! again. The next one begins with the number that the failed flush began with, and stands for all that the files before it
//! say from there on. Nothing here protects against who can write the files.

mod newest;
mod read;

use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::{
    digest::hex,
    secret::{self, SecretError},
};

use super::{Figures, Key, Meter};

pub use newest::{Selection, newest};
pub use read::{ReadError, read};

/// How often what was used is written.
const INTERVAL: Duration = Duration::from_secs(1);

/// Bytes from which a new file is begun.
const MAX_FILE_BYTES: u64 = 64 << 20;

#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    #[error("the folder of the ledger cannot be made: {0}")]
    Folder(io::Error),
    #[error(transparent)]
    Random(#[from] SecretError),
}

/// One line of a file. Its calls were noted between `from` and `to`, in milliseconds since 1970.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Line {
    /// 1 for the first line of an instance.
    seq: u64,
    from: u64,
    to: u64,
    tenant: String,
    model: Option<String>,
    outcome: String,
    calls: u64,
    bytes_in: u64,
    bytes_out: u64,
    cpu_ns: u64,
    peak_memory: u64,
}

impl Line {
    fn new(seq: u64, key: &Key, figures: &Figures) -> Self {
        Self {
            seq,
            from: figures.first_ms,
            to: figures.last_ms,
            tenant: key.tenant.to_string(),
            model: key.model.as_ref().map(ToString::to_string),
            outcome: key.outcome.to_string(),
            calls: figures.calls,
            bytes_in: figures.bytes_in,
            bytes_out: figures.bytes_out,
            cpu_ns: figures.cpu_nanos,
            peak_memory: figures.peak_memory_bytes,
        }
    }
}

/// One write call: how many bytes it took.
type Write = fn(&mut File, &[u8]) -> io::Result<usize>;

/// Makes a file or a folder durable.
type Sync = fn(&File) -> io::Result<()>;

/// The ledger of this process.
#[derive(Debug)]
pub struct Ledger {
    folder: PathBuf,
    instance: String,
    /// The number of the last line that is durable.
    seq: u64,
    /// The number of the file, from 1; 0 before the first line.
    part: u32,
    file: Option<File>,
    /// Bytes of whole, durable flushes in the file.
    length: u64,
    /// There may be a part of a flush behind them.
    torn: bool,
    failing: bool,
    max_file_bytes: u64,
    write: Write,
    sync: Sync,
    sync_folder: Sync,
}

impl Ledger {
    /// A ledger in `folder`, which is made if need be. The first file appears with the first usage.
    pub fn open(folder: &Path) -> Result<Self, LedgerError> {
        let make = || {
            DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
            // So that the folder's own name survives a loss of power.
            folder.parent().map_or(Ok(()), |parent| durable(File::open(parent)?.sync_all()))
        };
        make().map_err(LedgerError::Folder)?;
        Ok(Self {
            folder: folder.to_owned(),
            instance: hex(&secret::random::<16>()?),
            seq: 0,
            part: 0,
            file: None,
            length: 0,
            torn: false,
            failing: false,
            max_file_bytes: MAX_FILE_BYTES,
            write: File::write,
            sync: File::sync_data,
            sync_folder: File::sync_all,
        })
    }

    /// Writes every second, and a last time when `stop` is used or dropped.
    pub async fn keep(mut self, meter: Arc<Meter>, mut stop: oneshot::Receiver<()>) {
        loop {
            let stopped = tokio::time::timeout(INTERVAL, &mut stop).await.is_ok();
            let meter = Arc::clone(&meter);
            let flushed = tokio::task::spawn_blocking(move || {
                self.flush(&meter);
                self
            });
            match flushed.await {
                Ok(ledger) if !stopped => self = ledger,
                Ok(_) => return,
                Err(error) => return tracing::error!(%error, "the ledger is no longer written"),
            }
        }
    }

    /// Writes what moved since the last time. What cannot be written stays with the meter until the next time.
    pub fn flush(&mut self, meter: &Meter) {
        let moved = meter.take_moved();
        if moved.is_empty() {
            return;
        }
        match self.append(&moved) {
            Ok(()) if self.failing => {
                self.failing = false;
                tracing::info!("the ledger is written again; nothing was lost");
            }
            Ok(()) => {}
            Err(error) => {
                if !self.failing {
                    tracing::warn!(%error, "the ledger cannot be written: usage is kept in memory until it can");
                }
                self.failing = true;
                meter.put_back(moved);
            }
        }
    }

    fn append(&mut self, moved: &BTreeMap<Key, Figures>) -> io::Result<()> {
        let mut lines = Vec::new();
        let mut seq = self.seq;
        for (key, figures) in moved {
            seq += 1;
            serde_json::to_writer(&mut lines, &Line::new(seq, key, figures))?;
            lines.push(b'\n');
        }
        let write = self.write;
        let file = self.current_file()?;
        let written = loop {
            match write(file, &lines) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                written => break written?,
            }
        };
        if written < lines.len() {
            self.torn = true;
            // Best done at once, or a crash leaves what is then written again; but it is tried again before the next write.
            let _ = self.mend();
            return Err(io::Error::new(
                io::ErrorKind::WriteZero,
                format!("only {written} of {} bytes were written", lines.len()),
            ));
        }
        let synced = self.file.as_ref().map_or(Ok(()), |file| durable((self.sync)(file)));
        if let Err(error) = synced {
            self.abandon();
            return Err(error);
        }
        self.seq = seq;
        self.length += lines.len() as u64;
        Ok(())
    }

    /// The file that the next flush goes to, which ends with a whole one.
    fn current_file(&mut self) -> io::Result<&mut File> {
        self.mend()?;
        if self.file.is_none() || self.length >= self.max_file_bytes {
            let part = self.part + 1;
            let open = OpenOptions::new().append(true).create_new(true).mode(0o600).open(self.path(part));
            (self.file, self.part, self.length) = (Some(open?), part, 0);
            // So that the file's name survives a loss of power too.
            let synced = File::open(&self.folder).and_then(|folder| durable((self.sync_folder)(&folder)));
            if let Err(error) = synced {
                self.abandon();
                return Err(error);
            }
        }
        self.file.as_mut().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn path(&self, part: u32) -> PathBuf {
        self.folder.join(match part {
            1 => format!("{}.jsonl", self.instance),
            _ => format!("{}-{part:04}.jsonl", self.instance),
        })
    }

    /// Leaves a file of which it is not known what it holds. It goes if nothing in it is durable: a disk that goes on failing
    /// must not fill up with such files.
    fn abandon(&mut self) {
        (self.file, self.torn) = (None, false);
        if self.length == 0 && fs::remove_file(self.path(self.part)).is_ok() {
            self.part -= 1;
        }
    }

    /// Cuts off the part of a flush that the disk had room for.
    fn mend(&mut self) -> io::Result<()> {
        if let Some(file) = self.file.as_ref().filter(|_| self.torn) {
            file.set_len(self.length)?;
        }
        self.torn = false;
        Ok(())
    }
}

/// What came of making something durable. A file system that has no such thing is not asked for it.
fn durable(synced: io::Result<()>) -> io::Result<()> {
    match synced {
        Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => {
            Ok(())
        }
        synced => synced,
    }
}

#[cfg(test)]
mod tests;
