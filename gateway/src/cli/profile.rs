//! `~/.config/airlock/config.toml`: which gateways somebody works with, and the keys to them.

use std::{
    collections::BTreeMap,
    env, fmt,
    fs::File,
    io::{ErrorKind, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use zeroize::Zeroizing;

/// Bytes of a configuration file or a key file; whatever is longer is something else.
const MAX_BYTES: u64 = 64 << 10;

/// The profile that counts where none is named.
const DEFAULT: &str = "default";

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Profiles {
    #[serde(default)]
    profile: BTreeMap<String, Profile>,
}

/// One gateway, and how to get in.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Profile {
    pub(super) url: Option<String>,
    pub(super) key: Option<Hidden>,
    pub(super) key_file: Option<PathBuf>,
    pub(super) ca_cert: Option<PathBuf>,
}

impl fmt::Debug for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Profile").field("url", &self.url).finish_non_exhaustive()
    }
}

/// A key's text: overwritten in memory when it is dropped.
#[derive(Deserialize)]
#[serde(from = "String")]
pub(super) struct Hidden(pub(super) Zeroizing<String>);

impl From<String> for Hidden {
    fn from(text: String) -> Self {
        Self(Zeroizing::new(text))
    }
}

/// A file's text, and whether anybody but its owner may read it.
pub(super) struct Private {
    pub(super) text: Zeroizing<String>,
    pub(super) exposed: bool,
}

impl Private {
    pub(super) fn read(path: &Path) -> std::io::Result<Self> {
        let file = File::open(path)?;
        // Of the file that is open, not of what the path leads to a moment later.
        let exposed = file.metadata()?.mode() & 0o077 != 0;
        let mut text = Zeroizing::new(String::new());
        file.take(MAX_BYTES + 1).read_to_string(&mut text)?;
        if text.len() as u64 > MAX_BYTES {
            return Err(std::io::Error::new(ErrorKind::InvalidData, "it is larger than 64 KiB"));
        }
        Ok(Self { text, exposed })
    }
}

impl Profile {
    /// The profile of that name, or the default one; an empty one if there is no file and none was asked for.
    pub(super) fn find(file: Option<&Path>, name: Option<&str>) -> Result<Self> {
        let usual = usual_path(env::var_os("XDG_CONFIG_HOME"), env::var_os("HOME"));
        let Some(path) = file.map(Path::to_owned).or(usual) else { return Self::none(name) };
        let private = match Private::read(&path) {
            Ok(private) => private,
            Err(error) if error.kind() == ErrorKind::NotFound && file.is_none() => return Self::none(name),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        let mut profiles = parse(&private.text).with_context(|| path.display().to_string())?;
        if private.exposed && profiles.profile.values().any(|profile| profile.key.is_some()) {
            bail!("{0} holds a key and can be read by others: chmod 600 {0}", path.display());
        }
        let mut profile = match (profiles.profile.remove(name.unwrap_or(DEFAULT)), name) {
            (Some(profile), _) => profile,
            (None, None) => Self::default(),
            (None, Some(name)) => bail!("{} has no [profile.{name}]", path.display()),
        };
        // Its paths are meant from where it lies, not from where somebody happens to work.
        let folder = path.parent().unwrap_or_else(|| Path::new(""));
        for path in [&mut profile.key_file, &mut profile.ca_cert].into_iter().flatten() {
            *path = folder.join(&path);
        }
        Ok(profile)
    }

    fn none(name: Option<&str>) -> Result<Self> {
        match name {
            None => Ok(Self::default()),
            Some(name) => bail!("there is no configuration file, so no profile '{name}'"),
        }
    }
}

fn parse(text: &str) -> Result<Profiles> {
    toml::from_str(text).map_err(|error: toml::de::Error| {
        // The error's own text quotes the line, which may be the one with the key.
        let start = error.span().map_or(0, |span| span.start);
        let line = text.bytes().take(start).filter(|byte| *byte == b'\n').count() + 1;
        anyhow::anyhow!("line {line}: {}", error.message())
    })
}

fn usual_path(config_home: Option<std::ffi::OsString>, home: Option<std::ffi::OsString>) -> Option<PathBuf> {
    // The XDG specification has relative paths ignored.
    let config_home = config_home.map(PathBuf::from).filter(|path| path.is_absolute());
    let folder = config_home.or_else(|| {
        home.map(PathBuf::from).filter(|path| path.is_absolute()).map(|home| home.join(".config"))
    })?;
    Some(folder.join("airlock/config.toml"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_where_xdg_says() {
        let path = |config: Option<&str>, home: Option<&str>| {
            usual_path(config.map(Into::into), home.map(Into::into)).map(|path| path.display().to_string())
        };
        assert_eq!(path(Some("/c"), Some("/h")).as_deref(), Some("/c/airlock/config.toml"));
        for config in [None, Some(""), Some("relative")] {
            assert_eq!(path(config, Some("/h")).as_deref(), Some("/h/.config/airlock/config.toml"));
        }
        assert_eq!(path(None, None), None);
    }

    #[test]
    fn mistakes_are_named_by_line_and_never_quote_the_key() {
        for (text, part) in [
            ("[profile.a]\nkey = \"ak_secret\"\nkee = \"ak_secret\"", "line 3: unknown field `kee`"),
            ("[profile.a]\nkey = \"ak_secret", "line 2: "),
            ("[default]\nkey = \"ak_secret\"", "line 1: unknown field `default`"),
        ] {
            let error = parse(text).err().expect("a mistake").to_string();
            assert!(error.contains(part) && !error.contains("secret"), "{error}");
        }
    }
}
