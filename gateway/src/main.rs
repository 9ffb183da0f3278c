//! The `airlock` binary.

fn main() -> std::process::ExitCode {
    airlock::free_memory::bound();
    airlock::cli::main()
}
