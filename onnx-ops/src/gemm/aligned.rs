//! Values in memory that vectors are read from in one piece.
#![expect(unsafe_code, reason = "vectors are looked at as their values")]

use std::{
    fmt,
    ops::{Deref, DerefMut},
    slice,
};

use super::lanes::LANES;

/// A vector that fills one line of a cache.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Vector([f32; LANES]);

const _: () =
    assert!(size_of::<Vector>() == size_of::<[f32; LANES]>(), "vectors follow each other without a gap");

/// Values of which every [`LANES`]th begins a line of a cache. A vector across two lines is read twice, and an allocator gives memory
/// that begins anywhere: large blocks 16 bytes after a page.
#[derive(Clone)]
pub struct Aligned {
    vectors: Vec<Vector>,
    len: usize,
}

impl Aligned {
    pub fn zeros(len: usize) -> Self {
        Self { vectors: vec![Vector([0.0; LANES]); len.div_ceil(LANES)], len }
    }
}

impl Deref for Aligned {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        // SAFETY: a vector is `LANES` values and nothing else; there are at least `len` of them.
        unsafe { slice::from_raw_parts(self.vectors.as_ptr().cast(), self.len) }
    }
}

impl DerefMut for Aligned {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: as above.
        unsafe { slice::from_raw_parts_mut(self.vectors.as_mut_ptr().cast(), self.len) }
    }
}

impl From<&[f32]> for Aligned {
    fn from(values: &[f32]) -> Self {
        let mut aligned = Self::zeros(values.len());
        aligned.copy_from_slice(values);
        aligned
    }
}

impl FromIterator<f32> for Aligned {
    fn from_iter<T: IntoIterator<Item = f32>>(values: T) -> Self {
        Self::from(&*values.into_iter().collect::<Vec<_>>())
    }
}

impl PartialEq for Aligned {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl fmt::Debug for Aligned {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_begin_lines() {
        for len in [0, 1, 15, 16, 17, 100, 1 << 20] {
            let values: Vec<f32> = (0..len).map(|x| x as f32).collect();
            let aligned = Aligned::from(&*values);
            assert_eq!(*aligned, *values);
            for copy in [aligned.clone(), values.iter().copied().collect(), aligned] {
                assert!(copy.as_ptr().cast::<Vector>().is_aligned());
                assert_eq!(*copy, *values);
            }
        }
    }
}
