//! Compiled code on disk, so that a model that was compiled once is not compiled again.
//!
//! What comes out of here is run as machine code, so a file counts only with a tag (HMAC-SHA256) under the gateway's own secret,
//! over all that the code was made from and the code itself. Whatever else lies in the folder is removed and the model compiled
//! again. This does not protect against who can read the gateway's files and with them its secret.

use std::{
    fs::{self, File, OpenOptions},
    hash::Hash,
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use wasmtime::Engine;

use crate::{
    digest::{Digest, Hasher, hex},
    execute::{
        Report, Source,
        worker::{open_regular, private_folder},
    },
    limits::SandboxLimits,
    name::TenantName,
    secret::{self, LENGTH},
};

use super::{artifact::Prepared, prepare::Settings};

/// Of the file, and of all that goes into a key; code of another version of the gateway may start from another state.
const FORMAT: &str = concat!("airlock compiled code 1, ", env!("CARGO_PKG_VERSION"));

/// Between the tag and the report.
const PREFIX: usize = 4;

/// Files under construction; one this old was left by a gateway that was killed.
const UNFINISHED: &str = ".new-";
const ABANDONED: Duration = Duration::from_secs(3600);

/// A folder of compiled code, bounded in size: what was used longest ago goes first.
#[derive(Debug)]
pub struct Cache {
    folder: PathBuf,
    key: secret::Key,
    max_bytes: u64,
    /// Held while files are weighed and removed.
    pruning: Mutex<()>,
}

impl Cache {
    /// Uses a folder, which is made if need be; `key` is the gateway's own for
    /// [`CompiledCode`](crate::secret::Purpose::CompiledCode).
    ///
    /// # Errors
    /// If the folder cannot be made, belongs to another user, or others may write into it.
    pub fn open(folder: PathBuf, key: secret::Key, max_bytes: usize) -> io::Result<Self> {
        private_folder(&folder)?;
        Ok(Self { folder, key, max_bytes: max_bytes as u64, pruning: Mutex::new(()) })
    }

    /// The code under a key, if it is there and unaltered.
    pub(super) fn get(&self, key: &Digest) -> Option<Prepared> {
        let path = self.path(key);
        match self.read(&path, key) {
            Ok(prepared) => Some(prepared),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                tracing::warn!(file = %path.display(), "cached code is not used but removed: {error}");
                let _ = fs::remove_file(&path);
                None
            }
        }
    }

    fn read(&self, path: &Path, key: &Digest) -> io::Result<Prepared> {
        let (file, metadata) = open_regular(path)?;
        if metadata.len() > self.max_bytes {
            return Err(io::Error::other("it is larger than the whole cache may be"));
        }
        // Into memory as a whole, checked there and used from there: the file may change or go meanwhile.
        let mut bytes = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or_default());
        (&file).take(self.max_bytes).read_to_end(&mut bytes)?;
        let damaged = || io::Error::other("its tag is not valid");
        let (tag, body) = bytes.split_first_chunk::<LENGTH>().ok_or_else(damaged)?;
        if !self.key.verify(&[key.as_bytes(), body], tag) {
            return Err(damaged());
        }
        let (length, rest) = body.split_first_chunk::<PREFIX>().ok_or_else(damaged)?;
        let (report, code) =
            rest.split_at_checked(u32::from_le_bytes(*length) as usize).ok_or_else(damaged)?;
        let report: Report = serde_json::from_slice(report)?;
        let prepared = Prepared::trusted(report, code.to_vec());
        // For the order in which files go; that it cannot be noted is no reason not to use this one.
        let _ = file.set_modified(SystemTime::now());
        Ok(prepared)
    }

    /// Keeps code for the next start. That it cannot is told in the log and harms nobody.
    pub(super) fn put(&self, key: &Digest, prepared: &Prepared) {
        if let Err(error) = self.write(key, prepared) {
            tracing::warn!(folder = %self.folder.display(), "compiled code cannot be kept: {error}");
        }
    }

    fn write(&self, key: &Digest, prepared: &Prepared) -> io::Result<()> {
        let report = serde_json::to_vec(&prepared.report)?;
        let length = u32::try_from(report.len()).map_err(io::Error::other)?;
        let mut body = Vec::with_capacity(PREFIX + report.len() + prepared.code().len());
        body.extend_from_slice(&length.to_le_bytes());
        body.extend_from_slice(&report);
        body.extend_from_slice(prepared.code());
        let bytes = (LENGTH + body.len()) as u64;
        if bytes > self.max_bytes {
            return Err(io::Error::other(format!(
                "{bytes} bytes are more than the {} of the cache",
                self.max_bytes
            )));
        }
        let tag = self.key.tag(&[key.as_bytes(), &body]);
        let random = secret::random::<8>().map_err(io::Error::other)?;
        let unfinished = self.folder.join(format!("{UNFINISHED}{}", hex(&random)));
        let write = || {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
            file.write_all(&tag)?;
            file.write_all(&body)?;
            file.sync_all()?;
            fs::rename(&unfinished, self.path(key))?;
            File::open(&self.folder)?.sync_all()
        };
        let written = write();
        if written.is_err() {
            let _ = fs::remove_file(&unfinished);
        }
        written.and_then(|()| self.prune())
    }

    /// Removes what was used longest ago until the rest is within bounds.
    fn prune(&self) -> io::Result<()> {
        let _pruning = self.pruning.lock().unwrap_or_else(PoisonError::into_inner);
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let Ok(metadata) = entry.metadata() else { continue };
            let used = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            if !entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
                files.push((used, metadata.len(), entry.path()));
            } else if used.elapsed().is_ok_and(|age| age > ABANDONED) {
                let _ = fs::remove_file(entry.path());
            }
        }
        files.sort();
        let mut total: u64 = files.iter().map(|(_, bytes, _)| bytes).sum();
        for (_, bytes, path) in files {
            if total <= self.max_bytes {
                break;
            }
            fs::remove_file(&path)?;
            total -= bytes;
        }
        Ok(())
    }

    fn path(&self, key: &Digest) -> PathBuf {
        self.folder.join(key.hex())
    }
}

/// Digest of everything that compiled code depends on: the source, the engine with its settings and the processor's
/// features, and the limits under which `load` ran; and of whose it is. `None` if that cannot be told, which then is not cached.
pub(super) fn key(engine: &Engine, settings: &Settings, source: &Source) -> Option<Digest> {
    // These say how much is served, not what.
    let limits = SandboxLimits {
        max_instances: 0,
        threads: 0,
        log_bytes: 0,
        warm_bytes: 0,
        ..settings.limits.clone()
    };
    let files: Vec<(&str, Digest)> =
        source.files.iter().map(|(name, bytes)| (name.as_str(), Digest::of(bytes))).collect();
    let made_from = (
        FORMAT,
        Digest::of(&source.artifact),
        files,
        &source.parameters,
        source.limits,
        source.owner.as_ref().map(TenantName::as_str),
        settings.memories,
        limits,
        // What else decides what becomes of an ONNX file.
        source.artifact_is_plugin.then_some((&source.declared_inputs, source.untrusted)),
    );
    let mut parts = Parts::default();
    parts.0.update(&serde_json::to_vec(&made_from).ok()?);
    engine.precompile_compatibility_hash().hash(&mut parts);
    Some(parts.0.finish())
}

/// Takes what is hashed into a SHA-256 digest: the hash itself has 64 bits only.
#[derive(Default)]
struct Parts(Hasher);

impl std::hash::Hasher for Parts {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        0
    }
}

#[cfg(test)]
mod tests;
