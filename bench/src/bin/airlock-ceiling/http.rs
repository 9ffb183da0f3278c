//! V2 identity requests: typed JSON through serde_json, or the binary tensor extension without a copy of the payload.

use std::{borrow::Cow, collections::VecDeque, convert::Infallible, pin::Pin, task};

use anyhow::{Context, Result, ensure};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Body, Frame, Incoming, SizeHint},
    header,
};
use serde::{Deserialize, Serialize};

const HEADER_LENGTH: &str = "inference-header-content-length";

#[derive(Deserialize)]
struct InferRequest<'a> {
    #[serde(borrow, default)]
    id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    inputs: Vec<Input<'a>>,
}

#[derive(Deserialize)]
struct Input<'a> {
    shape: Vec<u64>,
    #[serde(borrow)]
    datatype: Cow<'a, str>,
    #[serde(default)]
    data: Vec<f32>,
    #[serde(default)]
    parameters: InputParameters,
}

#[derive(Default, Deserialize)]
struct InputParameters {
    #[serde(default)]
    binary_data_size: usize,
}

#[derive(Serialize)]
struct InferResponse<'a> {
    model_name: &'static str,
    model_version: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    outputs: [Output<'a>; 1],
}

#[derive(Serialize)]
struct Output<'a> {
    name: &'static str,
    datatype: &'a str,
    shape: &'a [u64],
    #[serde(skip_serializing_if = "Option::is_none")]
    parameters: Option<OutputParameters>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a [f32]>,
}

#[derive(Serialize)]
struct OutputParameters {
    binary_data_size: usize,
}

/// A body of a few parts that are written as they are.
pub struct Parts(VecDeque<Bytes>);

impl Parts {
    fn new(parts: impl IntoIterator<Item = Bytes>) -> Self {
        Self(parts.into_iter().collect())
    }
}

impl Body for Parts {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut task::Context<'_>,
    ) -> task::Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        task::Poll::Ready(self.0.pop_front().map(|part| Ok(Frame::data(part))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.iter().map(|part| part.len() as u64).sum())
    }
}

fn infer(body: &Bytes, header_length: Option<usize>) -> Result<Response<Parts>> {
    let text =
        body.get(..header_length.unwrap_or(body.len())).context("the header is longer than the body")?;
    let request: InferRequest<'_> = serde_json::from_slice(text)?;
    let input = request.inputs.first().context("no input")?;
    let payload = body.slice(text.len()..);
    let elements: u64 = input.shape.iter().product();
    let given = if header_length.is_some() { payload.len() / 4 } else { input.data.len() };
    ensure!(
        elements == given as u64 && input.parameters.binary_data_size == payload.len(),
        "sizes do not match"
    );
    let output = Output {
        name: "OUTPUT0",
        datatype: &input.datatype,
        shape: &input.shape,
        parameters: header_length.map(|_| OutputParameters { binary_data_size: payload.len() }),
        data: header_length.is_none().then_some(input.data.as_slice()),
    };
    let response = InferResponse {
        model_name: "identity",
        model_version: "1",
        id: request.id.as_deref(),
        outputs: [output],
    };
    let mut head = Vec::with_capacity(text.len() + 128);
    serde_json::to_writer(&mut head, &response)?;
    let response = Response::builder();
    Ok(if header_length.is_some() {
        response
            .header(header::CONTENT_TYPE, "application/octet-stream")
            .header(HEADER_LENGTH, head.len())
            .body(Parts::new([Bytes::from(head), payload]))?
    } else {
        response.header(header::CONTENT_TYPE, "application/json").body(Parts::new([Bytes::from(head)]))?
    })
}

pub async fn answer(request: Request<Incoming>) -> Result<Response<Parts>> {
    if request.method() == Method::GET {
        return Ok(Response::new(Parts::new([])));
    }
    let header_length = match request.headers().get(HEADER_LENGTH) {
        Some(value) => Some(value.to_str()?.parse()?),
        None => None,
    };
    let mut incoming = request.into_body();
    // One buffer of the announced size: collecting the frames first would copy a large body twice.
    let announced = usize::try_from(incoming.size_hint().lower())?;
    let mut body = BytesMut::with_capacity(announced);
    while let Some(frame) = incoming.frame().await {
        if let Ok(bytes) = frame?.into_data() {
            body.extend_from_slice(&bytes);
        }
    }
    infer(&body.freeze(), header_length).or_else(|error| {
        let text = Bytes::from(error.to_string());
        Ok(Response::builder().status(StatusCode::BAD_REQUEST).body(Parts::new([text]))?)
    })
}
