"""What an epoch, a step and a loss may be: each beside a loop by hand, and through a resume."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn, optim
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import plainfit as pf
from plainfit.common.errors import CheckpointError, ConfigError, NonFiniteError
from trainings import StopAt

G = torch.Generator().manual_seed(0)
X, Y = torch.randn(44, 3, generator=G), torch.randint(2, (44,), generator=G)
DATA = TensorDataset(X, Y)


def linear():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.2), nn.Linear(4, 2))
    return model, optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def quiet(epochs, model, opt, *args, loss_func=F.cross_entropy, **options):
    return pf.fit(epochs, model, loss_func, opt, *args, echo=None, **options)


def resumed(train, folder, steps):
    """Return a training that was stopped after some steps, and resumed by new objects."""
    train(callbacks=[StopAt(steps)], checkpoint=folder)
    return train(checkpoint=folder, resume=True)


def same(history, other):
    columns = {"seconds", "samples_per_second"}
    rows = [
        [{k: v for k, v in row.items() if k not in columns} for row in each.epochs]
        for each in (history, other)
    ]
    assert history.step_losses == other.step_losses
    assert rows[0] == rows[1]


# the length of an epoch


class Stream(IterableDataset):
    def __iter__(self):
        return iter(zip(X, Y, strict=True))


def loader(kind):
    if kind == "ours":
        return pf.get_data(DATA, DATA, 8)[0]
    if kind == "shuffled":
        return DataLoader(DATA, 8, shuffle=True)
    if kind == "stream":
        return DataLoader(Stream(), 8)
    listed = list(zip(X.split(8), Y.split(8), strict=True))
    return listed if kind == "list" else lambda: iter(listed)


KINDS = ["ours", "shuffled", "stream", "list", "function"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("steps", [4, 6, 15])
def test_an_epoch_of_so_many_steps_goes_on_where_the_last_one_ended(kind, steps):
    def train(**options):
        model, opt = linear()
        return quiet(3, model, opt, loader(kind), loader("list"), steps_per_epoch=steps, **options)

    model, opt = linear()
    dl, losses = loader(kind), []
    passes = itertools.chain.from_iterable((dl() if kind == "function" else dl) for _ in range(9))
    for xb, yb in itertools.islice(passes, 3 * steps):
        loss = F.cross_entropy(model(xb), yb)
        loss.backward()
        opt.step()
        opt.zero_grad()
        losses.append(loss.item())
    history = train()
    assert len(history) == 3
    assert all("valid_loss" in row for row in history)
    if kind == "stream":  # a pass begins with a draw from torch's generator, as in the hand loop
        assert len(history.step_losses) == len(losses)
    assert history.step_losses == losses


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stop", [2, 4, 7, 11])
def test_an_epoch_of_so_many_steps_is_resumed_within_its_pass(kind, stop, tmp_path):
    def train(**options):
        model, opt = linear()
        return quiet(4, model, opt, loader(kind), loader("list"), steps_per_epoch=4, **options)

    same(train(), resumed(train, tmp_path, stop))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("steps", [None, 4, 6])
def test_a_training_that_was_stopped_in_its_validation_is_resumed(kind, steps, tmp_path):
    class Stop(pf.Callback):
        observer = True

        def on_step_end(self, context):
            self.context = context

    stop = Stop()

    def valid():
        for number, batch in enumerate(loader("list")):
            if number == 2 and hasattr(stop, "context") and stop.context.epoch == 1:
                stop.context.stop = "the test"
            yield batch

    def train(**options):
        model, opt = linear()
        return quiet(3, model, opt, loader(kind), valid, steps_per_epoch=steps, **options)

    whole = train()
    stopped = train(callbacks=[stop], checkpoint=tmp_path)
    assert len(stopped) == 1
    del stop.context
    same(whole, train(checkpoint=tmp_path, resume=True))


def test_other_steps_per_epoch_are_refused_when_resumed(tmp_path):
    model, opt = linear()
    dl = loader("ours")
    quiet(1, model, opt, dl, steps_per_epoch=4, checkpoint=tmp_path)
    with pytest.raises(CheckpointError, match="steps_per_epoch was 4, is 5"):
        quiet(2, model, opt, dl, steps_per_epoch=5, checkpoint=tmp_path, resume=True)


@pytest.mark.parametrize("kind", KINDS)
def test_the_last_epoch_may_be_shorter(kind):
    model, opt = linear()
    history = quiet(None, model, opt, loader(kind), loader("list"), max_steps=8)
    assert len(history.step_losses) == 8
    assert len(history) == 2
    model, opt = linear()
    longer = quiet(2, model, opt, loader(kind), loader("list"))
    assert history.step_losses == longer.step_losses[:8]
    assert history[0]["valid_loss"] == longer[0]["valid_loss"]
    assert not history.unfinished
    assert not history.stopped


def test_more_steps_continue_the_training(tmp_path):
    model, opt = linear()
    quiet(None, model, opt, loader("shuffled"), max_steps=8, checkpoint=tmp_path)
    model, opt = linear()
    options = {"checkpoint": tmp_path, "resume": True}
    history = quiet(None, model, opt, loader("shuffled"), max_steps=13, **options)
    model, opt = linear()
    assert history.step_losses == quiet(3, model, opt, loader("shuffled")).step_losses[:13]


def test_schedules_by_name_go_over_the_steps_there_are():
    rates = []

    class Watch(pf.Callback):
        def on_step_end(self, context):
            rates.append(context.rate())

    for options in ({"steps_per_epoch": 5}, {"max_steps": 10}):
        model, opt = linear()
        quiet(2, model, opt, loader("stream"), schedule="linear", callbacks=[Watch()], **options)
    assert rates == [0.1 * pf.training.schedules.Linear(10)(step) for step in range(10)] * 2
    with pytest.raises(ConfigError, match="pass steps_per_epoch or max_steps"):
        quiet(2, *linear(), loader("stream"), schedule="linear")


@pytest.mark.parametrize("name", ["steps_per_epoch", "max_steps"])
@pytest.mark.parametrize("value", [0, -1, 2.5])
def test_numbers_of_steps_are_checked(name, value):
    with pytest.raises(ConfigError, match=f"{name} must be a whole number, 1 or more, got {value}"):
        quiet(2, *linear(), loader("list"), **{name: value})
    with pytest.raises(ConfigError, match="epochs may be None only with max_steps"):
        quiet(None, *linear(), loader("list"))


def test_a_generator_that_ends_within_an_epoch_leaves_its_row():
    model, opt = linear()
    once = (batch for batch in loader("list"))
    with pytest.raises(ValueError, match="got none in epoch 2"):
        quiet(5, model, opt, once, steps_per_epoch=4)


# several validation loaders


def test_the_columns_of_further_validation_loaders_have_their_names(tmp_path):
    valid = {"valid": loader("list"), "noisy": [(X + 1, Y)], "few": [(X[:3], Y[:3])]}

    def train(**options):
        model, opt = linear()
        train.model = model
        return quiet(2, model, opt, loader("ours"), valid, metrics=[pf.accuracy], **options)

    history = train()
    assert list(history[0]) == [
        "epoch", "train_loss", "valid_loss", "accuracy", "noisy_loss", "noisy_accuracy",
        "few_loss", "few_accuracy", "seconds", "samples_per_second",
    ]  # fmt: skip
    for name, prefix in {"noisy": "noisy_", "few": "few_"}.items():
        wanted = pf.validate(train.model, F.cross_entropy, valid[name], metrics=[pf.accuracy])
        assert {k: history[-1][prefix + k] for k in wanted} == wanted
    same(history, resumed(train, tmp_path, 7))


# values beside a loss


def vae_loss(out, yb):
    error = F.cross_entropy(out, yb)
    size = out.square().mean()
    return error + 0.1 * size, {"error": error, "size": size}


@pytest.mark.parametrize("form", ["pair", "mapping", "sum"])
def test_values_beside_a_loss_become_columns(form, tmp_path):
    def loss_func(out, yb):
        loss, values = vae_loss(out, yb)
        if form == "mapping":
            return {**values, "loss": loss}
        return (loss, values) if form == "pair" else {"a": values["error"], "b": values["size"]}

    names = ["a", "b"] if form == "sum" else ["error", "size"]

    def train(**options):
        model, opt = linear()
        train.model = model
        return quiet(2, model, opt, loader("list"), [(X, Y)], loss_func=loss_func, **options)

    history = train()
    columns = [f"{part}_{name}" for part in ("train", "valid") for name in names]
    assert [k for k in history[0] if k in columns] == columns
    train.model.eval()
    with torch.no_grad():
        loss, values = vae_loss(train.model(X), Y)
    row = history[-1]
    assert [row[f"valid_{name}"] for name in names] == [value.item() for value in values.values()]
    if form != "sum":
        assert row["valid_loss"] == loss.item()
        beside = row["train_error"] + 0.1 * row["train_size"]
        assert row["train_loss"] == pytest.approx(beside, rel=1e-6)
    else:
        assert row["train_loss"] == pytest.approx(row["train_a"] + row["train_b"], rel=1e-6)
    same(history, resumed(train, tmp_path, 3))


def test_lbfgs_takes_values_too():
    model = nn.Linear(3, 2)
    opt = optim.LBFGS(model.parameters(), max_iter=3)
    with torch.no_grad():
        first = vae_loss(model(X), Y)[1]["size"].item()
    history = quiet(1, model, opt, [(X, Y)], loss_func=vae_loss)
    assert history[0]["train_size"] == first


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ((torch.tensor(1.0), torch.tensor(2.0)), "got a tuple"),
        (None, "got a NoneType"),
        ({}, "got a dict"),
        ([torch.tensor(1.0)], "got a list"),
    ],
)
def test_a_loss_of_another_form_is_refused(given, says):
    with pytest.raises(ConfigError, match=f"loss_func must return the mean loss .*{says}"):
        quiet(1, *linear(), loader("list"), loss_func=lambda out, yb: given)


def test_other_names_in_a_later_batch_are_refused():
    names = iter("aab")
    with pytest.raises(ConfigError, match=r"same names in every batch, got b after a"):
        quiet(1, *linear(), loader("list"),
              loss_func=lambda out, yb: (F.cross_entropy(out, yb), {next(names): 1.0}))  # fmt: skip


def test_metrics_of_training_batches_are_means_over_the_epoch(tmp_path):
    seen = []

    def hits(out, yb):
        assert not torch.is_grad_enabled()
        seen.append((out.argmax(1) == yb).float())
        return seen[-1].mean()

    def train(**options):
        model, opt = linear()
        metrics = {"train_metrics": [hits, "accuracy"], "metrics": ["accuracy"]}
        return quiet(2, model, opt, loader("list"), [(X, Y)], **metrics, **options)

    history = train()
    columns = ["train_loss", "train_hits", "train_accuracy", "valid_loss", "accuracy"]
    assert list(history[0])[1:6] == columns
    wanted = torch.cat(seen[-6:]).mean().item()
    assert history[-1]["train_hits"] == pytest.approx(wanted, rel=1e-6)
    model, opt = linear()
    assert history.step_losses == quiet(2, model, opt, loader("list")).step_losses
    same(history, resumed(train, tmp_path, 8))


# a step of one's own


class Gan(nn.Module):
    def __init__(self):
        super().__init__()
        self.make, self.judge = nn.Linear(2, 3), nn.Linear(3, 1)

    def forward(self, noise):
        return self.make(noise)


def gan_step(model, batch, opt):
    (real, _), noise = batch, torch.randn(8, 2)
    losses = {}
    for name, loss_of in (
        ("judge", lambda: F.softplus(model.judge(model.make(noise).detach())).mean()
         + F.softplus(-model.judge(real)).mean()),
        ("make", lambda: F.softplus(-model.judge(model.make(noise))).mean()),
    ):  # fmt: skip
        losses[name] = loss_of()
        losses[name].backward()
        opt[name].step()
        for each in opt.values():
            each.zero_grad()
    return losses


@pytest.mark.parametrize("container", [dict, list])
def test_two_optimizers_train_in_a_step_of_ones_own(container, tmp_path):
    def train(loop=None, **options):
        torch.manual_seed(0)
        model = Gan()
        opts = {
            "judge": optim.Adam(model.judge.parameters(), lr=0.01),
            "make": optim.SGD(model.make.parameters(), lr=0.05, momentum=0.5),
        }
        given, step = opts, gan_step
        if container is list:
            given = list(opts.values())
            step = lambda model, batch, opt: gan_step(model, batch, opts)  # noqa: E731
        if loop:
            return loop(model, opts), model
        train.model = model
        return pf.fit(3, model, None, given, loader("ours"), step=step, echo=None, **options)

    def by_hand(model, opts):
        dl = loader("ours")
        return [
            {name: loss.item() for name, loss in gan_step(model, batch, opts).items()}
            for _ in range(3)
            for batch in dl
        ]

    losses, model = train(by_hand)
    history = train()
    sums = [torch.tensor(each["judge"]) + torch.tensor(each["make"]) for each in losses]
    assert history.step_losses == [each.item() for each in sums]
    assert all(map(torch.equal, train.model.parameters(), model.parameters()))
    sizes = [8] * 5 + [4]
    for name in ("judge", "make"):
        last = [each[name] for each in losses[-6:]]
        mean = sum(n * value for n, value in zip(sizes, last, strict=True)) / 44
        assert history[-1][f"train_{name}"] == pytest.approx(mean, rel=1e-12)
    same(history, resumed(train, tmp_path, 8))


def sam_step(model, batch, opt):
    """Sharpness-aware minimization (Foret 2021, arXiv:2010.01412): two gradients in a step."""
    xb, yb = batch
    loss = F.cross_entropy(model(xb), yb)
    loss.backward()
    parameters = list(model.parameters())
    norm = torch.stack([p.grad.norm() for p in parameters]).norm()
    with torch.no_grad():
        moves = [0.05 * p.grad / norm for p in parameters]
        for parameter, move in zip(parameters, moves, strict=True):
            parameter.add_(move)
    model.zero_grad()
    F.cross_entropy(model(xb), yb).backward()
    with torch.no_grad():
        for parameter, move in zip(parameters, moves, strict=True):
            parameter.sub_(move)
    opt.step()
    opt.zero_grad()
    return loss


def test_a_step_with_two_gradients_equals_the_loop_by_hand(tmp_path):
    def train(**options):
        model, opt = linear()
        train.model = model
        valid = loader("list")
        return quiet(2, model, opt, loader("ours"), valid, step=sam_step, schedule="cosine",
                     **options)  # fmt: skip

    history = train()
    model, opt = linear()
    dl, losses = loader("ours"), []
    cosine = pf.training.schedules.Cosine(12)
    for _ in range(2):
        for batch in dl:
            opt.param_groups[0]["lr"] = 0.1 * cosine(len(losses))
            losses.append(sam_step(model, batch, opt).item())
    assert history.step_losses == losses
    assert all(map(torch.equal, train.model.parameters(), model.parameters()))
    same(history, resumed(train, tmp_path, 5))


def test_what_changes_the_inside_of_a_step_is_refused_with_ones_own():
    for callback in (pf.GradientClipping(1.0), pf.GradientAccumulation(2)):
        with pytest.raises(ConfigError, match=f"step replaces .*{type(callback).__name__} needs"):
            quiet(1, *linear(), loader("list"), step=sam_step, callbacks=[callback])
    for options in ({"precision": "bf16"}, {"compile": True}, {"train_metrics": [pf.accuracy]}):
        with pytest.raises(ConfigError, match="step computes losses itself"):
            quiet(1, *linear(), loader("list"), step=sam_step, **options)


def test_a_loss_of_ones_own_step_that_is_not_finite_stops_the_training():
    values = iter([1.0, 2.0, math.nan, 1.0])
    with pytest.raises(NonFiniteError, match=r"is nan in epoch 0, step 2; seen after step 2"):
        quiet(1, *linear(), loader("list"), step=lambda model, batch, opt: next(values))


# losses that are modules


class Weighted(nn.Module):
    """Learned weights of two losses (Kendall 2018, arXiv:1705.07115), with a buffer of its own."""

    def __init__(self):
        super().__init__()
        self.scales = nn.Parameter(torch.zeros(2))
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, out, yb):
        if self.training:
            self.calls += 1
        losses = (out - F.one_hot(yb, 2)).square().mean(0)
        return ((-self.scales).exp() * losses + self.scales).sum()


@pytest.mark.parametrize("kind", ["module", "closure"])
@pytest.mark.parametrize("stop", [3, 6, 8])
def test_the_parameters_of_a_loss_are_resumed(kind, stop, tmp_path):
    def train(**options):
        torch.manual_seed(0)
        model, loss = nn.Linear(3, 2), Weighted()
        opt = optim.SGD([*model.parameters(), *loss.parameters()], lr=0.1, momentum=0.9)
        train.loss = loss
        loss_func = loss if kind == "module" else lambda out, yb: loss(out, yb)
        accumulation = pf.GradientAccumulation(2)
        options["callbacks"] = [accumulation, *options.get("callbacks", [])]
        valid = loader("list") if kind == "module" else None  # else its mode is not known
        return quiet(2, model, opt, loader("ours"), valid, loss_func=loss_func, **options)

    history = train()
    scales, calls = train.loss.scales.clone(), train.loss.calls.clone()
    assert not torch.equal(scales, torch.zeros(2))
    same(history, resumed(train, tmp_path, stop))
    assert torch.equal(train.loss.scales, scales)
    if kind == "module":
        assert torch.equal(train.loss.calls, calls)


def test_lr_find_leaves_a_loss_as_it_was():
    for wrap in (lambda loss: loss, lambda loss: lambda out, yb: loss(out, yb)):
        model, loss = nn.Linear(3, 2), Weighted()
        opt = optim.SGD([*model.parameters(), *loss.parameters()], lr=0.1)
        pf.lr_find(model, wrap(loss), opt, loader("list"))
        assert torch.equal(loss.scales, torch.zeros(2))


def test_a_loss_with_other_tensors_cannot_continue_a_training(tmp_path):
    weights = torch.tensor([1.0, 2.0])
    model, opt = linear()
    options = {"checkpoint": tmp_path, "loss_func": nn.CrossEntropyLoss(weight=weights)}
    quiet(1, model, opt, loader("list"), **options)
    options["loss_func"] = nn.CrossEntropyLoss(weight=weights + 1)
    with pytest.raises(CheckpointError, match="first tensors of the loss was"):
        quiet(2, model, opt, loader("list"), **options, resume=True)


def test_a_loss_is_moved_to_the_device_of_the_model():
    class Moved(nn.Module):
        def to(self, device):
            self.device = device
            return self

        def forward(self, out, yb):
            return F.cross_entropy(out, yb)

    loss = Moved()
    quiet(1, *linear(), loader("list"), loss_func=loss)
    assert loss.device == torch.device("cpu")
