"""Compares our engine with onnxruntime: `python against_onnxruntime.py PROGRAM MODEL… [--time]`.

PROGRAM is the example run_model, built. Each model runs on seeded random inputs at batch 1 and 8, where that may vary; all outputs
are compared. With --time both run in turns, a burst each, one thread each, and the table has the 10th percentile and the median of
each side in microseconds, and onnxruntime's time divided by ours.
"""

import argparse
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy
import onnx
import onnxruntime

RTOL, ATOL = 1e-3, 1e-4
ROUNDS = 12

# What dimensions are that vary, by model and input, where the batch alone would not do.
SHAPES = {
    "ppocr_det": {"x": ("N", 3, 96, 160)},
    "ppocr_cls": {"x": ("N", 3, 48, 192)},
    "ppocr_cls_int8_qdq": {"x": ("N", 3, 48, 192)},
    "silero_vad": {"input": ("N", 576), "state": (2, "N", 128), "sr": ()},
    "silero_vad_8k": {"input": ("N", 288), "state": (2, "N", 128), "sr": ()},
    "silero_vad_16k_sequence": {"input": ("N", 576)},
}
INTEGERS = {"bytes": (0, 257), "sr": (16000, 16001)}


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
    """A process that runs a model on these inputs."""

    def __init__(self, program, path, arrays, folder):
        self.folder, files = folder, []
        for index, (name, array) in enumerate(arrays.items()):
            files.append(f"{folder}/in_{index}.pb")
            pathlib.Path(files[-1]).write_bytes(onnx.numpy_helper.from_array(array, name).SerializeToString())
        self.process = subprocess.Popen(
            [program, path, *files], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        if not self.process.stdout.readline().startswith("ready"):
            raise RuntimeError(self.process.stderr.read().strip()[-600:])

    def command(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(self.process.stderr.read().strip()[-600:])
        return answer

    def outputs(self, count):
        self.command(f"outputs {self.folder}")
        tensors = [onnx.load_tensor(f"{self.folder}/{index}.pb") for index in range(count)]
        return [onnx.numpy_helper.to_array(tensor) for tensor in tensors]

    def times(self, count):
        return [int(text) / 1000 for text in self.command(f"run {count}").split()]

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def burst(session, arrays, count):
    times = []
    for _ in range(count):
        start = time.perf_counter_ns()
        session.run(None, arrays)
        times.append((time.perf_counter_ns() - start) / 1000)
    return times


def compare(program, path, batch, timed):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    arrays = inputs(path.stem, session, batch, numpy.random.default_rng(7))
    expected = [plain(value) for value in session.run(None, arrays)]
    with tempfile.TemporaryDirectory() as folder:
        ours = Ours(program, str(path), arrays, folder)
        given = ours.outputs(len(expected))
        faults = [difference(a, b) for a, b in zip(expected, given)]
        row = f"{path.stem:<26}{batch:>3}  {'; '.join(filter(None, faults)) or 'equal':<30}"
        if timed:
            once = max(numpy.median(burst(session, arrays, 5)), numpy.median(ours.times(5)), 1)
            count = int(min(max(60_000 / once, 3), 2000))
            theirs, mine = [], []
            for _ in range(ROUNDS):
                theirs += burst(session, arrays, count)
                mine += ours.times(count)
            (a10, a50), (b10, b50) = (numpy.percentile(times, (10, 50)) for times in (theirs, mine))
            row += f"ort {a10:>10.1f}{a50:>10.1f}  ours {b10:>10.1f}{b50:>10.1f}  ratio {a10 / b10:>6.2f}{a50 / b50:>6.2f}"
        print(row, flush=True)
        ours.close()
    return not any(faults)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("models", nargs="+", type=pathlib.Path)
    parser.add_argument("--batch", type=int, action="append")
    parser.add_argument("--time", action="store_true")
    arguments = parser.parse_args()
    failed = 0
    for path in arguments.models:
        for batch in arguments.batch or (1, 8):
            try:
                failed += not compare(arguments.program, path, batch, arguments.time)
            except Exception as error:  # one model's failure must not hide the others' results
                failed += 1
                print(f"{path.stem:<26}{batch:>3}  {type(error).__name__}: {str(error)[-300:]}", flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
