//! Cases that are repeated when promises are measured at full size.

use std::time::{Duration, Instant};

/// Of what takes longer than this there are three rounds at most.
const LONG: Duration = Duration::from_secs(1);

/// How many rounds there are of each case: 1, or what `AIRLOCK_ROUNDS` says.
pub fn wanted() -> usize {
    std::env::var("AIRLOCK_ROUNDS").map_or(1, |rounds| rounds.parse().expect("AIRLOCK_ROUNDS is a number"))
}

/// Repeats a case as often as is wanted, and says how often that was.
pub async fn of(name: &str, case: impl AsyncFn()) {
    let mut left = wanted();
    let mut rounds = 0;
    while left > 0 {
        let begun = Instant::now();
        case().await;
        rounds += 1;
        left -= 1;
        if begun.elapsed() > LONG {
            left = left.min(3usize.saturating_sub(rounds));
        }
    }
    eprintln!("{name}: {rounds} rounds");
}
