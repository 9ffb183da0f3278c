//! A store for uploads in a temporary folder, with tenants and keys made the way an operator makes them.

use std::{path::Path, sync::Arc};

use airlock::{
    admin::{NewKey, Tenants},
    authenticate::{Scope, now},
    limits::TenantLimits,
    repository::artifacts::Location,
    secret::Purpose,
    store::StorePlace,
};
use bytes::Bytes;
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    client::{Answer, call},
    gateway::{Gateway, Repository, binary},
};

/// A store that outlives the gateways on it.
#[derive(Debug)]
pub struct Store(TempDir);

impl Default for Store {
    fn default() -> Self {
        Self(TempDir::new().expect("a temporary folder"))
    }
}

impl Store {
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn location(&self) -> Location {
        Location::Folder(self.path().into())
    }

    /// What works on the store, as the command line does.
    pub fn tenants(&self) -> Tenants {
        let place = StorePlace::new(&self.location(), None, None).expect("a place");
        let store = place.open().expect("a store");
        Tenants::new(Arc::clone(&store.artifacts), store.secret.key(Purpose::ApiKey))
    }

    /// Sets limits of a tenant, as the command line does; what is not named stays as it is.
    pub async fn limit(&self, tenant: &str, limits: &[(&str, &str)]) {
        let set = |mut own: TenantLimits| {
            limits.iter().for_each(|(name, value)| own.set(name, value).expect(name));
            Ok(own)
        };
        let tenant = tenant.parse().expect("a name");
        self.tenants().change_limits(&tenant, None, set).await.expect("limits");
    }

    /// Makes a tenant and a key of it with these scopes.
    pub async fn key(&self, tenant: &str, scopes: &[Scope]) -> String {
        let tenants = self.tenants();
        let tenant = tenant.parse().expect("a name");
        tenants.create(&tenant, now()).await.expect("a tenant");
        let new = NewKey { scopes: scopes.iter().copied().collect(), ..NewKey::default() };
        let (key, _) = tenants.create_key(&tenant, new, now()).await.expect("a key");
        key.reveal().to_string()
    }

    /// Runs `airlock` on this store.
    pub fn airlock(&self, arguments: &[&str]) -> std::process::Output {
        std::process::Command::new(binary())
            .args(arguments)
            .env("AIRLOCK_STORE", self.path())
            .env_remove("AIRLOCK_STATE")
            .output()
            .expect("the binary starts")
    }

    /// A gateway on this store, with shared models of the operator's.
    pub async fn serve_with(&self, repository: Repository) -> Gateway {
        Gateway::serve_with(repository, |settings| settings.store = Some(self.location())).await
    }

    /// A gateway on this store and nothing else.
    pub async fn serve(&self) -> Gateway {
        self.serve_with(Repository::default()).await
    }
}

/// One who calls a gateway with a key, or without one.
#[derive(Clone, Debug)]
pub struct Caller<'a> {
    pub gateway: &'a Gateway,
    pub key: Option<&'a str>,
}

impl<'a> Caller<'a> {
    pub fn new(gateway: &'a Gateway, key: &'a str) -> Self {
        Self { gateway, key: Some(key) }
    }

    pub fn anybody(gateway: &'a Gateway) -> Self {
        Self { gateway, key: None }
    }

    pub async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Answer {
        let bearer = self.key.map(|key| format!("Bearer {key}"));
        let mut all = headers.to_vec();
        all.extend(bearer.as_deref().map(|bearer| ("authorization", bearer)));
        call(self.gateway.address(), method, path, &all, body).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], Bytes::new()).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send("POST", path, &[], body.to_string()).await
    }

    /// Uploads an artifact as the body.
    pub async fn put(&self, model: &str, version: &str, artifact: impl Into<Bytes>) -> Answer {
        self.send("PUT", &format!("/v2/repository/models/{model}/versions/{version}"), &[], artifact).await
    }

    /// Uploads an artifact and further parts, each with its name and its text, as `multipart/form-data`.
    pub async fn put_with(
        &self,
        model: &str,
        version: &str,
        artifact: impl AsRef<[u8]>,
        parts: &[(&str, &str)],
    ) -> Answer {
        let part = |name: &str| format!("--X\r\ncontent-disposition: form-data; name=\"{name}\"\r\n\r\n");
        let parts: String = parts.iter().map(|(name, text)| part(name) + text + "\r\n").collect();
        let before = parts + &part("artifact");
        let body = [before.as_bytes(), artifact.as_ref(), b"\r\n--X--\r\n"].concat();
        let form = [("content-type", "multipart/form-data; boundary=X")];
        self.send("PUT", &format!("/v2/repository/models/{model}/versions/{version}"), &form, body).await
    }

    /// Calls a model of one FP32 input and output with one value.
    pub async fn infer(&self, model: &str, value: f32) -> Answer {
        let body = serde_json::json!({
            "inputs": [{ "name": "INPUT0", "datatype": "FP32", "shape": [1], "data": [value] }]
        });
        self.post(&format!("/v2/models/{model}/infer"), &body).await
    }
}
