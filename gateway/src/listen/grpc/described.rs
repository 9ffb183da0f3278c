//! What the room [`describe`] knows, in the messages of gRPC.

use crate::{
    authenticate::{Principal, Scope},
    describe::{
        self, BatchStatistics, InferStatistics, ModelStatistics, StatisticDuration, TensorConfig,
        VersionChoice,
    },
    error::Problem,
    infer::Gateway,
    proto::inference::{
        self as proto, DataType, LogSettingsRequest, LogSettingsResponse, ModelConfigRequest,
        ModelConfigResponse, ModelStatisticsRequest, ModelStatisticsResponse, ModelVersionPolicy,
        TraceSettingRequest, TraceSettingResponse,
        log_settings_response::{self, setting_value::ParameterChoice},
        model_version_policy::{All, Latest, PolicyChoice, Specific},
        trace_setting_response,
    },
    repository::namespaces::Wanted,
    route,
};

pub(super) fn config(
    gateway: &Gateway,
    principal: &Principal,
    request: &ModelConfigRequest,
) -> Result<ModelConfigResponse, Problem> {
    let target = route::named(&request.name, &request.version)?;
    let version = target.version.as_ref();
    let config = describe::config(&gateway.models, &principal.tenant, &target.model, version)?;
    let decoupled = config.model_transaction_policy.decoupled;
    let message = proto::ModelConfig {
        name: config.name,
        platform: config.platform.to_owned(),
        backend: config.backend.to_owned(),
        version_policy: Some(ModelVersionPolicy { policy_choice: Some(policy(config.version_policy)) }),
        max_batch_size: i32::try_from(config.max_batch_size).unwrap_or(i32::MAX),
        input: config.input.into_iter().map(input).collect(),
        output: config.output.into_iter().map(output).collect(),
        model_transaction_policy: Some(proto::ModelTransactionPolicy { decoupled }),
        response_cache: config.response_cache.map(|cache| proto::ModelResponseCache { enable: cache.enable }),
        ..proto::ModelConfig::default()
    };
    Ok(ModelConfigResponse { config: Some(message) })
}

fn policy(choice: VersionChoice) -> PolicyChoice {
    match choice {
        VersionChoice::All {} => PolicyChoice::All(All {}),
        VersionChoice::Latest { num_versions } => {
            PolicyChoice::Latest(Latest { num_versions: u32::try_from(num_versions).unwrap_or(u32::MAX) })
        }
        VersionChoice::Specific { versions } => PolicyChoice::Specific(Specific { versions }),
    }
}

fn input(tensor: TensorConfig) -> proto::ModelInput {
    let data_type = data_type(&tensor);
    proto::ModelInput { name: tensor.name, data_type, dims: tensor.dims, ..proto::ModelInput::default() }
}

fn output(tensor: TensorConfig) -> proto::ModelOutput {
    let data_type = data_type(&tensor);
    proto::ModelOutput { name: tensor.name, data_type, dims: tensor.dims, ..proto::ModelOutput::default() }
}

fn data_type(tensor: &TensorConfig) -> i32 {
    DataType::from_str_name(tensor.data_type).unwrap_or_default().into()
}

pub(super) fn statistics(
    gateway: &Gateway,
    principal: &Principal,
    request: &ModelStatisticsRequest,
) -> Result<ModelStatisticsResponse, Problem> {
    // An empty name asks for all models, as in Triton.
    let target = match request.name.as_str() {
        "" => None,
        name => Some(route::named(name, &request.version)?),
    };
    let of = target.as_ref().map(|target| (&target.model, target.version.as_ref()));
    let statistics = describe::statistics(&gateway.models, &gateway.meter, &principal.tenant, of)?;
    Ok(ModelStatisticsResponse { model_stats: statistics.into_iter().map(Into::into).collect() })
}

impl From<ModelStatistics> for proto::ModelStatistics {
    fn from(statistics: ModelStatistics) -> Self {
        Self {
            name: statistics.name,
            version: statistics.version,
            last_inference: statistics.last_inference,
            inference_count: statistics.inference_count,
            execution_count: statistics.execution_count,
            inference_stats: Some(statistics.inference_stats.into()),
            batch_stats: statistics.batch_stats.into_iter().map(Into::into).collect(),
            ..Self::default()
        }
    }
}

impl From<InferStatistics> for proto::InferStatistics {
    fn from(statistics: InferStatistics) -> Self {
        Self {
            success: Some(statistics.success.into()),
            fail: Some(statistics.fail.into()),
            queue: Some(statistics.queue.into()),
            compute_input: Some(statistics.compute_input.into()),
            compute_infer: Some(statistics.compute_infer.into()),
            compute_output: Some(statistics.compute_output.into()),
            cache_hit: Some(statistics.cache_hit.into()),
            cache_miss: Some(statistics.cache_miss.into()),
        }
    }
}

impl From<BatchStatistics> for proto::InferBatchStatistics {
    fn from(statistics: BatchStatistics) -> Self {
        Self {
            batch_size: statistics.batch_size,
            compute_input: Some(statistics.compute_input.into()),
            compute_infer: Some(statistics.compute_infer.into()),
            compute_output: Some(statistics.compute_output.into()),
        }
    }
}

impl From<StatisticDuration> for proto::StatisticDuration {
    fn from(StatisticDuration { count, ns }: StatisticDuration) -> Self {
        Self { count, ns }
    }
}

/// Without settings the call reads them.
pub(super) fn log_settings(
    principal: &Principal,
    request: &LogSettingsRequest,
) -> Result<LogSettingsResponse, Problem> {
    if !request.settings.is_empty() {
        principal.require(Scope::Admin)?;
        return Err(Problem::log_is_fixed());
    }
    let log = describe::log_settings();
    let text = |text: &str| ParameterChoice::StringParam(text.to_owned());
    let settings = [
        ("log_file", text(log.log_file)),
        ("log_info", ParameterChoice::BoolParam(log.log_info)),
        ("log_warning", ParameterChoice::BoolParam(log.log_warning)),
        ("log_error", ParameterChoice::BoolParam(log.log_error)),
        ("log_verbose_level", ParameterChoice::Uint32Param(log.log_verbose_level)),
        ("log_format", text(log.log_format)),
    ];
    let setting = |(name, value): (&str, ParameterChoice)| {
        (name.to_owned(), log_settings_response::SettingValue { parameter_choice: Some(value) })
    };
    Ok(LogSettingsResponse { settings: settings.map(setting).into() })
}

pub(super) fn trace_settings(
    gateway: &Gateway,
    principal: &Principal,
    request: &TraceSettingRequest,
) -> Result<TraceSettingResponse, Problem> {
    if !request.settings.is_empty() {
        principal.require(Scope::Admin)?;
        return Err(Problem::traces_are_fixed());
    }
    if !request.model_name.is_empty() {
        let model = route::named(&request.model_name, "")?.model;
        gateway.models.find(&principal.tenant, &model, &Wanted::default())?;
    }
    let trace = describe::trace_settings();
    let settings = [
        ("trace_level", trace.trace_level[0]),
        ("trace_rate", trace.trace_rate),
        ("trace_count", trace.trace_count),
        ("log_frequency", trace.log_frequency),
        ("trace_file", trace.trace_file),
    ];
    let setting = |(name, value): (&str, &str)| {
        (name.to_owned(), trace_setting_response::SettingValue { value: vec![value.to_owned()] })
    };
    Ok(TraceSettingResponse { settings: settings.map(setting).into() })
}
