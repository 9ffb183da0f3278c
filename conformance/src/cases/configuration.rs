//! The configuration of a model, in the words of Triton's `ModelConfig`.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::model::Tensor;

use super::{
    Case,
    Outcome::{self, Kept},
    Subject,
};

pub const CASES: &[Case] = &[
    Case { name: "the configuration names the model, its batch size, inputs and outputs", run: config },
    Case { name: "datatypes and dimensions agree with the metadata", run: agrees },
    Case { name: "an unknown model has none", run: unknown },
];

fn ask(subject: &Subject) -> Result<Value> {
    subject.server.get(&subject.model.path("config"))?.good()
}

fn config(subject: &Subject) -> Result<Outcome> {
    let config = ask(subject)?;
    ensure!(config["name"] == subject.model.name.as_str(), "'name' is {}", config["name"]);
    ensure!(config["max_batch_size"].is_u64(), "'max_batch_size' is {}", config["max_batch_size"]);
    for key in ["input", "output"] {
        ensure!(config[key].is_array(), "'{key}' is {}", config[key]);
    }
    Ok(Kept)
}

fn agrees(subject: &Subject) -> Result<Outcome> {
    let config = ask(subject)?;
    let batched = config["max_batch_size"].as_u64().unwrap_or_default() > 0;
    for (key, tensors) in [("input", &subject.model.inputs), ("output", &subject.model.outputs)] {
        let told = config[key].as_array().with_context(|| format!("no '{key}'"))?;
        ensure!(told.len() == tensors.len(), "{} in '{key}', {} in the metadata", told.len(), tensors.len());
        for tensor in tensors {
            let own = told.iter().find(|own| own["name"] == tensor.name.as_str());
            same(tensor, own.with_context(|| format!("'{}' is not in '{key}'", tensor.name))?, batched)?;
        }
    }
    Ok(Kept)
}

fn same(tensor: &Tensor, config: &Value, batched: bool) -> Result<()> {
    let datatype = if tensor.datatype == "BYTES" { "STRING" } else { &tensor.datatype };
    let name = &tensor.name;
    ensure!(config["data_type"] == format!("TYPE_{datatype}"), "'{name}' is {}", config["data_type"]);
    // Numbers of 64 bits are texts in the JSON of protocol buffers.
    let dims = config["dims"].as_array().with_context(|| format!("'{name}' has no dims"))?.iter();
    let dims = dims.map(|dim| dim.as_i64().or_else(|| dim.as_str()?.parse().ok()));
    let dims: Option<Vec<i64>> = dims.collect();
    let told = if batched { &tensor.told[1..] } else { &tensor.told[..] };
    ensure!(dims.as_deref() == Some(told), "'{name}' has dims {}, its metadata say {told:?}", config["dims"]);
    Ok(())
}

fn unknown(subject: &Subject) -> Result<Outcome> {
    subject.server.get("/v2/models/no-such-model/config")?.refused(400..=499)?;
    Ok(Kept)
}
