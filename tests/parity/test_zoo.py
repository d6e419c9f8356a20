"""Every module of the zoo becomes a script that gives its training's bits."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch.utils.data import TensorDataset
from zoo import CLASSES, ZOO

import plainfit as pf
from ejecting import differing, names_in, run_here
from plainfit.models.weights import weights_to_bytes

ROOT = Path(__file__).parents[2]
SEED, BS, SAMPLES = 3, 16, 70


@pytest.fixture(scope="module")
def sets():
    """70 and 41 images: the last batches are ragged."""
    g = torch.Generator().manual_seed(0)
    return [
        TensorDataset(
            torch.rand(n, 1, 8, 8, generator=g), torch.randint(CLASSES, (n,), generator=g)
        )
        for n in (SAMPLES, 41)
    ]


def trained(name, sets):
    """Train a member of the zoo for two epochs of five steps; return the history and the model."""
    target, make_opt, extra = ZOO[name]
    extra = dict(extra)
    loss, func = extra.pop("loss", F.cross_entropy), extra.pop("func", None)
    loaders = pf.get_data(*sets, BS, seed=1, drop_last=extra.pop("drop_last", False))
    if func:
        loaders = [pf.WrappedDataLoader(dl, func) for dl in loaders]
    model, _ = pf.get_model(
        target, input_shape=(1, 8, 8), classes=CLASSES, seed=SEED, device="cpu",
        arguments=extra.pop("arguments", {}),
    )  # fmt: skip
    opt = make_opt(model)
    history = pf.fit(2, model, loss, opt, *loaders, metrics=[pf.accuracy], echo=None, **extra)
    return history, model


@pytest.fixture(scope="module")
def zoo(sets, tmp_path_factory):
    """A function that gives a member's losses, its weights, and its script at each level."""
    into, made = tmp_path_factory.mktemp("zoo"), {}

    def member(name):
        if name not in made:
            history, model = trained(name, sets)
            start = f"t{[*ZOO].index(name)}"
            (into / f"{start}.safetensors").write_bytes(weights_to_bytes(model))
            paths = {level: into / f"{start}_{level}.py" for level in ("loop", "data")}
            for level, path in paths.items():
                history.run.eject(path, level=level, echo=None)
            made[name] = history.step_losses, load_file(into / f"{start}.safetensors"), paths
        return made[name]

    return member


@pytest.mark.parametrize("level", ["loop", "data"])
@pytest.mark.parametrize("name", ZOO)
def test_zoo(name, level, zoo):
    step_losses, trained_weights, paths = zoo(name)
    losses, weights = run_here(paths[level])
    assert len(losses) in (8, 10)
    assert losses == step_losses
    assert differing(weights, trained_weights) == []
    names = names_in(paths[level])
    assert not {n for n in names if n.startswith("plainfit")}
    if level == "data":
        assert not names & {"DataLoader", "TensorDataset", "TensorLoader", "WrappedDataLoader"}


def test_the_scripts_are_as_ruff_has_them(zoo):
    paths = [str(path) for name in ZOO for path in zoo(name)[2].values()]
    config = ["--config", str(ROOT / "pyproject.toml")]
    # The zoo's own classes have few docstrings, and a script prints.
    for command in (["check", "--ignore", "T20,D1,B905", *config], ["format", "--diff", *config]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, *paths],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
