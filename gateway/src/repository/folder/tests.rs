use std::{collections::BTreeSet, os::unix::fs::symlink, process::Command};

use tempfile::TempDir;

use super::*;

const LIMITS: ReadLimits = ReadLimits { wasm: 100, onnx: 200, files: 50 };

/// A repository with these files: path below the root, and content.
fn repository(files: &[(&str, &str)]) -> (TempDir, Folder) {
    let dir = tempfile::tempdir().expect("a folder for the test");
    for (path, content) in files {
        write(&dir, path, content);
    }
    let folder = Folder::new(dir.path().to_owned(), LIMITS).expect("a folder");
    (dir, folder)
}

fn write(dir: &TempDir, path: &str, content: &str) {
    let path = dir.path().join(path);
    fs::create_dir_all(path.parent().expect("below the root")).expect("a folder");
    fs::write(path, content).expect("a file");
}

fn survey(folder: &Folder) -> Survey {
    folder.survey().expect("a readable root")
}

fn observed(folder: &Folder) -> Observation {
    folder.observe(&"m".parse().expect("a name")).expect("a readable root").expect("a model")
}

fn versions(folder: &Folder) -> Vec<String> {
    observed(folder).versions.keys().map(Version::to_string).collect()
}

fn config(folder: &Folder) -> Result<ModelConfig, String> {
    folder.config(&"m".parse().expect("a name"))
}

fn read(folder: &Folder, version: &str) -> Result<Loadable, String> {
    let config = config(folder).expect("a valid configuration");
    folder.read(&"m".parse().expect("a name"), &version.parse().expect("a version"), &config)
}

fn refused(folder: &Folder) -> String {
    read(folder, "1").expect_err("to be refused")
}

fn fifo(path: &Path) {
    let status = Command::new("mkfifo").arg(path).status().expect("mkfifo runs");
    assert!(status.success());
}

#[test]
fn a_version_is_its_artifact_and_the_files_beside_it() {
    let (_dir, folder) = repository(&[
        ("m/1/model.wasm", "component"),
        ("m/1/weights.bin", "1234"),
        ("m/1/labels.txt", "cat"),
        ("m/1/.weights.bin.swp", "x"),
        ("m/1/deeper/file", "x"),
    ]);
    let loadable = read(&folder, "1").expect("readable");
    assert_eq!(loadable.kind, Kind::Wasm);
    assert_eq!(loadable.source.artifact, b"component");
    let files = [("labels.txt".into(), b"cat".to_vec()), ("weights.bin".into(), b"1234".to_vec())];
    assert_eq!(loadable.source.files, files);
    assert_eq!(loadable.ignored, ["m/1/.weights.bin.swp is hidden", "m/1/deeper is not a regular file"]);
}

#[test]
fn files_beside_an_onnx_model_are_not_read() {
    let (_dir, folder) = repository(&[("m/1/model.onnx", "graph"), ("m/1/weights.bin", "1234")]);
    let loadable = read(&folder, "1").expect("readable");
    assert_eq!((loadable.kind, loadable.source.files.len()), (Kind::Onnx, 0));
}

#[test]
fn models_and_versions_are_told_from_what_lies_among_them() {
    let long = "x".repeat(200);
    let (dir, folder) = repository(&[
        ("m/1/model.wasm", ""),
        ("m/10/model.wasm", ""),
        ("m/beta/model.wasm", ""),
        ("m/01/model.wasm", ""),
        ("m/0/model.wasm", ""),
        ("m/configs/a.pbtxt", ""),
        ("m/.git/config", ""),
        ("m/labels.txt", ""),
        ("m/bad name/model.wasm", ""),
        ("m/config.pbtxt", ""),
        ("m/99999999999999999999999/model.wasm", ""),
        ("README.md", ""),
        (".hidden/1/model.wasm", ""),
        ("bad name/1/model.wasm", ""),
        (&format!("{long}/1/model.wasm"), ""),
        ("a..b/1/model.wasm", ""),
    ]);
    fifo(&dir.path().join("pipe"));
    let survey = survey(&folder);
    let names: Vec<&str> = survey.models.keys().map(ModelName::as_str).collect();
    assert_eq!(names, ["m"]);
    assert_eq!(survey.ignored.len(), 6, "{:?}", survey.ignored);
    assert!(survey.ignored.iter().all(|reason| reason.len() < 200));
    let model = observed(&folder);
    let versions: Vec<&str> = model.versions.keys().map(Version::as_str).collect();
    assert_eq!(versions, ["99999999999999999999999", "beta", "1", "10"]);
    assert_eq!(model.config.keys().collect::<Vec<_>>(), ["config.pbtxt", "labels.txt"]);
    assert_eq!(
        model.ignored,
        [
            "m: \"bad name\" is not a name: use 1 to 64 of A-Z a-z 0-9 . _ - and begin with a letter or digit",
            "m: '.git' is hidden",
            "m: '0' begins with 0, as no version may",
            "m: '01' begins with 0, as no version may",
            "m: alternative configurations are not supported",
        ]
    );
}

#[test]
fn exactly_one_artifact_is_expected() {
    let (dir, folder) = repository(&[("m/1/Model.wasm", "")]);
    assert_eq!(refused(&folder), "expected m/1/model.wasm or m/1/model.onnx");
    write(&dir, "m/1/model.wasm", "");
    write(&dir, "m/1/model.onnx", "");
    assert_eq!(refused(&folder), "m/1 holds both model.wasm and model.onnx: keep one");
    let (_dir, folder) =
        repository(&[("m/1/model.wasm", ""), ("m/config.pbtxt", "backend: \"onnxruntime\"")]);
    assert_eq!(
        refused(&folder),
        "config.pbtxt says that the model is ONNX, so model.onnx is expected in m/1; given model.wasm"
    );
}

#[test]
fn the_configuration_may_name_the_artifact() {
    let (dir, folder) =
        repository(&[("m/1/net.onnx", "graph"), ("m/config.pbtxt", "default_model_filename: \"net.onnx\"")]);
    assert_eq!(read(&folder, "1").expect("readable").kind, Kind::Onnx);
    write(&dir, "m/config.pbtxt", "default_model_filename: \"other.onnx\"");
    assert_eq!(refused(&folder), "expected m/1/other.onnx, as config.pbtxt says");
    write(&dir, "m/config.pbtxt", "default_model_filename: \"net\" backend: \"wasm\"");
    write(&dir, "m/1/net", "component");
    let loadable = read(&folder, "1").expect("readable");
    assert_eq!((loadable.kind, loadable.source.files.len()), (Kind::Wasm, 1));
    write(&dir, "m/config.pbtxt", "default_model_filename: \"net\"");
    assert_eq!(refused(&folder), "'net' ends in neither .wasm nor .onnx, and config.pbtxt names no platform");
}

#[test]
fn sizes_are_bounded() {
    let (dir, folder) = repository(&[("m/1/model.wasm", &"x".repeat(100)), ("m/1/a", &"x".repeat(30))]);
    write(&dir, "m/1/b", &"x".repeat(20));
    assert!(read(&folder, "1").is_ok());
    write(&dir, "m/1/b", &"x".repeat(21));
    assert_eq!(refused(&folder), "the files beside m/1/model.wasm have more than 50 bytes together");
    write(&dir, "m/1/model.wasm", &"x".repeat(101));
    assert_eq!(refused(&folder), "m/1/model.wasm has 101 bytes, at most 100 are allowed");
    fs::remove_file(dir.path().join("m/1/model.wasm")).expect("removed");
    write(&dir, "m/1/model.onnx", &"x".repeat(200));
    assert!(read(&folder, "1").is_ok());
    (0..=MAX_FILES).for_each(|i| write(&dir, &format!("m/1/file{i}"), ""));
    assert_eq!(refused(&folder), "m/1 holds more than 1024 files");
    write(&dir, "m/config.pbtxt", &" ".repeat(1 << 20));
    assert!(config(&folder).is_ok());
    write(&dir, "m/config.pbtxt", &" ".repeat((1 << 20) + 1));
    assert!(config(&folder).expect_err("too large").contains("at most 1048576 are allowed"));
}

#[test]
fn links_are_followed_inside_the_repository_only() {
    let secret = tempfile::tempdir().expect("a folder");
    fs::write(secret.path().join("model.wasm"), "secret").expect("a file");
    let (dir, folder) = repository(&[("m/1/model.wasm", "component"), ("shared/weights", "w")]);
    let link = |target: &Path, at: &str| symlink(target, dir.path().join(at)).expect("a link");
    link(&dir.path().join("shared/weights"), "m/1/weights");
    assert_eq!(read(&folder, "1").expect("readable").source.files.len(), 1);

    link(&secret.path().join("model.wasm"), "m/1/leak");
    assert_eq!(refused(&folder), "m/1/leak is a symbolic link that leads outside the model repository");
    link(secret.path(), "m/2");
    let told = read(&folder, "2").expect_err("to be refused");
    assert_eq!(told, "m/2 is a symbolic link that leads outside the model repository");
    assert_eq!(versions(&folder), ["1", "2"]);
    link(&secret.path().join("model.wasm"), "m/model.toml");
    let told = config(&folder).expect_err("to be refused");
    assert_eq!(told, "m/model.toml is a symbolic link that leads outside the model repository");
    link(secret.path(), "outside");
    let survey = survey(&folder);
    let outside = &survey.models[&"outside".parse().expect("a name")];
    assert_eq!(
        outside.problem.as_deref(),
        Some("outside is a symbolic link that leads outside the model repository")
    );
    assert!(outside.versions.is_empty());
}

#[test]
fn loops_and_dangling_links_end_in_a_reason() {
    let (dir, folder) = repository(&[("m/1/model.wasm", "component")]);
    let link = |target: &str, at: &str| symlink(target, dir.path().join(at)).expect("a link");
    link("loop", "loop");
    link("nowhere", "dangling");
    link(".", "whole");
    link("../..", "m/2");
    link("3", "m/3");
    link("nowhere", "m/labels");
    let survey = survey(&folder);
    for name in ["loop", "dangling"] {
        let problem = survey.models[&name.parse().expect("a name")].problem.clone().expect("a problem");
        assert!(problem.starts_with(&format!("{name} cannot be read: ")), "{problem}");
    }
    // The repository as a model of itself: its models are no versions that hold a model.
    assert!(survey.models.contains_key(&"whole".parse().expect("a name")));
    assert_eq!(versions(&folder), ["1", "2", "3"]);
    assert!(read(&folder, "3").expect_err("a loop").starts_with("m/3 cannot be read: "));
    assert!(read(&folder, "2").is_err());
    link("model.onnx", "m/1/model.onnx");
    assert!(refused(&folder).contains("both"));
    fs::remove_file(dir.path().join("m/1/model.wasm")).expect("removed");
    assert!(refused(&folder).starts_with("m/1/model.onnx cannot be read: "));
}

#[test]
fn what_is_no_regular_file_is_never_opened() {
    let (dir, folder) = repository(&[("m/2/model.wasm", "component")]);
    fs::create_dir_all(dir.path().join("m/1")).expect("a folder");
    fs::create_dir_all(dir.path().join("m/3/model.wasm")).expect("a folder");
    // Opening a FIFO would wait for ever.
    fifo(&dir.path().join("m/1/model.onnx"));
    assert_eq!(refused(&folder), "m/1/model.onnx is not a regular file");
    fifo(&dir.path().join("m/2/pipe"));
    assert_eq!(read(&folder, "2").expect("readable").ignored, ["m/2/pipe is not a regular file"]);
    assert_eq!(read(&folder, "3").expect_err("a folder"), "m/3/model.wasm is not a regular file");
    fifo(&dir.path().join("m/model.toml"));
    assert_eq!(config(&folder).expect_err("a pipe"), "m/model.toml is not a regular file");
    assert_eq!(versions(&folder), ["1", "2", "3"]);
}

#[test]
fn one_configuration_file_is_kept() {
    let (dir, folder) = repository(&[("m/1/model.wasm", "")]);
    assert_eq!(config(&folder), Ok(ModelConfig::default()));
    write(&dir, "m/model.toml", "max_batch_size = 4");
    assert_eq!(config(&folder).map(|config| config.max_batch_size), Ok(Some(4)));
    write(&dir, "m/config.pbtxt", "name: \"m\"");
    assert_eq!(config(&folder), Err("the model has both config.pbtxt and model.toml: keep one".into()));
    fs::remove_file(dir.path().join("m/model.toml")).expect("removed");
    assert!(config(&folder).is_ok());
    fs::write(dir.path().join("m/config.pbtxt"), b"name: \"\xff\"").expect("a file");
    assert_eq!(config(&folder), Err("m/config.pbtxt is not UTF-8 text".into()));
}

#[test]
fn every_change_of_a_file_is_observed_and_nothing_else() {
    let (dir, folder) = repository(&[("m/1/model.wasm", "old"), ("m/model.toml", "")]);
    let mut seen = vec![observed(&folder)];
    assert_eq!(observed(&folder), seen[0]);
    write(&dir, "m/1/.model.wasm.swp", "hidden");
    assert_eq!(observed(&folder), seen[0]);
    let mut changed = || {
        let now = observed(&folder);
        assert!(!seen.contains(&now), "{now:?}");
        seen.push(now);
    };
    write(&dir, "m/1/model.wasm", "newer");
    changed();
    write(&dir, "m/1/labels", "");
    changed();
    fs::rename(dir.path().join("m/1/labels"), dir.path().join("m/1/names")).expect("renamed");
    changed();
    write(&dir, "m/model.toml", "# a comment");
    changed();
    write(&dir, "m/2/model.wasm", "");
    changed();
    // Same size and same time of modification, yet not the same file.
    let path = dir.path().join("m/1/model.wasm");
    let modified = fs::metadata(&path).and_then(|metadata| metadata.modified()).expect("a time");
    std::thread::sleep(std::time::Duration::from_millis(20));
    fs::write(&path, "other").expect("a file");
    fs::File::options().write(true).open(&path).and_then(|file| file.set_modified(modified)).expect("set");
    changed();
}

#[test]
fn a_root_that_is_no_folder_is_refused() {
    let (dir, _) = repository(&[("file", "")]);
    for name in ["file", "nowhere"] {
        let error = Folder::new(dir.path().join(name), LIMITS).expect_err("to be refused").to_string();
        assert!(error.contains("the model repository cannot be read"), "{error}");
    }
}

#[test]
fn reasons_do_not_tell_where_the_repository_is() {
    let (dir, folder) = repository(&[("m/2/model.wasm", &"x".repeat(500))]);
    symlink("/etc", dir.path().join("m/1")).expect("a link");
    symlink("/etc/hostname", dir.path().join("m/2/hostname")).expect("a link");
    let root = dir.path().to_str().expect("UTF-8").to_owned();
    let reasons: BTreeSet<String> =
        ["1", "2", "3"].iter().map(|version| read(&folder, version).expect_err("refused")).collect();
    assert_eq!(reasons.len(), 3);
    for reason in reasons {
        assert!(!reason.contains(&root) && !reason.contains("/etc"), "{reason}");
    }
}
