//! OpenAPI documents and the page to try calls: what they say is so, and nobody else's business.

use airlock::{authenticate::Scope, digest::Digest};
use airlock_tests::{
    client::{Answer, call, get, post},
    gateway::{Gateway, Repository},
    guest,
    store::{Caller, Store},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::Value;

const BROWSER: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";

/// A tensor of a signature: name, datatype as the contract numbers it, shape.
type Spec<'a> = (&'a str, u8, &'a [i64]);

const FP32: u8 = 11;
const BF16: u8 = 10;

/// A guest that announces these tensors.
fn announcing(inputs: &[Spec<'_>], outputs: &[Spec<'_>]) -> Vec<u8> {
    const AT: usize = 1 << 20;
    // The signature is four numbers; what they point at comes behind them.
    let mut bytes = vec![0; 16];
    for (side, specs) in [inputs, outputs].into_iter().enumerate() {
        let mut table = Vec::new();
        for (name, datatype, shape) in specs {
            bytes.resize(bytes.len().next_multiple_of(8), 0);
            let dimensions = AT + bytes.len();
            shape.iter().for_each(|dim| bytes.extend(dim.to_le_bytes()));
            let text = AT + bytes.len();
            bytes.extend(name.as_bytes());
            for number in [text, name.len(), usize::from(*datatype), dimensions, shape.len()] {
                table.extend(u32::try_from(number).expect("small").to_le_bytes());
            }
        }
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        let place = [AT + bytes.len(), specs.len()].map(|number| u32::try_from(number).expect("small"));
        bytes.extend(table);
        for (half, number) in place.into_iter().enumerate() {
            let at = 8 * side + 4 * half;
            bytes[at..at + 4].copy_from_slice(&number.to_le_bytes());
        }
    }
    let escaped: String = bytes.iter().map(|byte| format!("\\{byte:02x}")).collect();
    let fixture = format!(
        ";; replaces: memory signature\n(memory (export \"memory\") 64)\n(data (i32.const {AT}) \"{escaped}\")\n\
         (func (export \"airlock:inference/plugin@0.1.0#signature\") (result i32) (i32.const {AT}))"
    );
    guest::module(&fixture).expect("a valid fixture")
}

fn example(document: &Value, body: &str, media: &str) -> Value {
    document["components"]["requestBodies"][body]["content"][media]["example"].clone()
}

async fn page(gateway: &Gateway, path: &str) -> Answer {
    call(gateway.address(), "GET", path, &[("accept", BROWSER)], "").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_says_what_its_model_takes_and_the_example_is_answered() {
    let mirror = guest::module(guest::MIRROR).expect("a valid fixture");
    let repository = Repository::default()
        .with("good", "1", "model.wasm", guest::good())
        .with("good", "2", "model.wasm", guest::good())
        .with("mirror", "1", "model.wasm", mirror)
        .with("broken", "1", "model.wasm", "not wasm");
    let gateway = Gateway::serve(repository).await;
    let at = gateway.address();
    for (model, datatype, data) in [("good", "FP32", "[0]"), ("mirror", "BYTES", "[\"\"]")] {
        for place in [format!("/v2/models/{model}"), format!("/v2/models/{model}/versions/1")] {
            let answer = get(at, &format!("{place}/docs")).await;
            assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
            for form in ["openapi.json", "dataplane.json"] {
                assert_eq!(get(at, &format!("{place}/docs/{form}")).await.body, answer.body);
            }
            let document = answer.json();
            assert_eq!(document["openapi"], "3.1.0");
            let paths: Vec<&String> = document["paths"].as_object().expect("paths").keys().collect();
            assert!(paths.len() > 8 && paths.iter().all(|path| path.starts_with(&place)), "{paths:?}");
            let input = &document["components"]["schemas"]["Input0"]["properties"];
            assert_eq!(
                (&input["name"]["const"], &input["datatype"]["const"]),
                (&"INPUT0".into(), &datatype.into())
            );

            let request = example(&document, "Infer", "application/json");
            assert_eq!(request["inputs"][0]["data"].to_string(), data);
            let infer = format!("{place}/infer");
            assert!(document["paths"][&infer]["post"].is_object(), "{infer}");
            assert_eq!(post(at, &infer, &request).await.status, 200);
            assert_eq!(post(at, &format!("{place}/infer_stream"), &request).await.status, 200);
            let request = example(&document, "Generate", "application/json");
            assert_eq!(post(at, &format!("{place}/generate"), &request).await.status, 200);
            assert_eq!(post(at, &format!("{place}/generate_stream"), &request).await.status, 200);
        }
    }
    let newest = get(at, "/v2/models/good/docs").await.json();
    assert_eq!((&newest["info"]["version"], &newest["security"]), (&"2".into(), &Value::Array(Vec::new())));
    for (path, status) in [("missing", 404), ("good/versions/9", 404), ("broken", 503)] {
        let path = format!("/v2/models/{path}");
        let (told, metadata) = (get(at, &format!("{path}/docs")).await, get(at, &path).await);
        assert_eq!((told.status, &told.body), (status, &metadata.body), "{path}");
    }
    assert_eq!(post(at, "/v2/docs", &Value::Null).await.status, 405);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_document_of_everything_names_paths_that_there_are() {
    let gateway = Gateway::serve(Repository::default().with("good", "1", "model.wasm", guest::good())).await;
    let at = gateway.address();
    let document = get(at, "/v2/docs").await.json();
    assert_eq!(document, get(at, "/v2/docs/openapi.json").await.json());
    assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    let mut asked = 0;
    for (path, item) in document["paths"].as_object().expect("paths") {
        let named = path.replace("{model}", "good").replace("{version}", "1");
        for method in ["get", "post", "put", "delete"].into_iter().filter(|method| item[*method].is_object())
        {
            let answer = call(at, &method.to_uppercase(), &named, &[], "{}").await;
            let unknown = answer.status == 405 || answer.status == 404 && answer.code() == "not_found";
            assert!(!unknown, "{method} {path}: {} {}", answer.status, answer.error());
            asked += 1;
        }
    }
    assert!(asked > 40, "{asked}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_json_cannot_carry_has_a_binary_example() {
    let of = |inputs: &[Spec<'_>], outputs: &[Spec<'_>]| announcing(inputs, outputs);
    let repository = Repository::default()
        .with("in", "1", "model.wasm", of(&[("x", BF16, &[-1, 3]), ("y", FP32, &[])], &[("z", FP32, &[])]))
        .with("out", "1", "model.wasm", of(&[("x", FP32, &[0, 2])], &[("z", BF16, &[-1]), ("w", FP32, &[1])]))
        .with("large", "1", "model.wasm", of(&[("x", FP32, &[-1, 4097])], &[("z", FP32, &[-1])]));
    let gateway = Gateway::serve(repository).await;
    let at = gateway.address();
    let document = get(at, "/v2/models/in/docs").await.json();
    let body = example(&document, "Infer", "application/octet-stream");
    let body = body.as_str().expect("a text").to_owned();
    let length = &document["components"]["parameters"]["headerLength"]["example"];
    assert_eq!(body.len() as u64, length.as_u64().expect("a length") + 2 * 3);
    let header = length.to_string();
    let headers = [("inference-header-content-length", header.as_str())];
    let answer = call(at, "POST", "/v2/models/in/infer", &headers, body).await;
    // It was read: what is wrong is this guest's answer, which is not what it announced.
    assert_eq!((answer.status, answer.code()), (502, "model_output_invalid".into()), "{}", answer.error());

    let document = get(at, "/v2/models/out/docs").await.json();
    let request = example(&document, "Infer", "application/json");
    assert_eq!(request["outputs"][0]["parameters"]["binary_data"], true);
    assert_eq!(post(at, "/v2/models/out/infer", &request).await.status, 502);
    for (model, streams) in [("in", true), ("out", false)] {
        let paths = get(at, &format!("/v2/models/{model}/docs")).await.json()["paths"].to_string();
        assert!(paths.contains("/infer\"") && !paths.contains("/generate"), "{paths}");
        assert_eq!(paths.contains("/infer_stream\""), streams, "{paths}");
    }
    let document = get(at, "/v2/models/large/docs").await.json();
    assert_eq!(example(&document, "Infer", "application/json"), Value::Null);
    assert_eq!(example(&document, "Generate", "application/json"), Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_gets_one_page_for_all_that_runs_nothing_but_its_own_script() {
    let gateway = Gateway::serve(Repository::default().with("good", "1", "model.wasm", guest::good())).await;
    let first = page(&gateway, "/v2/docs").await;
    assert_eq!((first.status, first.header("content-type")), (200, Some("text/html; charset=utf-8")));
    for path in ["/v2/models/good/docs", "/v2/models/missing/docs", "/v2/models/good/versions/7/docs"] {
        assert_eq!(page(&gateway, path).await.body, first.body, "{path}");
        assert_eq!(get(gateway.address(), &format!("{path}/index.html")).await.body, first.body, "{path}");
    }
    assert_eq!(
        page(&gateway, "/v2/docs/openapi.json").await.header("content-type"),
        Some("application/json")
    );
    for (name, value) in [
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "DENY"),
        ("referrer-policy", "no-referrer"),
        ("vary", "accept"),
    ] {
        assert_eq!(first.header(name), Some(value));
    }
    let policy = first.header("content-security-policy").expect("a policy");
    let html = std::str::from_utf8(&first.body).expect("UTF-8");
    for tag in ["script", "style"] {
        let (_, rest) = html.split_once(&format!("<{tag}>")).expect("one");
        let (text, _) = rest.split_once(&format!("</{tag}>")).expect("its end");
        let hash = BASE64_STANDARD.encode(Digest::of(text.as_bytes()).as_bytes());
        assert!(policy.contains(&format!("{tag}-src 'sha256-{hash}';")), "{policy}");
    }
    assert!(policy.starts_with("default-src 'none';") && !policy.contains("unsafe"), "{policy}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_model_has_no_document_and_only_the_page_needs_no_key() {
    let store = Store::default();
    let scopes = [Scope::Infer, Scope::Repository];
    let (acme, umbrella) = (store.key("acme", &scopes).await, store.key("umbrella", &scopes).await);
    let gateway =
        store.serve_with(Repository::default().with("shared", "1", "model.wasm", guest::good())).await;
    let [acme, umbrella] = [&acme, &umbrella].map(|key| Caller::new(&gateway, key));
    let path = "/v2/repository/models/secret/versions/1";
    assert_eq!(acme.send("PUT", path, &[], guest::good()).await.status, 200);

    let own = acme.get("/v2/models/secret/docs").await;
    assert_eq!((own.status, &own.json()["security"][0]), (200, &serde_json::json!({ "key": [] })));
    assert_eq!(own.header("cache-control"), Some("no-store"));
    assert_eq!(umbrella.get("/v2/models/shared/docs").await.status, 200);
    for form in ["docs", "versions/1/docs", "docs/openapi.json"] {
        let foreign = umbrella.get(&format!("/v2/models/secret/{form}")).await;
        let missing = umbrella.get(&format!("/v2/models/nobody/{form}")).await;
        assert_eq!((foreign.status, missing.status), (404, 404));
        let [foreign, missing] = [(&foreign, "secret"), (&missing, "nobody")].map(|(answer, name)| {
            let names: Vec<_> = answer.headers.keys().map(ToString::to_string).collect();
            (names, String::from_utf8_lossy(&answer.body).replace(name, "NAME"))
        });
        assert_eq!(foreign, missing);
    }
    let nobody = Caller::anybody(&gateway);
    for path in ["/v2/docs", "/v2/docs/openapi.json", "/v2/models/secret/docs", "/v2/models/nobody/docs"] {
        let answer = nobody.get(path).await;
        assert_eq!((answer.status, answer.code()), (401, "unauthenticated".into()), "{path}");
    }
    let shell = page(&gateway, "/v2/docs").await;
    assert_eq!(shell.status, 200);
    for path in ["/v2/models/secret/docs", "/v2/models/nobody/docs"] {
        let answer = page(&gateway, path).await;
        assert_eq!((answer.status, &answer.body), (200, &shell.body), "{path}");
    }
}

const HOSTILE: [&str; 5] = [
    "</script><script>alert(1)</script>",
    "<img/src=x/onerror=alert(1)>",
    "\"'`${alert(1)}\\",
    "[x](javascript:alert(1))",
    "__proto__",
];

#[tokio::test(flavor = "multi_thread")]
async fn names_of_tensors_are_data_and_never_a_part_of_a_text() {
    let specs = HOSTILE.map(|name| (name, FP32, &[2][..]));
    let repository = Repository::default()
        .with("hostile", "1", "model.wasm", announcing(&specs, &specs))
        .with("good", "1", "model.wasm", guest::good());
    let gateway = Gateway::serve(repository).await;
    let answer = get(gateway.address(), "/v2/models/hostile/docs").await;
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
    let document = answer.json();
    for (position, name) in HOSTILE.iter().enumerate() {
        assert_eq!(
            document["components"]["schemas"][format!("Input{position}")]["properties"]["name"]["const"],
            *name
        );
        assert_eq!(example(&document, "Infer", "application/json")["inputs"][position]["name"], *name);
    }
    // What viewers take for Markdown is the gateway's own, the model's name apart.
    let good = get(gateway.address(), "/v2/models/good/docs").await.json();
    let texts = |document: &Value| {
        let mut texts = Vec::new();
        collect(document, &mut texts);
        texts.sort();
        texts.dedup();
        texts
    };
    assert_eq!(
        texts(&document),
        texts(&good).iter().map(|text| text.replace("model good", "model hostile")).collect::<Vec<_>>()
    );
    assert_eq!(page(&gateway, "/v2/models/hostile/docs").await.body, page(&gateway, "/v2/docs").await.body);
}

/// All texts that are for people.
fn collect(value: &Value, texts: &mut Vec<String>) {
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                if matches!(key.as_str(), "description" | "summary" | "title")
                    && let Some(text) = value.as_str()
                {
                    texts.push(text.to_owned());
                }
                collect(value, texts);
            }
        }
        Value::Array(array) => array.iter().for_each(|value| collect(value, texts)),
        _ => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_is_no_longer_than_a_few_times_the_signature() {
    let names: Vec<String> = (0..256).map(|number| format!("{number:\"<256}")).collect();
    let many: Vec<Spec<'_>> = names.iter().map(|name| (name.as_str(), FP32, &[1; 16][..])).collect();
    let huge: Spec<'_> = ("x", FP32, &[1 << 30, 1 << 20]);
    let repository = Repository::default().with("many", "1", "model.wasm", announcing(&many, &many)).with(
        "huge",
        "1",
        "model.wasm",
        announcing(&[huge], &[huge]),
    );
    let gateway = Gateway::serve(repository).await;
    for model in ["many", "huge"] {
        let path = format!("/v2/models/{model}");
        let metadata = get(gateway.address(), &path).await;
        let document = get(gateway.address(), &format!("{path}/docs")).await;
        assert_eq!((metadata.status, document.status), (200, 200));
        let (metadata, document) = (metadata.body.len(), document.body.len());
        assert!(document < (64 << 10) + 10 * metadata, "{model}: {document} bytes for {metadata}");
    }
}
