//! The text of `docs/benchmarks.md`.

use std::{fmt::Write, fs, process::Command};

use super::{
    Section,
    bars::{self, Bar},
    lab::Lab,
};

pub fn render(lab: &Lab, sections: &[Section], command: &str, load_before: &str, commit: &str) -> String {
    let mut text = String::from(INTRODUCTION);
    let bars: Vec<&Bar> = sections.iter().flat_map(|section| &section.bars).collect();
    let _ = write!(text, "\n## What is promised\n\n{PROMISES}\n{}", bars::table(&bars));
    let _ = write!(
        text,
        "\n## Machine and command\n\n`{command}` of commit {commit}, {}, on {}. Load average before {load_before}, after {}.\n\n{}\n\n{METHOD}",
        today(),
        machine(),
        load_average(),
        lab.builds
    );
    let beside: Vec<String> = lab
        .peers
        .iter()
        .map(|installed| match &installed.python {
            Ok(_) => installed.peer.version().to_owned(),
            Err(reason) => format!("{} was not measured: {reason}", installed.peer.name()),
        })
        .collect();
    let beside = if beside.is_empty() { "no others".into() } else { beside.join("; ") };
    let _ = write!(text, "\nOther servers in this run: {beside}.\n");
    for section in sections {
        text += &section.text;
    }
    text + LIMITS
}

const INTRODUCTION: &str = "\
# Benchmarks

Written by `cargo xtask bench`; do not edit by hand.

What the gateway costs beside the least that any server of this kind can cost, and beside other servers of the same protocol.
The bare server is hyper with typed serde_json: it reads and writes the same requests and does nothing else, with no model, no
checks and no limits; gRPC messages it answers with themselves, without protobuf. `identity` runs in a WebAssembly sandbox, a
new instance for each request; `identity_onnx` is an ONNX graph of one `Identity` node that runs natively. Both echo their
input, and so do the models of Triton (Python backend, one instance) and MLServer (its defaults: one process for models).
";

const PROMISES: &str = "\
A promise is reached if the median of the rounds keeps it in each of its settings. `c=8` is eight requests in flight; a figure
in × is a ratio of requests per second, taken round by round, where nothing else is said.
";

const METHOD: &str = "\
Every server runs on core 0 and the load generator on core 1 (where `taskset` is there), over loopback and
keep-alive connections, closed loop: the next request goes out when the answer to one is there. The generator never sleeps:
over loopback, who answers a client that sleeps pays for waking it on the other core, which took up to a third of a small
request's processor time, and no network has. REST has one request in flight
on a connection; gRPC has 1, 2 or 4 on each of 1, 4 or 8. In each round every server is measured once in every case, one right
after the other and in changing order; the figures are the medians of the rounds, and least and most stand beside. The first
answer of each measurement is checked value for value, every further one by status and length. CPU is user and system time of
all processes of the server, for each request; it is the steadiest column on a busy machine.
";

const LIMITS: &str = "
## What this does not show

Builds that were optimised by a profile had a profile of these very loads; how they fare with others was not measured. Loopback has
no network. One core serves everything, so nothing is said about how the gateway grows with cores. An identity
model does no work: the tables of requests show overhead, and say nothing about how fast a real model runs. HTTP/2 for REST,
many connections and mixed sizes are not measured. KServe's Python server is not: it listens on all interfaces and cannot be told
otherwise.
";

fn today() -> String {
    let date = Command::new("date").args(["-u", "+%Y-%m-%d"]).output();
    date.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
}

/// Processor, cores, memory, kernel and compiler.
fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let processor =
        field(&read("/proc/cpuinfo"), "model name").unwrap_or_else(|| "an unnamed processor".into());
    let memory = field(&read("/proc/meminfo"), "MemTotal").unwrap_or_default();
    let kibibytes: u64 = memory.trim_end_matches(" kB").parse().unwrap_or(0);
    let kernel = read("/proc/sys/kernel/osrelease");
    let compiler = Command::new("rustc").arg("--version").output();
    let compiler = compiler.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    format!(
        "{cores} cores of {processor}, {} GiB, Linux {}, {}",
        kibibytes.div_ceil(1 << 20),
        kernel.trim(),
        compiler.unwrap_or_default()
    )
}

/// The one-minute load average: others' work on the machine shows here.
pub fn load_average() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            bars::Wanted,
            figures::Rounds,
            peers::{Installed, Peer},
        },
        *,
    };

    #[test]
    fn promises_come_first_and_what_was_not_measured_is_said() {
        let mut lab = Lab::smoke().expect("nothing is started");
        lab.peers =
            vec![Installed { peer: Peer::Triton, python: Err("cannot be installed: no network".into()) }];
        let bar = Bar {
            number: 4,
            text: "binary".into(),
            wanted: Wanted::AtLeast(0.75),
            unit: "×",
            measured: vec![("c=8".into(), Ok(Rounds(vec![0.8])))],
        };
        let section = Section { text: "\n## A section\n\nfigures\n".into(), bars: vec![bar] };
        let text = render(&lab, &[section], "cargo xtask bench", "0.1", "abc");
        let at = |part: &str| text.find(part).unwrap_or_else(|| panic!("no '{part}' in {text}"));
        assert!(at("| 4 | binary | ≥ 0.75× | c=8: 0.800 | reached |") < at("## Machine and command"));
        assert!(at("Triton was not measured: cannot be installed: no network.") < at("## A section"));
    }
}
