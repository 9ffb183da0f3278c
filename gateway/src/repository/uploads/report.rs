//! What tenants are told of their models.

use serde::Serialize;

use crate::{
    digest::Digest,
    name::{ModelName, TenantName, Version},
    repository::{Kind, catalog::State, lock, namespaces::Wanted},
    tensor::TensorSpec,
};

use super::{
    UploadError, Uploads,
    records::{Manifest, ModelSettings, NamedBlob},
};

/// A model with all its published versions.
#[derive(Debug, Serialize)]
pub struct ModelReport {
    pub name: ModelName,
    pub settings: ModelSettings,
    pub versions: Vec<VersionReport>,
}

/// One published version.
#[derive(Debug, Serialize)]
pub struct VersionReport {
    pub name: ModelName,
    pub version: Version,
    /// Seconds since 1970.
    pub published: u64,
    pub kind: Kind,
    /// Of the artifact; files beside it have their own.
    pub digest: Digest,
    /// Bytes of the artifact and all files beside it.
    pub size: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<NamedBlob>,
    pub state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// `None` while it is not ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signature: Option<SignatureReport>,
    /// What checking, compiling and loading took, in milliseconds; only in the answer to the upload that did it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_ms: Option<u64>,
}

#[derive(Debug, Serialize)]
pub struct SignatureReport {
    pub inputs: Vec<TensorReport>,
    pub outputs: Vec<TensorReport>,
}

#[derive(Debug, Serialize)]
pub struct TensorReport {
    pub name: String,
    pub datatype: &'static str,
    pub shape: Vec<i64>,
}

impl From<&TensorSpec> for TensorReport {
    fn from(spec: &TensorSpec) -> Self {
        Self { name: spec.name.clone(), datatype: spec.datatype.name(), shape: spec.shape.0.clone() }
    }
}

/// What a tenant keeps, in the units of its limits.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Kept {
    pub models: u64,
    /// Published versions of the model that has most of them.
    pub versions: u64,
    pub storage: u64,
    /// Of the memory that loaded models take, as far as it is known.
    pub loaded: u64,
}

impl Uploads {
    /// What a tenant keeps, as far as this gateway knows.
    pub fn kept(&self, tenant: &TenantName) -> Kept {
        let loaded = self.namespaces.own(tenant).loaded_bytes(None);
        let directory = lock(&self.directory);
        let versions = directory.of(tenant).map(|(_, entry)| entry.published().count() as u64);
        Kept {
            models: directory.of(tenant).count() as u64,
            versions: versions.max().unwrap_or_default(),
            storage: directory.bytes(tenant),
            loaded,
        }
    }

    /// The names of a tenant's models.
    pub fn models(&self, tenant: &TenantName) -> Vec<ModelName> {
        lock(&self.directory).of(tenant).map(|(model, _)| model.clone()).collect()
    }

    /// A model with all its published versions, in ascending order.
    pub fn model(&self, tenant: &TenantName, model: &ModelName) -> Result<ModelReport, UploadError> {
        let entry = lock(&self.directory).entry(tenant, model).cloned().unwrap_or_default();
        let versions: Vec<VersionReport> = entry
            .published()
            .map(|(version, manifest)| self.report(tenant, model, version, manifest))
            .collect();
        if versions.is_empty() {
            return Err(UploadError::UnknownModel(model.clone()));
        }
        Ok(ModelReport { name: model.clone(), settings: entry.settings(), versions })
    }

    /// One published version.
    pub fn version(
        &self,
        tenant: &TenantName,
        model: &ModelName,
        version: &Version,
    ) -> Result<VersionReport, UploadError> {
        let entry = lock(&self.directory).entry(tenant, model).cloned().unwrap_or_default();
        let mut published = entry.published();
        let found = published.find(|(published, _)| *published == version);
        let (_, manifest) = found
            .ok_or_else(|| UploadError::UnknownVersion { model: model.clone(), version: version.clone() })?;
        Ok(self.report(tenant, model, version, manifest))
    }

    fn report(
        &self,
        tenant: &TenantName,
        model: &ModelName,
        version: &Version,
        manifest: &Manifest,
    ) -> VersionReport {
        let catalog = self.namespaces.own(tenant);
        let found = catalog.find(model, &Wanted::from(version));
        let ready = found.ok().filter(|found| found.version == *version);
        let (state, reason) = catalog
            .index()
            .into_iter()
            .find(|entry| entry.name == *model && entry.version.as_ref() == Some(version))
            .map_or_else(
                || (State::Unavailable, Some("the version policy does not select it".into())),
                |entry| (entry.state, entry.reason),
            );
        VersionReport {
            name: model.clone(),
            version: version.clone(),
            published: manifest.published,
            kind: manifest.kind,
            digest: manifest.artifact.digest,
            size: manifest.size(),
            files: manifest.files.clone(),
            state: state.name(),
            reason,
            signature: ready.map(|model| {
                let signature = model.executor.signature();
                SignatureReport {
                    inputs: signature.inputs.iter().map(Into::into).collect(),
                    outputs: signature.outputs.iter().map(Into::into).collect(),
                }
            }),
            load_ms: None,
        }
    }
}
