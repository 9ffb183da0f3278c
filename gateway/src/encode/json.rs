//! The JSON of an infer response, in Triton's order of fields.

mod fp32;

use half::f16;

use crate::{
    content_type::ContentType,
    reply::{NonFinite, Reply},
    tensor::{Datatype, InferResponse, Parameter, Parameters, Tensor, element_count, elements},
};

use super::EncodeError;

/// The gateway's own parameter on binary outputs: a model cannot set it.
const BINARY_DATA_SIZE: &str = "binary_data_size";

/// Writes the response header. Outputs that are not binary have their elements in it, flat.
pub(super) fn response(
    model: &str,
    version: &str,
    response: &InferResponse,
    reply: &Reply,
    non_finite: NonFinite,
) -> Result<Vec<u8>, EncodeError> {
    let mut writer = Writer { json: Vec::with_capacity(estimate(response, reply)), non_finite };
    writer.raw("{");
    if let Some(id) = &reply.id {
        writer.raw("\"id\":");
        writer.string(id);
        writer.raw(",");
    }
    writer.raw("\"model_name\":");
    writer.string(model);
    writer.raw(",\"model_version\":");
    writer.string(version);
    if !response.parameters.is_empty() {
        writer.raw(",\"parameters\":");
        writer.parameters(&response.parameters, None);
    }
    writer.raw(",\"outputs\":[");
    for (position, output) in response.outputs.iter().enumerate() {
        if position > 0 {
            writer.raw(",");
        }
        writer.non_finite = non_finite_of(output, reply, non_finite);
        writer.output(output, reply.is_binary(&output.name))?;
    }
    writer.raw("]}");
    Ok(writer.json)
}

/// Writes the answer to a `generate`: each output under its name, a lone element without an array around it. Nothing is
/// binary there. A model's parameters stand beside its outputs, as in Triton.
pub(super) fn generated(
    model: &str,
    version: &str,
    response: &InferResponse,
    reply: &Reply,
    non_finite: NonFinite,
) -> Result<Vec<u8>, EncodeError> {
    let mut writer = Writer { json: Vec::with_capacity(estimate(response, &Reply::default())), non_finite };
    let is_output = |name: &str| response.outputs.iter().any(|output| output.name == name);
    let own = [("id", reply.id.as_deref()), ("model_name", Some(model)), ("model_version", Some(version))];
    let own = own.into_iter().filter_map(|(name, text)| Some((name, text?)));
    let mut separator = "{";
    for (name, text) in own.clone().filter(|(name, _)| !is_output(name)) {
        writer.key(&mut separator, name);
        writer.string(text);
    }
    let parameters = response.parameters.iter();
    for (name, value) in
        parameters.filter(|(name, _)| !is_output(name) && own.clone().all(|own| own.0 != name))
    {
        writer.key(&mut separator, name);
        writer.parameter(value);
    }
    for output in &response.outputs {
        writer.key(&mut separator, &output.name);
        writer.non_finite = non_finite_of(output, reply, non_finite);
        let lone = element_count(&output.shape) == Some(1);
        writer.raw(if lone { "" } else { "[" });
        writer.elements(output)?;
        writer.raw(if lone { "" } else { "]" });
    }
    writer.raw("}");
    Ok(writer.json)
}

/// How an output's content type wants what JSON has no numbers for.
fn non_finite_of(output: &Tensor, reply: &Reply, default: NonFinite) -> NonFinite {
    match reply.content_type_of(output) {
        Some(ContentType::Np | ContentType::Pd) => NonFinite::Null,
        _ => default,
    }
}

/// Bytes to reserve: enough for usual elements, so that large outputs seldom move.
fn estimate(response: &InferResponse, reply: &Reply) -> usize {
    const REST: usize = 256;
    let json = response.outputs.iter().filter(|output| !reply.is_binary(&output.name));
    let data = json.map(|output| match output.datatype {
        Datatype::Bool => output.bytes.len() * 6,
        Datatype::Uint8 | Datatype::Int8 | Datatype::Fp16 => output.bytes.len() * 4,
        Datatype::Bytes => output.bytes.len(),
        _ => output.bytes.len() * 3,
    });
    REST + data.sum::<usize>()
}

struct Writer {
    json: Vec<u8>,
    non_finite: NonFinite,
}

impl Writer {
    fn raw(&mut self, text: &str) {
        self.json.extend_from_slice(text.as_bytes());
    }

    /// Starts an entry of an object; the first one starts the object too.
    fn key(&mut self, separator: &mut &'static str, name: &str) {
        self.raw(separator);
        *separator = ",";
        self.string(name);
        self.raw(":");
    }

    fn output(&mut self, output: &Tensor, binary: bool) -> Result<(), EncodeError> {
        self.raw("{\"name\":");
        self.string(&output.name);
        self.raw(",\"datatype\":\"");
        self.raw(output.datatype.name());
        self.raw("\",\"shape\":[");
        self.list(output.shape.iter(), |writer, dim| writer.integer(*dim));
        self.raw("]");
        let size = binary.then_some(output.bytes.len());
        if size.is_some() || output.parameters.iter().any(|(name, _)| name != BINARY_DATA_SIZE) {
            self.raw(",\"parameters\":");
            self.parameters(&output.parameters, size);
        }
        if !binary {
            self.raw(",\"data\":[");
            self.elements(output)?;
            self.raw("]");
        }
        self.raw("}");
        Ok(())
    }

    fn elements(&mut self, output: &Tensor) -> Result<(), EncodeError> {
        let bytes = &output.bytes;
        match output.datatype {
            Datatype::Bool => {
                self.list(bytes.iter(), |writer, byte| writer.raw(if *byte == 0 { "false" } else { "true" }));
            }
            Datatype::Uint8 => self.integers(bytes, u8::from_le_bytes),
            Datatype::Uint16 => self.integers(bytes, u16::from_le_bytes),
            Datatype::Uint32 => self.integers(bytes, u32::from_le_bytes),
            Datatype::Uint64 => self.integers(bytes, u64::from_le_bytes),
            Datatype::Int8 => self.integers(bytes, i8::from_le_bytes),
            Datatype::Int16 => self.integers(bytes, i16::from_le_bytes),
            Datatype::Int32 => self.integers(bytes, i32::from_le_bytes),
            Datatype::Int64 => self.integers(bytes, i64::from_le_bytes),
            Datatype::Fp16 => self.floats(bytes, |bytes| f16::from_le_bytes(bytes).to_f32()),
            Datatype::Fp32 => self.floats(bytes, f32::from_le_bytes),
            Datatype::Fp64 => {
                let elements = bytes.as_chunks().0.iter();
                self.list(elements, |writer, element| writer.float(f64::from_le_bytes(*element)));
            }
            Datatype::Bf16 => {
                return Err(EncodeError::Datatype { name: output.name.clone(), datatype: output.datatype });
            }
            Datatype::Bytes => self.strings(output)?,
        }
        Ok(())
    }

    fn integers<T: itoa::Integer, const N: usize>(&mut self, bytes: &[u8], read: impl Fn([u8; N]) -> T) {
        self.list(bytes.as_chunks().0.iter(), |writer, element| writer.integer(read(*element)));
    }

    fn floats<const N: usize>(&mut self, bytes: &[u8], read: impl Fn([u8; N]) -> f32) {
        let non_finite = self.non_finite;
        fp32::write(&mut self.json, bytes.as_chunks().0, read, |value| non_finite_text(non_finite, value));
    }

    fn strings(&mut self, output: &Tensor) -> Result<(), EncodeError> {
        // The layout was checked: no element is cut short.
        for (index, element) in elements(&output.bytes).flatten().enumerate() {
            let text = std::str::from_utf8(element)
                .map_err(|_| EncodeError::NotUtf8 { name: output.name.clone(), index })?;
            if index > 0 {
                self.json.push(b',');
            }
            self.string(text);
        }
        Ok(())
    }

    #[inline]
    fn list<T>(&mut self, items: impl Iterator<Item = T>, mut write: impl FnMut(&mut Self, T)) {
        for (position, item) in items.enumerate() {
            if position > 0 {
                self.json.push(b',');
            }
            write(self, item);
        }
    }

    #[inline]
    fn integer(&mut self, value: impl itoa::Integer) {
        self.raw(itoa::Buffer::new().format(value));
    }

    /// The shortest digits that read back as the same value.
    #[inline]
    fn float<T: Float>(&mut self, value: T) {
        if value.is_finite() {
            self.raw(zmij::Buffer::new().format_finite(value));
        } else {
            self.raw(non_finite_text(self.non_finite, value));
        }
    }

    fn parameters(&mut self, parameters: &Parameters, binary_data_size: Option<usize>) {
        self.raw("{");
        if let Some(size) = binary_data_size {
            self.raw("\"binary_data_size\":");
            self.integer(size);
        }
        let mut first = binary_data_size.is_none();
        for (name, value) in parameters.iter().filter(|(name, _)| name != BINARY_DATA_SIZE) {
            if !first {
                self.raw(",");
            }
            first = false;
            self.string(name);
            self.raw(":");
            self.parameter(value);
        }
        self.raw("}");
    }

    fn parameter(&mut self, value: &Parameter) {
        match value {
            Parameter::Boolean(value) => self.raw(if *value { "true" } else { "false" }),
            Parameter::Int64(value) => self.integer(*value),
            Parameter::Uint64(value) => self.integer(*value),
            Parameter::Double(value) => self.float(*value),
            Parameter::Text(text) => self.string(text),
            // A model may say that anything is JSON; what is not goes out as text.
            Parameter::Json(text) if is_json(text) => self.raw(text),
            Parameter::Json(text) => self.string(text),
        }
    }

    fn string(&mut self, text: &str) {
        self.raw("\"");
        let bytes = text.as_bytes();
        let mut written = 0;
        for (position, byte) in bytes.iter().enumerate() {
            if !matches!(byte, 0..=0x1f | b'"' | b'\\') {
                continue;
            }
            self.json.extend_from_slice(&bytes[written..position]);
            written = position + 1;
            match byte {
                b'"' => self.raw("\\\""),
                b'\\' => self.raw("\\\\"),
                b'\n' => self.raw("\\n"),
                b'\r' => self.raw("\\r"),
                b'\t' => self.raw("\\t"),
                control => {
                    const HEX: &[u8; 16] = b"0123456789abcdef";
                    self.raw("\\u00");
                    self.json.push(HEX[usize::from(control >> 4)]);
                    self.json.push(HEX[usize::from(control & 15)]);
                }
            }
        }
        self.json.extend_from_slice(&bytes[written..]);
        self.raw("\"");
    }
}

fn is_json(text: &str) -> bool {
    serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok()
}

fn non_finite_text<T: Float>(form: NonFinite, value: T) -> &'static str {
    match (form, value.sign()) {
        (NonFinite::Null, _) => "null",
        (NonFinite::Literal, Sign::None) => "NaN",
        (NonFinite::Literal, Sign::Plus) => "Infinity",
        (NonFinite::Literal, Sign::Minus) => "-Infinity",
    }
}

enum Sign {
    /// Of a value that is not a number.
    None,
    Plus,
    Minus,
}

/// FP32 and FP64.
trait Float: zmij::Float + Copy {
    fn is_finite(self) -> bool;
    fn sign(self) -> Sign;
}

macro_rules! float {
    ($type:ty) => {
        impl Float for $type {
            fn is_finite(self) -> bool {
                <$type>::is_finite(self)
            }

            fn sign(self) -> Sign {
                if self.is_nan() {
                    Sign::None
                } else if self.is_sign_negative() {
                    Sign::Minus
                } else {
                    Sign::Plus
                }
            }
        }
    };
}

float!(f32);
float!(f64);
