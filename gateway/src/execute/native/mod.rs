//! The native executor: ONNX models on tract.

use std::sync::Arc;

use crate::limits::NativeLimits;

use super::{Executor, LoadError, Source, Step};

/// The compute threads that run ONNX models.
#[derive(Debug)]
pub struct Engine {
    limits: NativeLimits,
}

impl Engine {
    pub fn new(limits: NativeLimits) -> Result<Arc<Self>, LoadError> {
        Ok(Arc::new(Self { limits }))
    }

    /// Loads and optimises an ONNX model. Blocks for as long as that takes.
    pub fn load(self: &Arc<Self>, source: Source) -> Result<Arc<dyn Executor>, LoadError> {
        let _ = (source, &self.limits);
        Err(LoadError::new(Step::Check, "not built"))
    }
}
