"""The unmodified Python client of NVIDIA Triton (`tritonclient[grpc]`, synchronous and aio) against a running gateway's gRPC port."""

import asyncio
import queue

import ml_dtypes
import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio as aio
from tritonclient.utils import InferenceServerException

from harness import Suite, contains, same, shorten

suite = Suite(__doc__)
FLOATS = np.array([[1.5, -2.25, 0.0, 4.125]], np.float32)
INTS = np.array([3, -7, 11], np.int32)


def client(url):
    return triton.InferenceServerClient(url)


def tensor(name, array, datatype, module=triton):
    return module.InferInput(name, list(array.shape), datatype).set_data_from_numpy(array)


def equal(got, expected, what="OUTPUT0"):
    """Fails unless the arrays are the same, bit for bit."""
    if got is None:
        raise AssertionError(f"{what} is missing")
    same((got.shape, got.dtype), (expected.shape, expected.dtype), what)
    if expected.dtype == np.object_:
        same([bytes(e) for e in got.ravel()], [bytes(e) for e in expected.ravel()], what)
    else:
        same(got.tobytes(), expected.tobytes(), what)


def refused(status, *words):
    """A context in which the client must raise, with that status and a text that holds every word."""

    class Refused:
        def __enter__(self):
            return self

        def __exit__(self, kind, error, trace):
            if error is None:
                raise AssertionError(f"expected {status}, the call succeeded")
            if not isinstance(error, InferenceServerException):
                return False
            same(error.status(), f"StatusCode.{status}", f"status of {shorten(error.message())}")
            contains(error.message(), *words)
            return True

    return Refused()


@suite.case("server is live and ready, and has metadata")
def _(url):
    with client(url) as c:
        same((c.is_server_live(), c.is_server_ready()), (True, True))
        metadata = c.get_server_metadata()
        same(metadata.name, "airlock")
        same("model_repository" in metadata.extensions, True, "extension announced")


@suite.case("model metadata and readiness")
def _(url):
    with client(url) as c:
        metadata = c.get_model_metadata("identity", as_json=True)
        same((metadata["name"], metadata["versions"]), ("identity", ["1"]))
        # 64-bit numbers are texts in the JSON of protobuf.
        same(metadata["inputs"], [{"name": "INPUT0", "datatype": "FP32", "shape": ["-1", "-1"]}])
        for model, version, ready in [
            ("identity", "", True), ("identity", "1", True), ("versions", "2", True),
            ("versions", "9", False), ("no-such-model", "", False),
        ]:  # fmt: skip
            same(c.is_model_ready(model, version), ready, f"{model} {version}")
        with refused("NOT_FOUND", "no-such-model"):
            c.get_model_metadata("no-such-model")


@suite.case("repository index, and load where nobody asked for control")
def _(url):
    with client(url) as c:
        models = {(model.name, model.version): model.state for model in c.get_model_repository_index().models}
        same(models[("versions", "2")], "READY")
        with refused("UNAVAILABLE", "explicit"):
            c.load_model("identity")


def values(dtype):
    random = np.random.default_rng(1)
    return np.frombuffer(random.bytes(64 * np.dtype(dtype).itemsize), dtype)


TYPES = [
    ("BOOL", np.array([True, False, True])),
    *[(f"UINT{bits}", values(f"uint{bits}")) for bits in (8, 16, 32, 64)],
    *[(f"INT{bits}", values(f"int{bits}")) for bits in (8, 16, 32, 64)],
    *[(f"FP{bits}", np.arange(-9, 9, 0.75).astype(f"float{bits}")) for bits in (16, 32, 64)],
    ("BF16", np.arange(-9, 9, 0.75).astype(ml_dtypes.bfloat16)),
    ("BYTES", np.array([b"", b"a", "grüße".encode(), bytes(range(256))], object)),
]


@suite.each("there and back", TYPES)
def _(url, value):
    datatype, array = value
    with client(url) as c:
        for array in (array, array[:0], array[:1]):
            result = c.infer(f"id_{datatype.lower()}", [tensor("INPUT0", array, datatype)])
            same(result.get_output("OUTPUT0").datatype, datatype)
            equal(result.as_numpy("OUTPUT0"), array)


@suite.case("a large tensor, also compressed")
def _(url):
    array = np.random.default_rng(5).standard_normal((8, 150528)).astype(np.float32)
    with client(url) as c:
        for compression in (None, "gzip", "deflate"):
            result = c.infer("identity", [tensor("INPUT0", array, "FP32")], compression_algorithm=compression)
            equal(result.as_numpy("OUTPUT0"), array)


@suite.case("outputs that are asked for, ids, versions and parameters")
def _(url):
    with client(url) as c:
        inputs = [tensor("INPUT0", FLOATS, "FP32"), tensor("INPUT1", INTS, "INT32")]
        result = c.infer("two_io", inputs, outputs=[triton.InferRequestedOutput("OUTPUT1")], request_id="ünïcode 🦀")
        same([output.name for output in result.get_response().outputs], ["OUTPUT1"])
        same(result.get_response().id, "ünïcode 🦀")
        equal(result.as_numpy("OUTPUT1"), INTS)
        result = c.infer(
            "identity", [tensor("INPUT0", FLOATS, "FP32")], model_version="1", sequence_id=7, sequence_start=True,
            priority=1, timeout=1_000_000, parameters={"own": "text", "number": 3, "flag": True},
        )  # fmt: skip
        same(result.get_response().model_version, "1")
        equal(result.as_numpy("OUTPUT0"), FLOATS)


@suite.case("refusals")
def _(url):
    with client(url) as c:
        put = tensor("INPUT0", FLOATS, "FP32")
        with refused("NOT_FOUND", "no-such-model"):
            c.infer("no-such-model", [put])
        with refused("INVALID_ARGUMENT", "INPUT0", "INT32"):
            c.infer("identity", [tensor("INPUT0", INTS.reshape(1, 3), "INT32")])
        with refused("UNIMPLEMENTED", "shared memory"):
            shared = triton.InferInput("INPUT0", [1, 4], "FP32")
            shared.set_shared_memory("region", 16)
            c.infer("identity", [shared])
        with refused("UNIMPLEMENTED", "shared memory"):
            c.register_system_shared_memory("region", "/region", 16)
        equal(c.infer("identity", [put]).as_numpy("OUTPUT0"), FLOATS)


@suite.case("a stream: responses in their order, and an error that does not end it")
def _(url):
    answers = queue.Queue()
    with client(url) as c:
        c.start_stream(lambda result, error: answers.put((result, error)))
        for number in range(20):
            model = "no-such-model" if number == 7 else "identity"
            put = tensor("INPUT0", FLOATS + number, "FP32")
            c.async_stream_infer(model, [put], request_id=str(number), enable_empty_final_response=True)
        for number in range(20):
            result, error = answers.get(timeout=20)
            if number == 7:
                contains(error.message(), "no-such-model")
                continue
            same(error, None)
            response = result.get_response()
            same((response.id, response.parameters["triton_final_response"].bool_param), (str(number), True))
            equal(result.as_numpy("OUTPUT0"), FLOATS + number)
        c.stop_stream()
        same(c.is_server_live(), True)


@suite.case("the aio client: calls and a stream")
def _(url):
    async def calls():
        async with aio.InferenceServerClient(url) as c:
            same(await c.is_model_ready("identity"), True)
            put = tensor("INPUT0", FLOATS, "FP32", aio)
            results = await asyncio.gather(*[c.infer("identity", [put]) for _ in range(32)])
            for result in results:
                equal(result.as_numpy("OUTPUT0"), FLOATS)

            async def requests():
                for number in range(5):
                    yield {"model_name": "identity", "inputs": [put], "request_id": str(number)}

            told = [(result.get_response().id, error) async for result, error in c.stream_infer(requests())]
            same(told, [(str(number), None) for number in range(5)])

    asyncio.run(calls())


if __name__ == "__main__":
    suite.main()
