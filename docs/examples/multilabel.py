"""Several labels for an image: is the digit even, above four, drawn with a loop?"""

import torch
from sklearn.datasets import load_digits
from torch import nn, optim
from torch.utils.data import TensorDataset

import plainfit as pf


class Labels(nn.Module):
    def __init__(self, labels=3):
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3, padding=1)
        self.out = nn.Linear(8 * 16, labels)

    def forward(self, xb):
        return self.out(nn.functional.max_pool2d(self.conv(xb).relu(), 2).flatten(1))


def all_right(out, yb):
    return ((out > 0) == yb.bool()).all(dim=1).float().mean()


def parts():
    digits = load_digits()
    images = torch.from_numpy(digits.images).float()[:, None] / 16
    digit = torch.from_numpy(digits.target)
    loops = torch.tensor([1, 0, 0, 0, 0, 0, 1, 0, 1, 1])
    labels = torch.stack([digit % 2 == 0, digit > 4, loops[digit] == 1], dim=1).float()
    train_ds = TensorDataset(images[:1500], labels[:1500])
    valid_ds = TensorDataset(images[1500:], labels[1500:])
    torch.manual_seed(0)
    model = Labels()
    # A rarer label weighs more, as in scikit-learn's `class_weight="balanced"`.
    weight = (1 - labels).sum(0) / labels.sum(0)
    loss_func = nn.BCEWithLogitsLoss(pos_weight=weight)
    opt = optim.Adam(model.parameters(), lr=3e-3)
    return model, loss_func, opt, *pf.get_data(train_ds, valid_ds, bs=64)


def train(echo=print):
    model, loss_func, opt, train_dl, valid_dl = parts()
    return pf.fit(2, model, loss_func, opt, train_dl, valid_dl, metrics=[all_right], echo=echo)


def by_hand():
    model, loss_func, opt, train_dl, _ = parts()
    losses = []
    for _ in range(2):
        for xb, yb in train_dl:
            loss = loss_func(model(xb), yb)
            loss.backward()
            opt.step()
            opt.zero_grad()
            losses.append(loss.item())
    return losses
