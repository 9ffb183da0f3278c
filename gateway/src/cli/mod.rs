//! The command line: `airlock serve`, `airlock check`, the operator's commands on what a gateway keeps, the tenants'
//! commands, which talk to a gateway that runs, and what workers are started as.

mod check;
mod client;
mod completions;
mod connection;
mod descriptors;
mod infer;
mod key;
mod list;
mod npy;
mod operator;
mod otlp;
mod package;
mod profile;
mod progress;
mod push;
mod records;
mod remove;
mod say;
mod serve;
mod settings;
mod show;
mod tenant;
mod tensors;
mod usage;
mod values;
mod verify;
mod worker;

use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// A WebAssembly-sandboxed inference gateway that speaks the V2 (Open Inference) Protocol.
#[derive(Debug, Parser)]
#[command(
    name = "airlock",
    version,
    arg_required_else_help = true,
    disable_help_subcommand = true,
    after_help = "\
Exit codes: 0 done; 1 refused or failed; 2 the command line is wrong; 3 the gateway cannot be reached."
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(Box<serve::Serve>),
    Tenant(tenant::Tenant),
    Key(key::Key),
    Check(Box<check::Check>),
    Worker(worker::Worker),
    Push(push::Push),
    List(list::List),
    Show(show::Show),
    Remove(remove::Remove),
    Infer(infer::Infer),
    Verify(verify::Verify),
    Default(settings::SetDefault),
    Alias(settings::Alias),
    Usage(usage::Usage),
    Completions(completions::Completions),
}

/// How the tenants' commands answer.
#[derive(Args, Clone, Copy, Debug)]
struct Answer {
    /// How to answer
    #[arg(long, value_name = "FORM", default_value = "text")]
    output: records::Output,
}

/// Parses the command line, runs the command and says what went wrong, if anything did.
pub fn main() -> ExitCode {
    if let Err(error) = no_core_dumps() {
        say::note(format!(
            "airlock: a crash may leave keys in a core dump, which cannot be switched off: {error}"
        ));
    }
    match Cli::parse().command {
        Command::Serve(serve) => serve.run(),
        Command::Check(check) => check.run(),
        Command::Worker(worker) => worker.run(),
        Command::Tenant(tenant) => told(tenant.run()),
        Command::Key(key) => told(key.run()),
        Command::Push(push) => told(push.run()),
        Command::List(list) => told(list.run()),
        Command::Show(show) => told(show.run()),
        Command::Remove(remove) => told(remove.run()),
        Command::Infer(infer) => told(infer.run()),
        Command::Verify(verify) => told(verify.run()),
        Command::Default(default) => told(default.run()),
        Command::Alias(alias) => told(alias.run()),
        Command::Usage(usage) => told(usage.run()),
        Command::Completions(completions) => told(completions.run()),
    }
}

/// Every command may have keys in its memory, a worker has tenants' models, and a core dump is that memory in a file. A limit of 0
/// is not looked at where dumps are piped to a program; 1 byte is too little for a file, and to the kernel it means no such program
/// either. Who may attach a debugger reads the memory all the same: to forbid that (`PR_SET_DUMPABLE`) would take
/// `/proc/self/pagemap` from a gateway that is not root, and with it the quick reset of instances.
fn no_core_dumps() -> rustix::io::Result<()> {
    // Below it already, it cannot be raised, and need not be.
    if getrlimit(Resource::Core).maximum.is_none_or(|maximum| maximum > 0) {
        setrlimit(Resource::Core, Rlimit { current: Some(1), maximum: Some(1) })?;
    }
    Ok(())
}

fn told(outcome: anyhow::Result<()>) -> ExitCode {
    let Err(error) = outcome else { return ExitCode::SUCCESS };
    say::note(format!("airlock: {error:#}"));
    match error.downcast_ref::<client::ClientError>() {
        Some(error) if error.is_silence() => ExitCode::from(3),
        _ => ExitCode::FAILURE,
    }
}
