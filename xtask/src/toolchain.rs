//! Compilers, and what is installed beside them. Plugins are built for `wasm32-unknown-unknown` in both worlds: where a Rust
//! toolchain has that target's standard library, and where it has not and the library is built from its sources.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use crate::shell;

pub const TARGET: &str = "wasm32-unknown-unknown";

/// Debian's newest compiler and the sources of its standard library.
const DEBIAN_PACKAGES: [&str; 2] = ["rustc-web", "rust-web-src"];
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";

/// A download that takes longer is taken for one that will never end.
const RUSTUP_PATIENCE: Duration = Duration::from_secs(60);

/// A compiler that can build plugins.
#[derive(Debug)]
pub struct Toolchain {
    rustc: PathBuf,
    /// Whether the standard library has to be built from its sources first.
    build_std: bool,
    /// `None`: the compiler's own.
    linker: Option<PathBuf>,
}

impl Toolchain {
    /// The first that fits: a compiler at hand that has the target's standard library, one that has its sources, the
    /// target from rustup, the compiler and the sources from Debian.
    pub fn find() -> Result<Self> {
        if let Some(found) = Self::at_hand()? {
            return Ok(found);
        }
        if add_with_rustup(&["target", "add", TARGET])
            && let Some(found) = Self::at_hand()?
        {
            return Ok(found);
        }
        install_from_debian(
            &DEBIAN_PACKAGES,
            &format!("building plugins takes `rustup target add {TARGET}`"),
        )?;
        Self::at_hand()?.context("the installed packages hold no sources of the standard library")
    }

    fn at_hand() -> Result<Option<Self>> {
        let compilers: Vec<Compiler> = ["rustc", DEBIAN_RUSTC]
            .into_iter()
            .filter_map(|rustc| Compiler::probe(Path::new(rustc)))
            .collect();
        if let Some(found) = compilers.iter().find(|compiler| compiler.has_std()) {
            return Ok(Some(Self { rustc: found.rustc.clone(), build_std: false, linker: None }));
        }
        let Some(found) = compilers.iter().find(|compiler| compiler.has_sources()) else {
            return Ok(None);
        };
        let linker = compilers.iter().find_map(Compiler::linker).or_else(linker_on_path).context(
            "building plugins takes a linker for wasm: rustup's toolchains have one, and so has Debian's package lld",
        )?;
        Ok(Some(Self { rustc: found.rustc.clone(), build_std: true, linker: Some(linker) }))
    }

    /// What it is, for people.
    pub fn description(&self) -> String {
        let std =
            if self.build_std { "builds the standard library first" } else { "has the standard library" };
        format!("{}, which {std} for {TARGET}", self.rustc.display())
    }

    /// `cargo build --release` for plugins, to be completed.
    pub fn cargo_build(&self) -> Command {
        let mut cargo = cargo();
        cargo.args(["build", "--release", "--target", TARGET]).env("RUSTC", &self.rustc);
        if let Some(linker) = &self.linker {
            cargo.env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", linker);
        }
        if self.build_std {
            // The flag is not stable; the variable lets a stable compiler take it.
            cargo.arg("-Zbuild-std=std,panic_abort").env("RUSTC_BOOTSTRAP", "1");
        }
        cargo
    }
}

/// A cargo that knows nothing of the one that runs this task: its flags are for another target, and each of them
/// would also rebuild everything.
fn cargo() -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in env::vars_os() {
        let name = name.to_string_lossy();
        let ours =
            ["CARGO_HOME", "CARGO_HTTP_", "CARGO_NET_", "CARGO_REGISTR", "CARGO_SOURCE_", "CARGO_TERM_"];
        let inherited = name.starts_with("CARGO") && !ours.iter().any(|prefix| name.starts_with(prefix));
        let compiler = ["RUSTC", "RUSTFLAGS", "RUSTDOC"].iter().any(|prefix| name.starts_with(prefix));
        if inherited || compiler {
            cargo.env_remove(&*name);
        }
    }
    cargo
}

/// The target that rustc builds for if it is told nothing.
pub fn host() -> Result<String> {
    let host =
        Command::new("rustc").args(["--print", "host-tuple"]).output().context("cannot start rustc")?;
    ensure!(host.status.success(), "rustc names no host: {}", String::from_utf8_lossy(&host.stderr));
    Ok(String::from_utf8(host.stdout)?.trim().to_owned())
}

/// A compiler on this machine.
struct Compiler {
    rustc: PathBuf,
    /// `lib/rustlib` in its sysroot.
    rustlib: PathBuf,
    host: String,
}

impl Compiler {
    fn probe(rustc: &Path) -> Option<Self> {
        let ask = |arguments: &[&str]| {
            let output = Command::new(rustc).args(arguments).env_remove("RUSTC").output().ok()?;
            output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
        };
        let sysroot = ask(&["--print", "sysroot"])?;
        let version = ask(&["-vV"])?;
        let host = version.lines().find_map(|line| line.strip_prefix("host: "))?.to_owned();
        Some(Self { rustc: rustc.to_owned(), rustlib: Path::new(sysroot.trim()).join("lib/rustlib"), host })
    }

    fn has_std(&self) -> bool {
        let Ok(libraries) = fs::read_dir(self.rustlib.join(TARGET).join("lib")) else { return false };
        libraries.flatten().any(|library| library.file_name().to_string_lossy().starts_with("libstd-"))
    }

    fn has_sources(&self) -> bool {
        self.rustlib.join("src/rust/library/std/Cargo.toml").is_file()
    }

    /// The linker that comes with rustup's toolchains; it links wasm for any compiler.
    fn linker(&self) -> Option<PathBuf> {
        let linker = self.rustlib.join(&self.host).join("bin/rust-lld");
        linker.is_file().then_some(linker)
    }
}

/// `wasm-ld`, or the newest `wasm-ld-19`, of the system.
fn linker_on_path() -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    let programs = env::split_paths(&path).filter_map(|folder| fs::read_dir(folder).ok()).flatten().flatten();
    let linkers = programs.map(|program| program.path()).filter(|path| {
        path.file_name()
            .is_some_and(|name| name == "wasm-ld" || name.to_string_lossy().starts_with("wasm-ld-"))
    });
    linkers.max()
}

/// Whether rustup could add a target or a component; it cannot without rustup, and behind some firewalls.
pub fn add_with_rustup(arguments: &[&str]) -> bool {
    eprintln!("==> rustup {}", arguments.join(" "));
    let quiet = |command: &mut Command| {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()
    };
    let Ok(mut rustup) = quiet(Command::new("rustup").args(arguments)) else {
        eprintln!("    there is no rustup");
        return false;
    };
    let started = Instant::now();
    while started.elapsed() < RUSTUP_PATIENCE {
        match rustup.try_wait() {
            Ok(Some(status)) => {
                eprintln!("    {}", if status.success() { "done" } else { "rustup cannot fetch it here" });
                return status.success();
            }
            Ok(None) => std::thread::sleep(Duration::from_millis(50)),
            Err(_) => break,
        }
    }
    // It may have ended by itself just now; either way it is gone.
    let _ = rustup.kill();
    let _ = rustup.wait();
    eprintln!("    rustup did not end within {} s", RUSTUP_PATIENCE.as_secs());
    false
}

/// Installs packages, if this is Debian; where it cannot, `wanted` begins to say what to do by hand.
pub fn install_from_debian(packages: &[&str], wanted: &str) -> Result<()> {
    let command = format!("apt-get install --no-install-recommends {}", packages.join(" "));
    let advice = format!("{wanted}, or on Debian `{command}` as root");
    if !Path::new("/usr/bin/apt-get").is_file() {
        bail!("{advice}");
    }
    let apt = |arguments: &[&str]| {
        let mut apt = if is_root() { Command::new("apt-get") } else { Command::new("sudo") };
        if !is_root() {
            apt.args(["--non-interactive", "apt-get"]);
        }
        apt.args(arguments).env("DEBIAN_FRONTEND", "noninteractive");
        apt
    };
    let mut install = apt(&["install", "--yes", "--quiet", "--no-install-recommends"]);
    install.args(packages);
    // The lists of packages may be missing or out of date, and then the second attempt succeeds.
    if shell::run(&format!("installing from Debian: {}", packages.join(", ")), &mut install).is_err() {
        shell::run("updating Debian's lists of packages", &mut apt(&["update", "--quiet"]))
            .and_then(|()| shell::run("installing from Debian once more", &mut install))
            .context(advice)?;
    }
    Ok(())
}

fn is_root() -> bool {
    let user = Command::new("id").arg("-u").output();
    user.is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}
