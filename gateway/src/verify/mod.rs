//! Verify: the same inputs through two versions, and how far their answers are apart.
//!
//! A byway made of the pieces of [`crate::infer`], with the same bounds: one request, one place among the running, one deadline
//! for both runs. What it answers is small, whatever the versions answer.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use hyper::{HeaderMap, body::Incoming};
use serde::Serialize;

use crate::{
    admit::{Permit, Reservation},
    authenticate::Principal,
    deadline::Deadline,
    decode,
    error::Problem,
    infer::{self, Gateway, Received, Wire},
    limits::Quota,
    meter::{self, Station, Usage},
    name::{ModelName, TenantName, Version},
    repository::{
        FindError, Model,
        namespaces::{Namespace, Wanted},
    },
    route::Target,
    tensor::{
        InferRequest, Parameter, Parameters, Tensor,
        compare::{OutputReport, Tolerance, compare},
    },
};

/// A report on its way out, as JSON.
#[derive(Debug)]
pub struct Answer {
    pub report: Bytes,
    pub usage: Usage,
}

#[derive(Serialize)]
struct Report<'a> {
    model: &'a ModelName,
    version: &'a Version,
    against: Named<'a>,
    pass: bool,
    rtol: f64,
    atol: f64,
    outputs: Vec<OutputReport>,
    /// Of each run, in microseconds.
    elapsed_us: [u64; 2],
}

#[derive(Serialize)]
struct Named<'a> {
    model: &'a ModelName,
    version: &'a Version,
}

/// Runs one request on the version that `target` names and on the one that its parameter `against` names.
pub async fn verify(
    gateway: &Arc<Gateway>,
    principal: &Principal,
    target: &Target,
    headers: &HeaderMap,
    body: Incoming,
) -> Result<Answer, Problem> {
    // It counts as a call of each model: the first has the bytes, each what its own run took.
    let mut usage = meter::start(&gateway.meter, &principal.tenant, &target.model);
    infer::follow(&mut usage, headers);
    let mut against = None;
    match travel(gateway, &principal.tenant, target, headers, body, &mut usage, &mut against).await {
        Ok(report) => {
            usage.succeeded(report.len());
            against.iter_mut().for_each(|usage| usage.succeeded(0));
            Ok(Answer { report, usage })
        }
        Err(problem) => {
            for usage in against.iter_mut().chain([&mut usage]) {
                usage.failed(problem.code);
                usage.status(problem.status.as_u16());
            }
            Err(problem.told_within(&gateway.log, &principal.tenant))
        }
    }
}

async fn travel(
    gateway: &Arc<Gateway>,
    tenant: &TenantName,
    target: &Target,
    headers: &HeaderMap,
    body: Incoming,
    usage: &mut Usage,
    against_usage: &mut Option<Usage>,
) -> Result<Bytes, Problem> {
    let head = infer::head(headers)?;
    let served = gateway.uploads.as_ref().map(|uploads| uploads.publications(tenant, &target.model));
    let quota = gateway.quotas.of(tenant);
    let found = find(gateway, tenant, target, usage);
    let _seat = gateway.admission.arrive(tenant, &quota)?;
    let model = found?;
    let Received { mut decoded, mut reservation, deadline } =
        infer::receive(gateway, &model, &quota, Wire::Infer, &head, body, usage).await?;

    let Question { against, tolerance } = Question::take(&mut decoded.request.parameters, &target.model)?;
    let usage_of_other = against_usage.insert(meter::start(&gateway.meter, tenant, &against.model));
    let other = find(gateway, tenant, &against, usage_of_other)?;
    let request = decoded.request;
    // It may answer other outputs, which is a difference; but what it takes has to be what is sent.
    let unfit = |reason: String| {
        Problem::bad_request(format!("against '{}' version {}: {reason}", other.name, other.version))
    };
    decode::check(other.executor.signature(), &request.inputs, &[])
        .map_err(|error| unfit(error.to_string()))?;
    other.check_batch(&request).map_err(unfit)?;
    usage_of_other.weighs(other.batch_of(&request));

    let permit = gateway.admission.enter(tenant, &quota, deadline).await?;
    usage.passed(Station::Wait);
    let wanted = request.outputs.clone();
    let again = InferRequest { outputs: Vec::new(), ..request.clone() };
    let bytes = infer::tensor_bytes(&request.inputs);
    let mut run =
        Run { gateway, quota: &quota, deadline, permit: &permit, reservation: &mut reservation, bytes };
    let (answer, elapsed) = run.on(&model, request, usage).await?;
    // Its own time begins here.
    usage_of_other.arrived();
    let (mut other_answer, other_elapsed) = run.on(&other, again, usage_of_other).await?;
    other_answer.retain(|output| wanted.is_empty() || wanted.contains(&output.name));

    let bytes = infer::tensor_bytes(&answer) + infer::tensor_bytes(&other_answer);
    let outputs = infer::off_the_sockets(bytes, || compare(&answer, &other_answer, tolerance));
    let pass = outputs.iter().all(|output| output.pass);
    if let (true, Some(uploads), Some(served)) = (pass, &gateway.uploads, served)
        && is_own(&model, tenant, &target.model)
        && is_own(&other, tenant, &target.model)
    {
        uploads.note_verified(tenant, &model.name, (&model.version, &other.version), &served).await?;
    }
    let report = Report {
        model: &model.name,
        version: &model.version,
        against: Named { model: &other.name, version: &other.version },
        pass,
        rtol: tolerance.rtol,
        atol: tolerance.atol,
        outputs,
        elapsed_us: [elapsed, other_elapsed],
    };
    serde_json::to_vec(&report).map(Bytes::from).map_err(|error| Problem::internal(error.to_string()))
}

fn find(
    gateway: &Gateway,
    tenant: &TenantName,
    target: &Target,
    usage: &mut Usage,
) -> Result<Arc<Model>, Problem> {
    let found = gateway.models.find(tenant, &target.model, &Wanted::new(target.version.as_ref(), None));
    if !matches!(found, Err(FindError::UnknownModel { .. })) {
        usage.model_known();
    }
    let model = found?;
    usage.answered_by(&model.version, model.is_shared());
    Ok(model)
}

fn is_own(model: &Model, tenant: &TenantName, name: &ModelName) -> bool {
    model.name == *name && matches!(&model.namespace, Namespace::Tenant(owner) if owner == tenant)
}

/// The two runs of a request, one after the other. The answers count against the budget of bytes like the request.
struct Run<'a> {
    gateway: &'a Arc<Gateway>,
    quota: &'a Quota,
    deadline: Deadline,
    permit: &'a Permit,
    reservation: &'a mut Reservation,
    bytes: usize,
}

impl Run<'_> {
    /// The outputs, and the microseconds that it took.
    async fn on(
        &mut self,
        model: &Model,
        request: InferRequest,
        usage: &mut Usage,
    ) -> Result<(Vec<Tensor>, u64), Problem> {
        let begun = Instant::now();
        let deadline = model.limits.within(self.deadline).into();
        let terms = infer::Terms::new(self.quota, deadline, usage, self.permit);
        let response = infer::run(self.gateway, model, request, terms).await?;
        usage.passed(Station::Run);
        let elapsed = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.bytes += infer::tensor_bytes(&response.outputs);
        self.reservation.resize(self.bytes)?;
        Ok((response.outputs, elapsed))
    }
}

/// What a request says beyond an infer request, in its parameters.
#[derive(Debug, PartialEq)]
struct Question {
    against: Target,
    tolerance: Tolerance,
}

impl Question {
    /// Takes the parameters that are not for the models.
    fn take(parameters: &mut Parameters, model: &ModelName) -> Result<Self, Problem> {
        let mut take = |name: &str| {
            let position = parameters.iter().position(|(key, _)| key == name)?;
            Some(parameters.remove(position).1)
        };
        let tolerance = Tolerance::default();
        Ok(Self {
            against: against(take("against"), model)?,
            tolerance: Tolerance {
                rtol: positive("rtol", take("rtol"), tolerance.rtol)?,
                atol: positive("atol", take("atol"), tolerance.atol)?,
            },
        })
    }
}

/// A version of the same model, `model/version` of another one, or what answers where no version is named.
fn against(value: Option<Parameter>, model: &ModelName) -> Result<Target, Problem> {
    let text = match value {
        None => return Ok(Target { model: model.clone(), version: None }),
        Some(Parameter::Text(text)) => text,
        Some(Parameter::Int64(number)) => number.to_string(),
        Some(_) => {
            return Err(Problem::bad_request(
                "parameter 'against' must be a version, or 'model/version' of another model".into(),
            ));
        }
    };
    let wrong = |error: &dyn std::fmt::Display| Problem::bad_request(format!("parameter 'against': {error}"));
    let (model, version) = match text.split_once('/') {
        Some((model, version)) => (model.parse().map_err(|error| wrong(&error))?, version),
        None => (model.clone(), text.as_str()),
    };
    Ok(Target { model, version: Some(version.parse().map_err(|error| wrong(&error))?) })
}

fn positive(name: &str, value: Option<Parameter>, default: f64) -> Result<f64, Problem> {
    let number = match value {
        None => Some(default),
        Some(Parameter::Double(number)) => Some(number),
        Some(Parameter::Int64(number)) => Some(number as f64),
        Some(_) => None,
    };
    number.filter(|number| number.is_finite() && *number >= 0.0).ok_or_else(|| {
        Problem::bad_request(format!("parameter '{name}' must be a number that is not negative"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(parameters: &[(&str, Parameter)]) -> Result<(Question, Parameters), String> {
        let mut parameters: Parameters =
            parameters.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        let question = Question::take(&mut parameters, &"iris".parse().expect("a name"));
        question.map(|question| (question, parameters)).map_err(|problem| problem.text)
    }

    fn text(text: &str) -> Parameter {
        Parameter::Text(text.into())
    }

    #[test]
    fn the_models_do_not_see_what_is_for_us() {
        let kept = ("threshold".to_owned(), Parameter::Double(0.5));
        let parameters = [
            ("rtol", Parameter::Int64(0)),
            ("threshold", Parameter::Double(0.5)),
            ("against", text("other/7")),
        ];
        let (question, left) = taken(&parameters).expect("a question");
        let against = Target {
            model: "other".parse().expect("a name"),
            version: Some("7".parse().expect("a version")),
        };
        assert_eq!(question, Question { against, tolerance: Tolerance { rtol: 0.0, atol: 1e-4 } });
        assert_eq!(left, [kept]);
        let (question, _) = taken(&[("against", Parameter::Int64(2))]).expect("a question");
        assert_eq!(question.against.model.as_str(), "iris");
        assert_eq!(question.against.version.expect("a version").as_str(), "2");
        assert_eq!(taken(&[]).expect("a question").0.against.version, None);
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        let long = "x".repeat(100_000);
        for (name, value) in [
            ("against", text("")),
            ("against", text("../2")),
            ("against", text("a/b/c")),
            ("against", text("/2")),
            ("against", text("a/")),
            ("against", text(&long)),
            ("against", Parameter::Int64(-1)),
            ("against", Parameter::Json("[1]".into())),
            ("rtol", Parameter::Double(-1e-9)),
            ("rtol", Parameter::Double(f64::NAN)),
            ("atol", Parameter::Double(f64::INFINITY)),
            ("atol", text("1e-3")),
        ] {
            let error = taken(&[(name, value)]).expect_err(name);
            assert!(error.starts_with(&format!("parameter '{name}'")) && error.len() < 400, "{error}");
        }
    }
}
