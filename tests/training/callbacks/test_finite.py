"""The guard: what it sees, what it says, and what it leaves as it was."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn, optim

from ejecting import differing, run_here
from plainfit.common.errors import NonFiniteError, TrainingError
from plainfit.training.callbacks import GradientAccumulation
from plainfit.training.hooks import Callback
from small import batches, fit, network, same, sgd

NAN, INF = math.nan, math.inf


class Weights(Callback):
    """Keeps the weights after each step."""

    def on_fit_start(self, context):
        self.after = [self.copied(context)]

    def on_step_end(self, context):
        self.after.append(self.copied(context))

    def copied(self, context):
        return [p.detach().clone() for p in context.model.parameters()]


def stopped(model, opt, dl, *callbacks, **options):
    """Train until the guard stops it; return the message, and check that its step did nothing."""
    weights = Weights()
    with pytest.raises(NonFiniteError) as caught:
        fit(model, opt, dl, callbacks=[*callbacks, weights], **options)
    assert isinstance(caught.value, TrainingError | ArithmeticError)
    for before, now in zip(weights.after[-1], model.parameters(), strict=True):
        assert torch.equal(before.nan_to_num(7), now.nan_to_num(7))
    return str(caught.value), len(weights.after) - 1


def broken(place, row, value):
    """Four batches, one value of which is not finite."""
    x, y = (torch.cat(parts) for parts in zip(*batches(5, 5, 5, 5), strict=True))
    y = y.double()
    (x if place == "inputs" else y).view(20, -1)[row, 0] = value
    return list(zip(x.split(5), y.split(5), strict=True))


def distance(out, yb):
    return F.mse_loss(out.sum(1), yb)


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("place", ["inputs", "targets"])
def test_values_in_the_data_are_named_with_epoch_and_step(place, value):
    torch.manual_seed(1)  # weights of both signs
    model = nn.Linear(4, 3).double()
    dl = broken(place, 12, value)
    text, steps = stopped(model, sgd(model, lr=0.01), dl, loss_func=distance)
    assert steps == 2
    is_nan = math.isnan(value) or place == "inputs"  # infinities of both signs are added there
    assert text == (
        f"the loss must be finite, and is {'nan' if is_nan else 'inf'} in epoch 0, step 2 "
        f"(batch 2 of that epoch, from 0); the {place} of the batch hold NaN or infinite values: "
        "fix the data"
    )


def test_data_within_a_dict_is_found():
    model = network()
    dl = [({"a": x, "b": [x.clone()]}, y) for x, y in batches(5, 5)]
    dl[1][0]["b"][0][2, 1] = INF

    class Sum(nn.Module):
        def forward(self, xb):
            return model(xb["a"] + xb["b"][0] * 0)

    whole = Sum()
    whole.model = model
    text, _ = stopped(whole, sgd(model), dl)
    assert "step 1 (batch 1 of that epoch, from 0); the inputs of the batch hold NaN" in text


def test_a_loss_from_finite_parts_suggests_the_rate():
    model = network()
    calls = []

    def loss_func(out, yb):
        calls.append(None)
        return F.cross_entropy(out, yb) * (INF if len(calls) == 4 else 1)

    text, steps = stopped(model, sgd(model), batches(5, 5), loss_func=loss_func, epochs=3)
    assert steps == 3
    assert text == (
        "the loss must be finite, and is inf in epoch 1, step 1 (batch 1 of that epoch, from 0); "
        "the data and the parameters are finite: lower the learning rate, or clip gradients"
    )


def test_a_parameter_is_named():
    model = network()

    class Break(Callback):
        def on_step_end(self, context):
            if context.global_step == 3:
                with torch.no_grad():
                    model[2].weight[1, 1] = NAN

    text, steps = stopped(model, sgd(model), batches(5, 5), Break(), epochs=3)
    assert steps == 3
    assert "is nan in epoch 1, step 1 (batch 1" in text
    assert "the parameter 2.weight holds such values since an earlier step" in text
    assert "torch.autograd.set_detect_anomaly(True)" in text


def bad_gradient(model, at):
    calls = []

    def hook(grad):
        calls.append(None)
        return grad * NAN if len(calls) == at else grad

    model[0].bias.register_hook(hook)


def test_gradients_show_in_the_next_step():
    model = network()
    bad_gradient(model, 3)
    text, steps = stopped(model, sgd(model), batches(5, 5, 5, 5))
    assert steps == 3  # the third step was taken with them
    assert "in epoch 0, step 3" in text
    assert (
        "the parameter 0.bias holds such values since an earlier step, whose gradients had" in text
    )


def test_gradients_of_an_epoch_s_last_step_show_before_it_is_saved(tmp_path):
    from plainfit.training import checkpoints as files

    model = network()
    bad_gradient(model, 4)
    text, steps = stopped(model, sgd(model), batches(5, 5), epochs=2, checkpoint=tmp_path)
    assert steps == 4
    assert text.startswith(
        "the parameters must be finite, and 0.bias is not after the last step of"
    )
    assert "of epoch 1, whose gradients were not; find it with" in text
    _, state = files.newest(tmp_path, pytest.fail)
    assert state["position"]["epoch"] == 1
    assert all(torch.isfinite(value).all() for value in state["model"].values())


def test_a_frozen_mask_of_infinities_is_no_mistake():
    class Masked(nn.Linear):
        def __init__(self):
            super().__init__(4, 3, dtype=torch.float64)
            mask = torch.tensor([0.0, 0.0, -INF], dtype=torch.float64)
            self.mask = nn.Parameter(mask, requires_grad=False)

        def forward(self, xb):
            return super().forward(xb) + self.mask

    model = Masked()
    dl = [(x, y.clamp(max=1)) for x, y in batches(5, 5)]
    assert len(fit(model, sgd(model), dl)) == 2


@pytest.mark.parametrize("at", [1, 3, 6])
def test_lbfgs_stops_where_its_step_began(at):
    model, calls = network(), []

    def loss_func(out, yb):
        calls.append(None)
        return F.cross_entropy(out, yb) * (NAN if len(calls) == at else 1)

    opt = optim.LBFGS(model.parameters(), lr=0.5, max_iter=4)  # four evaluations a step
    text, steps = stopped(model, opt, batches(20), loss_func=loss_func, epochs=3)
    assert steps == (at - 1) // 4
    assert text.endswith("the data and the parameters are finite: lower the learning rate, or "
                         "clip gradients")  # fmt: skip
    assert same(model, network()) == (at <= 4)


def test_sums_over_batches_are_watched_batch_by_batch():
    model = nn.Linear(4, 3).double()
    dl = broken("inputs", 12, NAN)
    text, steps = stopped(
        model, sgd(model, lr=0.01), dl, GradientAccumulation(2), loss_func=distance
    )
    assert steps == 2
    assert "in epoch 0, step 2" in text


def test_without_the_guard_the_training_goes_on():
    model = nn.Linear(4, 3).double()
    dl = broken("inputs", 12, NAN)
    history = fit(model, sgd(model), dl, loss_func=distance, check_finite=False)
    assert [math.isnan(loss) for loss in history.step_losses[:4]] == [False, False, True, True]


def test_the_guard_changes_no_bit():
    model, free = network(), network()
    guarded = fit(model, sgd(model), batches(5, 5))
    unguarded = fit(free, sgd(free), batches(5, 5), check_finite=False)
    assert guarded.step_losses == unguarded.step_losses
    assert same(model, free)


IGNORED = {
    "plain": F.cross_entropy,
    "index": partial(F.cross_entropy, ignore_index=0),
    "lambda": lambda out, yb: F.cross_entropy(out, yb, label_smoothing=0.1) * 2,
    "module": nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)),
    "nll": lambda out, yb: F.nll_loss(out.log_softmax(1), yb),
}


@pytest.mark.parametrize("name", IGNORED)
def test_a_batch_whose_labels_are_all_ignored_teaches_nothing(name, tmp_path):
    loss_func, label = IGNORED[name], 0 if name == "index" else -100
    dl = batches(5, 5, 5)
    dl[1] = (dl[1][0], torch.full((5,), label))
    model, other, weights = network(), network(), Weights()
    history = fit(model, sgd(model), dl, dl, loss_func=loss_func, callbacks=[weights])
    assert [math.isnan(loss) for loss in history.step_losses] == [False, True, False] * 2
    pairs = zip(weights.after[1], weights.after[2], strict=True)
    assert all(torch.equal(before, after) for before, after in pairs)
    labelled = fit(other, sgd(other), [dl[0], dl[2]], dl, loss_func=loss_func)
    assert same(model, other)
    assert [row["train_loss"] for row in history] == [row["train_loss"] for row in labelled]
    assert [row["valid_loss"] for row in history] == [row["valid_loss"] for row in labelled]


def test_a_model_is_not_touched_to_find_that_out_and_a_script_gives_the_same(tmp_path):
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Dropout()).double()
    dl = [(x, torch.full_like(y, -100) if at == 1 else y)
          for at, (x, y) in enumerate(batches(5, 5, 5))]  # fmt: skip
    x, y = (torch.cat(parts) for parts in zip(*dl, strict=True))
    ds = torch.utils.data.TensorDataset(x, y)
    train_dl = torch.utils.data.DataLoader(ds, batch_size=5)
    history = fit(model, sgd(model), train_dl, loss_func=F.cross_entropy)
    assert int(model[1].num_batches_tracked) == 6
    script = history.run.eject(tmp_path / "script.py", echo=None)
    losses, weights = run_here(script)
    assert list(map(repr, losses)) == list(map(repr, history.step_losses))
    assert not differing(weights, model.state_dict())


@pytest.mark.filterwarnings("ignore:`torch.jit")  # of a class that depends on torch's version
def test_a_loss_that_cannot_be_seen_names_the_label():
    model, scripted = network(), torch.jit.script(written_out)
    dl = batches(5, 5)
    dl[1] = (dl[1][0], torch.full((5,), -100))
    text, _ = stopped(model, sgd(model), dl, loss_func=scripted)
    assert text.endswith("or leave out such batches, if the loss ignores their only label, -100")


def written_out(out: torch.Tensor, yb: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(out, yb)
