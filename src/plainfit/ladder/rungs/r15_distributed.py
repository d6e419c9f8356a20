"""Rung 15: two processes, one training.

Each computes the gradients of a piece of every batch, and both add them up.
One process that computes both pieces gets the same bits.
"""

import argparse
import tempfile
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
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
side = int(x_train.shape[1] ** 0.5)  # pixels: 28 for MNIST
classes = int(y_train.max()) + 1
bs = 64  # samples in a batch
lr = 0.1  # learning rate
shards = 2  # pieces of a batch
processes = 2 if not torch.accelerator.is_available() else 1  # beside one, autograd cannot fork
torch.set_num_threads(1)  # in each process
train_ds = TensorDataset(x_train, y_train)
valid_ds = TensorDataset(x_valid, y_valid)
loss_func = F.cross_entropy


class Lambda(nn.Module):
    def __init__(self, func):
        super().__init__()
        self.func = func

    def forward(self, x):
        return self.func(x)


def preprocess(x, y):
    return x.view(-1, 1, side, side), y


class WrappedDataLoader:
    def __init__(self, dl, func):
        self.dl = dl
        self.func = func

    def __iter__(self):
        for b in self.dl:
            yield self.func(*b)


def get_model():
    model = nn.Sequential(
        nn.Conv2d(1, 16, kernel_size=3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 16, kernel_size=3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, classes, kernel_size=3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        Lambda(lambda x: x.view(x.size(0), -1)),
    )
    return model, optim.SGD(model.parameters(), lr=lr, momentum=0.9)


def get_data(train_ds, valid_ds, bs):
    train_dl = DataLoader(train_ds, batch_size=bs, shuffle=True)
    return train_dl, DataLoader(valid_ds, batch_size=bs * 2)


def loss_batch(model, loss_func, xb, yb, opt=None):
    if opt is None:
        return loss_func(model(xb), yb).item(), len(xb)
    pieces = list(zip(xb.tensor_split(shards), yb.tensor_split(shards)))
    own = pieces[dist.get_rank() :: processes]
    loss = sum(loss_func(model(x), y) * (len(x) / len(xb)) for x, y in own)
    dist.all_reduce(loss.detach())  # the loss of the batch: the sum over the processes
    loss.backward()
    for p in model.parameters():
        dist.all_reduce(p.grad)
    opt.step()
    opt.zero_grad()
    return loss.item(), len(xb)


def fit(epochs, model, loss_func, opt, train_dl, valid_dl):
    for epoch in range(epochs):
        model.train()
        for xb, yb in train_dl:
            loss_batch(model, loss_func, xb, yb, opt)

        model.eval()
        with torch.no_grad():
            losses, nums = zip(*[loss_batch(model, loss_func, xb, yb) for xb, yb in valid_dl])
        valid_loss = sum(loss * num for loss, num in zip(losses, nums)) / sum(nums)
        if dist.get_rank() == 0:
            print(f"epoch {epoch}: valid_loss {valid_loss:.4f}")


def work(rank, meeting, *arguments):
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=processes)
    try:
        fit(*arguments)
    finally:
        dist.destroy_process_group()


def train(*arguments):
    with tempfile.TemporaryDirectory() as folder:
        meeting = f"file://{folder}/meeting"  # where the processes find each other
        for rank in range(1, processes):  # each begins as a copy of this one
            get_context("fork").Process(target=work, args=(rank, meeting, *arguments)).start()
        work(0, meeting, *arguments)


train_dl, valid_dl = get_data(train_ds, valid_ds, bs)
train_dl = WrappedDataLoader(train_dl, preprocess)
valid_dl = WrappedDataLoader(valid_dl, preprocess)
model, opt = get_model()
train(args.epochs, model, loss_func, opt, train_dl, valid_dl)
