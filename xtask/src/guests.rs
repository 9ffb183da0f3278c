//! `cargo xtask guests`: builds the example plugins, makes the ONNX models, and lays the whole example model
//! repository out under `target/models`.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::{
    python, shell,
    toolchain::{TARGET, Toolchain},
};

/// Models that a plugin of the same or another name serves. What else they need lies in `examples/models`.
const PLUGINS: [(&str, &str); 12] = [
    ("add", "add"),
    ("babble", "babble"),
    ("batched", "echo"),
    ("digits-pipeline", "digits_pipeline"),
    ("failing", "failing"),
    ("identity", "echo"),
    ("image-preprocess", "image_preprocess"),
    ("iris", "iris"),
    ("matmul", "matmul"),
    ("text-clean", "text_clean"),
    ("two_io", "two_io"),
    ("versions", "echo"),
];

/// The datatypes of the models `id_bool` to `id_bytes`.
const DATATYPES: [&str; 14] = [
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "BF16", "FP32",
    "FP64", "BYTES",
];

/// Models whose files a script of `examples/training` makes.
const SCRIPTS: [(&str, &str); 4] = [
    ("digits", "digits.py"),
    ("identity_onnx", "identity_onnx.py"),
    ("iris", "iris.py"),
    ("magika", "magika.py"),
];

/// Builds what has changed and brings `target/models` up to date.
pub fn run() -> Result<()> {
    // Cargo is started in another folder, where a relative path would mean another place.
    let target = std::path::absolute(shell::target())?;
    let plugins = build_plugins(&target.join("guests"))?;
    let made = target.join("training");
    run_scripts(&made)?;
    let mut repository = Repository::new(target.join("models"));

    for (model, plugin) in PLUGINS {
        repository.add(&format!("{model}/1/model.wasm"), &plugins.join(format!("{plugin}.wasm")))?;
    }
    repository.add("versions/2/model.wasm", &plugins.join("echo.wasm"))?;
    for datatype in DATATYPES {
        let model = format!("id_{}", datatype.to_lowercase());
        repository.add(&format!("{model}/1/model.wasm"), &plugins.join("echo.wasm"))?;
        let configuration = format!("[parameters]\ndatatype = \"{datatype}\"\nshape = \"[-1]\"\n");
        repository.write(&format!("{model}/model.toml"), configuration.as_bytes())?;
    }
    for (model, _) in SCRIPTS {
        for file in files_in(&made.join(model))? {
            repository.add(&format!("{model}/1/{file}"), &made.join(model).join(&file))?;
        }
    }
    let configurations = shell::root().join("examples/models");
    for model in files_in(&configurations)? {
        repository.add(&format!("{model}/model.toml"), &configurations.join(&model).join("model.toml"))?;
    }

    repository.remove_others()?;
    eprintln!("==> {} models in {}", repository.models(), repository.root.display());
    Ok(())
}

/// Builds all plugins; returns the folder with their modules. They are core modules that carry their component type:
/// the gateway makes components of them, so no other tool than the compiler is needed.
fn build_plugins(target: &Path) -> Result<PathBuf> {
    let toolchain = Toolchain::find()?;
    shell::run(
        &format!("building the example plugins with {}", toolchain.description()),
        // In this folder cargo finds the target's flags, `.cargo/config.toml`.
        toolchain
            .cargo_build()
            .arg("--target-dir")
            .arg(target)
            .current_dir(shell::root().join("examples/guests")),
    )?;
    Ok(target.join(TARGET).join("release"))
}

/// Runs the scripts that changed since they last ran; each model gets a folder of its own in `made`.
fn run_scripts(made: &Path) -> Result<()> {
    let examples = shell::root().join("examples");
    let requirements = examples.join("requirements.txt");
    let python = python::venv("examples", &[&requirements])?;
    for (model, name) in SCRIPTS {
        let script = examples.join("training").join(name);
        let stamp = made.join(format!("{model}.made-by"));
        let made_by = [fs::read(&script), fs::read(&requirements)]
            .into_iter()
            .collect::<Result<Vec<_>, _>>()
            .with_context(|| format!("cannot read {}", script.display()))?
            .concat();
        if fs::read(&stamp).is_ok_and(|stamp| stamp == made_by) {
            continue;
        }
        let folder = made.join(model);
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        shell::run(&format!("making the model {model}"), Command::new(&python).arg(&script).arg(&folder))?;
        // Last, so that an interrupted run is repeated.
        fs::write(&stamp, made_by).with_context(|| format!("cannot write {}", stamp.display()))?;
    }
    Ok(())
}

fn files_in(folder: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    Ok(names)
}

/// The model repository that is being laid out. Files that are right are left alone, so that a gateway that polls
/// loads only what has changed.
struct Repository {
    root: PathBuf,
    files: BTreeSet<PathBuf>,
}

impl Repository {
    fn new(root: PathBuf) -> Self {
        Self { root, files: BTreeSet::new() }
    }

    fn models(&self) -> usize {
        let models = self.files.iter().filter_map(|file| file.strip_prefix(&self.root).ok()?.iter().next());
        models.collect::<BTreeSet<_>>().len()
    }

    /// Copies a file there.
    fn add(&mut self, path: &str, from: &Path) -> Result<()> {
        let content = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
        self.write(path, &content)
    }

    fn write(&mut self, path: &str, content: &[u8]) -> Result<()> {
        let path = self.root.join(path);
        if fs::read(&path).ok().as_deref() != Some(content) {
            let folder = path.parent().context("a file lies in a folder")?;
            // Renamed into place: a gateway that is serving the folder never sees half a file.
            let unfinished = self.root.join(".unfinished");
            fs::create_dir_all(folder)
                .and_then(|()| fs::write(&unfinished, content))
                .and_then(|()| fs::rename(&unfinished, &path))
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        self.files.insert(path);
        Ok(())
    }

    /// Removes what an earlier layout left behind.
    fn remove_others(&self) -> Result<()> {
        let mut folders = vec![self.root.clone()];
        while let Some(folder) = folders.pop() {
            for name in files_in(&folder)? {
                let path = folder.join(name);
                if self.files.contains(&path) {
                    continue;
                }
                if self.files.iter().any(|file| file.starts_with(&path)) {
                    folders.push(path);
                } else if path.is_dir() {
                    fs::remove_dir_all(&path).with_context(|| format!("cannot remove {}", path.display()))?;
                } else {
                    fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_repository_holds_what_was_added_and_leaves_what_is_right_alone() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let root = folder.path().to_owned();
        let lay_out = |files: &[(&str, &str)]| {
            let mut repository = Repository::new(root.clone());
            for (path, content) in files {
                repository.write(path, content.as_bytes()).expect("written");
            }
            repository.remove_others().expect("removed");
            repository.models()
        };
        assert_eq!(lay_out(&[("a/1/model.wasm", "1"), ("a/2/model.wasm", "2"), ("b/1/model.onnx", "3")]), 2);
        let unchanged = root.join("a/1/model.wasm");
        let written = fs::metadata(&unchanged).and_then(|file| file.modified()).expect("it is there");

        assert_eq!(lay_out(&[("a/1/model.wasm", "1"), ("a/model.toml", "x")]), 1);
        assert_eq!(fs::metadata(&unchanged).and_then(|file| file.modified()).expect("it is there"), written);
        assert_eq!(fs::read_to_string(root.join("a/model.toml")).expect("it is there"), "x");
        assert!(!root.join("a/2").exists() && !root.join("b").exists());
        assert_eq!(files_in(&root).expect("readable"), ["a"]);
    }
}
