"""Rung 14: the three lines, by the library.

What the rungs built, ready to use: the same model and the same losses.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import TensorDataset

import plainfit as pf

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
classes = int(y_train.max()) + 1
bs = 64  # samples in a batch
lr = 0.1  # learning rate
train_ds = TensorDataset(x_train, y_train)
valid_ds = TensorDataset(x_valid, y_valid)
loss_func = F.cross_entropy

train_dl, valid_dl = pf.get_data(train_ds, valid_ds, bs, seed=args.seed)
model, opt = pf.get_model("cnn", lr=lr, momentum=0.9, classes=classes, seed=args.seed)
pf.fit(args.epochs, model, loss_func, opt, train_dl, valid_dl)
