//! Reading a request.

use crate::{Error, Parameter, Request, Result, Tensor};

impl Request {
    /// An input by its name.
    ///
    /// # Errors
    /// If there is none: the gateway sends exactly the inputs of the plugin's signature.
    pub fn input(&self, name: &str) -> Result<&Tensor> {
        self.inputs.iter().find(|input| input.name == name).ok_or_else(|| no_input(name))
    }

    /// An input moved out of the request, so that its memory can be reused.
    ///
    /// # Errors
    /// As for [`Request::input`].
    pub fn take(&mut self, name: &str) -> Result<Tensor> {
        let at = self.inputs.iter().position(|input| input.name == name).ok_or_else(|| no_input(name))?;
        Ok(self.inputs.swap_remove(at))
    }

    /// Whether that output was asked for. Others may be left out, which saves their work.
    #[must_use]
    pub fn wants(&self, output: &str) -> bool {
        self.outputs.is_empty() || self.outputs.iter().any(|name| name == output)
    }

    /// A parameter of the request, `None` if it was not sent.
    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<&Parameter> {
        self.parameters.iter().find(|(key, _)| key == name).map(|(_, value)| value)
    }
}

fn no_input(name: &str) -> Error {
    Error::failed(format_args!("the request has no input '{name}': is it in the signature?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(outputs: &[&str]) -> Request {
        Request {
            id: None,
            parameters: vec![("k".into(), Parameter::Int64(3))],
            inputs: vec![
                Tensor::from_slice("A", &[1], &[1u8]).expect("it fits"),
                Tensor::from_slice("B", &[1], &[2u8]).expect("it fits"),
            ],
            outputs: outputs.iter().map(|name| (*name).into()).collect(),
        }
    }

    #[test]
    fn an_input_is_found_and_taken_by_its_name() {
        let mut request = request(&[]);
        assert_eq!(request.input("B").map(|tensor| tensor.data.clone()), Ok(vec![2]));
        assert_eq!(request.take("A").map(|tensor| tensor.data), Ok(vec![1]));
        assert!(request.take("A").is_err_and(|error| error.to_string().contains("no input 'A'")));
        assert_eq!(request.parameter("k"), Some(&Parameter::Int64(3)));
        assert_eq!(request.parameter("K"), None);
    }

    #[test]
    fn no_list_of_outputs_asks_for_all_of_them() {
        assert!(request(&[]).wants("Y"));
        assert!(request(&["X", "Y"]).wants("Y"));
        assert!(!request(&["X"]).wants("Y"));
    }
}
