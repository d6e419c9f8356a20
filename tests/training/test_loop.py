"""`fit`, `loss_batch`, `validate`, and the history they return."""

import sys
from functools import partial
from itertools import product
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn, optim
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import plainfit as pf
import small
from plainfit.common.errors import ConfigError
from plainfit.training.history import History

PACKAGE = Path(pf.__file__).parent


class Spy(nn.Module):
    """Notes, at every call, which of plainfit's functions stand above it, and its mode."""

    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(4, 3)
        self.calls = []

    def forward(self, xb):
        above, frame = [], sys._getframe()
        while frame is not None:
            if Path(frame.f_code.co_filename).is_relative_to(PACKAGE):
                above.append(frame.f_code.co_name)
            frame = frame.f_back
        self.calls.append((self.training, torch.is_grad_enabled(), above))
        return self.lin(xb)


class Recorder(pf.Callback):
    def __init__(self, name="", log=None):
        self.name, self.log = name, [] if log is None else log

    def note(self, hook, context):
        self.log.append((self.name, hook, context.epoch, context.step))
        self.context = context

    def on_epoch_start(self, context):
        self.note("epoch start", context)

    def on_step_end(self, context):
        self.note("step end", context)
        assert all(p.grad is None for p in context.model.parameters())

    def on_epoch_end(self, context):
        self.note("epoch end", context)
        assert context.history[-1]["epoch"] == context.epoch


class Stream(IterableDataset):
    def __init__(self, x, y):
        self.x, self.y = x, y

    def __iter__(self):
        return iter(zip(self.x, self.y, strict=True))


@pytest.fixture
def data():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(20, 4, generator=g)
    return x, (x[:, 0] > 0).long() + (x[:, 1] > 0).long()


@pytest.fixture
def linear():
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    return model, optim.SGD(model.parameters(), lr=0.1)


def batches(x, y, *sizes):
    return list(zip(x.split(list(sizes)), y.split(list(sizes)), strict=True))


def quiet(epochs, model, opt, train_dl, valid_dl=None, loss_func=F.cross_entropy, **options):
    return pf.fit(epochs, model, loss_func, opt, train_dl, valid_dl, echo=None, **options)


# hops


def test_two_hops_from_fit_to_the_model(data):
    model = Spy()
    opt = optim.SGD(model.parameters(), lr=0.1)
    loaders = pf.get_data(TensorDataset(*data), TensorDataset(*data), 10)
    pf.fit(2, model, F.cross_entropy, opt, *loaders, metrics=[pf.accuracy], echo=None)
    train, valid = (True, True, ["loss_batch", "fit"]), (False, False, ["validate", "fit"])
    assert model.calls == [train, train, valid] * 2


def test_fit_puts_the_model_in_train_mode_again_after_each_validation(data, linear):
    model, opt = linear
    model.eval()
    modes = []
    model.register_forward_pre_hook(lambda module, _: modes.append(module.training))
    quiet(2, model, opt, batches(*data, 20), batches(*data, 20))
    assert modes == [True, False, True, False]


# loss_batch


def test_loss_batch_without_an_optimizer_changes_nothing(data, linear):
    model, _ = linear
    weights = [p.clone() for p in model.parameters()]
    loss, n = pf.loss_batch(model, F.cross_entropy, *data)
    assert n == 20
    assert loss.item() == F.cross_entropy(model(data[0]), data[1]).item()
    assert not loss.requires_grad
    assert all(p.grad is None for p in model.parameters())
    assert all(map(torch.equal, weights, model.parameters()))


def test_loss_batch_with_an_optimizer_takes_one_step_and_clears_the_gradients(data, linear):
    model, opt = linear
    grads = torch.autograd.grad(F.cross_entropy(model(data[0]), data[1]), model.parameters())
    wanted = [p.detach() - 0.1 * g for p, g in zip(model.parameters(), grads, strict=True)]
    before, _ = pf.loss_batch(model, F.cross_entropy, *data, opt)
    torch.testing.assert_close([p.detach() for p in model.parameters()], wanted)
    assert all(p.grad is None for p in model.parameters())
    after, _ = pf.loss_batch(model, F.cross_entropy, *data)
    assert after < before


# kinds of batches and loaders


@pytest.mark.parametrize("kind", ["list", "factory", "iterable dataset", "wrapped"])
def test_every_kind_of_loader_trains_to_the_same_bits(data, linear, kind):
    model, opt = linear
    listed = batches(*data, 8, 8, 4)
    stream = pf.get_data(Stream(*data), Stream(*data), 8)[0]
    dl = {
        "list": listed,
        "factory": lambda: (pair for pair in listed),
        "iterable dataset": stream,
        "wrapped": pf.WrappedDataLoader(stream, lambda xb, yb: (xb, yb)),
    }[kind]
    recorder = Recorder()
    history = quiet(3, model, opt, dl, dl, callbacks=[recorder])
    torch.manual_seed(0)
    again = nn.Linear(4, 3)
    opt = optim.SGD(again.parameters(), lr=0.1)
    assert history.step_losses == quiet(3, again, opt, listed, listed).step_losses
    assert torch.equal(model.weight, again.weight)
    assert recorder.context.steps == (3 if kind == "list" else None)


def test_a_generator_is_read_once_and_the_error_says_what_to_do(data, linear):
    model, opt = linear
    generator = (pair for pair in batches(*data, 10, 10))
    with pytest.raises(ValueError, match=r"got none in epoch 1; .* pass a function that returns a"):
        quiet(2, model, opt, generator)


def test_empty_loaders_are_refused(data, linear):
    model, opt = linear
    with pytest.raises(ValueError, match=r"training loader must give batches, got none from \[\]"):
        quiet(1, model, opt, [])
    with pytest.raises(ValueError, match=r"validation loader must give batches, got none from \["):
        quiet(1, model, opt, batches(*data, 20), [])


def test_a_training_set_smaller_than_a_batch_with_drop_last_is_refused(data, linear):
    model, opt = linear
    dataset = TensorDataset(*data)
    train_dl, valid_dl = pf.get_data(dataset, dataset, 64, drop_last=True)
    with pytest.raises(ValueError, match="training loader must give batches, got none"):
        quiet(1, model, opt, train_dl, valid_dl)


def test_an_optimizer_of_another_model_is_refused(data, linear):
    _, opt = linear
    with pytest.raises(ValueError, match=r"it holds none of them; make it from this model"):
        quiet(1, nn.Linear(4, 3), opt, batches(*data, 20))


def test_an_optimizer_of_a_part_of_the_model_is_accepted(data):
    model = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3))
    first = model[0].weight.clone()
    quiet(1, model, optim.SGD(model[1].parameters(), lr=0.1), batches(*data, 20))
    assert torch.equal(model[0].weight, first)


# validation


def test_without_validation_there_are_no_validation_figures(data, linear):
    model, opt = linear
    history = quiet(2, model, opt, batches(*data, 10, 10), metrics=[pf.accuracy])
    assert list(history[0]) == ["epoch", "train_loss", "seconds", "samples_per_second"]


def test_losses_and_metrics_are_weighted_by_the_size_of_the_batch(data, linear):
    model, _ = linear
    x, y = data
    uneven = batches(x, y, 13, 1, 6)
    result = pf.validate(model, F.cross_entropy, uneven, metrics=[pf.accuracy])
    with torch.no_grad():
        hits = (model(x).argmax(1) == y).sum().item()
        unweighted = sum(F.cross_entropy(model(xb), yb).item() for xb, yb in uneven) / 3
        whole = F.cross_entropy(model.double()(x.double()), y).item()
    assert list(result) == ["loss", "accuracy"]
    assert result["accuracy"] == pytest.approx(hits / 20, abs=1e-7)
    assert result["loss"] == pytest.approx(whole, abs=1e-6)
    assert abs(unweighted - whole) > 1e-3


def test_the_training_loss_is_weighted_too(data, linear):
    model, opt = linear
    history = quiet(1, model, opt, batches(*data, 13, 1, 6))
    a, b, c = history.step_losses
    assert history[0]["train_loss"] == pytest.approx((13 * a + b + 6 * c) / 20, rel=1e-12)


def test_validation_leaves_the_global_generator_the_weights_and_the_gradients_alone(data):
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 3))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    _, valid_dl = pf.get_data(TensorDataset(*data), TensorDataset(*data), 4)
    state = torch.get_rng_state()
    result = pf.validate(model, F.cross_entropy, valid_dl, metrics=[pf.accuracy])
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert pf.validate(model, F.cross_entropy, valid_dl, metrics=[pf.accuracy]) == result


def test_validation_does_not_change_the_training(data):
    losses = []
    for valid_dl in (None, batches(*data, 20)):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(), nn.Linear(8, 3))
        opt = optim.SGD(model.parameters(), lr=0.1)
        losses.append(quiet(3, model, opt, batches(*data, 10, 10), valid_dl).step_losses)
    assert losses[0] == losses[1]


def validating(hook, dl):
    """Return a callback that validates on a loader, for figures every few steps, say."""

    def look(self, context):
        modes = [module.training for module in context.model.modules()]
        pf.validate(context.model, F.cross_entropy, dl)
        assert [module.training for module in context.model.modules()] == modes

    return type("Validating", (pf.Callback,), {hook: look})()


@pytest.mark.parametrize("hook", ["on_fit_start", "on_epoch_start", "on_step_end", "on_epoch_end"])
@pytest.mark.parametrize("kind", ["memory", "samples", "wrapped", "stock"])
def test_validating_on_the_training_loader_in_a_callback_changes_nothing(data, kind, hook):
    ds = TensorDataset(*data)

    def trained(does_validate, epochs=(3,), **options):
        train_dl, _ = pf.get_data(list(ds) if kind == "samples" else ds, ds, 8)
        if kind == "wrapped":
            train_dl = pf.WrappedDataLoader(train_dl, lambda xb, yb: (xb, yb))
        if kind == "stock":
            train_dl = DataLoader(ds, 8, shuffle=True)
        callbacks = [validating(hook, train_dl)] if does_validate else []
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(), nn.Linear(8, 3))
        model[1].eval()  # a part that stays frozen
        opt = optim.SGD(model.parameters(), lr=0.1)
        losses = [quiet(n, model, opt, train_dl, callbacks=callbacks, **options) for n in epochs]
        return [history.step_losses for history in losses], getattr(train_dl, "epoch", None)

    assert trained(True) == trained(False)
    assert trained(True, (2, 1)) == trained(False, (2, 1))


def test_lr_find_changes_nothing_of_the_training_after_it(data):
    def trained(does_search):
        train_dl, _ = pf.get_data(TensorDataset(*data), TensorDataset(*data), 8)
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(), nn.Linear(8, 3))
        opt = optim.SGD(model.parameters(), lr=0.1)
        if does_search:
            pf.lr_find(model, F.cross_entropy, opt, train_dl)
        return quiet(2, model, opt, train_dl).step_losses

    assert trained(True) == trained(False)


def test_accuracy():
    out = torch.tensor([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7]])
    assert pf.accuracy(out, torch.tensor([1, 1, 1])).item() == pytest.approx(2 / 3)


# callbacks, lines, history


def test_callbacks_are_called_in_order_with_the_context(data, linear):
    model, opt = linear
    log = []
    recorders = [Recorder("a", log), Recorder("b", log)]
    history = quiet(2, model, opt, batches(*data, 10, 10), callbacks=recorders)
    expected = [
        (name, hook, epoch, step)
        for epoch in range(2)
        for hook, step in [("epoch start", 0), ("step end", 1), ("step end", 2), ("epoch end", 2)]
        for name in "ab"
    ]
    assert log == expected
    context = recorders[0].context
    assert (context.model, context.opt, context.history) == (model, opt, history)
    assert (context.epochs, context.steps) == (2, 2)


def test_a_callback_that_overrides_nothing_changes_nothing(data):
    losses = []
    for callbacks in ([], [pf.Callback()]):
        torch.manual_seed(0)
        model = nn.Linear(4, 3)
        opt = optim.SGD(model.parameters(), lr=0.1)
        losses.append(quiet(2, model, opt, batches(*data, 20), callbacks=callbacks).step_losses)
    assert losses[0] == losses[1]


def test_echo_is_given_the_heading_once_and_a_line_an_epoch(data, linear):
    model, opt = linear
    lines = []
    dl = batches(*data, 10, 10)
    history = pf.fit(
        3, model, F.cross_entropy, opt, dl, dl, metrics=[pf.accuracy], echo=lines.append
    )
    assert len(lines) == 3
    heading, first = lines[0].split("\n")
    assert heading.split() == [
        "epoch", "train_loss", "valid_loss", "accuracy", "seconds", "samples/s",
    ]  # fmt: skip
    rows = [first, *lines[1:]]
    assert [row.split()[0] for row in rows] == ["0", "1", "2"]
    assert [row.split()[2] for row in rows] == [f"{r['valid_loss']:.4f}" for r in history.epochs]
    assert len({len(line) for line in [heading, *rows]}) == 1
    assert str(history) == "\n".join(lines)


def test_fit_prints_by_default(data, linear, capsys):
    model, opt = linear
    history = pf.fit(1, model, F.cross_entropy, opt, batches(*data, 20), None)
    assert capsys.readouterr().out == f"{history}\n"


def test_no_epochs(data, linear):
    model, opt = linear
    history = quiet(0, model, opt, batches(*data, 20), batches(*data, 20))
    assert len(history) == 0
    assert str(history) == "(no epochs yet)"
    assert history.step_losses == history.to_dicts() == []


def test_the_history_of_a_training(data, linear):
    model, opt = linear
    history = quiet(2, model, opt, batches(*data, 10, 10), batches(*data, 20))
    assert repr(history) == "<History of 2 epochs, 4 steps>"
    assert len(history) == 2
    assert history[1]["epoch"] == 1
    assert history[0]["seconds"] > 0
    assert history[0]["samples_per_second"] > 0
    assert all(type(loss) is float for loss in history.step_losses)
    rows = history.to_dicts()
    rows[0]["train_loss"] = None
    assert history[0]["train_loss"] is not None


def test_a_long_metric_name_keeps_the_columns_aligned():
    history = History()
    history.epochs.append({"epoch": 0, "train_loss": 1.0, "a_metric_with_a_long_name": 0.5})
    heading, row = str(history).split("\n")
    assert len(heading) == len(row)


@pytest.mark.parametrize("valid", [False, True])
def test_plot_draws_a_picture(data, linear, tmp_path, valid, curves):
    model, opt = linear
    dl = batches(*data, 10, 10)
    history = quiet(2, model, opt, dl, dl if valid else None, metrics=[pf.accuracy])
    figure = history.plot()
    figure.savefig(tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes()[:4] == b"\x89PNG"
    assert len(figure.axes) == (2 if valid else 1)
    drawn = {line.get_label().split(":")[0]: line for line in figure.axes[0].lines}
    assert drawn["train, by step"].get_ydata().tolist() == history.step_losses
    assert ("valid" in drawn) == valid


def test_plot_of_an_empty_history(tmp_path, curves):
    History().plot().savefig(tmp_path / "empty.png")
    assert (tmp_path / "empty.png").stat().st_size > 0


def test_metrics_of_one_name_are_refused_and_numbers_are_taken():
    model, dl = nn.Linear(4, 3), [(torch.zeros(2, 4), torch.tensor([0, 1]))]
    with pytest.raises(ValueError, match="metrics must have different names"):
        pf.validate(model, F.cross_entropy, dl, metrics=[lambda a, b: a, lambda a, b: b])

    def half(out, yb):
        return 0.5

    assert pf.validate(model, F.cross_entropy, dl, metrics=[half])["half"] == 0.5


# --- mixed labels: only the loss's own errors are blamed on the loss ---


class Mixed(list):
    """Batches of which `fit` is told that their labels are mixed."""

    mixes_labels = True


def fails(error):
    def fail(*_, **__):
        raise error

    return fail


class LossThatFails(nn.Module):
    def __init__(self, error):
        super().__init__()
        self.forward = fails(error)


def weighted(out, yb, *, fail):
    return fail(out, yb)


MIXED_ERRORS = [RuntimeError, ValueError, TypeError, IndexError]


@pytest.mark.parametrize("kind", MIXED_ERRORS)
@pytest.mark.parametrize("validates", [False, True])
@pytest.mark.parametrize(
    "loss",
    [
        fails,
        LossThatFails,
        lambda error: partial(weighted, fail=fails(error)),
        lambda error: lambda out, yb: fails(error)(out),
    ],
    ids=["function", "module", "partial", "lambda"],
)
def test_an_error_of_the_loss_is_explained_where_labels_are_mixed(kind, validates, loss):
    failing, model = loss(kind("mine")), small.network()
    calls = []

    def first_good(out, yb):
        calls.append(1)
        return F.cross_entropy(out, yb) if len(calls) == 1 else failing(out, yb)

    what = "validation, whose labels are not mixed," if validates else "first step"
    with pytest.raises(ConfigError, match=f"the {what} failed with {kind.__name__}: mine"):
        small.fit(model, small.sgd(model), Mixed(small.batches(5)), small.batches(5),
            loss_func=first_good if validates else failing)  # fmt: skip


C_LOSS = torch.dist  # without a Python frame
C_PARTIAL = partial(torch.binary_cross_entropy_with_logits, reduction=1)


@pytest.mark.parametrize("loss", [C_LOSS, C_PARTIAL], ids=["plain", "partial"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("validates", [False, True])
def test_an_error_of_a_loss_written_in_c_is_explained_too(loss, precision, validates):
    model, labels = small.network(torch.float32), small.batches(5, dtype=torch.float32)
    probabilities = [(xb, torch.ones(5, 3) / 3) for xb, _ in labels]
    what = "validation, whose labels are not mixed," if validates else "first step"
    with pytest.raises(ConfigError, match=f"the {what} failed with RuntimeError"):
        small.fit(model, small.sgd(model), Mixed(probabilities if validates else labels), labels,
            loss_func=loss, precision=precision)  # fmt: skip


@pytest.mark.parametrize("where", ["model", "no batches", "no batches to validate"])
def test_other_errors_are_raised_as_they_are_with_a_loss_written_in_c(where):
    model = small.network(torch.float32)
    good = [(xb, torch.ones(5, 3) / 3) for xb, _ in small.batches(5, dtype=torch.float32)]
    if where == "model":
        model[0] = nn.Linear(5, 8)
    train_dl = Mixed([] if where == "no batches" else good)
    with pytest.raises((RuntimeError, ValueError)) as caught:
        small.fit(model, small.sgd(model), train_dl, [], loss_func=C_LOSS)
    assert not isinstance(caught.value, ConfigError)


@pytest.mark.parametrize(
    ("where", "error"),
    [
        *product(["model", "backward", "optimizer", "callback"], MIXED_ERRORS),
        *product(["model", "backward", "loss"], [torch.OutOfMemoryError]),
    ],
)
def test_other_errors_are_raised_as_they_are(error, where, monkeypatch):
    class Fail(pf.Callback):
        on_batch_start = fails(error("mine")) if where == "callback" else pf.Callback.on_batch_start

    model = small.network()
    opt, loss_func = small.sgd(model), F.cross_entropy
    if where == "model":
        monkeypatch.setattr(model, "forward", fails(error("mine")))
    if where == "backward":
        monkeypatch.setattr(torch.Tensor, "backward", fails(error("mine")))
    if where == "optimizer":
        monkeypatch.setattr(opt, "step", fails(error("mine")))
    if where == "loss":
        loss_func = fails(error("mine"))
    with pytest.raises(error, match=r"^mine\nin epoch 0, after \d of") as caught:
        small.fit(model, opt, Mixed(small.batches(5)), loss_func=loss_func, callbacks=[Fail()])
    assert type(caught.value) is error
