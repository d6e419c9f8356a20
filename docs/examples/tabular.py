"""Regression on a table: arrays in, standardised by the training rows, and early stopping."""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_diabetes
from torch import nn, optim

import plainfit as pf

EPOCHS = 4


class Regressor(nn.Module):
    def __init__(self, features, width=32):
        super().__init__()
        self.features, self.width = features, width  # a script builds the model by them
        self.layers = nn.Sequential(nn.Linear(features, width), nn.ReLU(), nn.Linear(width, 1))

    def forward(self, xb):
        return self.layers(xb)[:, 0]


def mae(out, yb):
    return (out - yb).abs().mean()


def parts():
    X, y = load_diabetes(return_X_y=True)  # noqa: N806
    y = (y - y[:350].mean()) / y[:350].std()
    train_dl, valid_dl = pf.get_data((X[:350], y[:350]), (X[350:], y[350:]), bs=32)
    torch.manual_seed(0)
    model = Regressor(X.shape[1])
    return model, optim.Adam(model.parameters(), lr=1e-2), train_dl, valid_dl


def train(echo=print):
    model, opt, train_dl, valid_dl = parts()
    stopping = pf.EarlyStopping(patience=10)
    return pf.fit(EPOCHS, model, F.mse_loss, opt, train_dl, valid_dl, metrics=[mae],
                  callbacks=[stopping], echo=echo)  # fmt: skip


def by_hand():
    model, opt, train_dl, _ = parts()
    losses = []
    for _ in range(EPOCHS):
        for xb, yb in train_dl:
            loss = F.mse_loss(model(xb), yb)
            loss.backward()
            opt.step()
            opt.zero_grad()
            losses.append(loss.item())
    return losses
