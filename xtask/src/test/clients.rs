//! Clients of others, as they come from PyPI, against this gateway: the scripts of `tests/clients`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};

use super::{Count, cargo_test, checked, gateway};
use crate::{
    perf_analyzer, python,
    server::{Server, free_address},
    shell,
};

/// What most of them need, below `tests/clients`.
const REQUIREMENTS: [&str; 2] = ["requirements.txt", "requirements-parity.txt"];

/// The scripts of `tests/clients`, and the Python that has what they need.
pub struct Clients {
    folder: PathBuf,
    python: PathBuf,
    /// The one that has what the examples' own clients need.
    python_of_examples: PathBuf,
    /// The one that has MLServer's codecs, which want other versions of much else.
    python_of_codecs: PathBuf,
    /// The one that has KServe's clients, which want others again.
    python_of_kserve: PathBuf,
    /// The one that has a validator of OpenAPI documents.
    python_of_openapi: PathBuf,
}

impl Clients {
    pub fn prepare() -> Result<Self> {
        let folder = shell::root().join("tests/clients");
        let requirements = REQUIREMENTS.map(|name| folder.join(name));
        let python = python::venv("clients", &requirements.each_ref().map(PathBuf::as_path))?;
        let of_examples = shell::root().join("examples/requirements.txt");
        let python_of_examples = python::venv("examples", &[&of_examples])?;
        let python_of_codecs = python::venv("codecs", &[&folder.join("requirements-codecs.txt")])?;
        let python_of_kserve = python::venv("kserve", &[&folder.join("requirements-kserve.txt")])?;
        let python_of_openapi = python::venv("openapi", &[&folder.join("requirements-openapi.txt")])?;
        Ok(Self { folder, python, python_of_examples, python_of_codecs, python_of_kserve, python_of_openapi })
    }

    fn command(&self, python: &Path, script: &str) -> Command {
        let mut command = Command::new(python);
        command.arg(self.folder.join(script));
        command
    }

    /// The stock client, and what it cannot send, against the example models.
    pub fn conformance(&self) -> Result<Count> {
        let grpc = free_address()?.to_string();
        let server = gateway("models", &["--grpc", &grpc])?;
        let http = server.address.to_string();
        let mut total = Count::default();
        for (script, python, url) in [
            ("conformance.py", &self.python, &http),
            ("grpc_client.py", &self.python, &grpc),
            ("streaming.py", &self.python, &grpc),
            ("raw_http.py", &self.python, &http),
            ("examples.py", &self.python_of_examples, &http),
            ("codecs.py", &self.python_of_codecs, &http),
            ("openapi.py", &self.python_of_openapi, &http),
        ] {
            total.add(checked(self.command(python, script).args(["--url", url]))?);
        }
        server.stop()?;
        // As the servers were started whose answers the first of them knows.
        let (grpc, metrics) = (free_address()?.to_string(), free_address()?.to_string());
        let control = ["--model-control-mode", "explicit", "--load-model", "*"];
        let server = gateway("models", &[&control[..], &["--grpc", &grpc, "--metrics", &metrics]].concat())?;
        let http = server.address.to_string();
        for (script, python) in [("wire.py", &self.python), ("kserve_client.py", &self.python_of_kserve)] {
            let mut client = self.command(python, script);
            client.args(["--url", &http, "--grpc-url", &grpc, "--metrics-url", &metrics]);
            total.add(checked(&mut client)?);
        }
        server.stop()?;
        total.add(self.over_tls()?);
        total.add(self.uploads()?);
        Ok(total)
    }

    /// The same clients where all ports speak TLS.
    fn over_tls(&self) -> Result<Count> {
        let pair = shell::target().join("certificate-of-clients");
        shell::run("a certificate", self.command(&self.python, "certificate.py").arg(&pair))?;
        let grpc = free_address()?.to_string();
        let more =
            ["--log", "warn", "--model-control-mode", "explicit", "--load-model", "*", "--grpc", &grpc];
        let (binaries, models) = (shell::target().join("debug"), shell::target().join("models"));
        let server = Server::gateway_over_tls(&binaries, &models, free_address()?, &pair, &more)?;
        let mut total = Count::default();
        for (script, python) in [("tls.py", &self.python), ("kserve_client.py", &self.python_of_kserve)] {
            let mut client = self.command(python, script);
            client.args(["--url", &server.address.to_string(), "--grpc-url", &grpc, "--ca"]);
            total.add(checked(client.arg(pair.join("cert.pem")))?);
        }
        server.stop()?;
        Ok(total)
    }

    /// The stock client as two tenants that upload models of their own.
    fn uploads(&self) -> Result<Count> {
        let store = shell::target().join("store-of-clients");
        if store.exists() {
            fs::remove_dir_all(&store)?;
        }
        let folder = store.to_str().context("the path of the store is not UTF-8")?;
        let key = |tenant: &str, scopes: &str| -> Result<String> {
            let airlock = |arguments: &[&str]| {
                let output = Command::new(shell::target().join("debug/airlock"))
                    .args(arguments)
                    .args(["--store", folder])
                    .stderr(Stdio::inherit())
                    .output()
                    .context("cannot start airlock")?;
                ensure!(output.status.success(), "airlock {} failed", arguments.join(" "));
                Ok::<_, anyhow::Error>(String::from_utf8(output.stdout)?.trim().to_owned())
            };
            airlock(&["tenant", "create", tenant])?;
            airlock(&["key", "create", "--tenant", tenant, "--scope", scopes])
        };
        let mut client = self.command(&self.python, "uploads.py");
        client
            .env("AIRLOCK_TEST_MODELS", shell::target().join("models"))
            .env("AIRLOCK_TEST_KEY_ACME", key("acme", "infer,repository")?)
            .env("AIRLOCK_TEST_KEY_UMBRELLA", key("umbrella", "infer,repository")?)
            .env("AIRLOCK_TEST_KEY_READER", key("acme", "infer")?);
        let server = gateway("models", &["--store", folder])?;
        let count = checked(client.args(["--url", &server.address.to_string()]))?;
        server.stop()?;
        Ok(count)
    }

    /// NVIDIA's load generator, which reads our statistics.
    pub fn perf_analyzer(&self) -> Result<Count> {
        let requirements = self.folder.join("requirements-perf-analyzer.txt");
        let Some(command) = perf_analyzer::command(&self.python, &requirements)? else {
            eprintln!("    not run: it wants glibc 2.38 or later, or a Debian whose mirror has it");
            return Ok(Count::default());
        };
        let words: Vec<_> = command.iter().map(|word| format!("'{}'", word.to_string_lossy())).collect();
        let grpc = free_address()?.to_string();
        let server = gateway("models", &["--grpc", &grpc])?;
        let mut client = self.command(&self.python, "perf_analyzer.py");
        client.env("AIRLOCK_TEST_PERF_ANALYZER", words.join(" "));
        let count = checked(client.args(["--url", &server.address.to_string(), "--grpc-url", &grpc]))?;
        server.stop()?;
        Ok(count)
    }

    /// Real ONNX models: the gateway's answers beside onnxruntime's.
    pub fn parity(&self) -> Result<Count> {
        let models = shell::target().join("parity");
        shell::run("models from packages", self.command(&self.python, "models.py").arg(&models))?;
        // The first request of each shape includes the engine's optimisation for it.
        self.compare(&["--deadline", "60s"])
    }

    /// The same library as the gateway's second engine: tests of the gateway with it, and the answers that it then gives.
    pub fn onnxruntime(&self) -> Result<Count> {
        let library = self.library()?;
        // One after the other: what is measured in one is no other one's noise.
        let tests = ["--workspace", "--test", "it", "--", "onnxruntime::", "--test-threads=1"];
        let mut count = cargo_test(&tests, &[("AIRLOCK_TEST_ONNXRUNTIME", &library)])?;
        let library = library.to_str().context("the path of the library is not UTF-8")?;
        count.add(self.compare(&["--onnxruntime", library, "--onnx-engine", "onnxruntime"])?);
        Ok(count)
    }

    /// The library in the Python package, beside the part that Python loads.
    fn library(&self) -> Result<PathBuf> {
        let ask = "import onnxruntime, pathlib; print(*pathlib.Path(onnxruntime.__file__).parent.glob('capi/libonnxruntime.so.*'))";
        let output = Command::new(&self.python).args(["-c", ask]).stderr(Stdio::inherit()).output()?;
        let path = PathBuf::from(String::from_utf8(output.stdout)?.trim());
        ensure!(path.is_file(), "the Python package onnxruntime has no library at {}", path.display());
        Ok(path)
    }

    /// A gateway over the models of packages, beside onnxruntime.
    fn compare(&self, more: &[&str]) -> Result<Count> {
        let server = gateway("parity", more)?;
        let mut compare = self.command(&self.python, "onnx_parity.py");
        let models = shell::target().join("parity");
        let count = checked(compare.arg(server.address.to_string()).arg(&models))?;
        server.stop()?;
        Ok(count)
    }
}
