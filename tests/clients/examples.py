"""The example models, called with the stock client, beside what scikit-learn, Pillow and their training promise."""

import io
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import tritonclient.http as triton
from PIL import Image
from sklearn.datasets import load_digits, load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from tritonclient.utils import InferenceServerException

from harness import Suite, contains, same

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "examples/clients"))
from image_preprocess_reference import preprocess  # noqa: E402

suite = Suite(__doc__)
DIGITS = load_digits()
STD = np.array((0.229, 0.224, 0.225), np.float32)


def infer(url, model, name, array, datatype):
    with triton.InferenceServerClient(url) as client:
        return client.infer(model, [tensor(name, array, datatype)])


def tensor(name, array, datatype):
    return triton.InferInput(name, list(array.shape), datatype).set_data_from_numpy(array)


def texts(*values):
    return np.array([value.encode() for value in values], object)


def refused(url, model, name, array, datatype, *words):
    """The call must be refused with 400 and a text that holds every word."""
    try:
        infer(url, model, name, array, datatype)
    except InferenceServerException as error:
        same(error.status(), "400", f"status of {error.message()}")
        contains(error.message(), *words)
    else:
        raise AssertionError("the call succeeded")


def png(array, **options):
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG", **options)
    return file.getvalue()


@suite.case("add: the sum of two vectors, NaN and all")
def _(url):
    a, b = np.array([1.5, np.inf, np.nan], np.float32), np.array([0.25, np.inf, 2], np.float32)
    with triton.InferenceServerClient(url) as client:
        result = client.infer("add", [tensor("A", a, "FP32"), tensor("B", b, "FP32")])
    np.testing.assert_array_equal(result.as_numpy("SUM"), a + b)


@suite.case("iris: all 150 flowers, as scikit-learn answers them")
def _(url):
    iris = load_iris()
    train_x, _, train_y, _ = train_test_split(
        iris.data, iris.target, test_size=0.3, random_state=0, stratify=iris.target
    )
    model = LogisticRegression(max_iter=1000).fit(train_x, train_y)
    result = infer(url, "iris", "FEATURES", iris.data.astype(np.float32), "FP32")
    np.testing.assert_allclose(result.as_numpy("PROBABILITIES"), model.predict_proba(iris.data), atol=1e-5)
    expected = [iris.target_names[label] for label in model.predict(iris.data)]
    same([label.decode() for label in result.as_numpy("LABEL")], expected)


@suite.case("text-clean: tags, references, composition, case and white space")
def _(url):
    given = texts("<p>Caf&eacute; <b>AU</b>\n lait</p>", "e\u0301", "", "<script>x()</script>ÄÖ &lt;3", "日本 語")
    got = infer(url, "text-clean", "TEXT", given, "BYTES").as_numpy("CLEAN")
    same([text.decode() for text in got], ["café au lait", "é", "", "äö <3", "日本 語"])


@suite.case("text-clean: bytes that are no text are the caller's mistake")
def _(url):
    refused(url, "text-clean", "TEXT", np.array([b"good", b"\xff"], object), "BYTES", "TEXT")


def steps(url, pictures):
    """How far the gateway's answer is from Pillow's, in steps of an 8-bit sample: largest and mean."""
    got = infer(url, "image-preprocess", "IMAGE", np.array(pictures, object), "BYTES").as_numpy("PIXELS")
    same(got.shape, (len(pictures), 3, 224, 224))
    difference = np.abs(got - preprocess(pictures)) * (STD * 255)[:, None, None]
    return difference.max(), difference.mean()


@suite.case("image-preprocess: PNG of every kind, within rounding of Pillow and numpy")
def _(url):
    random = np.random.default_rng(6)
    noise = random.integers(0, 256, (37, 61, 4), np.uint8)
    square, tall = (random.integers(0, 256, shape, np.uint8) for shape in [(224, 224, 3), (500, 3, 3)])
    same(steps(url, [png(square)])[0] < 0.01, True, "without a change of size nothing is rounded")
    largest, mean = steps(url, [png(noise[..., :3]), png(noise), png(noise[..., 0]), png(square), png(tall)])
    # Pillow resizes rows before columns or after them, whichever is cheaper, and rounds in between.
    same(largest <= 1.01 and mean <= 0.1, True, f"steps of {largest} and {mean} are rounding")


@suite.case("image-preprocess: JPEG within a decoder's rounding of Pillow")
def _(url):
    x, y = np.meshgrid(np.linspace(0, 6, 300), np.linspace(0, 4, 200))
    waves = np.stack([np.sin(x + y), np.cos(x * y), np.sin(x) * np.cos(y)], axis=2)
    file = io.BytesIO()
    Image.fromarray((waves * 127 + 128).astype(np.uint8)).save(file, "JPEG", quality=90)
    largest, mean = steps(url, [file.getvalue()])
    same(largest <= 4.01 and mean <= 0.5, True, f"steps of {largest} and {mean} are rounding")


@suite.each("image-preprocess: not a picture", [
    ("empty", b""), ("text", b"hello"), ("half a PNG", png(np.zeros((64, 64, 3), np.uint8))[:60]),
    # An IHDR of 2^31 - 1 by 2^31 - 1: whoever allocates what it announces has lost.
    ("giant", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\x7f\xff\xff\xff\x7f\xff\xff\xff\x08\x02\0\0\0\x8b\x91\xb6\x3f"),
])  # fmt: skip
def _(url, value):
    refused(url, "image-preprocess", "IMAGE", np.array([value[1]], object), "BYTES", "element 0 of IMAGE")


def held_out():
    return train_test_split(
        (DIGITS.images / 16).astype(np.float32)[:, None], DIGITS.target,
        test_size=0.25, random_state=0, stratify=DIGITS.target,
    )[1::2]  # fmt: skip


@suite.case("digits: at least 97 % of the held-out digits, in one batch")
def _(url):
    images, labels = held_out()
    logits = infer(url, "digits", "IMAGE", np.ascontiguousarray(images), "FP32").as_numpy("LOGITS")
    accuracy = (logits.argmax(axis=1) == labels).mean()
    same(accuracy >= 0.97, True, f"accuracy {accuracy:.1%} is enough")


@suite.case("digits-pipeline: raw samples and PNG files of any size, read alike")
def _(url):
    images, labels = held_out()
    samples = [(image[0] * 255).astype(np.uint8) for image in images[:100]]
    raw = np.array([sample.tobytes() for sample in samples], object)
    large = np.array([png(np.kron(sample, np.ones((7, 7), np.uint8))) for sample in samples], object)
    of_raw = infer(url, "digits-pipeline", "IMAGE", raw, "BYTES")
    of_png = infer(url, "digits-pipeline", "IMAGE", large, "BYTES")
    for name in ("LABEL", "PROBABILITY"):
        np.testing.assert_array_equal(of_raw.as_numpy(name), of_png.as_numpy(name))
    accuracy = (of_raw.as_numpy("LABEL") == labels[:100]).mean()
    same(accuracy >= 0.95, True, f"accuracy {accuracy:.1%} is enough")


@suite.case("digits-pipeline: 32 calls at a time, each with a native call inside")
def _(url):
    samples = [np.array([(image * 15.9).astype(np.uint8).tobytes()], object) for image in DIGITS.images[:96]]
    with triton.InferenceServerClient(url, concurrency=32) as client:
        calls = [client.async_infer("digits-pipeline", [tensor("IMAGE", sample, "BYTES")]) for sample in samples]
        labels = [call.get_result(timeout=30).as_numpy("LABEL")[0] for call in calls]
    accuracy = (np.array(labels) == DIGITS.target[:96]).mean()
    same(accuracy >= 0.95, True, f"accuracy {accuracy:.1%} is enough")


@suite.case("digits-pipeline: the element that is no image is named")
def _(url):
    refused(url, "digits-pipeline", "IMAGE", np.array([bytes(64), b"no"], object), "BYTES", "element 1 of IMAGE")


@suite.case("magika: the example client tells Python from PNG")
def _(url):
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "picture"
        picture.write_bytes(png(np.arange(12288, dtype=np.uint8).reshape(64, 64, 3)))
        client = [sys.executable, ROOT / "examples/clients/magika_client.py", "--url", url]
        done = subprocess.run([*client, __file__, picture], capture_output=True, text=True, cwd=ROOT, check=False)
    same(done.returncode, 0, done.stderr)
    first, second = done.stdout.splitlines()
    contains(first, "(python,")
    contains(second, "(png,")


if __name__ == "__main__":
    suite.main()
