//! What a model is loaded from: its configuration, and the files beside `model.wasm`.

use std::{fmt, str::FromStr};

use crate::{Error, Result, bindings::airlock::inference::types::File};

/// The `[parameters]` of the model's configuration.
#[derive(Clone, Debug, Default)]
pub struct Config(Vec<(String, String)>);

impl Config {
    /// A parameter's text, `None` if it is not set.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// A parameter that the model cannot do without.
    ///
    /// # Errors
    /// If it is not set.
    pub fn require(&self, name: &str) -> Result<&str> {
        self.get(name).ok_or_else(|| Error::failed(format_args!("the parameter '{name}' is not set")))
    }

    /// A parameter as another type, `None` if it is not set: `config.parse("size")?.unwrap_or(224)`.
    ///
    /// # Errors
    /// If its text is not one of that type.
    pub fn parse<T: FromStr<Err: fmt::Display>>(&self, name: &str) -> Result<Option<T>> {
        let parsed = self.get(name).map(|text| {
            text.parse()
                .map_err(|error| Error::failed(format_args!("the parameter '{name}' is '{text}': {error}")))
        });
        parsed.transpose()
    }
}

impl<const N: usize> From<[(&str, &str); N]> for Config {
    fn from(parameters: [(&str, &str); N]) -> Self {
        Self(parameters.map(|(name, value)| (name.into(), value.into())).into())
    }
}

impl From<Vec<(String, String)>> for Config {
    fn from(parameters: Vec<(String, String)>) -> Self {
        Self(parameters)
    }
}

/// The files beside `model.wasm`: weights, labels, a vocabulary.
#[derive(Clone, Debug, Default)]
pub struct Files(Vec<(String, Vec<u8>)>);

impl Files {
    /// The names of all files.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.as_str())
    }

    /// The bytes of a file.
    ///
    /// # Errors
    /// If there is no such file.
    pub fn get(&self, name: &str) -> Result<&[u8]> {
        self.position(name).map(|at| self.0[at].1.as_slice())
    }

    /// The text of a file.
    ///
    /// # Errors
    /// If there is no such file, or if it is not UTF-8.
    pub fn text(&self, name: &str) -> Result<&str> {
        std::str::from_utf8(self.get(name)?)
            .map_err(|error| Error::failed(format_args!("the file '{name}' is not text: {error}")))
    }

    /// The bytes of a file, moved out of here: large weights are kept without a copy.
    ///
    /// # Errors
    /// If there is no such file.
    pub fn take(&mut self, name: &str) -> Result<Vec<u8>> {
        self.position(name).map(|at| self.0.swap_remove(at).1)
    }

    fn position(&self, name: &str) -> Result<usize> {
        self.names()
            .position(|file| file == name)
            .ok_or_else(|| Error::failed(format_args!("there is no file '{name}' beside model.wasm")))
    }
}

impl<const N: usize> From<[(&str, &[u8]); N]> for Files {
    fn from(files: [(&str, &[u8]); N]) -> Self {
        Self(files.map(|(name, bytes)| (name.into(), bytes.into())).into())
    }
}

impl From<Vec<File>> for Files {
    fn from(files: Vec<File>) -> Self {
        Self(files.into_iter().map(|file| (file.name, file.data)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_is_read_as_the_type_asked_for() {
        let config = Config::from([("size", "32"), ("mean", "half")]);
        assert_eq!(config.parse("size"), Ok(Some(32)));
        assert_eq!(config.parse::<u32>("depth"), Ok(None));
        assert_eq!(
            config.parse::<f32>("mean"),
            Err(Error::failed("the parameter 'mean' is 'half': invalid float literal"))
        );
        assert_eq!(config.require("size"), Ok("32"));
        assert_eq!(config.require("depth"), Err(Error::failed("the parameter 'depth' is not set")));
    }

    #[test]
    fn a_file_is_found_by_its_name() {
        let mut files = Files::from([("labels.txt", b"cat".as_slice()), ("weights.bin", &[0xff, 1])]);
        assert_eq!(files.text("labels.txt"), Ok("cat"));
        assert!(files.text("weights.bin").is_err_and(|error| error.to_string().contains("is not text")));
        assert_eq!(files.take("weights.bin"), Ok(vec![0xff, 1]));
        assert_eq!(
            files.get("weights.bin"),
            Err(Error::failed("there is no file 'weights.bin' beside model.wasm"))
        );
    }
}
