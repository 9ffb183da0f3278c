//! Functions of bytes that are kept as `f32`, by their 256 results.
#![cfg_attr(
    target_arch = "x86_64",
    expect(
        unsafe_code,
        clippy::undocumented_unsafe_blocks,
        reason = "vector instructions work on raw addresses, whose bounds their callers have checked"
    )
)]

use tract_onnx::tract_core::internal::*;

use crate::kernel::Kernel;

/// What a table has for each whole number from `first` on.
#[derive(Clone, Debug)]
pub struct Table {
    first: f32,
    /// Beyond the least of them, which is beside.
    bytes: Box<[u8; 256]>,
    least: f32,
}

impl Table {
    /// Of results that are whole numbers, no more than 255 apart.
    pub fn new(first: f32, values: &[f32]) -> TractResult<Self> {
        let least = values.iter().copied().fold(f32::INFINITY, f32::min);
        let byte = |value: &f32| {
            let beyond = value - least;
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is compared")]
            let byte = beyond as u8;
            (f32::from(byte) == beyond).then_some(byte)
        };
        let bytes: Option<Vec<u8>> = values.iter().map(byte).collect();
        let bytes = bytes.and_then(|bytes| bytes.into_boxed_slice().try_into().ok());
        Ok(Self { first, bytes: bytes.context("a table of other than bytes")?, least })
    }

    /// Plain Rust.
    pub fn apply(&self, from: &[f32], to: &mut [f32]) {
        // In 2^23 + n the mantissa ends in the bits of n. What is beyond the numbers is some other one.
        const NO_FRACTION: f32 = 8_388_608.0;
        for (to, x) in to.iter_mut().zip(from) {
            let [place, ..] = (x - self.first + NO_FRACTION).to_bits().to_le_bytes();
            *to = f32::from(self.bytes[usize::from(place)]) + self.least;
        }
    }

    /// Where registers hold the whole table.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
    unsafe fn in_registers(&self, from: &[f32], to: &mut [f32]) {
        use std::arch::x86_64::*;
        let (many, rest) = from.as_chunks::<16>();
        let (to_many, to_rest) = to.as_chunks_mut::<16>();
        unsafe {
            let quarter = |index: usize| _mm512_loadu_si512(self.bytes.as_ptr().add(index * 64).cast());
            let [a, b, c, d] = [quarter(0), quarter(1), quarter(2), quarter(3)];
            let (first, least) = (_mm512_set1_ps(self.first), _mm512_set1_ps(self.least));
            for (from, to) in many.iter().zip(to_many) {
                let place = _mm512_cvtps_epi32(_mm512_sub_ps(_mm512_loadu_ps(from.as_ptr()), first));
                // The lowest byte of each: the others find something that is not looked at.
                let (below, above) =
                    (_mm512_permutex2var_epi8(a, place, b), _mm512_permutex2var_epi8(c, place, d));
                let upper = _mm512_movepi8_mask(place);
                let found = _mm512_mask_blend_epi8(upper, below, above);
                let found = _mm512_and_si512(found, _mm512_set1_epi32(255));
                _mm512_storeu_ps(to.as_mut_ptr(), _mm512_add_ps(_mm512_cvtepi32_ps(found), least));
            }
        }
        self.apply(rest, to_rest);
    }
}

impl Kernel for Table {
    fn name(&self) -> &'static str {
        "AirlockTable"
    }

    fn shape(&self, inputs: &[&[usize]]) -> TractResult<TVec<usize>> {
        let [input] = inputs else { bail!("a table for {} tensors", inputs.len()) };
        Ok((*input).into())
    }

    fn run(&self, inputs: &[(&[usize], &[f32])], to: &mut [f32]) -> TractResult<()> {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vbmi")
        {
            // SAFETY: the instruction set was found on this CPU; both have as many values.
            unsafe { self.in_registers(inputs[0].1, to) };
            return Ok(());
        }
        self.apply(inputs[0].1, to);
        Ok(())
    }
}
