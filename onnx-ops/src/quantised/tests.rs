//! Rewritten graphs beside whole numbers, one at a time; and files that mean no good.

mod chains;
mod files;
mod integers;

use tract_onnx::{
    pb::{NodeProto, TensorProto, tensor_proto::DataType},
    tract_hir::internal::*,
};

use super::formulas::Grid;
use crate::testing::{body, info, node};

/// A graph that is being built: nodes, constants, and a count for names.
#[derive(Default)]
struct Build {
    nodes: Vec<NodeProto>,
    constants: Vec<TensorProto>,
}

impl Build {
    fn name(&self) -> String {
        format!("v{}", self.nodes.len() + self.constants.len())
    }

    fn constant(&mut self, of: DataType, shape: &[usize], raw_data: Vec<u8>) -> String {
        let name = self.name();
        let dims = shape.iter().map(|size| i64::try_from(*size).expect("a size")).collect();
        let tensor =
            TensorProto { name: name.clone(), dims, data_type: of as i32, raw_data, ..Default::default() };
        self.constants.push(tensor);
        name
    }

    fn floats(&mut self, shape: &[usize], values: &[f32]) -> String {
        self.constant(DataType::Float, shape, values.iter().flat_map(|x| x.to_le_bytes()).collect())
    }

    fn longs(&mut self, values: &[i64]) -> String {
        let bytes = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        self.constant(DataType::Int64, &[values.len()], bytes)
    }

    /// Bytes as they are in memory, whether signed or not.
    fn bytes(&mut self, signed: bool, shape: &[usize], values: &[i32]) -> String {
        let of = if signed { DataType::Int8 } else { DataType::Uint8 };
        self.constant(of, shape, values.iter().map(|x| x.to_le_bytes()[0]).collect())
    }

    fn node(&mut self, op: &str, inputs: &[&str], attributes: Vec<tract_onnx::pb::AttributeProto>) -> String {
        let name = self.name();
        self.nodes.push(node(op, inputs, &[&name], attributes));
        name
    }

    fn grid(&mut self, grid: Grid) -> [String; 2] {
        [self.floats(&[], &[grid.scale]), self.bytes(grid.signed, &[], &[grid.zero])]
    }

    fn quantise(&mut self, x: &str, grid: Grid) -> String {
        let [scale, zero] = self.grid(grid);
        self.node("QuantizeLinear", &[x, &scale, &zero], vec![])
    }

    fn take_back(&mut self, bytes: &str, grid: Grid) -> String {
        let [scale, zero] = self.grid(grid);
        self.node("DequantizeLinear", &[bytes, &scale, &zero], vec![])
    }

    /// Constant bytes that are taken back.
    fn weights(&mut self, grid: Grid, shape: &[usize], values: &[i32]) -> String {
        let bytes = self.bytes(grid.signed, shape, values);
        self.take_back(&bytes, grid)
    }

    /// Whole numbers that are taken back, with one scale for all or one for each.
    fn bias(&mut self, scales: &[f32], values: &[i32]) -> String {
        let raw = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        let numbers = self.constant(DataType::Int32, &[values.len()], raw);
        let shape = if scales.len() == 1 { vec![] } else { vec![scales.len()] };
        let zeros = vec![0; 4 * scales.len()];
        let (scale, zero) = (self.floats(&shape, scales), self.constant(DataType::Int32, &shape, zeros));
        self.node("DequantizeLinear", &[&numbers, &scale, &zero], vec![crate::testing::int("axis", 0)])
    }

    /// With an input `x` of so many dimensions.
    fn graph(self, rank: usize, outputs: &[&str]) -> tract_onnx::pb::GraphProto {
        let input = info("x", DataType::Float, &vec![None; rank]);
        let mut graph = body(self.nodes, vec![input], outputs);
        graph.initializer = self.constants;
        graph
    }
}

fn unsigned(scale: f32, zero: i32) -> Grid {
    Grid { scale, zero, signed: false }
}

fn signed(scale: f32, zero: i32) -> Grid {
    Grid { scale, zero, signed: true }
}

/// Whether a graph, rewritten, has an operator.
fn has(graph: &tract_onnx::pb::GraphProto, op: &str) -> bool {
    let mut graph = graph.clone();
    super::rewrite(&mut graph);
    graph.node.iter().any(|node| node.op_type == op)
}

fn image(shape: &[usize], values: &[f32]) -> Tensor {
    tensor1(values).into_shape(shape).expect("an image")
}
