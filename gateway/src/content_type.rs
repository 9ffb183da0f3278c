//! Content types: what the elements of a tensor stand for, as MLServer's codecs name it in the parameter `content_type`.

use crate::tensor::{Parameter, Parameters};

/// The parameter of a request, an input, a requested output or an output.
pub const CONTENT_TYPE: &str = "content_type";

/// What a `content_type` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContentType {
    /// An array of numbers; in JSON `null` is NaN.
    Np,
    /// Texts.
    Str,
    /// Bytes, of which each element is the base64 text. Models see the bytes.
    Base64,
    /// Times as ISO 8601 texts.
    Datetime,
    /// Columns of a table; in JSON `null` is NaN.
    Pd,
    /// A name that only the model may know.
    Other,
}

impl ContentType {
    /// What the parameters say; `None` if they say nothing. A value that is no text says nothing either.
    pub fn of(parameters: &Parameters) -> Option<Self> {
        let (_, value) = parameters.iter().find(|(name, _)| name == CONTENT_TYPE)?;
        let Parameter::Text(name) = value else { return None };
        Some(match name.as_str() {
            "np" => Self::Np,
            "str" => Self::Str,
            "base64" => Self::Base64,
            "datetime" => Self::Datetime,
            "pd" => Self::Pd,
            _ => Self::Other,
        })
    }

    /// Its name on the wire; `None` for one that is not known here.
    pub fn name(self) -> Option<&'static str> {
        match self {
            Self::Np => Some("np"),
            Self::Str => Some("str"),
            Self::Base64 => Some("base64"),
            Self::Datetime => Some("datetime"),
            Self::Pd => Some("pd"),
            Self::Other => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_names_a_content_type_and_nothing_else_does() {
        let of =
            |value| ContentType::of(&vec![("p".into(), Parameter::Int64(1)), (CONTENT_TYPE.into(), value)]);
        for known in ["np", "str", "base64", "datetime", "pd"] {
            assert_eq!(of(Parameter::Text(known.into())).and_then(ContentType::name), Some(known));
        }
        assert_eq!(of(Parameter::Text("pd_json".into())), Some(ContentType::Other));
        assert_eq!(of(Parameter::Text("Base64".into())), Some(ContentType::Other));
        assert_eq!(of(Parameter::Json("null".into())), None);
        assert_eq!(of(Parameter::Int64(3)), None);
        assert_eq!(ContentType::of(&Vec::new()), None);
    }
}
