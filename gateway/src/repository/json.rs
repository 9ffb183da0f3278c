//! Triton's ModelConfig as JSON, brought into the same tree of fields as `config.pbtxt`.
//!
//! Clients write it as protobuf's JSON mapping says (`dataType`, 64-bit numbers as texts), as Triton prints it (`data_type`),
//! or as Triton's own documentation of `load` shows it (`inputs`, `datatype`, `shape`); all three are read.

use serde_json::Value as Json;

use super::pbtxt::{Field, Position, Value};

/// Where a field of JSON stands is not known.
const NOWHERE: Position = Position { line: 0, column: 0 };

/// Parses a whole text.
///
/// # Errors
/// What is wrong, for whoever wrote it.
pub(super) fn parse(text: &str) -> Result<Vec<Field>, String> {
    match serde_json::from_str(text) {
        Ok(Json::Object(fields)) => Ok(message(&fields)),
        Ok(_) => Err("it must be a JSON object".into()),
        Err(error) => Err(format!("it is not JSON: {error}")),
    }
}

fn message(object: &serde_json::Map<String, Json>) -> Vec<Field> {
    object.iter().flat_map(|(name, value)| fields(&canonical(name), value)).collect()
}

/// A name as protobuf has it, from camel case or from the words of V2.
fn canonical(name: &str) -> String {
    match name {
        "inputs" => return "input".into(),
        "outputs" => return "output".into(),
        "datatype" => return "data_type".into(),
        _ => {}
    }
    name.chars().fold(String::new(), |mut snake, letter| {
        if letter.is_ascii_uppercase() {
            snake.push('_');
        }
        snake.push(letter.to_ascii_lowercase());
        snake
    })
}

/// One field, or as many as a list or a map has entries.
fn fields(name: &str, value: &Json) -> Vec<Field> {
    let field = |value| Field { name: name.to_owned(), value, position: NOWHERE };
    match value {
        Json::Null => Vec::new(),
        Json::Array(values) => values.iter().flat_map(|value| fields(name, value)).collect(),
        Json::Object(entries) if name == "parameters" => entries
            .iter()
            .map(|(key, value)| {
                let key = Field { name: "key".into(), value: Value::Text(key.clone()), position: NOWHERE };
                let mut pair = vec![key];
                pair.extend(fields("value", value));
                field(Value::Message(pair))
            })
            .collect(),
        Json::Object(object) => vec![field(Value::Message(tensor(name, message(object))))],
        Json::Bool(value) => vec![field(Value::Word(value.to_string()))],
        Json::Number(number) => vec![field(match number.as_i128() {
            Some(number) => Value::Integer(number),
            None => Value::Float(number.as_f64().unwrap_or(f64::NAN)),
        })],
        Json::String(text) => vec![field(match name {
            "data_type" if text.starts_with("TYPE_") => Value::Word(text.clone()),
            "data_type" if text == "BYTES" => Value::Word("TYPE_STRING".into()),
            "data_type" => Value::Word(format!("TYPE_{text}")),
            "dims" | "shape" | "num_versions" | "versions" | "max_batch_size" => {
                text.parse().map_or_else(|_| Value::Text(text.clone()), Value::Integer)
            }
            _ => Value::Text(text.clone()),
        })],
    }
}

/// The shape of a tensor is called `dims`, save in `reshape`.
fn tensor(name: &str, mut fields: Vec<Field>) -> Vec<Field> {
    if matches!(name, "input" | "output") {
        fields.iter_mut().filter(|field| field.name == "shape").for_each(|field| field.name = "dims".into());
    }
    fields
}
