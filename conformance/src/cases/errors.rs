//! What is wrong with a request is the client's fault, and told as V2 tells errors.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::{
    Case,
    Outcome::{self, Kept, Skipped},
    Subject,
};

pub const CASES: &[Case] = &[
    Case { name: "an unknown model is an error: metadata, ready, infer", run: unknown_model },
    Case { name: "an unknown version is an error", run: unknown_version },
    Case { name: "an unknown path is a 404", run: unknown_path },
    Case { name: "a wrong method is refused", run: wrong_method },
    Case { name: "malformed JSON is a 4xx", run: malformed },
    Case { name: "an empty body is a 4xx", run: empty },
    Case { name: "a request without inputs is a 4xx", run: no_inputs },
    Case { name: "a missing input is a 4xx", run: missing_input },
    Case { name: "an input that the model has not is a 4xx", run: extra_input },
    Case { name: "the same input twice is a 4xx", run: twice },
    Case { name: "an output that the model has not is a 4xx", run: unknown_output },
    Case { name: "another datatype is a 4xx", run: other_datatype },
    Case { name: "a datatype that there is not is a 4xx", run: no_datatype },
    Case { name: "another rank is a 4xx", run: other_rank },
    Case { name: "too few and too many elements are a 4xx", run: miscounted },
    Case { name: "elements of another kind are a 4xx", run: other_kind },
    Case { name: "an input without data is a 4xx", run: no_data },
    Case { name: "integers beyond the datatype are a 4xx", run: out_of_range },
];

/// A request that is the client's fault, and leaves the server as it was.
fn faulty(subject: &Subject, request: &Value) -> Result<Outcome> {
    subject.model.infer(&subject.server, request)?.refused(400..=499)?;
    Ok(Kept)
}

fn unknown_model(subject: &Subject) -> Result<Outcome> {
    let server = &subject.server;
    server.get("/v2/models/no-such-model")?.refused(400..=499)?;
    let answer = server.get("/v2/models/no-such-model/ready")?;
    ensure!(answer.status != 200, "a model that there is not is ready");
    server.post("/v2/models/no-such-model/infer", &subject.model.request())?.refused(400..=499)?;
    Ok(Kept)
}

fn unknown_version(subject: &Subject) -> Result<Outcome> {
    let path = subject.model.path("versions/987654321");
    subject.server.get(&path)?.refused(400..=499)?;
    subject.server.post(&format!("{path}/infer"), &subject.model.request())?.refused(400..=499)?;
    Ok(Kept)
}

fn unknown_path(subject: &Subject) -> Result<Outcome> {
    for path in ["/v2/no-such-path", "/v2/models/a/b/c/d", "/v3"] {
        let answer = subject.server.get(path)?;
        ensure!(answer.status == 404, "{path}: expected 404, got {answer}");
    }
    Ok(Kept)
}

fn wrong_method(subject: &Subject) -> Result<Outcome> {
    for method in ["GET", "PUT", "DELETE"] {
        let answer = subject.server.send(method, &subject.model.path("infer"), &[], b"")?;
        ensure!((400..500).contains(&answer.status), "{method} …/infer: expected a 4xx, got {answer}");
    }
    Ok(Kept)
}

fn malformed(subject: &Subject) -> Result<Outcome> {
    let whole = subject.model.request().to_string();
    for body in ["{", "[]", "nonsense", "{\"inputs\": 1}", "{\"inputs\": [1]}", &whole[..whole.len() - 1]] {
        let path = subject.model.path("infer");
        let answer =
            subject.server.send("POST", &path, &["Content-Type: application/json"], body.as_bytes())?;
        answer.refused(400..=499)?;
    }
    Ok(Kept)
}

fn empty(subject: &Subject) -> Result<Outcome> {
    let path = subject.model.path("infer");
    subject.server.send("POST", &path, &["Content-Type: application/json"], b"")?.refused(400..=499)?;
    Ok(Kept)
}

fn no_inputs(subject: &Subject) -> Result<Outcome> {
    faulty(subject, &json!({}))?;
    faulty(subject, &json!({ "inputs": [] }))
}

fn missing_input(subject: &Subject) -> Result<Outcome> {
    if subject.model.inputs.len() < 2 {
        return Ok(Skipped("the model has one input"));
    }
    let mut request = subject.model.request();
    if let Some(inputs) = request["inputs"].as_array_mut() {
        inputs.pop();
    }
    faulty(subject, &request)
}

fn extra_input(subject: &Subject) -> Result<Outcome> {
    let mut request = subject.model.request();
    let mut extra = subject.model.inputs[0].to_json();
    extra["name"] = json!("no-such-input");
    if let Some(inputs) = request["inputs"].as_array_mut() {
        inputs.push(extra);
    }
    faulty(subject, &request)
}

fn twice(subject: &Subject) -> Result<Outcome> {
    let mut request = subject.model.request();
    let first = subject.model.inputs[0].to_json();
    if let Some(inputs) = request["inputs"].as_array_mut() {
        inputs.push(first);
    }
    faulty(subject, &request)
}

fn unknown_output(subject: &Subject) -> Result<Outcome> {
    faulty(subject, &subject.model.request_with(&json!({ "outputs": [{ "name": "no-such-output" }] })))
}

fn other_datatype(subject: &Subject) -> Result<Outcome> {
    let mut first = subject.model.inputs[0].to_json();
    first["datatype"] = json!(if first["datatype"] == "INT16" { "INT32" } else { "INT16" });
    first["data"] = json!(vec![1; subject.model.inputs[0].count()]);
    faulty(subject, &subject.model.request_of(&first))
}

fn no_datatype(subject: &Subject) -> Result<Outcome> {
    for datatype in [json!("FLOAT"), json!("fp32"), json!(""), json!(1), json!(null)] {
        let mut first = subject.model.inputs[0].to_json();
        first["datatype"] = datatype;
        faulty(subject, &subject.model.request_of(&first))?;
    }
    Ok(Kept)
}

fn other_rank(subject: &Subject) -> Result<Outcome> {
    let mut first = subject.model.inputs[0].to_json();
    // As many elements as before.
    first["shape"] = json!([vec![1; 3], subject.model.inputs[0].shape.clone()].concat());
    faulty(subject, &subject.model.request_of(&first))
}

fn miscounted(subject: &Subject) -> Result<Outcome> {
    for more in [false, true] {
        let mut first = subject.model.inputs[0].to_json();
        let Some(data) = first["data"].as_array_mut() else { continue };
        let Some(element) = data.first().cloned() else { return Ok(Skipped("the input has no elements")) };
        if more {
            data.push(element)
        } else {
            drop(data.pop())
        }
        faulty(subject, &subject.model.request_of(&first))?;
    }
    Ok(Kept)
}

fn other_kind(subject: &Subject) -> Result<Outcome> {
    let input = &subject.model.inputs[0];
    let wrong = if input.datatype == "BYTES" { json!(1) } else { json!("x") };
    for element in [wrong, json!({}), json!({ "a": 1 })] {
        let mut first = input.to_json();
        first["data"] = json!(vec![element; input.count()]);
        faulty(subject, &subject.model.request_of(&first))?;
    }
    Ok(Kept)
}

fn no_data(subject: &Subject) -> Result<Outcome> {
    let mut first = subject.model.inputs[0].to_json();
    first.as_object_mut().map(|fields| fields.remove("data"));
    faulty(subject, &subject.model.request_of(&first))
}

fn out_of_range(subject: &Subject) -> Result<Outcome> {
    let input = &subject.model.inputs[0];
    let beyond = match input.datatype.as_str() {
        "UINT8" => json!([256, -1]),
        "UINT16" => json!([65_536, -1]),
        "UINT32" => json!([4_294_967_296_u64, -1]),
        "UINT64" => json!([1e20, -1]),
        "INT8" => json!([128, -129]),
        "INT16" => json!([32_768, -32_769]),
        "INT32" => json!([2_147_483_648_i64, -2_147_483_649_i64]),
        "INT64" => json!([1e19, -1e19]),
        _ => return Ok(Skipped("the first input is not of integers")),
    };
    for element in beyond.as_array().into_iter().flatten() {
        let mut first = input.to_json();
        first["data"] = json!(vec![element; input.count()]);
        faulty(subject, &subject.model.request_of(&first))?;
    }
    Ok(Kept)
}
