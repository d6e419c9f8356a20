"""Rung 08: shuffled batches, a validation loss.

What the model is worth on samples it was not trained on, in train() and eval() mode.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn, optim
from torch.utils.data import DataLoader, TensorDataset

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
c = x_train.shape[1]
classes = int(y_train.max()) + 1
bs = 64  # samples in a batch
lr = 0.5  # learning rate
train_ds = TensorDataset(x_train, y_train)
train_dl = DataLoader(train_ds, batch_size=bs, shuffle=True)
valid_ds = TensorDataset(x_valid, y_valid)
valid_dl = DataLoader(valid_ds, batch_size=bs * 2)  # no gradients, so there is room for more


class MnistLogistic(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(c, classes)

    def forward(self, xb):
        return self.lin(xb)


def get_model():
    model = MnistLogistic()
    return model, optim.SGD(model.parameters(), lr=lr)


model, opt = get_model()
loss_func = F.cross_entropy

for epoch in range(args.epochs):
    model.train()
    for xb, yb in train_dl:
        pred = model(xb)
        loss = loss_func(pred, yb)

        loss.backward()
        opt.step()
        opt.zero_grad()

    model.eval()
    with torch.no_grad():
        valid_loss = sum(loss_func(model(xb), yb) for xb, yb in valid_dl) / len(valid_dl)
    print(f"epoch {epoch}: valid_loss {valid_loss:.4f}")
