"""What is asked over gRPC for docs/compatibility.md: wire.py runs it. The messages are Triton's own, those of its client."""

import struct

import grpc
from tritonclient.grpc import service_pb2 as pb

SERVICE = "inference.GRPCInferenceService"
DATA = [1.0, 2.5, -3.0, 4.0]
RAW = struct.pack("<4f", *DATA)
PATIENCE = 10


class Call:
    """A call whose message is given as it is, or as its bytes. How it ended: the status, and what `shown` says of the answer."""

    def __init__(self, method, message, answer=None, shown=None, service=SERVICE, metadata=(), **options):
        self.path = f"/{service}/{method}"
        self.message = message if isinstance(message, bytes) else message.SerializeToString()
        self.answer, self.shown = answer, shown
        self.metadata, self.options = list(metadata), options
        # The text that came with the status, for who wants to see it.
        self.text = ""

    def status(self, url):
        unlimited = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
        with grpc.insecure_channel(url, unlimited) as channel:
            try:
                return self.ask(channel)
            except grpc.RpcError as error:
                self.text = error.details()
                return error.code().name

    def ask(self, channel):
        answer = channel.unary_unary(self.path)(self.message, timeout=PATIENCE, metadata=self.metadata, **self.options)
        return f"OK: {self.shown(self.answer.FromString(answer))}" if self.shown else "OK"


class Stream(Call):
    """Requests on one stream: what came for each, in their order, and how the stream ended if not well."""

    def __init__(self, *messages, metadata=()):
        super().__init__("ModelStreamInfer", b"", metadata=metadata)
        self.messages = [message.SerializeToString() for message in messages]

    def ask(self, channel):
        told = []
        try:
            for answer in channel.stream_stream(self.path)(iter(self.messages), timeout=PATIENCE, metadata=self.metadata):
                answer = pb.ModelStreamInferResponse.FromString(answer)
                self.text = answer.error_message or self.text
                told.append("error" if answer.error_message else "answer")
        except grpc.RpcError as error:
            self.text = error.details()
            told.append(error.code().name)
        return ", ".join(told) or "-"


def tensor(data=None, shape=(1, 4), datatype="FP32", name="INPUT0", field="fp32_contents", **parameters):
    """An input; with `data`, typed in that field."""
    put = pb.ModelInferRequest.InferInputTensor(name=name, datatype=datatype, shape=shape)
    if data is not None:
        getattr(put.contents, field).extend(data)
    for key, value in parameters.items():
        set_parameter(put.parameters[key], value)
    return put


def set_parameter(parameter, value):
    kinds = {bool: "bool_param", int: "int64_param", str: "string_param", float: "double_param"}
    setattr(parameter, kinds[type(value)], value)


def request(*inputs, raw=(RAW,), model="identity", version="", outputs=(), parameters=None, **more):
    message = pb.ModelInferRequest(model_name=model, model_version=version, inputs=inputs or [tensor()], **more)
    message.raw_input_contents.extend(raw)
    for name in outputs:
        message.outputs.add(name=name)
    for key, value in (parameters or {}).items():
        set_parameter(message.parameters[key], value)
    return message


def form(response):
    """How the outputs travel."""
    return "raw" if response.raw_output_contents else "typed"


def infer(*inputs, options=None, **more):
    return Call("ModelInfer", request(*inputs, **more), pb.ModelInferResponse, form, **(options or {}))


def typed(data, field, datatype, shape=None):
    put = tensor(data, [len(data)] if shape is None else shape, datatype, field=field)
    return infer(put, raw=(), model=f"id_{datatype.lower()}")


def raw(data, datatype, shape):
    return infer(tensor(shape=shape, datatype=datatype), raw=(data,), model=f"id_{datatype.lower()}")


def ready(name, version=""):
    message = pb.ModelReadyRequest(name=name, version=version)
    return Call("ModelReady", message, pb.ModelReadyResponse, lambda answer: str(answer.ready).lower())


def metadata(name, version=""):
    return Call("ModelMetadata", pb.ModelMetadataRequest(name=name, version=version))


def statistics(name="", version=""):
    return Call("ModelStatistics", pb.ModelStatisticsRequest(name=name, version=version))


def load(what, **fields):
    messages = {"Load": pb.RepositoryModelLoadRequest, "Unload": pb.RepositoryModelUnloadRequest}
    return Call(f"RepositoryModel{what}", messages[what](**fields))


def settings():
    message = pb.LogSettingsRequest()
    message.settings["log_verbose_level"].uint32_param = 1
    return Call("LogSettings", message)


def trace():
    message = pb.TraceSettingRequest()
    message.settings["trace_level"].value.append("TIMESTAMPS")
    return Call("TraceSetting", message)


HEALTH = "grpc.health.v1.Health"
REFLECTION = "grpc.reflection.v1alpha.ServerReflection"


def rows(part):
    """Adds all rows; `part` makes the function that adds those of a group."""
    say = part("gRPC: calls")
    say("ServerLive", "OK/OK/OK", "OK", Call("ServerLive", b""))
    say("ServerReady", "OK/OK/OK", "OK", Call("ServerReady", b""))
    say("ServerMetadata", "OK/OK/OK", "OK", Call("ServerMetadata", b""))
    say("ModelReady", "OK: true/OK: true/OK: true", "OK: true", ready("identity"))
    say("… of an unknown version", "OK: false/UNKNOWN/OK: true", "OK: false", ready("identity", "9"))
    say("… of an unknown model", "OK: false/UNKNOWN/NOT_FOUND", "OK: false", ready("nope"))
    say("ModelMetadata", "OK/OK/OK", "OK", metadata("identity"))
    say("… of an unknown version", "NOT_FOUND/NOT_FOUND/OK", "NOT_FOUND", metadata("identity", "9"))
    say("… of an unknown model", "NOT_FOUND/NOT_FOUND/NOT_FOUND", "NOT_FOUND", metadata("nope"))
    say("ModelConfig", "OK/UNIMPLEMENTED/UNIMPLEMENTED", "OK", Call("ModelConfig", pb.ModelConfigRequest(name="identity")))
    say("ModelStatistics of a model", "OK/UNIMPLEMENTED/UNIMPLEMENTED", "OK", statistics("identity"))
    say("… of all models", "OK/UNIMPLEMENTED/UNIMPLEMENTED", "OK", statistics())
    say("… of an unknown model", "INVALID_ARGUMENT/UNIMPLEMENTED/UNIMPLEMENTED", "NOT_FOUND", statistics("nope"), "what is not there is not found")
    say("RepositoryIndex", "OK/OK/UNIMPLEMENTED", "OK", Call("RepositoryIndex", b""))
    say("RepositoryModelLoad, the name in Triton's field", "OK/OK/UNKNOWN", "OK", load("Load", model_name="identity"))
    say("… in KServe's field", "UNIMPLEMENTED/NOT_FOUND/INTERNAL", "OK", load("Load", repository_name="identity"), "the clients of both load models")
    say("… of an unknown model", "INTERNAL/NOT_FOUND/UNKNOWN", "NOT_FOUND", load("Load", model_name="nope"), "what is not there is not found")
    say("RepositoryModelUnload of an unknown model", "OK/NOT_FOUND/NOT_FOUND", "NOT_FOUND", load("Unload", model_name="nope"), "the same")
    say("LogSettings", "OK/UNIMPLEMENTED/UNIMPLEMENTED", "OK", Call("LogSettings", b""))
    say("… with a setting", "OK/UNIMPLEMENTED/UNIMPLEMENTED", "UNIMPLEMENTED", settings(), "they concern all tenants, and are chosen at the start")
    say("TraceSetting", "OK/UNIMPLEMENTED/UNIMPLEMENTED", "OK", Call("TraceSetting", b""))
    say("… with a setting", "INVALID_ARGUMENT/UNIMPLEMENTED/UNIMPLEMENTED", "UNIMPLEMENTED", trace(), "the same")
    say("SystemSharedMemoryStatus", "OK/UNIMPLEMENTED/UNIMPLEMENTED", "UNIMPLEMENTED", Call("SystemSharedMemoryStatus", b""), "clients that share a gateway do not trust each other")
    say("SystemSharedMemoryRegister", "INTERNAL/UNIMPLEMENTED/UNIMPLEMENTED", "UNIMPLEMENTED", Call("SystemSharedMemoryRegister", pb.SystemSharedMemoryRegisterRequest(name="a", key="/a", byte_size=16)), "the same")
    say("CudaSharedMemoryStatus", "OK/UNIMPLEMENTED/UNIMPLEMENTED", "UNIMPLEMENTED", Call("CudaSharedMemoryStatus", b""), "the same")
    say("Health/Check", "OK/UNIMPLEMENTED/UNIMPLEMENTED", "OK", Call("Check", b"", service=HEALTH))
    say("… of the inference service", "OK/UNIMPLEMENTED/UNIMPLEMENTED", "OK", Call("Check", b"\x0a\x1e" + SERVICE.encode(), service=HEALTH))
    say("an unknown call", "UNIMPLEMENTED/UNIMPLEMENTED/UNIMPLEMENTED", "UNIMPLEMENTED", Call("Nope", b""))
    say("an unknown service", "UNIMPLEMENTED/UNIMPLEMENTED/UNIMPLEMENTED", "UNIMPLEMENTED", Call("Nope", b"", service="nope.Nope"))
    say("a message that is none", "INTERNAL/UNKNOWN/UNKNOWN", "INVALID_ARGUMENT", Call("ModelInfer", b"\xff\xff\xff"), "the client's fault")

    say = part("gRPC: requests")
    say("raw", "OK: raw/OK: raw/OK: raw", "OK: raw", infer())
    say("typed", "OK: raw/OK: typed/OK: typed", "OK: raw", infer(tensor(DATA), raw=()), "Triton's client reads no other form")
    say("with an id", "OK: raw/OK: raw/OK: raw", "OK: raw", infer(id="42"))
    say("to a version", "OK: raw/OK: raw/OK: raw", "OK: raw", infer(version="1"))
    say("to an unknown version", "NOT_FOUND/NOT_FOUND/OK: raw", "NOT_FOUND", infer(version="9"))
    say("to a model with two versions", "OK: raw/OK: raw/NOT_FOUND", "OK: raw", infer(tensor(shape=[4]), model="versions"))
    say("to an unknown model", "NOT_FOUND/NOT_FOUND/NOT_FOUND", "NOT_FOUND", infer(model="nope"))
    say("without a model's name", "NOT_FOUND/NOT_FOUND/NOT_FOUND", "NOT_FOUND", infer(model=""))
    say("an output by name", "OK: raw/OK: raw/OK: raw", "OK: raw", infer(outputs=["OUTPUT0"]))
    say("an unknown output", "INVALID_ARGUMENT/OK: typed/OK: raw", "INVALID_ARGUMENT", infer(outputs=["NOPE"]))
    say("parameters: text, number, boolean", "OK: raw/OK: raw/OK: raw", "OK: raw", infer(parameters={"s": "a", "i": 1, "b": True}))
    say("a parameter that is a fraction", "OK: raw/OK: raw/OK: raw", "OK: raw", infer(parameters={"f": 0.5}))
    say("a parameter triton_x", "INVALID_ARGUMENT/OK: raw/OK: raw", "INVALID_ARGUMENT", infer(parameters={"triton_x": 1}))
    say("a shared memory region", "NOT_FOUND/INTERNAL/INTERNAL", "UNIMPLEMENTED", infer(tensor(shared_memory_region="a", shared_memory_byte_size=16), raw=()), "clients that share a gateway do not trust each other")
    say("gzip", "OK: raw/OK: raw/OK: raw", "OK: raw", infer(options={"compression": grpc.Compression.Gzip}))
    say("deflate", "OK: raw/OK: raw/OK: raw", "OK: raw", infer(options={"compression": grpc.Compression.Deflate}))
    say("5 MiB", "OK: raw/OK: raw/OK: raw", "OK: raw", infer(tensor(shape=[1, 5 << 18]), raw=(bytes(5 << 20),)))
    say("a model that fails", "INTERNAL/INTERNAL/NOT_FOUND", "INTERNAL", infer(model="failing"))

    say = part("gRPC: tensors that do not fit")
    say("raw and typed", "INVALID_ARGUMENT/OK: raw/INVALID_ARGUMENT", "INVALID_ARGUMENT", infer(tensor(DATA)))
    say("neither", "INVALID_ARGUMENT/INTERNAL/INTERNAL", "INVALID_ARGUMENT", infer(raw=()))
    say("raw for one of two inputs", "INVALID_ARGUMENT/OK: raw/INVALID_ARGUMENT", "INVALID_ARGUMENT", infer(tensor(), tensor([1, 2], [2], "INT32", "INPUT1", "int_contents"), model="two_io"))
    say("more raw tensors than inputs", "OK: raw/OK: raw/INVALID_ARGUMENT", "INVALID_ARGUMENT", infer(raw=(RAW, RAW)), "one of the two is a mistake")
    say("too few bytes", "INVALID_ARGUMENT/INTERNAL/INTERNAL", "INVALID_ARGUMENT", infer(raw=(RAW[:8],)))
    say("too many bytes", "INVALID_ARGUMENT/INTERNAL/INTERNAL", "INVALID_ARGUMENT", infer(raw=(RAW + b"xxxx",)))
    say("too few elements", "INVALID_ARGUMENT/INTERNAL/INTERNAL", "INVALID_ARGUMENT", infer(tensor(DATA[:3]), raw=()))
    say("too many elements", "INVALID_ARGUMENT/INTERNAL/INTERNAL", "INVALID_ARGUMENT", infer(tensor(DATA + [5.0]), raw=()))
    say("FP32 in int_contents", "INVALID_ARGUMENT/OK: typed/INTERNAL", "INVALID_ARGUMENT", infer(tensor([1, 2, 3, 4], field="int_contents"), raw=()))
    say("another rank", "INVALID_ARGUMENT/OK: raw/OK: raw", "INVALID_ARGUMENT", infer(tensor(shape=[4])))
    say("a negative dimension", "INVALID_ARGUMENT/INTERNAL/INVALID_ARGUMENT", "INVALID_ARGUMENT", infer(tensor(shape=[-1, 4])))
    say("a dimension of 0", "OK: raw/OK: raw/OK: raw", "OK: raw", infer(tensor(shape=[1, 0]), raw=(b"",)))
    say("a shape that overflows", "INVALID_ARGUMENT/INTERNAL/INTERNAL", "INVALID_ARGUMENT", infer(tensor(shape=[9223372036854775807, 4])), "by its product; Triton compares with -16 bytes")
    say("another datatype", "INVALID_ARGUMENT/OK: raw/OK: raw", "INVALID_ARGUMENT", infer(tensor(datatype="INT32")))
    say("an unknown datatype", "INVALID_ARGUMENT/INTERNAL/INVALID_ARGUMENT", "INVALID_ARGUMENT", infer(tensor(datatype="FP99")))
    say("a datatype in small letters", "INVALID_ARGUMENT/INTERNAL/INVALID_ARGUMENT", "INVALID_ARGUMENT", infer(tensor(datatype="fp32")))
    say("one of two inputs", "INVALID_ARGUMENT/OK: raw/OK: raw", "INVALID_ARGUMENT", infer(model="two_io"))
    say("an input too many", "INVALID_ARGUMENT/OK: raw/OK: raw", "INVALID_ARGUMENT", infer(tensor(), tensor(name="X"), raw=(RAW, RAW)))
    say("an input twice", "INVALID_ARGUMENT/OK: raw/OK: raw", "INVALID_ARGUMENT", infer(tensor(), tensor(), raw=(RAW, RAW)))
    say("another name", "INVALID_ARGUMENT/OK: raw/OK: raw", "INVALID_ARGUMENT", infer(tensor(name="X")))
    say("no inputs", "INVALID_ARGUMENT/OK: typed/OK: typed", "INVALID_ARGUMENT", Call("ModelInfer", pb.ModelInferRequest(model_name="identity"), pb.ModelInferResponse, form))

    say = part("gRPC: datatypes")
    say("BOOL, raw", "OK: raw/OK: raw/OK: raw", "OK: raw", raw(b"\1\0\1", "BOOL", [3]))
    say("BOOL of 2, raw", "OK: raw/OK: raw/OK: raw", "INVALID_ARGUMENT", raw(b"\2", "BOOL", [1]), "no BOOL is 2; Triton's model gets it")
    say("256 for UINT8", "OK: raw/OK: typed/INTERNAL", "INVALID_ARGUMENT", typed([256], "uint_contents", "UINT8"), "Triton answers 0")
    say("-129 for INT8", "OK: raw/OK: typed/INTERNAL", "INVALID_ARGUMENT", typed([-129], "int_contents", "INT8"), "Triton answers 127")
    say("the largest UINT64", "OK: raw/OK: typed/OK: typed", "OK: raw", typed([2**64 - 1], "uint64_contents", "UINT64"))
    say("FP16, raw", "OK: raw/OK: raw/OK: raw", "OK: raw", raw(b"\0\x3c", "FP16", [1]))
    say("FP16 in bytes_contents", "INVALID_ARGUMENT/OK: typed/INTERNAL", "INVALID_ARGUMENT", typed([b"\0\x3c"], "bytes_contents", "FP16"))
    say("BF16, raw", "INTERNAL/INTERNAL/INVALID_ARGUMENT", "OK: raw", raw(b"\x80\x3f", "BF16", [1]), "a datatype like the others")
    say("NaN", "OK: raw/INTERNAL/OK: typed", "OK: raw", infer(tensor([float("nan"), 1, 2, 3]), raw=()))
    say("BYTES, typed", "OK: raw/OK: typed/INVALID_ARGUMENT", "OK: raw", typed([b"\xff\0", b""], "bytes_contents", "BYTES"))
    say("BYTES, raw", "OK: raw/OK: raw/OK: raw", "OK: raw", raw(struct.pack("<I2sI", 2, b"\xff\0", 0), "BYTES", [2]))
    say("BYTES with a length beyond its end", "INVALID_ARGUMENT/INTERNAL/INTERNAL", "INVALID_ARGUMENT", raw(struct.pack("<I3s", 99, b"abc"), "BYTES", [1]))

    say = part("gRPC: streams")
    good, bad = request(), request(model="nope")
    say("two requests", "answer, answer/other messages/UNIMPLEMENTED", "answer, answer", Stream(good, good))
    say("a refusal between two", "answer, error, answer/other messages/UNIMPLEMENTED", "answer, error, answer", Stream(good, bad, good))
    say("… with triton_grpc_error", "answer, error, answer/other messages/UNIMPLEMENTED", "answer, NOT_FOUND", Stream(good, bad, good, metadata=[("triton_grpc_error", "true")]), "what the metadata asks for, as Triton documents it")
    say("triton_enable_empty_final_response", "answer/other messages/UNIMPLEMENTED", "answer", Stream(request(parameters={"triton_enable_empty_final_response": True})), "the one answer says that it is the last")
    say("none", "-/INTERNAL/UNIMPLEMENTED", "-", Stream())


# Title, what the three said, what we say, and the call. A dash: they answered.
TEXTS = [
    (
        "to an unknown model",
        ["Request for unknown model: 'nope' is not found", "Model nope with version  not found", "Model with name nope does not exist."],
        "Request for unknown model: 'nope' is not found",
        infer(model="nope"),
    ),
    (
        "to an unknown version",
        ["Request for unknown model: 'identity' version 9 is not found", "Model identity with version 9 not found", "-"],
        "Request for unknown model: 'identity' version 9 is not found",
        infer(version="9"),
    ),
    (
        "an unknown output",
        ["unexpected inference output 'NOPE' for model 'identity'", "-", "-"],
        "output 'NOPE': the model has no such output, it gives 'OUTPUT0'",
        infer(outputs=["NOPE"]),
    ),
    (
        "a model that fails",
        ["Failed to process the request(s) for model 'failing_0_0', message: TritonModelException: boom from model …", "boom from model", "Model with name failing does not exist."],
        "this model always fails",
        infer(model="failing"),
    ),
    (
        "raw and typed",
        ["contents field must not be specified when using raw_input_contents for 'INPUT0' for model 'identity'", "-", "contents field must not be specified when using raw_input_contents for input 'INPUT0' for model 'identity'"],
        "input 'INPUT0': has 'contents', and the request has 'raw_input_contents': send one of the two",
        infer(tensor(DATA)),
    ),
    (
        "neither",
        ["unable to find data for input tensor 'INPUT0' for model 'identity' in request.", "cannot reshape array of size 0 into shape (1,4)", "Internal server error"],
        "input 'INPUT0': shape [1,4] of FP32 takes 16 bytes, got 0",
        infer(raw=()),
    ),
    (
        "too few bytes",
        ["input byte size mismatch for input 'INPUT0' for model 'identity'. Expected 16, got 8", "unpack requires a buffer of 16 bytes", "Internal server error"],
        "input 'INPUT0': shape [1,4] of FP32 takes 16 bytes, got 8",
        infer(raw=(RAW[:8],)),
    ),
    (
        "too few elements",
        ["input byte size mismatch for input 'INPUT0' for model 'identity'. Expected 16, got 12", "cannot reshape array of size 3 into shape (1,4)", "Internal server error"],
        "input 'INPUT0': shape [1,4] of FP32 takes 16 bytes, got 12",
        infer(tensor(DATA[:3]), raw=()),
    ),
    (
        "FP32 in int_contents",
        ["unexpected explicit tensor data for input tensor 'INPUT0' for model 'identity' of type 'INT32', expected datatype 'FP32'", "-", "Internal server error"],
        "input 'INPUT0': has 'int_contents', but FP32 elements are sent in 'fp32_contents'",
        infer(tensor([1, 2, 3, 4], field="int_contents"), raw=()),
    ),
    (
        "another rank",
        ["unexpected shape for input 'INPUT0' for model 'identity'. Expected [-1,-1], got [4].", "-", "-"],
        "input 'INPUT0': shape is [4], the model expects [-1,-1]",
        infer(tensor(shape=[4])),
    ),
    (
        "a shape that overflows",
        ["input byte size mismatch for input 'INPUT0' for model 'identity'. Expected -16, got 16", "total struct size too long", "Internal server error"],
        "input 'INPUT0': the product of shape [9223372036854775807,4] overflows",
        infer(tensor(shape=[9223372036854775807, 4])),
    ),
    (
        "another datatype",
        ["inference input 'INPUT0' data-type is 'INT32', but model 'identity' expects 'FP32'", "-", "-"],
        "input 'INPUT0': datatype is INT32, the model expects FP32",
        infer(tensor(datatype="INT32")),
    ),
    (
        "one of two inputs",
        ["expected 2 inputs but got 1 inputs for model 'two_io'. Got input(s) ['INPUT0'], but missing required input(s) ['INPUT1'].…", "-", "-"],
        "input 'INPUT1': is missing, expected INT32 of shape [-1]",
        infer(model="two_io"),
    ),
    (
        "256 for UINT8",
        ["-", "-", "Internal server error"],
        "input 'INPUT0': element 0 is 256, which is out of UINT8's range",
        typed([256], "uint_contents", "UINT8"),
    ),
    (
        "BYTES with a length beyond its end",
        ["incomplete string data for inference input 'INPUT0', expecting string of length 99 but only 3 bytes available", "unpack_from requires a buffer of at least 103 bytes for unpacking 99 bytes at offset 4 (actual buffer size is 7)", "Internal server error"],
        "input 'INPUT0': BYTES element 0 is cut short: it announces 99 bytes, 3 are left",
        raw(struct.pack("<I3s", 99, b"abc"), "BYTES", [1]),
    ),
    (
        "a message that is none",
        ["Unable to parse request", "Unexpected DecodeError: Error parsing message with type 'inference.ModelInferRequest'", "Unexpected DecodeError: Error parsing message with type 'inference.ModelInferRequest'"],
        "the message is malformed: a field is cut short",
        Call("ModelInfer", b"\xff\xff\xff"),
    ),
]
