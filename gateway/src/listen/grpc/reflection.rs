//! Reflection: what services and messages there are, for tools without the .proto files.

use std::{collections::BTreeMap, sync::LazyLock};

use bytes::Bytes;
use prost::Message as _;
use prost_types::{DescriptorProto, FileDescriptorProto, FileDescriptorSet};

use crate::{
    error::GrpcCode,
    proto::{
        FILES,
        reflection::{
            ErrorResponse, FileDescriptorResponse, ListServiceResponse, ServerReflectionRequest,
            ServerReflectionResponse, ServiceResponse, server_reflection_request::MessageRequest,
            server_reflection_response::MessageResponse,
        },
    },
};

/// The files, found by what is asked for.
#[derive(Default)]
struct Files {
    services: Vec<String>,
    by_name: BTreeMap<String, Bytes>,
    /// Services, their methods, messages and enumerations, with their packages.
    by_symbol: BTreeMap<String, Bytes>,
}

static OURS: LazyLock<Files> = LazyLock::new(|| {
    let files = FileDescriptorSet::decode(FILES).expect("build.rs wrote it");
    let mut found = Files::default();
    for file in files.file {
        found.add(&file);
    }
    found
});

impl Files {
    fn add(&mut self, file: &FileDescriptorProto) {
        let bytes = Bytes::from(file.encode_to_vec());
        self.by_name.insert(file.name().to_owned(), bytes.clone());
        let package = file.package();
        for service in &file.service {
            let name = format!("{package}.{}", service.name());
            for method in &service.method {
                self.by_symbol.insert(format!("{name}.{}", method.name()), bytes.clone());
            }
            self.services.push(name.clone());
            self.by_symbol.insert(name, bytes.clone());
        }
        for message in &file.message_type {
            self.add_message(package, message, &bytes);
        }
        for kind in &file.enum_type {
            self.by_symbol.insert(format!("{package}.{}", kind.name()), bytes.clone());
        }
    }

    fn add_message(&mut self, outer: &str, message: &DescriptorProto, file: &Bytes) {
        let name = format!("{outer}.{}", message.name());
        for inner in &message.nested_type {
            self.add_message(&name, inner, file);
        }
        for kind in &message.enum_type {
            self.by_symbol.insert(format!("{name}.{}", kind.name()), file.clone());
        }
        self.by_symbol.insert(name, file.clone());
    }
}

pub(super) fn answer(request: ServerReflectionRequest) -> ServerReflectionResponse {
    let file = |found: Option<&Bytes>| match found {
        Some(file) => MessageResponse::FileDescriptorResponse(FileDescriptorResponse {
            file_descriptor_proto: vec![file.clone()],
        }),
        None => error(GrpcCode::NotFound, "there is nothing of that name"),
    };
    let answer = match &request.message_request {
        Some(MessageRequest::ListServices(_)) => {
            let services = OURS.services.iter().map(|name| ServiceResponse { name: name.clone() });
            MessageResponse::ListServicesResponse(ListServiceResponse { service: services.collect() })
        }
        Some(MessageRequest::FileByFilename(name)) => file(OURS.by_name.get(name)),
        Some(MessageRequest::FileContainingSymbol(name)) => file(OURS.by_symbol.get(name)),
        Some(MessageRequest::FileContainingExtension(_) | MessageRequest::AllExtensionNumbersOfType(_)) => {
            error(GrpcCode::NotFound, "there are no extensions")
        }
        None => error(GrpcCode::InvalidArgument, "the request asks for nothing"),
    };
    ServerReflectionResponse {
        valid_host: request.host.clone(),
        original_request: Some(request),
        message_response: Some(answer),
    }
}

fn error(code: GrpcCode, text: &str) -> MessageResponse {
    MessageResponse::ErrorResponse(ErrorResponse { error_code: code as i32, error_message: text.to_owned() })
}
