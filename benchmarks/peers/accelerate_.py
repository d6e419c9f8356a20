"""Accelerate: a loop of one's own, with the objects that `prepare` returns."""

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from contender import arguments
from torch_parts import loaders, make_model, make_sgd, watch

args = arguments(loader=("getitems", "stock"))
clock = watch()
accelerator = Accelerator()
model = make_model(args)
train_dl, valid_dl = loaders(args)
opt = make_sgd(args, model)
clock.watch(opt)
model, opt, train_dl, valid_dl = accelerator.prepare(model, opt, train_dl, valid_dl)

clock.begin()
for _ in range(args.epochs):
    model.train()
    for xb, yb in train_dl:
        loss = F.cross_entropy(model(xb), yb)
        accelerator.backward(loss)
        opt.step()
        opt.zero_grad()
    clock.trained()
    model.eval()
    loss = hits = torch.zeros((), device=accelerator.device)
    n = 0
    with torch.no_grad():
        for xb, yb in valid_dl:
            out = model(xb)
            loss = loss + F.cross_entropy(out, yb, reduction="sum")
            hits = hits + (out.argmax(1) == yb).sum()
            n += len(yb)
    clock.validated(loss.item() / n, hits.item() / n)
clock.report(len(train_dl), "torch", "accelerate")
