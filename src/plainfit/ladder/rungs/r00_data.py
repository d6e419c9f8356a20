"""Rung 00: from a file to tensors.

The data: bytes from a checked download, arrays of NumPy, a digit to look at, tensors of PyTorch.
"""

import argparse
import gzip
import hashlib
import urllib.request
from pathlib import Path

import numpy as np
import torch

# --- Which data: no part of the lesson ---
parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
parser.add_argument("--data", type=Path, help="a .npz file (default: MNIST, downloaded)")
args = parser.parse_args()
if args.data and not args.data.is_file():
    parser.error(f"no such file: {args.data}; without --data, MNIST is downloaded")
# --- The lesson ---
URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"
FOLDER = Path("data")
IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
SHA256 = {  # of the unpacked files
    IMAGES: "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    LABELS: "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
}


def download(name, header):
    path = FOLDER / f"{name}.gz"
    is_there = path.exists()
    packed = path.read_bytes() if is_there else urllib.request.urlopen(URL + path.name).read()
    content = gzip.decompress(packed)
    if hashlib.sha256(content).hexdigest() != SHA256[name]:
        raise SystemExit(f"{path if is_there else URL + path.name} is not MNIST's file")
    FOLDER.mkdir(exist_ok=True)
    path.write_bytes(packed)
    return np.frombuffer(content, np.uint8, offset=header)  # a byte for each pixel or label


if args.data:
    with np.load(args.data) as arrays:
        x_train, y_train = arrays["x_train"], arrays["y_train"]
        x_valid, y_valid = arrays["x_valid"], arrays["y_valid"]
else:
    images = download(IMAGES, 16).reshape(-1, 28, 28)
    labels = download(LABELS, 8).astype(np.int64)
    x_train, x_valid = images[:50000], images[50000:]
    y_train, y_valid = labels[:50000], labels[50000:]

print("arrays: ", x_train.shape, x_train.dtype, y_train.shape, y_train.dtype)

side = x_train.shape[-1]
for row in x_train[0].reshape(side, side):
    print("".join(" .:-=+*#%@"[int(pixel) * 10 // 256] * 2 for pixel in row).rstrip())
print("label:", y_train[0])

x_train, y_train, x_valid, y_valid = map(torch.tensor, (x_train, y_train, x_valid, y_valid))
x_train, x_valid = x_train.flatten(1) / 256, x_valid.flatten(1) / 256
n, c = x_train.shape
print("tensors:", x_train.shape, x_train.dtype, y_train.shape, y_train.dtype)
print(f"{n} samples of {c} numbers from {x_train.min():.2f} to {x_train.max():.2f}")
print(f"labels from {y_train.min()} to {y_train.max()}")
