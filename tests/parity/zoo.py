"""Modules, losses and loaders as users write them: small, and each with something of its own."""

import math
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn, optim

import plainfit as pf

CLASSES = 4
HIDDEN = 12  # wide enough to learn a little
ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh}


def scaled(x, by=0.5):
    """A helper that another helper uses."""
    return x * by


def flattened(x: Tensor) -> Tensor:
    return scaled(x.flatten(1), by=2.0)


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(64, CLASSES)

    def forward(self, x):
        return self.lin(x.flatten(1))


class Helped(nn.Module):
    """Calls functions and reads constants of its module."""

    def __init__(self, hidden=HIDDEN):
        super().__init__()
        self.first = nn.Linear(64, hidden)
        self.second = nn.Linear(hidden, CLASSES)

    def forward(self, x):
        x = flattened(x)  # comments stay
        return self.second(F.relu(self.first(x)))


class Block(nn.Module):
    def __init__(self, channels, stride=1):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=stride, padding=1)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x):
        return F.relu(self.norm(self.conv(x)))


class Nested(nn.Module):
    """One class with different arguments, in a Sequential."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.body = nn.Sequential(Block(4), Block(4, stride=2), nn.Sequential(Block(4, stride=2)))
        self.head = nn.Linear(4, CLASSES)

    def forward(self, x):
        return self.head(self.body(self.stem(x)).mean((2, 3)))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.up = nn.Linear(64, HIDDEN)
        self.a = nn.Linear(HIDDEN, HIDDEN)
        self.b = nn.Linear(HIDDEN, HIDDEN)
        self.b.weight = self.a.weight
        self.out = nn.Linear(HIDDEN, CLASSES)

    def forward(self, x):
        x = F.relu(self.up(x.flatten(1)))
        return self.out(self.b(F.relu(self.a(x))))


class Listed(nn.Module):
    def __init__(self, sizes=(64, 16, 12)):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(a, b) for a, b in pairwise(sizes)])
        self.heads = nn.ModuleDict({"main": nn.Linear(sizes[-1], CLASSES)})

    def forward(self, x):
        x = x.flatten(1)
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return self.heads["main"](x)


class Branching(nn.Module):
    """A data-dependent `if`."""

    def __init__(self):
        super().__init__()
        self.low, self.high = nn.Linear(64, CLASSES), nn.Linear(64, CLASSES)

    def forward(self, x):
        x = x.flatten(1)
        if x.mean() > 0.5:
            return self.high(x)
        return self.low(x)


class Buffered(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(64))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64), persistent=False)
        self.lin = nn.Linear(64, CLASSES)

    def forward(self, x):
        x = x.flatten(1)
        if self.training:
            self.calls += 1
            self.mean.lerp_(x.detach().mean(0), 0.1)
        return self.lin(x - self.mean)


class Frozen(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Linear(64, HIDDEN)
        self.features.requires_grad_(False)
        self.out = nn.Linear(HIDDEN, CLASSES)

    def forward(self, x):
        return self.out(F.relu(self.features(x.flatten(1))))


class Dropped(nn.Module):
    def __init__(self, p=0.3):
        super().__init__()
        self.net = nn.Sequential(
            nn.Flatten(),
            nn.Linear(64, HIDDEN),
            nn.ReLU(),
            nn.Dropout(p),
            nn.Linear(HIDDEN, CLASSES),
        )

    def forward(self, x):
        return self.net(F.dropout(x, 0.1, self.training))


class OwnParameters(nn.Module):
    def __init__(self):
        super().__init__()
        bound = 1 / math.sqrt(64)
        self.weight = nn.Parameter(torch.empty(64, CLASSES).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(CLASSES))
        self.scale = nn.ParameterList([nn.Parameter(torch.ones(()))])

    def forward(self, x):
        return self.scale[0] * (x.flatten(1) @ self.weight + self.bias)


class Based(Plain):
    """A class of the user's that inherits from another."""

    def forward(self, x):
        return super().forward(scaled(x))


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.up = nn.Conv2d(1, 4, 3, padding=1)
        self.blocks = nn.Sequential(*[Block(4) for _ in range(2)])
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.out = nn.Linear(4, CLASSES)

    def forward(self, x):
        x = self.up(x)
        return self.out(self.pool(x + self.blocks(x)).flatten(1))


class Chosen(nn.Module):
    """Layers looked up in a dict of the module."""

    def __init__(self, activation: str = "tanh"):
        super().__init__()
        self.net = nn.Sequential(
            nn.Flatten(),
            nn.Linear(64, HIDDEN),
            ACTIVATIONS[activation](),
            nn.Linear(HIDDEN, CLASSES),
        )

    def forward(self, x):
        return self.net(x)


class WithLambda(nn.Module):
    """Uses a layer of plainfit's, and one of the tutorial's."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(pf.Lambda(lambda x: x.flatten(1)), nn.Linear(64, CLASSES))

    def forward(self, x):
        return self.net(x)


class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(64)
        self.net = nn.Sequential(nn.Linear(64, HIDDEN), nn.BatchNorm1d(HIDDEN), nn.ReLU())
        self.out = nn.Linear(HIDDEN, CLASSES, bias=False)

    def forward(self, x):
        return self.out(self.net(self.norm(x.flatten(1))))


class Initialised(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, HIDDEN), nn.ReLU())
        self.out = nn.Linear(HIDDEN, CLASSES)
        self.apply(self.start)

    @staticmethod
    def start(module):
        if isinstance(module, nn.Linear):
            nn.init.kaiming_normal_(module.weight)
            nn.init.zeros_(module.bias)

    def forward(self, x):
        return self.out(self.net(x))


class Recurrent(nn.Module):
    """Rows of the image as a sequence."""

    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(8, HIDDEN, batch_first=True)
        self.out = nn.Linear(HIDDEN, CLASSES)

    def forward(self, x):
        _, last = self.rnn(x.squeeze(1))
        return self.out(last[-1])


class Attentive(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.out = nn.Linear(64, CLASSES)

    def forward(self, x):
        x = x.squeeze(1)
        return self.out((x + self.attention(x, x, x, need_weights=False)[0]).flatten(1))


class Gelu(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Flatten(), nn.Linear(64, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, HIDDEN), nn.SiLU()
        )
        self.out = nn.Linear(HIDDEN, CLASSES)

    def forward(self, x):
        return self.out(self.net(x))


class Pooled(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1, groups=1, bias=False)
        self.depth = nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.out = nn.Linear(4 * 4, CLASSES)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv(x)), 2)
        return self.out(F.avg_pool2d(F.relu(self.depth(x)), 2).flatten(1))


def built(in_features, classes):
    """A function that builds a model from layers."""
    return nn.Sequential(nn.Flatten(), nn.Linear(in_features, HIDDEN), nn.ReLU(),
                         nn.Linear(HIDDEN, classes))  # fmt: skip


# Losses, functions for batches, schedules.


def smooth(out, y, by=0.1):
    """A loss of the user's own, with a helper."""
    return F.cross_entropy(out, y, label_smoothing=by) + scaled(out.square().mean(), 1e-3)


class Focal(nn.Module):
    def __init__(self, gamma: float = 2.0):
        super().__init__()
        self.gamma = gamma

    def forward(self, out, y):
        losses = F.cross_entropy(out, y, reduction="none")
        return ((1 - (-losses).exp()) ** self.gamma * losses).mean()


def centred(x, y):
    return x - 0.5, y


def warm(step):
    return min(1.0, (step + 1) / 5)


def momentum(model):
    return optim.SGD(model.parameters(), lr=0.05, momentum=0.9)


def nesterov(model):
    return optim.SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-3)


def adamw(model):
    return optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)


def adam(model):
    return optim.Adam(model.parameters(), lr=1e-2, eps=1e-6)


def rmsprop(model):
    return optim.RMSprop(model.parameters(), lr=1e-3, momentum=0.5)


def decayed(model):
    """Weights decay, biases do not."""
    groups = [
        {"params": [p for p in model.parameters() if p.dim() > 1], "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return optim.AdamW(groups, lr=1e-2)


def by_layer(model):
    """A rate for each layer, and a list of parameters that no layer has."""
    first, *rest = model.parameters()
    return optim.SGD([{"params": [first], "lr": 0.01}, {"params": rest}], lr=0.1, momentum=0.9)


def trained_only(model):
    return optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)


# name: model, optimizer, then what else `get_model` and `fit` are given.
ZOO = {
    "plain": (Plain, momentum, {}),
    "helped": (Helped, nesterov, {"schedule": "one-cycle"}),
    "nested": (Nested, adamw, {"schedule": "cosine"}),
    "tied": (Tied, adam, {}),
    "listed": (Listed, rmsprop, {"schedule": "linear"}),
    "branching": (Branching, momentum, {}),
    "buffered": (Buffered, momentum, {"loss": smooth}),
    "frozen": (Frozen, trained_only, {}),
    "dropped": (Dropped, adamw, {"schedule": "warmup-cosine"}),
    "own parameters": (OwnParameters, nesterov, {}),
    "based": (Based, momentum, {"schedule": warm}),
    "residual": (Residual, decayed, {"schedule": "one-cycle"}),
    "chosen": (Chosen, adam, {"loss": Focal(1.5)}),
    "with lambda": (WithLambda, by_layer, {"schedule": "one-cycle"}),
    "normed": (Normed, decayed, {}),
    "initialised": (Initialised, momentum, {"loss": nn.CrossEntropyLoss(label_smoothing=0.2)}),
    "recurrent": (Recurrent, adam, {}),
    "attentive": (Attentive, adamw, {}),
    "gelu": (Gelu, adam, {}),
    "pooled": (Pooled, nesterov, {"func": centred}),
    "built": (built, momentum, {"loss": partial(F.cross_entropy, label_smoothing=0.1)}),
    "library mlp": (pf.MLP, momentum, {"func": centred, "drop_last": True}),
    "library resnet": (
        pf.ResNet, nesterov, {"schedule": "polynomial", "arguments": {"blocks": (1, 1), "width": 4}}
    ),
    "library cnn": (pf.MnistCNN, momentum, {}),
    "library logistic": (pf.LogisticRegression, rmsprop, {}),
}  # fmt: skip
