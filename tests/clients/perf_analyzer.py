"""The unmodified perf_analyzer of NVIDIA Triton against a running gateway, over HTTP and over gRPC, with its reading of our statistics."""

import csv
import json
import os
import re
import shlex
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path

from harness import Suite, contains, same

suite = Suite(__doc__)
COMMAND = shlex.split(os.environ["AIRLOCK_TEST_PERF_ANALYZER"])
# Sent in each run, by this many at once.
REQUESTS, CLIENTS = 400, 4


def counts(url, model):
    """What the gateway has counted: requests that were answered, and inferences, once they stand still."""
    last = None
    for _ in range(50):
        with urllib.request.urlopen(f"http://{url}/v2/models/{model}/stats", timeout=30) as answer:
            (entry,) = json.load(answer)["model_stats"]
        now = [entry["inference_stats"]["success"]["count"], entry["inference_count"], entry["inference_stats"]["fail"]["count"]]
        if now == last:
            break
        last = now
        time.sleep(0.1)
    return last


def number(text, what):
    """The number that a report names so."""
    found = re.search(rf"^\s*{what}: ([0-9.]+)", text, re.MULTILINE)
    if not found:
        raise AssertionError(f"no {what!r} in {text}")
    return float(found.group(1))


def run(url, model, options):
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "report.csv"
        protocol = "grpc" if "grpc" in options else "http"
        at = suite.grpc_url if protocol == "grpc" else url
        command = [
            *COMMAND, "-m", model, "-u", at, "--concurrency-range", str(CLIENTS), "--request-count", str(REQUESTS),
            "-f", str(table), "--verbose-csv", *options,
        ]  # fmt: skip
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
        text = done.stdout + done.stderr
        same(done.returncode, 0, f"exit code of {text}")
        with table.open(newline="") as lines:
            (row,) = csv.DictReader(lines)
    return text, row


SHAPE = ["--shape", "INPUT0:1,4"]
RUNS = [
    ("HTTP", "identity", 1, ["-i", "http", *SHAPE]),
    ("HTTP, tensors in JSON", "identity", 1, ["-i", "http", *SHAPE, "--input-tensor-format", "json", "--output-tensor-format", "json"]),
    ("gRPC", "identity", 1, ["-i", "grpc", *SHAPE]),
    ("gRPC, streams", "identity", 1, ["-i", "grpc", *SHAPE, "--streaming", "--async"]),
    ("HTTP, batches of four", "batched", 4, ["-i", "http", "-b", "4"]),
    ("gRPC, batches of four", "batched", 4, ["-i", "grpc", "-b", "4"]),
]


@suite.each("a run with statistics", RUNS)
def _(url, value):
    _, model, batch, options = value
    before = counts(url, model)
    text, row = run(url, model, options)
    answered, inferences, failed = [after - old for after, old in zip(counts(url, model), before)]
    same(failed, 0, "failed requests")
    contains(text, "Client:", "Server:")
    # What it has counted itself, what it has read of our statistics, and what we have counted.
    same(number(text, "Request count"), REQUESTS, "requests that the client counts")
    # A request is counted once its answer is handed over, and the last ones of it may just have been when it asks.
    read = number(text, "Successful request count")
    same(REQUESTS - CLIENTS <= read <= answered, True, f"{read} requests in the statistics that it read, {answered} later")
    same(number(text, "Inference count"), read * batch, "inferences that it read")
    same((inferences, 0 <= answered - REQUESTS < 2 * CLIENTS), (answered * batch, True), f"{answered} answered requests")
    same(int(row["Concurrency"]), CLIENTS, "Concurrency")
    same(float(row["Inferences/Second"]) > 0, True, "Inferences/Second")
    latency, half = float(row["p99 latency"]), float(row["p50 latency"])
    same(latency >= half > 0, True, f"latencies {half}, {latency}")
    parts = ["Server Queue", "Server Compute Input", "Server Compute Infer", "Server Compute Output"]
    inside = sum(float(row[name]) for name in parts)
    same(0 < inside <= float(row["Avg latency"]), True, f"{inside} us of {row['Avg latency']} are the server's")


@suite.case("a model that there is not ends a run with an error")
def _(url):
    for options in (["-u", url], ["-u", suite.grpc_url, "-i", "grpc"]):
        command = [*COMMAND, "-m", "no-such-model", *options]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        same(done.returncode != 0, True, "it fails")
        contains(done.stdout + done.stderr, "no-such-model")


if __name__ == "__main__":
    suite.main()
