//! Other servers of the V2 protocol, from PyPI: Triton's binary, which the wheel of pytriton carries, and MLServer. Each serves a
//! model that answers `INPUT0` as `OUTPUT0`, FP32 `[-1,-1]`, written in Python, as both have their models.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::lab::Lab;
use crate::{python, shell};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    Triton,
    Mlserver,
}

/// The Python that has a peer, or why there is none.
#[derive(Debug)]
pub struct Installed {
    pub peer: Peer,
    pub python: Result<PathBuf, String>,
}

/// Of HTTP, gRPC and metrics.
type Ports = [SocketAddr; 3];
/// Program and arguments.
type Invocation = (PathBuf, Vec<String>);

/// Installs these peers where they are not; one that cannot be installed is reported and does not end the run.
pub fn install(peers: &[Peer]) -> Vec<Installed> {
    let install = |peer: &Peer| {
        eprintln!("==> {} from PyPI, into target/venv ({}, once)", peer.name(), peer.takes());
        let requirements = peer.files().join("requirements.txt");
        let python = python::venv(peer.folder(), &[&requirements])
            .and_then(|python| Ok(std::path::absolute(python)?))
            .map_err(|error| format!("cannot be installed: {error:#}").replace(['\n', '|'], " "));
        if let Err(reason) = &python {
            eprintln!("    {} {reason}", peer.name());
        }
        Installed { peer: *peer, python }
    };
    peers.iter().map(install).collect()
}

impl Peer {
    pub const ALL: [Self; 2] = [Self::Triton, Self::Mlserver];

    pub fn name(self) -> &'static str {
        match self {
            Self::Triton => "Triton",
            Self::Mlserver => "MLServer",
        }
    }

    fn folder(self) -> &'static str {
        match self {
            Self::Triton => "triton",
            Self::Mlserver => "mlserver",
        }
    }

    fn takes(self) -> &'static str {
        match self {
            Self::Triton => "400 MB and a minute or two",
            Self::Mlserver => "300 MB and a minute or two",
        }
    }

    /// The release that is measured.
    pub fn version(self) -> &'static str {
        match self {
            Self::Triton => "Triton 2.51 (24.10) of nvidia-pytriton 0.7.0",
            Self::Mlserver => "MLServer 1.7.1",
        }
    }

    /// What of it lies in the checkout.
    fn files(self) -> PathBuf {
        shell::root().join("bench/peers").join(self.folder())
    }

    /// How it is started on these addresses, with its models laid out anew. It writes its log to a file: of a request that it
    /// refuses, that may be all of the body.
    pub fn command(self, lab: &Lab, python: &Path, ports: Ports) -> Result<Invocation> {
        let command = match self {
            Self::Triton => triton(lab, python, ports)?,
            Self::Mlserver => mlserver(lab, python, ports)?,
        };
        let log = lab.folder(&format!("{}-log", self.folder()))?.join("log").display().to_string();
        let mut arguments =
            ["-c", "log=$1; shift; exec env \"$@\" >\"$log\" 2>&1", "sh", &log].map(str::to_owned).to_vec();
        arguments.extend(command);
        Ok(("sh".into(), arguments))
    }
}

/// Variables, and then program and arguments. `identity`, and `identity_cached` with the response cache. The binary is started directly: the proxy that pytriton puts
/// before it would cost time.
fn triton(lab: &Lab, python: &Path, ports: Ports) -> Result<Vec<String>> {
    let places = Places::of(python)?;
    let folder = lab.folder("triton")?;
    let models = folder.join("models");
    for (name, more) in [("identity", ""), ("identity_cached", "response_cache { enable: true }\n")] {
        let version = models.join(name).join("1");
        fs::create_dir_all(&version)?;
        fs::copy(Peer::Triton.files().join("model.py"), version.join("model.py"))?;
        fs::write(models.join(name).join("config.pbtxt"), format!("name: \"{name}\"\n{TRITON_MODEL}{more}"))?;
    }
    let package = places.package("pytriton")?.join("tritonserver");
    // The backend looks for the program that runs Python of this version beside its library.
    let backends = folder.join("backends");
    fs::create_dir_all(&backends)?;
    let copied = Command::new("cp").arg("-r").arg(package.join("backends/python")).arg(&backends).status();
    ensure!(copied.context("cannot start cp")?.success(), "Triton's Python backend cannot be copied");
    let stub = "triton_python_backend_stub";
    let of_version = package.join("python_backend_stubs").join(&places.version).join(stub);
    fs::copy(&of_version, backends.join("python").join(stub))
        .with_context(|| format!("Triton has no {}", of_version.display()))?;
    let mut arguments = vec![
        format!("PATH={}:{}", places.programs.display(), std::env::var("PATH").unwrap_or_default()),
        format!("PYTHONPATH={}", places.packages.display()),
        format!(
            "LD_LIBRARY_PATH={}:{}",
            places.libraries,
            places.packages.join("nvidia_pytriton.libs").display()
        ),
        package.join("bin/tritonserver").display().to_string(),
        format!("--model-repository={}", models.display()),
        format!("--backend-directory={}", backends.display()),
        format!("--cache-directory={}", package.join("caches").display()),
    ];
    arguments.extend(
        [
            "--cache-config=local,size=268435456",
            "--allow-gpu-metrics=false",
            "--log-info=false",
            "--log-warning=false",
            "--exit-timeout-secs=5",
        ]
        .map(str::to_owned),
    );
    for (name, address) in ["http", "grpc", "metrics"].into_iter().zip(ports) {
        arguments.push(format!("--{name}-address={}", address.ip()));
        arguments.push(format!("--{name}-port={}", address.port()));
    }
    Ok(arguments)
}

const TRITON_MODEL: &str = r#"backend: "python"
max_batch_size: 0
input [ { name: "INPUT0" data_type: TYPE_FP32 dims: [ -1, -1 ] } ]
output [ { name: "OUTPUT0" data_type: TYPE_FP32 dims: [ -1, -1 ] } ]
instance_group [ { kind: KIND_CPU count: 1 } ]
"#;

/// The same. With its defaults: models run in a process of their own.
fn mlserver(lab: &Lab, python: &Path, ports: Ports) -> Result<Vec<String>> {
    let folder = lab.folder("mlserver")?;
    let [http, grpc, metrics] = ports;
    let settings = json!({
        "debug": false,
        "host": http.ip(),
        "http_port": http.port(),
        "grpc_port": grpc.port(),
        "metrics_port": metrics.port(),
        "grpc_max_message_length": 64 << 20,
        "environments_dir": folder.join("environments"),
        "metrics_dir": folder.join("metrics"),
    });
    fs::write(folder.join("settings.json"), settings.to_string())?;
    let tensor = |name: &str| json!([{ "name": name, "datatype": "FP32", "shape": [-1, -1] }]);
    let model = json!({
        "name": "identity",
        "implementation": "identity.Identity",
        "inputs": tensor("INPUT0"),
        "outputs": tensor("OUTPUT0"),
        "parameters": { "version": "1" },
    });
    fs::create_dir_all(folder.join("identity"))?;
    fs::write(folder.join("identity/model-settings.json"), model.to_string())?;
    let places = Places::of(python)?;
    let arguments = vec![
        format!("PATH={}:{}", places.programs.display(), std::env::var("PATH").unwrap_or_default()),
        format!("PYTHONPATH={}", std::path::absolute(Peer::Mlserver.files())?.display()),
        places.programs.join("mlserver").display().to_string(),
        "start".into(),
        folder.display().to_string(),
    ];
    Ok(arguments)
}

/// Where a Python has things.
struct Places {
    /// `3.11`
    version: String,
    programs: PathBuf,
    packages: PathBuf,
    /// Of the C library of Python.
    libraries: String,
}

impl Places {
    fn of(python: &Path) -> Result<Self> {
        let script = "import json, sys, sysconfig; print(json.dumps({'version': '%d.%d' % sys.version_info[:2], \
                      'packages': sysconfig.get_path('purelib'), 'libraries': sysconfig.get_config_var('LIBDIR')}))";
        let output = Command::new(python).args(["-c", script]).output()?;
        let said: Value = serde_json::from_slice(&output.stdout).context("python said nothing of itself")?;
        let text = |name: &str| {
            said[name].as_str().map(str::to_owned).with_context(|| format!("python does not know its {name}"))
        };
        let programs = python.parent().context("python lies in a folder")?.to_owned();
        let packages = PathBuf::from(text("packages")?);
        Ok(Self { version: text("version")?, programs, packages, libraries: text("libraries")? })
    }

    fn package(&self, name: &str) -> Result<PathBuf> {
        let folder = self.packages.join(name);
        ensure!(folder.is_dir(), "{} is missing", folder.display());
        Ok(folder)
    }
}
