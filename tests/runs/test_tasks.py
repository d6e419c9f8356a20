"""Regression and several labels: from a table to predictions, checked by scikit-learn."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn import metrics

import plainfit as pf
from plainfit.data.splits import labels_of
from plainfit.runs.export import export_run
from plainfit.runs.folder import load_run, open_run
from plainfit.runs.predict import predict_rows
from plainfit.runs.prepare import prepare
from plainfit.runs.settings import RunConfig
from plainfit.runs.train import resume, train

RNG = np.random.default_rng(0)
X = RNG.normal(size=(200, 3)).round(3)
FRAME = pd.DataFrame(X, columns=list("abc")).assign(town=RNG.choice(["X", "Y"], 200))
TABLES = {
    "price": FRAME.assign(price=(50_000 + 9001.7 * X[:, 0] + 4000 * (FRAME.town == "X")).round(2)),
    "low,high": FRAME.assign(low=X[:, 0] - 1.5, high=X[:, 1] * 100),
    "tags": FRAME.assign(
        tags=["|".join(np.array(["rain", "sun"])[[a > 0, b > 0.3]]) for a, b in X[:, :2]]
    ),
    "rain,sun": FRAME.assign(rain=(X[:, 0] > 0).astype(int), sun=X[:, 1] > 0.3),
}
TASK = {"price": "regression", "low,high": "regression"}


@pytest.fixture(scope="module", params=TABLES)
def run(request, tmp_path_factory):
    """A run on each kind of target, the name of its target, and the file of its data."""
    folder = tmp_path_factory.mktemp("run")
    TABLES[request.param].to_csv(folder / "t.csv", index=False)
    config = RunConfig(
        data=str(folder / "t.csv"), target=request.param, model="mlp", epochs=3, optimizer="adam",
        lr=0.01, out=folder / "run",
    )  # fmt: skip
    train(config, echo=None)
    return load_run(folder / "run", best=False), request.param


def test_the_task_follows_from_the_target(run):
    opened, target = run
    names = ["rain", "sun"] if target == "tags" else target.split(",")
    assert opened.target.task == TASK.get(target, "multi-label")
    assert list(opened.target.names) == names


def test_metrics_are_those_of_scikit_learn(run):
    opened, target = run
    test = opened.record["test"]
    data = opened.open_data().test
    raw = pf.predict(opened.model, data).double()
    labels = labels_of(data).double()
    if target not in TASK:
        said, true = raw > 0, labels > 0
        assert test["subset_accuracy"] == pytest.approx(metrics.accuracy_score(true, said))
        assert test["f1"] == pytest.approx(metrics.f1_score(true, said, average="macro"), abs=1e-6)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(raw, labels)
        assert test["loss"] == pytest.approx(float(loss), rel=1e-5)
        return
    assert test["r2"] == pytest.approx(metrics.r2_score(labels, raw), abs=1e-5)
    assert ("mae" in test) == (target == "price")
    if target == "price":  # in the units of the column
        frame = TABLES[target]
        said, true = (opened.target.restored(of) for of in (raw, labels))
        nearest = np.abs(true.numpy() - frame.price.to_numpy()).min(axis=1)
        assert nearest.max() < 0.01
        assert test["mae"] == pytest.approx(metrics.mean_absolute_error(true, said), rel=1e-4)
        wanted = metrics.root_mean_squared_error(true, said)
        assert test["rmse"] == pytest.approx(wanted, rel=1e-4)


def test_numbers_are_standardised_by_the_training_rows(run):
    opened, target = run
    if target in TASK:
        train_numbers = opened.target.restored(labels_of(opened.open_data().train)).double()
        for scaling, column in zip(opened.target.scaling, train_numbers.unbind(1), strict=True):
            assert scaling.mean == pytest.approx(float(column.mean()), rel=1e-5)
            assert scaling.std == pytest.approx(float(column.std(correction=0)), rel=1e-5)


def test_rows_are_predicted_as_in_the_training_and_evaluated(run, tmp_path):
    opened, target = run
    frame = TABLES[target]
    frame.to_csv(tmp_path / "new.csv", index=False)
    with pytest.warns(RuntimeWarning, match="is not used"):
        rows = predict_rows(opened, tmp_path / "new.csv")
    inputs = frame.drop(columns=target.split(","))
    if target in TASK:
        numbers = pf.predict(opened, inputs)
        found = np.array([[row[name] for name in target.split(",")] for row in rows])
        assert found == pytest.approx(numbers.numpy(), rel=1e-6)
        score = metrics.r2_score(frame[target.split(",")], found)
    else:
        shares = pf.predict(opened, inputs, output="probabilities")
        assert [[*row["probabilities"].values()] for row in rows] == shares.tolist()
        chosen = pf.predict(opened, inputs, output="classes")
        assert torch.equal(chosen, (shares > 0.5).long())
        names = [row["labels"].split("|") if row["labels"] else [] for row in rows]
        assert names == [[n for n, c in zip(["rain", "sun"], r, strict=True) if c] for r in chosen]
        score = None
    values = pf.evaluate(opened, str(tmp_path / "new.csv"))
    assert values.keys() == opened.record["test"].keys()
    if score is not None:
        assert values["r2"] == pytest.approx(score, abs=1e-4)


def test_numbers_of_images_train_by_adamw_unless_options_say_otherwise(tmp_path):
    images, numbers = RNG.integers(0, 256, (60, 8, 8)).astype(np.uint8), RNG.normal(size=60)
    np.savez(tmp_path / "a.npz", x=images, y=numbers)
    config = RunConfig(data=str(tmp_path / "a.npz"), model="mlp")
    parts = prepare(config)
    assert type(parts.opt) is torch.optim.AdamW
    assert parts.data.notes[-1] == "for regression: --optimizer adamw"
    for own in ({"lr": 0.01}, {"optimizer": "sgd"}, {"momentum": 0.5}):
        assert type(prepare(replace(config, **own)).opt) is torch.optim.SGD


def test_a_resumed_run_has_the_bits_of_an_unbroken_one(run, tmp_path):
    opened, _ = run
    train(replace(opened.config, epochs=1, out=tmp_path / "one"), echo=None)
    resume(tmp_path / "one", epochs=3, echo=None)
    again, whole = open_run(tmp_path / "one"), open_run(opened.folder)
    assert [row.loss for row in again.steps] == [row.loss for row in whole.steps]
    assert again.record["test"] == whole.record["test"]


def test_scripts_and_files_have_the_outputs_of_the_run(run, plainfit, tmp_path):
    opened, _ = run
    code, out, errors = plainfit("eject", opened.folder, "--out", tmp_path / "a.py", "--verify")
    assert code == 0, errors
    assert "verify holds: 9 losses are equal and 6 tensors are equal, bit for bit" in out
    made = export_run(opened, "torch-export", tmp_path / "m.pt2")
    assert made.facts["output"]["shape"] == ["batch", len(opened.target.names)]
    assert made.difference < 1e-5


def test_more_metrics_and_what_decides_the_best_epoch(run, tmp_path):
    opened, target = run
    more = "mse" if target in TASK else "roc_auc"
    by = "r2" if target in TASK else "f1"
    made = train(replace(opened.config, metrics=more, monitor=by, out=tmp_path / "run"), echo=None)
    rows = made.history.epochs
    assert more in rows[0]
    best = max(rows, key=lambda row: row[by])
    assert open_run(tmp_path / "run").best == best
    assert open_run(tmp_path / "run").record["best"] == best


def test_names_of_metrics_are_checked_before_anything_is_written(plainfit, tmp_path):
    TABLES["price"].to_csv(tmp_path / "t.csv", index=False)
    train_it = ("train", "--data", "t.csv", "--target", "price", "--epochs", 1, "--out", "run")
    for options, says in {
        ("--metrics", "f2"): "error: unknown metric 'f2': choose from ",
        ("--monitor", "accuracy"): "error: --monitor must be a column of the history, one of "
        "valid_loss, train_loss, mae, rmse, r2, got 'accuracy'\n",
        ("--loss", "hubr"): "error: unknown loss for regression 'hubr': choose from mse, mae, "
        "huber; did you mean 'huber'?\n",
    }.items():
        code, out, errors = plainfit(*train_it, *options)
        assert (code, out, (tmp_path / "run").exists()) == (2, "", False)
        assert errors.startswith(says)
