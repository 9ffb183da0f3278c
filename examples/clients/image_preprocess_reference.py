"""What the model `image-preprocess` answers, in Pillow and numpy: FP32 [files,3,height,width].

Usage: image_preprocess_reference.py [--url HOST:PORT] [--width W] [--height H] [--interpolation NAME] FILE...

Prints the shape and the mean of each channel. With --url it calls the gateway too, and fails if the answers differ:
for PNG by anything, for JPEG by more than what decoders differ in rounding, which is up to 4 steps of an 8-bit sample
where colours change and 0.3 steps on average.
"""

import argparse
import io
import sys
from pathlib import Path

import numpy as np
from PIL import Image

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def preprocess(files, width=224, height=224, interpolation="bilinear", mean=MEAN, std=STD):
    """Bytes of PNG or JPEG files -> FP32 [files,3,height,width]."""
    return np.stack([one(file, width, height, interpolation, mean, std) for file in files])


def one(file, width, height, interpolation, mean, std):
    image = Image.open(io.BytesIO(file)).convert("RGB")
    image = image.resize((width, height), Image.Resampling[interpolation.upper()])
    samples = np.asarray(image, np.float32) / np.float32(255)
    return ((samples - np.array(mean, np.float32)) / np.array(std, np.float32)).transpose(2, 0, 1)


def ask_gateway(url, files):
    import tritonclient.http as client

    image = client.InferInput("IMAGE", [len(files)], "BYTES")
    image.set_data_from_numpy(np.array(files, dtype=np.object_), binary_data=True)
    with client.InferenceServerClient(url) as gateway:
        return gateway.infer("image-preprocess", [image]).as_numpy("PIXELS")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--url")
    parser.add_argument("--width", type=int, default=224)
    parser.add_argument("--height", type=int, default=224)
    parser.add_argument("--interpolation", default="bilinear")
    parser.add_argument("files", nargs="+", type=Path)
    args = parser.parse_args()
    files = [file.read_bytes() for file in args.files]
    expected = preprocess(files, args.width, args.height, args.interpolation)
    print(f"shape {list(expected.shape)}, mean of red, green and blue: {expected.mean(axis=(0, 2, 3))}")
    if args.url:
        answer = ask_gateway(args.url, files)
        steps = np.abs(answer - expected) * (np.array(STD, np.float32) * 255)[:, None, None]
        for path, file, difference in zip(args.files, files, steps):
            largest, mean = difference.max(), difference.mean()
            print(f"{path}: the gateway's answer differs by {largest:.2f} steps at most, {mean:.3f} on average")
            png = file.startswith(b"\x89PNG")
            if largest > (0.01 if png else 4.01) or mean > (0.01 if png else 0.3):
                sys.exit("that is more than rounding")


if __name__ == "__main__":
    main()
