//! A repository of one file, `airlock serve FILE.wasm`: one model, named after the file, version 1, no configuration.

use std::path::PathBuf;

use crate::{
    execute::Source,
    name::{ModelName, Version},
};

use super::{
    Kind, RepositoryError,
    disk::{FileStamp, Loadable, Observation, ReadLimits, Stamp, Survey, read_file},
};

#[derive(Debug)]
pub(super) struct SingleFile {
    path: PathBuf,
    kind: Kind,
    name: ModelName,
    version: Version,
    limits: ReadLimits,
}

impl SingleFile {
    pub(super) fn new(path: PathBuf, limits: ReadLimits) -> Result<Self, RepositoryError> {
        let refused = |reason: String| RepositoryError::Source { path: path.clone(), reason };
        let file_name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let kind = Kind::of_file_name(file_name)
            .ok_or_else(|| refused("the file's name must end in .wasm or .onnx".into()))?;
        let (stem, _) = file_name.rsplit_once('.').unwrap_or_default();
        let name = stem
            .parse()
            .map_err(|error| refused(format!("the model is named after the file, and {error}")))?;
        let version = "1".parse().map_err(|error| refused(format!("{error}")))?;
        if !path.is_file() {
            return Err(refused("it is not a file".into()));
        }
        Ok(Self { kind, name, version, limits, path })
    }

    pub(super) fn survey(&self) -> Survey {
        let models = self.observe(&self.name).map(|observation| (self.name.clone(), observation));
        Survey { models: models.into_iter().collect(), ignored: vec![] }
    }

    pub(super) fn observe(&self, model: &ModelName) -> Option<Observation> {
        if *model != self.name || !self.path.exists() {
            return None;
        }
        let name = self.path.file_name().unwrap_or_default().to_owned();
        let stamp = Stamp::from([(name, FileStamp::of(&self.path))]);
        Some(Observation { versions: [(self.version.clone(), stamp)].into(), ..Default::default() })
    }

    pub(super) fn read(&self) -> Result<Loadable, String> {
        let label = format!("the file of model '{}'", self.name);
        let artifact = read_file(&self.path, &label, self.limits.artifact(self.kind))?;
        Ok(Loadable { kind: self.kind, source: Source { artifact, ..Default::default() }, ignored: vec![] })
    }
}
