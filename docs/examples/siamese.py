"""Siamese networks (Hadsell 2006): two images, and whether they show the same digit."""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn, optim
from torch.utils.data import TensorDataset

import plainfit as pf

ROWS = slice(1600), slice(1600, 2000)


class Siamese(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 8))

    def forward(self, one, two):
        return F.pairwise_distance(self.embed(one), self.embed(two))


def contrastive(distance, same):
    return (same * distance.square() + (1 - same) * F.relu(1 - distance).square()).mean()


def separated(distance, same):
    return ((distance < 0.5) == same.bool()).float().mean()


def parts():
    images, labels = (torch.from_numpy(each) for each in load_digits(return_X_y=True))
    images = images.float() / 16
    g = torch.Generator().manual_seed(0)
    one, two = torch.randint(len(labels), (2, 2000), generator=g)
    same = (labels[one] == labels[two]).float()
    pairs = TensorDataset(images[one], images[two], same)
    torch.manual_seed(0)
    model = Siamese()
    opt = optim.Adam(model.parameters(), lr=1e-3)
    return model, opt, *pf.get_data(*(TensorDataset(*pairs[rows]) for rows in ROWS), bs=64)


def train(echo=print):
    model, opt, train_dl, valid_dl = parts()
    return pf.fit(2, model, contrastive, opt, train_dl, valid_dl, metrics=[separated], echo=echo)


def by_hand():
    model, opt, train_dl, _ = parts()
    losses = []
    for _ in range(2):
        for one, two, same in train_dl:
            loss = contrastive(model(one, two), same)
            loss.backward()
            opt.step()
            opt.zero_grad()
            losses.append(loss.item())
    return losses
