//! How far an upload is: a bar on a terminal, a line now and then elsewhere. All of it on stderr.

use std::{
    io::{IsTerminal, stderr},
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use bytesize::ByteSize;
use indicatif::{ProgressBar, ProgressStyle};

use super::say::note;

/// Between two lines where there is no terminal.
const LINES: Duration = Duration::from_secs(2);

/// Between two looks at how much is sent.
const LOOKS: Duration = Duration::from_millis(100);

const BAR: &str = "sending {bar:30} {bytes}/{total_bytes} {bytes_per_sec}, {eta} left";
const SPINNER: &str = "{spinner} checking and compiling, {elapsed}";

/// Shows how `sent` grows to `length`, and then the time that the gateway takes. Never ends by itself.
pub(super) async fn show(sent: &AtomicU64, length: u64) {
    if stderr().is_terminal() { bar(sent, length).await } else { lines(sent, length).await }
}

async fn bar(sent: &AtomicU64, length: u64) {
    sending(sent, length).await;
    let spinner = Cleared(ProgressBar::new_spinner().with_style(style(SPINNER)));
    spinner.0.enable_steady_tick(LOOKS);
    std::future::pending::<()>().await;
}

async fn sending(sent: &AtomicU64, length: u64) {
    let bar = Cleared(ProgressBar::new(length).with_style(style(BAR)));
    loop {
        let now = sent.load(Ordering::Relaxed);
        bar.0.set_position(now);
        if now >= length {
            return;
        }
        tokio::time::sleep(LOOKS).await;
    }
}

/// A bar that is gone when it is dropped: what follows is the answer.
struct Cleared(ProgressBar);

impl Drop for Cleared {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

async fn lines(sent: &AtomicU64, length: u64) {
    let mut compiling = None;
    loop {
        tokio::time::sleep(LINES).await;
        let now = sent.load(Ordering::Relaxed);
        if now < length {
            note(format!("sending: {} of {}", ByteSize(now), ByteSize(length)));
        } else {
            let since = compiling.get_or_insert_with(Instant::now);
            note(format!("checking and compiling for {} s", since.elapsed().as_secs()));
        }
    }
}
