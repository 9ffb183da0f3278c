//! The trial of an uploaded version: one call, with the sample that came along, before anybody else can call it.

use std::sync::Arc;

use bytes::Bytes;

use crate::{
    admit::AdmitError,
    deadline::RunDeadline,
    decode::Head,
    error::Problem,
    execute::{BoxFuture, LoadError, Responses, Step},
    infer::{self, Gateway, Received, Terms, Wire},
    listen::body::BodyError,
    meter::{self, Station, Usage},
    name::TenantName,
    repository::{
        Model,
        uploads::{Trial, UploadError},
    },
    tensor::InferResponse,
};

/// The client of a trial, which takes any number of responses and reads none.
struct Unread;

impl Responses for Unread {
    fn take<'a>(&'a self, _: InferResponse, _: &'a RunDeadline) -> BoxFuture<'a, ()> {
        Box::pin(async {})
    }
}

/// A trial with that sample: the JSON of an infer request. It has the bounds of an infer request and is metered like one.
pub fn of(gateway: &Arc<Gateway>, tenant: &TenantName, sample: Bytes) -> Trial {
    let (gateway, tenant) = (Arc::clone(gateway), tenant.clone());
    Box::new(move |model: Arc<Model>| {
        Box::pin(async move {
            let mut usage = meter::start(&gateway.meter, &tenant, &model.name);
            usage.received(sample.len());
            match run(&gateway, &tenant, &model, sample, &mut usage).await {
                Ok(()) => {
                    // A name counts as a model's only when there is one.
                    usage.model_known();
                    usage.answered_by(&model.version, model.is_shared());
                    usage.succeeded(0);
                    Ok(())
                }
                Err(problem) => {
                    usage.failed(problem.code);
                    usage.status(problem.status.as_u16());
                    let problem = problem.told_within(&gateway.log, &tenant);
                    problem.log();
                    // That there is no place for the call says nothing of the version.
                    Err(match problem {
                        // Its call was ended because the gateway ends.
                        _ if gateway.is_interrupted() => UploadError::Overloaded,
                        Problem { retry_after: None, text, .. } => {
                            UploadError::Rejected(LoadError::new(Step::Trial, text))
                        }
                        Problem { status, text, .. } if status.as_u16() == 429 => {
                            UploadError::CallsBusy(text)
                        }
                        _ => UploadError::Overloaded,
                    })
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
    usage: &mut Usage,
) -> Result<(), Problem> {
    let quota = gateway.quotas.of(tenant);
    let limit = infer::decode_limits(gateway, model, &quota).max_body_bytes;
    if sample.len() > limit {
        return Err(BodyError::TooLarge { limit }.into());
    }
    let mut reservation = gateway.admission.reservation(tenant, &quota);
    reservation.grow(sample.len())?;
    let Received { decoded, deadline, reservation: _held } =
        infer::decode_body(gateway, model, &quota, Wire::Infer, &Head::default(), sample, reservation)
            .await?;
    usage.weighs(model.batch_of(&decoded.request));
    usage.passed(Station::Decode);
    let permit = gateway.admission.enter(tenant, &quota, deadline).await.map_err(|error| match error {
        // It has waited for others all the time.
        AdmitError::Deadline => Problem::from(error).retry(),
        _ => error.into(),
    })?;
    usage.passed(Station::Wait);
    let deadline = RunDeadline::from(model.limits.within(deadline));
    let terms = Terms { responses: Some(Arc::new(Unread)), ..Terms::new(&quota, deadline, usage, &permit) };
    infer::run(gateway, model, decoded.request, terms).await?;
    usage.passed(Station::Run);
    Ok(())
}
