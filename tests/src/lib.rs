//! Support for the integration tests.

pub mod client;
pub mod gateway;
pub mod guest;
pub mod process;
pub mod store;
pub mod tls;
