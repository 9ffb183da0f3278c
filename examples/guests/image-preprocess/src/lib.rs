//! Turns JPEG and PNG files into the tensor that an image model takes: `IMAGE`, BYTES `[-1]`, one file an element,
//! becomes `PIXELS`, FP32 `[-1,3,height,width]`: `(sample / 255 - mean) / std`, red first.
//!
//! Configuration: `width` and `height` (224), `interpolation` (`bilinear`; `box`, `bicubic`, `lanczos`), `mean` and
//! `std`, three numbers each (those of ImageNet). The results are those of Pillow and numpy.

use airlock_guest::prelude::*;
use pixels::Interpolation;

struct Preprocess {
    width: usize,
    height: usize,
    interpolation: Interpolation,
    /// What each of the 256 values of a sample becomes, by channel.
    normalised: [[f32; 256]; 3],
}

impl Plugin for Preprocess {
    fn load(config: Config, _: Files) -> Result<Self> {
        let size = |name| match config.parse(name)?.unwrap_or(224) {
            size @ 1..=4096 => Ok(size),
            size => Err(Error::failed(format_args!("the parameter '{name}' is {size}, expected 1 to 4096"))),
        };
        let mean = channels(config.get("mean").unwrap_or("0.485,0.456,0.406"))?;
        let std = channels(config.get("std").unwrap_or("0.229,0.224,0.225"))?;
        let table = |channel: usize| {
            std::array::from_fn(|sample| (sample as f32 / 255.0 - mean[channel]) / std[channel])
        };
        Ok(Self {
            width: size("width")?,
            height: size("height")?,
            interpolation: config.parse("interpolation")?.unwrap_or(Interpolation::Bilinear),
            normalised: std::array::from_fn(table),
        })
    }

    fn signature(&self) -> Signature {
        Signature::new().input("IMAGE", Datatype::Bytes, &[-1]).output(
            "PIXELS",
            Datatype::Fp32,
            &[-1, 3, self.height as i64, self.width as i64],
        )
    }

    fn infer(&self, request: Request) -> Result<Response> {
        let files = request.input("IMAGE")?.byte_strings()?;
        let shape = [files.len() as u64, 3, self.height as u64, self.width as u64];
        let mut output = Tensor::zeroed::<f32>("PIXELS", &shape)?;
        let plane = self.width * self.height;
        for (index, (file, planes)) in
            files.iter().zip(output.as_mut_slice()?.chunks_exact_mut(3 * plane)).enumerate()
        {
            let image = pixels::decode(file)
                .map_err(|error| Error::invalid_input(format_args!("element {index} of IMAGE: {error}")))?
                .resize(self.width, self.height, self.interpolation);
            for (channel, (table, plane)) in
                self.normalised.iter().zip(planes.chunks_exact_mut(plane)).enumerate()
            {
                for (value, pixel) in plane.iter_mut().zip(&image.pixels) {
                    *value = table[usize::from(pixel[channel])];
                }
            }
        }
        Ok(output.into())
    }
}

/// Reads `0.5,0.5,0.5`.
fn channels(text: &str) -> Result<[f32; 3]> {
    let numbers = text.split(',').map(|number| number.trim().parse()).collect::<Result<Vec<f32>, _>>()?;
    numbers.try_into().map_err(|_| Error::failed(format_args!("'{text}' is not three numbers")))
}

airlock_guest::export!(Preprocess);
