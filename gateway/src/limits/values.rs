//! How limits are written: sizes as `64MiB`, times as `500ms`, rates as `0.5`. In JSON sizes and rates are numbers as well.

use std::{fmt, str::FromStr, time::Duration};

use bytesize::ByteSize;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A length of time as people write it: `2s`, `500ms`, `1m 30s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        humantime::parse_duration(text)
            .map(Self)
            .map_err(|error| format!("{error}; write 2s, 500ms or 1m 30s"))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Size(pub u64);

impl Size {
    /// The same number for what is in memory.
    pub fn bytes(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl From<usize> for Size {
    fn from(bytes: usize) -> Self {
        Self(bytes as u64)
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let size =
            text.parse::<ByteSize>().map_err(|_| "write 64MiB, 2GiB or a number of bytes".to_owned())?;
        Ok(Self(size.as_u64()))
    }
}

/// In the largest unit in which it is a whole number, so that it is exact.
impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
        match units.iter().find(|(shift, _)| self.0 > 0 && self.0.trailing_zeros() >= *shift) {
            Some((shift, unit)) => write!(f, "{}{unit}", self.0 >> shift),
            None => self.0.fmt(f),
        }
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        ByteSize::deserialize(deserializer).map(|size| Self(size.as_u64()))
    }
}

/// Requests within a second, to a thousandth; 0 is no limit.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rate {
    thousandths: u32,
}

/// The greatest rate that can be written.
const MAX_RATE: f64 = 1e6;

impl Rate {
    pub const NONE: Self = Self { thousandths: 0 };

    pub const fn per_second(requests: u16) -> Self {
        Self { thousandths: requests as u32 * 1000 }
    }

    /// Requests within a second; `None` if they are not limited.
    pub fn requests(self) -> Option<f64> {
        (self != Self::NONE).then(|| f64::from(self.thousandths) / 1000.0)
    }

    fn new(requests: f64) -> Result<Self, String> {
        let thousandths = (requests * 1000.0).round();
        if !(0.0..=MAX_RATE).contains(&requests) || (requests > 0.0 && thousandths < 1.0) {
            return Err("a rate is 0, for none, or 0.001 to 1000000 requests a second".into());
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "0 to 1e9, checked above"
        )]
        Ok(Self { thousandths: thousandths as u32 })
    }
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::new(text.parse().unwrap_or(f64::NAN))
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (f64::from(self.thousandths) / 1000.0).fmt(f)
    }
}

impl fmt::Debug for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Rate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(f64::from(self.thousandths) / 1000.0)
    }
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(f64::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_written_exactly() {
        for text in ["0", "1", "1025", "64MiB", "3GiB", "1536MiB", "2TiB"] {
            let size: Size = text.parse().expect(text);
            assert_eq!(size.to_string(), text);
            let told = serde_json::to_value(size).expect("JSON");
            assert_eq!(serde_json::from_value::<Size>(told).expect("a size"), size);
        }
        assert_eq!(serde_json::from_str::<Size>("\"10GiB\"").expect("a size"), Size(10 << 30));
        assert!("much".parse::<Size>().is_err() && "-1".parse::<Size>().is_err());
    }

    #[test]
    fn rates_go_down_to_a_thousandth() {
        for (text, limit) in [("0", None), ("50", Some(50.0)), ("0.2", Some(0.2)), ("0.001", Some(0.001))] {
            let rate: Rate = text.parse().expect(text);
            assert_eq!((rate.requests(), rate.to_string().as_str()), (limit, text));
        }
        for text in ["-1", "NaN", "inf", "0.0001", "1e7", "50/s", ""] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
        assert_eq!(serde_json::from_str::<Rate>("50").expect("a rate"), Rate::per_second(50));
    }
}
