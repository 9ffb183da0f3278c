"""Lays out real third-party ONNX models as a Triton model repository: `python models.py DIR`.

Models come from Python packages (pinned below, nothing of a package is installed or run), are trained here with
scikit-learn, or are built (encoder.py). Each becomes DIR/<name>/1/model.onnx; one that these scripts have made already is kept.
"""

import hashlib
import pathlib
import subprocess
import sys
import tempfile
import zipfile

import encoder

# name: (package, the model inside its wheel). Licences: magika, rapidocr-onnxruntime, onnx Apache-2.0; silero-vad MIT.
PACKAGED = {
    "magika": ("magika==1.0.3", "magika/models/standard_v3_3/model.onnx"),
    "ppocr_det": ("rapidocr-onnxruntime==1.4.4", "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx"),
    "ppocr_rec": ("rapidocr-onnxruntime==1.4.4", "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx"),
    "ppocr_cls": ("rapidocr-onnxruntime==1.4.4", "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx"),
    "silero_vad_sequence": ("silero-vad==6.2.3", "silero_vad/data/silero_vad_16k_sequence.onnx"),
    "silero_vad_openvino": ("silero-vad==6.2.3", "silero_vad/data/silero_vad_openvino_16k.onnx"),
    # Branches for 16 and 8 kHz, and branches of different rank within them.
    "silero_vad": ("silero-vad==6.2.3", "silero_vad/data/silero_vad.onnx"),
    # These come without trained weights: they get random ones here, see randomise.
    "squeezenet": ("onnx==1.23.2", "onnx/backend/test/data/light/light_squeezenet.onnx"),
    "shufflenet": ("onnx==1.23.2", "onnx/backend/test/data/light/light_shufflenet.onnx"),
    "densenet121": ("onnx==1.23.2", "onnx/backend/test/data/light/light_densenet121.onnx"),
    "resnet50": ("onnx==1.23.2", "onnx/backend/test/data/light/light_resnet50.onnx"),
}
BUILT = {"encoder": encoder.build}


def path_of(root, name):
    return root / name / "1" / "model.onnx"


def store(root, name, content):
    path = path_of(root, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_bytes(content)
    partial.replace(path)
    print(f"{name}: {len(content) / 1e6:.1f} MB", flush=True)


def fetch(root, package, members):
    """Downloads a package's wheel and takes these members, {name: path in the wheel}, out of it."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*command, "--no-deps", "--only-binary=:all:", "--dest", folder, package], check=True)
        (wheel,) = pathlib.Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            for name, member in members.items():
                content = archive.read(member)
                store(root, name, randomise(content) if package.startswith("onnx==") else content)


def randomise(content):
    """Puts seeded random weights where a model generates constants, so that its outputs depend on its inputs, and leaves the
    batch open, which is 1 in the file."""
    import numpy
    import onnx

    model = onnx.load_from_string(content)
    shapes = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    generated = [node for node in model.graph.node if node.op_type == "ConstantOfShape"]
    rng = numpy.random.default_rng(0)
    for node in generated:
        shape = shapes[node.input[0]]
        if len(shape) == 1:  # scale, shift, mean and variance of a batch normalisation, or a bias
            weights = rng.uniform(0.9, 1.1, shape)
        else:  # small enough that one class does not take all
            weights = rng.normal(0, 0.5 * numpy.sqrt(2 / numpy.prod(shape[1:])), shape)
        model.graph.node.remove(node)
        tensor = onnx.numpy_helper.from_array(weights.astype("float32"), node.output[0])
        model.graph.initializer.append(tensor)
    used = {name for node in model.graph.node for name in node.input}
    for values in (model.graph.initializer, model.graph.input):
        for value in [value for value in values if value.name not in used]:
            values.remove(value)
    for node in model.graph.node:
        if node.op_type == "Reshape":
            (shape,) = [tensor for tensor in model.graph.initializer if tensor.name == node.input[1]]
            sizes = onnx.numpy_helper.to_array(shape).copy()
            sizes[0] = -1
            shape.CopyFrom(onnx.numpy_helper.from_array(sizes, shape.name))
    constants = {tensor.name for tensor in model.graph.initializer}
    data = [value for value in model.graph.input if value.name not in constants]
    for value in [*data, *model.graph.output]:
        value.type.tensor_type.shape.dim[0].dim_param = "N"
    return model.SerializeToString()


def rows(count, features):
    """Rows of two classes that trees have to grow deep for."""
    from sklearn.datasets import make_classification

    return make_classification(count, features, n_informative=features // 2, flip_y=0.1, random_state=0)


def classifiers():
    """{name: (data set, model, whether probabilities stay a tensor)}."""
    from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris
    from sklearn.ensemble import GradientBoostingClassifier, GradientBoostingRegressor, RandomForestClassifier
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def scaled(model):
        return make_pipeline(StandardScaler(), model)

    def many(return_X_y):
        return rows(5000, 30)

    boosted = {"max_depth": 4, "random_state": 0}
    return {
        "iris": (load_iris, scaled(LogisticRegression(max_iter=1000)), True),
        "iris_zipmap": (load_iris, scaled(LogisticRegression(max_iter=1000)), False),
        "iris_forest": (load_iris, RandomForestClassifier(30, max_depth=6, random_state=0), True),
        "random_forest": (many, RandomForestClassifier(100, max_depth=12, random_state=0), True),
        "boosted_classes": (many, GradientBoostingClassifier(n_estimators=50, **boosted), True),
        "boosted_regressor": (load_diabetes, GradientBoostingRegressor(n_estimators=200, **boosted), True),
        "ridge": (load_diabetes, scaled(Ridge()), True),
        "scaled_mlp": (load_breast_cancer, scaled(MLPClassifier((256, 128), max_iter=300, random_state=0)), True),
    }


def train(root, name):
    """Trains a scikit-learn model and converts it."""
    from skl2onnx import to_onnx
    from sklearn.base import is_classifier

    dataset, model, tensor = classifiers()[name]
    features, labels = dataset(return_X_y=True)
    features = features.astype("float32")
    model.fit(features, labels)
    options = {id(model): {"zipmap": False}} if tensor and is_classifier(model) else None
    store(root, name, to_onnx(model, features[:1], options=options, target_opset=17).SerializeToString())


def quantise(root, name):
    """Makes an 8-bit model with QuantizeLinear and DequantizeLinear of another, calibrated on noise: with signed bytes and as
    the file is, or with unsigned ones, scales by channel, and normalisations made part of the convolutions before."""
    import numpy
    import onnx.version_converter
    import onnxruntime
    from onnxruntime import quantization

    class Noise(quantization.CalibrationDataReader):
        def __init__(self):
            rng = numpy.random.default_rng(0)
            self.batches = iter([{"x": rng.uniform(-1, 1, (1, 3, 48, 192)).astype("float32")} for _ in range(8)])

        def get_next(self):
            return next(self.batches, None)

    source, unsigned = path_of(root, QUANTISED[name]), name.endswith("_uint8")
    with tempfile.TemporaryDirectory() as folder:
        path, fused = pathlib.Path(folder) / "model.onnx", pathlib.Path(folder) / "fused.onnx"
        of = quantization.QuantType.QUInt8 if unsigned else quantization.QuantType.QInt8
        if unsigned:
            options = onnxruntime.SessionOptions()
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
            options.optimized_model_filepath = str(fused)
            onnxruntime.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
            # From this version of the operators on there are scales by channel.
            source = onnx.version_converter.convert_version(onnx.load(fused), 13)
        quantization.quantize_static(source, path, Noise(), per_channel=unsigned, activation_type=of)
        store(root, name, path.read_bytes())


TRAINED = [
    "iris",
    "iris_zipmap",
    "iris_forest",
    "random_forest",
    "boosted_classes",
    "boosted_regressor",
    "ridge",
    "scaled_mlp",
]
QUANTISED = {"ppocr_cls_int8": "ppocr_cls", "ppocr_cls_uint8": "ppocr_cls"}

# Dimensions that a graph leaves open and works with few sizes of, as its operator would write them.
CONFIGS = {
    "silero_vad": """
[[inputs]]
name = "input"
datatype = "FP32"
shape = [1, 576]
[[inputs]]
name = "state"
datatype = "FP32"
shape = [2, 1, 128]
""",
}


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    root = pathlib.Path(sys.argv[1])
    stamp, scripts = root.parent / f"{root.name}.made-from.txt", (__file__, encoder.__file__)
    made_from = hashlib.sha256(b"".join(pathlib.Path(path).read_bytes() for path in scripts)).hexdigest()
    kept = stamp.exists() and stamp.read_text() == made_from
    missing = [
        name
        for name in [*PACKAGED, *BUILT, *TRAINED, *QUANTISED]
        if not kept or not path_of(root, name).exists()
    ]
    stamp.parent.mkdir(parents=True, exist_ok=True)
    stamp.unlink(missing_ok=True)
    packages = {}
    for name in missing:
        if name in PACKAGED:
            package, member = PACKAGED[name]
            packages.setdefault(package, {})[name] = member
    for package, members in packages.items():
        fetch(root, package, members)
    for name in missing:
        if name in BUILT:
            store(root, name, BUILT[name]())
        if name in TRAINED:
            train(root, name)
        if name in QUANTISED:
            quantise(root, name)
    for name, config in CONFIGS.items():
        (root / name / "model.toml").write_text(config)
    # Last, so that what was interrupted is not taken for finished.
    stamp.write_text(made_from)


if __name__ == "__main__":
    main()
