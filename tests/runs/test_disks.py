"""Disks that are full, or take only small files: one line, a warning where training goes on."""

import subprocess
import warnings

import pytest

import plainfit as pf
from killing import files_up_to, small_disk
from plainfit.common.errors import PlainfitError, RunError, TrainingError
from plainfit.runs.folder import read_record
from plainfit.runs.settings import RunConfig
from plainfit.runs.train import resume, train


def train_or_fail(folder):
    """Train; return the warnings and the error, which is a line for the user."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            train(RunConfig(model="logistic", epochs=2, out=folder), echo=None)
            error = None
        except (RunError, TrainingError) as raised:
            error = raised
    assert "\n" not in str(error)
    return [str(w.message) for w in caught], error


def check_resumed(folder, trained_run):
    """A run that did not finish does so when there is room, with the weights of any other."""
    if not (folder / "run.json").exists():
        train(RunConfig(model="logistic", epochs=2, out=folder), echo=None)
    elif read_record(folder)["state"] != "finished":
        resume(folder, echo=None)
    assert read_record(folder)["state"] == "finished"
    for name in ("model.safetensors", "steps.csv"):
        assert (folder / name).read_bytes() == (trained_run / name).read_bytes()
    assert {path.name for path in folder.iterdir()} <= {path.name for path in trained_run.iterdir()}


@pytest.mark.parametrize("size", [0, 200, "the first record", "a larger record", 9000])
def test_a_run_whose_files_cannot_grow(tmp_path, trained_run, size):
    """Nothing; the lock; logs and weights; the record too; everything but the checkpoints."""
    folder, record = tmp_path / "run", (trained_run / "run.json").stat().st_size
    size = {"the first record": record - 300, "a larger record": record - 20}.get(size, size)
    with files_up_to(size):
        messages, error = train_or_fail(folder)
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    assert all(found <= size for found in sizes)
    assert (error is None) == (size == 9000)
    if size == 9000:
        assert read_record(folder)["state"] == "finished"
    if size > 200:
        assert any("no checkpoint could be written" in text for text in messages)
    check_resumed(folder, trained_run)


@pytest.mark.parametrize(
    "size",
    [
        *(pytest.param(pages * 4096, id=f"{pages}-pages") for pages in (4, 9)),
        *(pytest.param(n * 4096, marks=pytest.mark.soak, id=f"all-{n}") for n in range(1, 24)),
    ],
)
def test_a_run_on_a_small_disk(tmp_path, trained_run, size):
    """From nothing to three checkpoints; needs root, to mount it."""
    disk = tmp_path / "disk"
    with small_disk(disk, size):
        train_or_fail(disk / "run")
        subprocess.run(["mount", "-o", "remount,size=1m", str(disk)], check=True)
        check_resumed(disk / "run", trained_run)


def test_best_weights_and_logs_that_cannot_be_written(tmp_path):
    data = pf.open_data("digits")
    train_dl, valid_dl = pf.get_data(data.train, data.valid, bs=512)
    model, opt = pf.get_model("logistic", input_shape=(1, 8, 8), device="cpu")
    observers = [pf.BestWeights(tmp_path / "best.safetensors"), pf.StepLog(tmp_path / "steps.csv")]
    with files_up_to(20), pytest.warns(RuntimeWarning) as caught:
        history = pf.fit(2, model, pf_loss, opt, train_dl, valid_dl, callbacks=observers, echo=None)
    texts = {str(warning.message).partition(" (")[0] for warning in caught}
    assert len(history) == 2
    assert texts == {
        f"the best weights could not be written to {tmp_path / 'best.safetensors'}",
        f"{tmp_path / 'steps.csv'} could not be written",
    }
    assert not (tmp_path / "best.safetensors").exists()


def pf_loss(out, yb):
    return out.logsumexp(1).mean() - out.gather(1, yb[:, None]).mean()


@pytest.mark.parametrize(
    "arguments",
    [
        "report {run}",
        "compare {run}",
        "export {run}",
        "eject {run}",
        "augment digits --augment light",
        "ladder copy 3 copies",
        "train --model logistic --out new",
    ],
)
def test_each_command_says_it_in_one_line(copied, plainfit, arguments, tmp_path):
    before = {path: path.read_bytes() for path in copied.rglob("*") if path.is_file()}
    with files_up_to(100):
        code, _, error = plainfit(*arguments.format(run=copied).split())
    assert (code, error.count("error: "), error.count("\n")) == (2, 1, 1)
    assert "must be writable" in error
    assert "File too large" in error
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert files == before


def test_an_estimator_says_it_in_one_line(tmp_path):
    estimator = pf.PlainfitClassifier(epochs=1).fit([[0.0], [1.0]] * 8, [0, 1] * 8)
    with files_up_to(100), pytest.raises(PlainfitError, match="must be writable"):
        estimator.save(tmp_path / "it.safetensors")
    assert list(tmp_path.iterdir()) == []
