"""Segmentation: a small U-Net (Ronneberger 2015, arXiv:1505.04597) marks disks in noise."""

import torch
import torch.nn.functional as F
from torch import nn, optim
from torch.utils.data import TensorDataset

import plainfit as pf


class UNet(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.down = nn.Conv2d(1, width, 3, padding=1)
        self.middle = nn.Conv2d(width, width, 3, padding=1)
        self.up = nn.Conv2d(2 * width, 2, 3, padding=1)

    def forward(self, xb):
        fine = self.down(xb).relu()
        coarse = F.interpolate(self.middle(F.max_pool2d(fine, 2)).relu(), scale_factor=2)
        return self.up(torch.cat([fine, coarse], dim=1))


def dice(out, yb):
    """Return the Sørensen-Dice coefficient of the disks' pixels."""
    found = out.argmax(dim=1)
    return 2 * (found * yb).sum() / (found + yb).sum().clamp(min=1)


def parts():
    g = torch.Generator().manual_seed(0)
    centers = 4 + 8 * torch.rand(240, 2, 1, 1, generator=g)
    rows = torch.arange(16.0)
    distance = (rows[:, None] - centers[:, 0]).square() + (rows - centers[:, 1]).square()
    masks = (distance < 9).long()
    images = masks[:, None] + 0.5 * torch.randn(240, 1, 16, 16, generator=g)
    train_ds = TensorDataset(images[:200], masks[:200])
    torch.manual_seed(0)
    model = UNet()
    opt = optim.AdamW(model.parameters(), lr=1e-2)
    return model, opt, *pf.get_data(train_ds, TensorDataset(images[200:], masks[200:]), bs=20)


def train(echo=print):
    model, opt, train_dl, valid_dl = parts()
    return pf.fit(2, model, F.cross_entropy, opt, train_dl, valid_dl, metrics=[dice], echo=echo)


def by_hand():
    model, opt, train_dl, _ = parts()
    losses = []
    for _ in range(2):
        for xb, yb in train_dl:
            loss = F.cross_entropy(model(xb), yb)
            loss.backward()
            opt.step()
            opt.zero_grad()
            losses.append(loss.item())
    return losses
