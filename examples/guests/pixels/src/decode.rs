//! PNG and JPEG to RGB.

use std::{fmt, io::Cursor};

use zune_core::{colorspace::ColorSpace, options::DecoderOptions};

use crate::Image;

/// What decoding may take; a few bytes of a file can announce any size.
const MAX_PIXELS: usize = 32 << 20;

/// Why bytes are no image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecodeError(String);

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for DecodeError {}

/// Decodes a PNG or a JPEG; the file's first bytes say which. An alpha channel is dropped, and of 16 bits the
/// upper 8 are kept. (Of a grey image of 16 bits Pillow's `convert("RGB")` keeps the lower ones, clipped.)
///
/// # Errors
/// If the bytes are neither, are damaged, or announce more than 32 million pixels.
pub fn decode(bytes: &[u8]) -> Result<Image<3>, DecodeError> {
    if bytes.starts_with(b"\x89PNG\r\n\x1a\n") {
        decode_png(bytes)
    } else if bytes.starts_with(b"\xff\xd8\xff") {
        decode_jpeg(bytes)
    } else {
        Err(DecodeError("neither a PNG nor a JPEG".into()))
    }
}

fn decode_png(bytes: &[u8]) -> Result<Image<3>, DecodeError> {
    let damaged = |error: png::DecodingError| DecodeError(format!("damaged PNG: {error}"));
    let mut decoder = png::Decoder::new(Cursor::new(bytes));
    decoder.set_transformations(png::Transformations::EXPAND | png::Transformations::STRIP_16);
    let mut reader = decoder.read_info().map_err(damaged)?;
    let (width, height) = size(reader.info().width, reader.info().height)?;
    let mut buffer = vec![0; reader.output_buffer_size().ok_or_else(too_large)?];
    reader.next_frame(&mut buffer).map_err(damaged)?;
    let pixels = match reader.output_color_type().0 {
        png::ColorType::Grayscale => buffer.iter().map(|gray| [*gray; 3]).collect(),
        png::ColorType::GrayscaleAlpha => buffer.as_chunks().0.iter().map(|[gray, _]| [*gray; 3]).collect(),
        png::ColorType::Rgb => buffer.as_chunks().0.to_vec(),
        png::ColorType::Rgba => buffer.as_chunks().0.iter().map(|[r, g, b, _]| [*r, *g, *b]).collect(),
        png::ColorType::Indexed => return Err(DecodeError("damaged PNG: no palette".into())),
    };
    Ok(Image { width, height, pixels })
}

fn decode_jpeg(bytes: &[u8]) -> Result<Image<3>, DecodeError> {
    let damaged = |error: zune_jpeg::errors::DecodeErrors| DecodeError(format!("damaged JPEG: {error}"));
    let options = DecoderOptions::default().jpeg_set_out_colorspace(ColorSpace::RGB);
    let mut decoder = zune_jpeg::JpegDecoder::new_with_options(Cursor::new(bytes), options);
    decoder.decode_headers().map_err(damaged)?;
    let info = decoder.info().ok_or_else(|| DecodeError("damaged JPEG: no frame".into()))?;
    if !matches!(info.components, 1 | 3) {
        return Err(DecodeError(format!(
            "a JPEG of {} components, expected grey or colour",
            info.components
        )));
    }
    let (width, height) = size(info.width.into(), info.height.into())?;
    let buffer = decoder.decode().map_err(damaged)?;
    Ok(Image { width, height, pixels: buffer.as_chunks().0.to_vec() })
}

fn size(width: u32, height: u32) -> Result<(usize, usize), DecodeError> {
    let (width, height) = (width as usize, height as usize);
    match width.checked_mul(height) {
        Some(1..=MAX_PIXELS) => Ok((width, height)),
        _ => Err(too_large()),
    }
}

fn too_large() -> DecodeError {
    DecodeError(format!("an image of no pixels, or of more than {MAX_PIXELS}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// An image of 2 by 1, in PNG.
    fn png() -> Vec<u8> {
        let mut file = Vec::new();
        let mut encoder = png::Encoder::new(&mut file, 2, 1);
        encoder.set_color(png::ColorType::Rgba);
        let mut writer = encoder.write_header().expect("a header");
        writer.write_image_data(&[1, 2, 3, 0, 4, 5, 6, 255]).expect("the pixels");
        writer.finish().expect("the end");
        file
    }

    #[test]
    fn alpha_is_dropped() {
        let expected = Image { width: 2, height: 1, pixels: vec![[1, 2, 3], [4, 5, 6]] };
        assert_eq!(decode(&png()), Ok(expected));
    }

    #[test]
    fn what_is_no_image_is_refused() {
        assert_eq!(decode(b"GIF89a"), Err(DecodeError("neither a PNG nor a JPEG".into())));
        let mut cut = png();
        cut.truncate(40);
        assert!(decode(&cut).is_err_and(|error| error.to_string().starts_with("damaged PNG")));
        assert!(decode(b"\xff\xd8\xff").is_err_and(|error| error.to_string().starts_with("damaged JPEG")));
    }

    #[test]
    fn a_size_beyond_the_limit_is_refused_before_it_is_allocated() {
        assert_eq!(size(1 << 16, 1 << 16), Err(too_large()));
        assert_eq!(size(u32::MAX, u32::MAX), Err(too_large()));
        assert_eq!(size(0, 5), Err(too_large()));
        assert_eq!(size(8192, 4096), Ok((8192, 4096)));
    }

    proptest! {
        #[test]
        fn a_damaged_image_is_refused_or_decoded(at in 8usize..70, bytes: Vec<u8>) {
            let mut file = png();
            file.truncate(at);
            file.extend(&bytes);
            if let Ok(image) = decode(&file) {
                prop_assert_eq!(image.pixels.len(), image.width * image.height);
            }
            let jpeg = [b"\xff\xd8\xff".as_slice(), &bytes].concat();
            if let Ok(image) = decode(&jpeg) {
                prop_assert_eq!(image.pixels.len(), image.width * image.height);
            }
        }
    }
}
