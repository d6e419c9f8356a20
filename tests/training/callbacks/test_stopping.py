"""When a training stops by itself, and the check on one batch."""

import itertools
import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_model
from torch import nn, optim

import plainfit as pf
from plainfit.common.errors import CheckpointError, ConfigError, plural
from plainfit.training.callbacks import (
    Averaging,
    BestWeights,
    Checkpointing,
    EarlyStopping,
    GradientAccumulation,
    OverfitOneBatch,
    TimeLimit,
)
from plainfit.training.hooks import Callback, Context
from small import batches, fit, network, plain, same, sgd
from trainings import StopAt


class Figures(Callback):
    """Puts figures of our own choice into the history, epoch by epoch."""

    def __init__(self, name, values):
        self.name, self.values = name, values

    def on_validate_end(self, context):
        context.result[self.name] = self.values[context.epoch]


def epochs_of(values, patience, name="loss", **options):
    model = network()
    callbacks = [Figures(name, values), EarlyStopping(patience, **options)]
    dl = batches(5, 5)
    return fit(model, sgd(model), dl, dl, epochs=len(values), callbacks=callbacks)


@pytest.mark.parametrize(
    ("values", "patience", "epochs"),
    [
        ([3, 2, 1, 0], 1, 4),  # always better
        ([3, 2, 2, 2, 1], 2, 4),  # equal is not better
        ([3, 2, 4, 1, 2, 2, 0], 2, 6),  # one worse epoch is waited for
        ([3, 4, 2.9, 5, 1], 1, 2),
        ([math.nan, math.nan, 1], 2, 2),  # NaN is never the best
        ([math.nan, 3, math.nan, 2, 9, 9], 2, 6),
        ([math.inf, 2, 1], 2, 3),  # nor is infinity
    ],
)
def test_it_waits_so_many_epochs_after_the_best(values, patience, epochs):
    history = epochs_of(values, patience)
    assert len(history) == epochs
    is_early = epochs < len(values) or values[-1] in (9,)
    says = f"no better validation loss for {plural(patience, 'epoch')}"
    assert history.stopped == (says if is_early else "")
    assert not history.unfinished


@pytest.mark.parametrize(
    ("name", "mode", "epochs"),
    [
        ("accuracy", None, 4),
        ("MeanSquaredError", None, 2),
        ("perplexity", None, 2),
        ("nll", None, 2),
        ("quality", "max", 4),
        ("quality", "min", 2),
        ("accuracy", "min", 2),
    ],
)
def test_which_direction_is_better(name, mode, epochs):
    history = epochs_of([1, 2, 3, 4], 1, name, monitor=name, mode=mode)
    assert len(history) == epochs
    assert history.stopped == (f"no better {name} for 1 epoch" if epochs == 2 else "")


@pytest.mark.parametrize("callback", [EarlyStopping, BestWeights, Checkpointing])
@pytest.mark.parametrize(
    ("metric", "best"),
    [
        ("wer", [0.2, 0.5, 0.4]),
        ("brier", [0.2, 0.5, 0.4]),
        ("token_f1", [0.5, 0.2, 0.4]),
        ("quality", [0.5, 0.2, 0.4]),  # says so itself
        ("regret_of_mine", [0.2, 0.5, 0.4]),  # likewise
    ],
)
def test_one_place_decides_for_all_that_monitor(callback, metric, best, tmp_path):
    values = iter(best)

    def scored(out, yb):
        return next(values)

    scored.__name__ = metric
    if metric in ("quality", "regret_of_mine"):
        scored.higher_is_better = metric == "quality"
    where = {EarlyStopping: 9, BestWeights: tmp_path / "best.safetensors"}
    made = callback(where.get(callback, tmp_path / "c"), monitor=metric)
    model, dl = network(), batches(5)
    is_keeper = callback is Checkpointing
    history = fit(
        model, sgd(model), dl, dl, epochs=3, metrics=[scored],
        callbacks=[] if is_keeper else [made], checkpoint=made if is_keeper else None,
    )  # fmt: skip
    assert made.best.epoch == 0
    assert history.best(metric) == history[0]


def test_best_weights_by_another_monitor_are_refused_until_they_are_removed(tmp_path):
    path, dl = tmp_path / "best.safetensors", batches(5)
    scores = [[0.9, 0.1, 0.2, 0.3, 0.4], [0.9, 0.5, 0.6, 0.7, 0.95]]  # of two metrics, by epoch

    def train(epochs, monitor):
        model = network()
        figures = [Figures(name, values) for name, values in zip("ab", scores, strict=True)]
        fit(
            model, sgd(model), dl, dl, epochs=epochs, checkpoint=tmp_path / "c", resume=True,
            callbacks=[*figures, BestWeights(path, monitor, {"a": "min", "b": "max"}[monitor])],
        )  # fmt: skip
        return model

    train(2, "a")
    with pytest.raises(CheckpointError, match="weights of epoch 0, the best so far, and has those"):
        train(3, "b")
    train(3, "a")
    path.unlink()
    train(4, "b")
    assert not path.exists()  # epoch 0 is still the best
    model, written = train(5, "b"), network()
    load_model(written, path)
    assert same(written, model)


@pytest.mark.parametrize("callback", [EarlyStopping, BestWeights, Checkpointing])
def test_an_unknown_name_without_a_mode_is_an_error_before_the_first_step(callback, tmp_path):
    def quality(out, yb):
        return 1.0

    made = callback(9 if callback is EarlyStopping else tmp_path / "f", monitor="quality")
    model, dl = network(), batches(5)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    is_keeper = callback is Checkpointing
    says = "mode must say which values of 'quality' are better: pass mode='min' or mode='max'"
    with pytest.raises(ConfigError, match=says):
        fit(
            model, sgd(model), dl, dl, metrics=[quality], callbacks=[] if is_keeper else [made],
            checkpoint=made if is_keeper else None,
        )  # fmt: skip
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    for wrong in ("lowest", True):
        with pytest.raises(ConfigError, match=f"mode must be 'min' or 'max', got {wrong!r}"):
            fit(model, sgd(model), dl, dl, callbacks=[EarlyStopping(mode=wrong)])


def test_no_callback_makes_a_validation_loss():
    model = network()
    callbacks = [Ends(), EarlyStopping(monitor="valid_loss")]
    with pytest.raises(ConfigError, match="got 'valid_loss'") as caught:
        fit(model, sgd(model), batches(5), callbacks=callbacks)
    assert "after 0 of 1 steps" in caught.value.__notes__[0]


@pytest.mark.parametrize(
    ("monitor", "validates", "says"),
    [
        ("val_loss", True, "got 'val_loss'; did you mean 'valid_loss'"),
        ("valid_loss", False, r"a column of the history \(epoch, train_loss, seconds, "),
        ("acc", True, "got 'acc'"),
    ],
)
def test_a_column_that_cannot_be_is_an_error_before_the_first_step(monitor, validates, says):
    model, dl = network(), batches(5)
    with pytest.raises(ConfigError, match=says) as caught:
        fit(
            model, sgd(model), dl, dl if validates else None, metrics=[pf.accuracy],
            callbacks=[EarlyStopping(monitor=monitor)],
        )  # fmt: skip
    assert "after 0 of 1 steps" in caught.value.__notes__[0]


def test_without_validation_the_training_loss_counts():
    model = network()
    history = fit(
        model, sgd(model, maximize=True), batches(20), epochs=9, callbacks=[EarlyStopping(2)]
    )
    assert len(history) == 3
    assert history.stopped == "no better training loss for 2 epochs"


def test_messages():
    with pytest.raises(ConfigError, match="patience must be at least 1 epoch, got 0"):
        EarlyStopping(0)
    with pytest.raises(
        ConfigError,
        match=r"a column of the history \(epoch, train_loss, .*\), got 'acuracy'; did you mean "
        r"'accuracy'\?",
    ):
        epochs_of([1], 1, "accuracy", monitor="acuracy", mode="max")
    for seconds in (0, -1, math.nan):
        with pytest.raises(ConfigError, match=f"a positive number of seconds, got {seconds}"):
            TimeLimit(seconds)


def test_early_stopping_goes_on_from_the_history():
    early, rows = EarlyStopping(3), [3.0, 2.0, 4.0, 4.0]
    model = network()
    context = Context(model, sgd(model), batches(5), [early], 9, 1)
    context.history.epochs += [{"valid_loss": value} for value in rows]
    context.call("on_fit_start")
    assert (early.best.epoch, context.stop) == (1, "")
    context.history.epochs.append({"valid_loss": math.nan})
    context.call("on_epoch_end")
    assert context.stop == "no better validation loss for 3 epochs"


def test_after_it_has_stopped_one_training_it_waits_anew_in_the_next():
    early, dl = EarlyStopping(1), batches(5, 5)
    for _ in range(2):
        model = network()
        figures = Figures("loss", [3, 4, 5])
        assert len(fit(model, sgd(model), dl, dl, epochs=3, callbacks=[figures, early])) == 2


# the clock


def test_a_time_limit_stops_within_an_epoch_after_a_whole_step(monkeypatch):
    seconds = itertools.count(100)  # the limit is all that reads this clock: once per step
    clock = SimpleNamespace(perf_counter=lambda: next(seconds))
    monkeypatch.setattr("plainfit.training.callbacks.stopping.time", clock)
    model, by_hand = network(), network()
    endless = itertools.cycle(batches(5))
    history = fit(model, sgd(model), lambda: endless, callbacks=[TimeLimit(11)])
    assert (history.stopped, history.unfinished) == ("the time limit of 11 s", True)
    assert (len(history), len(history.step_losses)) == (0, 11)
    losses = plain(by_hand, sgd(by_hand), batches(5), epochs=11)
    assert history.step_losses == losses
    assert same(model, by_hand)


def test_a_time_limit_that_is_not_reached():
    model = network()
    assert fit(model, sgd(model), batches(5), callbacks=[TimeLimit(1000)]).stopped == ""


# one batch


def test_one_batch_is_trained_on_again_and_again():
    model, by_hand = network(), network()
    dl = batches(6, 5, 4)
    history = fit(model, sgd(model), dl, dl, callbacks=[OverfitOneBatch()], epochs=3)
    losses = plain(by_hand, sgd(by_hand), dl[:1], epochs=9)
    assert history.step_losses == losses
    assert same(model, by_hand)


def test_a_model_that_can_learn_learns_one_batch_by_heart():
    model = network()
    opt = optim.Adam(model.parameters(), lr=0.05)
    callbacks = [OverfitOneBatch(), GradientAccumulation(2)]
    dl = batches(8, 8, 4)
    history = fit(model, opt, dl, epochs=60, callbacks=callbacks)
    assert history[-1]["train_loss"] < 0.01
    losses = [F.cross_entropy(model(xb), yb) for xb, yb in dl]
    assert losses[0] < 0.01 < min(losses[1:])


def test_a_model_with_a_fault_does_not():
    class Cut(nn.Module):
        def __init__(self):
            super().__init__()
            self.lin = nn.Linear(4, 3).double()

        def forward(self, xb):
            return self.lin(xb.mean(0, keepdim=True)).expand(len(xb), 3)  # samples mixed up

    model = Cut()
    opt = optim.Adam(model.parameters(), lr=0.05)
    history = fit(model, opt, batches(8, 8, 4), epochs=60, callbacks=[OverfitOneBatch()])
    assert history[-1]["train_loss"] > 0.5


def test_the_batch_survives_a_checkpoint():
    from plainfit.training.checkpoints import from_bytes, to_bytes

    model, first = network(), OverfitOneBatch()
    fit(model, sgd(model), batches(5, 5), callbacks=[first])
    second = OverfitOneBatch()
    second.load_state_dict(from_bytes(to_bytes(first.state_dict())))
    for ours, theirs in zip(second.batch, batches(5, 5)[0], strict=True):
        assert torch.equal(ours, theirs)


# the best weights


class Ends(Callback):
    """Keeps the weights of the validated model at the end of each epoch."""

    observer = True

    def __init__(self):
        self.weights = []

    def on_epoch_end(self, context):
        state = context.valid_model.state_dict()
        self.weights.append({name: value.clone() for name, value in state.items()})


def restored(losses, *callbacks, patience=9, **options):
    model, ends = network(), Ends()
    figures, early = Figures("loss", losses), EarlyStopping(patience, restore_best=True)
    dl = batches(10, 10)
    history = fit(
        model, sgd(model), dl, dl, epochs=len(losses), **options,
        callbacks=[figures, early, ends, *callbacks],
    )  # fmt: skip
    kept = [
        epoch
        for epoch, weights in enumerate(ends.weights)
        if all(torch.equal(weights[name], value) for name, value in model.state_dict().items())
    ]
    return kept, history, model


@pytest.mark.parametrize(
    ("losses", "patience", "kept"),
    [
        ([3, 1, 2], 9, 1),  # never stopped
        ([3, 1, 2, 4, 0], 2, 1),  # stopped
        ([math.nan, math.inf], 9, 1),  # no epoch is finite: the last weights
        ([math.nan, 0.5], 9, 1),
        ([0.5, math.nan], 9, 0),
    ],
)
@pytest.mark.parametrize("averaging", [[], [Averaging(0.5)]])
def test_the_best_weights_are_restored(losses, patience, kept, averaging):
    found, _, model = restored(losses, *averaging, patience=patience)
    assert found == [kept]
    if not averaging:
        by_hand = network()
        plain(by_hand, sgd(by_hand), batches(10, 10), epochs=kept + 1)
        assert same(model, by_hand)


def test_a_training_that_stops_in_its_first_epoch_keeps_its_last_weights():
    model, by_hand = network(), network()
    early = EarlyStopping(restore_best=True)
    fit(model, sgd(model), batches(10, 10), callbacks=[TimeLimit(1e-9), early])
    plain(by_hand, sgd(by_hand), batches(10, 10)[:1], epochs=1)
    assert same(model, by_hand)


@pytest.mark.parametrize("step", [1, 2, 5, 6, 99])
def test_the_best_weights_outlive_a_resume(step, tmp_path):
    losses = [3, 1, 2, 4]
    _, _, whole = restored(losses)
    restored(losses, StopAt(step), checkpoint=tmp_path)
    _, history, resumed = restored(losses, checkpoint=tmp_path, resume=True)
    assert len(history) == 4
    assert same(resumed, whole)


def test_a_loss_with_parameters_goes_back_too():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones((), dtype=torch.float64))

        def forward(self, out, yb):
            return F.cross_entropy(self.scale * out, yb)

    def trained(epochs):
        model, loss = network(), Scaled()
        opt = optim.SGD([*model.parameters(), *loss.parameters()], lr=0.1)
        callbacks = [Figures("loss", [2, 1, 3]), EarlyStopping(restore_best=True)]
        fit(model, opt, dl, dl, epochs=epochs, loss_func=loss, callbacks=callbacks)
        return nn.ModuleList([model, loss])

    dl = batches(10, 10)
    assert same(trained(3), trained(2))


def test_restoring_what_the_checkpoint_lacks_is_refused(tmp_path):
    model, dl = network(), batches(10, 10)
    fit(model, sgd(model), dl, dl, checkpoint=tmp_path, callbacks=[EarlyStopping()])
    with pytest.raises(CheckpointError, match=r"restore_best needs the weights of epoch 1, "):
        fit(
            model, sgd(model), dl, dl, epochs=3, checkpoint=tmp_path, resume=True,
            callbacks=[EarlyStopping(restore_best=True)],
        )  # fmt: skip
    # Without it, a checkpoint is as it always was, and so are those of before.
    fit(model, sgd(model), dl, dl, checkpoint=tmp_path, resume=True)
