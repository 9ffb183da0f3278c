"""The unmodified Python clients of KServe (`kserve.InferenceRESTClient` and `kserve.InferenceGRPCClient`) against both doors of a running gateway."""

import asyncio
import json
import ssl
import sys
import time
import urllib.request

from harness import Suite, contains, same

try:
    import grpc
    import httpx
    import numpy as np
    from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig
    from kserve.logging import logger, trace_logger
    from kserve.protocol.grpc import grpc_predict_v2_pb2 as messages
    from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub
    from kserve.protocol.infer_type import RequestedOutput
except ImportError as error:
    # There is no kserve for later versions of Python: requirements-kserve.txt leaves it out there.
    if sys.version_info >= (3, 14):
        print(f"skipped: kserve needs Python before 3.14 ({error})")
        print("0 passed, 0 failed")
        sys.exit(0)
    raise

# Every refusal that a case asks for would be logged with a traceback.
logger.disabled = trace_logger.disabled = True

suite = Suite(__doc__)
FLOATS = np.array([[1.5, -2.25, 0.0, 4.125]], np.float32)
INTS = np.array([3, -7, 11], np.int32)


class Rest:
    """KServe's REST client at the gateway's address."""

    def __init__(self, url):
        self.base = f"{'https' if suite.ca else 'http'}://{url}"
        self.client = InferenceRESTClient(RESTConfig(protocol="v2", verify=trusted() or True))

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        await self.client.close()

    async def infer(self, request):
        return await self.client.infer(self.base, request, model_name=request.model_name)

    async def health(self):
        return await self.client.is_server_live(self.base), await self.client.is_server_ready(self.base)

    async def is_model_ready(self, model):
        return await self.client.is_model_ready(self.base, model)


class Grpc:
    """KServe's gRPC client at the gateway's gRPC port."""

    def __init__(self, _):
        self.client = InferenceGRPCClient(suite.grpc_url, use_ssl=bool(suite.ca), root_certificates=suite.ca)

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        await self.client.close()

    async def infer(self, request):
        return await self.client.infer(request)

    async def health(self):
        return await self.client.is_server_live(), await self.client.is_server_ready()

    async def is_model_ready(self, model):
        return await self.client.is_model_ready(model)


def trusted():
    return ssl.create_default_context(cafile=suite.ca) if suite.ca else None


DOORS = [("REST", Rest), ("gRPC", Grpc)]


def each_door(name):
    """Adds an asynchronous case twice; it takes the client, opened."""

    def add(function):
        for label, door in DOORS:

            def run(url, door=door):
                async def opened():
                    async with door(url) as client:
                        await function(client)

                asyncio.run(opened())

            suite.cases.append((f"{label}: {name}", run))
        return function

    return add


def tensor(name, array, datatype, binary=True):
    put = InferInput(name, list(array.shape), datatype)
    put.set_data_from_numpy(array, binary_data=binary)
    return put


def request(model, *inputs, binary=True, **more):
    """A request whose outputs come as its inputs go."""
    return InferRequest(model, list(inputs), parameters={"binary_data_output": binary}, **more)


def plain(number=0, model="identity", **more):
    return request(model, tensor("INPUT0", FLOATS + number, "FP32"), **more)


def equal(response, expected, name="OUTPUT0"):
    """Fails unless the output is there with these elements, bit for bit."""
    output = response.get_output_by_name(name)
    same(list(output.shape), list(expected.shape), f"shape of {name}")
    got = output.as_numpy()
    if expected.dtype == np.object_:
        raw = [element.encode() if isinstance(element, str) else element for element in got.ravel()]
        same(raw, list(expected.ravel()), name)
    else:
        same((got.dtype, got.tobytes()), (expected.dtype, expected.tobytes()), name)


async def refused(client, call, status, code, *words):
    """Fails unless the call fails as KServe's client reports it: with that status over REST, with that code over gRPC."""
    try:
        await call
    except httpx.HTTPStatusError as error:
        same((type(client), error.response.status_code), (Rest, status), f"status of {error}")
        contains(str(error), *words)
    except grpc.aio.AioRpcError as error:
        same((type(client), error.code()), (Grpc, code), f"code of {error.details()}")
        contains(error.details(), *words)
    else:
        raise AssertionError(f"expected {status} or {code}, the call succeeded")


@each_door("live, ready, and which models are ready")
async def _(client):
    same(await client.health(), (True, True))
    ready = [await client.is_model_ready(model) for model in ("identity", "versions", "no-such-model", "a b")]
    same(ready, [True, True, False, False])


def values(dtype):
    info = np.iinfo(dtype)
    return np.array([info.min, 0, 1, info.max], dtype)


TYPES = [
    ("BOOL", np.array([True, False, True])),
    *[(f"UINT{bits}", values(f"uint{bits}")) for bits in (8, 16, 32, 64)],
    *[(f"INT{bits}", values(f"int{bits}")) for bits in (8, 16, 32, 64)],
    *[(f"FP{bits}", np.array([0.0, -0.0, 1.5, -2.25, 0.1], f"float{bits}")) for bits in (16, 32, 64)],
    ("BYTES", np.array([b"", b"a", "grüße ☃".encode()], object)),
]


@each_door("there and back in every datatype, as bytes")
async def _(client):
    for datatype, array in [*TYPES, ("BYTES", np.array([bytes(range(256))], object))]:
        # KServe's REST client cannot write what is not UTF-8 into the lists that it makes of binary answers.
        if datatype == "BYTES" and isinstance(client, Rest) and len(array) == 1:
            continue
        model = f"id_{datatype.lower()}"
        response = await client.infer(request(model, tensor("INPUT0", array, datatype)))
        same(response.outputs[0].datatype, datatype, "datatype")
        equal(response, array)


@each_door("there and back in every datatype, as numbers and texts")
async def _(client):
    for datatype, array in TYPES:
        # Which the client itself refuses: FP16 travels as bytes only.
        if datatype == "FP16":
            continue
        put = tensor("INPUT0", array, datatype, binary=False)
        response = await client.infer(request(f"id_{datatype.lower()}", put, binary=False))
        equal(response, array)


@each_door("empty tensors")
async def _(client):
    for datatype, array in TYPES:
        if datatype == "FP16" and isinstance(client, Rest):
            continue
        # Over REST the client has no binary form for no bytes.
        put = tensor("INPUT0", array[:0], datatype, binary=isinstance(client, Grpc) and datatype == "FP16")
        response = await client.infer(request(f"id_{datatype.lower()}", put, binary=False))
        same(response.outputs[0].as_numpy().shape, (0,), datatype)


@each_door("a large tensor")
async def _(client):
    array = np.random.default_rng(5).standard_normal((4, 150528)).astype(np.float32)
    equal(await client.infer(request("identity", tensor("INPUT0", array, "FP32"))), array)


@each_door("two inputs, and one of two outputs")
async def _(client):
    inputs = [tensor("INPUT0", FLOATS, "FP32"), tensor("INPUT1", INTS, "INT32")]
    response = await client.infer(request("two_io", *inputs))
    equal(response, FLOATS, "OUTPUT0")
    equal(response, INTS, "OUTPUT1")
    wanted = [RequestedOutput("OUTPUT1", {"binary_data": True})]
    response = await client.infer(request("two_io", *inputs, request_outputs=wanted))
    same([output.name for output in response.outputs], ["OUTPUT1"])
    equal(response, INTS, "OUTPUT1")


@each_door("ids come back, also those that the client makes up")
async def _(client):
    for request_id in ("42", "ünïcode 🦀"):
        same((await client.infer(plain(request_id=request_id))).id, request_id)
    made_up = (await client.infer(plain())).id
    same(bool(made_up), isinstance(client, Rest), f"an id: {made_up!r}")


@each_door("parameters are taken, and what is reserved is refused")
async def _(client):
    put = tensor("INPUT0", FLOATS, "FP32")
    own = {"text": "é", "number": 3, "flag": True, "binary_data_output": True}
    equal(await client.infer(InferRequest("identity", [put], parameters=own)), FLOATS)
    reserved = InferRequest("identity", [put], parameters={"triton_x": 1})
    await refused(client, client.infer(reserved), 400, grpc.StatusCode.INVALID_ARGUMENT, "triton_x")


@each_door("refusals, and the next call succeeds")
async def _(client):
    status = grpc.StatusCode
    for wrong, number, code, words in [
        (plain(model="no-such-model"), 404, status.NOT_FOUND, ["no-such-model"]),
        (request("identity", tensor("TYPO", FLOATS, "FP32")), 400, status.INVALID_ARGUMENT, ["TYPO", "INPUT0"]),
        (request("identity", tensor("INPUT0", INTS[None], "INT32")), 400, status.INVALID_ARGUMENT, ["INT32", "FP32"]),
        (request("identity", tensor("INPUT0", FLOATS[0], "FP32")), 400, status.INVALID_ARGUMENT, ["[4]", "[-1,-1]"]),
        (request("two_io", tensor("INPUT0", FLOATS, "FP32")), 400, status.INVALID_ARGUMENT, ["INPUT1"]),
        (plain(request_outputs=[RequestedOutput("NOPE")]), 400, status.INVALID_ARGUMENT, ["NOPE"]),
        (plain(model="failing"), 502, status.INTERNAL, ["always fails"]),
    ]:
        await refused(client, client.infer(wrong), number, code, *words)
        equal(await client.infer(plain()), FLOATS)


@each_door("50 calls at once, each gets its own answer")
async def _(client):
    calls = [client.infer(plain(number, request_id=str(number))) for number in range(50)]
    for number, response in enumerate(await asyncio.gather(*calls)):
        same(response.id, str(number))
        equal(response, FLOATS + number)


@suite.case("gRPC: a version by name, and the one that answers where none is named")
def _(url):
    async def calls():
        async with Grpc(url) as client:
            for asked, answered in [("1", "1"), ("2", "2"), (None, "2")]:
                put = tensor("INPUT0", INTS.astype(np.float32), "FP32")
                response = await client.infer(InferRequest("versions", [put], model_version=asked))
                same(response.model_version, answered, f"asked for {asked}")
                equal(response, INTS.astype(np.float32))

    asyncio.run(calls())


def counts(url, model):
    """Successes and failures that are counted once they stand still: a call may be counted after its answer was sent."""
    last = None
    for _ in range(50):
        address = f"{'https' if suite.ca else 'http'}://{url}/v2/models/{model}/versions/1/stats"
        with urllib.request.urlopen(address, timeout=30, context=trusted()) as answer:
            (entry,) = json.load(answer)["model_stats"]
        now = [entry["inference_stats"][key]["count"] for key in ("success", "fail", "compute_infer")]
        if now == last:
            break
        last = now
        time.sleep(0.1)
    return np.array(last)


def counted(url, door):
    async def calls():
        async with door(url) as client:
            for number in range(5):
                equal(await client.infer(plain(number)), FLOATS + number)
            wrong = request("identity", tensor("TYPO", FLOATS, "FP32"))
            for _ in range(2):
                await refused(client, client.infer(wrong), 400, grpc.StatusCode.INVALID_ARGUMENT, "TYPO")

    before = counts(url, "identity")
    asyncio.run(calls())
    same((counts(url, "identity") - before).tolist(), [5, 2, 5], "success, fail, compute_infer")


for label, door in DOORS:
    suite.cases.append((f"{label}: statistics say exactly what was called", lambda url, door=door: counted(url, door)))


@suite.case("gRPC: KServe's own messages unload and load a model")
def _(url):
    async def calls():
        async with Grpc(url) as client:
            stub = GRPCInferenceServiceStub(client.client._channel)
            unloaded = await stub.RepositoryModelUnload(messages.RepositoryModelUnloadRequest(model_name="id_int8"))
            same((unloaded.model_name, unloaded.isUnloaded), ("id_int8", True))
            same(await client.is_model_ready("id_int8"), False, "ready after unload")
            loaded = await stub.RepositoryModelLoad(messages.RepositoryModelLoadRequest(model_name="id_int8"))
            same((loaded.model_name, loaded.isLoaded), ("id_int8", True))
            same(await client.is_model_ready("id_int8"), True, "ready after load")
            unknown = stub.RepositoryModelLoad(messages.RepositoryModelLoadRequest(model_name="no-such-model"))
            await refused(client, unknown, 404, grpc.StatusCode.NOT_FOUND, "no-such-model")

    asyncio.run(calls())


if __name__ == "__main__":
    suite.main()
