//! A repository in Triton's layout: `<root>/<model>/<version>/model.wasm` or `model.onnx`, and beside the versions an
//! optional `config.pbtxt` or `model.toml`.
//!
//! Symbolic links are followed as long as they end inside the repository. The check and the reading are two steps, so
//! this does not stop somebody who can exchange files of the repository at the right moment: it belongs to the operator.

use std::{
    ffi::OsStr,
    fs, io,
    path::{Path, PathBuf},
};

use crate::{
    execute::Source,
    name::{ModelName, Version},
};

use super::{
    Kind, RepositoryError,
    disk::{FileStamp, Loadable, Observation, ReadLimits, Stamp, Survey, read_file},
    model_config::ModelConfig,
    model_toml, triton_config,
};

/// Bytes of a configuration file.
const MAX_CONFIG_BYTES: u64 = 1 << 20;
/// Entries of a version's folder.
const MAX_FILES: usize = 1024;
/// Triton keeps alternative configurations in a folder of that name, beside the versions.
const CONFIGS: &str = "configs";

#[derive(Debug)]
pub(super) struct Folder {
    root: PathBuf,
    limits: ReadLimits,
}

impl Folder {
    pub(super) fn new(root: PathBuf, limits: ReadLimits) -> Result<Self, RepositoryError> {
        match fs::read_dir(&root) {
            Ok(_) => Ok(Self { root, limits }),
            Err(error) => {
                let reason = format!("the model repository cannot be read: {}", error.kind());
                Err(RepositoryError::Source { path: root, reason })
            }
        }
    }

    pub(super) fn survey(&self) -> io::Result<Survey> {
        let mut survey = Survey::default();
        // The root itself may be a link that is turned to the next repository.
        let root = fs::canonicalize(&self.root)?;
        for entry in fs::read_dir(&root)? {
            let file_name = entry?.file_name();
            match checked_name::<ModelName>(&file_name) {
                Ok(name) => match observe(&root, &name) {
                    Some(observation) => {
                        survey.models.insert(name, observation);
                    }
                    None => survey.ignored.push(format!("'{name}' is not a folder")),
                },
                Err(reason) => survey.ignored.push(reason),
            }
        }
        survey.ignored.sort();
        Ok(survey)
    }

    pub(super) fn observe(&self, model: &ModelName) -> io::Result<Option<Observation>> {
        let root = fs::canonicalize(&self.root)?;
        Ok(observe(&root, model))
    }

    pub(super) fn config(&self, model: &ModelName) -> Result<ModelConfig, String> {
        let place = Place::new(&self.root, model)?;
        let read = |file: &str| match fs::symlink_metadata(place.path.join(file)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            _ => place.read(file, MAX_CONFIG_BYTES).map(Some),
        };
        let utf8 = |file: &str, bytes: Vec<u8>| {
            String::from_utf8(bytes).map_err(|_| format!("{model}/{file} is not UTF-8 text"))
        };
        match (read(triton_config::FILE_NAME)?, read(model_toml::FILE_NAME)?) {
            (None, None) => Ok(ModelConfig::default()),
            (Some(bytes), None) => {
                let text = utf8(triton_config::FILE_NAME, bytes)?;
                triton_config::parse(&text, model).map_err(|error| error.to_string())
            }
            (None, Some(bytes)) => {
                let text = utf8(model_toml::FILE_NAME, bytes)?;
                model_toml::parse(&text).map_err(|error| error.to_string())
            }
            (Some(_), Some(_)) => Err(format!(
                "the model has both {} and {}: keep one",
                triton_config::FILE_NAME,
                model_toml::FILE_NAME
            )),
        }
    }

    pub(super) fn beside(&self, model: &ModelName, file: &str, limit: u64) -> Result<Vec<u8>, String> {
        Place::new(&self.root, model)?.read(file, limit)
    }

    pub(super) fn read(
        &self,
        model: &ModelName,
        version: &Version,
        config: &ModelConfig,
    ) -> Result<Loadable, String> {
        let place = Place::new(&self.root, model)?.inner(version.as_str())?;
        let mut ignored = Vec::new();
        let names = place.files(&mut ignored)?;
        let (kind, artifact_name) = choose_artifact(&place.label, &names, config)?;
        let artifact = place.read(&artifact_name, self.limits.artifact(kind))?;
        let mut files = Vec::new();
        // The native engine reads nothing but the graph.
        if kind == Kind::Wasm {
            let mut left = self.limits.files;
            for name in names.into_iter().filter(|name| *name != artifact_name) {
                let FileStamp::Regular { size, .. } = FileStamp::of(&place.resolve(&name)?) else {
                    ignored.push(format!("{}/{} is not a regular file", place.label, name.escape_debug()));
                    continue;
                };
                if size > left {
                    return Err(format!(
                        "the files beside {}/{artifact_name} have more than {} bytes together",
                        place.label, self.limits.files
                    ));
                }
                let bytes = place.read(&name, left)?;
                left = left.saturating_sub(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
                files.push((name, bytes));
            }
        }
        Ok(Loadable { kind, source: Source { artifact, files, ..Default::default() }, ignored })
    }
}

/// A folder inside the repository, with all links resolved.
struct Place {
    root: PathBuf,
    path: PathBuf,
    /// How reasons call it: its path below the root.
    label: String,
}

impl Place {
    fn new(root: &Path, model: &ModelName) -> Result<Self, String> {
        let root = fs::canonicalize(root)
            .map_err(|error| format!("the model repository cannot be read: {}", error.kind()))?;
        let path = resolve(&root, &root.join(model.as_str()), model.as_str())?;
        Ok(Self { root, path, label: model.to_string() })
    }

    fn inner(mut self, name: &str) -> Result<Self, String> {
        self.label = format!("{}/{name}", self.label);
        self.path = resolve(&self.root, &self.path.join(name), &self.label)?;
        Ok(self)
    }

    fn resolve(&self, name: &str) -> Result<PathBuf, String> {
        resolve(&self.root, &self.path.join(name), &format!("{}/{}", self.label, name.escape_debug()))
    }

    fn read(&self, name: &str, limit: u64) -> Result<Vec<u8>, String> {
        let label = format!("{}/{}", self.label, name.escape_debug());
        read_file(&self.resolve(name)?, &label, limit)
    }

    /// The names of all that is not hidden, sorted.
    fn files(&self, ignored: &mut Vec<String>) -> Result<Vec<String>, String> {
        let failed = |error: io::Error| format!("{} cannot be read: {}", self.label, error.kind());
        let mut names = Vec::new();
        for (index, entry) in fs::read_dir(&self.path).map_err(failed)?.enumerate() {
            if index == MAX_FILES {
                return Err(format!("{} holds more than {MAX_FILES} files", self.label));
            }
            match entry.map_err(failed)?.file_name().into_string() {
                Ok(name) if name.starts_with('.') => {
                    ignored.push(format!("{}/{} is hidden", self.label, name.escape_debug()));
                }
                Ok(name) => names.push(name),
                Err(name) => ignored.push(format!("{}/{name:?} is not UTF-8", self.label)),
            }
        }
        names.sort();
        Ok(names)
    }
}

/// The path without links, if it is inside the repository.
fn resolve(root: &Path, path: &Path, label: &str) -> Result<PathBuf, String> {
    let path = fs::canonicalize(path).map_err(|error| format!("{label} cannot be read: {}", error.kind()))?;
    if path.starts_with(root) {
        Ok(path)
    } else {
        Err(format!("{label} is a symbolic link that leads outside the model repository"))
    }
}

fn observe(root: &Path, model: &ModelName) -> Option<Observation> {
    let link = root.join(model.as_str());
    fs::symlink_metadata(&link).ok()?;
    if fs::metadata(&link).is_ok_and(|metadata| !metadata.is_dir()) {
        return None;
    }
    let mut observation = Observation::default();
    let listing = resolve(root, &link, model.as_str()).and_then(|path| {
        let entries = fs::read_dir(&path)
            .and_then(Iterator::collect::<io::Result<Vec<_>>>)
            .map_err(|error| format!("{model} cannot be read: {}", error.kind()))?;
        Ok((path, entries))
    });
    let (path, entries) = match listing {
        Ok(listing) => listing,
        Err(reason) => {
            observation.problem = Some(reason);
            return Some(observation);
        }
    };
    for entry in entries {
        let file_name = entry.file_name();
        let stamp_of_file = FileStamp::of(&path.join(&file_name));
        let is_config = file_name == triton_config::FILE_NAME || file_name == model_toml::FILE_NAME;
        let is_hidden = file_name.as_encoded_bytes().starts_with(b".");
        if is_config || (!is_hidden && matches!(stamp_of_file, FileStamp::Regular { .. })) {
            observation.config.insert(file_name, stamp_of_file);
            continue;
        }
        match version_folder(&path, &file_name) {
            Ok(version) => {
                observation.versions.insert(version, stamp(root, &path.join(file_name)));
            }
            Err(reason) => observation.ignored.push(format!("{model}: {reason}")),
        }
    }
    observation.ignored.sort();
    Some(observation)
}

/// The version whose folder that is, or why it is none.
fn version_folder(model: &Path, file_name: &OsStr) -> Result<Version, String> {
    let version: Version = checked_name(file_name)?;
    let number = version.as_str().bytes().all(|byte| byte.is_ascii_digit());
    match FileStamp::of(&model.join(file_name)) {
        // Triton ignores these, and two folders would be one version.
        _ if number && version.as_str().starts_with('0') => {
            Err(format!("'{version}' begins with 0, as no version may"))
        }
        FileStamp::Folder if version.as_str() == CONFIGS => {
            Err("alternative configurations are not supported".into())
        }
        FileStamp::Folder => Ok(version),
        // A link that leads nowhere: say so where the version is asked for.
        FileStamp::Other if number => Ok(version),
        _ => Err(format!("'{version}' is not a folder")),
    }
}

/// The files of a version that are not hidden. Folders outside the repository are not looked into.
fn stamp(root: &Path, version: &Path) -> Stamp {
    let Ok(path) = resolve(root, version, "") else { return Stamp::new() };
    let entries = fs::read_dir(&path).into_iter().flatten().flatten().take(MAX_FILES + 1);
    entries
        .map(|entry| entry.file_name())
        .filter(|name| !name.as_encoded_bytes().starts_with(b"."))
        .map(|name| (name.clone(), FileStamp::of(&path.join(name))))
        .collect()
}

fn checked_name<T: std::str::FromStr<Err = crate::name::NameError>>(file_name: &OsStr) -> Result<T, String> {
    match file_name.to_str() {
        Some(name) if name.starts_with('.') => Err(format!("'{}' is hidden", name.escape_debug())),
        Some(name) => name.parse().map_err(|error: crate::name::NameError| error.to_string()),
        None => Err(format!("{file_name:?} is not UTF-8")),
    }
}

fn choose_artifact(label: &str, names: &[String], config: &ModelConfig) -> Result<(Kind, String), String> {
    let present = |name: &str| names.iter().any(|other| other == name);
    let (kind, name) = if let Some(name) = &config.artifact {
        let kind = config.kind.or_else(|| Kind::of_file_name(name)).ok_or_else(|| {
            format!("'{name}' ends in neither .wasm nor .onnx, and {} names no platform", config.file)
        })?;
        if !present(name) {
            return Err(format!("expected {label}/{name}, as {} says", config.file));
        }
        (kind, name.clone())
    } else {
        let [wasm, onnx] = [Kind::Wasm, Kind::Onnx].map(Kind::default_file_name);
        match (present(wasm), present(onnx)) {
            (true, true) => return Err(format!("{label} holds both {wasm} and {onnx}: keep one")),
            (true, false) => (Kind::Wasm, wasm.to_owned()),
            (false, true) => (Kind::Onnx, onnx.to_owned()),
            (false, false) => return Err(format!("expected {label}/{wasm} or {label}/{onnx}")),
        }
    };
    match config.kind {
        Some(expected) if expected != kind => Err(format!(
            "{} says that the model is {expected}, so {} is expected in {label}; given {name}",
            config.file,
            expected.default_file_name()
        )),
        _ => Ok((kind, name)),
    }
}

#[cfg(test)]
mod tests;
