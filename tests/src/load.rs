//! Load from a program of its own on a gateway of its own: what the measuring programs share.

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tempfile::NamedTempFile;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};

/// A running gateway, killed when dropped.
#[derive(Debug)]
pub struct Loaded {
    child: Child,
    pub address: SocketAddr,
    _log: NamedTempFile,
}

impl Drop for Loaded {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Loaded {
    /// Starts the binary, on one core if one is named, and waits until it is ready.
    pub async fn start(gateway: &Path, core: Option<usize>, arguments: &[String]) -> Result<Self> {
        let log = NamedTempFile::new()?;
        let mut command = match core {
            Some(core) => {
                let mut command = Command::new("taskset");
                command.args(["-c", &core.to_string()]).arg(gateway);
                command
            }
            None => Command::new(gateway),
        };
        command
            .args(["serve", "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
            .args(["--metrics", "off"])
            .args(arguments);
        let child = command.stdout(Stdio::null()).stderr(log.reopen()?).spawn()?;
        let mut loaded = Self { child, address: SocketAddr::from(([127, 0, 0, 1], 0)), _log: log };
        // Five minutes: compiling the plugin for ONNX models with a model takes one, on a core that others use too.
        for _ in 0..6000 {
            let text = fs::read_to_string(loaded._log.path())?;
            if text.contains("ready models=") {
                let line = text.lines().find_map(|line| line.split_once("listening on http://"));
                loaded.address = line.context("no address")?.1.trim().parse()?;
                return Ok(loaded);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        bail!("the gateway does not get ready: {}", fs::read_to_string(loaded._log.path())?)
    }

    /// Of the process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// KiB of the process's memory: what is resident, and the most there was since [`forget_peak`](Self::forget_peak).
    pub fn memory(&self) -> Result<(u64, u64)> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id()))?;
        let of = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).context("no figure")
        };
        Ok((of("VmRSS:")?, of("VmHWM:")?))
    }

    pub fn forget_peak(&self) -> Result<()> {
        Ok(fs::write(format!("/proc/{}/clear_refs", self.id()), "5")?)
    }
}

/// A connection from one of this machine's addresses, 127.0.0.1 to 127.0.0.250.
pub async fn connect_from(source: usize, address: SocketAddr) -> Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    let last = u8::try_from(1 + source % 250)?;
    socket.bind(SocketAddr::from(([127, 0, 0, last], 0)))?;
    let stream = socket.connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// An infer request of the model `m` with that body.
pub fn infer(address: SocketAddr, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST /v2/models/m/infer HTTP/1.1\r\nHost: {address}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

/// Sends a request and reads its answer, which has a length. Returns the status.
pub async fn exchange(stream: &mut TcpStream, request: &[u8]) -> Result<u16> {
    stream.write_all(request).await?;
    let mut answer = Vec::new();
    loop {
        ensure!(stream.read_buf(&mut answer).await? > 0, "the connection ended");
        let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
        let head = std::str::from_utf8(&answer[..end])?.to_ascii_lowercase();
        let status = head.split(' ').nth(1).context("no status")?.parse()?;
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let whole = end + 4 + length.context("no length")?.parse::<usize>()?;
        while answer.len() < whole {
            ensure!(stream.read_buf(&mut answer).await? > 0, "the connection ended");
        }
        return Ok(status);
    }
}

/// Percentiles of what was measured.
pub fn shown(mut values: Vec<f64>) -> Value {
    values.sort_by(f64::total_cmp);
    let at = |of_thousand: usize| {
        let value = values.get((values.len() * of_thousand / 1000).min(values.len().saturating_sub(1)));
        value.map(|value| (value * 1000.0).round() / 1000.0)
    };
    json!({ "count": values.len(), "p50": at(500), "p99": at(990), "max": at(1000) })
}
