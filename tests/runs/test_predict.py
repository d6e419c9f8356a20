"""`predict` gives a model what it saw in training, or refuses; its memory is bounded."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from sklearn.datasets import load_digits

from plainfit.common.errors import PlainfitError, RunError
from plainfit.runs import predict
from plainfit.runs.folder import open_run
from plainfit.runs.predict import predict_images
from plainfit.runs.settings import RunConfig
from plainfit.runs.train import train

DIGITS = load_digits()
BYTES = np.rint(DIGITS.images * 255 / 16).astype(np.uint8)


@pytest.fixture
def train_on(tmp_path):
    def run(x, y=DIGITS.target, **settings):
        np.savez(tmp_path / "data.npz", x=x, y=y)
        data, out = str(tmp_path / "data.npz"), tmp_path / "run"
        train(RunConfig(data=data, model="logistic", epochs=1, out=out, **settings), echo=None)
        return open_run(out)

    return run


@pytest.fixture
def pngs(tmp_path):
    paths = [tmp_path / f"{row}.png" for row in range(40)]
    for path, image in zip(paths, BYTES, strict=False):
        Image.fromarray(image).save(path)
    return paths


def test_images_of_bytes_are_read_as_in_training(train_on, pngs):
    run = train_on(BYTES)
    assert run.record["data"]["preprocessing"] == {
        "values": "bytes / 256",
        "mode": "L",
        "order": "channels, height, width",
    }
    got = [list(row["probabilities"].values()) for row in predict_images(run, pngs)]
    xb = torch.from_numpy(BYTES[:40])[:, None].float() / 256
    assert torch.allclose(torch.tensor(got), run.model(xb).softmax(1), atol=1e-6)


@pytest.mark.parametrize(
    "values",
    [
        BYTES.astype(np.float32)[:, None],
        BYTES.astype(np.uint16)[:, None],
        (BYTES > 99)[:, None],
        (255 - BYTES[:, None]) / 255,
        np.repeat(BYTES[:, None], 2, axis=1),
    ],
)
def test_other_values_are_refused(train_on, pngs, values, plainfit):
    run = train_on(values, lr=1e-4)
    code, out, errors = plainfit("predict", run.folder, pngs[0])
    assert (code, out, errors.count("\n")) == (2, "", 1)
    assert "predict gives a model the bytes of gray or RGB images divided by 256, and" in errors


def test_a_run_that_does_not_say_so_asks_its_data(train_on, pngs):
    run = train_on(BYTES)
    wanted = predict_images(run, pngs[:2])
    for entry in ({}, {"preprocessing": None}):
        run.record["data"] = {
            k: v for k, v in run.record["data"].items() if k != "preprocessing"
        } | entry
        run.__dict__.pop("preprocessing", None)
        assert predict_images(run, pngs[:2]) == wanted
    run.record["config"]["data"] = "nowhere.npz"
    for name in ("preprocessing", "config"):
        run.__dict__.pop(name)
    with pytest.raises(RunError, match="was trained on values that are not recorded"):
        predict_images(run, pngs)


@pytest.mark.parametrize("views", [0, 10])
def test_batches_are_bounded(train_on, pngs, views, monkeypatch):
    run = train_on(BYTES)
    monkeypatch.setattr(predict, "MOST_IMAGES", 7)
    sizes = []
    run.model.register_forward_pre_hook(lambda _, xb: sizes.append(len(xb[0])))
    assert len(predict_images(run, pngs, views=views, augment="light")) == 40
    assert max(sizes) <= 8  # views, and the image itself
    assert sum(sizes) == 40 * (1 + views)


def test_every_unreadable_image_is_named(train_on, pngs, monkeypatch, tmp_path):
    run = train_on(BYTES)
    monkeypatch.setattr(predict, "MOST_IMAGES", 7)
    for name in ("first.png", "last.png"):
        (tmp_path / name).write_bytes(b"no image")
    with pytest.raises(PlainfitError, match=r"2 are not: .*first.png .*last.png"):
        predict_images(run, [tmp_path / "first.png", *pngs, tmp_path / "last.png"])


@pytest.mark.parametrize("budget", [2048, 0])
def test_an_export_of_a_table_says_how_its_columns_were_standardised(plainfit, tmp_path, budget):
    import pyarrow as pa
    import pyarrow.feather

    rng = np.random.default_rng(0)
    heights = 170 + 10 * rng.normal(size=100)
    cities = {} if budget == 0 else {"city": ["Ulm", "Bonn", "Ulm", "Ulm"] * 25}
    table = {"height": heights, "target": np.arange(100) % 2, **cities}
    pyarrow.feather.write_feather(pa.table(table), tmp_path / "t.arrow", compression="uncompressed")
    arguments = ["--data", "t.arrow", "--memory-budget", budget, "--model", "mlp", "--epochs", 1]
    assert plainfit("train", *arguments, "--out", "run")[0] == 0
    assert plainfit("export", "run")[0] == 0
    with safe_open("run/export.safetensors", framework="pt") as file:
        facts = json.loads(file.metadata()["plainfit"])
    made = facts["preprocessing"]["columns"]
    stats = made.pop("height")
    assert abs(stats["mean"] - 170) < 3
    assert abs(stats["std"] - 10) < 3
    assert made == ({"city": {"categories": ["Bonn", "Ulm"]}} if cities else {})
    x = open_run(tmp_path / "run").open_data().train[0][0]
    assert np.isclose((heights - stats["mean"]) / stats["std"], float(x[0]), atol=1e-5).any()
