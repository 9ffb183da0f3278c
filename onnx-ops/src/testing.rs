//! Graphs of one node for the tests.

use tract_onnx::{
    pb::{
        AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TensorShapeProto,
        TypeProto, ValueInfoProto,
        attribute_proto::AttributeType,
        tensor_proto::DataType,
        tensor_shape_proto::{Dimension, dimension::Value as Dim},
        type_proto::{Tensor as TensorType, Value as TypeValue},
    },
    tract_hir::internal::*,
};

pub fn ints(name: &str, ints: impl IntoIterator<Item = i64>) -> AttributeProto {
    let ints = ints.into_iter().collect();
    AttributeProto { name: name.into(), ints, r#type: AttributeType::Ints as i32, ..Default::default() }
}

pub fn int(name: &str, i: i64) -> AttributeProto {
    AttributeProto { name: name.into(), i, r#type: AttributeType::Int as i32, ..Default::default() }
}

pub fn float(name: &str, f: f32) -> AttributeProto {
    AttributeProto { name: name.into(), f, r#type: AttributeType::Float as i32, ..Default::default() }
}

pub fn floats(name: &str, floats: impl IntoIterator<Item = f32>) -> AttributeProto {
    let floats = floats.into_iter().collect();
    AttributeProto { name: name.into(), floats, r#type: AttributeType::Floats as i32, ..Default::default() }
}

pub fn text(name: &str, text: &str) -> AttributeProto {
    let s = text.as_bytes().to_vec();
    AttributeProto { name: name.into(), s, r#type: AttributeType::String as i32, ..Default::default() }
}

pub fn texts<'t>(name: &str, texts: impl IntoIterator<Item = &'t str>) -> AttributeProto {
    let strings = texts.into_iter().map(|text| text.as_bytes().to_vec()).collect();
    AttributeProto { name: name.into(), strings, r#type: AttributeType::Strings as i32, ..Default::default() }
}

pub fn doubles(name: &str, values: &[f64]) -> AttributeProto {
    let t = TensorProto {
        dims: vec![i64::try_from(values.len()).expect("few")],
        data_type: DataType::Double as i32,
        double_data: values.to_vec(),
        ..Default::default()
    };
    AttributeProto {
        name: name.into(),
        t: Some(t),
        r#type: AttributeType::Tensor as i32,
        ..Default::default()
    }
}

pub fn graph(name: &str, graph: GraphProto) -> AttributeProto {
    AttributeProto {
        name: name.into(),
        g: Some(graph),
        r#type: AttributeType::Graph as i32,
        ..Default::default()
    }
}

pub fn node(op: &str, inputs: &[&str], outputs: &[&str], attribute: Vec<AttributeProto>) -> NodeProto {
    NodeProto {
        op_type: op.into(),
        name: format!("{op} {}", outputs.join(" ")),
        input: inputs.iter().map(|name| (*name).to_owned()).collect(),
        output: outputs.iter().map(|name| (*name).to_owned()).collect(),
        attribute,
        ..Default::default()
    }
}

/// An input or output with dimensions that are known or not.
pub fn info(name: &str, of: DataType, dims: &[Option<i64>]) -> ValueInfoProto {
    let dim = |dim: &Option<i64>| Dimension { value: dim.map(Dim::DimValue), ..Default::default() };
    let shape = TensorShapeProto { dim: dims.iter().map(dim).collect() };
    let tensor = TensorType { elem_type: of as i32, shape: Some(shape) };
    let r#type = TypeProto { value: Some(TypeValue::TensorType(tensor)), ..Default::default() };
    ValueInfoProto { name: name.into(), r#type: Some(r#type), ..Default::default() }
}

pub fn body(nodes: Vec<NodeProto>, inputs: Vec<ValueInfoProto>, outputs: &[&str]) -> GraphProto {
    let output = outputs.iter().map(|name| ValueInfoProto { name: (*name).into(), ..Default::default() });
    GraphProto { node: nodes, input: inputs, output: output.collect(), ..Default::default() }
}

pub fn model(graph: GraphProto) -> ModelProto {
    let opset = OperatorSetIdProto { version: 17, ..Default::default() };
    ModelProto { opset_import: vec![opset], graph: Some(graph), ..Default::default() }
}

/// The plan of a graph for inputs of these shapes.
pub fn plan(graph: GraphProto, inputs: &[Tensor]) -> TractResult<Arc<TypedSimplePlan>> {
    let mut model = model(graph);
    crate::file::rewrite(model.graph.as_mut().expect("it was just put there"));
    let mut parsed = crate::engine().parse(&model, None)?.model;
    for (index, input) in inputs.iter().enumerate() {
        parsed.set_input_fact(index, InferenceFact::dt_shape(input.datum_type(), input.shape()))?;
    }
    crate::optimise(parsed.into_typed()?)?.into_runnable()
}

/// Runs a graph on these inputs.
pub fn run(graph: GraphProto, inputs: Vec<Tensor>) -> TractResult<TVec<TValue>> {
    let plan = plan(graph, &inputs)?;
    plan.run(inputs.into_iter().map(Tensor::into_tvalue).collect())
}

/// Runs a node from `x`, rows of numbers, to outputs of its own.
pub fn run_node(
    op: &str,
    outputs: &[&str],
    attributes: Vec<AttributeProto>,
    x: Tensor,
) -> TractResult<TVec<TValue>> {
    let of = match x.datum_type() {
        DatumType::F64 => DataType::Double,
        DatumType::I64 => DataType::Int64,
        _ => DataType::Float,
    };
    let input = info("x", of, &vec![None; x.rank()]);
    run(body(vec![node(op, &["x"], outputs, attributes)], vec![input], outputs), vec![x])
}

pub fn rows(rows: usize, values: &[f32]) -> Tensor {
    let width = values.len() / rows;
    tensor1(values).into_shape(&[rows, width]).expect("whole rows")
}

pub fn values<T: Datum>(value: &Tensor) -> Vec<T> {
    value.try_as_plain_ram().and_then(|view| Ok(view.as_slice::<T>()?.to_vec())).expect("a plain tensor")
}

pub fn fault<T>(result: TractResult<T>) -> String {
    format!("{:#}", result.err().expect("it is refused"))
}
