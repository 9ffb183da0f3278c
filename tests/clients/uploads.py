"""Two tenants and the unmodified Triton client: `load_model(files=…)` uploads, and everything goes on as they know it.

Every call carries `headers={"Authorization": "Bearer …"}` and is otherwise what it would be for Triton.
"""

import json
import os
from pathlib import Path

import numpy as np
import tritonclient.http as triton

from conformance import refused
from harness import Suite, same

suite = Suite(__doc__)
MODELS = Path(os.environ["AIRLOCK_TEST_MODELS"])
ACME = {"Authorization": f"Bearer {os.environ['AIRLOCK_TEST_KEY_ACME']}"}
UMBRELLA = {"Authorization": f"Bearer {os.environ['AIRLOCK_TEST_KEY_UMBRELLA']}"}
READER = {"Authorization": f"Bearer {os.environ['AIRLOCK_TEST_KEY_READER']}"}


def artifact(model, file):
    return (MODELS / model / "1" / file).read_bytes()


def client(url):
    return triton.InferenceServerClient(url)


def identity(url, model, headers, version=""):
    array = np.array([[1.5, -2.0, 3.25]], np.float32)
    tensor = triton.InferInput("INPUT0", list(array.shape), "FP32").set_data_from_numpy(array)
    result = client(url).infer(model, [tensor], model_version=version, headers=headers)
    same(result.as_numpy("OUTPUT0").tolist(), array.tolist(), "OUTPUT0")


@suite.case("without a key, and with one that nobody has: 401")
def no_key(url):
    with refused(401):
        client(url).get_model_metadata("identity")
    with refused(401):
        client(url).get_model_metadata("identity", headers={"Authorization": "Bearer ak_0"})
    same(client(url).is_server_live(), True, "health needs no key")


@suite.case("the operator's models answer every tenant")
def shared(url):
    for headers in (ACME, UMBRELLA, READER):
        identity(url, "identity", headers)


@suite.case("load_model uploads a wasm plugin")
def wasm(url):
    files = {"file:1/model.wasm": artifact("identity", "model.wasm")}
    client(url).load_model("mine", files=files, config=json.dumps({"backend": "wasm"}), headers=ACME)
    same(client(url).is_model_ready("mine", headers=ACME), True, "ready")
    identity(url, "mine", ACME)
    identity(url, "mine", ACME, version="1")


@suite.case("load_model uploads an ONNX model, in the form that Triton's documentation shows")
def onnx(url):
    config = {
        "backend": "onnxruntime",
        "parameters": {"note": {"string_value": "any"}},
        "inputs": [{"name": "INPUT0", "datatype": "FP32", "shape": [-1, -1]}],
    }
    files = {"file:7/model.onnx": artifact("identity_onnx", "model.onnx")}
    client(url).load_model("graph", files=files, config=json.dumps(config), headers=ACME)
    identity(url, "graph", ACME, version="7")
    metadata = client(url).get_model_metadata("graph", headers=ACME)
    same(metadata["platform"], "onnx_onnxv1", "platform")


@suite.case("another tenant sees nothing of it")
def foreign(url):
    with refused(404, "unknown model: 'mine'"):
        client(url).get_model_metadata("mine", headers=UMBRELLA)
    with refused(404, "unknown model: 'mine'"):
        identity(url, "mine", UMBRELLA)
    names = {entry["name"] for entry in client(url).get_model_repository_index(headers=UMBRELLA)}
    if {"mine", "graph"} & names or "identity" not in names:
        raise AssertionError(f"the index of the other tenant: {sorted(names)}")


@suite.case("the same name in two namespaces is two models")
def names(url):
    files = {"file:1/model.onnx": artifact("identity_onnx", "model.onnx")}
    client(url).load_model("mine", files=files, config="{}", headers=UMBRELLA)
    same(client(url).get_model_metadata("mine", headers=UMBRELLA)["platform"], "onnx_onnxv1", "umbrella's")
    same(client(url).get_model_metadata("mine", headers=ACME)["platform"], "wasm_component", "acme's")


@suite.case("a key that may only infer uploads nothing")
def scope(url):
    files = {"file:1/model.onnx": artifact("identity_onnx", "model.onnx")}
    with refused(403, "repository"):
        client(url).load_model("x", files=files, config="{}", headers=READER)
    identity(url, "mine", READER)


@suite.case("what is no model is refused with its reason")
def rejected(url):
    with refused(422, "check"):
        client(url).load_model("bad", files={"file:1/model.wasm": b"\0asm\x01\0\0\0"}, config="{}", headers=ACME)
    with refused(422):
        client(url).load_model("bad", files={"file:1/model.onnx": b"\x08\x08garbage"}, config="{}", headers=ACME)
    with refused(404):
        client(url).get_model_metadata("bad", headers=ACME)


@suite.case("index, unload and load")
def unload(url):
    def state(name):
        index = client(url).get_model_repository_index(headers=ACME)
        return next(entry for entry in index if entry["name"] == name)["state"]

    same(state("mine"), "READY", "state")
    client(url).unload_model("mine", headers=ACME)
    same(state("mine"), "UNAVAILABLE", "state after unload")
    with refused(503, "unloaded"):
        identity(url, "mine", ACME)
    same(client(url).get_model_metadata("mine", headers=UMBRELLA)["platform"], "onnx_onnxv1", "umbrella's")
    client(url).load_model("mine", headers=ACME)
    identity(url, "mine", ACME)


if __name__ == "__main__":
    suite.main()
