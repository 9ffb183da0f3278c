//! A gateway in a process of its own: the built binary, on a port that the kernel picks.

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use crate::gateway::binary;

/// A shell script that can be run as a program. Another process writes it: for as long as one that was forked meanwhile by another
/// test has it open for writing it cannot be run.
pub fn script(folder: &Path, text: &str) -> PathBuf {
    let path = folder.join("program");
    let made = Command::new("sh")
        .args(["-c", "printf '#!/bin/sh\\n%s\\n' \"$1\" > \"$2\" && chmod 755 \"$2\"", "sh", text])
        .arg(&path)
        .status();
    assert!(made.expect("a shell").success());
    path
}

/// A running `airlock serve`, ended when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    pub address: SocketAddr,
    /// Of its gRPC port, unless it is off.
    pub grpc: Option<SocketAddr>,
    log: std::thread::JoinHandle<String>,
}

impl Process {
    /// Starts the binary and waits until it says that it is ready.
    pub fn serve(arguments: &[&str]) -> Self {
        Self::serve_in(arguments, &[])
    }

    /// The same, with variables in its environment.
    pub fn serve_in(arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut command = Command::new(binary());
        command.envs(variables.iter().copied());
        Self::begin(command, arguments)
    }

    /// The same, by a program that takes the binary and its arguments as its own last ones, and becomes it.
    pub fn serve_under(wrapper: &[&str], arguments: &[&str]) -> Self {
        let mut command = Command::new(wrapper[0]);
        command.args(&wrapper[1..]).arg(binary());
        Self::begin(command, arguments)
    }

    fn begin(mut command: Command, arguments: &[&str]) -> Self {
        let mut child = command
            .args(["serve", "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
            .args(["--metrics", "off"])
            .args(arguments)
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let mut lines = BufReader::new(child.stderr.take().expect("a pipe")).lines();
        let mut seen = String::new();
        let (mut address, mut grpc) = (None, None);
        // In JSON, more follows.
        let behind = |line: &str, words: &str| -> Option<SocketAddr> {
            let (_, told) = line.split_once(words)?;
            let end = told.find(|c: char| !c.is_ascii_digit() && c != '.' && c != ':');
            told[..end.unwrap_or(told.len())].parse().ok()
        };
        for line in lines.by_ref() {
            let line = line.expect("text");
            seen += &format!("{line}\n");
            address = address.or_else(|| behind(&line, "listening on http://"));
            grpc = grpc.or_else(|| behind(&line, "gRPC on http://"));
            if line.contains("ready models=") || line.contains("\"message\":\"ready\"") {
                break;
            }
        }
        let address = address.unwrap_or_else(|| panic!("no address in the log:\n{seen}"));
        // The rest of the log is read too, or the process would block on a full pipe.
        let log = std::thread::spawn(move || {
            lines.map_while(Result::ok).fold(seen, |log, line| log + &line + "\n")
        });
        Self { child, address, grpc, log }
    }

    /// The id of the process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// MiB of memory that it has to itself.
    pub fn own_mib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it lives");
        let kib = status.lines().find_map(|line| line.strip_prefix("RssAnon:")?.trim().strip_suffix(" kB"));
        kib.and_then(|kib| kib.parse::<u64>().ok()).expect("a number") / 1024
    }

    /// Sends a signal by its name, such as `TERM`.
    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let status = Command::new("kill").args(["-s", name, &pid]).status().expect("kill runs");
        assert!(status.success());
    }

    /// The kernel's line on one of its limits, such as `Max core file size`: the values behind the name.
    pub fn limit(&self, name: &str) -> Option<String> {
        let limits = std::fs::read_to_string(format!("/proc/{}/limits", self.child.id())).ok()?;
        limits.lines().find_map(|line| Some(line.strip_prefix(name)?.trim().to_owned()))
    }

    /// Waits for the end: exit code, time it took, and the whole log.
    pub fn end(mut self) -> (Option<i32>, Duration, String) {
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(20) {
            if let Some(status) = self.child.try_wait().expect("a child of ours") {
                let log = std::mem::replace(&mut self.log, std::thread::spawn(String::new));
                return (status.code(), started.elapsed(), log.join().expect("no panic"));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("the process is still there after 20 s");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
