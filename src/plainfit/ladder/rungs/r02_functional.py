"""Rung 02: F.cross_entropy.

One function for log_softmax and the negative log-likelihood, so the model gives plain scores.
"""

import argparse
import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

# --- Reading the data: the same lines in every rung, and no part of the lesson ---
parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
parser.add_argument("--data", required=True, type=Path, help="x_train, y_train, ... in a .npz")
parser.add_argument("--epochs", type=int, default=2)
parser.add_argument("--seed", type=int, default=0)
args = parser.parse_args()
if not args.data.is_file():
    parser.error(f"no such file: {args.data}; `plainfit ladder copy 01 .` makes one")
with np.load(args.data) as arrays:
    x_train, y_train = torch.tensor(arrays["x_train"]), torch.tensor(arrays["y_train"])
    x_valid, y_valid = torch.tensor(arrays["x_valid"]), torch.tensor(arrays["y_valid"])
x_train, x_valid = x_train.flatten(1) / 256, x_valid.flatten(1) / 256  # bytes to 0 ... 1, in rows
torch.manual_seed(args.seed)
# --- The lesson ---
n, c = x_train.shape
classes = int(y_train.max()) + 1
bs = 64  # samples in a batch
lr = 0.5  # learning rate

weights = torch.randn(c, classes) / math.sqrt(c)  # Xavier initialisation
weights.requires_grad_()
bias = torch.zeros(classes, requires_grad=True)


def model(xb):
    return xb @ weights + bias


loss_func = F.cross_entropy


def accuracy(out, yb):
    return (out.argmax(dim=1) == yb).float().mean()


xb, yb = x_train[:bs], y_train[:bs]
print(f"before: loss {loss_func(model(xb), yb):.4f}, accuracy {accuracy(model(xb), yb):.4f}")

for epoch in range(args.epochs):
    for i in range((n - 1) // bs + 1):
        start_i = i * bs
        end_i = start_i + bs
        xb = x_train[start_i:end_i]
        yb = y_train[start_i:end_i]
        pred = model(xb)
        loss = loss_func(pred, yb)

        loss.backward()
        with torch.no_grad():
            weights -= weights.grad * lr
            bias -= bias.grad * lr
            weights.grad.zero_()
            bias.grad.zero_()

print(f"after: loss {loss_func(model(xb), yb):.4f}, accuracy {accuracy(model(xb), yb):.4f}")
