"""The unmodified Python client of NVIDIA Triton (`tritonclient[http]`, synchronous and aio) against a running gateway."""

import asyncio

import ml_dtypes
import numpy as np
import tritonclient.http as triton
import tritonclient.http.aio as aio
from tritonclient.utils import InferenceServerException

from harness import Suite, contains, same, shorten

suite = Suite(__doc__)
LARGE = 150528  # elements of one 224 x 224 RGB image


def client(url, concurrency=1):
    return triton.InferenceServerClient(url, concurrency=concurrency)


def tensor(name, array, datatype, binary=True):
    put = triton.InferInput(name, list(array.shape), datatype)
    return put.set_data_from_numpy(array, binary_data=binary)


def wanted(name, binary=True):
    return triton.InferRequestedOutput(name, binary_data=binary)


def equal(got, expected, what="OUTPUT0"):
    """Fails unless the arrays are the same element for element; NaN equals NaN, and -0.0 is not 0.0."""
    if got is None:
        raise AssertionError(f"{what} is missing")
    same(got.shape, expected.shape, f"shape of {what}")
    if expected.dtype == np.object_:
        same([as_bytes(e) for e in got.ravel()], [as_bytes(e) for e in expected.ravel()], what)
        return
    same(got.dtype, expected.dtype, f"dtype of {what}")
    nan = np.zeros(got.shape, bool) if got.dtype.kind in "biu" else np.isnan(got.astype(np.float64))
    bits = np.uint8 if got.dtype == bool else np.dtype(f"u{got.dtype.itemsize}")
    both = nan & (np.zeros(got.shape, bool) if got.dtype.kind in "biu" else np.isnan(expected.astype(np.float64)))
    wrong = np.flatnonzero((got.view(bits) != expected.view(bits)) & ~both)
    if wrong.size:
        i = wrong[0]
        raise AssertionError(
            f"{what}: {wrong.size} of {got.size} elements differ, first [{i}]: "
            f"expected {expected.ravel()[i]!r}, got {got.ravel()[i]!r}"
        )


def as_bytes(element):
    """JSON gives str, binary gives bytes: the element's bytes are what counts."""
    return element.encode() if isinstance(element, str) else bytes(element)


def refused(status, *words):
    """A context in which the client must raise, with that status and a text that holds every word."""

    class Refused:
        def __enter__(self):
            return self

        def __exit__(self, kind, error, trace):
            if error is None:
                raise AssertionError(f"expected status {status}, the call succeeded")
            if not isinstance(error, InferenceServerException):
                return False
            same(error.status(), str(status), f"status of {shorten(error.message())}")
            contains(error.message(), *words)
            return True

    return Refused()


# --- health and metadata ------------------------------------------------------------------------------------------


@suite.case("server is live and ready")
def _(url):
    with client(url) as c:
        same((c.is_server_live(), c.is_server_ready()), (True, True))


@suite.case("server metadata")
def _(url):
    with client(url) as c:
        metadata = c.get_server_metadata()
        same(sorted(metadata), ["extensions", "name", "version"], "keys")
        same("binary_tensor_data" in metadata["extensions"], True, "binary extension announced")


@suite.each("model metadata", ["identity", "identity_onnx"])
def _(url, model):
    with client(url) as c:
        metadata = c.get_model_metadata(model)
        same(metadata["name"], model)
        same(metadata["versions"], ["1"])
        same(metadata["inputs"], [{"name": "INPUT0", "datatype": "FP32", "shape": [-1, -1]}])
        same(metadata["outputs"], [{"name": "OUTPUT0", "datatype": "FP32", "shape": [-1, -1]}])
        same(bool(metadata["platform"]), True, "platform is given")
        same(c.get_model_metadata(model, "1"), metadata, "metadata by version")


@suite.case("metadata of two versions")
def _(url):
    with client(url) as c:
        same(sorted(c.get_model_metadata("versions")["versions"]), ["1", "2"])
        same("2" in c.get_model_metadata("versions", "2")["versions"], True)


@suite.case("model readiness, by name and by version")
def _(url):
    with client(url) as c:
        for model, version, ready in [
            ("identity", "", True), ("identity", "1", True), ("versions", "1", True), ("versions", "2", True),
            ("versions", "9", False), ("no-such-model", "", False),
        ]:  # fmt: skip
            same(c.is_model_ready(model, version), ready, f"{model} {version}")


@suite.case("query parameters do not change the route")
def _(url):
    with client(url) as c:
        same(c.is_server_ready(query_params={"a": 1, "b": ["x y", "/"]}), True)
        same(c.get_model_metadata("identity", query_params={"v": "2"})["name"], "identity")


# --- datatypes ----------------------------------------------------------------------------------------------------


def integers(datatype, dtype):
    info = np.iinfo(dtype)
    random = np.random.default_rng(1)
    edges = np.array([info.min, info.min + 1, 0, 1, info.max - 1, info.max], dtype)
    return datatype, np.concatenate([edges, random.integers(info.min, info.max, 97, dtype, endpoint=True)])


def floats(datatype, dtype):
    """Edge values of the type itself: both zeros, the smallest subnormal, the largest, infinities and NaN."""
    info = ml_dtypes.finfo(dtype)
    random = np.random.default_rng(2)
    edges = [0.0, -0.0, 1.0, -1.5, info.smallest_subnormal, info.tiny, info.max, info.min, np.inf, -np.inf, np.nan]
    # Rounded through the type, so that every bit pattern is one that the type holds.
    return datatype, np.concatenate([np.array(edges, dtype), (random.standard_normal(97) * 100).astype(dtype)])


TEXTS = ["", "a", "hello", "grüße", "日本語", "🦀", 'quote " and \\ and /', "line\nbreak\ttab", "\u0000null", "\u2028"]

NUMERIC = [
    ("BOOL", np.concatenate([np.array([True, False]), np.random.default_rng(3).integers(0, 2, 61).astype(bool)])),
    *[integers(f"UINT{bits}", np.dtype(f"uint{bits}")) for bits in (8, 16, 32, 64)],
    *[integers(f"INT{bits}", np.dtype(f"int{bits}")) for bits in (8, 16, 32, 64)],
    *[floats(f"FP{bits}", np.dtype(f"float{bits}")) for bits in (16, 32, 64)],
]
JSON_TYPES = [*NUMERIC, ("BYTES", np.array(TEXTS, object))]
BINARY_TYPES = [*JSON_TYPES, floats("BF16", np.dtype(ml_dtypes.bfloat16))]


def echo(url, model, array, datatype, sent_binary, got_binary, **options):
    with client(url) as c:
        result = c.infer(
            model, [tensor("INPUT0", array, datatype, sent_binary)], outputs=[wanted("OUTPUT0", got_binary)], **options
        )
    output = result.get_output("OUTPUT0")
    same((output["datatype"], output["shape"]), (datatype, list(array.shape)), "datatype and shape")
    same("data" in output, not got_binary, "output is JSON")
    equal(result.as_numpy("OUTPUT0"), array)
    return result


@suite.each("binary in, binary out", BINARY_TYPES)
def _(url, value):
    datatype, array = value
    echo(url, f"id_{datatype.lower()}", array, datatype, True, True)


@suite.each("JSON in, JSON out", JSON_TYPES)
def _(url, value):
    datatype, array = value
    echo(url, f"id_{datatype.lower()}", array, datatype, False, False)


@suite.each("JSON in, binary out", JSON_TYPES)
def _(url, value):
    datatype, array = value
    echo(url, f"id_{datatype.lower()}", array, datatype, False, True)


@suite.each("binary in, JSON out", JSON_TYPES)
def _(url, value):
    datatype, array = value
    echo(url, f"id_{datatype.lower()}", array, datatype, True, False)


@suite.each("no outputs named: all come back, binary", BINARY_TYPES)
def _(url, value):
    datatype, array = value
    with client(url) as c:
        result = c.infer(f"id_{datatype.lower()}", [tensor("INPUT0", array, datatype)])
    same("data" in result.get_output("OUTPUT0"), False, "output is JSON")
    equal(result.as_numpy("OUTPUT0"), array)


@suite.each("empty tensor, all four ways", BINARY_TYPES)
def _(url, value):
    datatype, array = value
    ways = [(True, True)] if datatype == "BF16" else [(a, b) for a in (True, False) for b in (True, False)]
    for sent_binary, got_binary in ways:
        echo(url, f"id_{datatype.lower()}", array[:0], datatype, sent_binary, got_binary)


@suite.each("one element", BINARY_TYPES)
def _(url, value):
    datatype, array = value
    echo(url, f"id_{datatype.lower()}", array[:1], datatype, True, True)


@suite.case("BYTES that are not UTF-8 travel in binary")
def _(url):
    array = np.array([b"\xff\xfe", b"\x00", b"", bytes(range(256)), b"\xed\xa0\x80"], object)
    echo(url, "id_bytes", array, "BYTES", True, True)


@suite.case("BYTES that are not UTF-8 cannot be had as JSON")
def _(url):
    array = np.array([b"\xff"], object)
    with client(url) as c, refused(400, "OUTPUT0", "binary"):
        c.infer("id_bytes", [tensor("INPUT0", array, "BYTES")], outputs=[wanted("OUTPUT0", False)])


@suite.case("BF16 cannot be had as JSON")
def _(url):
    array = np.ones(2, ml_dtypes.bfloat16)
    with client(url) as c, refused(400, "OUTPUT0", "BF16", "binary"):
        c.infer("id_bf16", [tensor("INPUT0", array, "BF16")], outputs=[wanted("OUTPUT0", False)])


@suite.case("BYTES of 1 MiB in one element, and 20000 elements")
def _(url):
    for array in (np.array([b"\xa5" * (1 << 20)], object), np.array([b"%d" % i for i in range(20000)], object)):
        echo(url, "id_bytes", array, "BYTES", True, True)


@suite.each("two-dimensional shapes", ["identity", "identity_onnx"])
def _(url, model):
    random = np.random.default_rng(4)
    for shape in [(1, 4), (3, 5), (7, 1), (1, 1)]:
        array = random.standard_normal(shape).astype(np.float32)
        for sent_binary, got_binary in [(True, True), (False, False)]:
            echo(url, model, array, "FP32", sent_binary, got_binary)


@suite.case("empty two-dimensional shapes")
def _(url):
    for shape in [(0, 4), (4, 0), (0, 0)]:
        echo(url, "identity", np.zeros(shape, np.float32), "FP32", True, True)
        echo(url, "identity", np.zeros(shape, np.float32), "FP32", False, False)


LARGE_WAYS = [
    (f"{model}, {form}", model, form == "binary")
    for model in ("identity", "identity_onnx")
    for form in ("binary", "JSON")
]


@suite.each("large tensor FP32 [1,150528]", LARGE_WAYS)
def _(url, value):
    _, model, binary = value
    array = np.random.default_rng(5).standard_normal((1, LARGE)).astype(np.float32)
    echo(url, model, array, "FP32", binary, binary)


# --- outputs, ids, parameters, versions ---------------------------------------------------------------------------

FLOATS = np.array([[1.5, -2.25, 0.0, 4.125]], np.float32)
INTS = np.array([3, -7, 11], np.int32)


def two_inputs(binary=True):
    return [tensor("INPUT0", FLOATS, "FP32", binary), tensor("INPUT1", INTS, "INT32", binary)]


@suite.case("two inputs and two outputs")
def _(url):
    with client(url) as c:
        for inputs in (two_inputs(), two_inputs(False), two_inputs()[::-1]):
            result = c.infer("two_io", inputs)
            equal(result.as_numpy("OUTPUT0"), FLOATS, "OUTPUT0")
            equal(result.as_numpy("OUTPUT1"), INTS, "OUTPUT1")


@suite.case("one input binary, the other JSON")
def _(url):
    with client(url) as c:
        inputs = [tensor("INPUT0", FLOATS, "FP32", False), tensor("INPUT1", INTS, "INT32", True)]
        result = c.infer("two_io", inputs)
        equal(result.as_numpy("OUTPUT0"), FLOATS, "OUTPUT0")
        equal(result.as_numpy("OUTPUT1"), INTS, "OUTPUT1")


@suite.case("only the outputs that were asked for, in that order")
def _(url):
    with client(url) as c:
        result = c.infer("two_io", two_inputs(), outputs=[wanted("OUTPUT1")])
        same([o["name"] for o in result.get_response()["outputs"]], ["OUTPUT1"])
        equal(result.as_numpy("OUTPUT1"), INTS, "OUTPUT1")
        same(result.as_numpy("OUTPUT0"), None)
        result = c.infer("two_io", two_inputs(), outputs=[wanted("OUTPUT1"), wanted("OUTPUT0")])
        same([o["name"] for o in result.get_response()["outputs"]], ["OUTPUT1", "OUTPUT0"])
        equal(result.as_numpy("OUTPUT0"), FLOATS, "OUTPUT0")
        equal(result.as_numpy("OUTPUT1"), INTS, "OUTPUT1")


@suite.case("one output binary, the other JSON")
def _(url):
    with client(url) as c:
        result = c.infer("two_io", two_inputs(), outputs=[wanted("OUTPUT0", False), wanted("OUTPUT1", True)])
        same(result.get_output("OUTPUT0")["data"], FLOATS.ravel().tolist())
        equal(result.as_numpy("OUTPUT1"), INTS, "OUTPUT1")


@suite.case("the request's id is echoed, none is made up")
def _(url):
    with client(url) as c:
        for request_id in ("42", "a b/c", "ünïcode 🦀", "x" * 200):
            result = c.infer("identity", [tensor("INPUT0", FLOATS, "FP32")], request_id=request_id)
            same(result.get_response()["id"], request_id, "id")
        same(c.infer("identity", [tensor("INPUT0", FLOATS, "FP32")]).get_response().get("id"), None, "id")


@suite.case("model name and version are in the answer")
def _(url):
    with client(url) as c:
        response = c.infer("identity", [tensor("INPUT0", FLOATS, "FP32")]).get_response()
        same((response["model_name"], response["model_version"]), ("identity", "1"))


@suite.case("parameters of every kind are accepted")
def _(url):
    given = {"text": "é", "whole": -5, "large": 2**53, "fraction": 0.25, "yes": True, "no": False}
    with client(url) as c:
        result = c.infer("identity", [tensor("INPUT0", FLOATS, "FP32")], parameters=given, priority=1)
        equal(result.as_numpy("OUTPUT0"), FLOATS)


@suite.case("a version in the URL, and none: the highest")
def _(url):
    array = np.array([1.0, 2.0], np.float32)
    with client(url) as c:
        for asked, answered in [("1", "1"), ("2", "2"), ("", "2")]:
            result = c.infer("versions", [tensor("INPUT0", array, "FP32")], model_version=asked)
            same(result.get_response()["model_version"], answered, f"version asked {asked!r}")


# --- compression --------------------------------------------------------------------------------------------------


@suite.each("compression", ["gzip", "deflate"])
def _(url, algorithm):
    array = np.zeros((1, 20000), np.float32)
    array[0, ::7] = 1.25
    for sent, got in [(algorithm, None), (None, algorithm), (algorithm, algorithm)]:
        for binary in (True, False):
            echo(
                url, "identity", array, "FP32", binary, binary,
                request_compression_algorithm=sent, response_compression_algorithm=got,
            )  # fmt: skip


@suite.case("gzip one way, deflate the other")
def _(url):
    echo(
        url, "identity", FLOATS, "FP32", True, True,
        request_compression_algorithm="gzip", response_compression_algorithm="deflate",
    )  # fmt: skip


# --- errors -------------------------------------------------------------------------------------------------------


@suite.case("unknown model: 404")
def _(url):
    with client(url) as c:
        with refused(404, "no-such-model"):
            c.infer("no-such-model", [tensor("INPUT0", FLOATS, "FP32")])
        with refused(404, "no-such-model"):
            c.get_model_metadata("no-such-model")
        with refused(404):
            c.infer("a model with spaces", [tensor("INPUT0", FLOATS, "FP32")])


@suite.case("unknown version: 404")
def _(url):
    with client(url) as c:
        with refused(404, "identity", "9"):
            c.infer("identity", [tensor("INPUT0", FLOATS, "FP32")], model_version="9")
        with refused(404, "identity", "9"):
            c.get_model_metadata("identity", "9")


@suite.each("wrong input name: 400, the name in the text", ["identity", "identity_onnx"])
def _(url, model):
    with client(url) as c, refused(400, "TYPO", "INPUT0"):
        c.infer(model, [tensor("TYPO", FLOATS, "FP32")])


@suite.each("wrong datatype: 400, both in the text", ["identity", "identity_onnx"])
def _(url, model):
    for binary in (True, False):
        with client(url) as c, refused(400, "INPUT0", "INT32", "FP32"):
            c.infer(model, [tensor("INPUT0", FLOATS.astype(np.int32), "INT32", binary)])


@suite.case("wrong shape: 400, expected and given in the text")
def _(url):
    with client(url) as c:
        with refused(400, "INPUT0", "[1,5]", "[1,4]"):
            c.infer("two_io", [tensor("INPUT0", np.zeros((1, 5), np.float32), "FP32"), tensor("INPUT1", INTS, "INT32")])
        with refused(400, "INPUT0", "[4]", "[-1,-1]"):
            c.infer("identity", [tensor("INPUT0", FLOATS[0], "FP32")])
        with refused(400, "INPUT0", "[1,1,4]", "[-1,-1]"):
            c.infer("identity_onnx", [tensor("INPUT0", FLOATS[None], "FP32")])


@suite.case("a missing input: 400, its name in the text")
def _(url):
    with client(url) as c, refused(400, "INPUT1"):
        c.infer("two_io", two_inputs()[:1])


@suite.case("an input given twice: 400")
def _(url):
    with client(url) as c, refused(400, "INPUT0"):
        c.infer("two_io", [tensor("INPUT0", FLOATS, "FP32")] * 2)


@suite.case("an unknown output: 400, the name in the text")
def _(url):
    with client(url) as c, refused(400, "NOPE"):
        c.infer("identity", [tensor("INPUT0", FLOATS, "FP32")], outputs=[wanted("NOPE")])


@suite.each("classification: the best of each item, as texts", [("binary", True), ("JSON", False)])
def _(url, value):
    batch = np.array([[1.0, 2.5, -3.0, 4.0], [0.0, 0.0, 9.5, -1.0]], np.float32)
    best = triton.InferRequestedOutput("OUTPUT0", binary_data=value[1], class_count=2)
    with client(url) as c:
        got = c.infer("identity", [tensor("INPUT0", batch, "FP32")], outputs=[best]).as_numpy("OUTPUT0")
    expected = [["4.000000:3", "2.500000:1"], ["9.500000:2", "0.000000:0"]]
    equal(got, np.array(expected, np.object_))


@suite.case("a model that fails: 502, and the next call succeeds")
def _(url):
    with client(url) as c:
        with refused(502, "always fails"):
            c.infer("failing", [tensor("INPUT0", FLOATS, "FP32")])
        equal(c.infer("identity", [tensor("INPUT0", FLOATS, "FP32")]).as_numpy("OUTPUT0"), FLOATS)


@suite.case("the timeout parameter shortens the deadline: 504")
def _(url):
    with client(url) as c:
        with refused(504, "deadline"):
            c.infer("identity", [tensor("INPUT0", FLOATS, "FP32")], timeout=1)
        result = c.infer("identity", [tensor("INPUT0", FLOATS, "FP32")], timeout=10_000_000)
        equal(result.as_numpy("OUTPUT0"), FLOATS)


@suite.case("one connection survives an error of every kind")
def _(url):
    with client(url) as c:
        for _ in range(3):
            with refused(404):
                c.infer("no-such-model", [tensor("INPUT0", FLOATS, "FP32")])
            with refused(400):
                c.infer("identity", [tensor("TYPO", FLOATS, "FP32")])
            equal(c.infer("identity", [tensor("INPUT0", FLOATS, "FP32")]).as_numpy("OUTPUT0"), FLOATS)


# --- configuration, statistics, logs and traces --------------------------------------------------------------------


@suite.each("model configuration agrees with the metadata", ["identity", "identity_onnx"])
def _(url, model):
    with client(url) as c:
        config, metadata = c.get_model_config(model), c.get_model_metadata(model)
        same(c.get_model_config(model, "1"), config, "configuration by version")
        same((config["name"], config["platform"]), (model, metadata["platform"]))
        same(config["model_transaction_policy"], {"decoupled": False})
        batch = [-1] if config["max_batch_size"] else []
        for key in ("input", "output"):
            same([t["data_type"] for t in config[key]], ["TYPE_FP32"])
            same([batch + t["dims"] for t in config[key]], [t["shape"] for t in metadata[key + "s"]], key)


@suite.each("statistics say exactly what was called", ["identity", "identity_onnx"])
def _(url, model):
    with client(url) as c:

        def counts():
            (entry,) = c.get_inference_statistics(model, "1")["model_stats"]
            stats = entry["inference_stats"]
            for name in ("queue", "compute_input", "compute_infer", "compute_output"):
                same(stats[name]["count"], stats["success"]["count"], name)
            return entry["inference_count"], stats["success"]["count"], stats["fail"]["count"], stats["success"]["ns"]

        before = counts()
        for _ in range(5):
            c.infer(model, [tensor("INPUT0", FLOATS, "FP32")])
        for _ in range(3):
            with refused(400):
                c.infer(model, [tensor("TYPO", FLOATS, "FP32")])
        after = counts()
        same([new - old for new, old in zip(after[:3], before[:3])], [5, 5, 3], "calls")
        same(after[3] > before[3], True, "time grows")
        listed = c.get_inference_statistics()["model_stats"]
        same((model, "1") in [(entry["name"], entry["version"]) for entry in listed], True, "listed")


@suite.case("logs and traces are told and not changed, shared memory is refused")
def _(url):
    with client(url) as c:
        same(c.get_log_settings()["log_file"], "")
        same(c.get_trace_settings("identity")["trace_level"], ["OFF"])
        with refused(501, "cannot be changed"):
            c.update_log_settings({"log_verbose_level": 5})
        with refused(501):
            c.update_trace_settings(settings={"trace_level": ["TIMESTAMPS"]})
        with refused(501, "shared memory is not offered"):
            c.register_system_shared_memory("region", "/region", 64)
        with refused(501, "shared memory is not offered"):
            c.get_system_shared_memory_status()


# --- concurrency --------------------------------------------------------------------------------------------------


@suite.each("50 asynchronous calls, each gets its own answer", ["identity", "identity_onnx"])
def _(url, model):
    with client(url, concurrency=50) as c:
        arrays = [np.full((1 + i % 3, 4), i, np.float32) for i in range(50)]
        calls = [c.async_infer(model, [tensor("INPUT0", a, "FP32")], request_id=str(i)) for i, a in enumerate(arrays)]
        for i, (call, array) in enumerate(zip(calls, arrays)):
            result = call.get_result()
            same(result.get_response()["id"], str(i), "id")
            equal(result.as_numpy("OUTPUT0"), array)


@suite.case("the aio client: metadata, calls at once, refusals, compression")
def _(url):
    async def calls():
        async with aio.InferenceServerClient(url) as c:
            same((await c.is_server_live(), await c.is_model_ready("identity")), (True, True))
            same((await c.get_model_metadata("identity"))["name"], "identity")
            put = aio.InferInput("INPUT0", list(FLOATS.shape), "FP32").set_data_from_numpy(FLOATS)
            options = [{}, {"request_compression_algorithm": "gzip", "response_compression_algorithm": "gzip"}]
            asked = [c.infer("identity", [put], request_id=str(i), **options[i % 2]) for i in range(32)]
            for i, result in enumerate(await asyncio.gather(*asked)):
                same(result.get_response()["id"], str(i), "id")
                equal(result.as_numpy("OUTPUT0"), FLOATS)
            with refused(404, "no-such-model"):
                await c.infer("no-such-model", [put])
            success = (await c.get_inference_statistics("identity"))["model_stats"][0]["inference_stats"]["success"]
            same(success["count"] >= 32, True, f"{success['count']} calls are counted")

    asyncio.run(calls())


@suite.case("good calls among failing ones")
def _(url):
    with client(url, concurrency=20) as c:
        calls = []
        for i in range(60):
            model, array = ("failing", FLOATS) if i % 3 == 0 else ("identity", FLOATS * i)
            calls.append((array, model, c.async_infer(model, [tensor("INPUT0", array, "FP32")])))
        for array, model, call in calls:
            if model == "failing":
                with refused(502):
                    call.get_result()
            else:
                equal(call.get_result().as_numpy("OUTPUT0"), array)


if __name__ == "__main__":
    suite.main()
