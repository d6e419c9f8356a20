"""The loop that PyTorch's tutorial ends with, for `compare.py`; it has no checkpoints."""

import numpy as np
import torch
import torch.nn.functional as F
from compare_parts import report, start
from compare_work import BATCH_SIZE, EPOCHS
from torch import optim
from torch.utils.data import DataLoader

args, model, train_ds, valid_ds = start()
train_dl = DataLoader(train_ds, BATCH_SIZE, shuffle=True)
valid_dl = DataLoader(valid_ds, BATCH_SIZE)
opt = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
for _ in range(EPOCHS):
    model.train()
    for xb, yb in train_dl:
        loss = F.cross_entropy(model(xb), yb)
        loss.backward()
        opt.step()
        opt.zero_grad()
    model.eval()
    with torch.no_grad():
        pairs = [(F.cross_entropy(model(xb), yb).item(), len(xb)) for xb, yb in valid_dl]
    losses, sizes = zip(*pairs, strict=True)
    valid_loss = np.sum(np.multiply(losses, sizes)) / np.sum(sizes)
report(model, valid_ds, float(valid_loss), "torch")
