"""Weights of the classes in the loss of a run."""

import json

import numpy as np
import torch
from safetensors.torch import load_file
from sklearn.metrics import log_loss
from sklearn.utils.class_weight import compute_class_weight

from ejecting import differing, run_here
from plainfit.eject import eject_run
from plainfit.report.predictions import predict
from plainfit.runs.folder import open_run
from plainfit.runs.inference import evaluate
from plainfit.runs.settings import RunConfig
from plainfit.runs.tasks import loss_function
from plainfit.runs.train import train


def test_a_script_has_the_weighted_losses(tmp_path, capsys):
    numbers = json.dumps({str(digit): 1 + digit for digit in range(10)})
    config = RunConfig(
        model="mlp",
        epochs=2,
        batch_size=256,
        class_weights=numbers,
        valid_share=0.4,
        out=tmp_path / "run",
    )
    history = train(config, echo=None).history
    eject_run(tmp_path / "run", script := tmp_path / "train.py")
    script.write_text(script.read_text().replace("valid_loss:11.4f", "valid_loss!r:30"))
    losses, weights = run_here(script)
    assert losses == history.step_losses
    assert not differing(weights, load_file(tmp_path / "run" / "model.safetensors"))
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert [float(row[2]) for row in rows] == [row["valid_loss"] for row in history]


def test_balanced_weights_are_those_of_scikit_learn_and_kept_as_numbers(tmp_path):
    x = np.random.default_rng(0).normal(size=(90, 4)).astype(np.float32)
    y = np.array(["dog", "cat", "dog", "bird", "dog", "dog"] * 15)
    np.savez(tmp_path / "a.npz", x=x, y=y)
    settings = {"data": str(tmp_path / "a.npz"), "model": "logistic", "epochs": 2}
    first, second = tmp_path / "first", tmp_path / "second"
    made = train(RunConfig(**settings, class_weights="balanced", out=first), echo=None)
    kept = json.loads((first / "run.json").read_text())["config"]["class_weights"]
    run = open_run(first)
    data = run.open_data()
    labels = data.train.tensors[1].numpy()
    wanted = compute_class_weight("balanced", classes=np.unique(labels), y=labels)
    assert json.loads(kept) == dict(zip(["bird", "cat", "dog"], wanted, strict=True))

    again = train(RunConfig(**settings, class_weights=kept, out=second), echo=None)
    assert again.history.step_losses == made.history.step_losses

    x_valid, y_valid = data.valid.tensors
    with torch.no_grad():
        shares = run.model(x_valid).double().softmax(1).numpy()
    by_hand = log_loss(y_valid, shares, sample_weight=wanted[y_valid])
    last = made.history[-1]
    assert abs(last["valid_loss"] - by_hand) < 1e-5
    assert abs(last["valid_loss"] - log_loss(y_valid, shares)) > 1e-3
    found = predict(run.model, data, 64, loss_function(run.config, run.target))
    weights = json.loads(kept)
    for sample in found["wrong"]:
        loss = -np.log(sample["true_probability"]) * weights[sample["true"]]
        assert abs(sample["loss"] - loss) < 1e-5
    assert evaluate(run)["loss"] == made.test["loss"] == found["loss"]
