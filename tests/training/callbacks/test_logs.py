"""The logs: exact figures, and a file that is whole again after writes that failed."""

import csv
import io
import json
import re
import resource
import sys

import pytest
import torch
import torch.nn.functional as F
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from rich.console import Console
from torch import optim
from traitlets.config import Config

import plainfit as pf
from plainfit.training.callbacks import JsonLinesLog, ProgressBar, StepLog
from plainfit.training.hooks import Callback
from plainfit.training.schedules import OneCycle
from small import batches, fit, network, sgd

SIZES = (6, 6, 6, 2)


def train(*callbacks, epochs=4, **options):
    model = network()
    dl = batches(*SIZES)
    return fit(
        model, sgd(model), dl, dl, epochs=epochs, callbacks=callbacks, metrics=[pf.accuracy],
        schedule=OneCycle(16), **options,
    )  # fmt: skip


def rows_of(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def steps_of(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def assert_whole(folder, history):
    assert rows_of(folder / "epochs.jsonl") == history.epochs
    heading, *rows = steps_of(folder / "steps.csv")
    assert heading == ["step", "epoch", "loss", "lr"]
    assert [int(row[0]) for row in rows] == list(range(len(history.step_losses)))
    assert [int(row[1]) for row in rows] == [step // 4 for step in range(len(rows))]
    assert [float(row[2]) for row in rows] == history.step_losses
    assert [float(row[3]) for row in rows] == [0.1 * OneCycle(16)(i) for i in range(len(rows))]
    assert sorted(path.name for path in folder.iterdir()) == ["epochs.jsonl", "steps.csv"]


def logs(folder):
    return JsonLinesLog(folder / "epochs.jsonl"), StepLog(folder / "steps.csv")


class At(Callback):
    """Does something at the end of an epoch, before or after the logs."""

    def __init__(self, epoch, do):
        self.epoch, self.do = epoch, do

    def on_epoch_end(self, context):
        if context.epoch == self.epoch:
            self.do(context)


def test_of_several_rates_the_highest_is_logged(tmp_path):
    model = network()
    groups = [{"params": model[0].parameters(), "lr": 0.001}, {"params": model[2].parameters()}]
    log = StepLog(tmp_path / "steps.csv")
    fit(model, optim.SGD(groups, lr=0.1), batches(6, 6), epochs=1, callbacks=[log])
    assert [row[3] for row in steps_of(tmp_path / "steps.csv")[1:]] == ["0.1", "0.1"]


def test_figures_are_written_exactly_and_after_each_epoch(tmp_path):
    counts = []

    class Count(Callback):
        def on_epoch_end(self, context):
            counts.append(
                (len(rows_of(tmp_path / "epochs.jsonl")), len(steps_of(tmp_path / "steps.csv")))
            )

    history = train(*logs(tmp_path), Count())
    assert_whole(tmp_path, history)
    assert counts == [(1, 5), (2, 9), (3, 13), (4, 17)]


def test_files_of_another_training_are_replaced_before_the_first_step(tmp_path):
    for name in ("epochs.jsonl", "steps.csv"):
        (tmp_path / name).write_text("old\n")
    there = []

    class Look(Callback):
        def on_epoch_start(self, context):
            there.append([path.read_text() for path in sorted(tmp_path.iterdir())])

    history = train(*logs(tmp_path), Look())
    assert there[0] == ["", "step,epoch,loss,lr\n"]
    assert_whole(tmp_path, history)


def test_the_steps_of_an_epoch_that_is_left_are_written(tmp_path):
    class Stop(Callback):
        def on_step_end(self, context):
            if context.global_step == 6:
                context.stop = "enough"

    history = train(*logs(tmp_path), Stop())
    assert (len(history), len(history.step_losses)) == (1, 6)
    assert_whole(tmp_path, history)


def test_a_step_log_resumed_from_its_state_has_every_step(tmp_path):
    class Stop(Callback):
        def on_step_end(self, context):
            if context.global_step == 6:
                context.stop = "enough"

    folder = tmp_path / "logs"
    folder.mkdir()
    train(*logs(folder), Stop(), checkpoint=tmp_path / "checkpoints")
    history = train(*logs(folder), checkpoint=tmp_path / "checkpoints", resume=True)
    assert len(history.step_losses) == 16
    assert_whole(folder, history)


@pytest.mark.parametrize("fails", [{0}, {1}, {1, 2}, {3}, {0, 1, 2, 3}])
def test_a_full_disk_is_a_warning_and_the_file_is_whole_afterwards(tmp_path, fails):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    class Disk(Callback):  # too small for what is to be written: a part of it is
        def __init__(self, limit):
            self.limit = limit

        def on_epoch_end(self, context):
            if context.epoch in fails:
                resource.setrlimit(resource.RLIMIT_FSIZE, (self.limit, hard))

        def on_exception(self, context):
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    full, empty = Disk(60), Disk(soft)
    with pytest.warns(RuntimeWarning) as caught:
        history = train(full, *logs(tmp_path), empty)
    assert [str(warning.message).split("/")[-1] for warning in caught] == [
        f"{name} could not be written (File too large); training goes on, and the log is written "
        "again later"
        for _ in fails
        for name in ("epochs.jsonl", "steps.csv")
    ]
    assert len(history) == 4
    assert_whole(tmp_path, history)


def test_a_line_of_which_a_part_was_written_is_mended(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    path, torn = tmp_path / "steps.csv", []

    class Fill(Callback):
        def on_epoch_end(self, context):
            if context.epoch == 1:
                limit = path.stat().st_size + 30
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))

    class Free(Callback):
        def on_epoch_end(self, context):
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            torn.append(not path.read_text().endswith("\n"))

    with pytest.warns(RuntimeWarning, match="File too large"):
        history = train(Fill(), StepLog(path), Free())
    assert torn == [False, True, False, False]
    rows = [(float(loss), float(lr)) for _, _, loss, lr in steps_of(path)[1:]]
    rates = [0.1 * OneCycle(16)(step) for step in range(16)]
    assert rows == list(zip(history.step_losses, rates, strict=True))


def test_a_folder_that_is_not_there_is_a_warning_too(tmp_path):
    folder = tmp_path / "later"
    make = At(1, lambda context: folder.mkdir())
    with pytest.warns(RuntimeWarning, match=r"could not be written \(No such file or directory\)"):
        history = train(make, *logs(folder))
    assert_whole(folder, history)


def test_a_figure_that_is_not_finite_comes_back(tmp_path):
    class Add(Callback):
        def on_validate_end(self, context):
            context.result |= {"a": float("inf"), "b": float("nan")}

    train(Add(), *logs(tmp_path), epochs=1)
    (row,) = rows_of(tmp_path / "epochs.jsonl")
    assert row["a"] == float("inf")
    assert row["b"] != row["b"]


# the bar


def test_the_bar_shows_epoch_and_steps():
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    progress = ProgressBar(console)
    seen = []

    class Slow(Callback):
        def on_step_end(self, context):
            progress.drawn = 0.0  # as if the last drawing were long ago

        def on_epoch_end(self, context):
            task = progress.bar.tasks[0]
            seen.append((task.description, task.completed, task.total))

    train(Slow(), progress, epochs=2)
    assert seen == [("epoch 1 of 2", 4, 4), ("epoch 2 of 2", 4, 4)]
    text = console.file.getvalue()
    assert "epoch 1 of 2" in text
    assert "3/4" in text


def test_a_training_that_ends_at_once_draws_nothing(monkeypatch):
    monkeypatch.setattr("plainfit.training.callbacks.observers.REFRESH", 3600)
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    progress = ProgressBar(console)
    train(progress, epochs=3)
    assert console.file.getvalue() == ""


def test_a_resumed_epoch_begins_where_it_was_left(tmp_path, monkeypatch):
    class Stop(Callback):
        def on_step_end(self, context):
            if context.global_step == 6:
                context.stop = "enough"

    train(Stop(), checkpoint=tmp_path)
    monkeypatch.setattr("plainfit.training.callbacks.observers.REFRESH", -1)
    monkeypatch.setenv("TERM", "xterm")
    progress = ProgressBar(Console(file=io.StringIO(), force_terminal=True))
    train(progress, checkpoint=tmp_path, resume=True)
    found = re.findall(r"epoch (\d) of 4 .*?(\d)/4", progress.bar.console.file.getvalue())
    assert list(dict.fromkeys(found))[:3] == [
        ("2", "3"),
        ("2", "4"),
        ("3", "1"),
    ]


def test_without_a_length_or_a_terminal_the_bar_does_no_harm():
    console = Console(file=io.StringIO())
    progress, model = ProgressBar(console), network()
    fit(model, sgd(model), lambda: iter(batches(5, 5)), callbacks=[progress])
    assert console.file.getvalue() == ""
    assert progress.bar.tasks[0].total is None


class Terminal(io.StringIO):
    def isatty(self):
        return True


def printed(monkeypatch, stream, dl, **options):
    """What `fit` writes to the standard error, with a drawing at each step; and its losses."""
    monkeypatch.setattr("plainfit.training.callbacks.observers.REFRESH", -1)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stderr", stream)
    model = network()
    history = pf.fit(2, model, F.cross_entropy, sgd(model), dl, None, **options)
    return stream.getvalue(), history.step_losses


def test_a_terminal_shows_the_progress_by_default(monkeypatch, capsys):
    dl = batches(*SIZES)
    shown, losses = printed(monkeypatch, Terminal(), dl)
    assert "epoch 2 of 2" in shown
    assert "4/4" in shown
    assert "samples/s" in shown
    assert len(capsys.readouterr().out.splitlines()) == 3  # the table, as without
    assert printed(monkeypatch, io.StringIO(), dl) == ("", losses)
    assert printed(monkeypatch, Terminal(), dl, echo=None) == ("", losses)
    own = Console(file=io.StringIO())
    assert printed(monkeypatch, Terminal(), dl, callbacks=[ProgressBar(own)]) == ("", losses)
    stream, same_losses = printed(monkeypatch, Terminal(), lambda: iter(dl))
    assert "3/?" in stream
    assert same_losses == losses


def test_the_bar_ends_with_a_training_that_fails(monkeypatch):
    dl = [*batches(5, 5), (torch.zeros(2), torch.zeros(2))]
    out = sys.stdout
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        printed(monkeypatch, Terminal(), dl)
    assert sys.stdout is out


def test_a_notebook_shows_the_place_and_the_curves(monkeypatch):
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])
    monkeypatch.setitem(sys.modules, "ipykernel", sys)  # which only a notebook has imported
    monkeypatch.setattr(sys, "ps1", "", raising=False)  # which the shell sets
    config = Config({"HistoryManager": {"enabled": False}})
    InteractiveShell.instance(config=config)
    try:
        with capture_output() as captured:
            _, losses = printed(monkeypatch, io.StringIO(), batches(*SIZES))
    finally:
        InteractiveShell.clear_instance()
    texts = [output.data["text/plain"] for output in captured.outputs]
    assert any(text.startswith("epoch 2 of 2: step 4 of 4, ") for text in texts)
    assert captured.outputs[-1].data["image/png"].startswith(b"\x89PNG")
    model = network()
    assert losses == fit(model, sgd(model), batches(*SIZES)).step_losses
