//! What lies on disk: what a version is loaded from, and what tells that it changed.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs::{self, File, Metadata},
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::Path,
};

use crate::{
    execute::{LoadError, Source, Step},
    limits::Limits,
    name::{ModelName, Version},
};

use super::{Kind, file::SingleFile, folder::Folder, model_config::ModelConfig};

/// Where the models are: one file, or a folder in Triton's layout. All methods block.
#[derive(Debug)]
pub(super) enum Disk {
    None,
    File(SingleFile),
    Folder(Folder),
}

/// Bytes that may be read into memory for one version.
#[derive(Clone, Copy, Debug)]
pub(super) struct ReadLimits {
    pub(super) wasm: u64,
    pub(super) onnx: u64,
    /// All files beside `model.wasm` together.
    pub(super) files: u64,
}

impl From<&Limits> for ReadLimits {
    fn from(limits: &Limits) -> Self {
        let bytes = |size: usize| u64::try_from(size).unwrap_or(u64::MAX);
        Self {
            wasm: bytes(limits.sandbox.max_artifact_bytes),
            onnx: bytes(limits.native.max_artifact_bytes),
            files: bytes(limits.sandbox.max_file_bytes),
        }
    }
}

impl ReadLimits {
    pub(super) fn artifact(self, kind: Kind) -> u64 {
        match kind {
            Kind::Wasm => self.wasm,
            Kind::Onnx => self.onnx,
        }
    }
}

/// All models on disk at one moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Survey {
    pub(super) models: BTreeMap<ModelName, Observation>,
    /// What lies among the models and is none, with the reason.
    pub(super) ignored: Vec<String>,
}

/// A model's files at one moment. Two equal observations mean: nothing was written in between that size, time of
/// modification and time of change would tell.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Observation {
    /// Why the model's folder cannot be read.
    pub(super) problem: Option<String>,
    /// The regular files beside the versions, of which the configuration and what it names count for all of them.
    pub(super) config: Stamp,
    pub(super) versions: BTreeMap<Version, Stamp>,
    /// What lies among the versions and is none, with the reason.
    pub(super) ignored: Vec<String>,
}

/// The files of one folder, by name.
pub(super) type Stamp = BTreeMap<OsString, FileStamp>;

#[derive(Clone, Debug, PartialEq)]
pub(super) enum FileStamp {
    Regular {
        size: u64,
        modified: (i64, i64),
        changed: (i64, i64),
    },
    Folder,
    /// Neither, or not to be reached.
    Other,
}

impl FileStamp {
    /// Follows symbolic links, so that one that is turned elsewhere counts as a change.
    pub(super) fn of(path: &Path) -> Self {
        fs::metadata(path).map_or(Self::Other, |metadata| Self::from(&metadata))
    }
}

impl From<&Metadata> for FileStamp {
    fn from(metadata: &Metadata) -> Self {
        if metadata.is_dir() {
            Self::Folder
        } else if metadata.is_file() {
            Self::Regular {
                size: metadata.len(),
                modified: (metadata.mtime(), metadata.mtime_nsec()),
                changed: (metadata.ctime(), metadata.ctime_nsec()),
            }
        } else {
            Self::Other
        }
    }
}

/// What a version is loaded from.
#[derive(Debug)]
pub(super) struct Loadable {
    pub(super) kind: Kind,
    pub(super) source: Source,
    /// Files that were left out, with the reason.
    pub(super) ignored: Vec<String>,
}

impl Disk {
    pub(super) fn survey(&self) -> io::Result<Survey> {
        match self {
            Self::None => Ok(Survey::default()),
            Self::File(file) => Ok(file.survey()),
            Self::Folder(folder) => folder.survey(),
        }
    }

    /// `None` if there is no such model.
    pub(super) fn observe(&self, model: &ModelName) -> io::Result<Option<Observation>> {
        match self {
            Self::None => Ok(None),
            Self::File(file) => Ok(file.observe(model)),
            Self::Folder(folder) => folder.observe(model),
        }
    }

    pub(super) fn config(&self, model: &ModelName) -> Result<ModelConfig, String> {
        match self {
            Self::None | Self::File(_) => Ok(ModelConfig::default()),
            Self::Folder(folder) => folder.config(model),
        }
    }

    /// Reads a file that lies beside the versions and that the configuration names.
    pub(super) fn beside(&self, model: &ModelName, file: &str, limit: u64) -> Result<Vec<u8>, String> {
        match self {
            Self::None | Self::File(_) => Err("there is no folder of the model".into()),
            Self::Folder(folder) => folder.beside(model, file, limit),
        }
    }

    /// Reads all that a version is loaded from into memory.
    pub(super) fn read(
        &self,
        model: &ModelName,
        version: &Version,
        config: &ModelConfig,
    ) -> Result<Loadable, LoadError> {
        let mut read = match self {
            Self::None => Err("there is no model repository".into()),
            Self::File(file) => file.read(),
            Self::Folder(folder) => folder.read(model, version, config),
        }
        .map_err(|reason| LoadError::new(Step::Read, reason))?;
        read.source.label = format!("{model}/{version}");
        read.source.parameters = config.parameters.clone();
        read.source.declared_inputs = config.inputs.clone();
        read.source.batching = config.batching();
        read.source.limits = config.limits;
        read.source.isolation = config.isolation;
        read.source.engine = config.engine;
        Ok(read)
    }
}

/// Reads a regular file of at most `limit` bytes. Anything else is not even opened: opening a FIFO would wait for a
/// writer. (Somebody who may write into the repository could still exchange the file right after that check.)
pub(super) fn read_file(path: &Path, label: &str, limit: u64) -> Result<Vec<u8>, String> {
    let failed = |error: io::Error| format!("{label} cannot be read: {}", error.kind());
    let metadata = fs::metadata(path).map_err(failed)?;
    if !metadata.is_file() {
        return Err(format!("{label} is not a regular file"));
    }
    let too_large = |size: u64| format!("{label} has {size} bytes, at most {limit} are allowed");
    if metadata.len() > limit {
        return Err(too_large(metadata.len()));
    }
    let mut bytes = Vec::new();
    if usize::try_from(metadata.len()).is_ok_and(|size| bytes.try_reserve_exact(size).is_ok()) {
        File::open(path)
            .and_then(|file| file.take(limit.saturating_add(1)).read_to_end(&mut bytes))
            .map_err(failed)?;
    } else {
        return Err(format!("there is no memory for the {} bytes of {label}", metadata.len()));
    }
    match u64::try_from(bytes.len()) {
        Ok(size) if size <= limit => Ok(bytes),
        _ => Err(format!("{label} grew past {limit} bytes while it was read")),
    }
}
