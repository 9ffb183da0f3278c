"""OpenAPI documents of a running gateway: a validator takes them, their examples are answered, and answers fit their schemas."""

import http.client
import json

from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from harness import Suite, same, shorten

suite = Suite(__doc__)
MODELS = [
    "add", "digits", "id_bf16", "id_bool", "id_bytes", "id_fp16", "id_fp64", "id_int64", "id_int8", "id_uint64", "identity",
    "identity_onnx", "iris", "magika", "matmul", "text-clean", "two_io", "versions",
]


def call(url, method, path, body=None, headers=None):
    """Status, headers and body of one request."""
    connection = http.client.HTTPConnection(url, timeout=60)
    try:
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        return response.status, response.headers, response.read()
    finally:
        connection.close()


def document(url, path):
    status, headers, body = call(url, "GET", path)
    same((status, headers["content-type"]), (200, "application/json"), path)
    return json.loads(body)


def served(url):
    return json.loads(call(url, "GET", "/v2/models")[2])["models"]


def valid(api):
    errors = [f"{'/'.join(map(str, error.path))}: {error.message}" for error in OpenAPIV31SpecValidator(api).iter_errors()]
    same(errors, [], "faults of the document")


def fits(api, schema, value):
    """Fails unless the value fits the schema of that name."""
    rooted = {"$ref": f"#/components/schemas/{schema}", "components": api["components"]}
    Draft202012Validator.check_schema(api["components"]["schemas"][schema])
    errors = [error.message for error in Draft202012Validator(rooted).iter_errors(value)]
    same(errors, [], f"{shorten(value)} as {schema}")


def misfits(api, schema, value):
    rooted = {"$ref": f"#/components/schemas/{schema}", "components": api["components"]}
    if Draft202012Validator(rooted).is_valid(value):
        raise AssertionError(f"{shorten(value)} fits {schema}")


def media(api, body):
    return api["components"]["requestBodies"][body]["content"]


def finite(text):
    """JSON as a strict reader would have it: what is not finite is null."""
    return json.loads(text, parse_constant=lambda word: None)


def event(answer):
    """The JSON of a stream's only event."""
    status, headers, body = answer
    same((status, headers["content-type"]), (200, "text/event-stream; charset=utf-8"), shorten(body))
    return finite(body.removeprefix(b"data: "))


@suite.case("the document of everything is valid, under each of its names")
def general(url):
    api = document(url, "/v2/docs")
    valid(api)
    for name in ("openapi.json", "dataplane.json"):
        same(document(url, f"/v2/docs/{name}"), api, name)


@suite.case("the document of every model is valid, and of every version")
def of_models(url):
    names = served(url)
    missing = set(MODELS) - set(names)
    same(missing, set(), "models that are not served")
    for name in names:
        for version in json.loads(call(url, "GET", f"/v2/models/{name}")[2])["versions"]:
            valid(document(url, f"/v2/models/{name}/versions/{version}/docs"))
        valid(document(url, f"/v2/models/{name}/docs"))


@suite.each("the example is answered, and both fit their schemas", MODELS)
def example(url, name):
    path = f"/v2/models/{name}"
    api = document(url, f"{path}/docs")
    content = media(api, "Infer")
    if "application/json" in content:
        request = content["application/json"].get("example")
        if request is None:
            raise AssertionError("there is no example")
        fits(api, "InferRequest", request)
        body, headers = json.dumps(request), {"Content-Type": "application/json"}
    else:
        body = content["application/octet-stream"]["example"]
        length = api["components"]["parameters"]["headerLength"]["example"]
        headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(length)}
    status, answered, response = call(url, "POST", f"{path}/infer", body, headers)
    same(status, 200, shorten(response))
    length = answered.get("Inference-Header-Content-Length")
    fits(api, "InferResponse", finite(response[: int(length)] if length else response))

    stream = f"{path}/infer_stream"
    same(stream in api["paths"], name != "id_bf16", stream)
    if stream in api["paths"]:
        fits(api, "InferResponse", event(call(url, "POST", stream, body, headers)))

    generate = f"{path}/generate"
    same(generate in api["paths"], name != "id_bf16", generate)
    if generate not in api["paths"]:
        return
    request = media(api, "Generate")["application/json"]["example"]
    fits(api, "GenerateRequest", request)
    status, _, response = call(url, "POST", generate, json.dumps(request))
    same(status, 200, shorten(response))
    fits(api, "GenerateResponse", finite(response))
    fits(api, "GenerateResponse", event(call(url, "POST", f"{path}/generate_stream", json.dumps(request))))


@suite.case("what the gateway refuses does not fit either, and classes do")
def refused(url):
    api = document(url, "/v2/models/two_io/docs")
    request = media(api, "Infer")["application/json"]["example"]
    first = request["inputs"][0]
    for wrong in (
        [first],
        [first, first],
        [*request["inputs"], first],
        [{**first, "datatype": "FP64"}, *request["inputs"][1:]],
        [{**first, "shape": [*first["shape"], 1]}, *request["inputs"][1:]],
        [{**first, "name": "OTHER"}, *request["inputs"][1:]],
        [{**first, "data": ["a"]}, *request["inputs"][1:]],
    ):
        misfits(api, "InferRequest", {"inputs": wrong})
        status, _, _ = call(url, "POST", "/v2/models/two_io/infer", json.dumps({"inputs": wrong}))
        same(status, 400, shorten(wrong))
    api = document(url, "/v2/models/identity/docs")
    request = media(api, "Infer")["application/json"]["example"]
    output = api["components"]["schemas"]["Output0"]["properties"]["name"]["const"]
    request["outputs"] = [{"name": output, "parameters": {"classification": 1}}]
    fits(api, "InferRequest", request)
    status, _, response = call(url, "POST", "/v2/models/identity/infer", json.dumps(request))
    same(status, 200, shorten(response))
    fits(api, "InferResponse", json.loads(response))


@suite.case("metadata and errors fit their schemas")
def others(url):
    api = document(url, "/v2/docs")
    fits(api, "ServerMetadata", document(url, "/v2"))
    fits(api, "Statistics", document(url, "/v2/models/stats"))
    for name in served(url):
        fits(api, "ModelMetadata", document(url, f"/v2/models/{name}"))
    for path in ("/v2/models/nobody/docs", "/v2/models/..%2f/docs", "/v2/nothing"):
        status, _, body = call(url, "GET", path)
        same(status, 404, path)
        fits(api, "Error", json.loads(body))


if __name__ == "__main__":
    suite.main()
