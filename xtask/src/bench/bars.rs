//! What is promised of the speed, and whether this run shows it.

use std::fmt::Write;

use super::figures::Rounds;

/// What a figure has to be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Wanted {
    AtLeast(f64),
    AtMost(f64),
    Below(f64),
}

impl Wanted {
    fn holds(self, value: f64) -> bool {
        match self {
            Self::AtLeast(bound) => value >= bound,
            Self::AtMost(bound) => value <= bound,
            Self::Below(bound) => value < bound,
        }
    }

    fn text(self, unit: &str) -> String {
        let (sign, bound) = match self {
            Self::AtLeast(bound) => ("≥", bound),
            Self::AtMost(bound) => ("≤", bound),
            Self::Below(bound) => ("<", bound),
        };
        format!("{sign} {bound}{unit}")
    }
}

/// One promise: it is kept if the median of the rounds keeps it, in each of its settings.
#[derive(Clone, Debug)]
pub struct Bar {
    /// As the promises are numbered.
    pub number: u32,
    pub text: String,
    pub wanted: Wanted,
    /// `×` or ` µs`
    pub unit: &'static str,
    /// The setting (`c=8`, empty if there is one only) and its rounds; no rounds, or the reason why it was not measured.
    pub measured: Vec<(String, Result<Rounds, String>)>,
}

impl Bar {
    fn verdict(&self) -> &'static str {
        let medians: Option<Vec<f64>> =
            self.measured.iter().map(|(_, rounds)| rounds.as_ref().ok().map(Rounds::median)).collect();
        match medians {
            Some(medians) if medians.iter().any(|median| median.is_nan()) => "not measured",
            Some(medians) if medians.iter().all(|median| self.wanted.holds(*median)) => "reached",
            Some(_) => "**not reached**",
            None => "not measured",
        }
    }

    fn row(&self) -> String {
        let measured: Vec<String> = self
            .measured
            .iter()
            .map(|(setting, rounds)| {
                let separator = if setting.is_empty() { "" } else { ": " };
                let figure = match rounds {
                    Ok(rounds) => rounds.spread(),
                    Err(reason) => reason.clone(),
                };
                format!("{setting}{separator}{figure}")
            })
            .collect();
        format!(
            "| {} | {} | {} | {} | {} |\n",
            self.number,
            self.text,
            self.wanted.text(self.unit),
            measured.join(" · "),
            self.verdict()
        )
    }
}

/// All of them, as a table.
pub fn table(bars: &[&Bar]) -> String {
    let mut text =
        String::from("| | promise | wanted | measured: median (least–most) | |\n|---|---|---|---|---|\n");
    let mut bars = bars.to_vec();
    bars.sort_by_key(|bar| bar.number);
    for bar in &bars {
        text += &bar.row();
    }
    let reached = bars.iter().filter(|bar| bar.verdict() == "reached").count();
    let _ = write!(text, "\n{reached} of {} reached.\n", bars.len());
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bar(wanted: Wanted, measured: Vec<(String, Result<Rounds, String>)>) -> Bar {
        Bar { number: 1, text: "fast".into(), wanted, unit: "×", measured }
    }

    #[test]
    fn a_bar_is_reached_in_all_settings_or_not_at_all() {
        let at = |c: &str, rounds: &[f64]| (format!("c={c}"), Ok(Rounds(rounds.to_vec())));
        let both = vec![at("8", &[0.4, 0.6, 0.7]), at("32", &[0.5])];
        assert_eq!(bar(Wanted::AtLeast(0.5), both.clone()).verdict(), "reached");
        assert_eq!(bar(Wanted::AtLeast(0.55), both.clone()).verdict(), "**not reached**");
        assert_eq!(bar(Wanted::AtMost(0.6), both.clone()).verdict(), "reached");
        assert_eq!(bar(Wanted::Below(0.6), both.clone()).verdict(), "**not reached**");
        assert_eq!(
            bar(Wanted::AtLeast(0.5), both).row(),
            "| 1 | fast | ≥ 0.5× | c=8: 0.600 (0.400–0.700) · c=32: 0.500 | reached |\n"
        );
    }

    #[test]
    fn what_was_not_measured_is_not_reached() {
        let missing = bar(Wanted::Below(1.0), vec![(String::new(), Err("cannot be installed".into()))]);
        assert_eq!(missing.row(), "| 1 | fast | < 1× | cannot be installed | not measured |\n");
        assert_eq!(
            bar(Wanted::Below(1.0), vec![(String::new(), Ok(Rounds::default()))]).verdict(),
            "not measured"
        );
        assert!(table(&[&missing]).ends_with("\n0 of 1 reached.\n"));
    }
}
