"""Writes an ONNX graph that answers its input: INPUT0 -> OUTPUT0, FP32 [-1,-1].

Usage: identity_onnx.py FOLDER
"""

import sys
from pathlib import Path

import onnx
from onnx import TensorProto, helper


def main(folder: Path) -> None:
    shape = ["rows", "columns"]
    graph = helper.make_graph(
        [helper.make_node("Identity", ["INPUT0"], ["OUTPUT0"], name="identity")],
        "identity",
        [helper.make_tensor_value_info("INPUT0", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("OUTPUT0", TensorProto.FLOAT, shape)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, folder / "model.onnx")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
