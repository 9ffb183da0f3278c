//! What is fuzzed: each target takes any bytes and panics where the gateway would break a promise. `cargo xtask fuzz` runs
//! them under libFuzzer; the test `fuzz_corpus` includes this file and replays the corpus.

use std::{
    net::Ipv4Addr,
    sync::{Arc, LazyLock},
};

use airlock::{
    authenticate::{ApiKey, Authenticator, Trust},
    decode::{self, Head},
    encode::{self, Generated},
    execute::{Source, native::Engine, wasm::profile},
    limits::{DecodeLimits, Limits, NativeLimits, SandboxLimits},
    listen,
    reply::NonFinite,
    repository::uploads::{
        receive::Staged,
        records::{ConfigText, ModelSettings},
    },
    route::{Route, route},
    secret::{Purpose, Secret},
    tensor::{Classes, Datatype, InferResponse, Shape, Signature, TensorSpec},
};
use bytes::Bytes;
use http_body_util::StreamBody;
use hyper::{
    HeaderMap, Method, Uri,
    body::Frame,
    header::{AUTHORIZATION, HeaderValue},
};

/// Any text as a request's path: what is routed names a model and a version that are safe file names.
pub fn paths(input: &[u8]) {
    let Ok(path) = str::from_utf8(input) else { return };
    for method in [Method::GET, Method::POST] {
        if let Ok(
            Route::Infer(target)
            | Route::Generate(target)
            | Route::GenerateStream(target)
            | Route::ModelMetadata(target)
            | Route::ModelReady(target),
        ) = route(&method, path)
        {
            let version = target.version.as_ref().map_or("1", |version| version.as_str());
            for name in [target.model.as_str(), version] {
                assert!(!name.is_empty() && !name.contains(['/', '\\', '\0']) && !name.starts_with('.'));
            }
        }
    }
}

/// Any text as an API key and as the header that carries it: what is one is written in that way only, and nobody is let in
/// by it.
pub fn api_key(input: &[u8]) {
    static AUTHENTICATOR: LazyLock<Authenticator> = LazyLock::new(|| {
        let authenticator =
            Authenticator::new(Trust::Loopback, Secret::from_bytes([1; 32]).key(Purpose::ApiKey));
        authenticator.require_keys();
        authenticator
    });
    if let Ok(text) = str::from_utf8(input)
        && let Ok(key) = text.parse::<ApiKey>()
    {
        assert_eq!(*key.reveal(), text);
    }
    let Ok(value) = HeaderValue::from_bytes(input) else { return };
    let headers = HeaderMap::from_iter([(AUTHORIZATION, value)]);
    let caller = AUTHENTICATOR.principal(Ipv4Addr::LOCALHOST.into(), &Uri::from_static("/v2"), &headers);
    assert!(caller.is_err());
}

/// Any body as a JSON request to a model with one input `X`; what is accepted is also written back, as the request asks for
/// it.
pub fn decode_json(input: &[u8]) {
    let Some((choice, body)) = input.split_first() else { return };
    let datatype = Datatype::ALL[usize::from(*choice) % Datatype::ALL.len()];
    let spec = TensorSpec { name: "X".into(), datatype, shape: Shape(vec![-1]) };
    let signature = Signature { inputs: vec![spec.clone()], outputs: vec![spec] };
    let limits = DecodeLimits::default();
    let body = Bytes::copy_from_slice(body);
    let Ok(decoded) = decode::infer(&Head::default(), body.clone(), &signature, &limits) else { return };
    for input in &decoded.request.inputs {
        input.check_layout().expect("decoded tensors have their layout");
        assert!(input.bytes.len() <= 4 * body.len());
    }
    if datatype == Datatype::Bf16 {
        // Only an empty one gets here, and JSON does not carry the datatype at all.
        return;
    }
    let (request, reply) = (decoded.request, decoded.reply);
    let wishes = &reply.outputs;
    let mut response = InferResponse { parameters: request.parameters, outputs: request.inputs };
    let classes = Classes { batched: body.len().is_multiple_of(2), ..Classes::default() };
    if encode::as_asked(&mut response, &reply, &classes, 4 * body.len()).is_err() {
        assert!(wishes.iter().any(|output| output.classification.is_some()));
        return;
    }
    for output in &response.outputs {
        output.check_layout().expect("what is asked for has its layout");
        assert!(output.bytes.len() <= 1024 * (1 + body.len()));
    }
    let encoded = encode::infer("m", "1", &response, &reply, None, NonFinite::Null);
    // Base64 may stand for what is no text, and then be asked for as text.
    let as_it_came = wishes.iter().all(|output| output.content_type.is_none());
    assert!(encoded.is_ok() || !as_it_came, "what came as JSON can go as JSON");
}

/// Any body as a `generate` for a model with an input `X` and an input `Y` of any datatype; what is accepted is also written
/// back, in the body's own form, and as one event.
pub fn decode_generate(input: &[u8]) {
    let Some((&[first, second], body)) = input.split_first_chunk::<2>() else { return };
    let spec = |name: &str, choice: u8, shape| TensorSpec {
        name: name.into(),
        datatype: Datatype::ALL[usize::from(choice) % Datatype::ALL.len()],
        shape: Shape(shape),
    };
    let mut inputs = vec![spec("X", first, vec![-1])];
    // With only one input a body need not name both.
    inputs.extend((second < 128).then(|| spec("Y", second, vec![2, -1, 1])));
    let signature = Signature { inputs: inputs.clone(), outputs: inputs };
    let body = Bytes::copy_from_slice(body);
    let Ok(decoded) = decode::generate(&Head::default(), body, &signature, &DecodeLimits::default()) else {
        return;
    };
    for input in &decoded.request.inputs {
        input.check_layout().expect("decoded tensors have their layout");
    }
    let response = InferResponse { parameters: decoded.request.parameters, outputs: decoded.request.inputs };
    for form in [Generated::Text { accept_encoding: None }, Generated::Event] {
        let encoded = encode::generate("m", "1", &response, &decoded.reply, form, NonFinite::Null);
        // Bytes from base64, and an empty BF16 tensor, need not be text.
        let Ok(encoded) = encoded else { return };
        let text = encoded.parts.concat();
        let json = match form {
            Generated::Text { .. } => text.as_slice(),
            Generated::Event => text
                .strip_prefix(b"data: ")
                .and_then(|text| text.strip_suffix(b"\n\n"))
                .filter(|text| !text.contains(&b'\n') && !text.contains(&b'\r'))
                .expect("an event is one line"),
        };
        // A parameter comes back as it was: a number may be beyond what serde_json has a type for.
        serde_json::from_slice::<serde::de::IgnoredAny>(json).expect("JSON");
    }
}

/// Any bytes as the binary tensors of a request whose header announces any shapes and sizes, or as a raw request.
pub fn decode_binary(input: &[u8]) {
    let Some((&[first, second, first_dim, second_dim, first_size, raw], binary)) =
        input.split_first_chunk::<6>()
    else {
        return;
    };
    let datatypes = [first, second].map(|choice| Datatype::ALL[usize::from(choice) % Datatype::ALL.len()]);
    let dims = [first_dim, second_dim].map(u64::from);
    let first_size = u64::from(first_size);
    let sizes = [first_size, (binary.len() as u64).saturating_sub(first_size)];
    let entry = |index: usize| {
        format!(
            r#"{{"name":"{index}","datatype":"{}","shape":[{}],"parameters":{{"binary_data_size":{}}}}}"#,
            datatypes[index], dims[index], sizes[index]
        )
    };
    let spec = |index: usize| TensorSpec {
        name: index.to_string(),
        datatype: datatypes[index],
        shape: Shape(vec![-1]),
    };
    let (json, inputs) = if raw % 2 == 0 {
        (format!(r#"{{"inputs":[{},{}]}}"#, entry(0), entry(1)), vec![spec(0), spec(1)])
    } else {
        (String::new(), vec![spec(0)])
    };
    let length = json.len().to_string();
    let head = Head { inference_header_content_length: Some(length.as_bytes()), content_encoding: None };
    let body = Bytes::from([json.as_bytes(), binary].concat());
    let signature = Signature { inputs, outputs: Vec::new() };
    if let Ok(decoded) = decode::infer(&head, body, &signature, &DecodeLimits::default()) {
        for input in &decoded.request.inputs {
            input.check_layout().expect("decoded tensors have their layout");
        }
    }
}

/// Any bytes as the message of a gRPC request to a model with one input `X`; what is accepted is also written back, and takes no more
/// than so many times the bytes that came.
pub fn decode_grpc(input: &[u8]) {
    let Some((choice, message)) = input.split_first() else { return };
    let datatype = Datatype::ALL[usize::from(*choice) % Datatype::ALL.len()];
    let spec = TensorSpec { name: "X".into(), datatype, shape: Shape(vec![-1]) };
    let signature = Signature { inputs: vec![spec.clone()], outputs: vec![spec] };
    let message = Bytes::copy_from_slice(message);
    let _ = decode::grpc::named(&message);
    let Ok(decoded) = decode::grpc::infer(&message, &signature, &DecodeLimits::default()) else { return };
    for input in &decoded.request.inputs {
        input.check_layout().expect("decoded tensors have their layout");
        assert!(input.bytes.len() <= 8 * message.len());
    }
    let response = InferResponse { parameters: decoded.request.parameters, outputs: decoded.request.inputs };
    let call = encode::grpc::Call::Stream { last: true };
    encode::grpc::infer("m", "1", &response, &decoded.reply, call).expect("what came can go");
}

/// Any bytes as a compressed raw request: nothing larger than the limit comes out.
pub fn decompress(input: &[u8]) {
    const LIMIT: usize = 1 << 16;
    let Some((choice, body)) = input.split_first() else { return };
    let encoding: &[u8] = if choice % 2 == 0 { b"gzip" } else { b"deflate" };
    let head = Head { inference_header_content_length: Some(b"0"), content_encoding: Some(encoding) };
    let spec = TensorSpec { name: "X".into(), datatype: Datatype::Uint8, shape: Shape(vec![-1]) };
    let signature = Signature { inputs: vec![spec], outputs: Vec::new() };
    let limits = DecodeLimits { max_body_bytes: LIMIT, ..DecodeLimits::default() };
    if let Ok(decoded) = decode::infer(&head, Bytes::copy_from_slice(body), &signature, &limits) {
        assert!(decoded.request.inputs[0].bytes.len() <= LIMIT);
    }
}

/// Any text as a version's configuration in one of its three forms, or as a model's settings; what is a setting is written
/// as it is read.
pub fn model_config(input: &[u8]) {
    let Some((choice, text)) = input.split_first() else { return };
    let Ok(text) = String::from_utf8(text.to_vec()) else { return };
    let config = match choice % 4 {
        0 => ConfigText::Toml(text),
        1 => ConfigText::Pbtxt(text),
        2 => ConfigText::Json(text),
        _ => {
            let Ok(settings) = serde_json::from_str::<ModelSettings>(&text) else { return };
            let _ = settings.check();
            let written = serde_json::to_string(&settings).expect("settings are JSON");
            assert_eq!(serde_json::from_str::<ModelSettings>(&written).expect("it was written"), settings);
            return;
        }
    };
    let _ = config.check(&"m".parse().expect("a name"));
}

/// Any bytes as the multipart body of an upload, in pieces of any size: no more than the limit is kept, and nothing is left
/// of it.
pub fn multipart(input: &[u8]) {
    const LIMIT: u64 = 1 << 12;
    static RUNTIME: LazyLock<tokio::runtime::Runtime> = LazyLock::new(|| {
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
    });
    static STAGING: LazyLock<std::path::PathBuf> = LazyLock::new(|| {
        let folder = std::env::temp_dir().join(format!("airlock-fuzz-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a writable folder");
        folder
    });
    let Some((size, body)) = input.split_first() else { return };
    let pieces = body.chunks(usize::from(*size).max(1)).map(Bytes::copy_from_slice);
    let pieces: Vec<_> = pieces.map(|piece| Ok::<_, std::convert::Infallible>(Frame::data(piece))).collect();
    let body = StreamBody::new(futures_util::stream::iter(pieces));
    let mut staged = Staged::begin(&STAGING, LIMIT).expect("a writable folder");
    let _ = RUNTIME.block_on(listen::multipart(&mut staged, body, "X".into(), &Limits::default()));
    let kept: u64 = std::fs::read_dir(staged.folder())
        .expect("its folder")
        .map(|file| file.and_then(|file| file.metadata()).expect("a file").len())
        .sum();
    assert!(kept <= LIMIT);
    let folder = staged.folder().to_owned();
    drop(staged);
    assert!(!folder.exists());
}

/// Any bytes as an uploaded component or core module: admitted or refused, never a panic.
pub fn component_profile(input: &[u8]) {
    let _ = profile::check(input, &SandboxLimits::default());
}

/// Any bytes as an ONNX model: loaded or refused. The engine's own panics are caught, as in the gateway.
pub fn onnx_load(input: &[u8]) {
    static ENGINE: LazyLock<Arc<Engine>> =
        LazyLock::new(|| Engine::new(NativeLimits::default()).expect("the engine starts"));
    let source = Source { label: "fuzz/1".into(), artifact: input.to_vec(), ..Source::default() };
    let _ = ENGINE.load(source);
}
