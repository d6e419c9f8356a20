"""The fast loop by hand: the data in one tensor, an order, one gather a batch, nothing else.

`--orders FILE` gives the orders instead of drawing them: int64, shape (epochs, samples).
"""

import numpy as np
import torch
import torch.nn.functional as F
from contender import arguments
from torch_parts import DEVICE, make_model, make_sgd, tensors, watch, weights_hash

args = arguments(orders=())
clock = watch()
x, y = (t.to(DEVICE) for t in tensors(args.data, "train", args.model))
x_valid, y_valid = (t.to(DEVICE) for t in tensors(args.data, "valid", args.model))
orders = torch.from_numpy(np.load(args.orders)) if args.orders else None
model = make_model(args).to(DEVICE)
opt = make_sgd(args, model)

clock.watch(opt)
clock.begin()
for epoch in range(args.epochs):
    order = torch.randperm(len(x)) if orders is None else orders[epoch]
    model.train()
    for rows in order.to(DEVICE).split(args.batch_size):
        loss = F.cross_entropy(model(x.index_select(0, rows)), y.index_select(0, rows))
        loss.backward()
        opt.step()
        opt.zero_grad()
    clock.trained()
    model.eval()
    losses, sizes, hits = [], [], torch.zeros((), dtype=torch.int64, device=DEVICE)
    with torch.no_grad():
        for rows in torch.arange(len(x_valid), device=DEVICE).split(args.batch_size * 2):
            xb, yb = x_valid.index_select(0, rows), y_valid.index_select(0, rows)
            out = model(xb)
            losses.append(F.cross_entropy(out, yb))
            sizes.append(len(rows))
            hits += (out.argmax(1) == yb).sum()
    mean = sum(v * n for v, n in zip(torch.stack(losses).tolist(), sizes, strict=True)) / sum(sizes)
    clock.validated(mean, hits.item() / len(x_valid))
clock.report(-(-len(x) // args.batch_size), "torch", weights=weights_hash(model))
