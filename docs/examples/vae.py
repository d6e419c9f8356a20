"""A variational autoencoder (Kingma & Welling 2014, arXiv:1312.6114) on images of digits.

A data set of one tensor is its own target, and the loss brings its two parts as columns.
"""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn, optim
from torch.utils.data import TensorDataset

import plainfit as pf


class VAE(nn.Module):
    def __init__(self):
        super().__init__()
        self.encode = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 8))
        self.decode = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 64))

    def forward(self, xb):
        mean, log_variance = self.encode(xb).chunk(2, dim=1)
        noise = torch.randn_like(mean) if self.training else 0.0
        return self.decode(mean + noise * (0.5 * log_variance).exp()), mean, log_variance


def negative_elbo(out, xb):
    logits, mean, log_variance = out
    error = F.binary_cross_entropy_with_logits(logits, xb, reduction="none").sum(1).mean()
    kl = -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum(1).mean()
    return error + kl, {"error": error, "kl": kl}


def parts():
    images = torch.from_numpy(load_digits().data).float() / 16
    train_ds, valid_ds = (TensorDataset(part) for part in images.split([1500, 297]))
    torch.manual_seed(0)
    model = VAE()
    opt = optim.Adam(model.parameters(), lr=1e-3)
    return model, opt, *pf.get_data(train_ds, valid_ds, bs=64)


def train(echo=print):
    model, opt, train_dl, valid_dl = parts()
    return pf.fit(2, model, negative_elbo, opt, train_dl, valid_dl, echo=echo)


def by_hand():
    model, opt, train_dl, _ = parts()
    losses = []
    for _ in range(2):
        for (xb,) in train_dl:
            loss, _ = negative_elbo(model(xb), xb)
            loss.backward()
            opt.step()
            opt.zero_grad()
            losses.append(loss.item())
    return losses
