//! The calls of the gRPC port, by their paths: `/PACKAGE.SERVICE/METHOD`.

/// Everything that the gRPC port answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrpcRoute {
    ServerLive,
    ServerReady,
    ServerMetadata,
    ModelReady,
    ModelMetadata,
    ModelInfer,
    ModelStreamInfer,
    ModelConfig,
    ModelStatistics,
    RepositoryIndex,
    RepositoryLoad,
    RepositoryUnload,
    /// All six calls of both kinds of memory.
    SharedMemory,
    TraceSetting,
    LogSettings,
    /// `grpc.health.v1`
    HealthCheck,
    HealthWatch,
    /// What services and messages there are.
    Reflection,
}

/// The call of a path; `None` if there is no such call.
pub fn grpc(path: &str) -> Option<GrpcRoute> {
    let (service, method) = path.strip_prefix('/')?.split_once('/')?;
    Some(match (service, method) {
        ("inference.GRPCInferenceService", method) => inference(method)?,
        ("grpc.health.v1.Health", "Check") => GrpcRoute::HealthCheck,
        ("grpc.health.v1.Health", "Watch") => GrpcRoute::HealthWatch,
        (
            "grpc.reflection.v1.ServerReflection" | "grpc.reflection.v1alpha.ServerReflection",
            "ServerReflectionInfo",
        ) => GrpcRoute::Reflection,
        _ => return None,
    })
}

fn inference(method: &str) -> Option<GrpcRoute> {
    Some(match method {
        "ServerLive" => GrpcRoute::ServerLive,
        "ServerReady" => GrpcRoute::ServerReady,
        "ServerMetadata" => GrpcRoute::ServerMetadata,
        "ModelReady" => GrpcRoute::ModelReady,
        "ModelMetadata" => GrpcRoute::ModelMetadata,
        "ModelInfer" => GrpcRoute::ModelInfer,
        "ModelStreamInfer" => GrpcRoute::ModelStreamInfer,
        "ModelConfig" => GrpcRoute::ModelConfig,
        "ModelStatistics" => GrpcRoute::ModelStatistics,
        "RepositoryIndex" => GrpcRoute::RepositoryIndex,
        "RepositoryModelLoad" => GrpcRoute::RepositoryLoad,
        "RepositoryModelUnload" => GrpcRoute::RepositoryUnload,
        "SystemSharedMemoryStatus"
        | "SystemSharedMemoryRegister"
        | "SystemSharedMemoryUnregister"
        | "CudaSharedMemoryStatus"
        | "CudaSharedMemoryRegister"
        | "CudaSharedMemoryUnregister" => GrpcRoute::SharedMemory,
        "TraceSetting" => GrpcRoute::TraceSetting,
        "LogSettings" => GrpcRoute::LogSettings,
        _ => return None,
    })
}
