"""A transformer encoder of the shape of MiniLM-L6 (Wang and others, 2020), with seeded random weights."""

import numpy
import onnx
from onnx import TensorProto, helper

LAYERS, WIDTH, HEADS, INNER, WORDS, POSITIONS = 6, 384, 12, 1536, 30522, 512


def build():
    """The model as a file: tokens `[N, T]`, their mask and types to the hidden state `[N, T, 384]`."""
    rng = numpy.random.default_rng(0)
    nodes, constants = [], []

    def constant(name, value, kind="float32"):
        constants.append(onnx.numpy_helper.from_array(numpy.asarray(value).astype(kind), name))
        return name

    def weights(name, *shape, spread=0.05):
        return constant(name, rng.normal(0, spread, shape))

    def node(operator, inputs, output, **attributes):
        nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    def linear(x, name, rows, columns):
        product = node("MatMul", [x, weights(f"{name}.weight", rows, columns)], f"{name}.product")
        return node("Add", [weights(f"{name}.bias", columns), product], name)

    def normalised(x, name):
        scale = constant(f"{name}.scale", rng.uniform(0.8, 1.2, WIDTH))
        return node("LayerNormalization", [x, scale, weights(f"{name}.bias", WIDTH)], name, axis=-1, epsilon=1e-12)

    def embeddings():
        words = node("Gather", [weights("words", WORDS, WIDTH), "input_ids"], "word")
        types = node("Gather", [weights("types", 2, WIDTH), "token_type_ids"], "type")
        length = node("Shape", ["input_ids"], "length", start=1, end=2)
        ends = [constant("zero", [0], "int64"), length, constant("rows", [0], "int64")]
        places = node("Slice", [weights("positions", POSITIONS, WIDTH), *ends], "position")
        return normalised(node("Add", [node("Add", [words, types], "word_and_type"), places], "sum"), "embedded")

    def attention(x, name, mask):
        heads = constant(f"{name}.heads", [0, 0, HEADS, WIDTH // HEADS], "int64")
        parts = {}
        for part, order in (("query", (0, 2, 1, 3)), ("key", (0, 2, 3, 1)), ("value", (0, 2, 1, 3))):
            split = node("Reshape", [linear(x, f"{name}.{part}", WIDTH, WIDTH), heads], f"{name}.{part}.split")
            parts[part] = node("Transpose", [split], f"{name}.{part}.heads", perm=order)
        scores = node("MatMul", [parts["query"], parts["key"]], f"{name}.products")
        root = constant(f"{name}.root", numpy.sqrt(WIDTH / HEADS))
        scores = node("Add", [node("Div", [scores, root], f"{name}.scores"), mask], f"{name}.masked")
        chances = node("Softmax", [scores], f"{name}.chances", axis=-1)
        mixed = node("MatMul", [chances, parts["value"]], f"{name}.mixed")
        turned = node("Transpose", [mixed], f"{name}.turned", perm=(0, 2, 1, 3))
        joined = node("Reshape", [turned, constant(f"{name}.all", [0, 0, WIDTH], "int64")], f"{name}.joined")
        return linear(joined, f"{name}.out", WIDTH, WIDTH)

    def gelu(x, name):
        root = node("Div", [x, constant(f"{name}.root", numpy.sqrt(2))], f"{name}.divided")
        more = node("Add", [node("Erf", [root], f"{name}.erf"), constant(f"{name}.one", 1)], f"{name}.more")
        return node("Mul", [node("Mul", [x, more], f"{name}.twice"), constant(f"{name}.half", 0.5)], name)

    x = embeddings()
    mask = node("Cast", ["attention_mask"], "mask.cast", to=TensorProto.FLOAT)
    mask = node("Unsqueeze", [mask, constant("mask.axes", [1, 2], "int64")], "mask.wide")
    mask = node("Sub", [constant("one", 1), mask], "mask.other")
    mask = node("Mul", [mask, constant("much", -1e4)], "mask")
    for layer in range(LAYERS):
        name = f"layer.{layer}"
        attended = attention(x, f"{name}.attention", mask)
        x = normalised(node("Add", [attended, x], f"{name}.sum"), f"{name}.attended")
        inner = gelu(linear(x, f"{name}.inner", WIDTH, INNER), f"{name}.gelu")
        outer = linear(inner, f"{name}.outer", INNER, WIDTH)
        output = f"{name}.output" if layer + 1 < LAYERS else "last_hidden_state"
        x = normalised(node("Add", [outer, x], f"{name}.outer.sum"), output)
    tokens = ("input_ids", "attention_mask", "token_type_ids")
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, ["N", "T"]) for name in tokens]
    output = helper.make_tensor_value_info(x, TensorProto.FLOAT, ["N", "T", WIDTH])
    graph = helper.make_graph(nodes, "encoder", inputs, [output], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model.SerializeToString()
