//! Worker processes: what hostile models do to them, what is left of them, and the cache of what they compiled.

mod cache;
mod check;
mod fake;
mod hostile;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use airlock::{
    execute::{LoadError, Report, Source, worker::Workers},
    limits::{SandboxLimits, WorkerLimits},
};
use airlock_tests::gateway::binary;
use tempfile::TempDir;
use tokio::task::spawn_blocking;

/// Workers whose folders are in one of the test's own, so that what they leave behind is seen.
struct Fixture {
    workers: Arc<Workers>,
    folder: TempDir,
}

impl Fixture {
    fn new(program: PathBuf, limits: WorkerLimits) -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        let workers =
            Workers::new(limits, Some(program), Some(folder.path().into())).expect("a writable folder");
        Self { workers, folder }
    }

    fn real(limits: WorkerLimits) -> Self {
        Self::new(binary(), limits)
    }

    fn check(&self, limits: &SandboxLimits, artifact: Vec<u8>) -> Result<Report, LoadError> {
        let checked = self.workers.check_wasm(limits, &source(artifact));
        self.assert_clean();
        checked
    }

    async fn refused(&self, limits: SandboxLimits, artifact: Vec<u8>) -> LoadError {
        let workers = Arc::clone(&self.workers);
        let checked = spawn_blocking(move || workers.check_wasm(&limits, &source(artifact)));
        let error = checked.await.expect("no panic").expect_err("the model is refused");
        self.assert_clean();
        error
    }

    /// Neither a running process nor a folder.
    fn assert_clean(&self) {
        assert_eq!(children_in(self.folder.path()), [0; 0], "a process is left");
        assert_eq!(fs::read_dir(self.folder.path()).expect("the folder").count(), 0, "a folder is left");
    }

    /// The worker that runs now.
    fn child(&self) -> u32 {
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(20) {
            if let [child] = children_in(self.folder.path())[..] {
                return child;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        panic!("no worker was started");
    }
}

fn source(artifact: Vec<u8>) -> Source {
    Source { label: "test/1".into(), artifact, ..Source::default() }
}

/// Children of this process whose working folder is below a folder.
fn children_in(folder: &Path) -> Vec<u32> {
    let own = std::process::id().to_string();
    let numbers =
        fs::read_dir("/proc").expect("Linux").filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    numbers
        .filter_map(|number| number.parse().ok())
        .filter(|number| {
            let stat = fs::read_to_string(format!("/proc/{number}/stat")).unwrap_or_default();
            // `number (name) state parent …`
            let parent = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1));
            let cwd = fs::read_link(format!("/proc/{number}/cwd"));
            parent == Some(&own) && cwd.is_ok_and(|cwd| cwd.starts_with(folder))
        })
        .collect()
}
