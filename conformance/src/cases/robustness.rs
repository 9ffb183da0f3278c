//! Requests that must cost their sender and nobody else: each is refused in time, and the next good one is answered.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{
    Case,
    Outcome::{self, Kept},
    Subject,
};

pub const CASES: &[Case] = &[
    Case { name: "a shape whose product overflows", run: overflow },
    Case { name: "a shape with negative, fractional or textual dimensions", run: strange_shape },
    Case { name: "a shape of a terabyte with four elements", run: terabyte },
    Case { name: "arrays nested 100,000 deep", run: deep },
    Case { name: "objects nested 100,000 deep where nobody looks", run: deep_objects },
    Case { name: "a number of 100,000 digits", run: long_number },
    Case { name: "an id of a megabyte", run: long_id },
    Case { name: "bytes that are not UTF-8", run: not_utf8 },
    Case { name: "a model name of 5,000 bytes, and others that are none", run: names },
    Case {
        name: "Content-Length beside Transfer-Encoding: refused, or the chunks count and nothing behind them is answered",
        run: both_framings,
    },
    Case { name: "two different Content-Lengths are refused", run: two_lengths },
    Case { name: "10,000 requested outputs", run: many_outputs },
];

/// Sends a body that no server can take, and sees that the model still answers.
fn hostile(subject: &Subject, body: &[u8]) -> Result<Outcome> {
    let lines = ["Content-Type: application/json"];
    subject.server.send("POST", &subject.model.path("infer"), &lines, body)?.refused(400..=499)?;
    alive(subject)
}

fn alive(subject: &Subject) -> Result<Outcome> {
    subject.model.answer(&subject.server).context("afterwards a good request is not answered")?;
    Ok(Kept)
}

fn shaped(subject: &Subject, shape: &Value) -> Result<Outcome> {
    let mut first = subject.model.inputs[0].to_json();
    first["shape"] = shape.clone();
    hostile(subject, subject.model.request_of(&first).to_string().as_bytes())
}

fn overflow(subject: &Subject) -> Result<Outcome> {
    shaped(subject, &json!([i64::MAX, 4]))?;
    shaped(subject, &json!([1_u64 << 32, 1_u64 << 32]))?;
    shaped(subject, &json!([u64::MAX]))
}

fn strange_shape(subject: &Subject) -> Result<Outcome> {
    for shape in
        [json!([-1]), json!([-1, -1]), json!([1.5]), json!(["1"]), json!([null]), json!(1), json!([[1]])]
    {
        shaped(subject, &shape)?;
    }
    Ok(Kept)
}

fn terabyte(subject: &Subject) -> Result<Outcome> {
    shaped(subject, &json!([1_u64 << 20, 1_u64 << 20]))
}

fn with_data(subject: &Subject, data: &str) -> Result<Outcome> {
    let mut first = subject.model.inputs[0].to_json();
    first["data"] = json!("DATA");
    let body = subject.model.request_of(&first).to_string().replace("\"DATA\"", data);
    hostile(subject, body.as_bytes())
}

fn deep(subject: &Subject) -> Result<Outcome> {
    with_data(subject, &format!("{}{}", "[".repeat(100_000), "]".repeat(100_000)))
}

fn deep_objects(subject: &Subject) -> Result<Outcome> {
    let body = format!("{{\"x\":{}1{},\"inputs\":[]}}", "{\"a\":".repeat(100_000), "}".repeat(100_000));
    hostile(subject, body.as_bytes())
}

fn long_number(subject: &Subject) -> Result<Outcome> {
    let number = "1".repeat(100_000);
    if subject.model.inputs[0].is_numeric() && subject.model.inputs[0].datatype.starts_with("FP") {
        // Beyond every datatype, and a number all the same: infinite, or refused.
        let mut first = subject.model.inputs[0].to_json();
        first["data"] = json!("DATA");
        let list = format!("[{}]", vec![number.as_str(); subject.model.inputs[0].count()].join(","));
        let body = subject.model.request_of(&first).to_string().replace("\"DATA\"", &list);
        let answer = subject.server.send("POST", &subject.model.path("infer"), &[], body.as_bytes())?;
        ensure!(answer.status < 500, "expected 200 or a 4xx, got {answer}");
        return alive(subject);
    }
    with_data(subject, &format!("[{number}]"))
}

fn long_id(subject: &Subject) -> Result<Outcome> {
    let request = subject.model.request_with(&json!({ "id": "x".repeat(1 << 20) }));
    let answer = subject.model.infer(&subject.server, &request)?;
    ensure!(answer.status < 500, "expected 200 or a 4xx, got {} ", answer.status);
    alive(subject)
}

fn not_utf8(subject: &Subject) -> Result<Outcome> {
    hostile(subject, b"{\"id\":\"\xff\xfe\",\"inputs\":[]}")
}

fn names(subject: &Subject) -> Result<Outcome> {
    let long = "a".repeat(5_000);
    for name in [&long, "%2e%2e%2f%2e%2e%2fetc%2fpasswd", "a%00b", "%zz", "%e2%98%83", "..", "%0d%0ax:y"] {
        let answer = subject.server.get(&format!("/v2/models/{name}"))?;
        ensure!((400..500).contains(&answer.status), "'{name:.20}': expected a 4xx, got {answer}");
        ensure!(answer.header("x").is_none(), "'{name}' wrote a header");
    }
    alive(subject)
}

fn both_framings(subject: &Subject) -> Result<Outcome> {
    let (lines, good) =
        (["Transfer-Encoding: chunked", "Content-Length: 4"], subject.model.request().to_string());
    let body = format!("{:x}\r\n{good}\r\n0\r\n\r\nGET /v2 HTTP/1.1\r\nHost: a\r\n\r\n", good.len());
    if let Ok(answer) = subject.server.exchange("POST", &subject.model.path("infer"), &lines, body.as_bytes())
    {
        if answer.status == 200 {
            // What was behind it would be in the same answer.
            subject.model.check(&answer.json()?)?;
        } else {
            ensure!((400..500).contains(&answer.status), "expected 200 or a 4xx, got {answer}");
        }
    }
    alive(subject)
}

fn two_lengths(subject: &Subject) -> Result<Outcome> {
    let lines = ["Content-Length: 2", "Content-Length: 40"];
    // A message that two readers would end at different places: no answer is as good as a refusal.
    if let Ok(answer) = subject.server.exchange("POST", &subject.model.path("infer"), &lines, b"{}") {
        ensure!((400..500).contains(&answer.status), "expected a 4xx, got {answer}");
    }
    alive(subject)
}

fn many_outputs(subject: &Subject) -> Result<Outcome> {
    let outputs = vec![json!({ "name": subject.model.outputs[0].name }); 10_000];
    hostile(subject, subject.model.request_with(&json!({ "outputs": outputs })).to_string().as_bytes())
}
