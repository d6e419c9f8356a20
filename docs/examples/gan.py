"""A generative adversarial network (Goodfellow 2014, arXiv:1406.2661): two models, two optimizers.

`step` trains on a batch in place of the step of `fit`, and returns the losses by name.
"""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn, optim
from torch.utils.data import TensorDataset

import plainfit as pf


class GAN(nn.Module):
    def __init__(self):
        super().__init__()
        self.generator = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.Sigmoid())
        self.critic = nn.Sequential(nn.Linear(64, 32), nn.LeakyReLU(0.2), nn.Linear(32, 1))

    def forward(self, noise):
        return self.generator(noise)


def gan_step(model, batch, opt):
    (real,) = batch
    fake = model(torch.randn(len(real), 8))
    scores = model.critic(real), model.critic(fake.detach())
    critic_loss = F.softplus(-scores[0]).mean() + F.softplus(scores[1]).mean()
    opt["critic"].zero_grad()
    critic_loss.backward()
    opt["critic"].step()
    generator_loss = F.softplus(-model.critic(fake)).mean()
    opt["generator"].zero_grad()
    generator_loss.backward()
    opt["generator"].step()
    return {"critic": critic_loss, "generator": generator_loss}


def parts():
    dataset = TensorDataset(torch.from_numpy(load_digits().data).float() / 16)
    train_dl, _ = pf.get_data(dataset, dataset, bs=64)
    torch.manual_seed(0)
    model = GAN()
    names = ("generator", "critic")
    opt = {
        n: optim.Adam(getattr(model, n).parameters(), lr=2e-4, betas=(0.5, 0.999)) for n in names
    }
    return model, opt, train_dl


def train(echo=print):
    model, opt, train_dl = parts()
    return pf.fit(2, model, None, opt, train_dl, step=gan_step, echo=echo)


def by_hand():
    model, opt, train_dl = parts()
    steps = (gan_step(model, batch, opt) for _ in range(2) for batch in train_dl)
    return [(losses["critic"] + losses["generator"]).item() for losses in steps]
