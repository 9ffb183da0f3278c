"""What the stock client does not send, over plain sockets and `http.client`: framing, raw binary, hostile bodies."""

import gzip
import http.client
import json
import socket
import struct
import zlib

from harness import Suite, contains, same

suite = Suite(__doc__)
INFER = "/v2/models/identity/infer"
DATA = [1.5, -2.25, 0.0, 4.125]
BODY = json.dumps({"inputs": [{"name": "INPUT0", "shape": [1, 4], "datatype": "FP32", "data": DATA}]}).encode()


def request(url, method, path, body=None, headers=None, **options):
    connection = http.client.HTTPConnection(url, timeout=30)
    try:
        connection.request(method, path, body, headers or {}, **options)
        response = connection.getresponse()
        return response.status, response.read(), {name.lower(): value for name, value in response.getheaders()}
    finally:
        connection.close()


def infer(url, inputs, model="identity", headers=None, **top):
    body = inputs if isinstance(inputs, bytes) else json.dumps({"inputs": inputs, **top}).encode()
    return request(url, "POST", f"/v2/models/{model}/infer", body, headers)


def one(data, shape, datatype, **more):
    return [{"name": "INPUT0", "shape": shape, "datatype": datatype, "data": data, **more}]


def answer(status, body, output=0):
    """The data of one output of a successful JSON answer."""
    same(status, 200, f"status of {body[:300]!r}")
    return json.loads(body)["outputs"][output]["data"]


def error(got, status, *words):
    """Fails unless the answer is a JSON error with that status whose text holds every word."""
    same(got[0], status, f"status of {got[1][:300]!r}")
    document = json.loads(got[1])
    same("application/json" in got[2].get("content-type", ""), True, "error is JSON")
    same(isinstance(document.get("code"), str) and bool(document["code"]), True, "error has a code")
    contains(document["error"], *words)


class Wire:
    """A connection on which bytes are sent as they are given."""

    def __init__(self, url):
        host, port = url.rsplit(":", 1)
        self.host = url
        self.socket = socket.create_connection((host, int(port)), timeout=30)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, raw):
        self.socket.sendall(raw)

    def response(self):
        """The next response on the connection, interim ones (1xx) not skipped."""
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            byte = self.socket.recv(1)
            if not byte:
                raise AssertionError(f"connection closed after {head!r}")
            head += byte
        status = int(head.split(b" ", 2)[1])
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line)
        body = b""
        length = int(fields.get(b"content-length", 0))
        while len(body) < length:
            body += self.socket.recv(length - len(body))
        return status, body, fields

    def closed(self):
        return self.socket.recv(1) == b""


def head(url, length=None, *lines, method="POST", path=INFER, version="1.1"):
    fields = [f"{method} {path} HTTP/{version}", f"Host: {url}", *lines]
    if length is not None:
        fields.append(f"Content-Length: {length}")
    return ("\r\n".join(fields) + "\r\n\r\n").encode()


# --- health bodies, as clients that parse them expect -------------------------------------------------------------


@suite.case("health answers JSON bodies")
def _(url):
    for path, expected in [
        ("/v2/health/live", {"live": True}),
        ("/v2/health/ready", {"ready": True}),
        ("/v2/models/identity/ready", {"name": "identity", "ready": True}),
        ("/v2/models/identity/versions/1/ready", {"name": "identity", "ready": True}),
    ]:
        status, body, _ = request(url, "GET", path)
        same(status, 200, path)
        got = json.loads(body)
        same({key: got.get(key) for key in expected}, expected, path)


@suite.case("unknown paths are 404, wrong methods 405, both as JSON errors")
def _(url):
    for path in ("/", "/v1/models", "/v2/nope", "/v2/models/", "/v2/models//infer", "/v2/models/../x"):
        error(request(url, "GET", path), 404)
    for method, path in [("GET", INFER), ("PUT", INFER), ("DELETE", INFER), ("POST", "/v2/health/live")]:
        got = request(url, method, path)
        error(got, 405)
        same("allow" in got[2], True, "Allow header")


@suite.case("a percent-encoded name is decoded, an encoded slash is no separator")
def _(url):
    same(request(url, "GET", "/v2/models/iden%74ity")[0], 200)
    for path in ("/v2/models/a%2Fb", "/v2/models/%2e%2e", "/v2/models/a%zz", "/v2/models/%ff", "/v2/models/a%00b"):
        status, _, _ = request(url, "GET", path)
        same(status in (400, 404), True, f"{path} answers {status}: refused")


# --- framing ------------------------------------------------------------------------------------------------------


def chunked(body, size):
    pieces = (body[i : i + size] for i in range(0, len(body), size))
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


@suite.each("chunked body", [("one chunk", 1 << 20), ("7 bytes a chunk", 7), ("1 byte a chunk", 1)])
def _(url, value):
    with Wire(url) as wire:
        for _ in range(2):
            wire.send(head(url, None, "Transfer-Encoding: chunked") + chunked(BODY, value[1]))
            status, body, _ = wire.response()
            same(answer(status, body), DATA)


@suite.case("Expect: 100-continue is answered before the body")
def _(url):
    with Wire(url) as wire:
        wire.send(head(url, len(BODY), "Expect: 100-continue"))
        same(wire.response()[0], 100)
        wire.send(BODY)
        status, body, _ = wire.response()
        same(answer(status, body), DATA)


@suite.case("HTTP/1.0 closes, and keeps alive when asked to")
def _(url):
    with Wire(url) as wire:
        wire.send(head(url, len(BODY), version="1.0") + BODY)
        status, body, _ = wire.response()
        same(answer(status, body), DATA)
        same(wire.closed(), True, "closed after the answer")
    with Wire(url) as wire:
        for _ in range(2):
            wire.send(head(url, len(BODY), "Connection: keep-alive", version="1.0") + BODY)
            status, body, _ = wire.response()
            same(answer(status, body), DATA)


@suite.case("one connection serves many requests, pipelined too")
def _(url):
    with Wire(url) as wire:
        wire.send((head(url, len(BODY)) + BODY) * 5)
        for _ in range(5):
            status, body, _ = wire.response()
            same(answer(status, body), DATA)


@suite.case("a body that comes byte by byte")
def _(url):
    with Wire(url) as wire:
        wire.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in head(url, len(BODY)) + BODY:
            wire.send(bytes([byte]))
        status, body, _ = wire.response()
        same(answer(status, body), DATA)


@suite.case("header names in any case")
def _(url):
    raw = struct.pack("<4f", *DATA)
    text = json.dumps({"inputs": [{
        "name": "INPUT0", "shape": [1, 4], "datatype": "FP32", "parameters": {"binary_data_size": 16},
    }]}).encode()  # fmt: skip
    for name in ("inference-header-content-length", "INFERENCE-HEADER-CONTENT-LENGTH"):
        status, body, _ = infer(url, text + raw, headers={name: str(len(text))})
        same(answer(status, body), DATA)


@suite.case("a connection that ends in the middle of a request harms nobody")
def _(url):
    for cut in (5, 60, len(head(url, len(BODY))) + 10):
        with Wire(url) as wire:
            wire.send((head(url, len(BODY)) + BODY)[:cut])
    same(request(url, "GET", "/v2/health/ready")[0], 200)


@suite.case("conflicting lengths are refused")
def _(url):
    for raw in [
        head(url, len(BODY), "Content-Length: 5") + BODY,
        head(url, "-1") + BODY,
        head(url, "12abc") + BODY,
        head(url, None, "Transfer-Encoding: chunked") + b"zz\r\n",
    ]:
        with Wire(url) as wire:
            wire.send(raw)
            try:
                status = wire.response()[0]
            except (AssertionError, ConnectionError):
                continue  # closed without an answer: refused as well
            same(400 <= status < 500, True, f"status {status} is a refusal")
    same(request(url, "GET", "/v2/health/ready")[0], 200)


# --- JSON ---------------------------------------------------------------------------------------------------------


@suite.case("data nested as the shape says, flat, and with white space")
def _(url):
    for data in ([[1, 2], [3, 4]], [1, 2, 3, 4], [[1.0, 2.0], [3e0, 0.4e1]]):
        same(answer(*infer(url, one(data, [2, 2], "FP32"))[:2]), [1, 2, 3, 4])
    spaced = b' \n{ "inputs" :\t[ { "data" : [ 1 , 2 ] , "shape" : [ 1 , 2 ] ,'
    spaced += b'\r "datatype" : "FP32" , "name" : "INPUT0" } ] } \n'
    same(answer(*infer(url, spaced)[:2]), [1, 2])


@suite.case("the order of keys does not matter, unknown keys are ignored")
def _(url):
    tensor = b'{"data":[1,2],"extra":1,"datatype":"FP32","shape":[1,2],"name":"INPUT0"}'
    body = b'{"x":{"y":[1,{"z":null}]},"inputs":[%s],"id":"7"}' % tensor
    status, answered, _ = infer(url, body)
    same(answer(status, answered), [1, 2])
    same(json.loads(answered)["id"], "7")


@suite.case("float inputs take null, NaN and Infinity")
def _(url):
    got = answer(*infer(url, one([None, float("nan"), float("inf"), float("-inf"), 1], [1, 5], "FP32"))[:2])
    same([str(x) for x in got], ["nan", "nan", "inf", "-inf", "1.0"])


@suite.case("integers keep all their digits")
def _(url):
    for model, values in [
        ("id_uint64", [0, 2**63, 2**64 - 1]),
        ("id_int64", [-(2**63), -1, 2**63 - 1]),
        ("id_fp64", [0.1, 5e-324, 1.7976931348623157e308]),
    ]:
        datatype = model.removeprefix("id_").upper()
        same(answer(*infer(url, one(values, [3], datatype), model)[:2]), values, model)


OUT_OF_RANGE = [
    ("UINT8", 256), ("UINT8", -1), ("INT8", 128), ("INT8", -129), ("UINT16", 65536), ("INT16", 32768),
    ("UINT32", 2**32), ("INT32", -(2**31) - 1), ("UINT64", 2**64), ("UINT64", -1), ("INT64", 2**63),
]  # fmt: skip


@suite.each("out of the datatype's range: 400", [(f"{n} as {name}", name, n) for name, n in OUT_OF_RANGE])
def _(url, value):
    _, datatype, number = value
    error(infer(url, one([number], [1], datatype), f"id_{datatype.lower()}"), 400, "INPUT0", datatype)


OTHER_KIND = [
    ("INT32", 1.5), ("INT32", "1"), ("INT32", True), ("INT32", None), ("FP32", "1"), ("FP32", True), ("BOOL", 2),
    ("BOOL", "true"), ("BYTES", 1), ("BYTES", None), ("FP32", {"a": 1}),
]  # fmt: skip


@suite.each("an element of another kind: 400", [(f"{json.dumps(e)} as {name}", name, e) for name, e in OTHER_KIND])
def _(url, value):
    _, datatype, element = value
    error(infer(url, one([element], [1], datatype), f"id_{datatype.lower()}"), 400, "INPUT0")


@suite.each("shape and data disagree: 400", [
    ("too few", [1, 5], DATA), ("too many", [1, 3], DATA), ("empty data", [1, 4], []),
    ("product overflows", [2**62, 4], DATA),
    ("negative", [-1, 4], DATA), ("fraction", [1.5, 4], DATA), ("huge", [1, 2**40], DATA), ("text", ["1", 4], DATA),
    ("nested otherwise", [1, 4], [[1, 2, 3, 4, 5]]), ("no list", [1, 4], 5),
])  # fmt: skip
def _(url, value):
    _, shape, data = value
    error(infer(url, one(data, shape, "FP32")), 400)


@suite.each("not a request: 400", [
    ("empty", b""), ("not JSON", b"hello"), ("cut short", BODY[:-10]), ("two documents", BODY + BODY), ("list", b"[]"),
    ("null", b"null"), ("no inputs", b"{}"), ("inputs null", b'{"inputs":null}'), ("inputs text", b'{"inputs":"x"}'),
    ("input without name", b'{"inputs":[{"shape":[1,1],"datatype":"FP32","data":[1]}]}'),
    ("input without data", b'{"inputs":[{"name":"INPUT0","shape":[1,1],"datatype":"FP32"}]}'),
    ("id a number", BODY[:-1] + b',"id":7}'), ("not UTF-8", b'{"id":"\xff","inputs":[]}'),
    ("lone surrogate", b'{"id":"\\ud800","inputs":[]}'), ("deep", b"[" * 100_000),
    ("deep data", b'{"inputs":[{"name":"INPUT0","shape":[1,1],"datatype":"FP32","data":' + b"[" * 50_000),
])  # fmt: skip
def _(url, value):
    error(infer(url, value[1]), 400)


# --- binary -------------------------------------------------------------------------------------------------------


def binary(url, document, raw, length=None, model="identity"):
    text = json.dumps(document).encode()
    shown = str(len(text)) if length is None else length
    return infer(url, text + raw, model, {"Inference-Header-Content-Length": shown})


def announced(size, **more):
    put = {"name": "INPUT0", "shape": [1, 4], "datatype": "FP32", "parameters": {"binary_data_size": size}}
    return {"inputs": [{**put, **more}]}


@suite.case("binary_data_output gives header and bytes")
def _(url):
    raw = struct.pack("<4f", *DATA)
    document = {**announced(16), "parameters": {"binary_data_output": True}, "id": "é"}
    status, body, headers = binary(url, document, raw)
    same(status, 200, body[:300])
    length = int(headers["inference-header-content-length"])
    same(body[length:], raw)
    same(json.loads(body[:length])["outputs"][0]["parameters"]["binary_data_size"], 16)
    same(headers["content-type"], "application/octet-stream")


@suite.case("a listed output overrides binary_data_output")
def _(url):
    document = {
        **announced(16), "parameters": {"binary_data_output": True},
        "outputs": [{"name": "OUTPUT0", "parameters": {"binary_data": False}}],
    }  # fmt: skip
    status, body, _ = binary(url, document, struct.pack("<4f", *DATA))
    same(answer(status, body), DATA)


@suite.case("raw binary request: the body is the only tensor")
def _(url):
    raw = struct.pack("<3f", 1, 2, 3)
    status, body, headers = infer(url, raw, "id_fp32", {"Inference-Header-Content-Length": "0"})
    same(status, 200, body[:300])
    length = int(headers["inference-header-content-length"])
    same(json.loads(body[:length])["outputs"][0]["shape"], [3])
    same(body[length:], raw)


@suite.case("raw binary request to a BYTES model: one element")
def _(url):
    status, body, headers = infer(url, b"\xff\x00raw", "id_bytes", {"Inference-Header-Content-Length": "0"})
    same(status, 200, body[:300])
    length = int(headers["inference-header-content-length"])
    same(body[length:], struct.pack("<I", 5) + b"\xff\x00raw")


@suite.each("binary framing that does not add up: 400", [
    ("bytes missing", announced(16), b"\0" * 15, None), ("bytes left over", announced(16), b"\0" * 17, None),
    ("size is not the shape's", announced(12), b"\0" * 12, None), ("size negative", announced(-16), b"\0" * 16, None),
    ("size a text", announced("16"), b"\0" * 16, None), ("size huge", announced(2**62), b"\0" * 16, None),
    ("data as well", announced(16, data=DATA), b"\0" * 16, None),
    ("header longer than the body", announced(16), b"", "9999"),
    ("header length negative", announced(16), b"\0" * 16, "-1"),
    ("header length a text", announced(16), b"\0" * 16, "x"),
    ("header length a fraction", announced(16), b"\0" * 16, "1.0"),
    ("header too short", announced(16), b"\0" * 16, "10"),
])  # fmt: skip
def _(url, value):
    _, document, raw, length = value
    error(binary(url, document, raw, length), 400)


@suite.each("BYTES whose lengths do not add up: 400", [
    ("prefix cut", b"\x01\0\0"), ("element cut", b"\x05\0\0\0abc"), ("prefix huge", b"\xff\xff\xff\xff"),
    ("one too many", b"\x01\0\0\0a\x01\0\0\0b"), ("none", b""),
])  # fmt: skip
def _(url, value):
    raw = value[1]
    document = {"inputs": [{
        "name": "INPUT0", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": len(raw)},
    }]}  # fmt: skip
    error(binary(url, document, raw, model="id_bytes"), 400, "INPUT0")


@suite.case("BOOL bytes other than 0 and 1: 400")
def _(url):
    document = {"inputs": [{
        "name": "INPUT0", "shape": [2], "datatype": "BOOL", "parameters": {"binary_data_size": 2},
    }]}  # fmt: skip
    error(binary(url, document, b"\x01\x02", model="id_bool"), 400, "INPUT0")


# --- compression and size -----------------------------------------------------------------------------------------


@suite.each("compressed answer", [("gzip", "gzip", gzip.decompress), ("deflate", "deflate", zlib.decompress)])
def _(url, value):
    _, coding, unpack = value
    body = json.dumps({"inputs": one([0.5] * 20000, [1, 20000], "FP32")}).encode()
    status, packed, headers = infer(url, body, headers={"Accept-Encoding": coding})
    same((status, headers.get("content-encoding")), (200, coding))
    same(len(packed) < 10000, True, "the answer is compressed")
    same(json.loads(unpack(packed))["outputs"][0]["data"], [0.5] * 20000)
    same(headers.get("content-encoding") and infer(url, body)[2].get("content-encoding"), None, "only when asked for")


@suite.each("compressed request", [("gzip", "gzip", gzip.compress), ("deflate", "deflate", zlib.compress)])
def _(url, value):
    _, coding, pack = value
    same(answer(*infer(url, pack(BODY), headers={"Content-Encoding": coding})[:2]), DATA)
    error(infer(url, pack(BODY)[:-9], headers={"Content-Encoding": coding}), 400)
    error(infer(url, BODY, headers={"Content-Encoding": coding}), 400)


@suite.case("an unknown content encoding: 415")
def _(url):
    error(infer(url, BODY, headers={"Content-Encoding": "br"}), 415, "gzip")


@suite.case("a body announced above the limit: 413, at once")
def _(url):
    with Wire(url) as wire:
        wire.send(head(url, 10**12))
        same(wire.response()[0], 413)


@suite.case("a small body that unpacks to 256 MiB: 413")
def _(url):
    packer = zlib.compressobj(9)
    bomb = b"".join(packer.compress(b" " * (1 << 20)) for _ in range(256)) + packer.flush()
    error(infer(url, bomb, headers={"Content-Encoding": "deflate"}), 413)


# --- more than one at a time --------------------------------------------------------------------------------------


@suite.case("100 connections at once, each is answered")
def _(url):
    wires = [Wire(url) for _ in range(100)]
    try:
        for wire in wires:
            wire.send(head(url, len(BODY)) + BODY)
        for wire in wires:
            status, body, _ = wire.response()
            same(answer(status, body), DATA)
    finally:
        for wire in wires:
            wire.socket.close()


if __name__ == "__main__":
    suite.main()
