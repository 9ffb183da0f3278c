//! Welch's t of two kinds of times, with what is far out cropped.

use anyhow::{Context, Result};

/// From here on the kinds differ, says dudect.
pub const THRESHOLD: f64 = 4.5;

/// Interrupts hit both kinds alike and hide what is looked for: dudect's remedy is to look below percentiles as well.
const PERCENTILES: [usize; 6] = [100, 99, 95, 90, 75, 50];

/// The times of one kind: count, mean and sum of squared differences (Welford).
#[derive(Clone, Copy, Default)]
struct Times {
    count: f64,
    mean: f64,
    squares: f64,
}

impl Times {
    fn add(&mut self, nanoseconds: f64) {
        self.count += 1.0;
        let before = nanoseconds - self.mean;
        self.mean += before / self.count;
        self.squares += before * (nanoseconds - self.mean);
    }

    /// The variance of the mean.
    fn error(&self) -> f64 {
        self.squares / (self.count - 1.0) / self.count
    }
}

/// The two kinds below one percentile of all times.
pub struct Comparison {
    pub percentile: usize,
    pub t: f64,
    /// Nanoseconds.
    pub means: [f64; 2],
    pub samples: f64,
}

/// Compares kinds 0 and 1 of times in nanoseconds, below each percentile of both together.
pub fn compare(measured: &[(usize, f64)]) -> Result<Vec<Comparison>> {
    let mut sorted: Vec<f64> = measured.iter().map(|(_, time)| *time).collect();
    sorted.sort_by(f64::total_cmp);
    let below = |percentile: usize| {
        let at = (sorted.len() * percentile / 100).saturating_sub(1);
        let limit = *sorted.get(at).context("no samples")?;
        let mut times = [Times::default(); 2];
        for (kind, time) in measured.iter().filter(|(_, time)| *time <= limit) {
            times[*kind].add(*time);
        }
        let [one, other] = times;
        let t = (one.mean - other.mean) / (one.error() + other.error()).sqrt();
        Ok(Comparison { percentile, t, means: [one.mean, other.mean], samples: one.count + other.count })
    };
    PERCENTILES.into_iter().map(below).collect()
}

/// The t that is farthest from 0.
pub fn worst(compared: &[Comparison]) -> f64 {
    let all = compared.iter().map(|comparison| comparison.t);
    all.fold(0.0, |worst, t| if t.abs() > f64::abs(worst) { t } else { worst })
}
