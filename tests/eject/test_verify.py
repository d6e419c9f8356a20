"""`--verify`: what holds, what does not, and which mutations of a script it catches."""

import json
import os
import re
import sys
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn, optim
from torch.utils.data import TensorDataset

import plainfit as pf
from ejecting import run_here
from plainfit.common.devices import differing, fingerprint
from plainfit.common.errors import EjectError
from plainfit.eject import eject_all, eject_run, verified
from plainfit.eject.verify import Outcome, compare, compare_in_float64, outcome_of, run_alone
from plainfit.runs.folder import open_run, read_record
from plainfit.runs.settings import RunConfig
from plainfit.runs.train import train

# Settings of runs that have all that a mutation can break. They are SGD without clipping where a
# factor of the gradients must show: Adam and a clipped norm divide it away.
RUNS = {
    "sgd": {
        "model": "resnet", "model_args": "blocks=(1,), width=4", "weight_decay": 0.01,
        "schedule": "warmup-cosine", "accumulate": 2, "average": 0.9, "epochs": 2,
    },
    "clipped": {"model": "mlp", "clip": 0.01, "epochs": 1},  # below every norm of the run
    "adamw": {"model": "mlp", "optimizer": "adamw", "epochs": 1},
}  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = {name: tmp_path_factory.mktemp("runs") / name for name in RUNS}
    for name, folder in made.items():
        train(RunConfig(out=folder, **RUNS[name]), echo=None)
    return made


@pytest.fixture(scope="module")
def folder(folders):
    return folders["sgd"]


@pytest.fixture(scope="module")
def scripts(folders, tmp_path_factory):
    into = tmp_path_factory.mktemp("scripts")
    return {
        name: eject_run(folder, into / f"{name}.py", look=False) for name, folder in folders.items()
    }


@pytest.fixture
def script(scripts, tmp_path):
    """The script of the SGD run, to be changed at will."""
    path = tmp_path / "train.py"
    path.write_text(scripts["sgd"].path.read_text())
    return replace(scripts["sgd"], path=path)


def verdict_here(script, folder):
    losses, weights = run_here(script)
    given = Outcome(losses, weights)
    return compare(given, outcome_of(folder, read_record(folder)), "loop", None, 20)


@pytest.mark.soak  # the README test verifies a whole run by the command
def test_a_script_holds_in_a_process_of_its_own(script):
    verdict = verified(script)
    assert verdict.holds, verdict.text
    assert re.fullmatch(r"40 losses are equal and \d+ tensors are equal, bit for bit", verdict.text)


@pytest.mark.soak  # test_exit_codes has a small form
def test_only_the_first_steps(script, folder):
    text = script.path.read_text()
    script.path.write_text(text.replace("for epoch in range(EPOCHS)", "for epoch in range(1)"))
    assert verified(script, 7).text == "the losses of the first 7 steps are equal"
    assert not verdict_here(script.path, folder).holds


@pytest.mark.parametrize(
    ("steps", "text"),
    [
        (19, "the losses of the first 19 steps are equal"),
        (20, "20 losses are equal and 6 tensors are equal, bit for bit"),
        (21, "20 losses are equal and 6 tensors are equal, bit for bit"),
    ],
)
def test_as_many_steps_as_the_run_has(steps, text, scripts):
    assert verified(scripts["adamw"], steps) == (True, text)


def test_plainfit_cannot_be_imported(script, folder):
    script.path.write_text("import plainfit\n")
    with pytest.raises(EjectError, match="failed: ImportError: a script that was ejected imports"):
        run_alone(script.path, read_record(folder)["fingerprint"])


# What goes wrong in a script, by run, and what the verdict names first. Each mutation changes the
# mathematics by far more than rounding, whatever the processor.
MUTATIONS = {
    "rate": ("sgd", "LR = 0.1", "LR = 0.101", "the loss of step 2"),
    "seed": ("sgd", "SEED = 0", "SEED = 1", "the loss of step 0"),
    "draw order": ("sgd", '"order", epoch', '"order", epoch + 1', "the loss of step 0"),
    "batch size": ("sgd", "BATCH_SIZE = 64", "BATCH_SIZE = 63", "the loss of step 0"),
    "schedule off by one": ("sgd", "schedule(step)", "schedule(step + 1)", "the loss of step 2"),
    "accumulation": ("sgd", "ACCUMULATE = 2", "ACCUMULATE = 3", "the loss of step 2"),
    "not a mean": ("sgd", "grad.div_(total)", "grad.div_(2 * total)", "the loss of step 2"),
    "average": ("sgd", "AVERAGE = 0.9", "AVERAGE = 0.5", "the weights are not: "),
    "not averaged": (
        "sgd", "model.load_state_dict(averaged.module", "dict(averaged.module", "weights are not"
    ),
    "momentum": ("sgd", "MOMENTUM = 0.9", "MOMENTUM = 0.8", "the loss of step 4"),
    "weight decay": (
        "sgd", '"weight_decay": 0.01', '"weight_decay": 1.0', "the loss of step 2"
    ),
    "a missing mode": ("sgd", "model.train()", "model.eval()", "the loss of step 0"),
    "no bias": (
        "sgd", "self.fc = nn.Linear(inputs, classes)",
        "self.fc = nn.Linear(inputs, classes, bias=False)", "the loss of step 0",
    ),
    "an epoch less": ("sgd", "EPOCHS = 2", "EPOCHS = 1", "took 40 steps, and the script 20"),
    "pixels": ("sgd", ".div_(256)", ".div_(128)", "the loss of step 0"),
    "clipping": ("clipped", "CLIP = 0.01", "CLIP = 0.005", "the loss of step 1"),
    "no clipping": (
        "clipped", "nn.utils.clip_grad_norm_(model.parameters(), CLIP)", "...", "the loss of step 1"
    ),
    "eps": ("adamw", "lr=LR)", "lr=LR, eps=0.1)", "the loss of step 1"),
    "decay by default": ("adamw", "lr=LR)", "lr=LR, weight_decay=1.0)", "the loss of step 1"),
}  # fmt: skip


@pytest.mark.parametrize("name", MUTATIONS)
def test_mutations_are_caught(name, scripts, folders, tmp_path):
    run, before, after, named = MUTATIONS[name]
    text = scripts[run].path.read_text()
    assert before in text
    (tmp_path / "train.py").write_text(text.replace(before, after))
    verdict = verdict_here(tmp_path / "train.py", folders[run])
    assert not verdict.holds
    assert named in verdict.text, verdict.text


def test_a_script_as_it_is_holds(scripts, folders, tmp_path):
    for run, folder in folders.items():
        (tmp_path / "train.py").write_text(scripts[run].path.read_text())
        assert verdict_here(tmp_path / "train.py", folder).holds


@pytest.mark.parametrize("alone", [False, pytest.param(True, marks=pytest.mark.soak)])
def test_another_machine_compares_two_fresh_runs(folders, tmp_path, monkeypatch, alone):
    def here(script, recorded, steps=None):
        return Outcome(*run_here(script), fingerprint=fingerprint(torch.device("cpu")))

    if not alone:  # the README test has the process
        monkeypatch.setattr("plainfit.eject.run.run_alone", here)
    folder = folders["adamw"]
    record = json.loads((folder / "run.json").read_text())
    record["fingerprint"]["torch"] = "1.0"
    (folder / "run.json").write_text(json.dumps(record))
    try:
        verdict = verified(eject_run(folder, tmp_path / "train.py"))
    finally:
        record["fingerprint"]["torch"] = torch.__version__
        (folder / "run.json").write_text(json.dumps(record))
    assert verdict.holds, verdict.text
    assert "(torch was 1.0, is " in verdict.text
    assert "so a new run was compared" in verdict.text


def test_nan_is_nan_and_ulps_are_counted():
    given = Outcome([1.0, float("nan")], {})
    run = type("Run", (), {"losses": [1.0, float("nan")], "weights": {}})()
    assert compare(given, run, "loop", None, None).holds
    next_up = 1.0 + 2**-23
    near = Outcome([next_up], {})
    run.losses = [1.0]
    verdict = compare(near, run, "tensors", None, None)
    assert verdict.holds
    assert "1 loss is equal within 2 ulp and 0 tensors are equal" in verdict.text
    assert not compare(near, run, "layers", None, None).holds
    assert not compare(Outcome([1.0 + 3 * 2**-23], {}), run, "tensors", None, None).holds


def test_float64_is_relative():
    upper, lower = Outcome([100.0], {}), Outcome([100.0 + 1e-11], {})
    assert compare_in_float64(upper, lower).holds
    assert not compare_in_float64(upper, Outcome([100.0 + 1e-9], {})).holds


def test_every_fact_of_the_fingerprint_is_compared(folder):
    recorded = read_record(folder)["fingerprint"]
    assert differing(recorded, recorded) == ""
    for name in recorded:
        assert differing({**recorded, name: "other"}, recorded).startswith(f"{name} was other, is ")
    assert differing({"torch": torch.__version__}, recorded) == ""  # of an older version


def set_machine(cudnn, tf32, deterministic, precision):
    """Set what the bits depend on besides the processor."""
    torch.backends.cudnn.benchmark = torch.backends.cudnn.deterministic = cudnn
    torch.backends.cudnn.allow_tf32 = tf32
    torch.use_deterministic_algorithms(deterministic)
    torch.set_float32_matmul_precision(precision)


@pytest.fixture
def usual():
    """Those settings, as they are by default after the test."""
    yield (before := (False, True, False, "highest"))
    set_machine(*before)


@pytest.mark.parametrize("by_new_names", [False, True])
def test_a_script_sets_all_that_the_fingerprint_has(usual, by_new_names, tmp_path):
    set_machine(True, False, True, "high")
    if by_new_names:  # after which the old ones raise
        torch.backends.cuda.matmul.fp32_precision = "ieee"
        torch.backends.cudnn.rnn.fp32_precision = "tf32"
    run = tmp_path / "run"
    threads = torch.get_num_threads()
    config = RunConfig(model="logistic", epochs=1, batch_size=256, threads=threads, out=run)
    train(config, echo=None)
    script = eject_run(run, tmp_path / "train.py")
    set_machine(*usual)
    recorded = read_record(run)["fingerprint"]

    for name in ("cudnn_benchmark", "cudnn_deterministic", "deterministic_algorithms"):
        assert f"{name} was True, is False" in differing(recorded, fingerprint(torch.device("cpu")))
    losses, _ = run_here(script.path)
    assert differing(recorded, fingerprint(torch.device("cpu"))) == ""
    assert losses == [step.loss for step in open_run(run).steps]


def test_exit_codes(folder, plainfit, tmp_path):
    assert plainfit("eject", folder)[0] == 0
    before = (tmp_path / "train.py").read_text()
    for words, message in (
        ([], "error: --force must be set to overwrite train.py, which exists"),
        (["--level", "lop"], "did you mean 'loop'?"),
        (["-o", "no/train.py"], "the folder no must exist"),
        (["-o", "."], ". must be a file, and is a folder; add a name to it"),
        (["--steps", "3"], "--steps needs --verify"),
    ):
        code, _, err = plainfit("eject", folder, *words)
        assert (code, err.count("\n")) == (2, 1)
        assert message in err
    assert (tmp_path / "train.py").read_text() == before


BROKEN = """import os

from torch import nn


class Net(nn.Module):
    def __init__(self, inputs, classes):
        super().__init__()
        self.a = nn.Linear(inputs, classes)

    def forward(self, x):
        return self.a(x.flatten(1)) * float(os.environ["SCALE"])
"""


@pytest.mark.parametrize("alone", [False, pytest.param(True, marks=pytest.mark.soak)])
@pytest.mark.parametrize(
    ("scale", "reason"),
    [
        (None, "must run by itself, and failed: "),
        ("2.0", "a script must give what its training gave: the loss of step 0"),
    ],
)
def test_a_script_that_does_not_run_is_removed(scale, reason, alone, tmp_path, monkeypatch):
    if alone:
        monkeypatch.setattr("plainfit.eject.run.run_alone", run_alone)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "broken", raising=False)
    monkeypatch.setenv("SCALE", "1.0")
    (tmp_path / "broken.py").write_text(BROKEN)
    arguments = {"model": "broken:Net", "model_args": "inputs=64,classes=10", "batch_size": 256}
    train(RunConfig(**arguments, epochs=1, out=tmp_path / "run"), echo=None)
    (tmp_path / "scripts").mkdir()
    monkeypatch.setenv("SCALE", scale) if scale else monkeypatch.delenv("SCALE")

    for eject in (
        lambda: eject_run(tmp_path / "run", tmp_path / "scripts" / "train.py"),
        lambda: eject_all(tmp_path / "run", tmp_path / "scripts"),
    ):
        with pytest.raises(EjectError, match=reason) as caught:
            eject()
        assert "\n" not in str(caught.value)
        assert [*(tmp_path / "scripts").iterdir()] == []


class Doubled(nn.Linear):
    """A model whose script fails in its validation alone."""

    def forward(self, x):
        return super().forward(x) if self.training else os.environ["SCALE"]


def test_a_look_has_a_validation(tmp_path, monkeypatch):
    monkeypatch.setenv("SCALE", "1.0")
    x, y = torch.randn(24, 4), torch.randn(24, 2)
    loaders = pf.get_data(TensorDataset(x, y), TensorDataset(x, y), 8)
    model = Doubled(4, 2)

    def loss(out, y):
        return y.mean() if isinstance(out, str) else F.mse_loss(out, y)

    history = pf.fit(1, model, loss, optim.SGD(model.parameters(), 0.1), *loaders, echo=None)
    monkeypatch.delenv("SCALE")
    with pytest.raises(EjectError, match=r"must run by itself, and failed: .*SCALE"):
        history.run.eject(tmp_path / "train.py", echo=None)
    assert [*tmp_path.iterdir()] == []
