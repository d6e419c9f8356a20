"""Averaged weights: against torch.optim.swa_utils, used by hand."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn, optim
from torch.optim.swa_utils import AveragedModel, get_swa_multi_avg_fn

import plainfit as pf
from plainfit.common.errors import ConfigError
from plainfit.training.callbacks import Averaging, BestWeights, GradientAccumulation
from plainfit.training.hooks import Callback
from small import batches, fit, plain, same, sgd

SIZES, EPOCHS = (6, 6, 6, 2), 4
VALID = batches(9, 5)


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 3)
    ).double()


def mean_rule(averaged, current, count):
    """Torch's rule, which raises for the integers of batch norm: those are copied."""
    if averaged[0].is_floating_point():
        get_swa_multi_avg_fn()(averaged, current, count)
    else:
        torch._foreach_copy_(averaged, current)


def warmed_up(decay):
    """The rule of an exponential average with the decay that TensorFlow has after `count` steps."""

    def rule(averaged, current, count):
        own = min(decay, (1 + count.item()) / (10 + count.item()))
        for average, value in zip(averaged, current, strict=True):
            if average.is_floating_point():
                average.lerp_(value, 1 - own)
            else:
                average.copy_(average * own + value * (1 - own))

    return rule


def by_hand(rule, start, by_step):
    """Train as torch's documentation has it; return the model, the average, the losses of both."""
    model = network()
    average = AveragedModel(model, multi_avg_fn=rule, use_buffers=True)
    now, valid_losses = [0], []

    def update():
        if now[0] >= start:
            average.update_parameters(model)

    def validate(epoch):
        if not by_step:
            update()
        now[0] = epoch + 1
        shown = average.module if epoch >= start else model
        shown.eval()
        with torch.no_grad():
            sums = [F.cross_entropy(shown(xb), yb).item() * len(yb) for xb, yb in VALID]
        valid_losses.append(sum(sums) / 14)

    losses = plain(
        model, sgd(model), batches(*SIZES), epochs=EPOCHS, after_epoch=validate,
        after_step=update if by_step else lambda: None,
    )  # fmt: skip
    return model, average.module, losses, valid_losses


class Own(Callback):
    """Keeps a copy of the model's own weights, from before they are replaced."""

    def on_epoch_end(self, context):
        self.weights = {k: v.clone() for k, v in context.model.state_dict().items()}


@pytest.mark.parametrize("start", [0, 2])
@pytest.mark.parametrize("decay", [0.0, 0.9, 0.999, None])
def test_averages_are_those_of_swa_utils_bit_for_bit(decay, start):
    rule = mean_rule if decay is None else warmed_up(decay)
    own, average, losses, valid_losses = by_hand(rule, start, by_step=decay is not None)
    model, keep = network(), Own()
    history = fit(
        model, sgd(model), batches(*SIZES), VALID, epochs=EPOCHS,
        callbacks=[Averaging(decay, start), keep],
    )  # fmt: skip
    assert history.step_losses == losses
    assert [row["valid_loss"] for row in history.epochs] == valid_losses
    assert same(model, average)
    assert all(torch.equal(keep.weights[k], v) for k, v in own.state_dict().items())
    assert same(model, own) == (decay == 0.0)  # the control
    assert "1.running_var" in model.state_dict()


def test_the_average_of_a_short_training_is_not_near_its_first_weights():
    model = nn.Linear(1, 1, bias=False)
    averaging = Averaging(0.999)

    class Jump(Callback):
        def on_step_end(self, context):  # after the first step, which the average begins with
            if context.global_step == 1:
                context.model.weight.data.fill_(1.0)

    model.weight.data.fill_(0.0)
    data = [(torch.zeros(1, 1), torch.zeros(1, 1))] * 200
    opt = optim.SGD(model.parameters(), lr=0.1)
    fit(model, opt, data, loss_func=F.mse_loss, epochs=1, callbacks=[averaging, Jump()])
    assert 0.999 < model.weight.item() <= 1  # and 0.18 with a decay of 0.999 throughout


def test_the_training_itself_is_not_changed():
    losses = []
    for callbacks in ([], [Averaging()]):
        model = network()
        history = fit(model, sgd(model), batches(*SIZES), VALID, epochs=EPOCHS, callbacks=callbacks)
        losses.append(history.step_losses)
    assert losses[0] == losses[1]


@pytest.mark.parametrize("valid_dl", [None, VALID], ids=["unvalidated", "validated"])
def test_the_model_ends_in_the_mode_that_it_would_have_ended_in(valid_dl):
    modes = []
    for callbacks in ([], [Averaging(0.9)]):
        model = network()
        fit(model, sgd(model), batches(*SIZES), valid_dl, callbacks=callbacks)
        modes.append([module.training for module in model.modules()])
    assert modes[0] == modes[1]


def test_the_best_weights_are_averaged_ones(tmp_path):
    from safetensors.torch import load_file

    model = network()
    callbacks = [Averaging(0.9), BestWeights(tmp_path / "best.safetensors")]
    history = fit(model, sgd(model), batches(*SIZES), VALID, epochs=EPOCHS, callbacks=callbacks)
    best = network()
    best.load_state_dict(load_file(tmp_path / "best.safetensors"))
    lowest = min(row["valid_loss"] for row in history.epochs)
    assert pf.validate(best, F.cross_entropy, VALID)["loss"] == lowest


def test_with_accumulation_the_average_is_over_the_optimizer_s_steps():
    class Count(Callback):
        def on_epoch_end(self, context):
            self.count = int(averaging.averaged.n_averaged)

    averaging, count, model = Averaging(0.9), Count(), network()
    callbacks = [GradientAccumulation(2), averaging, count]
    fit(model, sgd(model), batches(*SIZES), epochs=3, callbacks=callbacks)
    assert count.count == 6


def test_lbfgs_has_an_average_too():
    model = network()
    opt = optim.LBFGS(model.parameters(), max_iter=3)
    fit(model, opt, batches(20), epochs=3, callbacks=[Averaging(None)])
    again = network()
    opt = optim.LBFGS(again.parameters(), max_iter=3)
    ends = []

    class Ends(Callback):
        def on_epoch_end(self, context):
            ends.append(again[4].weight.detach().clone())

    fit(again, opt, batches(20), epochs=3, callbacks=[Ends()])
    torch.testing.assert_close(  # the rule of torch divides in float32
        model[4].weight.detach(), torch.stack(ends).mean(0), rtol=0, atol=1e-7
    )


def test_an_average_that_never_began_leaves_the_model_its_own_weights():
    model = network()
    fit(model, sgd(model), batches(*SIZES), VALID, callbacks=[Averaging(start=10)])
    free = network()
    fit(free, sgd(free), batches(*SIZES), VALID)
    assert same(model, free)


def test_an_average_of_a_resumed_training_is_not_that_of_the_next(tmp_path):
    used = Averaging(0.9)
    model = network()
    fit(model, sgd(model), batches(*SIZES), checkpoint=tmp_path, callbacks=[Averaging(0.9)])
    fit(
        model, sgd(model), batches(*SIZES), checkpoint=tmp_path, resume=True, epochs=4,
        callbacks=[used],
    )  # fmt: skip
    model = network()
    fit(model, sgd(model), batches(*SIZES), callbacks=[used])
    again = network()
    fit(again, sgd(again), batches(*SIZES), callbacks=[Averaging(0.9)])
    assert same(model, again)


@pytest.mark.parametrize("decay", [-0.1, 1.0, math.nan])
def test_the_decay_is_checked(decay):
    with pytest.raises(ConfigError, match=f"must be 0 to below 1, got {decay}"):
        Averaging(decay)


def test_a_mean_over_epochs_needs_a_length():
    model = network()
    with pytest.raises(ConfigError, match=r"needs a training loader with a length.*decay=0\.999"):
        fit(model, sgd(model), lambda: iter(batches(8)), callbacks=[Averaging(None)])
