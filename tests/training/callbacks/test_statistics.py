"""Statistics of activations and gradients: the figures, the picture, and that they only look."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn, optim

from plainfit.common.errors import ConfigError
from plainfit.training.callbacks import (
    ActivationStatistics,
    Averaging,
    GradientAccumulation,
    GradientClipping,
    GradientStatistics,
)
from plainfit.training.hooks import Callback
from small import batches, fit, same, sgd

SIZES = (6, 6, 6, 2)


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 3)
    ).double()


def figures_by_hand(epochs=2):
    """Train by a plain loop; return each layer's outputs and each parameter's gradients."""
    model, outputs, grads = network(), {}, {}
    opt = sgd(model)
    for _ in range(epochs):
        for xb, yb in batches(*SIZES):
            x = xb
            for name, layer in model.named_children():
                x = layer(x)
                outputs.setdefault(name, []).append(x.detach().numpy().copy())
            F.cross_entropy(x, yb).backward()
            for name, parameter in model.named_parameters():
                grads.setdefault(name, []).append(parameter.grad.numpy().copy())
            opt.step()
            opt.zero_grad()
    return outputs, grads


def hooks_of(model):
    return sum(len(module._forward_hooks) for module in model.modules())


@pytest.mark.parametrize("every", [1, 3])
def test_figures_are_numpy_s(every):
    model, look, feel = network(), ActivationStatistics(every), GradientStatistics(every)
    fit(model, sgd(model), batches(*SIZES), batches(9), callbacks=[look, feel])
    outputs, grads = figures_by_hand()
    wanted = {
        name: [[a.mean(), a.std(), (np.abs(a) < 1e-3).mean()] for a in arrays[::every]]
        for name, arrays in outputs.items()
    }
    assert list(look.to_dict()) == list(wanted) == ["0", "1", "2", "3", "4"]
    for name, rows in look.to_dict().items():
        np.testing.assert_allclose(rows, wanted[name], rtol=1e-5, atol=1e-6)
    assert max(row[2] for row in look.to_dict()["2"]) > 0.3  # a ReLU has zeros
    for name, rows in feel.to_dict().items():
        wanted = [[np.linalg.norm(g), np.abs(g).max()] for g in grads[name][::every]]
        np.testing.assert_allclose(rows, wanted, rtol=1e-5)
    assert list(feel.to_dict()) == [name for name, _ in model.named_parameters()]
    steps = list(range(0, 8, every))
    assert look.steps == dict.fromkeys(look.values, steps)
    assert feel.steps == dict.fromkeys(feel.values, steps)


@pytest.mark.parametrize("averaged", [False, True])
def test_the_training_stays_the_same_bit_for_bit(averaged):
    runs = []
    for watch in ([], [ActivationStatistics(), GradientStatistics()]):
        model = network()
        callbacks = [*watch, *([Averaging(0.9)] if averaged else [])]
        history = fit(model, sgd(model), batches(*SIZES), batches(9), callbacks=callbacks)
        runs.append((model, history, torch.get_rng_state()))
        assert hooks_of(model) == 0
    assert runs[0][1].step_losses == runs[1][1].step_losses
    assert [r["valid_loss"] for r in runs[0][1].epochs] == [
        r["valid_loss"] for r in runs[1][1].epochs
    ]
    assert same(runs[0][0], runs[1][0])
    assert torch.equal(runs[0][2], runs[1][2])


def test_after_an_exception_nothing_watches():
    class Fail(Callback):
        def on_step_end(self, context):
            assert hooks_of(model) == 5
            raise RuntimeError("mine")

    model, look = network(), ActivationStatistics()
    with pytest.raises(RuntimeError, match="mine"):
        fit(model, sgd(model), batches(*SIZES), callbacks=[look, Fail()])
    assert hooks_of(model) == 0
    assert len(look.to_dict()["0"]) == 1


def test_a_hook_of_the_user_s_own_stays():
    model = network()
    model[0].register_forward_hook(lambda *_: None)
    fit(model, sgd(model), batches(*SIZES), callbacks=[ActivationStatistics()])
    assert hooks_of(model) == 1


def test_other_outputs_are_passed_over():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(4, 5, sparse=True)
            self.rnn = nn.LSTM(5, 3, batch_first=True)  # gives a tuple

        def forward(self, xb):
            return self.rnn(self.embed(xb))[0].mean(1)

    torch.manual_seed(0)
    model, look, feel = Net(), ActivationStatistics(), GradientStatistics()
    dl = [(torch.tensor([[0, 1], [2, 0]]), torch.tensor([0, 1]))]
    fit(model, sgd(model), dl, epochs=3, callbacks=[look, feel])
    assert list(look.to_dict()) == ["embed"]
    assert len(feel.to_dict()["embed.weight"]) == 3
    assert all(norm > 0 for norm, _ in feel.to_dict()["embed.weight"])


def test_a_module_without_layers_has_its_own_name():
    look, model = ActivationStatistics(), nn.Linear(4, 3).double()
    fit(model, sgd(model), batches(5), callbacks=[look])
    assert list(look.to_dict()) == ["Linear"]


def test_gradients_are_seen_as_they_are_where_the_callback_stands():
    model, raw, clipped = network(), GradientStatistics(), GradientStatistics()
    callbacks = [raw, GradientClipping(0.01), clipped]
    fit(model, sgd(model), batches(*SIZES), epochs=1, callbacks=callbacks)

    def whole(statistics, step):
        return math.sqrt(sum(rows[step][0] ** 2 for rows in statistics.to_dict().values()))

    for step in range(4):
        assert whole(clipped, step) == pytest.approx(0.01, rel=1e-3)
        assert whole(raw, step) > 0.02


@pytest.mark.parametrize(("every", "steps"), [(1, [1, 3, 5, 7]), (2, [1, 3, 5, 7]), (3, [1, 5])])
def test_with_accumulation_the_sums_are_seen_at_their_steps(every, steps):
    model, feel = network(), GradientStatistics(every)
    fit(model, sgd(model), batches(*SIZES), callbacks=[GradientAccumulation(2), feel])
    assert feel.steps["0.weight"] == steps
    assert len(feel.to_dict()["0.weight"]) == len(steps)


def test_a_second_training_begins_anew():
    look, feel = ActivationStatistics(), GradientStatistics()
    for _ in range(2):
        model = network()
        fit(model, sgd(model), batches(*SIZES), epochs=1, callbacks=[look, feel])
    assert look.steps["0"] == feel.steps["0.weight"] == [0, 1, 2, 3]


def test_lbfgs_has_activations_but_no_one_gradient_a_step():
    model, look = network(), ActivationStatistics()
    opt = optim.LBFGS(model.parameters(), max_iter=2)
    fit(model, opt, batches(20), callbacks=[look])
    assert len(look.to_dict()["0"]) == 4  # two evaluations a step
    with pytest.raises(ConfigError, match=r"^GradientStatistics needs an optimizer that takes one"):
        fit(model, opt, batches(20), callbacks=[GradientStatistics()])


@pytest.mark.parametrize("kind", [ActivationStatistics, GradientStatistics])
def test_at_least_every_step(kind):
    with pytest.raises(ConfigError, match="every 1 or more steps, got 0"):
        kind(0)


@pytest.mark.parametrize("kind", [ActivationStatistics, GradientStatistics])
def test_plot_draws_a_line_for_each_name(kind, tmp_path):
    model, statistics = network(), kind(2)
    fit(model, sgd(model), batches(*SIZES), callbacks=[statistics], epochs=5)
    figure = statistics.plot()
    figure.savefig(tmp_path / "statistics.png")
    assert (tmp_path / "statistics.png").read_bytes()[:4] == b"\x89PNG"
    figures = statistics.to_dict()
    assert [axis.get_title() for axis in figure.axes] == list(statistics.columns)
    for column, axis in enumerate(figure.axes):
        assert [line.get_label() for line in axis.lines] == list(figures)
        for line, rows in zip(axis.lines, figures.values(), strict=True):
            assert line.get_xdata().tolist() == list(range(0, 20, 2))
            assert line.get_ydata().tolist() == [row[column] for row in rows]


@pytest.mark.parametrize("kind", [ActivationStatistics, GradientStatistics])
def test_plot_without_figures(kind, tmp_path):
    kind().plot().savefig(tmp_path / "empty.png")
    assert (tmp_path / "empty.png").stat().st_size > 0
