"""The network and settings of pytorch/examples, `mnist`, written anew: one line of JSON an epoch.

Two 3x3 convolutions of 32 and 64 channels, a max-pool, dropout of 0.25 and 0.5, 128 hidden units;
Adadelta with rate 1, times 0.7 after each epoch; batches of 64; images less 0.1307, over 0.3081.
"""

import json
import sys
import time

import torch
import torch.nn.functional as F
from contender import read_all
from torch import nn, optim
from torch.utils.data import DataLoader, TensorDataset

folder, epochs = sys.argv[1], int(sys.argv[2])
torch.manual_seed(1)


def dataset(part):
    x, y = map(torch.from_numpy, read_all(folder, part))
    return TensorDataset((x.unsqueeze(1).float().div_(255) - 0.1307) / 0.3081, y)


train_dl = DataLoader(dataset("train"), batch_size=64, shuffle=True)
test_dl = DataLoader(dataset("test"), batch_size=1000)
model = nn.Sequential(
    nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2),
    nn.Dropout(0.25), nn.Flatten(), nn.Linear(9216, 128), nn.ReLU(), nn.Dropout(0.5),
    nn.Linear(128, 10),
)  # fmt: skip
opt = optim.Adadelta(model.parameters(), lr=1.0)
schedule = optim.lr_scheduler.StepLR(opt, step_size=1, gamma=0.7)
seconds = 0.0
for epoch in range(epochs):
    start = time.perf_counter()
    model.train()
    for xb, yb in train_dl:
        opt.zero_grad()
        F.cross_entropy(model(xb), yb).backward()
        opt.step()
    seconds += time.perf_counter() - start
    model.eval()
    with torch.no_grad():
        right = sum(int((model(xb).argmax(1) == yb).sum()) for xb, yb in test_dl)
    schedule.step()
    print(json.dumps({"epoch": epoch, "seconds": seconds, "accuracy": right / 10_000}), flush=True)
