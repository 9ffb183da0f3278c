//! Who may import whom: the design's rules, checked on the gateway's own sources.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Rooms that import only each other and nothing that serves.
const VOCABULARY: [&str; 12] = [
    "tensor",
    "content_type",
    "proto",
    "name",
    "deadline",
    "limits",
    "reply",
    "digest",
    "secret",
    "consumption",
    "log_allowance",
    "memory_watch",
];

/// Rooms of which none knows another; the road leads through them.
const STATIONS: [&str; 7] = ["authenticate", "route", "admit", "decode", "encode", "execute", "meter"];

/// Foreign crates, and the only places that may name them.
const HOMES: [(&str, &[&str]); 22] = [
    ("wasmtime", &["execute/wasm"]),
    ("wasmtime_wizer", &["execute/wasm"]),
    ("wasmparser", &["execute/wasm"]),
    ("wit_component", &["execute/wasm"]),
    ("tract_onnx", &["execute/native"]),
    ("airlock_onnx", &["execute/native"]),
    ("ort", &["execute/native/onnxruntime"]),
    ("prost", &["execute/native", "proto", "encode/grpc.rs", "listen/grpc"]),
    ("prost_types", &["listen/grpc"]),
    ("hyper", &["listen", "route", "authenticate", "infer", "verify", "error.rs"]),
    ("anyhow", &["cli", "main.rs"]),
    ("object_store", &["repository"]),
    ("ring", &["digest.rs", "secret.rs"]),
    ("async_task", &["execute/schedule"]),
    ("reqwest", &["cli"]),
    ("rustls", &["cli", "listen", "repository"]),
    ("tokio_rustls", &["listen"]),
    ("prometheus", &["metrics"]),
    ("tracing_appender", &["cli"]),
    ("opentelemetry", &["cli"]),
    ("opentelemetry_sdk", &["cli"]),
    ("opentelemetry_otlp", &["cli"]),
];

fn sources() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../gateway/src");
    let mut folders = vec![root.clone()];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("the gateway's sources are there") {
            let path: PathBuf = entry.expect("a readable folder").path();
            let tests = path.file_stem().is_some_and(|stem| stem == "tests");
            if path.is_dir() && !tests {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") && !tests {
                let name = path.strip_prefix(&root).expect("below the root").to_string_lossy().into_owned();
                found.push((name, code(&fs::read_to_string(&path).expect("UTF-8"))));
            }
        }
    }
    assert!(found.len() > 40, "the gateway's sources were not found");
    found
}

/// The source without comments and without its inline tests.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// The room that a file belongs to: `decode/json/mod.rs` and `decode.rs` to `decode`.
fn room(file: &str) -> &str {
    file.split(['/', '.']).next().unwrap_or_default()
}

/// The rooms of this crate that a source names, as `crate::room` or in a `use crate::{room::…, …}` list.
fn rooms_named(code: &str) -> Vec<String> {
    let mut rooms: Vec<String> = Vec::new();
    for (_, rest) in code.match_indices("crate::").map(|(at, text)| (at, &code[at + text.len()..])) {
        if let Some(list) = rest.strip_prefix('{') {
            let mut depth = 0;
            let mut item = String::new();
            for character in list.chars() {
                match character {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => rooms.push(std::mem::take(&mut item)),
                    _ if depth == 0 => item.push(character),
                    _ => {}
                }
            }
            rooms.push(item);
        } else {
            rooms.push(rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect());
        }
    }
    rooms.iter().map(|item| item.trim().split("::").next().unwrap_or_default().to_owned()).collect()
}

#[test]
fn the_vocabulary_knows_nobody_and_stations_know_only_the_vocabulary() {
    let mut faults = Vec::new();
    for (file, code) in sources() {
        let room = room(&file);
        let allowed = |named: &str| match room {
            _ if VOCABULARY.contains(&room) => VOCABULARY.contains(&named),
            _ if STATIONS.contains(&room) => VOCABULARY.contains(&named) || named == room,
            "repository" => VOCABULARY.contains(&named) || matches!(named, "repository" | "execute"),
            _ => true,
        };
        faults.extend(
            rooms_named(&code)
                .into_iter()
                .filter(|named| !named.is_empty() && !allowed(named))
                .map(|named| format!("{file} imports {named}")),
        );
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn foreign_crates_have_one_home() {
    let mut faults = Vec::new();
    for (file, code) in sources() {
        for (name, homes) in HOMES {
            let named = code.match_indices(&format!("{name}::")).any(|(at, _)| {
                // `http_body_util::` does not name `util`, and `wasmtime_wizer::` not `wasmtime`.
                !code[..at]
                    .ends_with(|before: char| before.is_alphanumeric() || before == '_' || before == ':')
            });
            if named && !homes.iter().any(|home| file.starts_with(home)) {
                faults.push(format!("{file} names {name}, which belongs to {homes:?}"));
            }
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn only_the_front_door_the_byways_and_the_builder_know_the_road() {
    for (file, code) in sources() {
        let knows = rooms_named(&code).iter().any(|named| named == "infer");
        let may = ["listen", "server", "infer", "verify", "trial", "metrics"].contains(&room(&file));
        assert!(may || !knows, "{file} imports the road");
    }
}

#[test]
fn the_checks_see_what_they_look_for() {
    let code = "use crate::{\n    a::{B, C},\n    d,\n};\nfn f() { crate::e::g(); }";
    assert_eq!(rooms_named(code), ["a", "d", "", "e"]);
}
