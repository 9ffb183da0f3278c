//! The `airlock` binary.

fn main() -> std::process::ExitCode {
    airlock::cli::main()
}
