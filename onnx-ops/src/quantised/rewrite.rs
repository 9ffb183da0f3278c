//! Goes through a graph and puts what [`super::groups`] finds in place of each `QuantizeLinear`.

use std::collections::{HashMap, HashSet};

use tract_onnx::{
    pb::{AttributeProto, GraphProto, NodeProto, TensorProto, attribute_proto::AttributeType},
    prelude::DatumType,
};

use super::{
    constants::{Constants, numbers, proto, whole},
    formulas::Grid,
    functions::{Found, Function},
    op::Kind,
};

/// Rewrites what is quantised of a graph.
pub fn rewrite(graph: &mut GraphProto) {
    let quantised = |node: &NodeProto| node.op_type == "QuantizeLinear" && node.domain.is_empty();
    if !graph.node.iter().any(quantised) {
        return;
    }
    // What is read before it is made is left to the engine.
    if !in_order(graph) {
        return;
    }
    let nodes = std::mem::take(&mut graph.node);
    let mut rewrite = Rewrite {
        constants: Constants::new(graph, &nodes),
        values: vec![],
        known: HashMap::new(),
        found: HashMap::new(),
        tables: HashMap::new(),
        nodes: vec![],
        tensors: vec![],
        names: HashSet::new(),
        likes: HashMap::new(),
    };
    for node in &nodes {
        rewrite.node(node);
    }
    let Rewrite { nodes: rewritten, tensors, .. } = rewrite;
    graph.node = read(graph, rewritten);
    graph.initializer.extend(tensors);
}

/// Whether each node comes behind those that it reads.
fn in_order(graph: &GraphProto) -> bool {
    let outputs = graph.node.iter().flat_map(|node| &node.output).filter(|output| !output.is_empty());
    let mut to_come: HashSet<&str> = outputs.map(String::as_str).collect();
    graph.node.iter().all(|node| {
        let mut read: HashSet<String> = node.input.iter().cloned().collect();
        let bodies = node.attribute.iter().flat_map(|attribute| attribute.g.iter().chain(&attribute.graphs));
        bodies.for_each(|body| read_within(body, &mut read));
        let ready = !read.iter().any(|name| to_come.contains(name.as_str()));
        for output in &node.output {
            to_come.remove(output.as_str());
        }
        ready
    })
}

/// The nodes that something reads.
fn read(graph: &GraphProto, nodes: Vec<NodeProto>) -> Vec<NodeProto> {
    let mut read: HashSet<String> = graph.output.iter().map(|output| output.name.clone()).collect();
    let mut kept: Vec<NodeProto> = nodes
        .into_iter()
        .rev()
        .filter(|node| {
            let used = node.output.iter().any(|output| read.contains(output));
            if used {
                read.extend(node.input.iter().cloned());
                let bodies =
                    node.attribute.iter().flat_map(|attribute| attribute.g.iter().chain(&attribute.graphs));
                bodies.for_each(|body| read_within(body, &mut read));
            }
            used
        })
        .collect();
    kept.reverse();
    kept
}

fn read_within(body: &GraphProto, read: &mut HashSet<String>) {
    read.extend(body.output.iter().map(|output| output.name.clone()));
    for node in &body.node {
        read.extend(node.input.iter().cloned());
        let bodies = node.attribute.iter().flat_map(|attribute| attribute.g.iter().chain(&attribute.graphs));
        bodies.for_each(|body| read_within(body, read));
    }
}

fn constant(tensor: TensorProto, output: String) -> NodeProto {
    let attribute = AttributeProto {
        name: "value".into(),
        t: Some(tensor),
        r#type: AttributeType::Tensor as i32,
        ..Default::default()
    };
    NodeProto {
        op_type: "Constant".into(),
        output: vec![output],
        attribute: vec![attribute],
        ..Default::default()
    }
}

/// What a `QuantizeLinear` gives.
#[derive(Clone, Debug)]
pub struct Known {
    /// Less its zero point.
    pub function: Function,
    pub grid: Grid,
    /// Whether ONNX Runtime has it as unsigned bytes: it makes such of signed ones that one node reads.
    pub unsigned: bool,
}

/// A constant of bytes that are taken back.
pub struct Constant {
    /// Less the zero point.
    pub values: Vec<f32>,
    pub shape: Vec<usize>,
    pub grid: Grid,
}

pub struct Rewrite<'g> {
    pub constants: Constants<'g>,
    /// Names in the new graph of values that functions are of: bytes less their zero point, the least of them beside.
    pub values: Vec<(String, f32)>,
    pub known: HashMap<&'g str, Known>,
    pub found: Found<'g>,
    /// Values of the new graph that are tables of others.
    tables: HashMap<(usize, Vec<u32>), String>,
    nodes: Vec<NodeProto>,
    tensors: Vec<TensorProto>,
    names: HashSet<String>,
    /// How often a new name was wanted that is like these.
    likes: HashMap<String, usize>,
}

impl<'g> Rewrite<'g> {
    fn node(&mut self, node: &'g NodeProto) {
        match node.op_type.as_str() {
            "QuantizeLinear" => {
                if let Some(known) = self.quantised(node) {
                    self.known.insert(&node.output[0], known);
                    return;
                }
            }
            "DequantizeLinear" => {
                if node.output.len() == 1
                    && let Some(Known { function, grid, .. }) = self.taken_back(node)
                {
                    let from = self.value(&function);
                    self.put(Kind::Dequantise { factor: grid.scale }, &[from], node.output[0].clone());
                    return;
                }
                // What the file has as numbers and makes bytes of: the engine would round otherwise.
                let before = node.input.first().and_then(|bytes| self.constants.maker(bytes));
                if node.output.len() == 1
                    && before.is_some_and(|before| before.op_type == "QuantizeLinear")
                    && let Some(Constant { values, shape, grid }) = self.constant_operand(node)
                {
                    let values: Vec<f32> = values.iter().map(|x| x * grid.scale).collect();
                    let tensor = proto(String::new(), &shape, &values);
                    self.nodes.push(constant(tensor, node.output[0].clone()));
                    return;
                }
            }
            _ => {}
        }
        self.nodes.push(node.clone());
    }

    fn quantised(&mut self, node: &'g NodeProto) -> Option<Known> {
        let ([x, ..], [output]) = (&node.input[..], &node.output[..]) else { return None };
        let grid = self.constants.grid(node)?;
        if !self.constants.stays(output) || self.constants.is_constant(x) {
            return None;
        }
        let mut uses = 0;
        for reader in self.constants.readers(output) {
            let back = reader.op_type == "DequantizeLinear" && reader.input.first() == Some(output);
            if !back || self.constants.grid(reader)?.signed != grid.signed {
                return None;
            }
            uses += reader.output.first().map_or(0, |output| self.constants.uses(output));
        }
        let unsigned = !grid.signed || uses == 1;
        let function = self.group(x, output, grid, unsigned)?;
        Some(Known { function, grid, unsigned })
    }

    /// What a `DequantizeLinear` takes back, with its own grid.
    pub fn taken_back(&self, node: &NodeProto) -> Option<Known> {
        let known = self.known.get(node.input.first()?.as_str())?;
        let grid = self.constants.grid(node)?;
        let apart = (known.grid.zero - grid.zero) as f32;
        Some(Known { function: known.function.then(|x| x + apart), grid, unsigned: known.unsigned })
    }

    /// A constant of bytes that a `DequantizeLinear` with one scale takes back; or of numbers that are made bytes before.
    pub fn constant_operand(&self, node: &NodeProto) -> Option<Constant> {
        if node.op_type != "DequantizeLinear" {
            return None;
        }
        let grid = self.constants.grid(node)?;
        let bytes = node.input.first()?;
        if let Some(tensor) = self.constants.tensor(bytes) {
            let of = if grid.signed { DatumType::I8 } else { DatumType::U8 };
            let plain = tensor.datum_type() == of;
            let values = whole(&tensor).filter(|_| plain)?.into_iter().map(|byte| (byte - grid.zero) as f32);
            return Some(Constant { values: values.collect(), shape: tensor.shape().to_vec(), grid });
        }
        let before = self.constants.maker(bytes).filter(|node| node.op_type == "QuantizeLinear")?;
        if self.constants.grid(before) != Some(grid) {
            return None;
        }
        let tensor = self.constants.floats(before.input.first()?)?;
        let values = numbers::<f32>(&tensor)?.into_iter().map(|x| grid.nearest(x));
        Some(Constant { values: values.collect(), shape: tensor.shape().to_vec(), grid })
    }

    /// A function's results as a value of the new graph.
    pub fn value(&mut self, function: &Function) -> String {
        let (name, first) = self.values[function.of].clone();
        let same = |(index, x): (usize, &f32)| *x == first + index as f32;
        if function.values.iter().enumerate().all(same) {
            return name;
        }
        let key = (function.of, function.values.iter().map(|x| x.to_bits()).collect());
        if let Some(table) = self.tables.get(&key) {
            return table.clone();
        }
        let table = self.fresh(&format!("{name}/table"));
        self.put(Kind::Table { first, values: function.values.to_vec() }, &[name], table.clone());
        self.tables.insert(key, table.clone());
        table
    }

    /// A new value, of which functions can be.
    pub fn base(&mut self, name: String, grid: Grid) -> Function {
        self.values.push((name, grid.range()[0]));
        Function::new(self.values.len() - 1, grid.all().collect())
    }

    pub fn put(&mut self, kind: Kind, inputs: &[String], output: String) {
        self.nodes.push(kind.node(inputs, output));
    }

    pub fn push(&mut self, node: NodeProto) {
        self.nodes.push(node);
    }

    /// A constant of the new graph.
    pub fn tensor(&mut self, like: &str, shape: &[usize], values: &[f32]) -> String {
        let name = self.fresh(&format!("{like}/whole"));
        self.tensors.push(proto(name.clone(), shape, values));
        name
    }

    /// A name that nothing has.
    pub fn fresh(&mut self, like: &str) -> String {
        let count = self.likes.entry(like.to_owned()).or_default();
        loop {
            let name = if *count == 0 { like.to_owned() } else { format!("{like}/{count}") };
            *count += 1;
            if !self.constants.taken(&name) && self.names.insert(name.clone()) {
                return name;
            }
        }
    }
}
