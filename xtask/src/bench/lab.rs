//! The servers that are measured, each started in the same way, and where they run.

use std::{
    ffi::OsStr,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use serde_json::json;

use super::peers::{Installed, Peer};
use crate::{
    http,
    server::{Server, free_address},
    shell,
};

/// Time for a server to give its first answer.
const PATIENCE: Duration = Duration::from_secs(300);

/// How everything is measured in this run.
#[derive(Debug)]
pub struct Lab {
    /// Where the gateway and the measuring programs were built, and how, for the report.
    pub binaries: PathBuf,
    pub builds: &'static str,
    pub rounds: usize,
    pub seconds: f64,
    pub warm_up: f64,
    /// The cores of the server and of the load generator, if they can be kept apart.
    cores: Option<(usize, usize)>,
    pub peers: Vec<Installed>,
    /// It is only to be seen that everything works.
    pub smoke: bool,
}

/// Which server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Bare,
    Airlock,
    Peer(Peer),
}

/// A server that is ready and has given its first answer.
#[derive(Debug)]
pub struct Running {
    server: Server,
    pub grpc: SocketAddr,
    /// From the start of its process to that answer.
    pub start: Duration,
}

impl Lab {
    pub fn full(
        (binaries, builds): (PathBuf, &'static str),
        rounds: usize,
        seconds: f64,
        peers: Vec<Installed>,
    ) -> Self {
        Self { binaries, builds, rounds, seconds, warm_up: 0.3, cores: cores(), peers, smoke: false }
    }

    pub fn smoke() -> Result<Self> {
        let (binaries, peers) = (shell::target().join("debug"), Vec::new());
        let (rounds, builds) = (1, "Development builds.");
        Ok(Self { binaries, builds, rounds, seconds: 0.1, warm_up: 0.0, cores: cores(), peers, smoke: true })
    }

    /// A folder of this task's own, emptied.
    pub fn folder(&self, name: &str) -> Result<PathBuf> {
        let folder = shell::target().join("bench").join(name);
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        // Some servers are started in another folder.
        Ok(std::path::absolute(folder)?)
    }

    /// A repository of the identity models and no others, as the other servers have it: one in wasm, the same with a response
    /// cache, and one in ONNX.
    pub fn identities(&self) -> Result<PathBuf> {
        let folder = self.folder("models")?;
        copy_model("identity", "model.wasm", &folder, "identity")?;
        copy_model("identity", "model.wasm", &folder, "identity_cached")?;
        fs::write(folder.join("identity_cached/model.toml"), "response_cache = true\n")?;
        copy_model("identity_onnx", "model.onnx", &folder, "identity_onnx")?;
        Ok(folder)
    }

    /// So many copies of the wasm identity model, `identity_0001` and so on.
    pub fn copies(&self, count: usize) -> Result<PathBuf> {
        let folder = self.folder(&format!("models-{count}"))?;
        for number in 1..=count {
            copy_model("identity", "model.wasm", &folder, &format!("identity_{number:04}"))?;
        }
        Ok(folder)
    }

    /// Why a server is not there, if it is not.
    fn missing(&self, kind: Kind) -> Option<String> {
        let Kind::Peer(peer) = kind else { return None };
        match self.peers.iter().find(|installed| installed.peer == peer) {
            Some(installed) => installed.python.as_ref().err().cloned(),
            None => Some("left out".into()),
        }
    }

    /// Starts a server that serves `identity`. That a peer cannot be is a result, and the reason.
    ///
    /// # Errors
    /// If one of the project's own servers does not start.
    pub fn attempt(&self, kind: Kind, repository: &Path) -> Result<Result<Running, String>> {
        if let Some(reason) = self.missing(kind) {
            return Ok(Err(reason));
        }
        match self.start(kind, repository, "identity", &[]) {
            Err(error) if matches!(kind, Kind::Peer(_)) => {
                eprintln!("    {error:#}");
                Ok(Err("it does not start".into()))
            }
            started => started.map(Ok),
        }
    }

    /// Starts a server on the server's core and waits for its first answer. Only the gateway looks at the repository and at
    /// `more`.
    pub fn start(&self, kind: Kind, repository: &Path, model: &str, more: &[&str]) -> Result<Running> {
        let (address, grpc, metrics) = (free_address()?, free_address()?, free_address()?);
        let (http, rpc) = (address.to_string(), grpc.to_string());
        let core = self.cores.map(|(server, _)| server);
        let (program, arguments) = match kind {
            Kind::Bare => (
                self.binaries.join("airlock-ceiling"),
                ["--http", &http, "--grpc", &rpc].map(str::to_owned).into(),
            ),
            Kind::Airlock => {
                let repository = repository.to_str().context("the path of the models is not UTF-8")?;
                let own = ["serve", "--model-repository", repository, "--http", &http, "--grpc", &rpc];
                let rest = ["--metrics", "off", "--admin", "127.0.0.1:0", "--log", "warn"];
                let all = [&own[..], &rest, more].concat();
                (self.binaries.join("airlock"), all.into_iter().map(str::to_owned).collect::<Vec<_>>())
            }
            Kind::Peer(peer) => {
                let installed = self.peers.iter().find(|installed| installed.peer == peer);
                let python = installed.and_then(|installed| installed.python.as_ref().ok());
                let python = python.with_context(|| format!("{} is not installed", peer.name()))?;
                peer.command(self, python, [address, grpc, metrics])?
            }
        };
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let path = format!("/v2/models/{model}/infer");
        let body = json!({
            "inputs": [{ "name": "INPUT0", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4] }]
        })
        .to_string();
        let ok = |answer: Result<http::Answer>| answer.is_ok_and(|answer| answer.status == 200);
        let answers = |address| {
            let headers = [("Content-Type", "application/json")];
            ok(http::get(address, "/v2/health/ready"))
                && ok(http::send(address, "POST", &path, &headers, body.as_bytes()))
        };
        let begun = Instant::now();
        let server = Server::start_until(&program, &arguments, core, address, PATIENCE, answers)?;
        Ok(Running { server, grpc, start: begun.elapsed() })
    }

    /// Bytes of memory of a server and all its processes.
    pub fn memory(&self, running: &Running) -> Result<f64> {
        let program = self.binaries.join("airlock-load");
        let output = Command::new(&program).args(["memory", "--pid", &running.pid().to_string()]).output();
        let output = output.with_context(|| format!("cannot start {}", program.display()))?;
        String::from_utf8_lossy(&output.stdout).trim().parse().context("no figure for the memory")
    }

    /// A program on the load generator's core.
    pub fn on_load_core(&self, program: impl AsRef<OsStr>) -> Command {
        let Some((_, core)) = self.cores else { return Command::new(program) };
        let mut command = Command::new("taskset");
        command.args(["-c", &core.to_string()]).arg(program);
        command
    }
}

impl Running {
    pub fn address(&self) -> SocketAddr {
        self.server.address
    }

    pub fn pid(&self) -> u32 {
        self.server.pid
    }

    /// Ends it. Of the project's own servers it is expected that they end well.
    pub fn stop(self, kind: Kind) -> Result<()> {
        match kind {
            Kind::Peer(_) => self.server.end(),
            Kind::Bare | Kind::Airlock => self.server.stop(),
        }
    }
}

/// Server and generator have a processor core each, where the machine has two and `taskset`.
fn cores() -> Option<(usize, usize)> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let taskset =
        Command::new("taskset").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    (cores > 1 && taskset.is_ok_and(|status| status.success())).then_some((0, 1))
}

fn copy_model(from: &str, file: &str, repository: &Path, name: &str) -> Result<()> {
    let source = shell::target().join("models").join(from).join("1").join(file);
    let folder = repository.join(name).join("1");
    fs::create_dir_all(&folder)?;
    fs::copy(&source, folder.join(file)).with_context(|| format!("cannot copy {}", source.display()))?;
    Ok(())
}
