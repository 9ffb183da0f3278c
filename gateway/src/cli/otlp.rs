//! Traces for OpenTelemetry: each infer request is a span, and each station that it was at a span below it.
//!
//! The road knows nothing of that. A request's line for the access log tells when it began and how long it was where, and from
//! that its spans are made when it has ended. A thread of its own sends them; where it cannot keep up some are lost, and no
//! request waits.

use std::{
    collections::HashMap,
    fmt,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, ensure};
use opentelemetry::{
    Context, KeyValue,
    propagation::TextMapPropagator,
    trace::{Span, SpanKind, Status, TraceContextExt, Tracer, TracerProvider},
};
use opentelemetry_otlp::{SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::{
    Resource,
    propagation::TraceContextPropagator,
    trace::{Sampler, SdkTracer, SdkTracerProvider},
};
use reqwest::{Url, blocking::Client, redirect::Policy};
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{Layer, layer};

const TIMEOUT: Duration = Duration::from_secs(5);

/// Where traces go. What is left is sent when this is dropped.
pub(super) struct Traces(SdkTracerProvider);

impl Traces {
    /// Traces to the collector at that address, of such a part of the requests that come without one.
    pub(super) fn to(url: &Url, part: f64) -> Result<Self> {
        ensure!((0.0..=1.0).contains(&part), "--otlp-part: {part} is not between 0 and 1");
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut http = Client::builder().timeout(TIMEOUT).redirect(Policy::none());
        if url.scheme() == "http" {
            http = http.tls_certs_only([]);
        }
        let http = http.build().context("--otlp: TLS cannot be set up")?;
        let endpoint = format!("{}/v1/traces", url.as_str().trim_end_matches('/'));
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(http)
            .with_endpoint(endpoint)
            .with_timeout(TIMEOUT)
            .build()
            .context("--otlp")?;
        let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(part)));
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_sampler(sampler)
            .with_resource(Resource::builder().with_service_name("airlock").build());
        Ok(Self(provider.build()))
    }

    pub(super) fn layer(&self) -> Spans {
        Spans { tracer: self.0.tracer("airlock"), propagator: TraceContextPropagator::new() }
    }
}

impl Drop for Traces {
    fn drop(&mut self) {
        if let Err(error) = self.0.shutdown() {
            tracing::warn!(%error, "the last traces could not be sent");
        }
    }
}

/// Makes spans of the lines of infer requests.
#[derive(Debug)]
pub(super) struct Spans {
    tracer: SdkTracer,
    propagator: TraceContextPropagator,
}

impl<S: Subscriber> Layer<S> for Spans {
    fn on_event(&self, event: &Event<'_>, _: layer::Context<'_, S>) {
        let mut line = Line::default();
        event.record(&mut line);
        // Only those of infer requests tell how long the gateway took.
        if line.numbers.contains_key("gateway_us") {
            self.span(line);
        }
    }
}

impl Spans {
    fn span(&self, line: Line) {
        let end = SystemTime::now();
        let time = |name: &str| Duration::from_micros(line.numbers.get(name).copied().unwrap_or(0));
        let begin = end - time("total_us");
        let outcome = line.texts.get("outcome").cloned().unwrap_or_default();
        let attributes = ["tenant", "model", "version", "outcome", "request_id"].into_iter();
        let attributes = attributes
            .filter_map(|name| Some(KeyValue::new(format!("airlock.{name}"), line.texts.get(name)?.clone())));
        let status = line.numbers.get("status").and_then(|status| i64::try_from(*status).ok());
        let status = status.map(|status| KeyValue::new("http.response.status_code", status));
        let parent = match line.texts.contains_key("traceparent") {
            true => self.propagator.extract_with_context(&Context::new(), &line.texts),
            false => Context::new(),
        };
        let mut span = self
            .tracer
            .span_builder("infer")
            .with_kind(SpanKind::Server)
            .with_start_time(begin)
            .with_attributes(attributes.chain(status))
            .start_with_context(&self.tracer, &parent);
        if !span.is_recording() {
            return;
        }
        let below = Context::new().with_remote_span_context(span.span_context().clone());
        let mut at = begin;
        for station in ["receive", "decode", "wait", "run", "encode"] {
            let took = time(format!("{station}_us").as_str());
            if !took.is_zero() {
                let station = self.tracer.span_builder(station).with_start_time(at);
                station.start_with_context(&self.tracer, &below).end_with_timestamp(at + took);
            }
            at += took;
        }
        if outcome != crate::meter::OK {
            span.set_status(Status::error(outcome));
        }
        span.end_with_timestamp(end);
    }
}

/// The fields of a line.
#[derive(Default)]
struct Line {
    texts: HashMap<String, String>,
    numbers: HashMap<String, u64>,
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.texts.insert(field.name().to_owned(), value.to_owned());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.numbers.insert(field.name().to_owned(), value);
    }

    fn record_debug(&mut self, _: &Field, _: &dyn fmt::Debug) {}
}
