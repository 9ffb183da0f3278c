//! What a tenant's uploads may take: bytes, memory, models, versions and changes.

use std::time::{Duration, Instant};

use airlock::digest::Digest;
use airlock_tests::{
    client::call,
    gateway::{Gateway, Repository},
    guest,
    process::Process,
    store::{Caller, Store},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::json;

use super::{MULTIPART, answered, constant, multipart, ok, refused};

/// The most memory that a process has used so far, in bytes.
fn peak_memory(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("a running process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("the kernel tells");
    line.trim().trim_end_matches(" kB").trim().parse::<u64>().expect("a number") << 10
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_tenant_keeps_is_bounded() {
    let store = Store::default();
    let gateway = Gateway::serve_with(Repository::default(), |settings| {
        settings.store = Some(store.location());
        settings.limits.tenant_models = Some(2);
        settings.limits.tenant_versions = Some(2);
        settings.limits.max_upload = Some("100KiB".parse().expect("a size"));
        settings.limits.tenant_storage = Some("100KiB".parse().expect("a size"));
    })
    .await;
    let tenant = Caller::anybody(&gateway);
    ok(&tenant.put("a", "1", constant(1.0)).await);
    ok(&tenant.put("a", "2", constant(2.0)).await);
    refused(
        &tenant.put("a", "3", constant(3.0)).await,
        429,
        "quota_exceeded",
        "versions of this model: 2 of 2",
    );
    ok(&tenant.put("b", "1", constant(1.0)).await);
    refused(&tenant.put("c", "1", constant(1.0)).await, 429, "quota_exceeded", "models: 2 of 2");
    ok(&tenant.send("DELETE", "/v2/repository/models/a", &[], "").await);
    ok(&tenant.put("c", "1", constant(1.0)).await);
    refused(&tenant.put("c", "2", vec![0; 200 << 10]).await, 413, "too_large", "102400 bytes");
    let large = [("file", Some("w.bin"), vec![7; 95 << 10])];
    let artifact = constant(1.0);
    let parts = [("artifact", None, artifact.as_slice()), (large[0].0, large[0].1, large[0].2.as_slice())];
    let answer =
        tenant.send("PUT", "/v2/repository/models/c/versions/2", &[MULTIPART], multipart(&parts)).await;
    refused(&answer, 429, "quota_exceeded", "bytes of storage");
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_are_bounded_in_number() {
    let store = Store::default();
    let gateway = Gateway::serve_with(Repository::default(), |settings| {
        settings.store = Some(store.location());
        settings.limits.tenant_changes = Some(3);
    })
    .await;
    let tenant = Caller::anybody(&gateway);
    ok(&tenant.put("m", "1", constant(1.0)).await);
    for unloaded in [true, false] {
        let settings = json!({ "unloaded": unloaded }).to_string();
        ok(&tenant.send("PUT", "/v2/repository/models/m/settings", &[], settings).await);
    }
    let refusal = tenant.put("m", "2", constant(2.0)).await;
    refused(&refusal, 429, "rate_limited", "3 changes within an hour");
    let wait: u64 = refusal.header("retry-after").and_then(|wait| wait.parse().ok()).expect("a time");
    assert!((3000..=3601).contains(&wait), "{wait}");
    ok(&tenant.put("m", "1", constant(1.0)).await);
    assert_eq!(answered(&tenant.infer("m", 0.0).await), 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_loaded_counts_as_well_as_what_is_stored() {
    let store = Store::default();
    let gateway = Gateway::serve_with(Repository::default(), |settings| {
        settings.store = Some(store.location());
        settings.limits.tenant_loaded = Some("4MiB".parse().expect("a size"));
    })
    .await;
    let tenant = Caller::anybody(&gateway);
    ok(&tenant.put("small", "1", constant(1.0)).await);
    // Small as an upload, large as the memory that `load` fills.
    let artifact = guest::module(guest::LOADED).expect("a valid fixture");
    let weights = vec![7; 3 << 20];
    let parts: [(&str, Option<&str>, &[u8]); 2] =
        [("artifact", None, &artifact), ("file", Some("weights.bin"), &weights)];
    let path = "/v2/repository/models/large/versions/1";
    let answer = tenant.send("PUT", path, &[MULTIPART], multipart(&parts)).await;
    refused(&answer, 429, "quota_exceeded", "bytes of loaded models");
    assert_eq!(tenant.get("/v2/models/large").await.status, 404);
    assert_eq!(answered(&tenant.infer("small", 0.0).await), 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_without_boundaries_and_a_huge_configuration_are_refused() {
    let store = Store::default();
    let process = Process::serve(&["--store", store.path().to_str().expect("UTF-8")]);
    let before = peak_memory(process.id());
    let path = "/v2/repository/models/m/versions/1";
    let body = bytes::Bytes::from(vec![b'x'; 200 << 20]);
    let answer = call(process.address, "PUT", path, &[MULTIPART], body).await;
    refused(&answer, 413, "too_large", "bytes that are accepted");
    let grown = peak_memory(process.id()) - before;
    assert!(grown < 64 << 20, "{grown} bytes more than before");
    let keys: Vec<String> = (0..20_000).map(|key| format!("\"k{key}\":null")).collect();
    let config = format!("{{\"parameters\":{{{}}}}}", keys.join(","));
    let load = json!({ "parameters": { "config": config, "file:1/model.wasm": "AGFzbQ==" } });
    let begun = Instant::now();
    let answer = call(process.address, "POST", "/v2/repository/models/m/load", &[], load.to_string()).await;
    refused(&answer, 413, "too_large", "65536");
    assert!(begun.elapsed() < Duration::from_secs(5));
    let named: Vec<String> = (0..100).map(|version| format!("\"v{version}\"")).collect();
    let config = format!("version_policy = {{ specific = [{}] }}", named.join(","));
    let parts: [(&str, Option<&str>, &[u8]); 2] =
        [("config", None, config.as_bytes()), ("artifact", None, b"x")];
    let answer = call(process.address, "PUT", path, &[MULTIPART], multipart(&parts)).await;
    refused(&answer, 400, "bad_request", "more than 64 versions");
}

#[tokio::test(flavor = "multi_thread")]
async fn receiving_256_mib_takes_less_than_32_mib_of_memory() {
    const SIZE: usize = 256 << 20;
    let store = Store::default();
    let process = Process::serve(&["--store", store.path().to_str().expect("UTF-8")]);
    let before = peak_memory(process.id());
    // The digest is wrong, so nothing is done with it after it was received and digested.
    let digest = format!("sha-256=:{}:", BASE64_STANDARD.encode(Digest::of(b"other").as_bytes()));
    let body = bytes::Bytes::from(vec![8; SIZE]);
    let path = "/v2/repository/models/m/versions/1";
    let answer = call(process.address, "PUT", path, &[("content-digest", &digest)], body).await;
    refused(&answer, 400, "bad_request", "altered on its way");
    let grown = peak_memory(process.id()) - before;
    assert!(grown < 32 << 20, "{grown} bytes more than before");
}
