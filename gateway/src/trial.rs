//! The trial of an uploaded version: one call, with the sample that came along, before anybody else can call it.

use std::sync::Arc;

use bytes::Bytes;

use crate::{
    decode::Head,
    error::Problem,
    execute::{LoadError, Step},
    infer::{self, Gateway, Received},
    listen::body::BodyError,
    meter::{self, Usage},
    name::TenantName,
    repository::{
        Model,
        uploads::{Trial, UploadError},
    },
};

/// A trial with that sample: the JSON of an infer request. It has the bounds of an infer request and is metered like one.
pub fn of(gateway: &Arc<Gateway>, tenant: &TenantName, sample: Bytes) -> Trial {
    let (gateway, tenant) = (Arc::clone(gateway), tenant.clone());
    Box::new(move |model: Arc<Model>| {
        Box::pin(async move {
            let mut usage = meter::start(&gateway.meter, &tenant, &model.name);
            usage.received(sample.len());
            match run(&gateway, &tenant, &model, sample, &usage).await {
                Ok(()) => {
                    // A name counts as a model's only when there is one.
                    usage.model_known();
                    usage.answered_by(&model.version);
                    usage.succeeded(0);
                    Ok(())
                }
                Err(problem) => {
                    usage.failed(problem.code);
                    problem.log();
                    // That the gateway is busy says nothing of the version.
                    let busy = problem.retry_after.is_some();
                    let rejected = || UploadError::Rejected(LoadError::new(Step::Trial, problem.text));
                    Err(if busy { UploadError::Overloaded } else { rejected() })
                }
            }
        })
    })
}

async fn run(
    gateway: &Arc<Gateway>,
    tenant: &TenantName,
    model: &Model,
    sample: Bytes,
    usage: &Usage,
) -> Result<(), Problem> {
    let quota = gateway.quotas.of(tenant);
    let limit = infer::decode_limits(gateway, model, &quota).max_body_bytes;
    if sample.len() > limit {
        return Err(BodyError::TooLarge { limit }.into());
    }
    let mut reservation = gateway.admission.reservation();
    reservation.grow(sample.len())?;
    let Received { decoded, deadline, reservation: _held } =
        infer::decode_body(gateway, model, &quota, &Head::default(), sample, reservation).await?;
    let _permit = gateway.admission.enter(tenant, &quota, deadline).await?;
    infer::run(gateway, model, &quota, decoded.request, deadline, usage).await?;
    Ok(())
}
