//! The messages of the gRPC port, as `build.rs` makes them of the files in `proto/`; and protobuf itself, as far as the largest of
//! them are read and written without these types.

pub mod wire;

#[allow(
    missing_debug_implementations,
    unused_lifetimes,
    clippy::allow_attributes_without_reason,
    clippy::large_enum_variant,
    reason = "generated"
)]
pub mod inference {
    include!(concat!(env!("OUT_DIR"), "/inference.rs"));
}

#[allow(clippy::allow_attributes_without_reason, reason = "generated")]
pub mod health {
    include!(concat!(env!("OUT_DIR"), "/grpc.health.v1.rs"));
}

#[allow(clippy::allow_attributes_without_reason, clippy::large_enum_variant, reason = "generated")]
pub mod reflection {
    include!(concat!(env!("OUT_DIR"), "/grpc.reflection.v1.rs"));
}

/// The files themselves, a `FileDescriptorSet`.
pub const FILES: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/files.bin"));
