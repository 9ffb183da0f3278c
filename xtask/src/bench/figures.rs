//! Several measurements of one thing, and how they are written.

/// One value for each round.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rounds(pub Vec<f64>);

impl Rounds {
    pub fn median(&self) -> f64 {
        let mut values = self.0.clone();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        match values.len() {
            0 => f64::NAN,
            count if count % 2 == 1 => values[middle],
            _ => f64::midpoint(values[middle - 1], values[middle]),
        }
    }

    pub fn least(&self) -> f64 {
        self.0.iter().copied().fold(f64::INFINITY, f64::min)
    }

    pub fn most(&self) -> f64 {
        self.0.iter().copied().fold(f64::NEG_INFINITY, f64::max)
    }

    /// Round by round: both were measured right after each other.
    pub fn ratio(&self, to: &Self) -> Self {
        Self(self.0.iter().zip(&to.0).map(|(a, b)| a / b).collect())
    }

    pub fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    /// The median, and the least and the most beside it.
    pub fn spread(&self) -> String {
        match self.0.len() {
            0 => "–".into(),
            1 => figure(self.median()),
            _ => format!("{} ({}–{})", figure(self.median()), figure(self.least()), figure(self.most())),
        }
    }
}

impl FromIterator<f64> for Rounds {
    fn from_iter<T: IntoIterator<Item = f64>>(values: T) -> Self {
        Self(values.into_iter().collect())
    }
}

/// Three significant digits, as much as a measurement is worth.
pub fn figure(value: f64) -> String {
    match value {
        value if value.is_nan() => "–".into(),
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        value if value >= 1.0 => format!("{value:.2}"),
        value => format!("{value:.3}"),
    }
}

/// Bytes, written as MiB.
pub fn mebibytes(bytes: &Rounds) -> Rounds {
    bytes.0.iter().map(|bytes| bytes / f64::from(1 << 20)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_one() {
        assert_eq!(Rounds(vec![9.0, 1.0, 5.0]).median(), 5.0);
        assert_eq!(Rounds(vec![9.0, 1.0, 5.0, 6.0]).median(), 5.5);
    }

    #[test]
    fn ratios_are_those_of_rounds() {
        let ratio = Rounds(vec![1.0, 4.0, 3.0]).ratio(&Rounds(vec![2.0, 2.0, 1.0]));
        assert_eq!(ratio, Rounds(vec![0.5, 2.0, 3.0]));
        assert_eq!(ratio.spread(), "2.00 (0.500–3.00)");
        assert_eq!(Rounds::default().spread(), "–");
    }
}
