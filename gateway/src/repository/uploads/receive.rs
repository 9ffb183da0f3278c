//! Receiving: an upload's bytes on their way to disk, hashed as they come, never whole in memory.

use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use tokio::io::AsyncWriteExt;

use crate::{
    digest::Hasher,
    execute::{LoadError, Step},
    repository::Kind,
};

use super::{
    UploadError,
    records::{Blob, ConfigText},
};

/// Files beside the artifact.
const MAX_FILES: usize = 64;

/// Bytes of a sample request.
pub const MAX_TEXT: usize = 1 << 20;

/// Bytes of a configuration, and of a model's settings: parsing them takes time that grows faster than they do.
pub const MAX_CONFIG: usize = 64 << 10;

/// A folder that is removed with all that is in it.
#[derive(Debug)]
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!(error = %error.kind(), "a staging folder could not be removed");
        }
    }
}

/// An upload as it is received. What it holds on disk is gone when it is dropped.
#[derive(Debug)]
pub struct Staged {
    folder: Folder,
    left: u64,
    limit: u64,
    artifact: Option<StagedFile>,
    files: Vec<(String, StagedFile)>,
    pub config: Option<ConfigText>,
    /// A request for a first call of the version, as JSON.
    pub sample: Option<Bytes>,
}

/// One file of an upload, whole.
#[derive(Clone, Debug)]
pub struct StagedFile {
    pub path: PathBuf,
    pub blob: Blob,
}

/// What part of an upload some bytes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    Artifact,
    /// What lies beside it, by name.
    File(String),
}

impl Staged {
    /// An empty folder for an upload of at most `limit` bytes.
    pub fn begin(staging: &Path, limit: u64) -> Result<Self, UploadError> {
        let name = crate::digest::hex(
            &crate::secret::random::<16>().map_err(|_| UploadError::Disk("no random name".into()))?,
        );
        let path = staging.join(name);
        fs::create_dir(&path).map_err(|error| disk(&error))?;
        Ok(Self {
            folder: Folder(path),
            left: limit,
            limit,
            artifact: None,
            files: Vec::new(),
            config: None,
            sample: None,
        })
    }

    /// Where its files are until it is dropped.
    pub fn folder(&self) -> &Path {
        &self.folder.0
    }

    /// Begins a file. It counts only once [`Staged::finish`] was told of its end.
    pub async fn open(&self, part: Part) -> Result<Writing, UploadError> {
        match &part {
            Part::Artifact if self.artifact.is_some() => {
                return Err(UploadError::Form("the artifact is there twice".into()));
            }
            Part::File(name) => self.check_name(name)?,
            Part::Artifact => {}
        }
        // Never the client's own name: what is on disk here is named by us.
        let path = self.folder.0.join(format!("{}", self.files.len() + usize::from(self.artifact.is_some())));
        let file = tokio::fs::File::create_new(&path).await.map_err(|error| disk(&error))?;
        Ok(Writing { part, path, file, hasher: Hasher::default(), size: 0 })
    }

    fn check_name(&self, name: &str) -> Result<(), UploadError> {
        let shown: String = name.chars().take(64).collect();
        let sound = !name.is_empty()
            && name.len() <= 128
            && !name.starts_with('.')
            && !name.contains(['/', '\\'])
            && !name.chars().any(char::is_control);
        if !sound {
            return Err(UploadError::Form(format!(
                "{shown:?} cannot be a file's name: 1 to 128 bytes without slashes, not hidden"
            )));
        }
        if self.files.iter().any(|(other, _)| other == name) {
            return Err(UploadError::Form(format!("the file {shown:?} is there twice")));
        }
        if self.files.len() == MAX_FILES {
            return Err(UploadError::Form(format!("at most {MAX_FILES} files may lie beside the artifact")));
        }
        Ok(())
    }

    /// Takes a piece of a file.
    pub async fn write(&mut self, writing: &mut Writing, piece: &[u8]) -> Result<(), UploadError> {
        let bytes = piece.len() as u64;
        self.left = self.left.checked_sub(bytes).ok_or(UploadError::TooLarge { limit: self.limit })?;
        writing.hasher.update(piece);
        writing.size += bytes;
        writing.file.write_all(piece).await.map_err(|error| disk(&error))
    }

    pub async fn finish(&mut self, mut writing: Writing) -> Result<(), UploadError> {
        writing.file.flush().await.map_err(|error| disk(&error))?;
        let blob = Blob { digest: writing.hasher.finish(), size: writing.size };
        let file = StagedFile { path: writing.path, blob };
        match writing.part {
            Part::Artifact => self.artifact = Some(file),
            Part::File(name) => self.files.push((name, file)),
        }
        Ok(())
    }

    /// The upload as a whole: its artifact, of what kind it is by its bytes, and the other files by name.
    pub(super) fn complete(&mut self) -> Result<Complete, UploadError> {
        let artifact = self
            .artifact
            .clone()
            .filter(|file| file.blob.size > 0)
            .ok_or_else(|| UploadError::Form("the artifact is empty or missing".into()))?;
        let kind = kind(&artifact.path)?;
        self.files.sort_by(|(one, _), (other, _)| one.cmp(other));
        if kind == Kind::Onnx && !self.files.is_empty() {
            return Err(UploadError::Form(
                "an ONNX model is one file: external data is not supported, keep the weights inside".into(),
            ));
        }
        Ok(Complete { kind, artifact, files: self.files.clone() })
    }
}

/// A file that is being received.
#[derive(Debug)]
pub struct Writing {
    part: Part,
    path: PathBuf,
    file: tokio::fs::File,
    hasher: Hasher,
    size: u64,
}

/// A whole upload.
#[derive(Debug)]
pub(super) struct Complete {
    pub(super) kind: Kind,
    pub(super) artifact: StagedFile,
    pub(super) files: Vec<(String, StagedFile)>,
}

fn disk(error: &io::Error) -> UploadError {
    UploadError::Disk(error.kind().to_string())
}

/// What an artifact is, by its first bytes; what a client calls it does not count.
fn kind(path: &Path) -> Result<Kind, UploadError> {
    let mut head = Vec::new();
    let file = fs::File::open(path).map_err(|error| disk(&error))?;
    file.take(8).read_to_end(&mut head).map_err(|error| disk(&error))?;
    kind_of(&head).map_err(|reason| UploadError::Rejected(LoadError::new(Step::Check, reason)))
}

fn kind_of(head: &[u8]) -> Result<Kind, &'static str> {
    /// The first tag of an ONNX ModelProto: field numbers 1 to 8 and 14 with their wire types, 20 and 25 by their first byte.
    const MODEL_PROTO: [u8; 11] = [0x08, 0x12, 0x1a, 0x22, 0x28, 0x32, 0x3a, 0x42, 0x72, 0xa2, 0xca];
    match head {
        [b'\0', b'a', b's', b'm', ..] => Ok(Kind::Wasm),
        [0x7f, b'E', b'L', b'F', ..] => {
            Err("compiled code is not accepted: upload the WebAssembly it was compiled from")
        }
        [b'(', ..] => Err("WebAssembly text is not accepted: upload the binary form"),
        [b'P', b'K', ..] | [0x1f, 0x8b, ..] => {
            Err("archives are not accepted: upload the artifact itself, further files as multipart/form-data")
        }
        [first, ..] if MODEL_PROTO.contains(first) => Ok(Kind::Onnx),
        _ => Err("it is neither a WebAssembly binary (\\0asm) nor an ONNX model (a protobuf ModelProto)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

    #[test]
    fn the_kind_is_found_from_the_bytes() {
        assert_eq!(kind_of(b"\0asm\x0d\0\x01\0"), Ok(Kind::Wasm));
        assert_eq!(kind_of(b"\0asm\x01\0\0\0"), Ok(Kind::Wasm));
        assert_eq!(kind_of(&[0x08, 0x08, 0x12]), Ok(Kind::Onnx));
        for head in [&b""[..], b"\x7fELF\x02", b"(module)", b"PK\x03\x04", b"\x1f\x8b", b"hello", b"\xff"] {
            assert!(kind_of(head).is_err(), "{head:?}");
        }
    }

    #[tokio::test]
    async fn what_is_received_is_bounded_and_gone_with_its_folder() {
        let staging = tempfile::tempdir().expect("a temporary folder");
        let mut staged = Staged::begin(staging.path(), 10).expect("a folder");
        let mut writing = staged.open(Part::Artifact).await.expect("a file");
        staged.write(&mut writing, b"\0asm").await.expect("room");
        let more = staged.write(&mut writing, b"1234567").await;
        assert!(matches!(more, Err(UploadError::TooLarge { limit: 10 })), "{more:?}");
        staged.finish(writing).await.expect("a file");
        let complete = staged.complete().expect("an artifact");
        assert_eq!(complete.artifact.blob.digest, Digest::of(b"\0asm"));
        drop(staged);
        assert_eq!(fs::read_dir(staging.path()).expect("the folder").count(), 0);
    }

    #[tokio::test]
    async fn names_cannot_lead_anywhere() {
        let staging = tempfile::tempdir().expect("a temporary folder");
        let staged = Staged::begin(staging.path(), 10).expect("a folder");
        for name in ["", ".", "..", "../x", "a/b", "a\\b", "a\0", ".hidden", "a\n", &"x".repeat(129)] {
            let opened = staged.open(Part::File(name.to_owned())).await;
            assert!(matches!(opened, Err(UploadError::Form(_))), "{name:?}");
        }
        assert!(staged.open(Part::File("labels.txt".into())).await.is_ok());
    }
}
