"""Times ONNX models on onnxruntime and on our engine: `python ratios.py PROGRAM MODEL…`.

PROGRAM is the example `measure`, built. Each side has one thread, and the sides take turns, round by round. What is counted is
the time that a thread had of a processor, which others on the machine change less than the time that passes. Prints a line of JSON
for each model and batch, `{"model", "batch", "onnxruntime", "ours"}`, with the median of each round in microseconds; where one
side cannot run a model, `{"model", "batch", "error"}`.
"""

import argparse
import json
import pathlib
import statistics
import tempfile
import time

import numpy

from against_onnxruntime import BATCHES, Ours, has_batch, inputs, name_of, session_of

# Runs of one side in a round: at least these, and no more than this many.
LEAST, MOST = 3, 2000


def runs(session, arrays, count):
    """Nanoseconds of processor time that each of so many runs took."""
    times = []
    for _ in range(count):
        begun = time.thread_time_ns()
        session.run(None, arrays)
        times.append(time.thread_time_ns() - begun)
    return times


def measure(program, path, session, batch, rounds, seconds):
    """The line for a model at a batch, but for their names."""
    arrays = inputs(name_of(path), session, batch, numpy.random.default_rng(7))
    with tempfile.TemporaryDirectory() as folder, Ours(program, path, arrays, folder) as ours:
        sides = {
            "onnxruntime": lambda count: runs(session, arrays, count),
            "ours": lambda count: ours.ask("run", times=count),
        }
        # The first runs warm up and say how many there is time for.
        once = {side: statistics.median(run(LEAST)) for side, run in sides.items()}
        count = {side: int(min(max(seconds * 1e9 / took, LEAST), MOST)) for side, took in once.items()}
        medians = {side: [] for side in sides}
        for _ in range(rounds):
            for side, run in sides.items():
                medians[side].append(statistics.median(run(count[side])) / 1e3)
    return medians


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("models", nargs="+", type=pathlib.Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.3, help="of one side in a round")
    arguments = parser.parse_args()
    for path in arguments.models:
        session = session_of(path)
        for batch in BATCHES if has_batch(session) else BATCHES[:1]:
            line = {"model": name_of(path), "batch": batch}
            try:
                line |= measure(arguments.program, path, session, batch, arguments.rounds, arguments.seconds)
            except Exception as error:  # one model's failure must not hide the others' results
                line["error"] = f"{type(error).__name__}: {str(error)[-300:]}"
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
