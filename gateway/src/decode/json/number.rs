//! JSON numbers: one scan over the text, then a correctly rounded conversion.
//!
//! Float arrays are most of what a gateway parses. Nearly all of their numbers take a path of a few operations here,
//! the rest is left to the standard library.

use std::str::FromStr;

use half::f16;

use super::short::Short;

/// A JSON number: `±mantissa * 10^exponent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Number<'j> {
    text: &'j [u8],
    negative: bool,
    /// All digits without point; wraps if there are more than fit.
    mantissa: u64,
    exponent: i32,
    /// Digits from the first that is not zero on.
    significant: usize,
    integer: bool,
}

/// Digits that a u64 holds whatever they are.
const MAX_DIGITS: usize = 19;

/// Powers of ten that an f64 holds exactly.
pub(super) const POWERS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18,
    1e19, 1e20, 1e21, 1e22,
];

/// The bits of an FP64 that an FP32 in its range has no place for, and what they are in the middle between two FP32.
pub(super) const BELOW_FP32: u64 = (1 << 29) - 1;
pub(super) const MIDPOINT: u64 = 1 << 28;

impl<'j> Number<'j> {
    /// Scans the number at the start of `json`. An error is the offset of the byte that JSON does not allow there.
    // Always: a call would return the fields through memory, which doubles the time of short numbers.
    #[inline(always)]
    pub(super) fn scan(json: &'j [u8]) -> Result<Self, usize> {
        let negative = json.first() == Some(&b'-');
        let start = usize::from(negative);
        let mut mantissa = 0;
        let mut at = digits(json, start, &mut mantissa);
        let whole = at - start;
        if whole == 0 {
            return Err(start);
        }
        if whole > 1 && json[start] == b'0' {
            return Err(start + 1);
        }
        let mut significant = whole;
        let mut exponent = 0;
        let mut integer = true;
        if json.get(at) == Some(&b'.') {
            let first = at + 1;
            at = digits(json, eight_digits_each(json, first, &mut mantissa), &mut mantissa);
            let places = at - first;
            if places == 0 {
                return Err(at);
            }
            significant += places;
            exponent = -i32::try_from(places).unwrap_or(i32::MAX);
            integer = false;
        }
        if matches!(json.get(at), Some(b'e' | b'E')) {
            let (power, end) = power_of_ten(json, at + 1)?;
            exponent = exponent.saturating_add(power);
            at = end;
            integer = false;
        }
        let text = &json[..at];
        if significant > MAX_DIGITS {
            // The zeros of 0.00012 are none of them.
            let leading = text[start..].iter().take_while(|byte| matches!(byte, b'0' | b'.'));
            significant -= leading.filter(|byte| **byte == b'0').count();
        }
        Ok(Self { text, negative, mantissa, exponent, significant, integer })
    }

    pub(super) fn text(&self) -> &'j [u8] {
        self.text
    }

    /// Whether it is written without point and exponent.
    pub(super) fn is_integer(&self) -> bool {
        self.integer
    }

    /// The value of an integer; `None` beyond u64 and its negatives.
    #[inline]
    pub(super) fn to_integer(self) -> Option<i128> {
        let magnitude = if self.significant <= MAX_DIGITS {
            self.mantissa
        } else {
            let digits = self.text.strip_prefix(b"-").unwrap_or(self.text);
            std::str::from_utf8(digits).ok()?.parse().ok()?
        };
        let magnitude = i128::from(magnitude);
        Some(if self.negative { -magnitude } else { magnitude })
    }

    /// The nearest FP32, ties to even: infinite if beyond its range, `None` if beyond FP64's.
    #[inline]
    pub(super) fn to_f32(self) -> Option<f32> {
        if let Some(approximate) = self.approximate() {
            // Its roundings leave `approximate` at most 2 units of its last place away from the decimal. If no
            // midpoint between two FP32 is that near, both round to the same FP32.
            let near_midpoint = (approximate.to_bits() & BELOW_FP32).abs_diff(MIDPOINT) <= 4;
            if !near_midpoint && approximate.abs() < f64::from(f32::MAX) {
                #[expect(clippy::cast_possible_truncation, reason = "rounds, in range")]
                return Some(approximate as f32);
            }
        }
        let value: f32 = self.parse()?;
        (value.is_finite() || self.to_f64().is_some()).then_some(value)
    }

    /// The nearest FP64, ties to even; `None` beyond its range.
    #[inline]
    pub(super) fn to_f64(self) -> Option<f64> {
        const EXACT: u64 = 1 << 53;
        if self.mantissa <= EXACT
            && let Some(value) = self.approximate()
        {
            // Mantissa and power are exact, so this was rounded once.
            return Some(value);
        }
        self.parse().filter(|value: &f64| value.is_finite())
    }

    /// The nearest FP16 to the nearest FP64, ties to even: infinite if beyond its range, `None` if beyond FP64's.
    pub(super) fn to_f16(self) -> Option<f16> {
        self.to_f64().map(|value| f16::from_f32(round_to_odd(value)))
    }

    /// `mantissa * 10^exponent` in FP64 arithmetic, where neither digits are lost nor the power of ten is rounded.
    /// The mantissa and the result are rounded once each.
    #[inline]
    fn approximate(self) -> Option<f64> {
        if self.significant > MAX_DIGITS {
            return None;
        }
        let power = *POWERS.get(usize::try_from(self.exponent.unsigned_abs()).ok()?)?;
        #[expect(clippy::cast_precision_loss, reason = "rounds, which the callers account for")]
        let mantissa = self.mantissa as f64;
        let value = if self.exponent < 0 { mantissa / power } else { mantissa * power };
        Some(if self.negative { -value } else { value })
    }

    #[cold]
    fn parse<T: FromStr>(self) -> Option<T> {
        std::str::from_utf8(self.text).ok()?.parse().ok()
    }
}

impl Short {
    /// The value of an integer; `None` if it is none, or beyond the range of `T`.
    #[inline(always)]
    pub(super) fn to_integer<T: TryFrom<i64>>(self) -> Option<T> {
        let magnitude = self.mantissa.cast_signed();
        let value = if self.negative { -magnitude } else { magnitude };
        T::try_from(value).ok().filter(|_| self.integer)
    }

    /// The nearest FP32, ties to even; `None` if that is not told by the nearest FP64.
    #[inline(always)]
    pub(super) fn to_f32(self) -> Option<f32> {
        let magnitude = self.magnitude();
        // Which side of the middle between two FP32 a decimal is on is lost if the nearest FP64 is the middle itself.
        if self.places > 0 && magnitude.to_bits() & BELOW_FP32 == MIDPOINT {
            return None;
        }
        #[expect(clippy::cast_possible_truncation, reason = "rounds, in range")]
        let magnitude = magnitude as f32;
        Some(f32::from_bits(magnitude.to_bits() | u32::from(self.negative) << 31))
    }

    /// The nearest FP64, ties to even.
    #[inline(always)]
    pub(super) fn to_f64(self) -> f64 {
        let magnitude = self.magnitude();
        if self.negative { -magnitude } else { magnitude }
    }

    /// The nearest FP16 to the nearest FP64, ties to even.
    pub(super) fn to_f16(self) -> f16 {
        f16::from_f32(round_to_odd(self.to_f64()))
    }

    /// Both the mantissa and the power of ten are exact in FP64, so that this is rounded once.
    #[inline(always)]
    #[expect(clippy::cast_precision_loss, reason = "less than 10^15")]
    fn magnitude(self) -> f64 {
        // Signed, as there is one instruction for that.
        self.mantissa.cast_signed() as f64 / POWERS[self.places.min(POWERS.len() - 1)]
    }
}

/// Takes digits from `at` on into `mantissa`, and returns where they end.
#[inline]
fn digits(json: &[u8], mut at: usize, mantissa: &mut u64) -> usize {
    let mut value = *mantissa;
    while let Some(digit) = json.get(at).map(|byte| byte.wrapping_sub(b'0')).filter(|digit| *digit < 10) {
        value = value.wrapping_mul(10).wrapping_add(u64::from(digit));
        at += 1;
    }
    *mantissa = value;
    at
}

/// As [`digits`], for as long as eight follow each other.
#[inline]
fn eight_digits_each(json: &[u8], mut at: usize, mantissa: &mut u64) -> usize {
    while let Some(value) = json.get(at..).and_then(<[u8]>::first_chunk).copied().and_then(eight_digits) {
        *mantissa = mantissa.wrapping_mul(100_000_000).wrapping_add(value);
        at += 8;
    }
    at
}

/// The value of eight digits at once; `None` if one of the bytes is none.
#[inline]
fn eight_digits(chunk: [u8; 8]) -> Option<u64> {
    // The first digit is the lowest byte. A byte has its top bit set below if it is under '0' or over '9'.
    let bytes = u64::from_le_bytes(chunk);
    let digits = bytes.wrapping_sub(0x3030_3030_3030_3030);
    let over = bytes.wrapping_add(0x4646_4646_4646_4646);
    if (digits | over) & 0x8080_8080_8080_8080 != 0 {
        return None;
    }
    // Neighbours are joined to pairs, pairs to fours, fours to all eight.
    let pairs = (digits.wrapping_mul(10 * (1 << 8) + 1) >> 8) & 0x00ff_00ff_00ff_00ff;
    let fours = (pairs.wrapping_mul(100 * (1 << 16) + 1) >> 16) & 0x0000_ffff_0000_ffff;
    Some(fours.wrapping_mul(10_000 * (1 << 32) + 1) >> 32)
}

/// The exponent at `at`, behind the `e`, and where it ends. Absurd ones saturate.
fn power_of_ten(json: &[u8], at: usize) -> Result<(i32, usize), usize> {
    let start = at + usize::from(matches!(json.get(at), Some(b'-' | b'+')));
    let mut end = start;
    let mut power = 0i32;
    while let Some(digit) = json.get(end).filter(|byte| byte.is_ascii_digit()) {
        power = power.saturating_mul(10).saturating_add(i32::from(digit - b'0'));
        end += 1;
    }
    if end == start {
        return Err(end);
    }
    Ok((if json.get(at) == Some(&b'-') { -power } else { power }, end))
}

/// FP32 with its last bit set if rounding lost anything, so that rounding it once more to FP16 rounds as if once.
fn round_to_odd(value: f64) -> f32 {
    #[expect(clippy::cast_possible_truncation, reason = "rounds, corrected below")]
    let nearest = value as f32;
    if f64::from(nearest) == value || nearest.is_nan() {
        return nearest;
    }
    let beyond = f64::from(nearest).abs() > value.abs();
    f32::from_bits((nearest.to_bits() - u32::from(beyond)) | 1)
}

#[cfg(test)]
mod tests;
