"""`--model tabular`: categories of a table are embedded, in a training and in all that follows."""

import json
import runpy
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

import plainfit as pf
from ejecting import differing, run_here
from plainfit.eject.run import eject_run
from plainfit.eject.verify import outcome_of
from plainfit.models.networks import TabularModel
from plainfit.runs.folder import open_run, read_record
from plainfit.runs.prepare import completed
from plainfit.runs.settings import RunConfig
from plainfit.runs.train import resume, train
from small import same
from trainings import StopAt

pytestmark = pytest.mark.filterwarnings("always::RuntimeWarning")
N = 120
NETS = """
import torch
from torch import nn
class Coded(nn.Module):
    def __init__(self, in_features, classes, embeddings):
        super().__init__()
        self.embeddings = embeddings
        self.lin = nn.Linear(in_features, classes)
    def forward(self, xb):
        return self.lin(xb)
"""


def rows_of(n=N):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"x": rng.normal(size=n), "age": rng.integers(20, 70, n) * 1.0})
    frame.loc[::7, "age"] = np.nan
    frame["city"] = [f"c{at}" if at else "" for at in rng.integers(0, 11, n)]
    frame["kind"] = [*"abc"] * (n // 3)
    frame["target"] = np.where(rng.normal(size=n) + frame.x + (frame.city > "c5") > 0.5, "y", "n")
    return frame


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tabular")
    rows_of().to_csv(folder / "rows.csv", index=False)
    config = RunConfig(data=str(folder / "rows.csv"), epochs=2, batch_size=32, out=folder / "run")
    lines = []
    train(config, echo=lines.append)
    return config, folder / "run", lines


def test_the_model_is_an_embedding_and_layers_by_hand():
    torch.manual_seed(0)
    model = TabularModel(4, 3, {"2": 10, "0": 5}, hidden=(6,)).eval()
    xb = torch.tensor([[3, 0.5, 9, -1], [0, 2, 1, 0.25]])
    assert [e.embedding_dim for e in model.embeddings] == [6, 4]  # fastai's emb_sz_rule
    ten, five = model.embeddings
    numbers = xb[:, [1, 3]]
    inputs = torch.cat([numbers, ten.weight[[9, 1]], five.weight[[3, 0]]], dim=1)
    (layer,) = model.layers.hidden
    wanted = model.layers.out(torch.relu(inputs @ layer.weight.T + layer.bias))
    torch.testing.assert_close(model(xb), wanted)
    assert TabularModel(4, 3)(torch.rand(2, 1, 2, 2)).shape == (2, 3)  # no categories


def test_a_table_has_a_model_for_tables_by_default(trained):
    _, folder, lines = trained
    run = open_run(folder)
    chosen = {name: getattr(run.config, name) for name in ("model", "optimizer", "embed_above")}
    assert chosen == {"model": "tabular", "optimizer": "adamw", "embed_above": 8}
    note = "for a table: --model tabular --optimizer adamw --lr 0.003 --schedule one-cycle"
    assert f"note   {note}" in "\n".join(lines)
    assert (run.config.lr, run.config.schedule) == (0.003, "one-cycle")
    assert run.factory.arguments["embeddings"] == {"3": 12}
    assert completed(run.config) == run.config
    given = completed(RunConfig(data="t.csv", model="mlp"))
    assert (given.model, given.optimizer, given.embed_above) == ("mlp", "sgd", None)
    given = completed(RunConfig(data="t.csv", optimizer="sgd", schedule="cosine", embed_above=3))
    assert (given.optimizer, given.schedule, given.embed_above) == ("sgd", "cosine", 3)
    given = completed(RunConfig(data="t.csv", optimizer="adamw"))  # as in a run of before
    assert (given.lr, given.schedule) == (None, None)
    given = completed(RunConfig(data="t.csv", lr=0.1))
    assert (given.lr, given.schedule) == (0.1, "one-cycle")
    given = completed(RunConfig(data="t.csv", momentum=0.5))
    assert (given.optimizer, given.lr, given.schedule) == ("sgd", None, None)
    assert completed(RunConfig()).model == "resnet"


def test_rows_become_the_same_inputs_everywhere(trained, plainfit, tmp_path):
    _, folder, _ = trained
    frame = rows_of().assign(city=lambda rows: rows.city.where(rows.index > 1, "elsewhere"))
    frame.to_csv("new.csv", index=False)
    code, out, errors = plainfit("predict", folder, "new.csv", "--json")
    assert (code, "'city': 2 rows have a text that no training row has" in errors) == (0, True)
    chances = torch.tensor([[*row["probabilities"].values()] for row in json.loads(out)])
    assert plainfit("export", folder, "--format", "safetensors", "--out", "m.safetensors")[0] == 0
    prepare = runpy.run_path(str(tmp_path / "prepare.py"))["prepare"]
    run = open_run(folder)
    inputs = torch.from_numpy(prepare(frame, run.preprocessing))
    assert inputs[:2, 3].tolist() == [0, 0]
    with torch.no_grad():
        torch.testing.assert_close(run.model(inputs).softmax(1), chances)
    scores = pf.evaluate(run, str(tmp_path / "new.csv"), metrics=[pf.accuracy])
    right = (chances.argmax(1).numpy() == (frame.target == "y")).mean()
    assert scores["accuracy"] == pytest.approx(right)


def test_resume_and_eject_give_the_same_bits(trained, tmp_path):
    config, folder, _ = trained
    whole = open_run(folder).model
    train(replace(config, out=tmp_path / "run"), echo=None, callbacks=[StopAt(3)])
    assert read_record(tmp_path / "run")["state"] == "interrupted"
    resume(tmp_path / "run", echo=None)
    assert same(open_run(tmp_path / "run").model, whole)
    losses, weights = run_here(eject_run(folder, tmp_path / "script.py").path)
    outcome = outcome_of(folder, read_record(folder))
    assert (losses, differing(weights, outcome.weights)) == (outcome.losses, [])


@pytest.mark.soak
def test_an_epoch_as_a_program_gives_the_same_loss(trained, tmp_path):
    config, folder, _ = trained
    result = train(replace(config, out=tmp_path / "run", compile="epoch"), echo=None)
    last = read_record(folder)["last"]
    assert result.history[-1]["train_loss"] == pytest.approx(last["train_loss"], rel=1e-5)


def test_other_models_and_your_own(trained, plainfit, tmp_path, monkeypatch):
    config, _, _ = trained
    (tmp_path / "coded_nets.py").write_text(NETS)
    monkeypatch.syspath_prepend(tmp_path)
    own = replace(config, model="coded_nets:Coded", embed_above=3, epochs=1, out=tmp_path / "run")
    train(own, echo=None)
    assert open_run(tmp_path / "run").model.embeddings == {"3": 12}
    code, _, errors = plainfit(
        "train", "--data", config.data, "--model", "mlp", "--embed-above", "8"
    )
    said = (
        "error: --embed-above is for models with a parameter `embeddings`, such as --model tabular"
    )
    assert (code, said in errors, errors.count("\n")) == (2, True, 1)


def test_codes_keep_their_meaning_in_a_fine_tuning(trained, plainfit):
    _, folder, _ = trained
    rows_of().to_csv("rows.csv", index=False)
    options = ("--epochs", "1", "--embed-above", "8", "--batch-size", "32")
    assert plainfit("fine-tune", folder, "--data", "rows.csv", *options)[0] == 0
    rows_of().replace("c4", "c14").to_csv("rows.csv", index=False)
    code, _, errors = plainfit("fine-tune", folder, "--data", "rows.csv", *options)
    assert (code, "column 'city' must have the categories of" in errors) == (2, True), errors
