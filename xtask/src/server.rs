//! A server of the project that ends with the task that started it, whatever ends the task.

use std::{
    io::{BufRead, BufReader},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::process::CommandExt,
    path::Path,
    process::{self, Child, Command, ExitStatus, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use crate::{http, shell};

/// Starts "$@", prints its process id, sends it SIGTERM when standard input ends, and exits as it exits. Standard input
/// is a pipe from the task, which the kernel closes even if the task is killed: no server is left behind.
const SUPERVISOR: &str = r#"
exec 3<&0
"$@" </dev/null 3<&- >&2 &
server=$!
{ read -r _ <&3; kill -TERM "$server"; } 2>/dev/null &
watch=$!
echo "$server"
wait "$server"
status=$?
kill "$watch" 2>/dev/null
exit "$status"
"#;

/// Time for the gateway to load all its models, with the development profile on a busy machine.
const LOAD_PATIENCE: Duration = Duration::from_secs(300);
/// Longest time from SIGTERM to the end.
const GRACE: Duration = Duration::from_secs(30);

/// A running server; it is stopped when this is dropped.
#[derive(Debug)]
pub struct Server {
    supervisor: Child,
    pub pid: u32,
    pub address: SocketAddr,
}

/// Ports that nobody asks for, where they are free or off.
fn ports(more: &[&str]) -> Vec<&'static str> {
    let ports = [("--admin", "127.0.0.1:0"), ("--grpc", "off"), ("--metrics", "off")];
    ports.into_iter().filter(|(name, _)| !more.contains(name)).flat_map(|(name, at)| [name, at]).collect()
}

impl Server {
    /// Starts the gateway that was built into that folder on a model repository.
    pub fn gateway(
        binaries: &Path,
        models: &Path,
        address: SocketAddr,
        core: Option<usize>,
        more: &[&str],
    ) -> Result<Self> {
        let models = models.to_str().context("the path of the models is not UTF-8")?;
        let http = address.to_string();
        let arguments =
            [&["serve", "--model-repository", models, "--http", &http], &ports(more)[..], more].concat();
        Self::start(&binaries.join("airlock"), &arguments, core, address, LOAD_PATIENCE)
    }

    /// The same with `cert.pem` and `key.pem` of a folder. It is waited for until it listens and no longer: who trusts the
    /// certificate has to ask whether it is ready.
    pub fn gateway_over_tls(
        binaries: &Path,
        models: &Path,
        address: SocketAddr,
        pair: &Path,
        more: &[&str],
    ) -> Result<Self> {
        let text = |path: &Path| path.to_str().map(str::to_owned).context("a path is not UTF-8");
        let (models, http) = (text(models)?, address.to_string());
        let (cert, key) = (text(&pair.join("cert.pem"))?, text(&pair.join("key.pem"))?);
        let own =
            ["serve", "--model-repository", &models, "--http", &http, "--tls-cert", &cert, "--tls-key", &key];
        let arguments = [&own[..], &ports(more), more].concat();
        let program = binaries.join("airlock");
        let mut server = Self::spawn(&program, &arguments, None, address)?;
        server.wait_until(&program, LOAD_PATIENCE, |address| TcpStream::connect(address).is_ok())?;
        Ok(server)
    }

    /// Starts the gateway with a store for uploads and nothing else.
    pub fn store(binaries: &Path, address: SocketAddr, more: &[&str]) -> Result<Self> {
        let http = address.to_string();
        let arguments = [&["serve", "--http", &http], &ports(more)[..], more].concat();
        Self::start(&binaries.join("airlock"), &arguments, None, address, LOAD_PATIENCE)
    }

    /// Starts a program, on one processor core if one is named, and waits until it is ready to serve `address`.
    pub fn start(
        program: &Path,
        arguments: &[&str],
        core: Option<usize>,
        address: SocketAddr,
        patience: Duration,
    ) -> Result<Self> {
        let ready = |address| http::get(address, "/v2/health/ready").is_ok_and(|answer| answer.status == 200);
        Self::start_until(program, arguments, core, address, patience, ready)
    }

    /// The same where something else says that it is ready.
    pub fn start_until(
        program: &Path,
        arguments: &[&str],
        core: Option<usize>,
        address: SocketAddr,
        patience: Duration,
        ready: impl Fn(SocketAddr) -> bool,
    ) -> Result<Self> {
        let mut server = Self::spawn(program, arguments, core, address)?;
        server.wait_until(program, patience, ready)?;
        Ok(server)
    }

    fn spawn(program: &Path, arguments: &[&str], core: Option<usize>, address: SocketAddr) -> Result<Self> {
        eprintln!("==> {} {}", program.display(), arguments.join(" "));
        ensure!(http::get(address, "/").is_err(), "something else listens on {address} already");
        let mut command = Command::new("sh");
        command.args(["-c", SUPERVISOR, "sh"]);
        if let Some(core) = core {
            command.args(["taskset", "-c", &core.to_string()]);
        }
        command.arg(program).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        // Ctrl-C is for the task alone: the server gets SIGTERM through the pipe, once.
        command.process_group(0);
        let mut supervisor = command.spawn().context("cannot start sh")?;
        let mut line = String::new();
        let output = supervisor.stdout.take().context("the supervisor has no output")?;
        BufReader::new(output).read_line(&mut line)?;
        let pid = line.trim().parse().context("the supervisor gave no process id")?;
        Ok(Self { supervisor, pid, address })
    }

    fn wait_until(
        &mut self,
        program: &Path,
        patience: Duration,
        ready: impl Fn(SocketAddr) -> bool,
    ) -> Result<()> {
        let started = Instant::now();
        while started.elapsed() < patience {
            if let Some(status) = self.supervisor.try_wait()? {
                bail!("{} ended before it was ready: {status}", program.display());
            }
            if ready(self.address) {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(10));
        }
        bail!("{} was not ready after {} s", program.display(), patience.as_secs())
    }

    /// Waits until the server ends by itself or by ctrl-C.
    pub fn wait(mut self) -> Result<()> {
        // `Child::wait` would close the pipe, which is the signal to stop.
        let _open = self.supervisor.stdin.take();
        let status = self.supervisor.wait()?;
        ensure!(status.success(), "the server ended with {status}");
        Ok(())
    }

    /// Sends SIGTERM and fails unless the server ends with exit code 0 within its grace period.
    pub fn stop(mut self) -> Result<()> {
        let status = self.terminate()?;
        let status = status
            .with_context(|| format!("the server did not end within {} s of SIGTERM", GRACE.as_secs()))?;
        ensure!(status.success(), "after SIGTERM the server ended with {status}");
        Ok(())
    }

    /// Ends a server of others: nothing is expected of its exit code, and it is killed if it does not end.
    pub fn end(mut self) -> Result<()> {
        if self.terminate()?.is_none() {
            shell::run("killing it", Command::new("kill").args(["-KILL", &self.pid.to_string()]))?;
            self.supervisor.wait()?;
        }
        Ok(())
    }

    fn terminate(&mut self) -> Result<Option<ExitStatus>> {
        drop(self.supervisor.stdin.take());
        let started = Instant::now();
        while started.elapsed() < GRACE {
            if let Some(status) = self.supervisor.try_wait()? {
                return Ok(Some(status));
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(None)
    }
}

/// The ports below those which Linux hands out by itself (`ip_local_port_range`, from 32768): no client's own end takes
/// one of them before its server does.
const PORTS: std::ops::Range<u16> = 16_384..32_768;

/// An address of the loopback interface that nothing listens on at the moment, never the same twice.
pub fn free_address() -> Result<SocketAddr> {
    static ASKED: AtomicU32 = AtomicU32::new(0);
    let count = PORTS.end - PORTS.start;
    // Two tasks on one machine start at different places.
    let first = process::id().wrapping_mul(199);
    for _ in 0..count {
        let next = first.wrapping_add(ASKED.fetch_add(1, Ordering::Relaxed));
        let port = PORTS.start + u16::try_from(next % u32::from(count))?;
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        if TcpListener::bind(address).is_ok() {
            return Ok(address);
        }
    }
    bail!("none of the ports {} to {} of 127.0.0.1 is free", PORTS.start, PORTS.end - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn supervised(script: &str) -> Child {
        Command::new("sh")
            .args(["-c", SUPERVISOR, "sh", "sh", "-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("sh starts")
    }

    fn alive(pid: &str) -> bool {
        Path::new("/proc").join(pid).join("stat").exists()
    }

    #[test]
    fn the_server_ends_with_the_pipe_and_its_exit_code_is_seen() {
        let mut child = supervised("trap 'exit 7' TERM; while :; do sleep 0.05; done");
        let mut pid = String::new();
        BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut pid).expect("a line");
        thread::sleep(Duration::from_millis(200));
        assert!(alive(pid.trim()));
        drop(child.stdin.take());
        assert_eq!(child.wait().expect("it ends").code(), Some(7));
        assert!(!alive(pid.trim()));
    }

    #[test]
    fn free_addresses_differ() {
        let free = |_| free_address().expect("there are free ports");
        let mut addresses = [(); 20].map(free);
        addresses.sort();
        assert!(addresses.windows(2).all(|pair| pair[0] != pair[1]), "{addresses:?}");
        assert!(addresses.iter().all(|address| PORTS.contains(&address.port())), "{addresses:?}");
    }

    #[test]
    fn a_server_that_ends_by_itself_is_noticed() {
        let mut child = supervised("exit 3");
        let _open = child.stdin.take();
        assert_eq!(child.wait().expect("it ends").code(), Some(3));
    }
}
