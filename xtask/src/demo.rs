//! `cargo xtask demo`: the gateway with all example models, and calls to paste.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::{
    guests,
    http::{self, Answer},
    server::Server,
    shell,
};

#[derive(Debug, clap::Args)]
pub struct Options {
    /// Address to serve on.
    #[arg(long, default_value = "127.0.0.1:8000")]
    http: SocketAddr,
    /// Run the printed calls, check their answers, and end.
    #[arg(long)]
    once: bool,
}

/// A call to paste, and whether an answer to it is right.
struct Call {
    title: &'static str,
    path: &'static str,
    body: Body,
    status: u16,
    right: fn(&Value) -> bool,
}

enum Body {
    /// No body: a GET.
    None,
    Json(Value),
    /// JSON with binary tensors behind it: too many odd bytes for a command line, so it is kept in a file.
    Binary {
        header: Value,
        tensors: Vec<u8>,
        file: &'static str,
    },
}

/// A handwritten zero, 8 by 8, samples of 0 to 16: the first image of scikit-learn's digits.
const ZERO: [[u8; 8]; 8] = [
    [0, 0, 5, 13, 9, 1, 0, 0],
    [0, 0, 13, 15, 10, 15, 5, 0],
    [0, 3, 15, 2, 0, 11, 8, 0],
    [0, 4, 12, 0, 0, 8, 8, 0],
    [0, 5, 8, 0, 0, 9, 8, 0],
    [0, 4, 11, 0, 1, 12, 7, 0],
    [0, 2, 14, 5, 10, 12, 0, 0],
    [0, 0, 6, 13, 10, 0, 0, 0],
];

fn calls() -> Vec<Call> {
    let input = |name: &str, datatype: &str, shape: Value, data: Value| {
        Body::Json(json!({"inputs": [{"name": name, "datatype": datatype, "shape": shape, "data": data}]}))
    };
    let samples: Vec<f64> = ZERO.iter().flatten().map(|sample| f64::from(*sample) / 16.0).collect();
    let pixels: Vec<u8> = ZERO.iter().flatten().map(|sample| sample.saturating_mul(16)).collect();
    let element = [&64u32.to_le_bytes(), pixels.as_slice()].concat();
    let image = json!({"name": "IMAGE", "datatype": "BYTES", "shape": [1],
        "parameters": {"binary_data_size": element.len()}});
    vec![
        Call {
            title: "the server",
            path: "/v2",
            body: Body::None,
            status: 200,
            right: |answer| answer["name"] == "airlock",
        },
        Call {
            title: "what a model takes and gives",
            path: "/v2/models/iris",
            body: Body::None,
            status: 200,
            right: |answer| answer["inputs"][0]["name"] == "FEATURES",
        },
        Call {
            title: "a wasm plugin that answers its input",
            path: "/v2/models/identity/infer",
            body: input("INPUT0", "FP32", json!([1, 4]), json!([1.5, -2.25, 0.0, 4.125])),
            status: 200,
            right: |answer| answer["outputs"][0]["data"] == json!([1.5, -2.25, 0.0, 4.125]),
        },
        Call {
            title: "a scikit-learn model in a wasm plugin: which iris is it?",
            path: "/v2/models/iris/infer",
            body: input("FEATURES", "FP32", json!([1, 4]), json!([5.1, 3.5, 1.4, 0.2])),
            status: 200,
            right: |answer| answer["outputs"][0]["data"] == json!(["setosa"]),
        },
        Call {
            title: "text in and out",
            path: "/v2/models/text-clean/infer",
            body: input(
                "TEXT",
                "BYTES",
                json!([1]),
                json!(["<p>Caf&eacute;   <b>AU</b> lait &amp; more</p>"]),
            ),
            status: 200,
            right: |answer| answer["outputs"][0]["data"] == json!(["café au lait & more"]),
        },
        Call {
            title: "an ONNX model, run natively: the largest of ten logits is the digit",
            path: "/v2/models/digits/infer",
            body: input("IMAGE", "FP32", json!([1, 1, 8, 8]), json!(samples)),
            status: 200,
            right: |answer| largest(&answer["outputs"][0]["data"]) == Some(0),
        },
        Call {
            title: "a pipeline: the image is prepared in wasm, read by the ONNX model, and judged in wasm",
            path: "/v2/models/digits-pipeline/infer",
            body: Body::Binary { header: json!({"inputs": [image]}), tensors: element, file: "zero.request" },
            status: 200,
            right: |answer| answer["outputs"][0]["data"] == json!([0]),
        },
        Call {
            title: "a mistake, and what to do about it",
            path: "/v2/models/iris/infer",
            body: input("FEATURES", "FP32", json!([1, 3]), json!([5.1, 3.5, 1.4])),
            status: 400,
            right: |answer| answer["error"].as_str().is_some_and(|text| text.contains("FEATURES")),
        },
    ]
}

/// The index of the largest number.
fn largest(data: &Value) -> Option<usize> {
    let numbers: Option<Vec<f64>> = data.as_array()?.iter().map(Value::as_f64).collect();
    numbers?.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map(|(index, _)| index)
}

pub fn run(options: &Options) -> Result<()> {
    guests::run()?;
    let mut build = shell::command("cargo");
    build.args(["build", "--release", "-p", "airlock"]).current_dir(shell::root());
    shell::run("building the gateway (release)", &mut build)?;

    let binaries = shell::target().join("release");
    if options.once {
        return check(&binaries, options.http);
    }
    let models = shell::target().join("models");
    let server = Server::gateway(&binaries, &models, options.http, None, &[])?;
    let files = shell::target().join("demo");
    println!(
        "\nThe gateway serves every model below {}. Paste these into another terminal:\n",
        models.display()
    );
    for call in calls() {
        println!("# {}\n{}\n", call.title, curl(&call, options.http, &files)?);
    }
    println!("Stop it with ctrl-C.");
    server.wait()
}

/// Serves all example models with the gateway of that folder, and fails if any call is not answered as it should be.
pub fn check(binaries: &Path, address: SocketAddr) -> Result<()> {
    let server = Server::gateway(binaries, &shell::target().join("models"), address, None, &[])?;
    try_all(&server, &shell::target().join("demo"))?;
    server.stop()
}

/// Runs every call, prints what it answers, and fails if any answer is not what it should be.
fn try_all(server: &Server, files: &Path) -> Result<()> {
    let mut wrong = Vec::new();
    for call in calls() {
        println!("\n# {}\n{}", call.title, curl(&call, server.address, files)?);
        let answer = perform(&call, server.address)?;
        println!("{} {}", answer.status, String::from_utf8_lossy(&answer.body));
        let document = serde_json::from_slice(&answer.body).unwrap_or(Value::Null);
        if answer.status != call.status || !(call.right)(&document) {
            println!("this answer is wrong");
            wrong.push(call.title);
        }
    }
    ensure!(wrong.is_empty(), "wrong answers: {}", wrong.join("; "));
    println!("\nall {} answers are right", calls().len());
    Ok(())
}

fn perform(call: &Call, address: SocketAddr) -> Result<Answer> {
    match &call.body {
        Body::None => http::get(address, call.path),
        Body::Json(body) => http::send(address, "POST", call.path, &[], body.to_string().as_bytes()),
        Body::Binary { header, tensors, .. } => {
            let header = header.to_string();
            let length = header.len().to_string();
            let body = [header.as_bytes(), tensors].concat();
            http::send(address, "POST", call.path, &[("Inference-Header-Content-Length", &length)], &body)
        }
    }
}

/// The call as a command for a POSIX shell; writes the file that it sends, if it sends one.
fn curl(call: &Call, address: SocketAddr, files: &Path) -> Result<String> {
    let address = format!("curl -sw '\\n' {address}{}", call.path);
    Ok(match &call.body {
        Body::None => address,
        Body::Json(body) => format!("{address} -d {}", quoted(&body.to_string())),
        Body::Binary { header, tensors, file } => {
            let header = header.to_string();
            let path: PathBuf = files.join(file);
            fs::create_dir_all(files)?;
            fs::write(&path, [header.as_bytes(), tensors].concat())
                .with_context(|| format!("cannot write {}", path.display()))?;
            let sent = quoted(&format!("@{}", path.display()));
            format!("{address} -H 'Inference-Header-Content-Length: {}' --data-binary {sent}", header.len())
        }
    })
}

/// In single quotes, as a POSIX shell reads them.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_reads_the_quoted_text_back() {
        for text in ["", "plain", r#"{"a": "it's"}"#, "@/a b/'c'", "$HOME `x` \\"] {
            let output = shell::command("sh").args(["-c", &format!("printf %s {}", quoted(text))]).output();
            assert_eq!(output.expect("sh runs").stdout, text.as_bytes());
        }
    }

    #[test]
    fn the_largest_is_found() {
        assert_eq!(largest(&json!([-3.0, 2.5, 1])), Some(1));
        assert_eq!(largest(&json!([])), None);
        assert_eq!(largest(&json!(["a"])), None);
    }
}
