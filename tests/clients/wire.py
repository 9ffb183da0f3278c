"""Every row of what three servers were seen to answer, asked of this gateway. Writes the table of docs/compatibility.md with --write,
and else fails where the gateway or the page say something different.

What Triton 2.51.0, MLServer 1.7.1 and KServe 0.21.0 answered was captured from the servers themselves, with models of the same names."""

import gzip
import json
import pathlib
import re
import struct
import zlib

import wire_grpc
from harness import Suite, same
from raw_http import Wire

suite = Suite(__doc__)
PAGE = pathlib.Path(__file__).parents[2] / "docs" / "compatibility.md"
DATA = [1.0, 2.5, -3.0, 4.0]
RAW = struct.pack("<4f", *DATA)
ROWS = []


class Request:
    def __init__(self, method, path, body=None, headers=(), version="1.1", host=True, length=True):
        lines = [f"{method} {path} HTTP/{version}", *headers]
        if host:
            lines.insert(1, "Host: {host}")
        lines.append("Connection: close")
        if body is not None and length:
            lines.append(f"Content-Length: {len(body)}")
        self.head = "\r\n".join(lines) + "\r\n\r\n"
        self.body = body or b""

    def status(self, url):
        """The status of the answer; `-` if there is none."""
        answer = b""
        with Wire(url) as wire:
            wire.socket.settimeout(10)
            try:
                wire.send(self.head.replace("{host}", url).encode() + self.body)
                while piece := wire.socket.recv(65536):
                    answer += piece
            except ConnectionError:
                # Who is refused early may be cut off while sending.
                pass
        # What was asked for before the body is no answer yet.
        answer = answer.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
        return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/") else "-"


class Bytes(Request):
    """A request as it is written here."""

    def __init__(self, raw):
        self.head, self.body = raw, b""


class Metrics(Request):
    """A request to the metrics port."""

    def status(self, _):
        return super().status(suite.metrics_url)


class Pipelined(Request):
    """The same request twice at once on one connection: the status of both answers."""

    def status(self, url):
        with Wire(url) as wire:
            wire.socket.settimeout(10)
            first = self.head.replace("Connection: close\r\n", "")
            wire.send((first + self.head).replace("{host}", url).encode())
            statuses = {wire.response()[0], wire.response()[0]}
        return statuses.pop() if len(statuses) == 1 else statuses


class Last:
    """Requests of which the last is what the row is about; what they leave is put right again."""

    def __init__(self, *requests, finally_=None):
        self.requests, self.finally_ = requests, finally_

    def status(self, url):
        try:
            return [request.status(url) for request in self.requests][-1]
        finally:
            if self.finally_:
                self.finally_.status(url)


def get(path, method="GET", headers=(), **options):
    return Request(method, path, None if method in ("GET", "HEAD", "OPTIONS") else b"", headers, **options)


def post(path, document, headers=(), **options):
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return Request("POST", path, body, headers, **options)


def tensor(data=DATA, shape=(1, 4), datatype="FP32", name="INPUT0", **more):
    return {"name": name, "shape": list(shape), "datatype": datatype, "data": data, **more}


def without(key, **more):
    return {name: value for name, value in tensor(**more).items() if name != key}


def infer(*inputs, model="identity", path="infer", headers=(), **top):
    return post(f"/v2/models/{model}/{path}", {**top, "inputs": list(inputs) or [tensor()]}, headers)


def text(old, new, **more):
    """A plain request with a piece of its text replaced."""
    return post("/v2/models/identity/infer", json.dumps({"inputs": [tensor(**more)]}).replace(old, new).encode())


def binary(size=16, raw=RAW, shape=(1, 4), datatype="FP32", length=None, model="identity", headers=(), encode=bytes, **more):
    parameters = {} if size is None else {"parameters": {"binary_data_size": size}}
    input = {**without("data", shape=shape, datatype=datatype), **parameters, **more.pop("input", {})}
    header = json.dumps({"inputs": [input], **more}).encode()
    length = len(header) if length is None else length
    return post(f"/v2/models/{model}/infer", encode(header + raw), (f"Inference-Header-Content-Length: {length}", *headers))


def one(data, datatype, shape=None):
    return infer(tensor(data, [len(data)] if shape is None else shape, datatype), model=f"id_{datatype.lower()}")


def control(what, model="id_int16", body=b""):
    return post(f"/v2/repository/models/{model}/{what}", body)


def unloaded(*then):
    """What comes of a request to a model that was unloaded before; it is loaded again afterwards."""
    return Last(control("unload"), *then, finally_=control("load"))


def row(group, title, peers, ours, request, why=""):
    ROWS.append((group, title, peers.split("/"), ours, request, why))


def part(group):
    return lambda *row_: row(group, *row_)


MODEL = "/v2/models/identity"
BODY = json.dumps({"inputs": [tensor()]}).encode()

say = part("Health and metadata")
say("live", "200/200/200", 200, get("/v2/health/live"), "with the body of the specification")
say("ready", "200/200/200", 200, get("/v2/health/ready"), "with a body; one model that fails to load changes nothing here")
say("server metadata", "200/200/200", 200, get("/v2"))
say("… with a slash at the end", "404/307/307", 200, get("/v2/"), "the specification writes it so")
say("model metadata", "200/200/200", 200, get(MODEL))
say("… of a version", "200/200/501", 200, get(MODEL + "/versions/1"))
say("… of an unknown version", "404/404/501", 404, get(MODEL + "/versions/9"))
say("… of a version that is no number", "404/404/501", 404, get(MODEL + "/versions/abc"))
say("… of an unknown model", "404/404/404", 404, get("/v2/models/nope"))
say("… of a model with two versions", "200/200/404", 200, get("/v2/models/versions"))
say("… with a slash at the end", "404/307/307", 404, get(MODEL + "/"))
say("model ready", "200/200/200", 200, get(MODEL + "/ready"))
say("… of a version", "200/200/501", 200, get(MODEL + "/versions/1/ready"))
say("… of an unknown version", "400/404/501", 404, get(MODEL + "/versions/9/ready"), "what is not there is not found")
say("… of an unknown model", "400/404/404", 404, get("/v2/models/nope/ready"), "the same")
say("the list of models", "404/404/200", 200, get("/v2/models"))
say("/", "404/404/200", 404, get("/"))
say("an unknown path", "404/404/404", 404, get("/v2/nope"))
say("live with a slash at the end", "404/307/307", 404, get("/v2/health/live/"))
say("live with a query", "200/200/200", 200, get("/v2/health/live?a=b"))
say("two slashes", "404/404/404", 404, get("/v2//health/live"))
say("V1's list", "404/404/200", 404, get("/v1/models"))
say("/healthz", "404/404/404", 404, get("/healthz"))
say("HEAD of live", "405/405/405", 405, get("/v2/health/live", "HEAD"))
say("HEAD of the server's metadata", "405/405/405", 405, get("/v2", "HEAD"))
say("POST to live", "405/405/405", 405, get("/v2/health/live", "POST"))
say("OPTIONS of the server's metadata", "405/405/405", 405, get("/v2", "OPTIONS"))
say("POST to a model's metadata", "405/405/405", 405, get(MODEL, "POST"))

say = part("Requests")
say("without an id", "200/200/200", 200, infer(), "no id is made up")
say("with an id", "200/200/200", 200, infer(id="42"))
say("an empty id", "200/200/200", 200, infer(id=""))
say("an id that is a number", "500/422/422", 400, infer(id=42), "the client's fault")
say("an id that is null", "500/200/200", 200, infer(id=None), "as if there were none")
say("to a version", "200/200/501", 200, infer(path="versions/1/infer"))
say("to an unknown version", "404/404/501", 404, infer(path="versions/9/infer"))
say("to a model with two versions", "200/200/404", 200, infer(tensor(shape=[4]), model="versions"))
say("to an unknown model", "404/404/404", 404, infer(model="nope"))
say("an output by name", "200/200/200", 200, infer(outputs=[{"name": "OUTPUT0"}]))
say("an unknown output", "400/200/400", 400, infer(outputs=[{"name": "NOPE"}]))
say("an empty list of outputs", "200/200/200", 200, infer(outputs=[]))
say("binary_data true", "200/200/200", 200, infer(outputs=[{"name": "OUTPUT0", "parameters": {"binary_data": True}}]))
say("binary_data false", "200/200/200", 200, infer(outputs=[{"name": "OUTPUT0", "parameters": {"binary_data": False}}]))
say("binary_data_output", "200/200/200", 200, infer(id="b", parameters={"binary_data_output": True}))
say("one of two outputs", "200/200/200", 200, infer(tensor(), tensor([1, 2], [2], "INT32", "INPUT1"), model="two_io", outputs=[{"name": "OUTPUT1"}]))
say("classification", "200/200/200", 200, infer(outputs=[{"name": "OUTPUT0", "parameters": {"classification": 2}}]), "the two best, as Triton; the others ignore it")
say("parameters: text, number, boolean", "200/200/200", 200, infer(parameters={"s": "a", "i": 1, "b": True}))
say("a parameter that is an object", "400/200/422", 200, infer(parameters={"o": {"a": 1}}), "plugins get it as JSON")
say("a parameter that is null", "400/200/422", 200, infer(parameters={"o": None}), "plugins get it as JSON")
say("a parameter triton_x", "400/200/200", 400, infer(parameters={"triton_x": 1}))
say("an unknown field", "200/200/200", 200, infer(unknown=1))
say("a key twice", "200/200/200", 400, post(MODEL + "/infer", BODY.replace(b"{", b'{"id": "a", "id": "b", ', 1)), "two readers would read two requests")
say("a query", "200/200/200", 200, infer(path="infer?a=b"))
say("a slash at the end", "404/307/307", 404, infer(path="infer/"))
say("no Content-Type", "200/200/400", 200, infer())
say("Content-Type text/plain", "200/422/400", 200, infer(headers=["Content-Type: text/plain"]))
say("application/octet-stream without a header length", "200/422/400", 200, infer(headers=["Content-Type: application/octet-stream"]))
say("Accept: text/plain", "200/200/200", 200, infer(headers=["Accept: text/plain"]))
for method in ("GET", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"):
    say(f"{method} …/infer", "405/405/405", 405, get(MODEL + "/infer", method))

say = part("Tensors that do not fit")
say("too few elements", "500/500/500", 400, infer(tensor(DATA[:3])), "the client's fault")
say("too many elements", "500/500/500", 400, infer(tensor(DATA + [5])), "the client's fault")
say("another rank", "400/200/200", 400, infer(tensor(shape=[4])))
say("a fixed dimension of another size", "400/200/200", 400, infer(tensor([1, 2, 3, 4, 5], [1, 5]), tensor([1, 2], [2], "INT32", "INPUT1"), model="two_io"))
say("a batch that is too large", "400/200/200", 400, infer(tensor([1.0] * 36, [9, 4]), model="batched"))
say("a negative dimension", "500/200/500", 400, infer(tensor(shape=[-1, 4])), "the client's fault")
say("a dimension of 0", "200/200/200", 200, infer(tensor([], [1, 0])))
say("an empty shape", "400/200/200", 400, infer(tensor(shape=[])))
say("a dimension of 1.0", "500/200/200", 400, infer(tensor(shape=[1.0, 4.0])), "the client's fault")
say("a dimension that is a text", "500/200/200", 400, infer(tensor(shape=["1", "4"])), "the client's fault")
say("another datatype", "400/200/200", 400, infer(tensor([1, 2, 3, 4], datatype="INT32")))
say("an unknown datatype", "400/422/400", 400, infer(tensor(datatype="FP99")))
say("a datatype in small letters", "400/422/200", 400, infer(tensor(datatype="fp32")))
say("texts for FP32", "500/200/200", 400, infer(tensor(["1", "2", "3", "4"])), "the client's fault")
say("null for an FP32", "500/200/200", 200, infer(tensor([None, 1, 2, 3])), "NaN, as MLServer's clients send it")
say("data that is null", "500/500/422", 400, infer(tensor(None)), "the client's fault")
say("data that is a number", "500/200/422", 400, infer(tensor(5.0)), "the client's fault")
say("integers for FP32", "200/200/200", 200, infer(tensor([1, 2, 3, 4])))
say("booleans for FP32", "500/200/200", 400, infer(tensor([True, False, True, False])), "the client's fault")
say("a fraction for INT32", "500/200/200", 400, one([1.5], "INT32"), "the client's fault")
say("one of two inputs", "400/200/200", 400, infer(tensor(), model="two_io"))
say("an input too many", "400/200/200", 400, infer(tensor(), tensor(name="X")))
say("an input twice", "400/200/200", 400, infer(tensor(), tensor()))
say("another name", "400/200/200", 400, infer(tensor(name="X")))
say("no name", "500/422/422", 400, infer(without("name")), "the client's fault")
say("no shape", "500/422/422", 400, infer(without("shape")), "the client's fault")
say("no datatype", "500/422/422", 400, infer(without("datatype")), "the client's fault")
say("no data", "400/422/422", 400, infer(without("data")))
say("no inputs", "500/422/422", 400, post(MODEL + "/infer", {"id": "a"}), "the client's fault")
say("an empty list of inputs", "400/200/200", 400, post(MODEL + "/infer", {"inputs": []}))
say("inputs that are an object", "500/422/422", 400, post(MODEL + "/infer", {"inputs": {}}), "the client's fault")
say("a shape that overflows", "-/500/500", 400, infer(tensor(shape=[9223372036854775807, 4])), "Triton aborts")

say = part("JSON")
say("malformed", "500/422/422", 400, post(MODEL + "/infer", b'{"inputs": [{"name":}'), "the client's fault")
say("a comma too many", "500/422/422", 400, text("4.0]", "4.0,]"), "the client's fault")
say("an empty body", "400/422/422", 400, post(MODEL + "/infer", b""))
say("an array", "500/422/422", 400, post(MODEL + "/infer", b"[]"), "the client's fault")
say("null", "500/422/422", 400, post(MODEL + "/infer", b"null"), "the client's fault")
say("more behind the request", "500/422/422", 400, post(MODEL + "/infer", BODY + b"x"), "the client's fault")
say("a byte order mark", "200/422/200", 200, post(MODEL + "/infer", b"\xef\xbb\xbf" + BODY))
say("an id that is not UTF-8", "200/422/400", 400, post(MODEL + "/infer", BODY.replace(b"{", b'{"id": "\xff", ', 1)), "Triton sends it back, in an answer that is no JSON")
say("arrays 1,000 deep", "400/422/400", 400, text("[1.0, 2.5, -3.0, 4.0]", "[" * 1000 + "]" * 1000))
say("data nested as the shape", "200/200/200", 200, infer(tensor([[1, 2], [3, 4]], [2, 2])))
say("ragged data", "200/500/500", 200, infer(tensor([[1, 2, 3], [4]], [2, 2])), "elements are counted, as in Triton")
say("data nested in another way", "200/200/200", 200, infer(tensor([[[1, 2], [3, 4]]], [1, 4])))
say("17 digits for FP32", "200/200/200", 200, infer(tensor([0.1234567890123456, 1, 2, 3])))
say("1e39 for FP32", "200/200/200", 200, infer(tensor([1e39, 1, 2, 3])), "Infinity, as rounding to FP32 gives it")
say("1e999", "500/422/200", 400, text("1.0,", "1e999,"), "the client's fault")
say("NaN", "200/422/200", 200, text("1.0,", "NaN,"))
say("Infinity", "200/422/200", 200, text("1.0,", "Infinity,"))
say('"NaN"', "500/200/200", 400, infer(tensor(["NaN", 1, 2, 3])), "a text is no number")
say("-0.0", "200/200/200", 200, infer(tensor([-0.0, 1, 2, 3])))
say("texts for BYTES", "200/200/200", 200, one(["a", "b", "☃"], "BYTES"))
say("base64 for BYTES", "200/200/200", 200, infer(tensor(["YWJj"], [1], "BYTES", parameters={"content_type": "base64"}), model="id_bytes"))
say("numbers for BYTES", "500/200/200", 400, one([1, 2], "BYTES"), "the client's fault")
say("nested texts for BYTES", "200/200/200", 200, one([["a", "b"]], "BYTES", [2]))
say("a zero byte in BYTES", "200/200/200", 200, one(["a\0b"], "BYTES"))
say("FP16 in JSON", "400/200/400", 200, one([1.5], "FP16"), "as MLServer; the number is rounded once")
say("BF16 in JSON", "400/422/400", 400, one([1.5], "BF16"))
say("true and false for BOOL", "200/200/200", 200, one([True, False], "BOOL"))
say("0 and 1 for BOOL", "500/200/200", 400, one([0, 1], "BOOL"), "the client's fault")
say("2 for BOOL", "500/200/200", 400, one([2], "BOOL"), "the client's fault")
say("the largest UINT64", "200/200/200", 200, one([2**64 - 1], "UINT64"))
say("one more than that", "500/200/500", 400, one([2**64], "UINT64"), "the client's fault")
say("-1 for UINT64", "500/200/500", 400, one([-1], "UINT64"), "the client's fault")
say("the smallest INT64", "200/200/200", 200, one([-(2**63)], "INT64"))
say("256 for UINT8", "200/200/500", 400, one([256], "UINT8"), "Triton answers 0")
say("-129 for INT8", "200/200/500", 400, one([-129], "INT8"), "Triton answers 127")
say("17 digits for FP64", "200/200/200", 200, one([0.1, 1 / 3, 1e300], "FP64"))
say("a model that fails", "500/500/404", 502, infer(model="failing"), "the model's fault, and not the server's")

say = part("Binary tensors")
say("in, JSON out", "200/500/200", 200, binary(id="x"))
say("in and out", "200/500/200", 200, binary(outputs=[{"name": "OUTPUT0", "parameters": {"binary_data": True}}]))
say("a header length, and JSON alone", "200/422/200", 200, post(MODEL + "/infer", BODY, [f"Inference-Header-Content-Length: {len(BODY)}"]))
say("a header length beyond the body", "400/500/400", 400, binary(length=9999))
say("a header length of 0", "400/500/400", 400, binary(length=0), "the shape cannot be told from the bytes")
say("a negative header length", "400/500/400", 400, binary(length=-1))
say("a header length that is no number", "400/500/500", 400, binary(length="abc"))
say("a header length that ends within the JSON", "500/500/400", 400, binary(length=10), "the client's fault")
say("the name of that header in small letters", "200/422/404", 200, post(MODEL + "/infer", BODY, [f"inference-header-content-length: {len(BODY)}"]))
say("a size beyond the body", "400/500/200", 400, binary(size=32))
say("a size that is too small", "400/500/500", 400, binary(size=8))
say("bytes that are left over", "400/500/200", 400, binary(raw=RAW + b"xxxx"))
say("bytes that are missing", "400/500/500", 400, binary(raw=RAW[:8]))
say("bytes and data", "400/500/200", 400, binary(input={"data": DATA}))
BYTES = struct.pack("<I3sI2s", 3, b"abc", 2, b"\xff\0")
say("BYTES that are not UTF-8, JSON out", "200/500/500", 400, binary(len(BYTES), BYTES, [2], "BYTES", model="id_bytes"), "Triton's answer is no JSON: ask for binary output, or for base64")
say("BYTES with a length beyond its end", "400/422/500", 400, binary(7, struct.pack("<I3s", 99, b"abc"), [1], "BYTES", model="id_bytes"))
say("FP16, JSON out", "400/422/400", 200, binary(2, b"\0\x3c", [1], "FP16", model="id_fp16"), "as MLServer writes it")
say("FP16, binary out", "200/422/200", 200, binary(2, b"\0\x3c", [1], "FP16", model="id_fp16", parameters={"binary_data_output": True}))
say("BF16, binary out", "500/500/400", 200, binary(2, b"\x80\x3f", [1], "BF16", model="id_bf16", parameters={"binary_data_output": True}), "a datatype like the others")
say("NaN, JSON out", "200/500/200", 200, binary(raw=struct.pack("<4f", float("nan"), 1, 2, 3)), "written as NaN, or as null by setting")
say("BOOL", "200/422/200", 200, binary(3, b"\1\0\1", [3], "BOOL", model="id_bool"))

say = part("Compression")
say("gzip", "200/200/400", 200, post(MODEL + "/infer", gzip.compress(BODY), ["Content-Encoding: gzip"]))
say("deflate (zlib)", "200/422/400", 200, post(MODEL + "/infer", zlib.compress(BODY), ["Content-Encoding: deflate"]))
say("deflate without zlib's frame", "400/422/400", 400, post(MODEL + "/infer", zlib.compress(BODY)[2:-4], ["Content-Encoding: deflate"]))
say("gzip that is broken", "400/400/422", 400, post(MODEL + "/infer", b"\x1f\x8b\x08\0broken", ["Content-Encoding: gzip"]))
say("an unknown encoding", "501/200/200", 415, post(MODEL + "/infer", BODY, ["Content-Encoding: br"]), "HTTP's own word for it")
say("identity", "200/200/200", 200, post(MODEL + "/infer", BODY, ["Content-Encoding: identity"]))
say("gzip with binary tensors", "200/422/400", 200, binary(encode=gzip.compress, headers=["Content-Encoding: gzip"]))
for accept in ("gzip", "deflate", "gzip, deflate", "br", "deflate;q=1, gzip;q=0.1", "gzip;q=0", "*"):
    say(f"Accept-Encoding: {accept}", "200/200/200", 200, infer(headers=[f"Accept-Encoding: {accept}"]))
say("Accept-Encoding: gzip, a large answer", "200/200/200", 200, infer(tensor([1.0] * 4096, [1, 4096]), headers=["Accept-Encoding: gzip"]))
say("Accept-Encoding: gzip, binary out", "200/500/200", 200, infer(headers=["Accept-Encoding: gzip"], parameters={"binary_data_output": True}))

say = part("Extensions")
say("a model's configuration", "200/404/404", 200, get(MODEL + "/config"))
say("statistics of a model", "200/404/404", 200, get(MODEL + "/stats"))
say("… of a version", "200/404/404", 200, get(MODEL + "/versions/1/stats"))
say("… of all models", "200/404/404", 200, get("/v2/models/stats"))
say("… of an unknown model", "400/404/404", 404, get("/v2/models/nope/stats"), "what is not there is not found")
say("log settings", "200/404/404", 200, get("/v2/logging"))
say("… with a setting", "200/404/404", 501, post("/v2/logging", {"log_verbose_level": 1}), "they concern all tenants, and are chosen at the start")
say("trace settings", "200/404/404", 200, get("/v2/trace/setting"))
say("… of a model", "200/404/404", 200, get(MODEL + "/trace/setting"))
say("… with a setting", "200/404/404", 501, post("/v2/trace/setting", {"trace_rate": "500"}), "the same; --otlp has traces")
say("shared memory", "200/404/404", 501, get("/v2/systemsharedmemory/status"), "clients that share a gateway do not trust each other")
say("CUDA's shared memory", "200/404/404", 501, get("/v2/cudasharedmemory/status"), "the same")
say("generate", "200/422/404", 200, post(MODEL + "/generate", {"INPUT0": 1.0}), "MLServer's body is taken as well")
say("generate_stream", "200/422/404", 200, post(MODEL + "/generate_stream", {"INPUT0": 1.0}), "the same")
say("metrics on their own port", "200/200/200", 200, Metrics("GET", "/metrics"))
say("metrics on the data port", "404/404/200", 404, get("/metrics"), "they tell of all tenants")
say("MLServer's OpenAPI document", "404/200/404", 200, get("/v2/docs/dataplane.json"))
say("the index without a body", "200/422/404", 200, post("/v2/repository/index", b""))
say("the index with {}", "200/200/404", 200, post("/v2/repository/index", {}))
say("GET of the index", "405/405/404", 405, get("/v2/repository/index"))
say("load of an unknown model", "500/404/503", 404, post("/v2/repository/models/nope/load", {}), "what is not there is not found")
say("unload of an unknown model", "200/404/404", 404, post("/v2/repository/models/nope/unload", {}), "the same")

say = part("Loading and unloading")
say("load", "200/200/200", 200, control("load"), "with KServe's body")
say("load with a configuration", "200/200/503", 501, control("load", body=json.dumps({"parameters": {"config": "{}"}}).encode()), "that is an upload, and wants a store (--store)")
say("unload", "200/200/200", 200, unloaded(), "with KServe's body")
say("load after unload", "200/200/503", 200, unloaded(control("load")))
say("the model's readiness after unload", "400/404/404", 503, unloaded(get("/v2/models/id_int16/ready")), "with the reason; it is known, and may be loaded again")
say("infer after unload", "404/404/404", 503, unloaded(one([1], "INT16")), "the same")
say("the server's readiness after unload", "400/200/200", 200, unloaded(get("/v2/health/ready")), "one model is not the server")

say = part("Names")
say("300 letters", "404/404/404", 404, get("/v2/models/" + "a" * 300))
say("9,000 letters", "-/404/404", 414, get("/v2/models/" + "a" * 9000), "with an answer, and what is wrong")
say("70,000 letters", "-/404/400", 431, get("/v2/models/" + "a" * 70000), "with an answer")
say("a letter in percent form", "404/200/404", 200, get("/v2/models/iden%74ity"))
say("a slash in percent form", "404/404/404", 404, get("/v2/models/a%2Fb"))
say("a space", "404/404/404", 404, get("/v2/models/a%20b"))
say("a percent sign and no digits", "404/404/404", 404, get("/v2/models/a%zz"))
say("a snowman", "404/404/404", 404, get("/v2/models/%E2%98%83"))
say("..", "404/404/404", 404, get("/v2/models/../health/live"))
say("capital letters", "404/404/404", 404, get("/v2/models/IDENTITY"))
say("no name", "404/404/404", 404, get("/v2/models//ready"))

say = part("HTTP")
CHUNKS = b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)
say("a body in chunks", "200/200/404", 200, post(MODEL + "/infer", CHUNKS, ["Transfer-Encoding: chunked"], length=False))
say("Expect: 100-continue", "200/200/404", 200, infer(headers=["Expect: 100-continue"]))
say("no length", "400/422/422", 400, post(MODEL + "/infer", b"", length=False))
say("HTTP/1.0", "200/200/404", 200, post(MODEL + "/infer", BODY, version="1.0"))
say("two requests at once", "200/200/200", 200, Pipelined("GET", "/v2/health/live"), "two answers")
say("no Host", "200/400/200", 400, get("/v2/health/live", host=False), "as HTTP/1.1 says")
say("Content-Length beside Transfer-Encoding", "400/422/400", 200, post(MODEL + "/infer", CHUNKS, ["Transfer-Encoding: chunked"]), "the chunks count, as HTTP/1.1 says, and the connection is closed behind them")
say("two Content-Lengths", "-/400/400", 400, post(MODEL + "/infer", BODY, ["Content-Length: 5"]))
say("a head of 20 KB", "-/200/200", 431, get("/v2/health/live", headers=["X: " + "a" * 20000]), "with an answer; the bound is --max-header-size")
say("a first line that is none", "-/400/400", 400, Bytes("NONSENSE\r\n\r\n"))
say("a length that ends within the JSON", "500/422/400", 400, post(MODEL + "/infer", BODY[:-2]), "the client's fault")

wire_grpc.rows(part)
GRPC = [
    "Over gRPC the same servers were asked with the messages of Triton's client; the cells are the status of the call, and behind `OK` what the answer",
    "says: of `ModelReady` whether the model is ready, of `ModelInfer` whether its outputs are raw or typed. Streams have a word for each answer. KServe's",
    "server has one model, and MLServer's takes any tensor: what they answer to the other models is told of these.",
]


# The clients of others that the test runs as they come: package, where its version is pinned, what it does, by which script.
CLIENTS = [
    ("tritonclient", "", "HTTP, with and without asyncio: every call, every datatype both ways, binary and JSON, compressed", "conformance.py"),
    ("tritonclient", "", "gRPC, with and without asyncio: the same, and streams", "grpc_client.py"),
    ("tritonclient", "", "streams of a model that gives several responses", "streaming.py"),
    ("tritonclient", "", "all four forms over TLS", "tls.py"),
    ("tritonclient", "", "uploads by `load_model(files=…)`, as two tenants", "uploads.py"),
    ("kserve", "-kserve", "`InferenceRESTClient` and `InferenceGRPCClient`, plain and over TLS: every datatype both ways, readiness, refusals", "kserve_client.py"),
    ("mlserver", "-codecs", "its codecs write requests and read answers: numpy, text, base64, dates, pandas", "codecs.py"),
    ("perf-analyzer", "-perf-analyzer", "load over HTTP, gRPC and streams, and its reading of our statistics", "perf_analyzer.py"),
]


def clients():
    lines = ["", "## Clients", "", "| client | version | what it does in the test run | script |", "|---|---|---|---|"]
    for package, pins, does, script in CLIENTS:
        text = pathlib.Path(__file__).with_name(f"requirements{pins}.txt").read_text()
        version = re.search(rf"^{package}(?:\[.*\])?==([\w.]+)", text, re.M)[1]
        lines.append(f"| {package} | {version} | {does} | `{script}` |")
    return lines


def page():
    lines = [
        "# Compatibility",
        "",
        "What three servers and this gateway answer to the same requests. The statuses of Triton 2.51.0, MLServer 1.7.1 and KServe 0.21.0 were captured from the",
        "servers themselves; `-`: the connection was closed or nothing came. Ours are asked again in every test run, which fails where this",
        "page is not up to date (`tests/clients/wire.py --write` writes it). The last column says why ours is as it is, where it differs from Triton's or is worth a word.",
    ]
    lines += clients()
    group = None
    for row_group, title, peers, ours, _, why in ROWS:
        if row_group != group:
            if row_group.startswith("gRPC") and not group.startswith("gRPC"):
                lines += ["", "# The same over gRPC", "", *GRPC]
            group = row_group
            lines += ["", f"## {group}", "", "| request | Triton | MLServer | KServe | Airlock | |", "|---|---|---|---|---|---|"]
        lines.append(f"| {title} | {' | '.join(peers)} | **{ours}** | {why} |")
    lines += ["", "## gRPC: what is said of a refusal", "", "| request | Triton | MLServer | KServe | Airlock |", "|---|---|---|---|---|"]
    for title, peers, ours, _ in wire_grpc.TEXTS:
        lines.append(f"| {title} | {' | '.join(peers)} | **{ours}** |")
    return "\n".join(lines) + "\n"


def case(group, title, ours, request):
    def run(url):
        told = request.status(suite.grpc_url if isinstance(request, wire_grpc.Call) else url)
        same(told, ours, "status")

    suite.cases.append((f"{group}: {title}", run))


for row_group, row_title, _, row_ours, row_request, _ in ROWS:
    case(row_group, row_title, row_ours, row_request)


for row_title, _, row_ours, row_request in wire_grpc.TEXTS:

    def said(_, ours=row_ours, request=row_request):
        request.status(suite.grpc_url)
        same(request.text, ours, "text")

    suite.cases.append((f"gRPC: what is said: {row_title}", said))


@suite.case("docs/compatibility.md says the same")
def _(_):
    same(PAGE.read_text() == page(), True, "run tests/clients/wire.py --write and look at what changed: the page is up to date")


if __name__ == "__main__":
    import sys

    if "--write" in sys.argv:
        PAGE.write_text(page())
    else:
        suite.main()
