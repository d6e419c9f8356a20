"""`plainfit data --baseline`: the models of scikit-learn, and trainings by default beside them."""

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import accuracy_score, f1_score, mean_absolute_error, r2_score
from sklearn.multioutput import MultiOutputClassifier
from sklearn.preprocessing import OneHotEncoder

from plainfit import open_data
from plainfit.runs.baseline import baselines
from plainfit.runs.prepare import completed
from plainfit.runs.settings import RunConfig
from tables_like import TABLES, scores_of


def arrays_of(data):
    return [tensor.numpy() for part in (data.train, data.valid) for tensor in part.tensors]


def test_a_table_of_classes_is_as_by_hand(plainfit):
    frame, target = TABLES["titanic-like"]()
    frame[:300].to_csv("rows.csv", index=False)
    code, out, _ = plainfit("data", "rows.csv", "--target", target, "--baseline", "--json")
    rows = {row["model"]: row for row in json.loads(out)["baselines"]}
    x, y, valid_x, valid_y = arrays_of(open_data("rows.csv", target=target))
    assert code == 0
    assert rows["most frequent"]["accuracy"] == pytest.approx((valid_y == 0).mean())
    for name, model in (
        ("logistic regression", LogisticRegression(max_iter=1000)),
        ("gradient boosting", HistGradientBoostingClassifier()),
    ):
        wanted = accuracy_score(valid_y, model.fit(x, y).predict(valid_x))
        assert rows[name]["accuracy"] == pytest.approx(wanted), name
    code, out, _ = plainfit("data", "rows.csv", "--target", target, "--baseline")
    assert f"compare: plainfit train --data rows.csv --target {target} shows" in out
    assert "on validation rows" in out


def test_numbers_are_in_units_and_categories_are_no_numbers(tmp_path):
    frame, target = TABLES["housing-like"]()
    frame[:500].to_csv(tmp_path / "rows.csv", index=False)
    config = RunConfig(data=str(tmp_path / "rows.csv"), target=target, task="regression")
    data = completed(config).open_data()
    assert [*data.embeddings.values()] == [26]
    _, ridge, boosted = baselines(data)
    x, y, valid_x, valid_y = arrays_of(data)
    ((at, _),) = data.embeddings.items()
    codes = OneHotEncoder(handle_unknown="ignore", sparse_output=False).fit(x[:, [int(at)]])
    both = [np.hstack([np.delete(of, int(at), 1), codes.transform(of[:, [int(at)]])])
            for of in (x, valid_x)]  # fmt: skip
    out = Ridge().fit(both[0], y).predict(both[1])
    assert ridge["r2"] == pytest.approx(r2_score(valid_y, out), abs=1e-4)
    std = data.target.scaling[0].std
    assert ridge["mae"] == pytest.approx(mean_absolute_error(valid_y, out) * std, rel=1e-3)
    model = HistGradientBoostingRegressor(categorical_features=[int(at)]).fit(x, y[:, 0])
    assert boosted["r2"] == pytest.approx(r2_score(valid_y, model.predict(valid_x)), abs=1e-5)


@pytest.mark.filterwarnings("ignore:Label .* is present in all:UserWarning")
def test_several_labels_and_several_numbers(tmp_path):
    draw = np.random.default_rng(0)
    frame = pd.DataFrame(draw.normal(size=(150, 3)).round(3), columns=[*"abc"])
    frame["sum"], frame["gap"] = frame.a + frame.b, frame.a - frame.c
    # All rows have one of the labels, so that a model of it has a single class to learn.
    frame["tags"] = np.where(frame.a > 0, "up|", "") + np.where(frame.b > 0, "in|", "") + "all"
    frame.to_csv(tmp_path / "rows.csv", index=False)
    numbers = open_data(tmp_path / "rows.csv", target="sum,gap", drop="tags")
    names = [row["model"] for row in baselines(numbers)]
    assert names == ["mean", "ridge regression", "gradient boosting"]
    assert baselines(numbers)[1]["r2"] > 0.99
    labels = open_data(tmp_path / "rows.csv", target="tags", drop="sum,gap", task="multi-label")
    x, y, valid_x, valid_y = arrays_of(labels)
    kept = [at for at in range(3) if 0 < y[:, at].mean() < 1]
    model = MultiOutputClassifier(HistGradientBoostingClassifier()).fit(x, y[:, kept])
    found = np.ones_like(valid_y)
    found[:, kept] = model.predict(valid_x)
    wanted = f1_score(valid_y, found, average="macro")
    assert baselines(labels)[2]["f1"] == pytest.approx(wanted)


def test_images_are_refused_in_a_line(plainfit):
    code, _, errors = plainfit("data", "digits", "--baseline")
    assert (code, errors.count("\n")) == (2, 1)
    assert errors.startswith("error: --baseline is for tables in memory, got samples of shape")


def check(name, seeds, folder):
    """Check that the mean over some splits is at most 2 % worse on the test rows."""
    net, *others = np.mean([[*scores_of(name, seed, folder).values()] for seed in seeds], axis=0)
    assert net > max(others) - 0.02, (name, net, others)


def test_a_training_by_default_is_as_good_as_scikit_learn(tmp_path):
    check("titanic-like", (0,), tmp_path)


@pytest.mark.soak
@pytest.mark.parametrize("name", TABLES)
def test_trainings_by_default_are_as_good_as_scikit_learn(tmp_path, name):
    check(name, range(3), tmp_path)
