"""LBFGS on a time series: one batch of all windows, several evaluations of the loss in a step."""

import torch
import torch.nn.functional as F
from torch import nn, optim

import plainfit as pf

EPOCHS = 5


class Recurrent(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.rnn = nn.GRU(1, width, batch_first=True)
        self.out = nn.Linear(width, 1)

    def forward(self, xb):
        return self.out(self.rnn(xb)[0])


def parts():
    series = (torch.arange(200) / 5).sin() + 0.3 * (torch.arange(200) / 3).cos()
    windows = series.unfold(0, 21, 10)[..., None]
    torch.manual_seed(0)
    model = Recurrent()
    opt = optim.LBFGS(model.parameters(), lr=0.5, max_iter=4)
    return model, opt, [(windows[:, :-1], windows[:, 1:])]


def train(echo=print):
    model, opt, train_dl = parts()
    return pf.fit(EPOCHS, model, F.mse_loss, opt, train_dl, echo=echo)


def by_hand():
    model, opt, ((xb, yb),) = parts()
    losses = []
    for _ in range(EPOCHS):

        def closure():
            opt.zero_grad()
            loss = F.mse_loss(model(xb), yb)
            loss.backward()
            return loss

        losses.append(opt.step(closure).item())
    return losses
