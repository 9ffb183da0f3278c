"""Asks the model `magika` what files contain: text/x-python, image/png, ...

Usage: magika_client.py [--url HOST:PORT] [--labels FOLDER] FILE...
"""

import argparse
import json
from pathlib import Path

import numpy as np
import tritonclient.http as client


def tokens(content: bytes, config: dict) -> np.ndarray:
    """A file as magika reads it: its first and its last bytes without the white space around them, padded."""
    block, padding = config["block_size"], config["padding_token"]
    begin = content[:block].lstrip()[: config["beg_size"]]
    end = content[-block:].rstrip()[-config["end_size"] :]
    features = np.full(config["beg_size"] + config["end_size"], padding, np.int32)
    features[: len(begin)] = np.frombuffer(begin, np.uint8)
    if end:
        features[-len(end) :] = np.frombuffer(end, np.uint8)
    return features


def content_type(scores: np.ndarray, config: dict, content_types: dict) -> tuple[str, float]:
    """The label of the highest score; a general one where magika does not trust a low score."""
    best = int(scores.argmax())
    label, score = config["target_labels_space"][best], float(scores[best])
    trusted = score >= config["thresholds"].get(label, config["medium_confidence_threshold"])
    label = config["overwrite_map"].get(label, label)
    if not trusted:
        label = "txt" if content_types[label]["is_text"] else "unknown"
    return label, score


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", default="127.0.0.1:8000")
    parser.add_argument("--labels", type=Path, default=Path("target/models/magika/1"))
    parser.add_argument("files", nargs="+", type=Path)
    args = parser.parse_args()
    config = json.loads((args.labels / "config.json").read_text())
    content_types = json.loads((args.labels / "content_types.json").read_text())

    features = np.stack([tokens(file.read_bytes(), config) for file in args.files])
    request = client.InferInput("bytes", list(features.shape), "INT32")
    request.set_data_from_numpy(features, binary_data=True)
    with client.InferenceServerClient(args.url) as gateway:
        scores = gateway.infer("magika", [request]).as_numpy("target_label")

    for file, row in zip(args.files, scores):
        label, score = content_type(row, config, content_types)
        meaning = content_types[label]
        print(f"{file}: {meaning['description']} ({label}, {meaning['mime_type']}), score {score:.2f}")


if __name__ == "__main__":
    main()
