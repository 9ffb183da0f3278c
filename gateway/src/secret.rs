//! The gateway's own secret: one file of 32 random bytes, from which a key is derived for each purpose.
//!
//! It is never in the store of artifacts: who can write there can neither make API keys nor manifests that are believed.
//! Gateways that share a store share the secret. It does not protect against who can read the gateway's files.

use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::Path,
};

use ring::{
    hmac,
    rand::{SecureRandom, SystemRandom},
};
use zeroize::Zeroizing;

/// Bytes of a secret, of a key and of a tag.
pub const LENGTH: usize = 32;

/// Overwritten in memory when it is dropped.
#[derive(Clone)]
pub struct Secret(Zeroizing<[u8; LENGTH]>);

/// What a derived key is for; no tag of one purpose is valid for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Secrets of API keys, as they are stored.
    ApiKey,
    /// Records and manifests in the store.
    Record,
    /// Compiled code in the local cache.
    CompiledCode,
}

impl Purpose {
    fn label(self) -> &'static [u8] {
        match self {
            Self::ApiKey => b"airlock api key v1",
            Self::Record => b"airlock record v1",
            Self::CompiledCode => b"airlock compiled code v1",
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    #[error("the secret file {path} cannot be read or made: {reason}")]
    Io { path: String, reason: io::Error },
    #[error("the secret file {path} must hold exactly {LENGTH} bytes; delete it to have a new one made")]
    Length { path: String },
    #[error("the secret file {path} can be read by others: chmod 600 it")]
    Mode { path: String },
    #[error("this machine gives no random bytes")]
    Random,
}

impl Secret {
    pub fn from_bytes(bytes: [u8; LENGTH]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Reads the secret, or makes it if there is none yet. Two gateways that start at the same time get the same one.
    pub fn open_or_create(path: &Path) -> Result<Self, SecretError> {
        let failed = |reason| SecretError::Io { path: path.display().to_string(), reason };
        match Self::open(path) {
            Err(SecretError::Io { reason, .. }) if reason.kind() == io::ErrorKind::NotFound => {}
            other => return other,
        }
        let bytes = random::<LENGTH>()?;
        let suffix = crate::digest::hex(&random::<8>()?);
        let temporary = path.with_extension(format!("new-{suffix}"));
        let write = || {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            // A link, unlike a rename, never replaces what another gateway has just made.
            match fs::hard_link(&temporary, path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
                other => other,
            }
        };
        let written = write();
        let _ = fs::remove_file(&temporary);
        written.map_err(failed)?;
        if let Some(folder) = path.parent() {
            File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)?;
        }
        Self::open(path)
    }

    /// Reads a secret that has to be there.
    pub fn open(path: &Path) -> Result<Self, SecretError> {
        let shown = || path.display().to_string();
        let failed = |reason| SecretError::Io { path: shown(), reason };
        let mut file = File::open(path).map_err(failed)?;
        if file.metadata().map_err(failed)?.mode() & 0o077 != 0 {
            return Err(SecretError::Mode { path: shown() });
        }
        let mut bytes = Zeroizing::new([0; LENGTH]);
        let whole = file.read_exact(&mut *bytes).is_ok() && matches!(file.read(&mut [0]), Ok(0));
        if whole { Ok(Self(bytes)) } else { Err(SecretError::Length { path: shown() }) }
    }

    /// The key for one purpose (HMAC-SHA256 of the purpose's label under the secret).
    pub fn key(&self, purpose: Purpose) -> Key {
        let master = hmac::Key::new(hmac::HMAC_SHA256, &*self.0);
        Key(hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&master, purpose.label()).as_ref()))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// A derived key: makes and checks tags (HMAC-SHA256).
#[derive(Clone)]
pub struct Key(hmac::Key);

impl Key {
    /// The tag of some parts. Each part's length is part of it, so no two lists of parts have the same tag.
    pub fn tag(&self, parts: &[&[u8]]) -> [u8; LENGTH] {
        let mut tag = [0; LENGTH];
        tag.copy_from_slice(self.context(parts).sign().as_ref());
        tag
    }

    /// Whether that is the tag of the parts; takes the same time wherever they differ.
    pub fn verify(&self, parts: &[&[u8]], tag: &[u8]) -> bool {
        #[expect(deprecated, reason = "the comparison in constant time that the crate offers")]
        ring::constant_time::verify_slices_are_equal(&self.tag(parts), tag).is_ok()
    }

    fn context(&self, parts: &[&[u8]]) -> hmac::Context {
        let mut context = hmac::Context::with_key(&self.0);
        for part in parts {
            context.update(&(part.len() as u64).to_le_bytes());
            context.update(part);
        }
        context
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(…)")
    }
}

/// Random bytes from the operating system.
pub fn random<const N: usize>() -> Result<[u8; N], SecretError> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| SecretError::Random)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_secret_is_made_once_and_kept_private() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("secret");
        let first = Secret::open_or_create(&path).expect("a secret");
        let again = Secret::open_or_create(&path).expect("the same secret");
        assert_eq!(*first.0, *again.0);
        assert_eq!(fs::metadata(&path).expect("the file").permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).expect("the folder").count(), 1, "nothing else is left");
        assert_eq!(format!("{first:?}"), "Secret(…)");
    }

    #[test]
    fn files_that_cannot_be_a_secret_are_refused() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("secret");
        for length in [0, 31, 33] {
            fs::write(&path, vec![7; length]).expect("a file");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("a mode");
            assert!(matches!(Secret::open_or_create(&path), Err(SecretError::Length { .. })), "{length}");
        }
        fs::write(&path, vec![7; LENGTH]).expect("a file");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("a mode");
        assert!(matches!(Secret::open_or_create(&path), Err(SecretError::Mode { .. })));
    }

    #[test]
    fn tags_depend_on_purpose_and_on_where_parts_end() {
        let secret = Secret::from_bytes([1; LENGTH]);
        let key = secret.key(Purpose::Record);
        let tag = key.tag(&[b"ab", b"c"]);
        assert!(key.verify(&[b"ab", b"c"], &tag));
        assert!(!key.verify(&[b"a", b"bc"], &tag));
        assert!(!key.verify(&[b"ab", b"c"], &tag[..31]));
        assert!(!secret.key(Purpose::ApiKey).verify(&[b"ab", b"c"], &tag));
        assert!(!Secret::from_bytes([2; LENGTH]).key(Purpose::Record).verify(&[b"ab", b"c"], &tag));
    }
}
