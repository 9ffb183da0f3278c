//! Numbers of a few bytes, as nearly all elements of tensors are: scanned at once, without a branch on how many digits
//! they have.
//!
//! What stands between two numbers is mostly the same all over an array, but their lengths are as good as random. A loop
//! over digits has the processor guess wrong once or twice in each number, which takes longer than all that is done here.

/// Bytes that are looked at together.
const WINDOW: usize = 16;

/// Bytes in front of a number that are read with it. They count for nothing.
const BEFORE: usize = WINDOW + 1;

/// Bytes from a number's first on that are read with it.
const AFTER: usize = WINDOW + 2;

/// A number of at most 15 bytes without exponent: `±mantissa / 10^places`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Short {
    pub negative: bool,
    /// All digits without point: less than 10^15.
    pub mantissa: u64,
    /// Digits behind the point, at most 13.
    pub places: usize,
    /// Whether it is written without point.
    pub integer: bool,
    /// Bytes of its text.
    pub length: usize,
}

impl Short {
    /// Scans the number at `start` of `json`. `None` if it has more bytes or an exponent, or is no number as JSON has them;
    /// also if it is so near to either end of `json` that what is read with it is not there.
    // Always: a call would return the fields through memory.
    #[inline(always)]
    pub(super) fn scan(json: &[u8], start: usize) -> Option<Self> {
        let around: &[u8; BEFORE + AFTER] = json.get(start.checked_sub(BEFORE)?..)?.first_chunk()?;
        let others = not_digits(window(around, BEFORE)?);
        let negative = around[BEFORE] == b'-';
        let sign = usize::from(negative);
        // The bytes that are no digits, the first aside, which may be a sign. One is always found behind the window.
        let stops = others & !1 | 1 << WINDOW;
        let stop = stops.trailing_zeros() as usize;
        let integer = around[BEFORE + stop] != b'.';
        let (length, places, from_last) = if integer {
            (stop, 0, WINDOW)
        } else {
            let length = (stops & (stops - 1) | 1 << (WINDOW + 1)).trailing_zeros() as usize;
            (length, length - stop - 1, length - stop - 1)
        };
        let whole = stop.wrapping_sub(sign);
        let leading_zero = around[BEFORE + sign] == b'0';
        // All at once: each of these is nearly always so, but not what it is made of.
        let is_number = (others & 1 == u32::from(negative))
            & ((whole == 1) | (whole != 0) & !leading_zero)
            & (integer | (places != 0))
            & !matches!(around[BEFORE + length], b'e' | b'E');
        if !is_number || length >= WINDOW {
            return None;
        }
        // Digits behind the point end where the number does, and those in front of it one byte earlier.
        let end = BEFORE + length;
        let digits = length - sign - usize::from(!integer);
        let mantissa = value(
            window(around, end - WINDOW)?,
            window(around, end - WINDOW - 1)?,
            last_bytes(from_last)?,
            last_bytes(digits)?,
        );
        Some(Self { negative, mantissa, places, integer, length })
    }
}

/// The window at `at`; its first byte is the lowest.
#[inline(always)]
fn window(bytes: &[u8], at: usize) -> Option<u128> {
    Some(u128::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// Masks the last `count` bytes of a window.
#[inline(always)]
fn last_bytes(count: usize) -> Option<u128> {
    // From memory, as there is no instruction that shifts a whole window by a number of bytes that is not known before.
    static MASKS: [u8; 2 * WINDOW] = {
        let mut masks = [0; 2 * WINDOW];
        let mut at = WINDOW;
        while at < masks.len() {
            masks[at] = 0xff;
            at += 1;
        }
        masks
    };
    window(&MASKS, count)
}

/// A bit for each byte of a window that is no digit.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
#[expect(unsafe_code, reason = "the compiler does not see that the target has these instructions")]
fn not_digits(window: u128) -> u32 {
    // SAFETY: every x86-64 processor has SSE2.
    unsafe { sse2::not_digits(window) }
}

/// The value of the bytes that `digits` masks, all of them digits: those that `from_last` masks are from `last`, the others
/// from `before_last`.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
#[expect(unsafe_code, reason = "the compiler does not see that the target has these instructions")]
fn value(last: u128, before_last: u128, from_last: u128, digits: u128) -> u64 {
    // SAFETY: every x86-64 processor has SSE2.
    unsafe { sse2::value(last, before_last, from_last, digits) }
}

#[cfg(not(target_arch = "x86_64"))]
use portable::{not_digits, value};

#[cfg(target_arch = "x86_64")]
mod sse2 {
    use std::arch::x86_64::{
        __m128i, _mm_add_epi8, _mm_add_epi16, _mm_and_si128, _mm_andnot_si128, _mm_cmpgt_epi8,
        _mm_cvtsi128_si64, _mm_madd_epi16, _mm_movemask_epi8, _mm_mullo_epi16, _mm_or_si128, _mm_packs_epi32,
        _mm_set_epi64x, _mm_set1_epi8, _mm_set1_epi16, _mm_set1_epi32, _mm_srli_epi16, _mm_sub_epi8,
    };

    #[inline]
    #[target_feature(enable = "sse2")]
    #[expect(clippy::cast_possible_truncation, reason = "the two halves of a window")]
    fn load(window: u128) -> __m128i {
        _mm_set_epi64x(((window >> 64) as u64).cast_signed(), (window as u64).cast_signed())
    }

    #[inline]
    #[target_feature(enable = "sse2")]
    pub(super) fn not_digits(window: u128) -> u32 {
        // Comparisons are signed: the digits become the lowest values there are.
        let lowered = _mm_sub_epi8(load(window), _mm_set1_epi8(b'0'.cast_signed()));
        let lowered = _mm_add_epi8(lowered, _mm_set1_epi8(i8::MIN));
        _mm_movemask_epi8(_mm_cmpgt_epi8(lowered, _mm_set1_epi8(i8::MIN + 9))).cast_unsigned()
    }

    #[inline]
    #[target_feature(enable = "sse2")]
    pub(super) fn value(last: u128, before_last: u128, from_last: u128, digits: u128) -> u64 {
        let from_last = load(from_last);
        let bytes = _mm_or_si128(
            _mm_and_si128(from_last, load(last)),
            _mm_andnot_si128(from_last, load(before_last)),
        );
        let ones = _mm_and_si128(_mm_sub_epi8(bytes, _mm_set1_epi8(b'0'.cast_signed())), load(digits));
        // Neighbours are joined to pairs, pairs to fours, fours to eights. The first of two is the lower one.
        let tens = _mm_mullo_epi16(_mm_and_si128(ones, _mm_set1_epi16(0xff)), _mm_set1_epi16(10));
        let pairs = _mm_add_epi16(tens, _mm_srli_epi16(ones, 8));
        let fours = _mm_madd_epi16(pairs, _mm_set1_epi32(1 << 16 | 100));
        let eights = _mm_madd_epi16(_mm_packs_epi32(fours, fours), _mm_set1_epi32(1 << 16 | 10_000));
        let eights = _mm_cvtsi128_si64(eights).cast_unsigned();
        (eights & 0xffff_ffff) * 100_000_000 + (eights >> 32)
    }
}

/// The same for any processor.
#[cfg(any(test, not(target_arch = "x86_64")))]
mod portable {
    pub(super) fn not_digits(window: u128) -> u32 {
        let bytes = window.to_le_bytes().into_iter().enumerate();
        bytes.fold(0, |bits, (at, byte)| bits | u32::from(!byte.is_ascii_digit()) << at)
    }

    pub(super) fn value(last: u128, before_last: u128, from_last: u128, digits: u128) -> u64 {
        let ones = (last & from_last | before_last & !from_last) & digits & (u128::MAX / 0xff * 0xf);
        let bytes = ones.to_le_bytes();
        bytes.into_iter().fold(0, |value, digit| value * 10 + u64::from(digit))
    }
}

#[cfg(test)]
mod tests;
