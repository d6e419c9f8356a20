"""`fit` gives the bits of the loop you would write yourself, written out here."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import nn, optim
from torch.utils.data import DataLoader, Dataset, TensorDataset

import plainfit as pf
from plainfit.common.seeding import stream

EPOCHS, BS, SEED, CLASSES = 3, 16, 5, 5
OPTIMIZERS = {
    "sgd": lambda p: optim.SGD(p, lr=0.1),
    "sgd momentum": lambda p: optim.SGD(p, lr=0.05, momentum=0.9),
    "sgd nesterov decay": lambda p: optim.SGD(
        p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-3
    ),
    "adam": lambda p: optim.Adam(p, lr=1e-2),
    "adamw": lambda p: optim.AdamW(p, lr=1e-2, weight_decay=0.1),
}


class Rows(Dataset):
    """A data set of the user's own, which only a stock DataLoader can serve."""

    def __init__(self, x, y):
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return self.x[index], self.y[index]


def make_model():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(0.25),
        nn.Flatten(),
        nn.Linear(4 * 8 * 8, CLASSES),
    )


@pytest.fixture(scope="module")
def images():
    """70 and 41 images of bytes: the last batches are ragged (6 of 16, 9 of 32)."""
    g = torch.Generator().manual_seed(0)
    return [
        (
            torch.randint(256, (n, 1, 8, 8), generator=g, dtype=torch.uint8),
            torch.randint(CLASSES, (n,), generator=g),
        )
        for n in (70, 41)
    ]


@pytest.fixture(scope="module")
def floats(images):
    return [(x.float() / 256, y) for x, y in images]


def library(sets, make_opt, make_dataset=TensorDataset, num_workers=0):
    torch.manual_seed(1)
    model = make_model()
    opt = make_opt(model.parameters())
    datasets = [make_dataset(x, y) for x, y in sets]
    train_dl, valid_dl = pf.get_data(*datasets, BS, seed=SEED, num_workers=num_workers)
    history = pf.fit(EPOCHS, model, F.cross_entropy, opt, train_dl, valid_dl, echo=None)
    return model, history.step_losses, [row["valid_loss"] for row in history.epochs]


def plain(sets, make_opt, order_seed=SEED):
    (x, y), (x_valid, y_valid) = sets
    torch.manual_seed(1)
    model = make_model()
    opt = make_opt(model.parameters())
    losses, valid_losses = [], []
    for epoch in range(EPOCHS):
        model.train()
        order = torch.randperm(len(x), generator=stream(order_seed, "order", epoch))
        for rows in order.split(BS):
            xb, yb = x[rows], y[rows]
            loss = F.cross_entropy(model(xb), yb)
            loss.backward()
            opt.step()
            opt.zero_grad()
            losses.append(loss.item())
        model.eval()
        total = 0.0
        with torch.no_grad():
            for rows in torch.arange(len(x_valid)).split(2 * BS):
                xb, yb = x_valid[rows], y_valid[rows]
                total += F.cross_entropy(model(xb), yb).item() * len(rows)
        valid_losses.append(total / len(x_valid))
    return model, losses, valid_losses


def same_tensors(model, other):
    ours, theirs = model.state_dict(), other.state_dict()  # parameters and buffers
    return list(ours) == list(theirs) and all(torch.equal(ours[k], theirs[k]) for k in ours)


def assert_same(run, other):
    assert run[1] == other[1]
    assert run[2] == other[2]
    assert same_tensors(run[0], other[0])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_fit_is_the_plain_loop_bit_for_bit(floats, name):
    run, by_hand = library(floats, OPTIMIZERS[name]), plain(floats, OPTIMIZERS[name])
    assert len(run[1]) == EPOCHS * 5
    assert "1.running_mean" in run[0].state_dict()
    assert_same(run, by_hand)


def test_images_kept_as_bytes_train_like_floats_divided_by_256(images, floats):
    run = library(images, OPTIMIZERS["sgd momentum"], pf.ImageDataset)
    assert_same(run, plain(floats, OPTIMIZERS["sgd momentum"]))


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.enable_socket  # workers hand tensors over through a Unix socket
def test_a_stock_dataloader_gives_the_same_bits(floats, num_workers):
    datasets = [Rows(x, y) for x, y in floats]
    train_dl, _ = pf.get_data(*datasets, BS, num_workers=num_workers)
    assert isinstance(train_dl, DataLoader)
    assert train_dl.num_workers == num_workers
    run = library(floats, OPTIMIZERS["adamw"], Rows, num_workers)
    assert_same(run, library(floats, OPTIMIZERS["adamw"]))
    assert_same(run, plain(floats, OPTIMIZERS["adamw"]))


def test_controls_that_must_differ_do(floats):
    run = library(floats, OPTIMIZERS["sgd"])
    for other in (
        plain(floats, lambda p: optim.SGD(p, lr=0.1000001)),
        plain(floats, OPTIMIZERS["sgd"], order_seed=SEED + 1),
    ):
        assert run[1] != other[1]
        assert run[2] != other[2]
        assert not same_tensors(run[0], other[0])


def test_the_comparison_sees_a_missing_name_and_a_changed_buffer(floats):
    model, again = plain(floats, OPTIMIZERS["sgd"])[0], plain(floats, OPTIMIZERS["sgd"])[0]
    assert same_tensors(model, again)
    again[1].running_var[0] += 1e-6
    assert not same_tensors(model, again)
    assert not same_tensors(model, model[:-1])


def test_validation_loss_is_the_mean_over_the_whole_set(floats):
    sets = [(x.double(), y) for x, y in floats]
    model = make_model().double()
    opt = optim.SGD(model.parameters(), lr=0.1)
    loaders = pf.get_data(*(TensorDataset(x, y) for x, y in sets), BS)
    history = pf.fit(2, model, F.cross_entropy, opt, *loaders, echo=None)
    model.eval()
    with torch.no_grad():
        x_valid, y_valid = sets[1]
        whole = F.cross_entropy(model(x_valid), y_valid).item()
    assert abs(history[-1]["valid_loss"] - whole) < 1e-12


def test_lbfgs_lowers_the_loss(floats):
    x, y = floats[0]
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, CLASSES))
    opt = optim.LBFGS(model.parameters(), lr=0.5, max_iter=5)
    history = pf.fit(5, model, F.cross_entropy, opt, [(x, y)], [(x, y)], echo=None)
    losses = history.step_losses
    assert len(losses) == 5
    assert all(after < before for before, after in pairwise(losses))
    assert history[-1]["valid_loss"] < losses[0] / 2


def test_lbfgs_is_the_plain_closure_bit_for_bit(floats):
    x, y = floats[0]

    def start():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, CLASSES))
        return model, optim.LBFGS(model.parameters(), lr=0.5, max_iter=5)

    model, opt = start()
    history = pf.fit(3, model, F.cross_entropy, opt, [(x, y)], None, echo=None)
    by_hand, opt = start()

    def closure():
        opt.zero_grad()
        loss = F.cross_entropy(by_hand(x), y)
        loss.backward()
        return loss

    assert history.step_losses == [opt.step(closure).item() for _ in range(3)]
    assert same_tensors(model, by_hand)
