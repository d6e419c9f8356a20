"""A stream of sines to be predicted, without an end: a row every 20 steps, 60 steps in all."""

import itertools

import torch
import torch.nn.functional as F
from torch import nn, optim
from torch.utils.data import DataLoader, IterableDataset

import plainfit as pf
from plainfit.training.schedules import Cosine

STEPS = 60


class Waves(IterableDataset):
    def __init__(self, seed):
        self.seed = seed

    def __iter__(self):
        g = torch.Generator().manual_seed(self.seed)
        while True:
            frequency, phase = torch.rand(2, generator=g)
            points = (torch.arange(9) * (0.2 + frequency) + 6 * phase).sin()
            yield points[:8], points[8:]


class Forecast(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 1))

    def forward(self, xb):
        return self.layers(xb)


def parts():
    valid = [tuple(batch) for batch in itertools.islice(DataLoader(Waves(1), 32), 4)]
    torch.manual_seed(0)
    model = Forecast()
    return model, optim.Adam(model.parameters(), lr=1e-2), DataLoader(Waves(0), 32), valid


def train(echo=print):
    model, opt, train_dl, valid_dl = parts()
    return pf.fit(None, model, F.mse_loss, opt, train_dl, valid_dl, steps_per_epoch=20,
                  max_steps=STEPS, schedule="cosine", echo=echo)  # fmt: skip


def by_hand():
    model, opt, train_dl, _ = parts()
    cosine, losses = Cosine(STEPS), []
    for xb, yb in itertools.islice(train_dl, STEPS):
        opt.param_groups[0]["lr"] = 1e-2 * cosine(len(losses))
        loss = F.mse_loss(model(xb), yb)
        loss.backward()
        opt.step()
        opt.zero_grad()
        losses.append(loss.item())
    return losses
