"""A model that streams, `babble`, through Triton's unmodified gRPC clients against a running gateway's gRPC port."""

import asyncio
import queue

import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio as aio
from tritonclient.utils import InferenceServerException

from harness import Suite, contains, same

suite = Suite(__doc__)
WORDS = 12


def prompt(text="the gateway", module=triton):
    array = np.array([text.encode()], np.object_)
    return [module.InferInput("PROMPT", [1], "BYTES").set_data_from_numpy(array)]


def word(result):
    return result.as_numpy("WORD")[0].decode()


def is_last(response):
    return response.parameters["triton_final_response"].bool_param


def words(url, count, **options):
    """The words and errors that a stream of its own gives to one request, and whether each was the last."""
    told = queue.Queue()
    with triton.InferenceServerClient(url) as client:
        client.start_stream(callback=lambda result, error: told.put((result, error)))
        client.async_stream_infer("babble", prompt(), parameters={"max_words": count}, **options)
        client.stop_stream()
    return [told.get_nowait() for _ in range(told.qsize())]


@suite.case("the configuration says that the model streams")
def _(url):
    with triton.InferenceServerClient(url) as client:
        same(client.get_model_config("babble").config.model_transaction_policy.decoupled, True)
        same(client.get_model_config("identity").config.model_transaction_policy.decoupled, False)


@suite.case("each word is a response of its own, and the same seed gives the same words")
def _(url):
    first, second = words(url, WORDS), words(url, WORDS)
    same([error for _, error in first + second], [None] * 2 * WORDS)
    texts = [word(result) for result, _ in first]
    same(len(texts), WORDS)
    same([word(result) for result, _ in second], texts)
    same([is_last(result.get_response()) for result, _ in first], [False] * WORDS)


@suite.case("a client that asks for it is told of the end")
def _(url):
    told = words(url, 3, enable_empty_final_response=True, request_id="seven")
    same([error for _, error in told], [None] * 4)
    responses = [result.get_response() for result, _ in told]
    same([is_last(response) for response in responses], [False, False, False, True])
    same([len(response.outputs) for response in responses], [1, 1, 1, 0])
    same({response.id for response in responses}, {"seven"})


@suite.case("one word can be asked for by an ordinary call, more cannot")
def _(url):
    with triton.InferenceServerClient(url) as client:
        word(client.infer("babble", prompt(), parameters={"max_words": 1}))
        try:
            client.infer("babble", prompt(), parameters={"max_words": 2})
        except InferenceServerException as error:
            same(error.status(), "StatusCode.INVALID_ARGUMENT")
            contains(error.message(), "several responses", "ModelStreamInfer")
        else:
            raise AssertionError("two responses to an ordinary call")


@suite.case("an error is one response, and the stream goes on")
def _(url):
    async def run():
        async def requests():
            for count in [2, -1, 1]:
                yield {
                    "model_name": "babble",
                    "inputs": prompt(module=aio),
                    "parameters": {"max_words": count},
                }

        async with aio.InferenceServerClient(url) as client:
            return [told async for told in client.stream_infer(requests())]

    told = asyncio.run(run())
    same([error is None for _, error in told], [True, True, False, True])
    contains(told[2][1].message(), "'max_words' must not be negative")


@suite.case("a client that leaves early is not missed")
def _(url):
    async def run():
        async with aio.InferenceServerClient(url) as client:
            async def requests():
                yield {"model_name": "babble", "inputs": prompt(module=aio), "parameters": {"max_words": 10**9}}

            stream = client.stream_infer(requests())
            for _ in range(50):
                _, error = await anext(stream)
                same(error, None)
            stream.cancel()

    asyncio.run(run())
    same(len(words(url, 2)), 2)


if __name__ == "__main__":
    suite.main()
