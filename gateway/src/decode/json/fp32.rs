//! Lists of FP32 in JSON: as many numbers at once as end within 64 bytes, at most eight.
//!
//! Read one by one, a number cannot be begun before the end of the one ahead of it is found. Here all commas of 64 bytes are
//! found by one comparison, and what the numbers are made of is checked with a few operations on one bit for each byte (the
//! way of simdjson: G. Langdale and D. Lemire, "Parsing Gigabytes of JSON per Second", 2019). What is not quite as expected
//! is left to who reads one by one, and so is everything on a processor without these instructions.

/// Numbers that are read before they are handed on.
const BLOCK: usize = 64;

/// Numbers that one step reads at most.
const LANES: usize = 8;

/// Bytes that one step looks at.
const CHUNK: usize = 64;

/// Appends the numbers that follow each other from `at` on, a few dozen and no more than `most`, for as long as each is
/// followed by a comma and that by at most one space. Returns how many they are, and where the JSON text goes on behind the
/// last comma. Each is the nearest FP32, ties to even; those that are not easily rounded are not read.
pub(super) fn read(json: &[u8], at: usize, most: u64, bytes: &mut Vec<u8>) -> (usize, usize) {
    #[cfg(target_arch = "x86_64")]
    if avx512::is_here() {
        let mut block = [[0; 4]; BLOCK + LANES];
        let most = usize::try_from(most).unwrap_or(BLOCK).min(BLOCK);
        #[expect(unsafe_code, reason = "the compiler does not see that the processor has these instructions")]
        // SAFETY: it has, as was just asked.
        let (count, end) = unsafe { avx512::read(json, at, most, &mut block) };
        bytes.extend_from_slice(block.get(..count).unwrap_or_default().as_flattened());
        return (count, end);
    }
    let _ = (json, most, bytes);
    (0, at)
}

/// The bytes of a chunk by their kinds: one bit for each, the first byte's the lowest.
#[derive(Clone, Copy, Debug)]
struct Bytes {
    commas: u64,
    digits: u64,
    zeros: u64,
    points: u64,
    minuses: u64,
    spaces: u64,
}

/// The numbers of a chunk: in each of these one bit for each of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Numbers {
    /// Their first bytes.
    starts: u64,
    /// Of those, the ones that are signs.
    minuses: u64,
    /// Their first digits.
    digits: u64,
    /// Their first digits behind a point; the comma of one that has no point.
    fractions: u64,
    /// The commas behind them.
    commas: u64,
}

impl Bytes {
    /// What is ahead of the first byte that no plain number has.
    fn before_others(self) -> u64 {
        let others = !(self.commas | self.digits | self.points | self.minuses | self.spaces);
        (others & others.wrapping_neg()).wrapping_sub(1)
    }

    /// The numbers from the first byte up to the last of these commas; none if there is no comma, or if that is not how JSON
    /// writes numbers.
    #[inline(always)]
    fn numbers(self, commas: u64) -> Option<Numbers> {
        let last = commas.checked_ilog2()?;
        let within = u64::MAX >> (u64::BITS - 1 - last);
        let (digits, points) = (self.digits & within, self.points & within);
        let behind_commas = (commas << 1 | 1) & within;
        let spaces = behind_commas & self.spaces;
        let starts = behind_commas & !spaces | spaces << 1;
        let minuses = starts & self.minuses;
        let first_digits = starts & !minuses | minuses << 1;
        // Added to the first digit behind a point, a bit is carried through all digits that follow.
        let behind_fractions = (points << 1).wrapping_add(digits) & !digits;
        let wrong = within & !(digits | points | commas | minuses | spaces)
            | first_digits & !digits
            | (first_digits & self.zeros) << 1 & digits
            | (points | commas) & !(digits << 1)
            | points & !(digits >> 1)
            | points & behind_fractions;
        let fractions = points << 1 | commas & !behind_fractions;
        (wrong == 0).then_some(Numbers { starts, minuses, digits: first_digits, fractions, commas })
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::{
        __m512d, __m512i, _mm_cmpgt_epi8_mask, _mm_set1_epi8, _mm_sub_epi8, _mm256_storeu_ps,
        _mm512_add_epi8, _mm512_add_epi64, _mm512_and_si512, _mm512_castpd_si512, _mm512_castsi512_pd,
        _mm512_castsi512_si128, _mm512_cmpeq_epi8_mask, _mm512_cmpge_epi8_mask, _mm512_cmpge_epu64_mask,
        _mm512_cmpgt_epu64_mask, _mm512_cmple_epu8_mask, _mm512_cmple_epu64_mask, _mm512_cvtepu8_epi64,
        _mm512_cvtepu64_pd, _mm512_cvtpd_ps, _mm512_loadu_pd, _mm512_loadu_si512, _mm512_madd_epi16,
        _mm512_maddubs_epi16, _mm512_mask_permutexvar_pd, _mm512_mask_xor_epi64, _mm512_maskz_compress_epi8,
        _mm512_maskz_sub_epi8, _mm512_mul_epu32, _mm512_mul_pd, _mm512_mullo_epi64, _mm512_packus_epi32,
        _mm512_permutex2var_pd, _mm512_permutexvar_epi8, _mm512_set1_epi8, _mm512_set1_epi16,
        _mm512_set1_epi32, _mm512_set1_epi64, _mm512_srli_epi64, _mm512_sub_epi8, _mm512_sub_epi64,
        _pdep_u64, _pext_u64,
    };

    use crate::decode::json::number::{BELOW_FP32, MIDPOINT};

    use super::{BLOCK, Bytes, CHUNK, LANES, Numbers};

    pub(super) fn is_here() -> bool {
        is_x86_feature_detected!("avx512vbmi2")
            && is_x86_feature_detected!("avx512vbmi")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("bmi2")
            && is_x86_feature_detected!("popcnt")
            && is_x86_feature_detected!("lzcnt")
    }

    /// Bytes of a lane, which has place for the last digits of a number. Four of them make a vector.
    const LANE: u8 = 16;

    /// Digits that a number may have in all.
    const MAX_DIGITS: i8 = 23;

    /// What those may be worth that have no place in its lane: below 10^19 the whole fits 64 bits.
    const MAX_HIGH: i64 = 999;

    static LAYOUT: Layout = Layout::new();

    struct Layout {
        /// The bytes of a chunk.
        indices: [u8; CHUNK],
        /// Those of a lane, from behind its end.
        from_end: [u8; CHUNK],
        /// The numbers that the lanes of one vector have, and those of the other.
        even: [u8; CHUNK],
        odd: [u8; CHUNK],
    }

    impl Layout {
        const fn new() -> Self {
            let mut layout =
                Self { indices: [0; CHUNK], from_end: [0; CHUNK], even: [0; CHUNK], odd: [0; CHUNK] };
            let mut index: u8 = 0;
            while (index as usize) < CHUNK {
                let at = index as usize;
                layout.indices[at] = index;
                layout.from_end[at] = (index % LANE).wrapping_sub(LANE);
                layout.even[at] = index / LANE * 2;
                layout.odd[at] = index / LANE * 2 + 1;
                index += 1;
            }
            layout
        }
    }

    /// Reads numbers as [`super::read`] does.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vbmi2,bmi2,popcnt,lzcnt")]
    pub(super) fn read(
        json: &[u8],
        mut at: usize,
        most: usize,
        block: &mut [[u8; 4]; BLOCK + LANES],
    ) -> (usize, usize) {
        let mut count = 0;
        while count < most
            && let Some(chunk) = json.get(at..).and_then(<[u8]>::first_chunk)
            && let Some(place) = block.get_mut(count..).and_then(<[[u8; 4]]>::first_chunk_mut)
        {
            let (read, length) = step(chunk, most - count, place);
            if read == 0 {
                break;
            }
            count += read;
            at += length;
        }
        (count, at)
    }

    /// Reads those numbers, at most `most`, that end in a chunk; returns how many they are and the bytes that they take.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vbmi2,bmi2,popcnt,lzcnt")]
    fn step(chunk: &[u8; CHUNK], most: usize, place: &mut [[u8; 4]; LANES]) -> (usize, usize) {
        let chunk = load(chunk);
        let bytes = classify(chunk);
        // Where the next step begins should be known as early as can be, so nothing that is rarely so is in the way of that.
        let mut commas = bytes.commas;
        if commas.count_ones() as usize > most.min(LANES) {
            commas = first(most.min(LANES), commas);
        }
        let numbers = match bytes.numbers(commas) {
            Some(numbers) => numbers,
            None => {
                commas &= bytes.before_others();
                match bytes.numbers(commas) {
                    Some(numbers) => numbers,
                    None => return (0, 0),
                }
            }
        };
        let (values, unsure) = values(chunk, bytes.points, numbers);
        store(values, place);
        let count = commas.count_ones();
        if unsure.trailing_zeros() < count {
            commas = first(unsure.trailing_zeros() as usize, commas);
        }
        (commas.count_ones() as usize, (u64::BITS - commas.leading_zeros()) as usize)
    }

    /// The first of some bits, so many of them. It is not inlined so that a branch may guess that it is not needed.
    #[cold]
    #[target_feature(enable = "bmi2")]
    fn first(count: usize, bits: u64) -> u64 {
        _pdep_u64((1 << count) - 1, bits)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn classify(chunk: __m512i) -> Bytes {
        let are = |byte: u8| _mm512_cmpeq_epi8_mask(chunk, _mm512_set1_epi8(byte.cast_signed()));
        let from_zero = _mm512_sub_epi8(chunk, _mm512_set1_epi8(b'0'.cast_signed()));
        Bytes {
            commas: are(b','),
            digits: _mm512_cmple_epu8_mask(from_zero, _mm512_set1_epi8(9)),
            zeros: are(b'0'),
            points: are(b'.'),
            minuses: are(b'-'),
            spaces: are(b' '),
        }
    }

    /// The values of numbers, and a bit for each that is too long or may have been rounded to the wrong side.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vbmi2,bmi2")]
    fn values(chunk: __m512i, points: u64, numbers: Numbers) -> (__m512d, u8) {
        // Without the points, so that all digits of a number stand next to each other.
        let text = _mm512_maskz_compress_epi8(!points, chunk);
        let indices = load(&LAYOUT.indices);
        let places_of = |bits: u64| _mm512_maskz_compress_epi8(_pext_u64(bits, !points), indices);
        let (starts, ends) = (places_of(numbers.digits), places_of(numbers.commas));
        let first_eight = |places: __m512i| _mm512_castsi512_si128(places);
        let lengths = _mm_sub_epi8(first_eight(ends), first_eight(starts));
        let decimals = _mm_sub_epi8(first_eight(ends), first_eight(places_of(numbers.fractions)));
        let decimals = _mm512_cvtepu8_epi64(decimals);

        let from_end = load(&LAYOUT.from_end);
        let mut mantissas = digits(text, starts, ends, from_end);
        let mut powers = _mm512_permutex2var_pd(load_powers(&POWERS[0]), decimals, load_powers(&POWERS[1]));
        let mut unsure = 0;
        // Mostly all numbers of an array are long, or none is.
        if _mm_cmpgt_epi8_mask(lengths, _mm_set1_epi8(LANE.cast_signed())) != 0 {
            let from_end = _mm512_sub_epi8(from_end, _mm512_set1_epi8(LANE.cast_signed()));
            let high = digits(text, starts, ends, from_end);
            unsure |= _mm512_cmpgt_epu64_mask(high, _mm512_set1_epi64(MAX_HIGH));
            unsure |= (_mm_cmpgt_epi8_mask(lengths, _mm_set1_epi8(MAX_DIGITS)) & 0xff) as u8;
            let high = _mm512_mullo_epi64(high, _mm512_set1_epi64(10_i64.pow(LANE.into())));
            mantissas = _mm512_add_epi64(mantissas, high);
            let beyond = _mm512_cmpge_epu64_mask(decimals, _mm512_set1_epi64(16));
            powers = _mm512_mask_permutexvar_pd(powers, beyond, decimals, load_powers(&POWERS[2]));
        }
        // Mantissa, power and product are rounded once each, which leaves the value at most 2 units of its last place away
        // from the decimal. If no midpoint between two FP32 is even 4 units away, both are rounded to the same FP32.
        let values = _mm512_mul_pd(_mm512_cvtepu64_pd(mantissas), powers);
        let bits = _mm512_castpd_si512(values);
        let below = _mm512_and_si512(bits, _mm512_set1_epi64(BELOW_FP32.cast_signed()));
        let from_midpoint = _mm512_sub_epi64(below, _mm512_set1_epi64(MIDPOINT.cast_signed() - 4));
        unsure |= _mm512_cmple_epu64_mask(from_midpoint, _mm512_set1_epi64(8));
        let negative = (_pext_u64(numbers.minuses, numbers.starts) & 0xff) as u8;
        let bits = _mm512_mask_xor_epi64(bits, negative, bits, _mm512_set1_epi64(i64::MIN));
        (_mm512_castsi512_pd(bits), unsure)
    }

    /// The values of the digits that numbers have in their lanes, which are `from_end` away from their ends.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
    fn digits(text: __m512i, starts: __m512i, ends: __m512i, from_end: __m512i) -> __m512i {
        // Neighbours are joined to pairs, pairs to fours.
        let fours = |numbers: &[u8; CHUNK]| {
            let numbers = load(numbers);
            let places = _mm512_add_epi8(_mm512_permutexvar_epi8(numbers, ends), from_end);
            let are_theirs = _mm512_cmpge_epi8_mask(places, _mm512_permutexvar_epi8(numbers, starts));
            let ascii = _mm512_permutexvar_epi8(places, text);
            let ones = _mm512_maskz_sub_epi8(are_theirs, ascii, _mm512_set1_epi8(b'0'.cast_signed()));
            let pairs = _mm512_maddubs_epi16(ones, _mm512_set1_epi16(1 << 8 | 10));
            _mm512_madd_epi16(pairs, _mm512_set1_epi32(1 << 16 | 100))
        };
        // Both vectors to one, in the order of the numbers, and fours to eights.
        let fours = _mm512_packus_epi32(fours(&LAYOUT.even), fours(&LAYOUT.odd));
        let eights = _mm512_madd_epi16(fours, _mm512_set1_epi32(1 << 16 | 10_000));
        let high = _mm512_mul_epu32(eights, _mm512_set1_epi64(100_000_000));
        _mm512_add_epi64(high, _mm512_srli_epi64::<32>(eights))
    }

    /// What a mantissa is multiplied by, for so many decimals.
    static POWERS: [[f64; 8]; 3] = [
        [1e0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7],
        [1e-8, 1e-9, 1e-10, 1e-11, 1e-12, 1e-13, 1e-14, 1e-15],
        [1e-16, 1e-17, 1e-18, 1e-19, 1e-20, 1e-21, 1e-22, 1e-23],
    ];

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn load_powers(powers: &[f64; 8]) -> __m512d {
        #[expect(unsafe_code, reason = "intrinsics take pointers")]
        // SAFETY: it reads the eight.
        unsafe {
            _mm512_loadu_pd(powers.as_ptr())
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn load(bytes: &[u8; CHUNK]) -> __m512i {
        #[expect(unsafe_code, reason = "intrinsics take pointers")]
        // SAFETY: it reads 64 bytes, as many as there are.
        unsafe {
            _mm512_loadu_si512(bytes.as_ptr().cast())
        }
    }

    /// Rounds them to FP32.
    #[inline]
    #[target_feature(enable = "avx512f,avx512vl")]
    fn store(values: __m512d, place: &mut [[u8; 4]; LANES]) {
        #[expect(unsafe_code, reason = "intrinsics take pointers")]
        // SAFETY: it writes 32 bytes, as many as there are, wherever they are.
        unsafe {
            _mm256_storeu_ps(place.as_mut_ptr().cast(), _mm512_cvtpd_ps(values));
        }
    }
}

#[cfg(test)]
mod tests;
