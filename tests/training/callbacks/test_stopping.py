"""When a training stops by itself, and the check on one batch."""

import itertools
import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn, optim

from plainfit.common.errors import ConfigError
from plainfit.training.callbacks import (
    EarlyStopping,
    GradientAccumulation,
    OverfitOneBatch,
    TimeLimit,
)
from plainfit.training.callbacks.stopping import BestInMemory
from plainfit.training.hooks import Callback, Context
from small import batches, fit, network, plain, same, sgd


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
    says = f"no better validation loss for {patience} epochs"
    assert history.stopped == (says if is_early else "")
    assert not history.unfinished


@pytest.mark.parametrize(
    ("name", "lower", "epochs"),
    [
        ("accuracy", None, 4),
        ("MeanSquaredError", None, 2),
        ("perplexity", None, 2),
        ("nll", None, 4),  # we cannot know
        ("nll", True, 2),
        ("accuracy", True, 2),
    ],
)
def test_which_direction_is_better(name, lower, epochs):
    history = epochs_of([1, 2, 3, 4], 1, name, monitor=name, lower_is_better=lower)
    assert len(history) == epochs
    assert history.stopped == (f"no better {name} for 1 epochs" if epochs == 2 else "")


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
        epochs_of([1], 1, "accuracy", monitor="acuracy")
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


@pytest.mark.parametrize(
    ("losses", "kept"), [([math.nan, math.inf], 1), ([math.nan, 0.5], 1), ([0.5, math.nan], 0)]
)
def test_the_best_weights_are_the_last_if_no_epoch_is_finite(losses, kept):
    model, best, ends = network(), BestInMemory(), []

    class Ends(Callback):
        def on_epoch_end(self, context):
            ends.append({k: v.clone() for k, v in context.model.state_dict().items()})

    dl = batches(10, 10)
    fit(model, sgd(model), dl, dl, callbacks=[Figures("loss", losses), best, Ends()])
    assert ends[0].keys() == best.weights.keys()
    assert all(torch.equal(value, ends[kept][name]) for name, value in best.weights.items())


def test_the_best_weights_of_a_training_that_stops_in_its_first_epoch_are_the_last():
    model, best = network(), BestInMemory()
    fit(model, sgd(model), batches(10, 10), callbacks=[TimeLimit(1e-9), best])
    assert all(torch.equal(best.weights[name], v) for name, v in model.state_dict().items())
