"""Compares the gateway with onnxruntime: `python onnx_parity.py URL DIR [--seed N]`.

For every model of the repository DIR (see models.py) that the gateway at URL serves, sends the same seeded random inputs
to both, at batch 1 and, where that varies, at batch 8, and compares all outputs.
The first request of each shape includes the optimisation for that shape: give the gateway a deadline of 30 s or so.
Ends with 1 if an output differs, a model is not served, or fewer than six models ran.
"""

import argparse
import pathlib
import sys
import time

import numpy
import onnxruntime
import tritonclient.http as triton
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_iris

RTOL, ATOL = 1e-3, 1e-4
LEAST_MODELS = 6
BATCHES = (1, 8)

# Shapes of inputs with other dimensions that vary than the first, N being the batch.
SHAPES = {
    "ppocr_det": {"x": ("N", 3, 96, 160)},
    "ppocr_rec": {"x": ("N", 3, 48, 160)},
    "ppocr_cls": {"x": ("N", 3, 48, 192)},
    "ppocr_cls_int8": {"x": ("N", 3, 48, 192)},
    "ppocr_cls_uint8": {"x": ("N", 3, 48, 192)},
    "silero_vad_openvino": {"state": (2, "N", 128)},
    "silero_vad": {"input": ("N", 576), "state": (2, "N", 128)},
    "encoder": {name: ("N", 32) for name in ("input_ids", "attention_mask", "token_type_ids")},
}


def uniform(low, high):
    return lambda rng, shape: rng.uniform(low, high, shape)


def rows(dataset):
    """Random rows of the data that a model was trained on."""
    return lambda rng, shape: rng.choice(dataset().data, shape[0])


def printed_digits(rng, shape):
    """Pictures of a line of digits, dark on light, in -1..1: noise alone would leave a text detector silent."""
    images = load_digits().images
    pictures = numpy.ones(shape)
    for picture in pictures:
        for left in range(8, shape[3] - 32, 32):
            digit = numpy.kron(images[rng.integers(len(images))] / 16, numpy.ones((4, 4)))
            top = (shape[2] - 32) // 2
            picture[:, top : top + 32, left : left + 32] -= 2 * digit
    return pictures


# What the values of a model's inputs look like, or of one of them; any other's are in 0..1.
VALUES = {
    "ppocr_det": printed_digits,
    "ppocr_rec": printed_digits,
    "ppocr_cls": printed_digits,
    "ppocr_cls_int8": printed_digits,
    "ppocr_cls_uint8": printed_digits,
    "squeezenet": uniform(-2, 2),
    "shufflenet": uniform(-2, 2),
    "densenet121": uniform(-2, 2),
    "resnet50": uniform(-2, 2),
    "encoder": lambda rng, shape: rng.integers(0, 2, shape),
    "encoder.input_ids": lambda rng, shape: rng.integers(0, 30522, shape),
    "magika": lambda rng, shape: rng.integers(0, 257, shape),
    "silero_vad_sequence": uniform(-0.3, 0.3),
    "silero_vad_openvino": uniform(-0.3, 0.3),
    "silero_vad": lambda rng, shape: rng.uniform(-0.3, 0.3, shape) if shape else numpy.array(16_000),
    "iris": rows(load_iris),
    "iris_zipmap": rows(load_iris),
    "iris_forest": rows(load_iris),
    "random_forest": uniform(-4, 4),
    "boosted_classes": uniform(-4, 4),
    "boosted_regressor": rows(load_diabetes),
    "ridge": rows(load_diabetes),
    "scaled_mlp": rows(load_breast_cancer),
}


def signature(client, model):
    """The model's inputs as the gateway announces them: [(name, datatype, shape)]."""
    metadata = client.get_model_metadata(model)
    return [(spec["name"], spec["datatype"], spec["shape"]) for spec in metadata["inputs"]]


def infer(client, model, arrays):
    """{output: array} that the gateway answers."""
    inputs = []
    for name, (datatype, array) in arrays.items():
        tensor = triton.InferInput(name, list(array.shape), datatype)
        tensor.set_data_from_numpy(array, binary_data=True)
        inputs.append(tensor)
    result = client.infer(model, inputs, timeout=60_000_000)
    return {output["name"]: result.as_numpy(output["name"]) for output in result.get_response()["outputs"]}


def random_inputs(model, specs, batch, rng):
    arrays = {}
    for name, datatype, shape in specs:
        values = VALUES.get(f"{model}.{name}") or VALUES.get(model, uniform(0, 1))
        shape = SHAPES.get(model, {}).get(name, shape)
        shape = [batch if dim in (-1, "N") else dim for dim in shape]
        array = values(rng, shape).astype(triton.triton_to_np_dtype(datatype))
        # What has no dimensions is to keep none.
        arrays[name] = (datatype, numpy.asarray(array, order="C"))
    return arrays


def plain(value):
    """An output of onnxruntime as the gateway gives it: of a list of maps from classes, the values in the classes' order."""
    if isinstance(value, list):
        return numpy.array([[row[name] for name in sorted(row)] for row in value], "float32")
    return value


def difference(expected, given):
    """Why two arrays differ, or None; and the largest absolute difference."""
    if expected.shape != given.shape:
        return f"shape {list(given.shape)}, onnxruntime has {list(expected.shape)}", numpy.nan
    if expected.dtype != given.dtype:
        return f"dtype {given.dtype}, onnxruntime has {expected.dtype}", numpy.nan
    largest = float(numpy.max(numpy.abs(expected.astype("f8") - given.astype("f8")), initial=0))
    if expected.dtype.kind != "f":
        return (None if numpy.array_equal(expected, given) else "values differ"), largest
    close = numpy.allclose(given, expected, rtol=RTOL, atol=ATOL, equal_nan=True)
    return (None if close else "values differ"), largest


def compare(client, model, path, seed):
    """Runs one model at each batch; yields (batch, output, shape, spread of the values, difference, fault)."""
    onnxruntime.set_default_logger_severity(3)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    specs = signature(client, model)
    free = any(-1 in shape for _, _, shape in specs)
    for batch in BATCHES if free else BATCHES[:1]:
        arrays = random_inputs(model, specs, batch, numpy.random.default_rng(seed))
        outputs = session.run(names, {name: array for name, (_, array) in arrays.items()})
        expected = dict(zip(names, map(plain, outputs)))
        given = infer(client, model, arrays)
        if set(given) != set(expected):
            yield batch, "*", [], numpy.nan, numpy.nan, f"outputs {sorted(given)}, expected {sorted(expected)}"
            continue
        for name in names:
            fault, largest = difference(expected[name], given[name])
            yield batch, name, list(expected[name].shape), float(numpy.ptp(expected[name])), largest, fault


def report(client, root, seed):
    """Prints the table; returns the numbers of models that ran, of outputs that are equal, and of faults."""
    ran, equal, faults = 0, 0, 0
    print(f"{'model':<22}{'batch':>5}  {'output':<32}{'shape':<20}{'spread':>10}{'max diff':>10}  result")
    for path in sorted(root.glob("*/1/model.onnx")):
        model, start = path.parent.parent.name, time.monotonic()
        try:
            for batch, name, shape, spread, largest, fault in compare(client, model, path, seed):
                equal, faults = equal + (fault is None), faults + (fault is not None)
                row = f"{model:<22}{batch:>5}  {name[-30:]:<32}{shape!s:<20}{spread:>10.3g}{largest:>10.2g}"
                print(f"{row}  {fault or 'equal'}", flush=True)
            ran += 1
        except Exception as error:  # one model's failure must not hide the others' results
            faults += 1
            print(f"{model:<22}    -  {type(error).__name__}: {error}", flush=True)
        print(f"{'':<22}took {time.monotonic() - start:.1f} s", flush=True)
    return ran, equal, faults


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="the gateway, HOST:PORT")
    parser.add_argument("repository", type=pathlib.Path)
    parser.add_argument("--seed", type=int, default=7)
    arguments = parser.parse_args()
    address = arguments.url.removeprefix("http://").rstrip("/")
    client = triton.InferenceServerClient(address, network_timeout=120)
    ran, equal, faults = report(client, arguments.repository, arguments.seed)
    print(f"{ran} models ran")
    print(f"{equal} passed, {faults} failed")
    sys.exit(1 if faults or ran < LEAST_MODELS else 0)


if __name__ == "__main__":
    main()
