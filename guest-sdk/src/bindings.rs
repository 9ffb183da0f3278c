//! What wit-bindgen makes of `wit/inference.wit`.
#![allow(
    unsafe_code,
    unreachable_pub,
    missing_debug_implementations,
    clippy::all,
    clippy::error_impl_error,
    clippy::allow_attributes_without_reason,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    clippy::undocumented_unsafe_blocks,
    reason = "generated: moves values across the component boundary"
)]

wit_bindgen::generate!({
    path: "../wit",
    world: "model",
    pub_export_macro: true,
    export_macro_name: "export_model",
    additional_derives: [PartialEq],
    additional_derives_ignore: ["datatype", "level"],
});
