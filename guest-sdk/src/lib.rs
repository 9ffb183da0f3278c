//! Write an Airlock model plugin in Rust: implement [`Plugin`], name the type in [`export!`], and build for
//! `wasm32-unknown-unknown`. This plugin adds two tensors:
//!
#![doc = concat!("```\n", include_str!("../../examples/guests/add/src/lib.rs"), "```")]
//!
//! The gateway calls [`Plugin::load`] once and snapshots the guest's memory. Each request then runs in an instance of
//! its own that starts from that snapshot, so nothing that [`Plugin::infer`] leaves behind is seen by another request.

mod allocator;
#[doc(hidden)]
pub mod bindings;
mod config;
mod datatype;
mod error;
#[doc(hidden)]
pub mod exported;
pub mod kernels;
pub mod log;
pub mod models;
mod request;
mod response;
pub mod responses;
mod signature;
mod tensor;

pub use bindings::airlock::inference::types::{
    Datatype, Parameter, Request, Response, Signature, Tensor, TensorSpec,
};
pub use config::{Config, Files};
pub use error::{Error, Result};
pub use tensor::Element;

/// All that a plugin usually names.
pub mod prelude {
    pub use crate::{
        Config, Datatype, Error, Files, Parameter, Plugin, Request, Response, Result, Signature, Tensor,
        debug, error, export, info, kernels, models, responses, trace, warn,
    };
}

/// A model. The value that [`Plugin::load`] makes is part of the snapshot that every request starts from.
pub trait Plugin: 'static {
    /// Builds the model from its configuration and from the files that lie beside `model.wasm`: parse weights and
    /// build tables here, it costs a request nothing. Runs once; [`models::infer`] answers an error meanwhile.
    ///
    /// # Errors
    /// The model is not served, and its error is the reason that its readiness reports.
    fn load(config: Config, files: Files) -> Result<Self>
    where
        Self: Sized;

    /// The tensors that `infer` takes and gives. Called once, after `load`.
    fn signature(&self) -> Signature;

    /// Answers one request; [`responses::emit`] gives other responses ahead of the one that is returned. Its inputs have been checked against the signature: all are there, and their datatypes,
    /// shapes and sizes are right. The request is the plugin's own, so an input's memory may become an output's.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] tells the caller what to change (HTTP 400); [`Error::Failed`], which `?` makes of any
    /// other error, says that the model could not do its work (HTTP 502).
    fn infer(&self, request: Request) -> Result<Response>;
}

/// Makes a type that implements [`Plugin`] the model of this crate; once in a crate of type `cdylib`.
#[macro_export]
macro_rules! export {
    ($plugin:ty) => {
        #[allow(unsafe_code, reason = "the generated exports lift their arguments out of linear memory")]
        const _: () = {
            type Exported = $crate::exported::Exported<$plugin>;
    $crate::bindings::export_model!(Exported with_types_in $crate::bindings);
        };
    };
}
