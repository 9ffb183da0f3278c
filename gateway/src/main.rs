//! The `airlock` binary.

fn main() -> std::process::ExitCode {
    bound_free_memory();
    airlock::cli::main()
}

/// Bounds what the C library keeps of memory that was freed. By itself glibc learns from the first large block to keep up to
/// 64 MiB in each of its arenas, of which there are eight for each core: one body that was large once would count for
/// good. Here blocks of 4 MiB or more are the system's as soon as they are freed, and each of a few arenas keeps 8 MiB at
/// its end: less, and each tensor of some hundred kilobytes would have its pages taken away and cleared anew.
#[allow(unsafe_code, reason = "the C library's settings have no safe interface")]
fn bound_free_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let arenas = i32::try_from(cores + 2).unwrap_or(i32::MAX);
        // SAFETY: it sets numbers of the allocator's, under its lock, and no other thread runs yet.
        unsafe {
            libc::mallopt(libc::M_MMAP_THRESHOLD, 4 << 20);
            libc::mallopt(libc::M_TRIM_THRESHOLD, 8 << 20);
            libc::mallopt(libc::M_ARENA_MAX, arenas);
        }
    }
}
