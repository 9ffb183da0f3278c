"""Writes an ONNX model of dense layers that answers its input: INPUT0 -> OUTPUT0, FP32 [-1,1024].

Each layer is a product with a matrix of 1024 x 1024 that permutes the columns, and the last one undoes the others. So the
model costs what dense layers of that size cost, and its answers can be checked to the bit.

Usage: permutations.py FILE
"""

import sys

import numpy
import onnx
from onnx import TensorProto, helper, numpy_helper

WIDTH = 1024
LAYERS = 4


def main(file: str) -> None:
    rng = numpy.random.default_rng(0)
    orders = [rng.permutation(WIDTH) for _ in range(LAYERS - 1)]
    layers = [numpy.eye(WIDTH, dtype="float32")[order] for order in orders]
    layers.append(numpy.linalg.multi_dot([numpy.eye(WIDTH), *layers]).T.astype("float32"))
    names = ["INPUT0", *(f"hidden{index}" for index in range(1, LAYERS)), "OUTPUT0"]
    shape = ["rows", WIDTH]
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", [names[index], f"weights{index}"], [names[index + 1]])
            for index in range(LAYERS)
        ],
        "permutations",
        [helper.make_tensor_value_info("INPUT0", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("OUTPUT0", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(layer, f"weights{index}") for index, layer in enumerate(layers)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, file)


if __name__ == "__main__":
    main(sys.argv[1])
