//! The part of the road that a guest's own calls take.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use crate::{
    decode,
    execute::{BoxFuture, Call, ExecuteError, Models, NestedError},
    name::{ModelName, NameError},
    repository::namespaces::{Namespace, Wanted},
    tensor::{InferRequest, Tensor},
};

use super::{Gateway, allowed};

/// The models that a guest can call: those of the namespace that it lives in.
pub(super) struct Neighbours {
    pub(super) gateway: Arc<Gateway>,
    pub(super) namespace: Namespace,
    /// Whether the guest waits for another model, or got none of it in time.
    pub(super) waits: Arc<AtomicBool>,
}

/// `models.infer`: the part of the road that a guest's own calls take. Same deadline, and the caller's permit.
impl Models for Neighbours {
    fn infer<'a>(
        &'a self,
        model: &'a str,
        version: Option<&'a str>,
        inputs: Vec<Tensor>,
        caller: &'a Call,
    ) -> BoxFuture<'a, Result<Vec<Tensor>, NestedError>> {
        Box::pin(async move {
            // The guest's own texts may be megabytes long: a name is quoted only once it is known to be one.
            let unnamed = |error: NameError| NestedError::Failed(error.to_string());
            let name: ModelName = model.parse().map_err(unnamed)?;
            let version = version.map(str::parse).transpose().map_err(unnamed)?;
            let failed =
                |error: &dyn std::fmt::Display| NestedError::Failed(format!("model '{name}': {error}"));
            let wanted = Wanted::new(version.as_ref(), None);
            let found = self.gateway.models.find_for_guest(&self.namespace, &name, &wanted);
            let found = found.map_err(|error| failed(&error))?;
            let invalid =
                |error: &dyn std::fmt::Display| NestedError::InvalidInput(format!("model '{name}': {error}"));
            decode::check(found.executor.signature(), &inputs, &[]).map_err(|error| invalid(&error))?;
            // A client's tensors were laid out or checked by decode; a guest's are whatever it says they are.
            for input in &inputs {
                let name = &input.name;
                input.check_layout().map_err(|error| invalid(&format_args!("input '{name}': {error}")))?;
            }
            let request = InferRequest { inputs, ..InferRequest::default() };
            found.check_batch(&request).map_err(|error| invalid(&error))?;
            let deadline = found.limits.within(caller.deadline.now());
            let tenant = &caller.share.tenant;
            let allowed = allowed(&found, &self.gateway.quotas.of(tenant));
            let pair = (tenant, &found.name, &found.content);
            let visit =
                self.gateway.quarantine.enter(pair, Arc::clone(&caller.consumed), deadline.into(), allowed);
            let visit = visit.map_err(|error| failed(&error))?;
            let models = Self {
                gateway: Arc::clone(&self.gateway),
                namespace: found.namespace.clone(),
                waits: visit.waits(),
            };
            let call = Call {
                deadline: deadline.into(),
                depth: caller.depth + 1,
                models: Arc::new(models),
                // They are the caller's to give.
                responses: None,
                ..caller.clone()
            };
            self.waits.store(true, Ordering::Relaxed);
            caller.consumed.calls_another();
            let ran = found.executor.infer(request, call).await;
            self.waits.store(matches!(ran, Err(ExecuteError::Deadline)), Ordering::Relaxed);
            visit.ended(&ran);
            match ran {
                Ok(response) => Ok(response.outputs),
                Err(ExecuteError::InvalidInput(text)) => Err(invalid(&text)),
                Err(error) => Err(failed(&error)),
            }
        })
    }
}
