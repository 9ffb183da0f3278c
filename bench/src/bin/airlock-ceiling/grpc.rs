//! gRPC without protobuf: the message of a call is its answer.

use std::{convert::Infallible, future::ready};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{
    HeaderMap, Request, Response,
    body::{Body, Incoming},
    header::{CONTENT_TYPE, HeaderValue},
};

pub async fn echo(
    request: Request<Incoming>,
) -> hyper::Result<Response<impl Body<Data = Bytes, Error = Infallible>>> {
    let message = request.into_body().collect().await?.to_bytes();
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let mut response = Response::new(Full::new(message).with_trailers(ready(Some(Ok(trailers)))));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    Ok(response)
}
