//! Lists of FP32 in JSON: the shortest digits that read back as the same value, in the form in which `zmij` writes them.
//!
//! Between 2^-19 and 2^23, where nearly all values of tensors are, the digits come from integer arithmetic that is exact, and
//! are laid out without a branch on how many there are, which would be guessed wrong in every other number. `zmij` writes
//! all others.

#[cfg(target_arch = "x86_64")]
mod avx512;

use std::hint::select_unpredictable;

/// Values that are worked on together: first the arithmetic of all of them, then the text.
const BLOCK: usize = 64;

/// What separates the two halves of a decimal: eight digits.
const EIGHT: u64 = 100_000_000;

/// Room for a number, and for what is written behind it before the next one overwrites that.
const ROOM: usize = 32;

/// Room for a block: no number that is written here has more than 24 bytes with its comma.
const WRITTEN: usize = 24 * BLOCK + ROOM;

/// Writes the elements, with commas in between. `text` is how a value is written that is not finite.
pub(super) fn write<const N: usize>(
    json: &mut Vec<u8>,
    elements: &[[u8; N]],
    read: impl Fn([u8; N]) -> f32,
    text: impl Fn(f32) -> &'static str,
) {
    let (mut values, mut written) = ([0.0; BLOCK], [0; WRITTEN]);
    let mut start = 1;
    for block in elements.chunks(BLOCK) {
        for (value, element) in values.iter_mut().zip(block) {
            *value = read(*element);
        }
        let other = |room: &mut [u8; ROOM], value: f32| write_other(room, value, &text);
        let end = write_block(&values, block.len(), &mut written, other);
        // Without the first comma.
        json.extend_from_slice(written.get(start..end).unwrap_or_default());
        start = 0;
    }
}

/// Writes the first `count` values, each behind a comma, and returns the length of that. Some bytes behind it are written over
/// too. `other` writes a value that this is not the place for, and returns its length.
fn write_block(
    values: &[f32; BLOCK],
    count: usize,
    written: &mut [u8; WRITTEN],
    other: impl Fn(&mut [u8; ROOM], f32) -> usize,
) -> usize {
    #[cfg(target_arch = "x86_64")]
    if avx512::is_here() {
        #[expect(
            unsafe_code,
            reason = "the compiler does not see that the processor has these instructions"
        )]
        // SAFETY: it has, as was just asked.
        return unsafe { avx512::write_block(values, count, written, other) };
    }
    write_each(values, count, written, other)
}

/// One by one.
fn write_each(
    values: &[f32; BLOCK],
    count: usize,
    written: &mut [u8; WRITTEN],
    other: impl Fn(&mut [u8; ROOM], f32) -> usize,
) -> usize {
    let decimals = Decimals::of(values.get(..count).unwrap_or(values));
    let mut end = 0;
    for (index, value) in values.iter().take(count).enumerate() {
        let Some((comma, rest)) = written.get_mut(end..).and_then(<[u8]>::split_first_mut) else { break };
        let Some(room) = rest.first_chunk_mut() else { break };
        *comma = b',';
        end += 1 + if decimals.other[index] {
            other(room, *value)
        } else {
            decimals.write(index, value.is_sign_negative(), room)
        };
    }
    end
}

#[cold]
fn write_other(room: &mut [u8; ROOM], value: f32, text: impl Fn(f32) -> &'static str) -> usize {
    let mut buffer = zmij::Buffer::new();
    let text = if value.is_finite() { buffer.format_finite(value) } else { text(value) };
    room[..text.len()].copy_from_slice(text.as_bytes());
    text.len()
}

/// The exponents of two that are handled here: of 2^-19 and of the last value that may have a fraction.
const EXPONENTS: (i32, i32) = (-19, 22);

const SCALES: usize = (EXPONENTS.1 - EXPONENTS.0 + 1).unsigned_abs() as usize;

/// Values of the first exponent are whole multiples of 2^-`MAX_SHIFT`, those of the next one of twice that, and so on.
const MAX_SHIFT: u64 = (23 - EXPONENTS.0).unsigned_abs() as u64;

/// By exponent: the greatest power of ten below 2^shift.
static POWER: [u64; SCALES] = scales().0;

/// The power of ten that turns multiples of 0.1 / `POWER` into sixteen digits.
static DIGITS: [u64; SCALES] = scales().1;

const fn scales() -> ([u64; SCALES], [u64; SCALES]) {
    let (mut powers, mut digits) = ([1; SCALES], [1; SCALES]);
    let mut index = 0;
    let mut exponent = EXPONENTS.0;
    while exponent <= EXPONENTS.1 {
        let shift = (23 - exponent).unsigned_abs();
        let mut power = 1;
        let mut places = 1;
        while power * 10 < 1 << shift {
            power *= 10;
            places += 1;
        }
        powers[index] = power;
        digits[index] = 10_u64.pow(if exponent < 0 { 16 - places } else { 8 - places });
        index += 1;
        exponent += 1;
    }
    (powers, digits)
}

/// The shortest digits of some values, sixteen of them with zeros around them, in two numbers of eight: each digit in a byte,
/// the last one in the lowest.
#[cfg_attr(test, derive(Debug, PartialEq))]
struct Decimals {
    /// In front of the point, and a digit for the point itself; of a value below 1 the first ones behind the point.
    high: [u64; BLOCK],
    /// Behind those.
    low: [u64; BLOCK],
    below_one: [bool; BLOCK],
    /// This is not the place for the value.
    other: [bool; BLOCK],
}

impl Decimals {
    /// As in Schubfach (R. Giulietti, "The Schubfach way to render doubles", 2021), the shortest decimal is a multiple of
    /// the one power of ten that is next above the distance to the next FP32, if one of the two around the value is nearer
    /// to it than to any other FP32; else the nearest multiple of a tenth of that.
    fn of(values: &[f32]) -> Self {
        const HIDDEN_BIT: u32 = 1 << 23;
        let mut all =
            Self { high: [0; BLOCK], low: [0; BLOCK], below_one: [false; BLOCK], other: [false; BLOCK] };
        for (index, value) in values.iter().take(BLOCK).enumerate() {
            let bits = value.abs().to_bits();
            let first = EXPONENTS.0.wrapping_add(127).cast_unsigned();
            let exponent = (bits >> 23).wrapping_sub(first);
            let scale = (exponent as usize).min(SCALES - 1);
            let (power, shift) = (POWER[scale], MAX_SHIFT - scale as u64);
            let fraction = bits & (HIDDEN_BIT - 1);
            let significand = u64::from(fraction | HIDDEN_BIT);
            // In units of 2^-shift / power. The significand has 24 bits and the power is 10^12 at most, so 64 bits do.
            let scaled = significand * power;
            let unit = 1_u64 << shift;
            let (whole, rest) = (scaled >> shift, scaled & (unit - 1));
            // What is half way to the next FP32 is read as the even one.
            let reach = power + (!significand & 1);
            let (down, up) = (2 * rest < reach, 2 * (unit - rest) < reach);
            // Rounded, ties to even: there are two of them, at 2.5 and 7.5.
            let digit = (10 * rest + unit / 2 - u64::from(rest == unit / 4)) >> shift;
            let shortest = 10 * (whole + u64::from(up)) + if down | up { 0 } else { digit };
            let digits = if bits == 0 { 0 } else { shortest * DIGITS[scale] };
            let (high, low) = (digits / EIGHT, digits % EIGHT);
            let below_one = bits != 0 && exponent < EXPONENTS.0.unsigned_abs();
            let high = if below_one { high } else { 10 * high };
            (all.high[index], all.low[index]) = decimal_digits(high, low);
            all.below_one[index] = below_one;
            // Below a power of two the next FP32 is nearer than above.
            all.other[index] = bits != 0 && (exponent as usize >= SCALES || (fraction == 0) & (rest != 0));
        }
        all
    }

    /// Writes one and returns the length of its text. What is behind that is written over too.
    #[inline(always)]
    fn write(&self, index: usize, negative: bool, room: &mut [u8; ROOM]) -> usize {
        const ZEROS: u64 = u64::from_le_bytes(*b"00000000");
        const ZERO_POINT: u64 = u64::from_le_bytes(*b"0.\0\0\0\0\0\0");
        let text = |digits: u64| (digits + ZEROS).swap_bytes();
        let length = |digits: u64| 8 - (digits | 1 << 56).trailing_zeros() as usize / 8;
        let (high, low, below_one) = (self.high[index], self.low[index], self.below_one[index]);
        // Zeros in front are left out, but for the one that is next to the point.
        let skipped = (high | 1 << 8).leading_zeros() & !7;
        let point = u64::from(b'0' - b'.');
        let head = select_unpredictable(below_one, ZERO_POINT, (text(high) - (point << 56)) >> skipped);
        let head_length = select_unpredictable(below_one, 2, 8 - skipped as usize / 8);
        let tail = select_unpredictable(below_one, high, low);
        let end = select_unpredictable(below_one, low, 0);
        let places = select_unpredictable(end == 0, length(tail), 8 + length(end));
        let start = usize::from(negative);
        let behind_point = start + head_length;
        room[0] = b'-';
        put(room, start, head);
        put(room, behind_point, text(tail));
        put(room, behind_point + 8, text(end));
        behind_point + places
    }
}

#[inline(always)]
fn put(room: &mut [u8; ROOM], at: usize, text: u64) {
    if let Some(place) = room.get_mut(at..).and_then(<[u8]>::first_chunk_mut) {
        *place = text.to_le_bytes();
    }
}

/// The eight digits of two numbers, each in a byte, the last one in the lowest.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
#[expect(unsafe_code, reason = "the compiler does not see that the target has these instructions")]
fn decimal_digits(high: u64, low: u64) -> (u64, u64) {
    // SAFETY: every x86-64 processor has SSE2.
    unsafe { sse2::decimal_digits(high, low) }
}

#[cfg(not(target_arch = "x86_64"))]
use portable::decimal_digits;

#[cfg(target_arch = "x86_64")]
mod sse2 {
    use std::arch::x86_64::{
        _mm_add_epi16, _mm_add_epi32, _mm_add_epi64, _mm_cvtsi128_si64, _mm_mul_epu32, _mm_mulhi_epu16,
        _mm_mullo_epi16, _mm_set_epi64x, _mm_set1_epi16, _mm_set1_epi64x, _mm_slli_epi32, _mm_srli_epi16,
        _mm_srli_epi64, _mm_sub_epi32, _mm_unpackhi_epi64,
    };

    /// Halves numbers of eight digits to two of four, those to two of two, and those to digits. A quotient `q` goes into the
    /// upper half and the rest into the lower one by one addition: `n - q * d + (q << half)`.
    #[inline]
    #[target_feature(enable = "sse2")]
    pub(super) fn decimal_digits(high: u64, low: u64) -> (u64, u64) {
        let eight = _mm_set_epi64x(low.cast_signed(), high.cast_signed());
        // Multiplied by 2^45 / 10^4, rounded up.
        let upper = _mm_srli_epi64(_mm_mul_epu32(eight, _mm_set1_epi64x(3_518_437_209)), 45);
        let four = _mm_add_epi64(eight, _mm_mul_epu32(upper, _mm_set1_epi64x((1 << 32) - 10_000)));
        // By 2^19 / 100, and by 2^10 / 10 below.
        let upper = _mm_srli_epi16(_mm_mulhi_epu16(four, _mm_set1_epi16(5243)), 3);
        let lower = _mm_mullo_epi16(upper, _mm_set1_epi16(100));
        let two = _mm_sub_epi32(_mm_add_epi32(four, _mm_slli_epi32(upper, 16)), lower);
        let upper = _mm_srli_epi16(_mm_mullo_epi16(two, _mm_set1_epi16(103)), 10);
        let one = _mm_add_epi16(two, _mm_mullo_epi16(upper, _mm_set1_epi16((1 << 8) - 10)));
        let second = _mm_cvtsi128_si64(_mm_unpackhi_epi64(one, one));
        (_mm_cvtsi128_si64(one).cast_unsigned(), second.cast_unsigned())
    }
}

/// The same for any processor.
#[cfg(any(test, not(target_arch = "x86_64")))]
mod portable {
    pub(super) fn decimal_digits(high: u64, low: u64) -> (u64, u64) {
        let digits = |number: u64| {
            (0..8)
                .fold((0, number), |(digits, rest), place| (digits | (rest % 10) << (8 * place), rest / 10))
                .0
        };
        (digits(high), digits(low))
    }
}

#[cfg(test)]
mod tests;
