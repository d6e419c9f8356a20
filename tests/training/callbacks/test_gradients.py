"""Clipping and accumulation: against torch by hand, and against one large batch."""

import math

import pytest
import torch
from torch import nn, optim
from torch.nn.utils import clip_grad_norm_

from plainfit.common.errors import ConfigError, NonFiniteError
from plainfit.training.callbacks import GradientAccumulation, GradientClipping
from plainfit.training.hooks import Callback
from small import batches, fit, furthest, network, plain, same, samples, sgd

SIZES = (6, 6, 6, 2)


class Norms(Callback):
    """Notes the norm of the gradients that each step is taken with."""

    def __init__(self):
        self.norms = []

    def on_step_start(self, context):
        grads = [p.grad for p in context.model.parameters()]
        self.norms.append(math.sqrt(sum(g.double().square().sum().item() for g in grads)))


# clipping


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("make", [sgd, lambda m: optim.AdamW(m.parameters(), lr=0.01)])
def test_clipping_is_torch_s_bit_for_bit(dtype, make):
    model, by_hand, unclipped = (network(dtype) for _ in range(3))
    dl, norms = batches(*SIZES, dtype=dtype), Norms()
    history = fit(model, make(model), dl, epochs=4, callbacks=[GradientClipping(0.3), norms])
    losses = plain(
        by_hand, make(by_hand), dl, epochs=4,
        before_step=lambda: clip_grad_norm_(by_hand.parameters(), 0.3),
    )  # fmt: skip
    assert history.step_losses == losses
    assert same(model, by_hand)
    assert max(norms.norms) == pytest.approx(0.3, rel=1e-5)
    assert fit(unclipped, make(unclipped), dl, epochs=4).step_losses != losses
    assert not same(model, unclipped)


def test_a_norm_that_is_never_reached_changes_no_bit():
    model, free = network(), network()
    fit(model, sgd(model), batches(*SIZES), callbacks=[GradientClipping(1e6)])
    fit(free, sgd(free), batches(*SIZES))
    assert same(model, free)


def test_gradients_that_nobody_clears_do_not_count():
    # The first layer is frozen by leaving it out of the optimizer: its gradients only grow.
    model, by_hand = network(), network()
    part = model[2].parameters
    fit(
        model, optim.SGD(part(), lr=0.1), batches(*SIZES), epochs=5,
        callbacks=[GradientClipping(0.3)],
    )  # fmt: skip
    by_hand[0].requires_grad_(False)
    last = list(by_hand[2].parameters())
    plain(
        by_hand, optim.SGD(last, lr=0.1), batches(*SIZES), epochs=5,
        before_step=lambda: clip_grad_norm_(last, 0.3),
    )  # fmt: skip
    assert same(model, by_hand)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_stops_before_its_step(bad):
    model = network()
    model[2].weight.register_hook(lambda grad: grad * bad if len(steps) == 3 else grad)
    steps, weights = [], []

    class Count(Callback):
        def on_step_end(self, context):
            steps.append(context.step)
            weights[:] = [p.detach().clone() for p in model.parameters()]

    with pytest.raises(
        NonFiniteError, match=r"^the gradients must be finite, and their norm is "
    ) as e:
        fit(model, sgd(model), batches(6, 6), callbacks=[Count(), GradientClipping(1.0)])
    assert "in epoch 1, step 1; lower the learning rate" in str(e.value)
    assert len(steps) == 3
    assert all(map(torch.equal, weights, model.parameters()))


@pytest.mark.parametrize("norm", [0, -1.0, math.nan])
def test_the_largest_norm_must_be_positive(norm):
    with pytest.raises(ConfigError, match=f"must be positive, got {norm}"):
        GradientClipping(norm)


# accumulation


@pytest.mark.parametrize(
    ("count", "small", "one"),
    [
        (4, (5, 5, 5, 5), (20,)),
        (2, (5, 5, 5, 5), (10, 10)),
        (3, (6, 6, 6, 2), (18, 2)),  # the last group has one batch, which is smaller
        (4, (6, 6, 6, 2), (20,)),  # unequal batches
        (9, (7, 2, 11), (20,)),  # more than an epoch has
        (1, (7, 2, 11), (7, 2, 11)),
    ],
)
@pytest.mark.parametrize("make", [sgd, lambda m: optim.Adam(m.parameters(), lr=0.01)])
def test_some_batches_are_one_large_batch(count, small, one, make):
    model, whole, norms, wanted = network(), network(), Norms(), Norms()
    history = fit(
        model, make(model), batches(*small), epochs=5,
        callbacks=[GradientAccumulation(count), norms],
    )  # fmt: skip
    fit(whole, make(whole), batches(*one), epochs=5, callbacks=[wanted])
    assert len(history.step_losses) == 5 * len(small)
    assert len(norms.norms) == len(wanted.norms) == 5 * len(one)
    assert norms.norms == pytest.approx(wanted.norms, rel=0, abs=1e-12)
    assert furthest(model, whole) < 1e-12
    assert furthest(model, network()) > 1e-3
    assert all(p.grad is None for p in model.parameters())


def test_the_history_has_the_loss_of_each_batch():
    model = network()
    dl = batches(*SIZES)
    history = fit(model, sgd(model), dl, epochs=1, callbacks=[GradientAccumulation(4)])
    with torch.no_grad():
        wanted = [nn.functional.cross_entropy(network()(xb), yb).item() for xb, yb in dl]
    assert history.step_losses == wanted


@pytest.mark.parametrize("clips_first", [True, False])
def test_clipping_sees_the_sum_wherever_it_is_in_the_list(clips_first):
    model, whole = network(), network()
    callbacks = [GradientAccumulation(2), GradientClipping(0.2)]
    if clips_first:
        callbacks.reverse()
    fit(model, sgd(model), batches(6, 6, 6, 2), epochs=5, callbacks=callbacks)
    fit(whole, sgd(whole), batches(12, 8), epochs=5, callbacks=[GradientClipping(0.2)])
    unclipped = network()
    fit(unclipped, sgd(unclipped), batches(12, 8), epochs=5)
    assert furthest(model, whole) < 1e-12
    assert furthest(model, unclipped) > 1e-3


def test_without_a_length_a_group_goes_on_in_the_next_epoch():
    model, whole = network(), network()
    x, y = samples(18)
    fit(
        model, sgd(model), lambda: iter(batches(6, 6, 6)), epochs=2,
        callbacks=[GradientAccumulation(2)],
    )  # fmt: skip
    rows = [slice(0, 12), [*range(12, 18), *range(6)], slice(6, 18)]
    plain(whole, sgd(whole), [(x[r], y[r]) for r in rows], epochs=1)
    assert furthest(model, whole) < 1e-12


def test_a_group_that_was_left_does_not_count_in_the_next_training():
    class Stop(Callback):
        def on_step_end(self, context):
            context.stop = "enough"

    model, again = network(), network()
    opt, accumulation = sgd(model), GradientAccumulation(2)
    fit(model, opt, batches(10, 10), callbacks=[accumulation, Stop()])
    assert model[0].weight.grad is not None
    fit(model, opt, batches(10, 10), callbacks=[accumulation])
    fit(again, sgd(again), batches(10, 10), callbacks=[GradientAccumulation(2)])
    assert same(model, again)


def test_a_parameter_of_the_loss_function_is_accumulated_too():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(1.0, dtype=torch.float64))

        def forward(self, out, yb):
            return nn.functional.cross_entropy(self.scale * out, yb)

    trained = []
    for sizes, callbacks in (((10, 10), [GradientAccumulation(2)]), ((20,), [])):
        model, loss_func = network(), Scaled()
        opt = optim.SGD([*model.parameters(), *loss_func.parameters()], lr=0.1)
        fit(model, opt, batches(*sizes), epochs=5, loss_func=loss_func, callbacks=callbacks)
        trained.append(loss_func.scale.item())
    assert trained[0] == pytest.approx(trained[1], rel=0, abs=1e-12)
    assert abs(trained[1] - 1) > 1e-3


@pytest.mark.parametrize("batches", [0, 1.5, float("nan")])
def test_a_whole_number_of_batches(batches):
    with pytest.raises(ConfigError, match=f"whole number of batches, 1 or more, got {batches}"):
        GradientAccumulation(batches)


@pytest.mark.parametrize("callback", [GradientClipping(1.0), GradientAccumulation(2)])
def test_lbfgs_is_refused(callback):
    model = network()
    opt = optim.LBFGS(model.parameters())
    with pytest.raises(
        ConfigError, match=rf"^{type(callback).__name__} needs an optimizer .* LBFGS"
    ):
        fit(model, opt, batches(8), callbacks=[callback])
