//! The `airlock` binary.

fn main() -> std::process::ExitCode {
    give_back_memory();
    airlock::cli::main()
}

/// Has every block of a megabyte or more returned to the system as soon as it is freed. By itself glibc learns from the first
/// large block to keep up to 64 MiB in each of its arenas, of which there are eight for each core: one body that was large
/// once would count for good.
#[allow(unsafe_code, reason = "the C library's settings have no safe interface")]
fn give_back_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: it sets a number of the allocator's, under its lock, and no other thread runs yet.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 20);
    }
}
