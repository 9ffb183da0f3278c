"""Compares our engine's answers with onnxruntime's: `python against_onnxruntime.py PROGRAM MODEL…`.

PROGRAM is the example `measure`, built. Each model runs on seeded random inputs at batch 1 and 8, where that may vary, and all
outputs are compared. How long both take is the business of `ratios.py`, which takes inputs and sides from here.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy
import onnx
import onnxruntime

RTOL, ATOL = 1e-3, 1e-4
BATCHES = (1, 8)

# What dimensions are that vary, by model and input, where the batch alone would not do.
SHAPES = {
    "ppocr_det": {"x": ("N", 3, 320, 320)},
    "ppocr_rec": {"x": ("N", 3, 48, 320)},
    "ppocr_cls": {"x": ("N", 3, 48, 192)},
    "silero_vad": {"input": ("N", 576), "state": (2, "N", 128), "sr": ()},
    "silero_vad_8k": {"input": ("N", 288), "state": (2, "N", 128), "sr": ()},
    "silero_vad_openvino": {"state": (2, "N", 128)},
    "encoder": {name: ("N", 128) for name in ("input_ids", "attention_mask", "token_type_ids")},
}
for quantised in ("ppocr_cls_int8", "ppocr_cls_uint8", "ppocr_cls_int8_qdq"):
    SHAPES[quantised] = SHAPES["ppocr_cls"]
# Whole numbers from the first to below the second, by input.
INTEGERS = {
    "bytes": (0, 257),
    "sr": (16000, 16001),
    "input_ids": (0, 30522),
    "attention_mask": (1, 2),
    "token_type_ids": (0, 2),
}


def name_of(path):
    """A model's name: its file's, or its folder's in a repository."""
    return path.parent.parent.name if path.name == "model.onnx" else path.stem


def session_of(path):
    """onnxruntime with the model, on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def inputs(name, session, batch, rng):
    """{name: array} for a model's inputs."""
    arrays = {}
    for spec in session.get_inputs():
        shape = SHAPES.get(name, {}).get(spec.name, spec.shape)
        shape = [batch if not isinstance(dim, int) else dim for dim in shape]
        if spec.type in ("tensor(int64)", "tensor(int32)"):
            low, high = (8000, 8001) if name.endswith("_8k") else INTEGERS.get(spec.name, (0, 10))
            array = rng.integers(low, high, shape).astype(spec.type[7:-1])
        else:
            array = rng.normal(0, 1, shape).astype("float64" if "double" in spec.type else "float32")
        arrays[spec.name] = numpy.asarray(array)
    return arrays


def has_batch(session):
    """Whether the size of a batch may vary."""
    return any(not isinstance(dim, int) for spec in session.get_inputs() for dim in spec.shape[:1])


def plain(value):
    """An output as an array; of a list of maps the values, in the order of the keys."""
    if isinstance(value, list):
        return numpy.array([[row[key] for key in sorted(row)] for row in value], "float32")
    return value


def difference(expected, given):
    """Why two outputs differ, or None."""
    if expected.shape != given.shape:
        return f"shape {given.shape}, expected {expected.shape}"
    if expected.dtype.kind in "OSU":
        return None if [str(x) for x in expected.flat] == [_text(x) for x in given.flat] else "texts differ"
    if expected.dtype != given.dtype:
        return f"dtype {given.dtype}, expected {expected.dtype}"
    if expected.dtype.kind != "f":
        return None if (expected == given).all() else "values differ"
    close = numpy.allclose(given, expected, rtol=RTOL, atol=ATOL, equal_nan=True)
    return None if close else f"values differ by {numpy.max(numpy.abs(given - expected)):.3g}"


def _text(value):
    return value.decode() if isinstance(value, bytes) else str(value)


class Ours:
    """A process that runs a model on these inputs; its folder is the caller's."""

    def __init__(self, program, path, arrays, folder):
        self.folder, files = folder, []
        for index, (name, array) in enumerate(arrays.items()):
            files.append(f"{folder}/in_{index}.pb")
            pathlib.Path(files[-1]).write_bytes(onnx.numpy_helper.from_array(array, name).SerializeToString())
        pipes = {name: subprocess.PIPE for name in ("stdin", "stdout", "stderr")}
        self.process = subprocess.Popen([program, str(path), *files], text=True, **pipes)
        self._answer()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait()

    def _answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(self.process.stderr.read().strip()[-600:])
        return json.loads(line)

    def ask(self, request, **arguments):
        print(json.dumps({request: arguments}), file=self.process.stdin, flush=True)
        return self._answer()

    def outputs(self, count):
        self.ask("outputs", folder=self.folder)
        tensors = [onnx.load_tensor(f"{self.folder}/{index}.pb") for index in range(count)]
        return [onnx.numpy_helper.to_array(tensor) for tensor in tensors]


def faults_of(program, path, session, batch):
    """Why outputs differ."""
    arrays = inputs(name_of(path), session, batch, numpy.random.default_rng(7))
    expected = [plain(value) for value in session.run(None, arrays)]
    with tempfile.TemporaryDirectory() as folder, Ours(program, path, arrays, folder) as ours:
        given = ours.outputs(len(expected))
    return [fault for fault in map(difference, expected, given) if fault]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("models", nargs="+", type=pathlib.Path)
    arguments = parser.parse_args()
    failed = 0
    for path in arguments.models:
        session = session_of(path)
        for batch in BATCHES if has_batch(session) else BATCHES[:1]:
            try:
                faults = faults_of(arguments.program, path, session, batch)
            except Exception as error:  # one model's failure must not hide the others' results
                faults = [f"{type(error).__name__}: {str(error)[-300:]}"]
            failed += bool(faults)
            print(f"{name_of(path):<26}{batch:>3}  {'; '.join(faults) or 'equal'}", flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
