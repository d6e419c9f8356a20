"""A training on batches in pieces as a script, for one process and for several."""

import contextlib
import os
import socket
from io import StringIO
from multiprocessing import get_context

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn, optim
from torch.utils.data import DataLoader, TensorDataset

import plainfit as pf
from ejecting import code_lines, differing, names_of, run_here
from plainfit.common.errors import EjectError
from plainfit.eject.verify import run_alone
from plainfit.training.callbacks import (
    Averaging,
    GradientAccumulation,
    GradientClipping,
)


class Net(nn.Module):
    """Batch norm, dropout, a mask of bool and a layer that is never called."""

    def __init__(self):
        super().__init__()
        self.a, self.norm = nn.Linear(6, 16), nn.BatchNorm1d(16)
        self.b, self.unused = nn.Linear(16, 3), nn.Linear(2, 2)
        self.register_buffer("mask", torch.ones(16, dtype=torch.bool))

    def forward(self, x):
        x = F.dropout(F.relu(self.norm(self.a(x))) * self.mask, 0.3, self.training)
        return self.b(x)


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(6, 3)

    def forward(self, x, scale):
        return self.a(x) * scale


class Shift(nn.Module):
    """A loss with tensors of its own, which count and learn."""

    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(3))
        self.register_buffer("seen", torch.zeros(3))

    def forward(self, out, yb):
        self.seen.add_(out.detach().mean(0))
        return F.cross_entropy(out + self.shift, yb)


def noisy(xb, generator):
    return xb + 0.1 * torch.randn(xb.shape, generator=generator)


def sets(ignored=0, several=False):
    g = torch.Generator().manual_seed(0)
    found = []
    for n in (70, 21):
        y = torch.arange(n) % 3
        y[torch.randperm(n, generator=g)[: int(ignored * n)]] = -100
        scale = [torch.rand(n, 1, generator=g)] * several
        found.append(TensorDataset(torch.randn(n, 6, generator=g), *scale, y))
    return found


def stock(bs):
    train, valid = sets()
    return DataLoader(train, bs, shuffle=True, generator=torch.Generator()), DataLoader(valid, bs)


def whole():
    return pf.get_data(*sets(), 35)


def weighted(out, yb):
    return F.cross_entropy(out, yb, weight=torch.tensor([1.0, 10.0, 0.25]))


CASES = {
    "batch norm, dropout": {"schedule": "one-cycle", "metrics": ["accuracy"], "shards": 5},
    "all in a step": {
        "callbacks": [GradientAccumulation(2), GradientClipping(0.5), Averaging(0.9)],
        "loaders": lambda: pf.get_data(*sets(), 32, augment=noisy),
    },
    "ignored labels": {"loaders": lambda: pf.get_data(*sets(0.7), 16), "loss": weighted},
    "a stock loader": {"loaders": lambda: stock(16), "loss": Shift},
    "several inputs": {
        "loaders": lambda: pf.get_data(*sets(several=True), 32),
        "model": Pair,
        "precision": "bf16",
    },
}


def trained(model=Net, loss=F.cross_entropy, loaders=None, shards=8, **options):
    torch.manual_seed(0)
    model, loss = model(), loss() if isinstance(loss, type) else loss
    own = loss.parameters() if isinstance(loss, nn.Module) else []
    opt = optim.SGD([*model.parameters(), *own], lr=0.1, momentum=0.9)
    loaders = loaders() if loaders else pf.get_data(*sets(), 32)
    history = pf.fit(2, model, loss, opt, *loaders, shards=shards, echo=None, **options)
    return history, model


@pytest.mark.parametrize("case", CASES)
def test_a_script_has_the_bits_of_batches_in_pieces(case, tmp_path, capsys):
    history, model = trained(**CASES[case])
    script = history.run.eject(tmp_path / "train.py", echo=None)
    script.write_text(script.read_text().replace("valid_loss:11.4f", "valid_loss!r:30"))
    losses, weights = run_here(script)
    assert losses == history.step_losses
    assert not differing(weights, model.state_dict())
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert [float(row[2]) for row in rows] == [row["valid_loss"] for row in history]


@pytest.fixture
def one_thread():
    """A copy of a process has none of its threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def in_rank(rank, script, port, losses):
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "3"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with contextlib.redirect_stdout(StringIO()):
        losses.put(names_of(script)["losses"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="autograd forks on the CPU only")
def test_three_processes_give_the_bits_of_one(tmp_path, one_thread):
    history, model = trained(callbacks=[GradientClipping(0.5)])
    script = history.run.eject(tmp_path / "train.py", echo=None)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = get_context("fork")
    losses = context.Queue()
    ranks = [context.Process(target=in_rank, args=(n, script, port, losses)) for n in range(3)]
    for process in ranks:
        process.start()
    assert [losses.get() for _ in ranks] == [history.step_losses] * 3
    for process in ranks:
        process.join()
    assert [process.exitcode for process in ranks] == [0, 0, 0]
    assert not differing(load_file(tmp_path / "model.safetensors"), model.state_dict())


@pytest.mark.soak
def test_it_is_verified_in_two_processes(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("plainfit.eject.run.run_alone", run_alone)
    history, _ = trained()
    history.run.eject(tmp_path / "train.py", verify=True)
    assert "in two processes, as in one, 6 losses are equal and" in capsys.readouterr().out


def test_it_is_80_lines_longer_at_most(tmp_path):
    lines = [
        code_lines(trained(shards=n)[0].run.eject(tmp_path / f"train{n}.py", echo=None))
        for n in (1, 8)
    ]
    assert lines[1] - lines[0] <= 80


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": lambda xb, yb: len(xb)}, "no batches in pieces with a batch_size of your"),
        ({"loss": nn.CrossEntropyLoss(reduction="sum")}, "has a mean loss, and this one was a sum"),
    ],
)
def test_what_a_script_has_no_pieces_with(options, message, tmp_path):
    history, _ = trained(**options)
    with pytest.raises(EjectError, match=message):
        history.run.eject(tmp_path / "train.py", echo=None)
    assert not [*tmp_path.iterdir()]


def test_lower_levels_name_the_limit(tmp_path):
    history, _ = trained()
    with pytest.raises(EjectError, match=r"added by autograd .* lowest level that works is loop"):
        history.run.eject(tmp_path / "train.py", level="data", echo=None)
