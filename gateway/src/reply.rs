//! How a client wants its answer: read from the request by decode, followed by encode.

use crate::{content_type::ContentType, tensor::Tensor};

/// The part of a request that shapes the response and not the computation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    /// Sent back as it came; `None` leaves `id` out of the response.
    pub id: Option<String>,
    /// Whether outputs are sent as binary where the request does not say it for the output itself: the request
    /// parameter `binary_data_output`.
    pub binary_default: bool,
    /// The request's parameter `content_type`.
    pub content_type: Option<ContentType>,
    pub form: Form,
    /// A response without outputs is to tell the end of several, as Triton's clients may ask for it.
    pub tells_end: bool,
    /// The outputs that the request names; empty means all.
    pub outputs: Vec<RequestedOutput>,
}

/// What a request and its answer are written as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Form {
    /// V2's own: lists of tensors.
    #[default]
    Infer,
    /// One object with a key for each tensor, as in Triton's `generate`.
    Generate,
}

/// One entry of a request's `outputs`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestedOutput {
    pub name: String,
    /// The output's parameter `binary_data`.
    pub binary: Option<bool>,
    /// The output's parameter `classification`: so many classes are wanted instead of all elements.
    pub classification: Option<u64>,
    /// The output's parameter `content_type`.
    pub content_type: Option<ContentType>,
}

impl Reply {
    /// Nothing is sent as binary, whatever the request says.
    pub fn no_binary(&mut self) {
        self.binary_default = false;
        self.outputs.iter_mut().for_each(|output| output.binary = None);
    }

    /// Whether the output of that name is sent as binary.
    pub fn is_binary(&self, output: &str) -> bool {
        self.requested(output).and_then(|requested| requested.binary).unwrap_or(self.binary_default)
    }

    /// What the request says of the output of that name.
    pub fn requested(&self, output: &str) -> Option<&RequestedOutput> {
        self.outputs.iter().find(|requested| requested.name == output)
    }

    /// The content type of an output: what the request says of it, else what the model does, else what the request says of
    /// itself.
    pub fn content_type_of(&self, output: &Tensor) -> Option<ContentType> {
        let asked = self.requested(&output.name).and_then(|requested| requested.content_type);
        asked.or_else(|| ContentType::of(&output.parameters)).or(self.content_type)
    }
}

/// How JSON carries NaN and the infinities, for which it has no numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NonFinite {
    /// `NaN`, `Infinity` and `-Infinity`, as Triton writes and Python clients read them.
    #[default]
    Literal,
    /// `null`, which every JSON reader takes.
    Null,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_output_says_of_itself_wins_over_the_default() {
        let named =
            |name: &str, binary| RequestedOutput { name: name.into(), binary, ..RequestedOutput::default() };
        let reply = Reply {
            binary_default: true,
            outputs: vec![named("a", Some(false)), named("b", None)],
            ..Reply::default()
        };
        assert!(!reply.is_binary("a"));
        assert!(reply.is_binary("b"));
        assert!(reply.is_binary("not named"));
        assert!(!Reply::default().is_binary("a"));
    }
}
