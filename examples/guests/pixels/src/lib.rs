//! Images for plugins: decodes PNG and JPEG, and resizes as Pillow does, to the last bit.

mod decode;
mod resize;

pub use decode::{DecodeError, decode};
pub use resize::Interpolation;

/// Rows of pixels from the top, `C` channels of 8 bits each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image<const C: usize> {
    pub width: usize,
    pub height: usize,
    /// `width * height` pixels.
    pub pixels: Vec<[u8; C]>,
}

impl Image<3> {
    /// The luma of ITU-R 601-2, in the fixed-point arithmetic of Pillow's `convert("L")`.
    #[must_use]
    pub fn to_gray(&self) -> Image<1> {
        let luma = |[r, g, b]: [u8; 3]| {
            let sum = u32::from(r) * 19_595 + u32::from(g) * 38_470 + u32::from(b) * 7_471 + 0x8000;
            // The weights add up to 1 << 16, so this is at most 255.
            [(sum >> 16) as u8]
        };
        Image {
            width: self.width,
            height: self.height,
            pixels: self.pixels.iter().map(|pixel| luma(*pixel)).collect(),
        }
    }
}
