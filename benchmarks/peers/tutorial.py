"""The loop of PyTorch's tutorial "What is torch.nn really?", with its accuracy beside the loss."""

import torch
import torch.nn.functional as F
from contender import arguments
from torch.utils.data import DataLoader
from torch_parts import DEVICE, datasets, make_model, make_sgd, watch

args = arguments()
clock = watch()
train_ds, valid_ds = datasets(args)
train_dl = DataLoader(train_ds, batch_size=args.batch_size, shuffle=True)
valid_dl = DataLoader(valid_ds, batch_size=args.batch_size * 2)
model = make_model(args).to(DEVICE)
opt = make_sgd(args, model)
loss_func = F.cross_entropy


class WrappedDataLoader:
    def __init__(self, dl, func):
        self.dl = dl
        self.func = func

    def __iter__(self):
        for batch in self.dl:
            yield self.func(*batch)


def to_device(x, y):
    return x.to(DEVICE), y.to(DEVICE)


def accuracy(out, yb):
    return (out.argmax(dim=1) == yb).float().mean()


def loss_batch(xb, yb, opt=None):
    out = model(xb)
    loss = loss_func(out, yb)
    if opt is None:
        return loss.item(), accuracy(out, yb).item(), len(xb)
    loss.backward()
    opt.step()
    opt.zero_grad()
    return loss.item(), len(xb)


train_dl, valid_dl = WrappedDataLoader(train_dl, to_device), WrappedDataLoader(valid_dl, to_device)
clock.watch(opt)
clock.begin()
for _ in range(args.epochs):
    model.train()
    for xb, yb in train_dl:
        loss_batch(xb, yb, opt)
    clock.trained()
    model.eval()
    with torch.no_grad():
        losses, hits, nums = zip(*[loss_batch(xb, yb) for xb, yb in valid_dl], strict=True)
    n = sum(nums)
    clock.validated(
        sum(loss * num for loss, num in zip(losses, nums, strict=True)) / n,
        sum(hit * num for hit, num in zip(hits, nums, strict=True)) / n,
    )
clock.report(len(train_dl.dl), "torch")
