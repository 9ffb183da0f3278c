//! Writes small ONNX files: just enough of protobuf for the tests to need no binaries.

pub const FLOAT: u64 = 1;
pub const UINT8: u64 = 2;
pub const INT8: u64 = 3;
pub const UINT16: u64 = 4;
pub const INT16: u64 = 5;
pub const INT32: u64 = 6;
pub const INT64: u64 = 7;
pub const STRING: u64 = 8;
pub const BOOL: u64 = 9;
pub const FLOAT16: u64 = 10;
pub const DOUBLE: u64 = 11;
pub const UINT32: u64 = 12;
pub const UINT64: u64 = 13;
pub const BFLOAT16: u64 = 16;

/// An encoded message, or a field of one.
pub type Message = Vec<u8>;

fn varint(mut value: u64) -> Message {
    let mut bytes = Vec::new();
    loop {
        let low = u8::try_from(value & 0x7f).expect("seven bits");
        value >>= 7;
        if value == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}

fn number(field: u64, value: u64) -> Message {
    [varint(field << 3), varint(value)].concat()
}

fn bytes(field: u64, value: &[u8]) -> Message {
    [varint(field << 3 | 2), varint(value.len() as u64), value.to_vec()].concat()
}

pub fn text(field: u64, value: &str) -> Message {
    bytes(field, value.as_bytes())
}

/// The parts of a graph, each a list of encoded messages.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    pub nodes: Vec<Message>,
    pub inputs: Vec<Message>,
    pub outputs: Vec<Message>,
    pub initializers: Vec<Message>,
}

impl Graph {
    pub fn encode(&self) -> Message {
        let parts = [(1, &self.nodes), (5, &self.initializers), (11, &self.inputs), (12, &self.outputs)];
        let part = |(field, messages): (u64, &Vec<Message>)| -> Message {
            messages.iter().flat_map(|message| bytes(field, message)).collect()
        };
        [text(2, "graph"), parts.into_iter().flat_map(part).collect()].concat()
    }

    /// The whole ONNX file.
    pub fn file(&self) -> Message {
        let opset = |domain: &str, version| bytes(8, &[text(1, domain), number(2, version)].concat());
        [number(1, 8), opset("", 17), opset("ai.onnx.ml", 3), bytes(7, &self.encode())].concat()
    }
}

/// A node called like its operator, in lower case.
pub fn node(op: &str, inputs: &[&str], outputs: &[&str], attributes: &[Message]) -> Message {
    let (domain, op) = op.rsplit_once('.').unwrap_or(("", op));
    let mut message: Message = inputs.iter().flat_map(|name| text(1, name)).collect();
    message.extend(outputs.iter().flat_map(|name| text(2, name)));
    message.extend(text(3, &op.to_lowercase()));
    message.extend(text(4, op));
    message.extend(attributes.iter().flat_map(|attribute| bytes(5, attribute)));
    message.extend(text(7, domain));
    message
}

pub fn int(name: &str, value: u64) -> Message {
    [text(1, name), number(20, 2), number(3, value)].concat()
}

pub fn ints(name: &str, values: &[u64]) -> Message {
    [text(1, name), number(20, 7), values.iter().flat_map(|value| number(8, *value)).collect()].concat()
}

pub fn floats(name: &str, values: &[f32]) -> Message {
    let packed: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    [text(1, name), number(20, 6), bytes(7, &packed)].concat()
}

pub fn string(name: &str, value: &str) -> Message {
    [text(1, name), number(20, 3), text(4, value)].concat()
}

pub fn strings(name: &str, values: &[&str]) -> Message {
    [text(1, name), number(20, 8), values.iter().flat_map(|value| text(9, value)).collect()].concat()
}

/// A sparse tensor whose values are in another file.
pub fn sparse(name: &str, location: &str) -> Message {
    let values = external("", FLOAT, &[1], &[("location", location), ("length", "4")]);
    let indices = tensor("", INT64, &[1], &[0; 8]);
    let sparse = [bytes(1, &values), bytes(2, &indices), number(3, 1)].concat();
    [text(1, name), number(20, 11), bytes(22, &sparse)].concat()
}

pub fn graph(name: &str, value: &Graph) -> Message {
    [text(1, name), number(20, 5), bytes(6, &value.encode())].concat()
}

/// An input or output; a dimension is a number, a symbol, or "" for neither.
pub fn value(name: &str, elem_type: u64, dims: &[&str]) -> Message {
    let dim = |dim: &&str| {
        let content = match dim.parse() {
            Ok(value) => number(1, value),
            Err(_) if dim.is_empty() => Vec::new(),
            Err(_) => text(2, dim),
        };
        bytes(1, &content)
    };
    let shape: Message = dims.iter().flat_map(dim).collect();
    of_type(name, [number(1, elem_type), bytes(2, &shape)].concat())
}

/// An input or output without a shape.
pub fn unranked(name: &str, elem_type: u64) -> Message {
    of_type(name, number(1, elem_type))
}

/// An output that is not a tensor.
pub fn sequence(name: &str) -> Message {
    [text(1, name), bytes(2, &bytes(4, &[]))].concat()
}

fn of_type(name: &str, tensor: Message) -> Message {
    [text(1, name), bytes(2, &bytes(1, &tensor))].concat()
}

pub fn tensor(name: &str, elem_type: u64, dims: &[u64], raw: &[u8]) -> Message {
    let dims: Message = dims.iter().flat_map(|dim| number(1, *dim)).collect();
    [dims, number(2, elem_type), text(8, name), bytes(9, raw)].concat()
}

/// A tensor whose bytes are in another file.
pub fn external(name: &str, elem_type: u64, dims: &[u64], entries: &[(&str, &str)]) -> Message {
    let dims: Message = dims.iter().flat_map(|dim| number(1, *dim)).collect();
    let entry = |(key, value): &(&str, &str)| bytes(13, &[text(1, key), text(2, value)].concat());
    let entries: Message = entries.iter().flat_map(entry).collect();
    [dims, number(2, elem_type), text(8, name), entries, number(14, 1)].concat()
}

/// A graph of one node from `x` to `y`, with the same type and shape.
pub fn unary(op: &str, elem_type: u64, dims: &[&str]) -> Graph {
    Graph {
        nodes: vec![node(op, &["x"], &["y"], &[])],
        inputs: vec![value("x", elem_type, dims)],
        outputs: vec![value("y", elem_type, dims)],
        initializers: vec![],
    }
}

/// A graph of one node from `a` and `b` to `y`, with the same type and shape.
pub fn binary(op: &str, elem_type: u64, dims: &[&str]) -> Graph {
    Graph {
        nodes: vec![node(op, &["a", "b"], &["y"], &[])],
        inputs: vec![value("a", elem_type, dims), value("b", elem_type, dims)],
        outputs: vec![value("y", elem_type, dims)],
        initializers: vec![],
    }
}
