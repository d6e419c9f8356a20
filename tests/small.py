"""A small training in float64, by `fit` and by a plain loop, for the tests of what goes with it."""

import ctypes

import torch
import torch.nn.functional as F
from torch import nn, optim

import plainfit as pf


def samples(n=20, dtype=torch.float64):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(n, 4, generator=g, dtype=dtype)
    return x, (x[:, 0] > 0).long() + (x[:, 1] > 0).long()


def batches(*sizes, dtype=torch.float64):
    x, y = samples(sum(sizes), dtype)
    return list(zip(x.split(list(sizes)), y.split(list(sizes)), strict=True))


def network(dtype=torch.float64):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).to(dtype)


def sgd(model, lr=0.1, **options):
    return optim.SGD(model.parameters(), lr=lr, **options)


def fit(model, opt, train_dl, valid_dl=None, *, epochs=2, loss_func=F.cross_entropy, **options):
    return pf.fit(epochs, model, loss_func, opt, train_dl, valid_dl, echo=None, **options)


def nothing(*_):
    pass


def plain(
    model, opt, dl, *, epochs=2, before_step=nothing, after_step=nothing, after_epoch=nothing
):
    """The loop one would write by hand, with something before and after each step."""
    losses = []
    for epoch in range(epochs):
        model.train()
        for xb, yb in dl:
            loss = F.cross_entropy(model(xb), yb)
            loss.backward()
            before_step()
            opt.step()
            opt.zero_grad()
            after_step()
            losses.append(loss.item())
        after_epoch(epoch)
    return losses


def same(model, other):
    """Whether every parameter and buffer is there in both, and equal bit for bit."""
    ours, theirs = model.state_dict(), other.state_dict()
    return list(ours) == list(theirs) and all(torch.equal(ours[k], theirs[k]) for k in ours)


def furthest(model, other):
    """The largest difference between two models' parameters."""
    pairs = zip(model.parameters(), other.parameters(), strict=True)
    return max((a - b).abs().max().item() for a, b in pairs)


class Mallinfo2(ctypes.Structure):
    """What glibc says of its memory, from <malloc.h>."""

    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in names.split()]


def mallinfo():
    glibc = ctypes.CDLL(None)
    glibc.mallinfo2.restype = Mallinfo2
    return glibc.mallinfo2()


def taken():
    """The bytes that glibc has from the system, whose own figures may come late."""
    found = mallinfo()
    return found.arena + found.hblkhd


class Rates(pf.Callback):
    """Notes the rate and the momentum that each step is taken with, group by group."""

    def __init__(self):
        self.lr, self.momentum = [], []

    def on_step_start(self, context):
        groups = context.opt.param_groups
        self.lr.append([group["lr"] for group in groups])
        self.momentum.append(
            [group["betas"][0] if "betas" in group else group.get("momentum") for group in groups]
        )
