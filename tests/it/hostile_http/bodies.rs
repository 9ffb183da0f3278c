//! What stands in a body: documents and tensors that contradict themselves, and few bytes that stand for many.

use std::io::Write;

use flate2::{Compression, write::GzEncoder};

use super::{BODY, Case, Target, infer, kept};

fn with_length(lines: &str, body: &[u8]) -> Vec<u8> {
    let lines = format!("{lines}Content-Length: {}\r\n", body.len());
    [infer(&lines, "").as_bytes(), body].concat()
}

fn documents() -> Vec<Case> {
    let tensor = |rest: &str| format!(r#"{{"inputs":[{{"name":"INPUT0","datatype":"FP32",{rest}}}]}}"#);
    let one = |element: &str| tensor(&format!(r#""shape":[1],"data":[{element}]"#));
    let nested =
        |depth: usize| tensor(&format!(r#""shape":[1],"data":{}1{}"#, "[".repeat(depth), "]".repeat(depth)));
    let dims = |count: usize| tensor(&format!(r#""shape":[{}],"data":[1]"#, vec!["1"; count].join(",")));
    let many = |count: usize| {
        let input = r#"{"name":"INPUT0","datatype":"FP32","shape":[1],"data":[1]}"#;
        format!(r#"{{"inputs":[{}]}}"#, vec![input; count].join(","))
    };
    let refused: Vec<(&str, Vec<u8>)> = vec![
        ("33 deep", nested(33).into()),
        ("129 deep", nested(129).into()),
        ("100,000 deep", nested(100_000).into()),
        ("100,000 deep and no end", "[".repeat(100_000).into()),
        ("1,000 dimensions", dims(1000).into()),
        ("a shape that overflows", tensor(r#""shape":[4294967296,4294967296,4],"data":[1]"#).into()),
        ("a dimension of 2^63", tensor(r#""shape":[9223372036854775808],"data":[1]"#).into()),
        ("a dimension of -1", tensor(r#""shape":[-1],"data":[1]"#).into()),
        ("a shape of 2^40 and one element", tensor(r#""shape":[1099511627776],"data":[1]"#).into()),
        ("one element too many", tensor(r#""shape":[1],"data":[1,2]"#).into()),
        ("the same input twice", many(2).into()),
        ("1,000 inputs", many(1000).into()),
        ("a key twice", BODY.replace(r#""name""#, r#""name":"INPUT0","name""#).into()),
        ("inputs twice", BODY.replace("{\"inputs\"", "{\"inputs\":[],\"inputs\"").into()),
        ("a number of nothing but a sign", one("-").into()),
        ("a hexadecimal number", one("0x10").into()),
        ("a number with zeros in front", one("007").into()),
        ("half a surrogate pair", BODY.replacen('{', r#"{"id":"\ud800","#, 1).into()),
        ("bytes that are no UTF-8", [br#"{"id":""#, &[0xff][..], br#"","inputs":[]}"#].concat()),
        ("a control byte in a text", BODY.replacen('{', "{\"id\":\"a\nb\",", 1).into()),
        ("something behind the document", format!("{BODY}x").into()),
        ("a document and a half", format!("{BODY}{{").into()),
        (
            "an output twice",
            BODY.replacen('{', r#"{"outputs":[{"name":"OUTPUT0"},{"name":"OUTPUT0"}],"#, 1).into(),
        ),
    ];
    let shared = tensor(r#""shape":[1],"parameters":{"shared_memory_region":"x"}"#);
    let shared = kept("a shared memory region", with_length("", shared.as_bytes()), &[501]);
    let accepted: Vec<(&str, String)> = vec![
        ("a number of 10,000 digits", one(&format!("1.{}", "3".repeat(10_000)))),
        ("minus zero", one("-0.0")),
        ("a number that is none", one("NaN")),
        ("an id of 100 KiB", BODY.replacen('{', &format!(r#"{{"id":"{}","#, "x".repeat(100 << 10)), 1)),
        ("an id with line ends, escaped", BODY.replacen('{', r#"{"id":"a\r\nSet-Cookie: b","#, 1)),
        ("a byte order mark", format!("\u{feff}{BODY}")),
        ("a key that nobody knows", BODY.replacen('{', r#"{"unknown":[{}],"#, 1)),
    ];
    let refused = refused.into_iter().map(|(name, body)| kept(name, with_length("", &body), &[400]));
    let accepted =
        accepted.into_iter().map(|(name, body)| kept(name, with_length("", body.as_bytes()), &[200]));
    refused.chain(accepted).chain([shared]).collect()
}

fn binary() -> Vec<Case> {
    let document = |size: &str| {
        format!(
            r#"{{"id":"é","inputs":[{{"name":"INPUT0","datatype":"FP32","shape":[1],"parameters":{{"binary_data_size":{size}}}}}]}}"#
        )
    };
    let send = |name: String, header: &str, size: &str, raw: &[u8]| {
        let body = [document(size).as_bytes(), raw].concat();
        kept(name, with_length(header, &body), &[400])
    };
    let announced = |value: &str| format!("Inference-Header-Content-Length: {value}\r\n");
    let (right, inside) = (document("4").len().to_string(), document("4").find('é').map_or(0, |at| at + 1));
    let mut cases: Vec<Case> =
        ["-1", "999999", "9223372036854775809", "1e3", "1.0", "", " ", "0x10", &inside.to_string()]
            .map(|value| send(format!("header length {value:?}"), &announced(value), "4", &[0; 4]))
            .into();
    cases.extend(["3", "5", "-4", "4.0", "\"4\"", "18446744073709551616", "4611686018427387904"].map(
        |size| {
            let header = announced(&document(size).len().to_string());
            send(format!("binary size {size}"), &header, size, &[0; 4])
        },
    ));
    cases.extend([
        send("no header length".to_owned(), "", "4", &[0; 4]),
        send("two header lengths".to_owned(), &announced(&right).repeat(2), "4", &[0; 4]),
        send("bytes left over".to_owned(), &announced(&right), "4", &[0; 5]),
        send("bytes missing".to_owned(), &announced(&right), "4", &[0; 3]),
    ]);
    cases
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_contradict_themselves_are_refused() {
    let target = Target::serve(&[]).await;
    target.all(documents()).await.all(binary()).await.done().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn compressed_bombs_are_refused_and_leave_nothing() {
    let target = Target::serve(&["--max-body", "8MiB"]).await;
    let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
    for _ in 0..64 {
        gzip.write_all(&vec![b' '; 1 << 20]).expect("memory");
    }
    let bomb = gzip.finish().expect("memory");
    assert!(bomb.len() < 100_000, "{} bytes for 64 MiB", bomb.len());
    let request = with_length("Content-Encoding: gzip\r\nConnection: close\r\n", &bomb);
    let cut = with_length("Content-Encoding: gzip\r\nConnection: close\r\n", &bomb[..bomb.len() / 64]);
    for _ in 0..50 {
        assert_eq!(target.send(&request).await.statuses, [413]);
        assert_eq!(target.send(&cut).await.statuses, [400]);
    }
    for coding in ["br", "zstd", "gzip, gzip", "identity, gzip", "x"] {
        let lines = format!("Content-Encoding: {coding}\r\nConnection: close\r\n");
        assert_eq!(target.send(&with_length(&lines, &bomb)).await.statuses, [415], "{coding}");
    }
    target.done().await;
}
