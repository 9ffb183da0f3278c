//! ONNX models in the sandbox: the gateway's own plugin carries the engine (`onnx-plugin/`), the model is a file beside it.

use std::{fmt, fs, io, path::Path, sync::Arc};

use crate::execute::{Executor, LoadError, Source, Step};

use super::Sandbox;

/// The plugin's bytes. Each model is compiled with it, into a component of its own.
pub struct OnnxPlugin(Vec<u8>);

impl OnnxPlugin {
    /// Reads the plugin from its file.
    ///
    /// # Errors
    /// If it cannot be read, or is no wasm at all.
    pub fn read(path: &Path) -> io::Result<Self> {
        let bytes = fs::read(path)?;
        if !bytes.starts_with(b"\0asm") {
            return Err(io::Error::other("it is not WebAssembly"));
        }
        Ok(Self(bytes))
    }

    /// Loads an ONNX model as [`Sandbox::load`] does a wasm model: each request runs in an instance of its own, which starts with
    /// the optimised graph. Blocks for as long as compiling takes.
    ///
    /// # Errors
    /// The step at which the model was refused, and why.
    pub fn load(&self, sandbox: &Arc<Sandbox>, source: Source) -> Result<Arc<dyn Executor>, LoadError> {
        let (model, beside) = source.sizes();
        let most = sandbox.settings.limits.max_file_bytes;
        if model.saturating_add(beside) > most as u64 {
            return Err(LoadError::new(
                Step::Read,
                format_args!(
                    "it has {} bytes with its files, in the sandbox at most {most} are admitted",
                    model.saturating_add(beside)
                ),
            ));
        }
        sandbox.load(self.with(source))
    }

    /// The source of an ONNX model as a worker or [`Sandbox::load`] takes it.
    #[must_use]
    pub fn with(&self, source: Source) -> Source {
        source.in_plugin(&self.0)
    }
}

impl fmt::Debug for OnnxPlugin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("OnnxPlugin").field(&self.0.len()).finish()
    }
}
