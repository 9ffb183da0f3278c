//! What it costs to run an ONNX model in a worker process, and how long it takes from the death of a worker to the next good
//! answer; or, with the plugin for ONNX models, what it costs to run one in the wasm sandbox. Two gateways serve the same
//! models, one in its own process and one apart; calls go to both in turns, over one connection each. Prints one line of JSON.
//!
//! ```sh
//! cargo build --workspace --bins --config profile.dev.package.airlock.opt-level=2
//! taskset -c 1 target/debug/airlock-isolation --gateway target/debug/airlock --core 0
//! taskset -c 1 target/debug/airlock-isolation --gateway target/debug/airlock --core 0 --onnx-plugin target/onnx-plugin.wasm \
//!     --model target/models/digits/1/model.onnx
//! ```

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use airlock_tests::{
    client::{Answer, Http2, collect, open_http2_on},
    load::Loaded,
    onnx::{self, Graph, node, tensor, value},
};
use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    net::TcpStream,
    time::{Instant, sleep},
};

#[derive(Debug, Parser)]
#[command(about = "Measure what worker processes of ONNX models cost, and how soon they are replaced")]
struct Cli {
    /// The gateway's binary.
    #[arg(long)]
    gateway: PathBuf,
    /// Core of the gateways and their workers; start this program on another one.
    #[arg(long)]
    core: Option<usize>,
    /// Products of 64 x 512 by 512 x 512 in the larger model.
    #[arg(long, default_value_t = 16)]
    products: usize,
    /// Calls of each model on each side.
    #[arg(long, default_value_t = 500)]
    calls: usize,
    /// Workers that are killed while they run the larger model.
    #[arg(long, default_value_t = 100)]
    deaths: usize,
    /// Measure the sandbox, with this plugin.
    #[arg(long)]
    onnx_plugin: Option<PathBuf>,
    /// A further model for the sandbox, whose inputs are FP32; what varies of their shape is 1.
    #[arg(long)]
    model: Vec<PathBuf>,
}

const ROWS: usize = 64;
const WIDTH: usize = 512;

/// Products one after the other, each with weights of its own.
fn work(products: usize) -> Graph {
    let name = |index: usize| format!("x{index}");
    let weights: Vec<u8> = (0..WIDTH * WIDTH)
        .flat_map(|index| (if index % 7 == 0 { 0.01f32 } else { -0.001 }).to_le_bytes())
        .collect();
    let (rows, width) = (ROWS.to_string(), WIDTH.to_string());
    Graph {
        nodes: (0..products)
            .map(|index| node("MatMul", &[&name(index), &format!("w{index}")], &[&name(index + 1)], &[]))
            .collect(),
        inputs: vec![value("x0", onnx::FLOAT, &[&rows, &width])],
        outputs: vec![value(&name(products), onnx::FLOAT, &[&rows, &width])],
        initializers: (0..products)
            .map(|index| tensor(&format!("w{index}"), onnx::FLOAT, &[WIDTH as u64, WIDTH as u64], &weights))
            .collect(),
    }
}

struct Gateway {
    loaded: Loaded,
    connection: Http2,
}

impl Gateway {
    async fn start(cli: &Cli, models: &Path, isolation: &str) -> Result<Self> {
        let models = models.to_string_lossy();
        let mut arguments =
            ["--onnx-isolation", isolation, "--model-repository", &models].map(str::to_owned).to_vec();
        if let ("sandbox", Some(plugin)) = (isolation, &cli.onnx_plugin) {
            arguments.extend(["--onnx-plugin".to_owned(), plugin.display().to_string()]);
        }
        let loaded = Loaded::start(&cli.gateway, cli.core, &arguments).await?;
        let stream = TcpStream::connect(loaded.address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { connection: open_http2_on(stream, loaded.address).await, loaded })
    }

    async fn call(&mut self, call: &Call) -> Result<Answer> {
        let headers = [("inference-header-content-length", call.head.as_str())];
        Ok(collect(self.connection.send("POST", &call.path, &headers, call.body.clone()).await?).await)
    }

    async fn get(&mut self, path: &str) -> Result<Value> {
        Ok(collect(self.connection.send("GET", path, &[], bytes::Bytes::new()).await?).await.json())
    }

    /// Milliseconds of one good call.
    async fn time(&mut self, call: &Call) -> Result<f64> {
        let begun = Instant::now();
        let answer = self.call(call).await?;
        let time = begun.elapsed();
        ensure!(answer.status == 200, "{}", answer.error());
        Ok(time.as_secs_f64() * 1e3)
    }

    /// Its workers that run.
    fn workers(&self) -> Result<Vec<u32>> {
        let parent = self.loaded.id().to_string();
        let mut workers = Vec::new();
        for entry in fs::read_dir("/proc")? {
            let Ok(number) = entry?.file_name().to_string_lossy().parse::<u32>() else { continue };
            let status = fs::read_to_string(format!("/proc/{number}/status")).unwrap_or_default();
            let is = |name: &str, value: &str| {
                status.lines().any(|line| line.split_whitespace().eq([name, value]))
            };
            if is("PPid:", &parent) && !status.contains("(zombie)") {
                workers.push(number);
            }
        }
        Ok(workers)
    }
}

struct Call {
    path: String,
    head: String,
    body: bytes::Bytes,
}

fn request(model: &str, input: &str, shape: &[usize]) -> Call {
    let count: usize = shape.iter().product();
    let head = json!({
        "inputs": [{ "name": input, "datatype": "FP32", "shape": shape, "parameters": { "binary_data_size": count * 4 } }],
        "parameters": { "binary_data_output": true }
    })
    .to_string();
    let bytes: Vec<u8> = std::iter::repeat_n(0.5f32.to_le_bytes(), count).flatten().collect();
    let length = head.len().to_string();
    Call {
        path: format!("/v2/models/{model}/infer"),
        head: length,
        body: [head.into_bytes(), bytes].concat().into(),
    }
}

fn percentile(sorted: &[f64], of_thousand: usize) -> f64 {
    sorted[(sorted.len() * of_thousand / 1000).min(sorted.len() - 1)]
}

fn shown(sorted: &[f64]) -> Value {
    let at = |of_thousand| percentile(sorted, of_thousand);
    json!({ "n": sorted.len(), "p10": at(100), "p50": at(500), "p90": at(900), "p99": at(990), "max": at(1000) })
}

/// One model on both sides in turns.
async fn compare(none: &mut Gateway, apart: &mut Gateway, call: &Call, calls: usize) -> Result<Value> {
    let (mut here, mut there) = (Vec::new(), Vec::new());
    for round in 0..calls + calls / 10 {
        let (one, other) = if round % 2 == 0 {
            let one = none.time(call).await?;
            (one, apart.time(call).await?)
        } else {
            let other = apart.time(call).await?;
            (none.time(call).await?, other)
        };
        // The first tenth warms up.
        if round >= calls / 10 {
            here.push(one);
            there.push(other);
        }
    }
    here.sort_by(f64::total_cmp);
    there.sort_by(f64::total_cmp);
    let ratio = |of_thousand| percentile(&there, of_thousand) / percentile(&here, of_thousand);
    Ok(json!({
        "none_ms": shown(&here), "apart_ms": shown(&there),
        "p10_ratio": ratio(100), "p50_ratio": ratio(500), "p90_ratio": ratio(900),
    }))
}

/// Kills the worker while it runs, and takes the time from the failed call's answer to that of the next one.
async fn deaths(gateway: &mut Gateway, call: &Call, deaths: usize) -> Result<Value> {
    let (mut times, mut lost) = (Vec::new(), 0);
    while times.len() < deaths {
        gateway.time(call).await?;
        let workers = gateway.workers()?;
        let [worker] = workers[..] else { bail!("workers: {workers:?}") };
        let mut connection = gateway.connection.clone();
        let headers = [("inference-header-content-length", call.head.as_str())];
        let running = async {
            let response = connection.send("POST", &call.path, &headers, call.body.clone()).await?;
            anyhow::Ok(collect(response).await)
        };
        let kill = async {
            sleep(Duration::from_millis(3)).await;
            Command::new("kill").args(["-KILL", &worker.to_string()]).status()
        };
        let (answer, killed) = tokio::join!(running, kill);
        ensure!(killed?.success(), "there was no worker to kill");
        // It may have been quicker: then nothing was lost, and the next call finds a dead worker.
        lost += u64::from(answer?.status == 502);
        times.push(gateway.time(call).await?);
    }
    times.sort_by(f64::total_cmp);
    Ok(json!({ "calls_lost": lost, "to_next_answer_ms": shown(&times) }))
}

/// A call of a model whose inputs are what its metadata says.
async fn request_by_metadata(gateway: &mut Gateway, model: &str) -> Result<Call> {
    let metadata = gateway.get(&format!("/v2/models/{model}")).await?;
    let [input] = metadata["inputs"].as_array().context("no inputs")?.as_slice() else {
        bail!("{model}: it has more inputs than one")
    };
    ensure!(input["datatype"] == "FP32", "{model}: {input}");
    let shape = input["shape"].as_array().context("no shape")?;
    let shape: Vec<usize> =
        shape.iter().map(|dim| dim.as_u64().map_or(Ok(1), usize::try_from)).collect::<Result<_, _>>()?;
    Ok(request(model, input["name"].as_str().context("no name")?, &shape))
}

/// Each model in the gateway's process and in the sandbox.
async fn sandbox(cli: &Cli, folder: &Path) -> Result<()> {
    let mut models = vec!["work".to_owned(), "tiny".to_owned()];
    for file in &cli.model {
        // `digits/1/model.onnx` is `digits`, and `digits.onnx` as well.
        let name = match file.file_stem().and_then(|stem| stem.to_str()) {
            Some("model") => file.iter().rev().nth(2).and_then(|name| name.to_str()),
            stem => stem,
        };
        let name = name.context("a model without a name")?;
        let version = folder.join(name).join("1");
        fs::create_dir_all(&version)?;
        fs::copy(file, version.join("model.onnx"))?;
        models.push(name.to_owned());
    }
    let started = Instant::now();
    let mut apart = Gateway::start(cli, folder, "sandbox").await?;
    let mut results = json!({ "models": models.len(), "loaded_s": started.elapsed().as_secs_f64() });
    // After that, which takes minutes: a connection that waits is not kept for so long.
    let mut none = Gateway::start(cli, folder, "none").await?;
    for model in models {
        let call = request_by_metadata(&mut none, &model).await?;
        results[model] = compare(&mut none, &mut apart, &call, cli.calls).await?;
    }
    println!("{results}");
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let cli = Cli::parse();
    let folder = TempDir::new()?;
    let put = |model: &str, graph: &Graph| {
        let version = folder.path().join(model).join("1");
        fs::create_dir_all(&version)?;
        fs::write(version.join("model.onnx"), graph.file())
    };
    put("work", &work(cli.products))?;
    if cli.onnx_plugin.is_some() {
        put("tiny", &onnx::unary("Neg", onnx::FLOAT, &["16"]))?;
        return sandbox(&cli, folder.path()).await;
    }
    let work = request("work", "x0", &[ROWS, WIDTH]);
    let mut process = Gateway::start(&cli, folder.path(), "process").await?;
    let died = deaths(&mut process, &work, cli.deaths).await?;
    drop(process);

    put("tiny", &onnx::unary("Neg", onnx::FLOAT, &["N"]))?;
    let tiny = request("tiny", "x", &[16]);
    let mut none = Gateway::start(&cli, folder.path(), "none").await?;
    let mut process = Gateway::start(&cli, folder.path(), "process").await?;
    let work = compare(&mut none, &mut process, &work, cli.calls).await?;
    let tiny = compare(&mut none, &mut process, &tiny, cli.calls * 10).await?;
    println!("{}", json!({ "work": work, "tiny": tiny, "deaths": died }));
    Ok(())
}
