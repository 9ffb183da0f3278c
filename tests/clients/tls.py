"""The unmodified Python clients of NVIDIA Triton (HTTP, gRPC, and the aio forms of both) against a gateway that speaks TLS on all ports."""

import asyncio
import ssl
import time

import numpy as np
import tritonclient.grpc as over_grpc
import tritonclient.grpc.aio as over_grpc_aio
import tritonclient.http as over_http
import tritonclient.http.aio as over_http_aio
from tritonclient.utils import InferenceServerException

from harness import Suite, contains, same

suite = Suite(__doc__)
# More than one record of TLS, and more than a frame of HTTP/2.
ARRAY = np.random.default_rng(7).standard_normal((2, 50_000)).astype(np.float32)
PATIENCE = 300


def trusted():
    return ssl.create_default_context(cafile=suite.ca)


def tensor(module):
    return module.InferInput("INPUT0", list(ARRAY.shape), "FP32").set_data_from_numpy(ARRAY)


def http(url):
    return over_http.InferenceServerClient(url, ssl=True, ssl_context_factory=trusted, concurrency=4)


def grpc(_):
    return over_grpc.InferenceServerClient(suite.grpc_url, ssl=True, root_certificates=suite.ca)


CLIENTS = [("HTTP", over_http, http), ("gRPC", over_grpc, grpc)]


@suite.case("the gateway becomes ready")
def _(url):
    started = time.monotonic()
    with grpc(url) as client:
        while not client.is_server_ready():
            same(time.monotonic() - started < PATIENCE, True, f"ready within {PATIENCE} s")
            time.sleep(0.1)


@suite.each("metadata, tensors and refusals", CLIENTS)
def _(url, value):
    _, module, connect = value
    with connect(url) as client:
        same((client.is_server_live(), client.is_model_ready("identity")), (True, True))
        for _ in range(3):
            got = client.infer("identity", [tensor(module)]).as_numpy("OUTPUT0")
            same(got.tobytes() == ARRAY.tobytes(), True, "the same elements")
        try:
            # Refused before all of it is sent; the answer has to be read all the same.
            client.infer("no-such-model", [tensor(module)])
        except InferenceServerException as error:
            contains(error.message(), "no-such-model")
            same(error.status() in ("404", "StatusCode.NOT_FOUND"), True, f"status {error.status()}")
        else:
            raise AssertionError("a model that there is not answers")


@suite.case("a stream")
def _(url):
    told = []
    with grpc(url) as client:
        client.start_stream(lambda result, error: told.append((result, error)))
        for number in range(5):
            client.async_stream_infer("identity", [tensor(over_grpc)], request_id=str(number))
        client.stop_stream()
    same([error for _, error in told], [None] * 5)
    same([result.get_response().id for result, _ in told], [str(number) for number in range(5)])
    same(all(result.as_numpy("OUTPUT0").tobytes() == ARRAY.tobytes() for result, _ in told), True, "the same elements")


@suite.case("the aio clients, 16 calls at once")
def _(url):
    async def calls(client, module):
        async with client:
            results = await asyncio.gather(*[client.infer("identity", [tensor(module)]) for _ in range(16)])
            same([result.as_numpy("OUTPUT0").tobytes() == ARRAY.tobytes() for result in results], [True] * 16)

    async def both():
        await calls(over_http_aio.InferenceServerClient(url, ssl=True, ssl_context=trusted()), over_http_aio)
        secured = over_grpc_aio.InferenceServerClient(suite.grpc_url, ssl=True, root_certificates=suite.ca)
        await calls(secured, over_grpc_aio)

    asyncio.run(both())


@suite.each("who speaks no TLS, or does not trust the certificate, gets no answer", CLIENTS)
def _(url, value):
    _, module, connect = value
    at = url if module is over_http else suite.grpc_url
    for options in ({}, {"ssl": True}):
        client = module.InferenceServerClient(at, **options)
        try:
            client.infer("identity", [tensor(module)])
            answered = True
        except Exception:  # each client has its own for it
            answered = False
        finally:
            client.close()
        same(answered, False, f"answered with {options}")
    with connect(url) as client:
        same(client.is_server_live(), True)


if __name__ == "__main__":
    suite.main()
