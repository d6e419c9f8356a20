"""Loaders that a user made: stock ones at level loop, wrapped ones at both."""

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn, optim
from torch.utils.data import (
    DataLoader,
    Dataset,
    RandomSampler,
    Sampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

import plainfit as pf
from ejecting import differing, names_of
from plainfit.common.errors import EjectError
from plainfit.models.weights import weights_to_bytes


class Net(nn.Module):
    """Dropout, so that every draw from the global generator counts."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(0.4), nn.Linear(8, 3))

    def forward(self, x):
        return self.net(x)


class Rows(Dataset):
    """A data set of the user's own, read sample by sample."""

    def __init__(self, x, y):
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return self.x[index] * 2, int(self.y[index])


def sets(kind=TensorDataset):
    g = torch.Generator().manual_seed(0)
    return [
        kind(torch.randn(n, 6, generator=g), torch.randint(3, (n,), generator=g)) for n in (37, 11)
    ]


def halved(x, y):
    return x / 2, y


def shifted(x, y):
    return x + 1, y


def stock(generator=None, **options):
    train_ds, valid_ds = sets()
    return (
        DataLoader(train_ds, batch_size=8, shuffle=True, generator=generator, **options),
        DataLoader(valid_ds, batch_size=16),
    )


def shared():
    """Loaders of one tensor: validation sees its first rows."""
    x, y = sets()[0].tensors
    return pf.get_data(TensorDataset(x, y), TensorDataset(x[:8], y[:8]), 8)


def one_generator():
    """Loaders that draw from one generator, in turn."""
    train_ds, valid_ds = sets()
    generator = used_generator()
    return (
        DataLoader(train_ds, batch_size=8, shuffle=True, generator=generator),
        DataLoader(valid_ds, batch_size=16, generator=generator),
    )


class Backwards(Sampler):
    """The last rows first, with steps between."""

    def __init__(self, data_source, step):
        self.data_source, self.step = data_source, step

    def __len__(self):
        return len(range(0, len(self.data_source), self.step))

    def __iter__(self):
        return iter(range(len(self.data_source) - 1, -1, -self.step))


def own_order(sampler):
    train_ds, valid_ds = sets()
    return DataLoader(train_ds, batch_size=8, sampler=sampler), DataLoader(valid_ds, 16)


def collated(samples):
    return torch.stack([x for x, _ in samples]) * 3, torch.tensor([int(y) for _, y in samples])


def used_generator():
    """One that has drawn before."""
    generator = torch.Generator().manual_seed(5)
    torch.rand(3, generator=generator)
    return generator


LOADERS = {
    "ours": lambda: pf.get_data(*sets(), 8, seed=2),
    "one seed": lambda: pf.get_data(*sets(), 8),
    "own data set": lambda: pf.get_data(*sets(Rows), 8),
    "wrapped twice": lambda: [
        pf.WrappedDataLoader(pf.WrappedDataLoader(dl, halved), shifted)
        for dl in pf.get_data(*sets(), 8)
    ],
    "not full": lambda: pf.get_data(*sets(), 8, drop_last=True),
    "both not full": lambda: [pf.TensorLoader(part, 8, drop_last=True) for part in sets()],
    "in order": lambda: [pf.TensorLoader(part, 8) for part in sets()],
    "shared": shared,
    "stock": stock,
    "stock, not full": lambda: stock(drop_last=True),
    "stock, a generator": lambda: stock(used_generator()),
    "stock, one generator": one_generator,
    "stock, wrapped": lambda: [pf.WrappedDataLoader(dl, halved) for dl in stock()],
    "stock, workers": lambda: stock(num_workers=2),
    "stock, weighted": lambda: own_order(
        WeightedRandomSampler(torch.rand(37).double(), 20, generator=used_generator())
    ),
    "stock, weighted by a column": lambda: own_order(
        WeightedRandomSampler(torch.rand(37, 2).double()[:, 1], 20)
    ),
    "stock, a part": lambda: own_order(SubsetRandomSampler(range(3, 30))),
    "stock, again and again": lambda: own_order(
        RandomSampler(sets()[0], replacement=True, num_samples=50)
    ),
    "stock, a sampler of the user's": lambda: own_order(Backwards(sets()[0], 2)),
    "stock, collated": lambda: stock(collate_fn=collated),
    "a list": lambda: [[tuple(pair) for pair in dl] for dl in stock()],
    "stock and ours": lambda: (stock()[0], pf.get_data(*sets(), 8)[1]),
}


FRESH = ("ours", "stock, a generator")  # the others are in `make soak`


@pytest.mark.parametrize(
    ("name", "built"),
    [*((name, True) for name in LOADERS), *((name, False) for name in FRESH)]
    + [pytest.param(n, False, marks=pytest.mark.soak) for n in LOADERS if n not in FRESH],
)
def test_every_loader(name, built, tmp_path):
    if built:
        torch.manual_seed(9)
        model = Net()
    else:
        model, _ = pf.get_model(Net, seed=9, device="cpu")
    opt = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    loaders = LOADERS[name]()
    if built:  # the loaders have served before, and the global generator has drawn
        other = Net()
        opt_of_other = optim.SGD(other.parameters(), lr=0.1)
        pf.fit(1, other, F.cross_entropy, opt_of_other, *loaders, echo=None)
    history = pf.fit(3, model, F.cross_entropy, opt, *loaders, echo=None)
    (tmp_path / "run.safetensors").write_bytes(weights_to_bytes(model))
    script = tmp_path / "train.py"
    levels = ["loop"] if "stock" in name else ["loop", "data"]
    for level in levels:
        history.run.eject(script, level=level, force=True, echo=None)
        names, weights = names_of(script), load_file(tmp_path / "model.safetensors")
        assert names["losses"] == history.step_losses
        assert names["valid_loss"] == history[-1]["valid_loss"]
        assert differing(weights, load_file(tmp_path / "run.safetensors")) == []
    if "stock" in name:
        with pytest.raises(EjectError, match="the lowest level that works is loop"):
            history.run.eject(script, level="data", force=True, echo=None)
