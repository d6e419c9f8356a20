"""The validation of a training by programs: its figures are those of batch after batch.

The programs run here without a compiler, as in `test_programs.py`.
"""

import os
import signal
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from test_programs import WEIGHTS, interpreted, loss_and_value, made, same, sgd, train
from torch import nn
from torch.utils.data import Subset, TensorDataset

import plainfit as pf
from plainfit.data.loaders import TensorLoader
from plainfit.training.callbacks import Averaging, EarlyStopping
from plainfit.training.hooks import Callback

assert interpreted  # a fixture that each test uses

SAMPLES, BATCH = 70, 4  # 17 full batches, and one of 2


@pytest.fixture(autouse=True)
def few_batches_are_enough(monkeypatch):
    monkeypatch.setattr("plainfit.training.program_validation.FEWEST", 16)


class Flat(nn.Module):
    """A model whose step is traced in no time."""

    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(64, 10, dtype=torch.float64)

    def forward(self, xb):
        return self.lin(xb.flatten(1))


def arrays():
    generator = torch.Generator().manual_seed(5)
    x = torch.rand(SAMPLES, 1, 8, 8, dtype=torch.float64, generator=generator)
    return x, torch.randint(10, (SAMPLES,), generator=generator)


def valid(**options):
    return TensorLoader(TensorDataset(*arrays()), BATCH, **options)


def ignoring():
    x, y = arrays()
    y[::3] = -100
    y[:BATCH] = -100  # a batch without labels
    return TensorLoader(TensorDataset(x, y), BATCH)


def of_bytes():
    x = torch.randint(256, (SAMPLES, 1, 8, 8), generator=torch.Generator().manual_seed(3)).byte()
    return TensorLoader(pf.ImageDataset(x, arrays()[1]), BATCH)


def part():
    x, y = arrays()
    return TensorLoader(
        Subset(TensorDataset(x.repeat(2, 1, 1, 1), y.repeat(2)), range(9, 75)), BATCH
    )


CASES = {
    "perplexity": {"metrics": ["perplexity", pf.accuracy]},
    "a module": {"valid_dl": ignoring, "loss_func": nn.CrossEntropyLoss(WEIGHTS)},
    "averaging later": {"callbacks": lambda: [Averaging(0.9, start=1)], "metrics": ["accuracy"]},
}
OTHERS = {
    "a CNN": {"model": made, "metrics": ["perplexity", pf.accuracy]},
    "a sum": {
        "valid_dl": partial(valid, shuffle=True),
        "loss_func": partial(F.cross_entropy, reduction="sum"),
    },
    "no metrics": {"valid_dl": partial(valid, drop_last=True)},
    "a part": {"valid_dl": part, "metrics": ["accuracy"]},
    "weights": {"valid_dl": ignoring, "loss_func": partial(F.cross_entropy, weight=WEIGHTS)},
    "a loss of its own": {"loss_func": lambda out, yb: F.cross_entropy(out, yb) * out.std()},
    "batch_size": {"batch_size": lambda xb, yb: yb.numel() * 2, "metrics": ["accuracy"]},
    "averaging a CNN": {"model": made, "callbacks": lambda: [Averaging(0.9, start=1)]},
}


def trained(compile, *, model=Flat, valid_dl=valid, callbacks=list, **options):
    """Return the history, the notes, the model and the loader of a training that validates."""
    torch.manual_seed(0)
    model, valid_dl = model(), valid_dl()
    options = {"epochs": 2, "callbacks": callbacks(), **options}
    history, notes = train(model, sgd(model), compile, valid_dl=valid_dl, **options)
    return history, notes, model, valid_dl


def figures(history):
    return [
        {k: v for k, v in row.items() if k not in ("seconds", "samples_per_second")}
        for row in history.epochs
    ]


@pytest.mark.parametrize(
    "options",
    [*CASES.values(), *(pytest.param(each, marks=pytest.mark.soak) for each in OTHERS.values())],
    ids=[*CASES, *OTHERS],
)
def test_a_program_has_the_figures_of_eager_batches(options):
    eager, _, theirs, their_dl = trained(False, **options)
    history, notes, model, valid_dl = trained("epoch", **options)
    assert notes[1].startswith("note   the validation is one program")
    assert history.run.valid_program
    assert not eager.run.valid_program
    for ours, row in zip(figures(history), figures(eager), strict=True):
        assert ours == pytest.approx(row, rel=1e-12)
    assert history.run.counts_samples == eager.run.counts_samples
    assert (valid_dl.epoch, valid_dl.first) == (their_dl.epoch, their_dl.first)
    assert [part.training for part in model.modules()] == [p.training for p in theirs.modules()]


@pytest.mark.parametrize("precision", ["bf16", pytest.param("fp32", marks=pytest.mark.soak)])
def test_lower_precision_and_bytes(precision):
    def train_dl():
        x, y = arrays()
        return pf.get_data(TensorDataset(x.float(), y), None, 16)[0]

    found = []
    for compile in (False, "epoch"):
        history, *_ = trained(
            compile, model=lambda: Flat().float(), valid_dl=of_bytes, dl=train_dl(),
            precision=precision, metrics=["accuracy"], epochs=1,
        )  # fmt: skip
        found.append(figures(history)[-1]["valid_loss"])
    assert history.run.valid_program
    assert found[1] == pytest.approx(found[0], rel=1e-5 if precision == "fp32" else 1e-2)


class Counts(Flat):
    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, xb):
        self.calls += not self.training
        return super().forward(xb)


class Branches(Flat):
    def forward(self, xb):
        out = super().forward(xb)
        return out if self.training or out.sum() > 0 else -out


class Hook(Callback):
    def on_epoch_start(self, context):
        context.model.lin.register_forward_hook(lambda *_: None)


def error_rate(out, yb):
    return 1 - pf.accuracy(out, yb)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"model": Branches}, "depends on the value of a tensor"),
        ({"metrics": ["accuracy", error_rate]}, ""),
        ({"valid_dl": lambda: TensorLoader(TensorDataset(*arrays()), 5)}, ""),
        *(
            pytest.param(*case, marks=pytest.mark.soak)
            for case in [
                ({"model": Counts}, "it changes tensors of the model"),
                ({"loss_func": loss_and_value}, "the loss has values beside it"),
                ({"valid_dl": lambda: list(valid())}, ""),
                ({"callbacks": lambda: [Hook()]}, ""),
            ]
        ),
    ],
)
def test_what_is_no_program_is_evaluated_batch_by_batch(options, reason):
    eager, *_ = trained(False, **options)
    history, notes, *_ = trained("epoch", **options)
    assert not history.run.valid_program
    assert [note for note in notes if reason in note] if reason else "valid" not in str(notes)
    assert history.run.compile == "epoch"
    for ours, row in zip(figures(history), figures(eager), strict=True):
        assert ours == pytest.approx(row, rel=1e-12)


def test_a_program_ends_where_the_model_changes():
    class Scale(Callback):
        def on_validate_end(self, context):
            context.model.scale = 2.0 * (context.epoch == 0)

    class Scaled(Flat):
        scale = 0.0

        def forward(self, xb):
            return super().forward(xb) + (0.0 if self.training else self.scale)

    rows = []
    for compile in (False, "epoch"):
        history, notes, *_ = trained(
            compile, model=Scaled, callbacks=lambda: [Scale()],
            loss_func=lambda out, yb: F.mse_loss(out[:, 0], yb.double()),
        )  # fmt: skip
        rows.append(history[-1]["valid_loss"])
    assert rows[1] == pytest.approx(rows[0], rel=1e-12)
    assert "validation cannot be one program: what a step computes changes" in notes[-1]
    assert "a program for a part of its validations" in history.run.unlike_a_script


def test_a_stop_within_it_and_the_same_bits_after_a_resume(tmp_path, monkeypatch):
    whole, _, theirs, _ = trained("epoch", metrics=["accuracy"])
    ranges = []

    def compiled(steps, *_):
        def call(*arguments):
            if not any(steps.changed):  # a validation
                ranges.append(arguments[-1] - arguments[-2])
                if len(ranges) == 3:
                    os.kill(os.getpid(), signal.SIGINT)
            return steps(*arguments)

        return call, "here"

    with monkeypatch.context() as patch:
        patch.setattr("plainfit.training.ranges.compiled", compiled)
        patch.setattr("plainfit.training.program_validation.SECONDS", 1e-9)
        with pytest.raises(KeyboardInterrupt):
            trained("epoch", metrics=["accuracy"], checkpoint=tmp_path)
    assert ranges == [8, 1, 1]
    options = {"metrics": ["accuracy"], "checkpoint": tmp_path, "resume": True}
    history, _, model, _ = trained("epoch", **options)
    assert figures(history) == figures(whole)
    assert same(model, theirs)


@pytest.mark.soak
def test_several_loaders_and_the_best_weights():
    def both():
        return {"own": valid(), "other": ignoring()}

    options = {"valid_dl": both, "metrics": ["accuracy"]}
    options["callbacks"] = lambda: [EarlyStopping(restore_best=True)]
    eager, *_ = trained(False, **options)
    history, notes, *_ = trained("epoch", **options)
    assert sum("the validation is one program" in note for note in notes) == 2
    assert figures(history)[-1] == pytest.approx(figures(eager)[-1], rel=1e-12)
    assert "other_accuracy" in history[-1]
