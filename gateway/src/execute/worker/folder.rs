//! A private folder for one worker, and reading files that somebody else may have put there.

use std::{
    fs::{self, DirBuilder, File, Metadata, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use rustix::fs::OFlags;

use crate::{digest::hex, secret};

const PREFIX: &str = "airlock-worker-";

/// A folder that only this user can enter; removed with all it holds when it is dropped.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    /// Held for as long as the folder is in use, by this process alone: it ends with it, however that ends.
    _lock: File,
}

impl Folder {
    pub(super) fn new(base: &Path) -> io::Result<Self> {
        // Until it is locked, another gateway that starts at this moment may take it for abandoned.
        for _ in 0..3 {
            let random = secret::random::<16>().map_err(io::Error::other)?;
            let path = base.join(format!("{PREFIX}{}", hex(&random)));
            // Fails if there is anything of that name, a link included.
            DirBuilder::new().mode(0o700).create(&path)?;
            let Ok(lock) = File::open(&path) else { continue };
            lock.lock()?;
            if path.exists() {
                return Ok(Self { path, _lock: lock });
            }
        }
        Err(io::Error::other("it is removed again and again"))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(self.path.join(name))?
            .write_all(bytes)
    }

    pub(super) fn read(&self, name: &str, most: usize) -> io::Result<Vec<u8>> {
        let (file, _) = open_regular(&self.path.join(name))?;
        let mut bytes = Vec::new();
        file.take((most as u64).saturating_add(1)).read_to_end(&mut bytes)?;
        if bytes.len() > most {
            return Err(io::Error::other(format!("it is larger than {most} bytes")));
        }
        Ok(bytes)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            tracing::warn!(folder = %self.path.display(), "a worker's folder is left behind: {error}");
        }
    }
}

/// Opens a file of this user's own for reading, and nothing else that may lie under its name: no link is followed, and a
/// FIFO does not block.
pub(in crate::execute) fn open_regular(path: &Path) -> io::Result<(File, Metadata)> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits();
    let file = OpenOptions::new().read(true).custom_flags(flags.cast_signed()).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    if metadata.uid() != rustix::process::geteuid().as_raw() {
        return Err(io::Error::other("it belongs to another user"));
    }
    Ok((file, metadata))
}

/// Makes a folder that only this user can enter, if it is not there yet; refuses one that others may write into.
pub(in crate::execute) fn private_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).recursive(true).create(path)?;
    let metadata = fs::symlink_metadata(path)?;
    if !metadata.is_dir() {
        return Err(io::Error::other("it is not a folder"));
    }
    if metadata.uid() != rustix::process::geteuid().as_raw() {
        return Err(io::Error::other("it belongs to another user"));
    }
    if metadata.mode() & 0o022 != 0 {
        return Err(io::Error::other("others may write into it: chmod 700 it"));
    }
    Ok(())
}

/// Removes what a gateway that was killed has left.
pub(super) fn sweep(base: &Path) {
    let Ok(entries) = fs::read_dir(base) else { return };
    for entry in entries.flatten() {
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        // What another gateway uses is locked; what another user left cannot be opened.
        let Ok(folder) = File::open(entry.path()) else { continue };
        if folder.try_lock().is_ok() {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_folder_goes_with_its_owner_and_what_has_none_is_swept() {
        let base = tempfile::tempdir().expect("a temporary folder");
        let used = Folder::new(base.path()).expect("a folder");
        used.write("job", b"{}").expect("a writable folder");
        let abandoned = base.path().join(format!("{PREFIX}1"));
        let other = base.path().join("other");
        for path in [&abandoned, &other] {
            fs::create_dir_all(path.join("sub")).expect("a writable folder");
        }
        sweep(base.path());
        assert!(used.path().join("job").exists() && other.exists());
        assert!(!abandoned.exists());
        let path = used.path().to_owned();
        drop(used);
        assert!(!path.exists());
    }

    #[test]
    fn a_folder_that_others_may_write_into_is_refused() {
        let base = tempfile::tempdir().expect("a temporary folder");
        private_folder(&base.path().join("a/b")).expect("a new folder");
        fs::set_permissions(base.path(), fs::Permissions::from_mode(0o770)).expect("a mode");
        let error = private_folder(base.path()).expect_err("it is refused").to_string();
        assert!(error.contains("chmod 700"), "{error}");
        let link = base.path().join("link");
        std::os::unix::fs::symlink(base.path().join("a"), &link).expect("a link");
        private_folder(&link).expect_err("a link is no folder");
    }
}
