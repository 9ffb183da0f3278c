"""MLServer's own codecs (`mlserver.codecs`) against a running gateway: what they write, and what they read of the answers."""

import datetime
import json
import sys
import urllib.request

from harness import Suite, same

try:
    import numpy as np
    import pandas as pd
    from mlserver.codecs import (
        Base64Codec,
        DatetimeCodec,
        NumpyCodec,
        NumpyRequestCodec,
        PandasCodec,
        StringCodec,
        StringRequestCodec,
    )
    from mlserver.codecs.json import encode_to_json_bytes
    from mlserver.types import InferenceRequest, InferenceResponse, Parameters, RequestOutput
except ImportError as error:
    # There is no mlserver for later versions of Python: requirements-codecs.txt leaves it out there.
    if sys.version_info >= (3, 13):
        print(f"skipped: mlserver needs Python before 3.13 ({error})")
        print("0 passed, 0 failed")
        sys.exit(0)
    raise

suite = Suite(__doc__)


def infer(url, model, request, path="infer"):
    """Sends a request as MLServer's clients do; a lone input gets the name that the example models have for it."""
    if len(request.inputs) == 1:
        request.inputs[0].name = "INPUT0"
    body = encode_to_json_bytes(request.model_dump())
    headers = {"Content-Type": "application/json"}
    call = urllib.request.Request(f"http://{url}/v2/models/{model}/{path}", body, headers)
    with urllib.request.urlopen(call, timeout=30) as answer:
        return answer.read()


def answer(url, model, request):
    """The response as MLServer's client reads it; what is no strict JSON is a mistake."""
    text = infer(url, model, request)
    json.loads(text, parse_constant=lambda name: (_ for _ in ()).throw(ValueError(f"{name} is not JSON")))
    return InferenceResponse.model_validate_json(text)


def one(tensor, outputs=None, parameters=None):
    return InferenceRequest(inputs=[tensor], outputs=outputs, parameters=parameters)


BYTES = [b"\xff\x00\xfe", b"", b"plain text", bytes(range(256))]
TEXTS = ["hello", "", "wörld ☃", 'a "quoted"\nline']


@suite.case("base64: bytes reach the model and come back")
def _(url):
    request = one(Base64Codec.encode_input("x", BYTES, use_bytes=False))
    [output] = answer(url, "id_bytes", request).outputs
    same(output.parameters.content_type if output.parameters else None, "base64", "content type")
    same(Base64Codec.decode_output(output), BYTES)


@suite.case("base64: asked for of the output")
def _(url):
    wanted = [RequestOutput(name="OUTPUT0", parameters=Parameters(content_type="base64"))]
    request = one(StringCodec.encode_input("x", TEXTS, use_bytes=False), wanted)
    [output] = answer(url, "id_bytes", request).outputs
    same(Base64Codec.decode_output(output), [text.encode() for text in TEXTS])


@suite.case("base64: asked for of the request")
def _(url):
    request = one(Base64Codec.encode_input("x", BYTES, use_bytes=False), parameters=Parameters(content_type="base64"))
    request.inputs[0].parameters = None
    [output] = answer(url, "id_bytes", request).outputs
    same(Base64Codec.decode_output(output), BYTES)


@suite.case("str: per input and per request")
def _(url):
    request = one(StringCodec.encode_input("x", TEXTS, use_bytes=False))
    same(StringCodec.decode_output(answer(url, "id_bytes", request).outputs[0]), TEXTS)
    request = StringRequestCodec.encode_request(TEXTS, use_bytes=False)
    same(StringRequestCodec.decode_response(answer(url, "id_bytes", request)), TEXTS)


@suite.case("datetime: ISO 8601 texts")
def _(url):
    times = [datetime.datetime(2024, 1, 2, 3, 4, 5), datetime.datetime(1999, 12, 31, tzinfo=datetime.timezone.utc)]
    request = one(DatetimeCodec.encode_input("x", times, use_bytes=False))
    same(DatetimeCodec.decode_output(answer(url, "id_bytes", request).outputs[0]), times)


@suite.each("np: any array, NaN as null", [("id_fp32", "float32"), ("id_fp64", "float64")])
def _(url, value):
    model, dtype = value
    array = np.array([1.5, np.nan, -0.0, 3e38], dtype)
    request = NumpyRequestCodec.encode_request(array)
    got = NumpyRequestCodec.decode_response(answer(url, model, request))
    np.testing.assert_array_equal(got.ravel(), array)


@suite.each("np: integers", [f"id_{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)])
def _(url, model):
    info = np.iinfo(model[3:])
    array = np.array([info.min, 0, info.max], model[3:])
    got = NumpyCodec.decode_output(answer(url, model, one(NumpyCodec.encode_input("x", array))).outputs[0])
    np.testing.assert_array_equal(got.ravel(), array)


@suite.case("np: two dimensions")
def _(url):
    array = np.arange(6, dtype="float32").reshape(2, 3)
    got = NumpyRequestCodec.decode_response(answer(url, "identity", NumpyRequestCodec.encode_request(array)))
    np.testing.assert_array_equal(got, array)


@suite.each("pd: a column", [("id_fp64", [1.0, float("nan"), 3.0]), ("id_bytes", ["a", "b", "ü"])])
def _(url, value):
    model, column = value
    kind = object if isinstance(column[0], str) else "float64"
    frame = pd.DataFrame({"OUTPUT0": pd.Series(column, dtype=kind)})
    response = answer(url, model, PandasCodec.encode_request(frame, use_bytes=False))
    got = PandasCodec.decode_response(response)
    same(list(got.columns), ["OUTPUT0"])
    read = [element.decode() if isinstance(element, bytes) else element for element in got["OUTPUT0"]]
    same([repr(element) for element in read], [repr(element) for element in column])


@suite.case("pd: columns are inputs")
def _(url):
    frame = pd.DataFrame({"A": [1.0, 2.0, 3.0], "B": [0.5, -2.0, 4.0]}, dtype="float32")
    got = PandasCodec.decode_response(answer(url, "add", PandasCodec.encode_request(frame, use_bytes=False)))
    same(list(got["SUM"]), [1.5, 0.0, 7.0])


@suite.each("MLServer's body", ["generate", "generate_stream"])
def _(url, path):
    text = infer(url, "id_bytes", StringRequestCodec.encode_request(TEXTS, use_bytes=False), path)
    if path == "generate_stream":
        same((text[:6], text[-2:], text.count(b"\n")), (b"data: ", b"\n\n", 2), "one event")
        text = text[6:-2]
    same(StringCodec.decode_output(InferenceResponse.model_validate_json(text).outputs[0]), TEXTS)


if __name__ == "__main__":
    suite.main()
