//! Lists of FP32 in JSON with AVX-512: the digits of eight values at a time by the arithmetic of [`Decimals`](super::Decimals), and the text of
//! each from one permutation. In place of 64-bit products, which take three times as long, there are those of 32 bits, and powers
//! of ten come from registers, as some processors fetch them slowly from memory.
#![expect(unsafe_code, reason = "values, digits and text are loaded and stored")]

use std::arch::x86_64::*;

use super::{BLOCK, EIGHT, EXPONENTS, MAX_SHIFT, ROOM, SCALES, WRITTEN};

pub(super) fn is_here() -> bool {
    is_x86_feature_detected!("avx512vbmi2")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512cd")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("popcnt")
}

const HIDDEN_BIT: u64 = 1 << 23;

/// The texts of some values before what is not needed of them is left out: a comma, a minus, `0.`, and the two halves of their
/// digits, eight bytes each.
struct Texts {
    /// The halves' digits, the last one in the lowest byte. Less than what makes an ASCII digit of them; the point as well.
    digits: [[u64; 2]; BLOCK],
    /// The bytes of each that are needed, a bit for each.
    needed: [u32; BLOCK],
    /// This is not the place for the value: a bit for each.
    other: u64,
}

/// The first byte of the first half, and of the second one, and the first one behind both.
const HALVES: (u64, u64, u64) = (4, 12, 20);

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512cd,avx512vl,avx512vbmi2,popcnt")]
pub(super) fn write_block(
    values: &[f32; BLOCK],
    count: usize,
    written: &mut [u8; WRITTEN],
    other: impl Fn(&mut [u8; ROOM], f32) -> usize,
) -> usize {
    const ABSENT: i8 = -1;
    const ZERO: i8 = b'0'.cast_signed();
    let texts = texts(values, count);
    let places = _mm256_setr_epi8(
        ABSENT, ABSENT, ABSENT, ABSENT, 7, 6, 5, 4, 3, 2, 1, 0, 15, 14, 13, 12, //
        11, 10, 9, 8, ABSENT, ABSENT, ABSENT, ABSENT, ABSENT, ABSENT, ABSENT, ABSENT, ABSENT, ABSENT, ABSENT,
        ABSENT,
    );
    let [comma, minus, point] = [b',', b'-', b'.'].map(u8::cast_signed);
    let ascii = _mm256_setr_epi8(
        comma, minus, ZERO, point, ZERO, ZERO, ZERO, ZERO, ZERO, ZERO, ZERO, ZERO, ZERO, ZERO, ZERO,
        ZERO, //
        ZERO, ZERO, ZERO, ZERO, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    );
    let mut end = 0;
    for (index, value) in values.iter().take(count).enumerate() {
        if texts.other >> index & 1 != 0 {
            let Some((first, rest)) = written.get_mut(end..).and_then(<[u8]>::split_first_mut) else { break };
            let Some(room) = rest.first_chunk_mut() else { break };
            *first = b',';
            end += 1 + other(room, *value);
            continue;
        }
        let Some(room) = written.get_mut(end..).and_then(<[u8]>::first_chunk_mut::<32>) else { break };
        let needed = texts.needed[index];
        // SAFETY: as many bytes as are loaded and stored.
        unsafe {
            let digits = _mm_loadu_si128(texts.digits[index].as_ptr().cast());
            let text = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(digits), places);
            let text = _mm256_maskz_compress_epi8(needed, _mm256_add_epi8(text, ascii));
            _mm256_storeu_si256(room.as_mut_ptr().cast(), text);
        }
        end += needed.count_ones() as usize;
    }
    end
}

/// All of a block's, or at least of its first `count` values.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512cd,avx512vl,avx512vbmi2,popcnt")]
#[inline]
fn texts(values: &[f32; BLOCK], count: usize) -> Texts {
    // Of a sum in this range the lowest bits of the FP64 are those of the integer.
    const INTEGERS: f64 = (1_u64 << 52) as f64;
    const { assert!(BLOCK == 64, "there is a bit for each value") };
    let mut texts = Texts { digits: [[0; 2]; BLOCK], needed: [0; BLOCK], other: 0 };
    let (zero, one) = (_mm512_setzero_si512(), all(1));
    let (low_powers, high_powers) = (load(&POWERS[0]), load(&POWERS[1]));
    let (first_pairs, last_pairs) = (load(&[0, 8, 1, 9, 2, 10, 3, 11]), load(&[4, 12, 5, 13, 6, 14, 7, 15]));
    let to = texts.digits.as_chunks_mut::<8>().0.iter_mut().zip(texts.needed.as_chunks_mut::<8>().0);
    let groups = values.as_chunks::<8>().0.iter().take(count.div_ceil(8));
    for (index, (values, (digits_to, needed_to))) in groups.zip(to).enumerate() {
        // SAFETY: as many as are loaded.
        let signed = _mm512_cvtepu32_epi64(unsafe { _mm256_loadu_si256(values.as_ptr().cast()) });
        let bits = _mm512_and_si512(signed, all(0x7fff_ffff));
        let first = all((EXPONENTS.0 + 127).unsigned_abs().into());
        let exponent = _mm512_sub_epi64(_mm512_srli_epi64::<23>(bits), first);
        let shift = _mm512_sub_epi64(all(MAX_SHIFT), _mm512_min_epu64(exponent, all(SCALES as u64 - 1)));
        let not_zero = _mm512_test_epi64_mask(bits, bits);
        let negative_exponent = _mm512_cmplt_epu64_mask(exponent, all(EXPONENTS.0.unsigned_abs().into()));
        // The logarithm of 2 to base 10 is 1233 / 4096, nearly.
        let places = _mm512_srli_epi64::<12>(_mm512_mul_epu32(shift, all(1233)));
        let power = _mm512_permutex2var_epi64(low_powers, places, high_powers);
        let more_places =
            _mm512_sub_epi64(_mm512_mask_blend_epi64(negative_exponent, all(7), all(15)), places);
        let more = _mm512_permutex2var_epi64(low_powers, more_places, high_powers);

        let fraction = _mm512_and_si512(bits, all(HIDDEN_BIT - 1));
        let significand = _mm512_or_si512(fraction, all(HIDDEN_BIT));
        let scaled = product(significand, power);
        let unit = _mm512_sllv_epi64(one, shift);
        let whole = _mm512_srlv_epi64(scaled, shift);
        let rest = _mm512_and_si512(scaled, _mm512_sub_epi64(unit, one));
        let reach = _mm512_add_epi64(power, _mm512_andnot_si512(significand, one));
        let down = _mm512_cmplt_epu64_mask(_mm512_slli_epi64::<1>(rest), reach);
        let up = _mm512_cmplt_epu64_mask(_mm512_slli_epi64::<1>(_mm512_sub_epi64(unit, rest)), reach);
        let tie = _mm512_cmpeq_epi64_mask(rest, _mm512_srli_epi64::<2>(unit));
        let digit = _mm512_add_epi64(ten_times(rest), _mm512_srli_epi64::<1>(unit));
        let digit = _mm512_srlv_epi64(_mm512_mask_sub_epi64(digit, tie, digit, one), shift);
        let shortest = ten_times(_mm512_mask_add_epi64(whole, up, whole, one));
        let shortest = _mm512_mask_add_epi64(shortest, !(down | up), shortest, digit);
        let digits = product(_mm512_maskz_mov_epi64(not_zero, shortest), more);

        // By way of FP64, which is too large by one at most.
        let near =
            _mm512_fmadd_pd(_mm512_cvtepu64_pd(digits), _mm512_set1_pd(1e-8), _mm512_set1_pd(INTEGERS));
        let high = _mm512_and_si512(_mm512_castpd_si512(near), all((1 << 52) - 1));
        let low = _mm512_sub_epi64(digits, _mm512_mul_epu32(high, all(EIGHT)));
        let above = _mm512_movepi64_mask(low);
        let high = _mm512_mask_sub_epi64(high, above, high, one);
        let low = _mm512_mask_add_epi64(low, above, low, all(EIGHT));
        let below_one = not_zero & negative_exponent;
        let high = spread(_mm512_mask_blend_epi64(below_one, ten_times(high), high));
        let low = spread(low);

        // From the first digit that is not a zero, or the one in front of the point, to the last one, or the one behind the point.
        let skipped = _mm512_srli_epi64::<3>(_mm512_lzcnt_epi64(_mm512_or_si512(high, all(1 << 8))));
        let start = _mm512_mask_blend_epi64(below_one, _mm512_add_epi64(skipped, all(HALVES.0)), all(2));
        let no_low = _mm512_testn_epi64_mask(low, low);
        let last = _mm512_mask_blend_epi64(no_low & below_one, low, high);
        let end = _mm512_sub_epi64(
            _mm512_mask_blend_epi64(no_low & below_one, all(HALVES.2), all(HALVES.1)),
            zero_bytes_below(last),
        );
        let end = _mm512_mask_max_epu64(end, !below_one, end, all(HALVES.1 + 1));
        let minus = _mm512_slli_epi64::<1>(_mm512_srli_epi64::<31>(signed));
        let needed = _mm512_sub_epi64(_mm512_sllv_epi64(one, end), _mm512_sllv_epi64(one, start));
        let needed = _mm512_or_si512(needed, _mm512_or_si512(minus, one));
        // The place of the point.
        let high = _mm512_mask_or_epi64(high, !below_one, high, all(u64::from(b'.'.wrapping_sub(b'0'))));
        let (first, last) = digits_to.split_at_mut(4);
        // SAFETY: as many as are stored.
        unsafe {
            _mm512_storeu_epi64(first.as_mut_ptr().cast(), _mm512_permutex2var_epi64(high, first_pairs, low));
            _mm512_storeu_epi64(last.as_mut_ptr().cast(), _mm512_permutex2var_epi64(high, last_pairs, low));
            _mm256_storeu_si256(needed_to.as_mut_ptr().cast(), _mm512_cvtepi64_epi32(needed));
        }
        let far = _mm512_cmpge_epu64_mask(exponent, all(SCALES as u64));
        // Below a power of two the next FP32 is nearer than above.
        let at_power = _mm512_cmpeq_epi64_mask(fraction, zero) & _mm512_test_epi64_mask(rest, rest);
        texts.other |= u64::from(not_zero & (far | at_power)) << (8 * index);
    }
    texts
}

static POWERS: [[u64; 8]; 2] = powers();

/// Of ten.
const fn powers() -> [[u64; 8]; 2] {
    let mut powers = [[1; 8]; 2];
    let mut index = 1;
    while index < 16 {
        powers[index / 8][index % 8] = 10 * powers[(index - 1) / 8][(index - 1) % 8];
        index += 1;
    }
    powers
}

#[target_feature(enable = "avx512f")]
#[inline]
fn load(numbers: &[u64; 8]) -> __m512i {
    // SAFETY: as many as are loaded.
    unsafe { _mm512_loadu_epi64(numbers.as_ptr().cast()) }
}

#[target_feature(enable = "avx512f")]
#[inline]
fn all(number: u64) -> __m512i {
    _mm512_set1_epi64(number.cast_signed())
}

/// A product with numbers below 2^32.
#[target_feature(enable = "avx512f")]
#[inline]
fn product(small: __m512i, other: __m512i) -> __m512i {
    let upper = _mm512_mul_epu32(small, _mm512_srli_epi64::<32>(other));
    _mm512_add_epi64(_mm512_mul_epu32(small, other), _mm512_slli_epi64::<32>(upper))
}

#[target_feature(enable = "avx512f")]
#[inline]
fn ten_times(number: __m512i) -> __m512i {
    _mm512_add_epi64(_mm512_slli_epi64::<3>(number), _mm512_slli_epi64::<1>(number))
}

/// How many of the lowest bytes are zero.
#[target_feature(enable = "avx512f,avx512cd")]
#[inline]
fn zero_bytes_below(number: __m512i) -> __m512i {
    let below = _mm512_andnot_si512(number, _mm512_sub_epi64(number, all(1)));
    _mm512_srli_epi64::<3>(_mm512_sub_epi64(all(64), _mm512_lzcnt_epi64(below)))
}

/// The digits of numbers of eight, by the steps of [`decimal_digits`](super::decimal_digits).
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn spread(eight: __m512i) -> __m512i {
    let upper = _mm512_srli_epi64::<45>(_mm512_mul_epu32(eight, all(3_518_437_209)));
    let four = _mm512_add_epi64(eight, _mm512_mul_epu32(upper, all((1 << 32) - 10_000)));
    let upper = _mm512_srli_epi16::<3>(_mm512_mulhi_epu16(four, _mm512_set1_epi16(5243)));
    let lower = _mm512_mullo_epi16(upper, _mm512_set1_epi16(100));
    let two = _mm512_sub_epi32(_mm512_add_epi32(four, _mm512_slli_epi32::<16>(upper)), lower);
    let upper = _mm512_srli_epi16::<10>(_mm512_mullo_epi16(two, _mm512_set1_epi16(103)));
    _mm512_add_epi16(two, _mm512_mullo_epi16(upper, _mm512_set1_epi16((1 << 8) - 10)))
}
