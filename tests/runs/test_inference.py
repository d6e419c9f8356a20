"""`predict` and `evaluate`: as a loop by hand, on data of any kind, and nothing else changes."""

import random
import re
import subprocess
import sys
import warnings
import weakref
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, WeightedRandomSampler

import plainfit as pf
from plainfit.common.devices import cpu_threads
from plainfit.common.errors import ConfigError, DataError, ModelError, RunError
from plainfit.runs.settings import RunConfig
from plainfit.runs.train import train

X = np.random.default_rng(0).normal(size=(70, 4))
Y = np.arange(70) % 3
XB, YB = torch.tensor(X, dtype=torch.float32), torch.tensor(Y)
DIGITS = load_digits()
BYTES = np.rint(DIGITS.images * 255 / 16).astype(np.uint8)


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3)
    )


def by_hand(model, xb=XB, bs=32):
    model.eval()
    with torch.no_grad():
        return torch.cat([model(xb[rows]) for rows in torch.arange(len(xb)).split(bs)])


class Samples:
    """A dataset of no class of torch."""

    def __len__(self):
        return len(XB)

    def __getitem__(self, row):
        return XB[row], Y[row]


KINDS = {
    "tensor": XB,
    "array": X,
    "frame": pd.DataFrame(X),
    "arrays": (X, Y),
    "inputs alone": TensorDataset(XB),
    "dataset": TensorDataset(XB, YB),
    "own dataset": Samples(),
    "loader": DataLoader(TensorDataset(XB, YB), 32),
    "loader of inputs": DataLoader(XB, 32),
    "our loader": pf.get_data(TensorDataset(XB, YB), TensorDataset(XB, YB), 16)[1],
    "function": lambda: DataLoader(XB, 32),
    "list": [
        (XB[:32].clone(), YB[:32]),
        (XB[32:64].clone(), YB[32:64]),
        (XB[64:].clone(), YB[64:]),
    ],
}


@pytest.mark.parametrize("kind", KINDS)
def test_data_of_every_kind(kind):
    model = network()
    assert torch.equal(pf.predict(model, KINDS[kind], bs=32), by_hand(model))


def test_nothing_else_changes():
    model, generator = network(), torch.Generator().manual_seed(1)
    model[1].eval()
    modes = [module.training for module in model.modules()]
    dataset = TensorDataset(XB, YB)
    ours, _ = pf.get_data(dataset, dataset, bs=16)
    ours.seek(3, 2)
    for dl in (
        ours,
        DataLoader(dataset, 16, shuffle=True, generator=generator),
        DataLoader(dataset),
    ):
        states = torch.get_rng_state(), generator.get_state(), random.getstate()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            out = pf.predict(model, dl)
        assert len(caught) == (dl is ours or dl.generator is generator)
        pf.evaluate(model, dl, F.cross_entropy)
        assert not out.requires_grad
        assert [module.training for module in model.modules()] == modes
        assert torch.equal(states[0], torch.get_rng_state())
        assert torch.equal(states[1], generator.get_state())
        assert states[2] == random.getstate()
    assert (ours.epoch, ours.first) == (3, 2)


def test_an_order_by_chance_is_said():
    dataset, sampler = TensorDataset(XB, YB), WeightedRandomSampler([1.0] * 70, 70)
    ours, _ = pf.get_data(dataset, dataset, bs=16, sampler=sampler)
    wrapped = pf.WrappedDataLoader(pf.get_data(dataset, dataset, bs=16)[0], lambda xb, yb: (xb, yb))
    slow, _ = pf.get_data(Samples(), dataset, bs=16)
    for dl in (ours, wrapped, slow, DataLoader(dataset, sampler=sampler)):
        with pytest.warns(RuntimeWarning, match="shuffles, and so the predictions are not in the"):
            pf.predict(network(), dl)


def test_in_a_callback_the_training_keeps_its_bits():
    class Look(pf.Callback):
        def on_step_end(self, context):
            pf.predict(context.model, DataLoader(TensorDataset(XB, YB), 8))
            pf.evaluate(context.model, context.train_dl, F.cross_entropy)

    losses = []
    for callbacks in ([], [Look()]):
        model = network()
        opt = torch.optim.SGD(model.parameters(), 0.1)
        train_dl, _ = pf.get_data(TensorDataset(XB, YB), TensorDataset(XB, YB), bs=16)
        history = pf.fit(
            2, model, F.cross_entropy, opt, train_dl, None, callbacks=callbacks, echo=None
        )
        losses.append(history.step_losses)
    assert losses[0] == losses[1]


class Named(nn.Sequential):
    """Its outputs are those of transformers: named, and scores are called logits."""

    def forward(self, xb):
        return SimpleNamespace(logits=super().forward(xb))


def test_probabilities_and_classes():
    model = network()
    scores = by_hand(model, bs=128)
    assert torch.equal(pf.predict(model, X, output="probabilities"), scores.softmax(dim=1))
    assert torch.equal(pf.predict(model, X, output="classes"), scores.argmax(dim=1))
    assert torch.equal(pf.predict(model, X, output=torch.sigmoid), scores.sigmoid())
    normed = nn.Sequential(model, nn.Softmax(dim=1))
    assert torch.equal(pf.predict(normed, X, output="probabilities"), scores.softmax(dim=1))
    assert torch.equal(pf.predict(Named(model), X, output="classes"), scores.argmax(dim=1))
    for wrong in (nn.Linear(4, 1), nn.Sequential(nn.Linear(4, 6), nn.Unflatten(1, (2, 3)))):
        with pytest.raises(ModelError, match=r"with two classes .*such as output=torch.sigmoid"):
            pf.predict(wrong, X, output="classes")
    with pytest.raises(ConfigError, match=r"unknown output 'class': .*did you mean 'classes'"):
        pf.predict(model, X, output="class")


class Parts(nn.Module):
    def forward(self, a, b):
        return a + b, {"double": 2 * a, "texts": ["row"] * len(a)}


def test_several_inputs_and_parts_of_outputs():
    total, parts = pf.predict(Parts(), {"a": X, "b": XB}, bs=9)
    assert torch.equal(total, XB + torch.tensor(X).float())
    assert torch.equal(parts["double"], 2 * XB)
    assert parts["texts"] == ["row"] * 70
    assert torch.equal(pf.predict(Parts(), (X, XB, Y), bs=9)[0], total)
    lstm = nn.LSTM(4, 5, batch_first=True)
    with pytest.raises(ModelError, match=r"got a tuple with parts of lengths \[1, 7\]; choose a p"):
        pf.predict(lstm, XB.reshape(-1, 10, 4))
    last = pf.predict(lstm, XB.reshape(-1, 10, 4), output=lambda out: out[0][:, -1])
    with torch.no_grad():
        assert torch.equal(last, lstm(XB.reshape(-1, 10, 4))[0][:, -1])


def test_outputs_of_several_shapes():
    batches, model = [torch.ones(2, 3), torch.ones(2, 5)], nn.Identity()
    with pytest.raises(ModelError, match=r"one shape; output=list .* RuntimeError: Sizes"):
        pf.predict(model, batches)
    assert [len(row) for row in pf.predict(model, batches, output=list)] == [3, 3, 5, 5]


def test_a_part_of_an_output_does_not_keep_the_whole():
    model, outputs = nn.Linear(4, 1000), []

    def look(module, inputs, out):
        assert all(ref() is None for ref in outputs)
        outputs.append(weakref.ref(out))

    model.register_forward_hook(look)
    out = pf.predict(model, X, output=lambda out: out[:, :1], bs=7)
    assert (out.shape, len(outputs)) == ((70, 1), 10)


LANGUAGE_MODEL = """
import resource, sys, torch, plainfit as pf
from torch import nn
model = nn.Sequential(nn.Embedding(8000, 16), nn.Linear(16, 8000))
tokens = torch.randint(8000, (int(sys.argv[1]), 64))
pf.predict(model, tokens, bs=8, output=lambda out: out.argmax(dim=-1))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.soak
def test_memory_does_not_grow_with_the_batches():
    few, many = (
        int(subprocess.check_output([sys.executable, "-c", LANGUAGE_MODEL, str(rows)]))
        for rows in (80, 800)
    )
    assert many < 1.4 * few  # a list of outputs takes three times as much


@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda m: torch.compile(m, backend="eager")])
def test_wrapped_and_tied_models(wrap):
    model = network()
    model.append(nn.Linear(3, 3)).append(nn.Linear(3, 3))
    model[6].weight = model[5].weight
    wrapped = wrap(model)
    assert torch.equal(pf.predict(wrapped, X, bs=35), by_hand(model, bs=35))
    assert pf.evaluate(wrapped, (X, Y), F.cross_entropy) == pf.evaluate(
        model, (X, Y), F.cross_entropy
    )


@pytest.mark.parametrize(
    ("model", "data", "message"),
    [
        (nn.Linear, X, "model must be a module, or a run from plainfit.load_run, got <class"),
        ("runs/first", X, "model must be a module, or a run from plainfit.load_run, got 'runs/f"),
        (
            network(),
            "x.csv",
            "data must be a dataset with a length, arrays .*, got str; read files",
        ),
        (network(), np.array([["a"]]), r"must be numbers, got <U1 such as .*'a'.*; encode text"),
        (network(), (X, Y[:5]), "data must have one row in each array for a sample, got 70 and 5"),
        (network(), [], "there must be batches to predict, got none from a list"),
        (network(), 3, "data must be a dataset with a length, arrays .*, got int"),
    ],
)
def test_what_cannot_be_predicted_is_refused(model, data, message):
    with pytest.raises((ConfigError, DataError), match=message):
        pf.predict(model, data)


def test_scores_are_those_of_validate():
    model = network()
    valid_dl = DataLoader(TensorDataset(XB, YB), 16)
    wanted = pf.validate(model, F.cross_entropy, valid_dl, metrics=[pf.accuracy])
    for data in (valid_dl, (X, Y.astype(np.int32)), (pd.DataFrame(X), pd.Series(Y))):
        got = pf.evaluate(model, data, F.cross_entropy, metrics=[pf.accuracy], bs=16)
        assert got == wanted
    with pytest.raises(ConfigError, match="data must be given for a model"):
        pf.evaluate(model)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Forty digits as files, a folder for each class; and the rows in the order of their paths."""
    root = tmp_path_factory.mktemp("images")
    for row, label in enumerate(DIGITS.target[:40]):
        (root / str(label)).mkdir(exist_ok=True)
        Image.fromarray(BYTES[row]).save(root / str(label) / f"{row:02}.png")
    return root, [int(path.stem) for path in sorted(root.glob("*/*.png"))]


def test_a_run_takes_images_as_its_training_did(trained_run, images):
    run, (root, rows) = pf.load_run(trained_run), images
    xb = torch.from_numpy(BYTES)[:, None].float() / 256
    scores = by_hand(run.model, xb, bs=128)
    for data in (BYTES, torch.from_numpy(BYTES)[:, None], xb, xb.double().numpy()):
        assert torch.equal(pf.predict(run, data), scores)
    files = sorted(root.glob("*/*.png"))
    for data in (root, str(root), files, list(map(str, files))):
        assert torch.equal(pf.predict(run, data), by_hand(run.model, xb[rows], bs=128))
    assert torch.equal(pf.predict(run, files[0], output="classes"), scores[rows[:1]].argmax(dim=1))
    labels = DIGITS.target[:40]
    wanted = pf.evaluate(run.model, (xb[:40], labels), F.cross_entropy, metrics=[pf.accuracy])
    for y in (labels, labels.astype(str), torch.from_numpy(labels)):
        assert pf.evaluate(run, (BYTES[:40], y)) == wanted
    assert pf.evaluate(run, root)["accuracy"] == wanted["accuracy"]
    last = pf.load_run(trained_run, best=False)
    with cpu_threads(last.record["fingerprint"]["threads"]):
        assert pf.evaluate(last) == last.record["test"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (DIGITS.images, "must be bytes, or bytes / 256 as in .* up to 16; pass them as uint8"),
        (torch.from_numpy(BYTES)[:, None].float(), r"torch.float32 up to 255; pass them"),
        (torch.zeros(5, 64), r"must have the shape \(1, 8, 8\) of the training's, got \(64"),
        (pd.DataFrame({"a": [1]}), "DataFrame is a table, and .* on values bytes / 256"),
        ("nowhere.csv", "the data must exist, and there is no file or folder nowhere.csv"),
        (["a.png", "b.svg"], r"2 are not: a.png \(no such file\); b.svg \(not a .png"),
    ],
)
def test_a_run_refuses_other_values(trained_run, data, message):
    with pytest.raises((DataError, RunError), match=message):
        pf.predict(pf.load_run(trained_run), data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (BYTES, r"must have targets, got a ndarray of inputs; pass \(X, y\)"),
        ((BYTES, DIGITS.target + 1), r"must be among 0, 1, .* got 10; did you mean '1'"),
        ((BYTES, DIGITS.target[:5]), "one row in each array for a sample, got 1797 and 5"),
    ],
)
def test_a_run_refuses_other_targets(trained_run, data, message):
    with pytest.raises(DataError, match=message):
        pf.evaluate(pf.load_run(trained_run), data)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """The rows of a table, and a run on it."""
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("table")
    rows = pd.DataFrame(
        {"height": 170 + 10 * rng.normal(size=90), "city": ["Ulm", "Bonn", "Rom"] * 30}
    )
    rows["tall"] = np.where(rows.height > 172, "yes", "no")
    rows.to_csv(folder / "rows.csv", index=False)
    data, out = str(folder / "rows.csv"), folder / "run"
    train(RunConfig(data=data, target="tall", model="mlp", epochs=1, out=out), echo=None)
    return rows, pf.load_run(out)


def test_a_run_takes_tables_as_its_training_did(table):
    rows, run = table
    made = run.preprocessing["columns"]
    height = (rows.height - made["height"]["mean"]) / made["height"]["std"]
    cities = [rows.city == name for name in ("Bonn", "Rom", "Ulm")]
    xb = torch.tensor(np.stack([height, *cities], axis=1, dtype=np.float32))
    scores = by_hand(run.model, xb, bs=128)
    shown = [rows, rows[["city", "height"]], run.config.data]
    for data in shown:
        assert torch.equal(pf.predict(run, data), scores)
    part = rows.sample(20, random_state=0)  # in another order, and its index is no column
    assert torch.equal(pf.predict(run, part), by_hand(run.model, xb[part.index.tolist()], bs=128))
    labels = torch.tensor(rows.tall == "yes").long()
    wanted = pf.evaluate(run.model, (xb, labels), F.cross_entropy, metrics=[pf.accuracy])
    for data in (rows, run.config.data, (rows[["height", "city"]], rows.tall)):
        assert pf.evaluate(run, data) == wanted


def test_a_run_refuses_other_tables(table):
    rows, run = table
    for data, message in (
        (rows.rename(columns={"height": "heigth"}), "column 'height'; did you mean 'heigth'"),
        (rows.assign(height="tall"), "'height' must be numbers: 90 of 90 are not, 'tall' in data"),
        (rows.assign(height=[[1.0]] * 90), "must be numbers, as in the training, and is list"),
        (
            rows[["height"]].to_numpy(),
            "an array has no columns, and .* needs its own; pass a data frame",
        ),
    ):
        with pytest.raises((DataError, RunError), match=message):
            pf.predict(run, data)
    with pytest.raises(DataError, match="no column 'tall' for --target: choose from height, city"):
        pf.evaluate(run, rows[["height", "city"]])
    for changed, message in (
        (rows.assign(city="Wien"), "column 'city': 90 rows have a text that no training row has"),
        (rows.assign(city=1), "column 'city': 90 rows have a text that no training row has"),
        (rows.assign(weight=1), "columns that the training did not use are ignored: 'weight'"),
        (rows.assign(height=np.nan), "'height': 90 of 90 values missing, first in data row 1: fil"),
    ):
        with pytest.warns(RuntimeWarning, match=message):
            pf.predict(run, changed)


def test_the_examples_of_the_page(plainfit):
    page = (Path(__file__).parents[2] / "docs" / "inference.md").read_text(encoding="utf-8")
    shell, *programs = re.findall(r"```(?:sh|python)\n(.*?)```", page, re.DOTALL)
    assert plainfit(*shell.split()[1:])[0] == 0
    names: dict = {}
    for program in programs:
        exec(program, names)
    assert names["scores"]["accuracy"] < 0.7  # of labels by chance
    assert np.mean(np.array(names["names"]) == DIGITS.target.astype(str)) > 0.8
    assert torch.allclose(names["chances"].sum(dim=1), torch.ones(100))
