//! Responses on their way out: each is checked, and where several are wanted those ahead of the last go out during the run.

use std::{mem, sync::Arc};

use crate::{
    execute::{Call, ExecuteError, check_outputs},
    tensor::InferResponse,
};

use super::{
    bindings::Response,
    call::Model,
    fault,
    text::{MAX_ERROR, shown},
};

/// The responses of one run.
pub(super) struct Outgoing {
    model: Arc<Model>,
    /// The outputs that were asked for; empty means all.
    requested: Vec<String>,
    ahead: Ahead,
}

/// What a run has emitted so far.
#[derive(Default)]
enum Ahead {
    #[default]
    Nothing,
    /// One response, for a client that takes no other.
    Kept(InferResponse),
    /// Any number of responses, which its client has.
    Taken,
}

impl Outgoing {
    pub(super) fn new(model: &Arc<Model>, requested: Vec<String>) -> Self {
        Self { model: Arc::clone(model), requested, ahead: Ahead::default() }
    }

    /// `responses.emit`.
    pub(super) async fn emit(&mut self, response: Response, call: &Call) -> Result<(), ExecuteError> {
        let response = self.checked(response)?;
        match (&call.responses, &self.ahead) {
            (Some(client), _) => {
                self.ahead = Ahead::Taken;
                client.take(response, &call.deadline).await;
                Ok(())
            }
            (None, Ahead::Nothing) => {
                self.ahead = Ahead::Kept(response);
                Ok(())
            }
            (None, _) => Err(ExecuteError::Several),
        }
    }

    /// What the run comes to if `infer` returns that. After others, a response without outputs is none.
    pub(super) fn last(mut self, response: Response) -> Result<InferResponse, ExecuteError> {
        match mem::take(&mut self.ahead) {
            Ahead::Kept(kept) if response.has_no_outputs() => Ok(kept),
            Ahead::Kept(_) => Err(ExecuteError::Several),
            Ahead::Taken if response.has_no_outputs() => Ok(InferResponse::default()),
            Ahead::Taken | Ahead::Nothing => self.checked(response),
        }
    }

    fn checked(&self, response: Response) -> Result<InferResponse, ExecuteError> {
        let limits = &self.model.limits;
        if response.bytes() > limits.output_bytes {
            return Err(fault::too_large(limits));
        }
        InferResponse::try_from(response)
            .map_err(|error| ExecuteError::Output(error.to_string()))
            .and_then(|response| check_outputs(&self.model.signature, &self.requested, response))
            .map_err(bounded)
    }
}

/// The text quotes what the guest answered, shapes included, at whatever length.
fn bounded(error: ExecuteError) -> ExecuteError {
    match error {
        ExecuteError::Output(text) => ExecuteError::Output(shown(&text, MAX_ERROR)),
        other => other,
    }
}
