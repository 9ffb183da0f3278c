"""Trains a small convolutional net on scikit-learn's handwritten digits with numpy alone, and exports it to ONNX:
IMAGE, FP32 [-1,1,8,8] with samples of 0 to 1, -> LOGITS, FP32 [-1,10]. Fails below 97 % on held-out digits.

Usage: digits.py FOLDER
"""

import os
import sys
from pathlib import Path

# Its matrices are so small that several threads would mostly wait for each other.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

EPOCHS = 30
BATCH = 64
RATE = 3e-3
# Output channels, input channels, kernel: as ONNX lays the weights of Conv out.
SHAPES = {"conv1": (32, 1, 3, 3), "conv2": (32, 32, 3, 3), "dense": (10, 32 * 2 * 2)}


def patches(x):
    """[n,c,h,w] -> [n,h,w,c*9]: the 3x3 surroundings of each pixel, zero outside of the image."""
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    n, c, h, w = x.shape
    return windows.transpose(0, 2, 3, 1, 4, 5).reshape(n, h, w, c * 9)


def unpatches(grad, shape):
    """The gradient of `patches`: each pixel gathers what its surroundings' patches pass back."""
    n, c, h, w = shape
    grad = grad.reshape(n, h, w, c, 3, 3)
    padded = np.zeros((n, c, h + 2, w + 2), np.float32)
    for y in range(3):
        for x in range(3):
            padded[:, :, y : y + h, x : x + w] += grad[..., y, x].transpose(0, 3, 1, 2)
    return padded[:, :, 1:-1, 1:-1]


class Block:
    """Convolution 3x3, ReLU, max-pooling 2x2."""

    def __init__(self, weight, bias):
        self.weight, self.bias = weight, bias

    def forward(self, x):
        self.shape, self.columns = x.shape, patches(x)
        y = self.columns @ self.weight.reshape(len(self.weight), -1).T + self.bias
        y = np.maximum(y, 0).transpose(0, 3, 1, 2)
        n, c, h, w = y.shape
        cells = y.reshape(n, c, h // 2, 2, w // 2, 2)
        pooled = cells.max(axis=(3, 5))
        winners = (cells == pooled[:, :, :, None, :, None]) & (cells > 0)
        # Where two samples of a cell are equally large, they share the gradient.
        self.share = winners / np.maximum(winners.sum(axis=(3, 5), keepdims=True), 1, dtype=np.float32)
        return pooled

    def backward(self, grad):
        n, c, h, w = grad.shape
        grad = (grad[:, :, :, None, :, None] * self.share).reshape(n, c, h * 2, w * 2).transpose(0, 2, 3, 1)
        flat = grad.reshape(-1, c)
        weight_grad = (flat.T @ self.columns.reshape(len(flat), -1)).reshape(self.weight.shape)
        input_grad = unpatches(grad @ self.weight.reshape(c, -1), self.shape)
        return input_grad, weight_grad, flat.sum(axis=0)


def forward(parameters, x):
    block1 = Block(parameters["conv1.weight"], parameters["conv1.bias"])
    block2 = Block(parameters["conv2.weight"], parameters["conv2.bias"])
    features = block2.forward(block1.forward(x)).reshape(len(x), -1)
    logits = features @ parameters["dense.weight"].T + parameters["dense.bias"]
    return logits, (block1, block2, features)


def gradients(parameters, x, y):
    logits, (block1, block2, features) = forward(parameters, x)
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    grad = powers / powers.sum(axis=1, keepdims=True)
    grad[np.arange(len(y)), y] -= 1
    grad /= len(y)
    result = {"dense.weight": grad.T @ features, "dense.bias": grad.sum(axis=0)}
    grad = (grad @ parameters["dense.weight"]).reshape(len(x), -1, 2, 2)
    grad, result["conv2.weight"], result["conv2.bias"] = block2.backward(grad)
    _, result["conv1.weight"], result["conv1.bias"] = block1.backward(grad)
    return result


def train(x, y, rng):
    parameters = {}
    for layer, shape in SHAPES.items():
        spread = np.sqrt(2 / np.prod(shape[1:]))
        parameters[f"{layer}.weight"] = rng.normal(0, spread, shape).astype(np.float32)
        parameters[f"{layer}.bias"] = np.zeros(shape[0], np.float32)
    mean = {name: np.zeros_like(value) for name, value in parameters.items()}
    square = {name: np.zeros_like(value) for name, value in parameters.items()}
    step = 0
    for epoch in range(EPOCHS):
        order = rng.permutation(len(x))
        for start in range(0, len(x), BATCH):
            batch = order[start : start + BATCH]
            step += 1
            for name, grad in gradients(parameters, x[batch], y[batch]).items():  # Adam
                mean[name] += 0.1 * (grad - mean[name])
                square[name] += 0.001 * (grad**2 - square[name])
                rate = RATE * np.sqrt(1 - 0.999**step) / (1 - 0.9**step) * (1 - epoch / EPOCHS)
                parameters[name] -= (rate * mean[name] / (np.sqrt(square[name]) + 1e-8)).astype(np.float32)
    return parameters


def export(parameters, path):
    nodes = []
    x = "IMAGE"
    for block in ["conv1", "conv2"]:
        convolved, activated, pooled = f"{block}.out", f"{block}.relu", f"{block}.pool"
        weights = [f"{block}.weight", f"{block}.bias"]
        nodes += [
            helper.make_node("Conv", [x, *weights], [convolved], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", [convolved], [activated]),
            helper.make_node("MaxPool", [activated], [pooled], kernel_shape=[2, 2], strides=[2, 2]),
        ]
        x = pooled
    nodes += [
        helper.make_node("Flatten", [x], ["features"], axis=1),
        helper.make_node("Gemm", ["features", "dense.weight", "dense.bias"], ["LOGITS"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("IMAGE", TensorProto.FLOAT, ["batch", 1, 8, 8])],
        [helper.make_tensor_value_info("LOGITS", TensorProto.FLOAT, ["batch", 10])],
        [numpy_helper.from_array(value, name) for name, value in parameters.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def main(folder: Path) -> None:
    digits = load_digits()
    images = (digits.images / 16).astype(np.float32)[:, None]
    train_x, test_x, train_y, test_y = train_test_split(
        images, digits.target, test_size=0.25, random_state=0, stratify=digits.target
    )
    parameters = train(train_x, train_y, np.random.default_rng(0))
    logits, _ = forward(parameters, test_x)
    accuracy = (logits.argmax(axis=1) == test_y).mean()
    print(f"digits: {accuracy:.1%} of {len(test_y)} held-out digits are read correctly")
    if accuracy < 0.97:
        sys.exit("expected at least 97 %")
    export(parameters, folder / "model.onnx")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
