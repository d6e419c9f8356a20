"""A language model of characters: gradients of two batches for a step, and a warm-up."""

import torch
import torch.nn.functional as F
from torch import nn, optim

import plainfit as pf
from plainfit.training.schedules import WarmupCosine

TEXT = "to be or not to be that is the question whether it is nobler in the mind to suffer " * 20
LETTERS, EPOCHS, BATCHES = sorted(set(TEXT)), 2, 2


class Characters(nn.Module):
    def __init__(self, letters, width=32):
        super().__init__()
        self.letters, self.width = letters, width  # a script builds it by them
        self.embed = nn.Embedding(letters, width)
        self.rnn = nn.GRU(width, width, batch_first=True)
        self.out = nn.Linear(width, letters)

    def forward(self, xb):
        return self.out(self.rnn(self.embed(xb))[0]).transpose(1, 2)  # (batch, letters, time)


def parts():
    numbers = torch.tensor([LETTERS.index(letter) for letter in TEXT])
    windows = numbers.unfold(0, 17, 8)
    train_dl, _ = pf.get_data((windows[:, :-1], windows[:, 1:]), None, bs=16)
    torch.manual_seed(0)
    model = Characters(len(LETTERS))
    opt = optim.AdamW(model.parameters(), lr=3e-3)
    return model, opt, train_dl, WarmupCosine(EPOCHS * len(train_dl), warmup=0.2)


def train(echo=print):
    model, opt, train_dl, schedule = parts()
    accumulation = pf.GradientAccumulation(BATCHES)
    return pf.fit(EPOCHS, model, F.cross_entropy, opt, train_dl, schedule=schedule,
                  callbacks=[accumulation], echo=echo)  # fmt: skip


def by_hand():
    model, opt, train_dl, schedule = parts()
    losses, samples = [], 0
    for _ in range(EPOCHS):
        for number, (xb, yb) in enumerate(train_dl, 1):
            opt.param_groups[0]["lr"] = 3e-3 * schedule(len(losses))
            loss = F.cross_entropy(model(xb), yb)
            (loss * len(xb)).backward()
            samples += len(xb)
            losses.append(loss.item())
            if number % BATCHES == 0 or number == len(train_dl):
                for parameter in model.parameters():
                    parameter.grad /= samples
                opt.step()
                opt.zero_grad()
                samples = 0
    return losses
