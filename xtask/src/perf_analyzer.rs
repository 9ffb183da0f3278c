//! NVIDIA's perf_analyzer from PyPI: a program that wants a later C library than Debian 12 has. Where the system's is too old,
//! Debian 13's is unpacked beside the program, and nothing is installed.

use std::{
    env::consts::ARCH,
    ffi::OsString,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};

use crate::shell;

/// The libraries that it is linked with, in Debian 13.
const LIBRARIES: [&str; 6] = ["libc6", "libgcc-s1", "libssl3t64", "libstdc++6", "libzstd1", "zlib1g"];
const RELEASE: &str = "trixie";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// Where Debian's mirror stands, in the new form and in the old one.
const SOURCES: [&str; 2] = ["/etc/apt/sources.list.d/debian.sources", "/etc/apt/sources.list"];

/// How to start it, program and first arguments. None where it cannot run: the system's C library is too old, and the system
/// is not Debian.
pub fn command(python: &Path, requirements: &Path) -> Result<Option<Vec<OsString>>> {
    let folder = shell::target().join("perf-analyzer");
    let (stamp, wanted) = (folder.join("made-from.txt"), fs::read_to_string(requirements)?);
    let made = fs::read_to_string(&stamp).is_ok_and(|made| made == wanted);
    if !made {
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        download(python, requirements, &folder)?;
    }
    let program = folder.join("package/perf_analyzer/bin/perf_analyzer");
    let mut command = vec![program.clone().into_os_string()];
    if !runs(&command) {
        let libraries = folder.join("libraries");
        if !libraries.is_dir() {
            let Some(mirror) = mirror() else { return Ok(None) };
            unpack_libraries(&mirror, &folder, &libraries)?;
        }
        command = started_with(&libraries, &program)?;
        ensure!(runs(&command), "perf_analyzer does not start with the libraries of Debian's {RELEASE}");
    }
    // Last, so that an interrupted download is not taken for a finished one.
    fs::write(&stamp, wanted).with_context(|| stamp.display().to_string())?;
    Ok(Some(command))
}

fn download(python: &Path, requirements: &Path, folder: &Path) -> Result<()> {
    let wheels = folder.join("wheels");
    fs::create_dir_all(&wheels)?;
    let mut pip = Command::new(python);
    pip.args(["-m", "pip", "download", "--disable-pip-version-check", "--progress-bar", "off", "--quiet"]);
    // Not this system's platform, for which there may be none.
    pip.args(["--no-deps", "--only-binary", ":all:", "--platform", &format!("manylinux_2_38_{ARCH}")]);
    pip.arg("--dest").arg(&wheels).arg("--requirement").arg(requirements);
    shell::run("perf_analyzer from PyPI", &mut pip)?;
    let wheel = fs::read_dir(&wheels)?.flatten().next().context("pip downloaded nothing")?.path();
    let package = folder.join("package");
    let mut unzip = Command::new(python);
    shell::run("unpacking it", unzip.args(["-m", "zipfile", "-e"]).arg(wheel).arg(&package))?;
    let program = package.join("perf_analyzer/bin/perf_analyzer");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))
        .with_context(|| program.display().to_string())
}

fn runs(command: &[OsString]) -> bool {
    let mut probe = Command::new(&command[0]);
    probe.args(&command[1..]).arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
    probe.status().is_ok_and(|status| status.success())
}

/// The mirror that apt of this machine uses.
fn mirror() -> Option<String> {
    let texts = SOURCES.iter().filter_map(|path| fs::read_to_string(path).ok());
    texts.filter_map(|text| first_mirror(&text)).next()
}

fn first_mirror(sources: &str) -> Option<String> {
    let lines =
        sources.lines().map(str::trim).filter(|line| line.starts_with("URIs:") || line.starts_with("deb "));
    let mut words = lines.flat_map(str::split_whitespace);
    words.find(|word| word.contains("://") && word.contains("debian")).map(str::to_owned)
}

/// Fetches the packages with lists of their own, and unpacks them.
fn unpack_libraries(mirror: &str, folder: &Path, into: &Path) -> Result<()> {
    let apt_folder = folder.join("apt");
    for part in ["lists/partial", "cache/archives/partial", "packages"] {
        fs::create_dir_all(apt_folder.join(part))?;
    }
    let path = |part: &str| apt_folder.join(part).display().to_string();
    fs::write(path("status"), "")?;
    fs::write(path("sources.list"), format!("deb [signed-by={KEYRING}] {mirror} {RELEASE} main\n"))?;
    let options = [
        format!("Dir::Etc::sourcelist={}", path("sources.list")),
        "Dir::Etc::sourceparts=-".to_owned(),
        format!("Dir::State::lists={}", path("lists")),
        format!("Dir::State::status={}", path("status")),
        format!("Dir::Cache={}", path("cache")),
        "APT::Sandbox::User=root".to_owned(),
        "Acquire::Languages=none".to_owned(),
        "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".to_owned(),
    ];
    let apt = |arguments: &[&str]| {
        let mut apt = Command::new("apt-get");
        apt.arg("--quiet").args(options.iter().flat_map(|option| ["-o", option])).args(arguments);
        apt.current_dir(apt_folder.join("packages"));
        apt
    };
    shell::run(&format!("lists of packages of Debian's {RELEASE}"), &mut apt(&["update"]))?;
    shell::run("the libraries of perf_analyzer", apt(&["download"]).args(LIBRARIES))?;
    for package in fs::read_dir(apt_folder.join("packages"))?.flatten() {
        let unpacked = Command::new("dpkg-deb").arg("-x").arg(package.path()).arg(into).status();
        ensure!(
            unpacked.context("cannot start dpkg-deb")?.success(),
            "{} cannot be unpacked",
            package.path().display()
        );
    }
    Ok(())
}

/// The program by way of the loader that belongs to the libraries.
fn started_with(libraries: &Path, program: &Path) -> Result<Vec<OsString>> {
    let folder = libraries.join(format!("usr/lib/{ARCH}-linux-gnu"));
    let loader = fs::read_dir(&folder)
        .with_context(|| folder.display().to_string())?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("ld-linux")))
        .with_context(|| format!("no loader in {}", folder.display()))?;
    let words: [PathBuf; 4] = [loader, "--library-path".into(), folder, program.to_owned()];
    Ok(words.into_iter().map(PathBuf::into_os_string).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_found_in_both_forms() {
        let new = "Types: deb\n# http://snapshot.example/debian\nURIs: http://mirror.example/debian\nSuites: bookworm\n";
        assert_eq!(first_mirror(new).as_deref(), Some("http://mirror.example/debian"));
        let old =
            "# deb http://a.example/debian x\ndeb [arch=amd64] http://mirror.example/debian bookworm main\n";
        assert_eq!(first_mirror(old).as_deref(), Some("http://mirror.example/debian"));
        assert_eq!(first_mirror("URIs: http://archive.example/ubuntu\n"), None);
    }
}
