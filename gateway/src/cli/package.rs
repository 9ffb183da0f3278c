//! What is pushed: one artifact, or a folder of files as `multipart/form-data`. Read piece by piece, twice: once for the
//! digest that is announced, once to be sent.

use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, bail};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use futures_util::Stream;
use tokio::io::AsyncReadExt;

use crate::digest::{Hasher, hex};

/// Bytes that are read and sent at a time.
const PIECE: usize = 128 << 10;

const ARTIFACTS: [&str; 2] = ["model.wasm", "model.onnx"];
const CONFIGS: [&str; 2] = ["model.toml", "config.pbtxt"];

/// An upload's body.
pub(super) struct Package {
    /// The model's name, as the file or folder suggests it.
    pub(super) name: Option<String>,
    pub(super) content_type: String,
    parts: Vec<Part>,
}

#[derive(Clone, Debug)]
enum Part {
    Text(Bytes),
    File { path: PathBuf, length: u64 },
}

impl Package {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let shown = path.display();
        let metadata = fs::metadata(path).with_context(|| format!("cannot read {shown}"))?;
        if metadata.is_dir() {
            return Self::folder(path);
        }
        if !metadata.is_file() {
            bail!("{shown} is neither a file nor a folder");
        }
        let name = path.file_stem().and_then(|stem| stem.to_str()).map(str::to_owned);
        let part = Part::File { path: path.to_owned(), length: metadata.len() };
        Ok(Self { name, content_type: "application/octet-stream".to_owned(), parts: vec![part] })
    }

    /// A version's folder: `model.wasm` or `model.onnx`, at most one configuration, and whatever else the model reads.
    fn folder(path: &Path) -> Result<Self> {
        let shown = path.display();
        let mut files = Vec::new();
        for entry in fs::read_dir(path).with_context(|| format!("cannot read {shown}"))? {
            let path = entry.with_context(|| format!("cannot read {shown}"))?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            let Some(name) =
                name.filter(|name| !name.contains(['"', '\\']) && !name.contains(char::is_control))
            else {
                bail!("{path:?} has a name that cannot be sent: rename it");
            };
            // Editors and version control leave such files; no model can ask for them.
            if name.starts_with('.') {
                continue;
            }
            let metadata = fs::metadata(&path).with_context(|| format!("cannot read {}", path.display()))?;
            if !metadata.is_file() {
                bail!(
                    "{} is no file; push the folder of one version, with model.wasm or model.onnx and the files beside it",
                    path.display()
                );
            }
            files.push((name.to_owned(), path, metadata.len()));
        }
        files.sort();
        for (names, what) in [(ARTIFACTS, "artifact"), (CONFIGS, "configuration")] {
            if names.iter().all(|name| files.iter().any(|(file, ..)| file == name)) {
                bail!("{shown} has two of one kind, {} and {}: one {what} is enough", names[0], names[1]);
            }
        }
        if !files.iter().any(|(name, ..)| ARTIFACTS.contains(&name.as_str())) {
            bail!("{shown} has neither model.wasm nor model.onnx");
        }
        let random = crate::secret::random::<16>().context("the boundary of the body")?;
        let boundary = format!("airlock-{}", hex(&random));
        let mut parts = Vec::new();
        for (name, path, length) in files {
            let head = match name.as_str() {
                name if ARTIFACTS.contains(&name) => format!("name=\"artifact\"; filename=\"{name}\""),
                name if CONFIGS.contains(&name) => format!("name=\"config\"; filename=\"{name}\""),
                name => format!("name=\"file\"; filename=\"{name}\""),
            };
            let line = if parts.is_empty() { "" } else { "\r\n" };
            parts.push(Part::Text(
                format!("{line}--{boundary}\r\nContent-Disposition: form-data; {head}\r\n\r\n").into(),
            ));
            parts.push(Part::File { path, length });
        }
        parts.push(Part::Text(format!("\r\n--{boundary}--\r\n").into()));
        // `.` has no name of its own.
        let name = fs::canonicalize(path).ok().and_then(|path| path.file_name()?.to_str().map(str::to_owned));
        // In Triton's layout that is a version, which makes a poor name.
        let name = name.filter(|name| !name.bytes().all(|byte| byte.is_ascii_digit()));
        Ok(Self { name, content_type: format!("multipart/form-data; boundary={boundary}"), parts })
    }

    /// Bytes of the whole body.
    pub(super) fn length(&self) -> u64 {
        let length = |part: &Part| match part {
            Part::Text(text) => text.len() as u64,
            Part::File { length, .. } => *length,
        };
        self.parts.iter().map(length).sum()
    }

    /// The body's `Content-Digest` (RFC 9530), by which the gateway notices what was altered on its way.
    pub(super) fn content_digest(&self) -> Result<String> {
        let mut hasher = Hasher::default();
        let mut piece = vec![0; PIECE];
        for part in &self.parts {
            match part {
                Part::Text(text) => hasher.update(text),
                Part::File { path, length } => {
                    let failed = || format!("cannot read {}", path.display());
                    let mut left = fs::File::open(path).with_context(failed)?.take(*length);
                    loop {
                        match left.read(&mut piece).with_context(failed)? {
                            0 => break,
                            read => hasher.update(&piece[..read]),
                        }
                    }
                }
            }
        }
        Ok(format!("sha-256=:{}:", BASE64_STANDARD.encode(hasher.finish().as_bytes())))
    }

    /// The body, as it is sent after a pause; `sent` counts along.
    pub(super) fn stream(
        &self,
        pause: Duration,
        sent: Arc<AtomicU64>,
    ) -> impl Stream<Item = io::Result<Bytes>> + use<> {
        let pieces = Pieces { pause: Some(pause), parts: self.parts.clone().into_iter(), file: None };
        futures_util::stream::try_unfold((pieces, sent), |(mut pieces, sent)| async move {
            let Some(piece) = pieces.next().await? else { return Ok(None) };
            sent.fetch_add(piece.len() as u64, Ordering::Relaxed);
            Ok(Some((piece, (pieces, sent))))
        })
    }
}

/// A body on its way.
struct Pieces {
    pause: Option<Duration>,
    parts: std::vec::IntoIter<Part>,
    /// The file that is being read, and how much of it is left.
    file: Option<(tokio::fs::File, u64)>,
}

impl Pieces {
    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        if let Some(pause) = self.pause.take() {
            tokio::time::sleep(pause).await;
        }
        loop {
            if let Some((file, left)) = self.file.as_mut().filter(|(_, left)| *left > 0) {
                let mut piece = bytes::BytesMut::with_capacity(PIECE);
                let read = file.take(*left).read_buf(&mut piece).await?;
                if read == 0 {
                    return Err(io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        "a file became shorter while it was sent",
                    ));
                }
                *left = left.saturating_sub(read as u64);
                return Ok(Some(piece.freeze()));
            }
            match self.parts.next() {
                None => return Ok(None),
                Some(Part::Text(text)) => return Ok(Some(text)),
                Some(Part::File { path, length }) => {
                    self.file = Some((tokio::fs::File::open(path).await?, length));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;

    use super::*;
    use crate::digest::Digest;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for (name, text) in files {
            fs::write(folder.path().join(name), text).expect("a writable folder");
        }
        folder
    }

    async fn sent(package: &Package) -> Vec<u8> {
        let count = Arc::new(AtomicU64::new(0));
        let pieces = package.stream(Duration::ZERO, Arc::clone(&count)).collect::<Vec<_>>().await;
        let body = pieces.into_iter().map(|piece| piece.expect("a piece")).collect::<Vec<_>>().concat();
        assert_eq!((body.len() as u64, count.load(Ordering::Relaxed)), (package.length(), package.length()));
        let digest = Digest::from_content_digest(&package.content_digest().expect("a digest"));
        assert_eq!(digest, Ok(Digest::of(&body)));
        body
    }

    #[tokio::test]
    async fn a_file_is_sent_as_it_is() {
        let large = "x".repeat(3 * PIECE + 1);
        let folder = folder(&[("iris.wasm", &large), ("empty.onnx", "")]);
        let package = Package::open(&folder.path().join("iris.wasm")).expect("a package");
        assert_eq!(package.name.as_deref(), Some("iris"));
        assert_eq!(sent(&package).await, large.as_bytes());
        let package = Package::open(&folder.path().join("empty.onnx")).expect("a package");
        assert_eq!(sent(&package).await, b"");
    }

    #[tokio::test]
    async fn a_folder_is_sent_in_parts() {
        let folder = folder(&[
            ("model.wasm", "code"),
            ("config.pbtxt", "text"),
            ("weights.bin", ""),
            (".hidden", "not sent"),
        ]);
        let package = Package::open(folder.path()).expect("a package");
        let boundary = multer::parse_boundary(&package.content_type).expect("a boundary");
        let body = sent(&package).await;
        let stream = futures_util::stream::iter([Ok::<_, io::Error>(Bytes::from(body))]);
        let mut parts = multer::Multipart::new(stream, boundary);
        let mut found = Vec::new();
        while let Some(part) = parts.next_field().await.expect("a part") {
            let name = format!("{} {}", part.name().expect("a name"), part.file_name().expect("a file name"));
            found.push((name, part.text().await.expect("text")));
        }
        let expected =
            [("config config.pbtxt", "text"), ("artifact model.wasm", "code"), ("file weights.bin", "")];
        assert_eq!(found, expected.map(|(name, text)| (name.to_owned(), text.to_owned())));
    }

    #[tokio::test]
    async fn a_file_that_shrinks_is_noticed() {
        let folder = folder(&[("a.wasm", "long enough")]);
        let path = folder.path().join("a.wasm");
        let package = Package::open(&path).expect("a package");
        fs::write(&path, "short").expect("a writable folder");
        let pieces = package.stream(Duration::ZERO, Arc::default()).collect::<Vec<_>>().await;
        assert!(pieces.last().expect("pieces").is_err());
    }

    #[test]
    fn folders_that_are_no_version_are_refused() {
        for (files, part) in [
            (&[][..], "neither model.wasm nor model.onnx"),
            (&[("model.wasm", ""), ("model.onnx", "")], "one artifact is enough"),
            (&[("model.wasm", ""), ("model.toml", ""), ("config.pbtxt", "")], "one configuration is enough"),
            (&[("model.wasm", ""), ("a\"b", "")], "rename it"),
        ] {
            let folder = folder(files);
            let error = Package::open(folder.path()).err().expect("a refusal").to_string();
            assert!(error.contains(part), "{error}");
        }
        let folder = folder(&[("model.wasm", "")]);
        fs::create_dir(folder.path().join("1")).expect("a folder");
        assert!(Package::open(folder.path()).is_err());
        assert!(Package::open(&folder.path().join("1")).is_err());
        assert!(Package::open(&folder.path().join("missing")).is_err());
        assert!(Package::open(Path::new("/dev/null")).is_err());
    }
}
