//! A client of the gRPC port: tonic's, with the gateway's own messages.

use std::net::SocketAddr;

use airlock::proto::inference::{
    InferTensorContents, ModelInferRequest, ModelInferResponse, ModelStreamInferResponse,
    model_infer_request::InferInputTensor,
};
use bytes::Bytes;
use hyper::http::uri::PathAndQuery;
use prost::Message;
use tokio::sync::mpsc;
use tonic::{
    Request, Response, Status, Streaming,
    client::Grpc,
    codec::CompressionEncoding,
    metadata::MetadataMap,
    transport::{self, Channel, ClientTlsConfig, Endpoint},
};
use tonic_prost::ProstCodec;

use crate::tls::Certificate;

/// A connection.
#[derive(Clone, Debug)]
pub struct Client {
    channel: Channel,
    /// Sent with every call.
    metadata: MetadataMap,
    compressed: bool,
}

impl Client {
    pub async fn connect(address: SocketAddr) -> Self {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address");
        let channel = endpoint.connect().await.expect("the gateway listens");
        Self { channel, metadata: MetadataMap::new(), compressed: false }
    }

    /// Connects over TLS, as tonic does it by itself, to whoever shows that certificate.
    pub async fn connect_tls(
        address: SocketAddr,
        certificate: &Certificate,
    ) -> Result<Self, transport::Error> {
        let trusted = transport::Certificate::from_pem(certificate.pem());
        let tls = ClientTlsConfig::new().ca_certificate(trusted).domain_name("localhost");
        let endpoint = Endpoint::from_shared(format!("https://{address}")).expect("an address");
        let channel = endpoint.tls_config(tls)?.connect().await?;
        Ok(Self { channel, metadata: MetadataMap::new(), compressed: false })
    }

    /// Sends that with every call.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: &str) -> Self {
        self.metadata.insert(name, value.parse().expect("a value"));
        self
    }

    #[must_use]
    pub fn key(self, key: &str) -> Self {
        self.with("authorization", &format!("Bearer {key}"))
    }

    /// Compresses every message.
    #[must_use]
    pub fn compressed(mut self) -> Self {
        self.compressed = true;
        self
    }

    async fn client(&self) -> Grpc<Channel> {
        // What comes is what the gateway sends, however large.
        let client = Grpc::new(self.channel.clone()).max_decoding_message_size(usize::MAX);
        let mut client =
            if self.compressed { client.send_compressed(CompressionEncoding::Gzip) } else { client };
        client.ready().await.expect("an open connection");
        client
    }

    fn request<T>(&self, message: T) -> Request<T> {
        Request::from_parts(self.metadata.clone(), tonic::Extensions::default(), message)
    }

    /// One message each way, at a path such as `/inference.GRPCInferenceService/ModelInfer`.
    pub async fn call<Q, A>(&self, path: &'static str, message: Q) -> Result<Response<A>, Status>
    where
        Q: Message + Send + Sync + 'static,
        A: Message + Default + Send + Sync + 'static,
    {
        let codec = ProstCodec::<Q, A>::default();
        let path = PathAndQuery::from_static(path);
        self.client().await.unary(self.request(message), path, codec).await
    }

    /// The same of the inference service.
    pub async fn ask<Q, A>(&self, path: &'static str, message: Q) -> Result<A, Status>
    where
        Q: Message + Send + Sync + 'static,
        A: Message + Default + Send + Sync + 'static,
    {
        Ok(self.call(path, message).await?.into_inner())
    }

    pub async fn infer(&self, request: ModelInferRequest) -> Result<ModelInferResponse, Status> {
        self.ask("/inference.GRPCInferenceService/ModelInfer", request).await
    }

    /// Opens a stream of requests.
    pub async fn stream(
        &self,
        requests: impl futures_util::Stream<Item = ModelInferRequest> + Send + 'static,
    ) -> Result<Streaming<ModelStreamInferResponse>, Status> {
        self.messages("/inference.GRPCInferenceService/ModelStreamInfer", requests).await
    }

    pub async fn messages<Q, A>(
        &self,
        path: &'static str,
        messages: impl futures_util::Stream<Item = Q> + Send + 'static,
    ) -> Result<Streaming<A>, Status>
    where
        Q: Message + Send + Sync + 'static,
        A: Message + Default + Send + Sync + 'static,
    {
        let codec = ProstCodec::<Q, A>::default();
        let path = PathAndQuery::from_static(path);
        let answer = self.client().await.streaming(self.request(messages), path, codec).await?;
        Ok(answer.into_inner())
    }
}

/// Requests that a test sends one by one, and the stream that they come out of.
pub fn channel() -> (mpsc::Sender<ModelInferRequest>, impl futures_util::Stream<Item = ModelInferRequest>) {
    let (sender, mut receiver) = mpsc::channel(1);
    (sender, futures_util::stream::poll_fn(move |context| receiver.poll_recv(context)))
}

/// A request to a model that takes `INPUT0`, FP32 [-1], raw.
pub fn fp32(model: &str, values: &[f32]) -> ModelInferRequest {
    let mut request = typed(model, values);
    request.inputs[0].contents = None;
    request.raw_input_contents = vec![bytes(values)];
    request
}

/// The same with typed contents.
pub fn typed(model: &str, values: &[f32]) -> ModelInferRequest {
    let contents = InferTensorContents { fp32_contents: values.to_vec(), ..InferTensorContents::default() };
    let input = InferInputTensor {
        name: "INPUT0".into(),
        datatype: "FP32".into(),
        shape: vec![i64::try_from(values.len()).expect("few")],
        contents: Some(contents),
        ..InferInputTensor::default()
    };
    ModelInferRequest { model_name: model.into(), inputs: vec![input], ..ModelInferRequest::default() }
}

/// Their bytes in V2's raw layout.
pub fn bytes(values: &[f32]) -> Bytes {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}
