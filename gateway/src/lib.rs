//! Airlock: a WebAssembly-sandboxed, multi-tenant inference gateway that speaks the V2 (Open Inference) Protocol.
//!
//! # The life of a request
//!
//! [`infer`] is the road; each station is one folder with one door, and imports none of the others:
//!
//! 1. [`listen`] accepts the connection, within limits of number, size and time;
//! 2. [`authenticate`] says who is asking;
//! 3. [`route`] says what is asked for, and [`repository`] which version of the model answers;
//! 4. [`admit`] reserves the bytes of the body before they are read;
//! 5. [`decode`] turns the body into tensors and checks them against the model's signature;
//! 6. [`admit`] gives a place among the running, unless [`response_cache`] has the response already;
//! 7. [`execute`] runs the model, unless [`quarantine`] keeps it from running: in a brand-new wasm instance, when it is the
//!    tenant's turn, or natively, here or in a worker process;
//! 8. [`encode`] writes the answer;
//! 9. [`meter`] notes what became of it, on every path.
//!
//! Two byways are made of the same pieces: [`verify`] runs a request on two versions and compares, [`trial`] calls a version
//! before anybody else can. [`describe`] tells a tenant what it can call and how that went, [`metrics`] tells the operator of all.
//! [`memory_watch`] says when there is too little memory for some of it, [`free_memory`] what is kept of what was freed. [`error`] is where a station's fault becomes an HTTP
//! status and a code of gRPC, whose messages are in [`proto`]. [`server`] builds all of this from a [`config`].

pub mod admin;
pub mod admit;
pub mod authenticate;
pub mod cli;
pub mod config;
pub mod consumption;
pub mod content_type;
pub mod deadline;
pub mod decode;
pub mod describe;
pub mod digest;
pub mod encode;
pub mod error;
pub mod execute;
pub mod free_memory;
pub mod infer;
pub mod limits;
pub mod listen;
pub mod log_allowance;
pub mod memory_watch;
pub mod meter;
pub mod metrics;
pub mod name;
pub mod proto;
pub mod quarantine;
pub mod reply;
pub mod repository;
pub mod response_cache;
pub mod route;
pub mod secret;
pub mod server;
pub mod store;
pub mod tensor;
pub mod trial;
pub mod verify;
