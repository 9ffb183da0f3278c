//! gRPC as the suite needs it: one call after the other, its message as bytes, so that it may be one that no client would send.

pub mod messages;
pub mod requests;

use std::{future::Future, sync::Mutex, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use hyper::http::uri::PathAndQuery;
use prost::{
    Message,
    bytes::{Buf, BufMut},
};
use tokio::runtime::{Builder, Runtime};
use tonic::{
    Code, Request, Status,
    client::Grpc as Caller,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    metadata::{Ascii, MetadataValue},
    transport::{Channel, Endpoint},
};

/// Time for a server to answer, and to take a connection.
const PATIENCE: Duration = Duration::from_secs(20);
pub const INFERENCE: &str = "inference.GRPCInferenceService";

/// The gRPC door of the server.
#[derive(Debug)]
pub struct Grpc {
    runtime: Mutex<Runtime>,
    channel: Channel,
    /// Sent as `authorization`.
    key: Option<MetadataValue<Ascii>>,
}

/// How a call ended, or one message of a stream.
pub type Reply<A> = std::result::Result<A, Status>;

impl Grpc {
    /// `url` is `http://host[:port]`, the scheme may be left out. The first call connects.
    pub fn new(url: &str, key: Option<&str>) -> Result<Self> {
        ensure!(!url.starts_with("https://"), "TLS is not spoken here: put the suite behind what ends it");
        let authority = url.strip_prefix("http://").unwrap_or(url).trim_end_matches('/');
        let authority =
            if authority.contains(':') { authority.to_owned() } else { format!("{authority}:8001") };
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let endpoint =
            Endpoint::from_shared(format!("http://{authority}")).with_context(|| format!("'{url}'"))?;
        let channel = {
            let _runtime = runtime.enter();
            endpoint.connect_timeout(PATIENCE).connect_lazy()
        };
        let key = key.map(|key| format!("Bearer {key}").parse()).transpose().context("the key")?;
        Ok(Self { runtime: Mutex::new(runtime), channel, key })
    }

    /// One message each way, to a call of the inference service.
    pub fn call<A: Message + Default>(&self, call: &str, message: &impl Message) -> Result<Reply<A>> {
        self.send(INFERENCE, call, message.encode_to_vec())
    }

    /// The answer to a call that has to succeed.
    pub fn ask<A: Message + Default>(&self, call: &str, message: &impl Message) -> Result<A> {
        match self.call(call, message)? {
            Ok(answer) => Ok(answer),
            Err(status) => bail!("{call}: expected OK, got {}", shown(&status)),
        }
    }

    /// A call that has to fail with one of these codes.
    pub fn refused(&self, call: &str, message: &impl Message, codes: &[Code]) -> Result<()> {
        refused(call, self.call::<()>(call, message)?, codes)
    }

    /// One message each way, to any service; the message need not be one.
    pub fn send<A: Message + Default>(
        &self,
        service: &str,
        call: &str,
        message: Vec<u8>,
    ) -> Result<Reply<A>> {
        let reply = self.wait(async {
            let mut caller = self.caller().await?;
            caller.unary(self.request(message), path(service, call)?, Bytes).await
        })?;
        decoded(call, reply.map(tonic::Response::into_inner))
    }

    /// Messages on one stream of the inference service, sent at once, and all that comes back.
    pub fn stream<A: Message + Default>(
        &self,
        call: &str,
        messages: &[impl Message],
    ) -> Result<Vec<Reply<A>>> {
        let messages: Vec<Vec<u8>> = messages.iter().map(Message::encode_to_vec).collect();
        let came = self.wait(async {
            let mut came = Vec::new();
            let opened = async {
                let mut caller = self.caller().await?;
                let messages = self.request(futures_util::stream::iter(messages));
                caller.streaming(messages, path(INFERENCE, call)?, Bytes).await
            };
            match opened.await {
                Err(status) => came.push(Err(status)),
                Ok(answers) => {
                    let mut answers = answers.into_inner();
                    while let Some(answer) = answers.message().await.transpose() {
                        came.push(answer);
                    }
                }
            }
            came
        })?;
        came.into_iter().map(|reply| decoded(call, reply)).collect()
    }

    async fn caller(&self) -> Reply<Caller<Channel>> {
        let mut caller = Caller::new(self.channel.clone()).max_decoding_message_size(usize::MAX);
        caller.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        Ok(caller)
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(key) = &self.key {
            request.metadata_mut().insert("authorization", key.clone());
        }
        request
    }

    fn wait<T>(&self, call: impl Future<Output = T>) -> Result<T> {
        let runtime = self.runtime.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let waited = runtime.block_on(async { tokio::time::timeout(PATIENCE, call).await });
        waited.with_context(|| format!("no answer within {} s", PATIENCE.as_secs()))
    }
}

/// Fails unless the call failed with one of these codes.
pub fn refused<A>(call: &str, reply: Reply<A>, codes: &[Code]) -> Result<()> {
    match reply {
        Err(status) if codes.contains(&status.code()) => Ok(()),
        Err(status) => bail!("{call}: expected one of {codes:?}, got {}", shown(&status)),
        Ok(_) => bail!("{call}: expected one of {codes:?}, got OK"),
    }
}

/// A status for people.
pub fn shown(status: &Status) -> String {
    let text: String = status.message().chars().take(160).collect();
    format!("{:?} `{}`", status.code(), text.escape_debug())
}

fn path(service: &str, call: &str) -> Reply<PathAndQuery> {
    format!("/{service}/{call}").parse().map_err(|error| Status::internal(format!("{error}")))
}

fn decoded<A: Message + Default>(call: &str, reply: Reply<Vec<u8>>) -> Result<Reply<A>> {
    match reply {
        Err(status) => Ok(Err(status)),
        Ok(answer) => {
            A::decode(&answer[..]).map(Ok).with_context(|| format!("{call}: the answer is another message"))
        }
    }
}

/// What it takes to send bytes as they are.
#[derive(Clone, Copy, Debug)]
struct Bytes;

impl Codec for Bytes {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Bytes {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, into: &mut EncodeBuf<'_>) -> Reply<()> {
        into.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Bytes {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Reply<Option<Vec<u8>>> {
        Ok(Some(from.copy_to_bytes(from.remaining()).to_vec()))
    }
}
