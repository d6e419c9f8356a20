"""All steps of an epoch as one program: equal to eager, resumed to the same bits, or refused.

The programs run here without a compiler, which `test_a_compiled_program` has.
"""

import os
import random
import signal
import threading
import time
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR, StepLR
from torch.utils.data import TensorDataset

import plainfit as pf
from plainfit.common.errors import ConfigError, NonFiniteError
from plainfit.training.callbacks import (
    Averaging,
    Checkpointing,
    GradientAccumulation,
    GradientClipping,
    StepLog,
    TimeLimit,
    Unfreezing,
)
from plainfit.training.hooks import Callback
from plainfit.training.tracing import traced

SAMPLES, BATCH = 90, 16


@pytest.fixture(autouse=True)
def interpreted(monkeypatch):
    """Programs that Python runs, step by step."""

    def loop(goes_on, step, carried):
        while goes_on(*carried):
            before, carried = carried, step(*carried)
            assert [t.stride() for t in before] == [t.stride() for t in carried]
        return carried

    monkeypatch.setattr("plainfit.training.program.while_loop", loop)
    monkeypatch.setattr("plainfit.training.ranges.compiled", lambda steps, *_: (steps, "here"))


class Net(nn.Module):
    def __init__(self, dropout=0.1):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.lin = nn.Linear(144, 10)
        self.dropout = dropout

    def forward(self, xb):
        out = F.relu(self.norm(self.conv(xb))).flatten(1)
        return self.lin(F.dropout(out, self.dropout, self.training))


def made(**options):
    torch.manual_seed(0)
    return Net(**options).double()


def arrays():
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(SAMPLES, 1, 8, 8, dtype=torch.float64, generator=generator)
    return x, torch.randint(10, (SAMPLES,), generator=generator)


def loaders(**options):
    return pf.get_data(TensorDataset(*arrays()), None, BATCH, **options)[0]


def train(model, opt, compile, *, epochs=5, loss_func=F.cross_entropy, dl=None, **options):
    """Return the history and the notes; the global generator starts the same."""
    lines = []
    torch.manual_seed(2)
    dl = loaders() if dl is None else dl
    history = pf.fit(
        epochs, model, loss_func, opt, dl, compile=compile, echo=lines.append, **options
    )
    return history, [line for line in lines if line.startswith("note")]


def is_program(notes):
    return notes[-1].startswith("note   the steps of an epoch are one program")


def sgd(model, **options):
    return torch.optim.SGD(model.parameters(), **{"lr": 0.01, "momentum": 0.9} | options)


def grouped(model):
    groups = [{"params": [*model.conv.parameters()], "lr": 0.01}]
    groups += [{"params": [*model.lin.parameters()], "weight_decay": 0.1, "momentum": 0.5}]
    return torch.optim.SGD(groups, lr=0.05)


def frozen(model):
    model.conv.requires_grad_(False)
    return sgd(model)


def optimizer(kind, **options):
    return lambda model: kind(model.parameters(), **options)


def same(ours, theirs):
    return all(map(torch.equal, ours.state_dict().values(), theirs.state_dict().values()))


WEIGHTS = torch.linspace(0.5, 2, 10, dtype=torch.float64)
SMOOTH = partial(F.cross_entropy, label_smoothing=0.1, weight=WEIGHTS)


def loss_and_value(out, yb):
    return F.cross_entropy(out, yb), {"size": out.square().mean()}


CASES = {
    "SGD": (optimizer(torch.optim.SGD, lr=0.1), {}),
    "momentum": (sgd, {}),
    "Nesterov": (partial(sgd, nesterov=True, weight_decay=0.01), {"schedule": "one-cycle"}),
    "dampening": (partial(sgd, dampening=0.1, maximize=False), {"schedule": "cosine"}),
    "Adam": (optimizer(torch.optim.Adam), {"schedule": "one-cycle"}),
    "Adam, amsgrad": (optimizer(torch.optim.Adam, amsgrad=True, weight_decay=0.1), {}),
    "AdamW": (optimizer(torch.optim.AdamW, betas=(0.8, 0.99)), {}),
    "RMSprop": (optimizer(torch.optim.RMSprop, momentum=0.5, centered=True, lr=1e-3), {}),
    "Adagrad": (optimizer(torch.optim.Adagrad), {}),
    "Adadelta": (optimizer(torch.optim.Adadelta), {}),
    "Adamax": (optimizer(torch.optim.Adamax), {}),
    "groups": (grouped, {"schedule": "warmup-cosine"}),
    "frozen": (frozen, {}),
    "clipping": (sgd, {"callbacks": lambda: [GradientClipping(0.5)]}),
    "by epoch": (sgd, {"schedule": lambda opt: StepLR(opt, 3)}),
    "by step": (sgd, {"schedule": lambda opt: OneCycleLR(opt, 0.02, total_steps=121)}),
    "a function": (
        sgd,
        {"schedule": lambda opt: LambdaLR(opt, lambda i: 1 / (1 + i)), "schedule_by": "step"},
    ),
    "weights and smoothing": (sgd, {"loss_func": SMOOTH}),
    "values": (sgd, {"loss_func": loss_and_value, "train_metrics": ["accuracy"]}),
    "unfreezing": (sgd, {"callbacks": lambda: [Unfreezing([["conv", "norm"], ["lin"]], 4)]}),
    "accumulation": (sgd, {"callbacks": lambda: [GradientAccumulation(4)]}),
    "all of them": (
        optimizer(torch.optim.AdamW),
        {
            "callbacks": lambda: [GradientAccumulation(2), GradientClipping(0.5), Averaging(0.9)],
            "schedule": "one-cycle",
        },
    ),
    "averaging": (sgd, {"callbacks": lambda: [Averaging(0.99), GradientClipping(0.5)]}),
    "averaging later": (sgd, {"callbacks": lambda: [Averaging(0.9, start=2)]}),
    "mean of epochs": (sgd, {"callbacks": lambda: [Averaging(None, start=1)]}),
    "steps per epoch": (sgd, {"steps_per_epoch": 7, "max_steps": 100}),
}


SOME = (
    "Nesterov", "by step", "weights and smoothing", "values", "unfreezing", "all of them",
    "steps per epoch",
)  # fmt: skip


@pytest.mark.parametrize(
    ("name", "epochs"),
    [*((name, 5) for name in SOME)]
    + [pytest.param(name, 20, marks=pytest.mark.soak) for name in CASES],
)
def test_a_program_is_what_eager_computes(name, epochs):
    make, options = CASES[name]
    models, found = [], []
    for compile in (False, "epoch"):
        model = made()
        opt = make(model)
        given = dict(options)
        if callable(schedule := given.get("schedule")):
            given["schedule"] = schedule(opt)
        if "callbacks" in given:
            given["callbacks"] = given["callbacks"]()
        history, notes = train(model, opt, compile, epochs=epochs, **given)
        models.append(model)
        found.append((history, opt))
    (eager, opt), (ours, own) = found
    assert is_program(notes)
    assert len(ours.step_losses) >= 5 * epochs
    assert ours.step_losses == pytest.approx(eager.step_losses, rel=1e-12, abs=1e-12)
    for a, b in zip(*(model.state_dict().values() for model in models), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    for a, b in zip(eager.epochs, ours.epochs, strict=True):
        timed = {"seconds", "samples_per_second"}
        assert {k: v for k, v in a.items() if k not in timed} == pytest.approx(
            {k: v for k, v in b.items() if k not in timed}, rel=1e-12
        )
    assert [g["lr"] for g in opt.param_groups] == [g["lr"] for g in own.param_groups]


def by_name():
    x, y = arrays()
    return pf.get_data({"xb": x, "target": y}, None, BATCH)[0]


def rows_of_subset():
    part = torch.utils.data.Subset(TensorDataset(*arrays()), range(5, 75))
    return pf.get_data(part, None, BATCH)[0]


def one_by_one():
    class Each(torch.utils.data.Dataset):
        def __len__(self):
            return SAMPLES

        def __getitem__(self, row):
            x, y = arrays()
            return x[row] + torch.rand(()), y[row]

    return pf.get_data(Each(), None, BATCH)[0]


LOADERS = {
    "in order": partial(loaders, shuffle=False, drop_last=True),
    "a part": rows_of_subset,
    "by name": by_name,
    "augmented": partial(loaders, augment="translate=0.1,mixup"),
    "one by one": one_by_one,
    "wrapped": lambda: pf.WrappedDataLoader(loaders(), lambda xb, yb: (xb * 2, yb)),
}


@pytest.mark.parametrize("name", LOADERS)
def test_batches_of_any_loader_of_ours(name):
    options = {"target": "target"} if name == "by name" else {}
    losses = []
    for compile in (False, "epoch"):
        model = made().to(torch.float32 if name == "by name" else torch.float64)
        history, notes = train(model, sgd(model), compile, dl=LOADERS[name](), epochs=3, **options)
        losses.append(history.step_losses)
    assert is_program(notes)
    assert losses[1] == pytest.approx(losses[0], rel=1e-5 if name == "by name" else 1e-12)


def test_a_program_with_channels_last_keeps_its_strides():
    """The compiler asks for that, and so does `interpreted`; (4, 1, 3, 3) has two that fit."""
    model = made().to(memory_format=torch.channels_last)
    _, notes = train(model, sgd(model), "epoch", epochs=1)
    assert is_program(notes)


def test_bytes_are_gathered_as_bytes():
    x = torch.randint(256, (SAMPLES, 1, 8, 8), dtype=torch.uint8)
    losses = []
    for compile in (False, "epoch"):
        torch.manual_seed(0)
        model = Net(dropout=0)
        dl = pf.get_data(pf.ImageDataset(x, arrays()[1]), None, BATCH)[0]
        history, notes = train(model, sgd(model), compile, dl=dl, epochs=3)
        losses.append(history.step_losses)
    assert is_program(notes)
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


def test_lower_precision_is_within_the_program():
    losses = []
    for compile in (False, "epoch"):
        model = made(dropout=0).float()
        x, y = arrays()
        dl = pf.get_data(TensorDataset(x.float(), y), None, BATCH)[0]
        history, notes = train(model, sgd(model), compile, dl=dl, epochs=2, precision="bf16")
        losses.append(history.step_losses)
    assert is_program(notes)
    assert losses[1] == pytest.approx(losses[0], rel=1e-2)


def options_of_resume(name, folder, **others):
    several = [GradientAccumulation(4), GradientClipping(0.5), Averaging(0.9)]
    callbacks = {"several": [*several, StepLog(folder / "steps.csv")]}
    return {"callbacks": callbacks.get(name, []), "checkpoint": folder / "checkpoints", **others}


@pytest.mark.parametrize("stops", [(6,), pytest.param(range(1, 18), marks=pytest.mark.soak)])
@pytest.mark.parametrize("name", ["several", "augmented"])
def test_a_program_resumes_to_the_same_bits_at_every_step(name, stops, tmp_path):
    def trained(folder, **options):
        model = made()
        dl = LOADERS["augmented"]() if name == "augmented" else loaders()
        options = options_of_resume(name, folder, schedule="one-cycle", epochs=3, dl=dl, **options)
        return model, train(model, sgd(model), "epoch", **options)[0].step_losses

    folder = tmp_path / "whole"
    folder.mkdir()
    whole, losses = trained(folder)
    for stop in stops:

        class Stop(Callback):
            in_program, every_steps = "after", stop

            def on_step_end(self, context):
                if context.global_step == self.every_steps:
                    context.stop = "here"

        folder = tmp_path / f"{stop}"
        folder.mkdir()
        model = made()
        dl = LOADERS["augmented"]() if name == "augmented" else loaders()
        options = options_of_resume(name, folder, schedule="one-cycle", epochs=3, dl=dl)
        options["callbacks"] = [*options["callbacks"], Stop()]
        history, _ = train(model, sgd(model), "epoch", **options)
        assert len(history.step_losses) == stop
        resumed, again = trained(folder, resume=True)
        assert again == losses
        assert same(resumed, whole)
    if name == "several":
        logs = [(tmp_path / each / "steps.csv").read_text() for each in ("whole", str(stop))]
        assert logs[0] == logs[1]


@pytest.mark.parametrize(
    ("when", "number", "raised"),
    [
        ("while compiling", signal.SIGINT, KeyboardInterrupt),
        ("while tracing", signal.SIGTERM, SystemExit),
    ],
)
def test_a_signal_ends_compiling_at_once(when, number, raised, tmp_path, monkeypatch):
    def compiled(*_):
        assert when == "while compiling"
        threading.Timer(0.1, send).start()
        time.sleep(60)

    def send():
        sent.append(time.monotonic())
        os.kill(os.getpid(), number)

    def signalled(*args):
        send()
        return traced(*args)

    sent, whole, stopped, resumed = [], made(), made(), made()
    losses = train(whole, sgd(whole), "epoch", epochs=2)[0].step_losses
    with monkeypatch.context() as patch:
        patch.setattr("plainfit.training.ranges.compiled", compiled)
        if when == "while tracing":
            patch.setattr("plainfit.training.ranges.traced", signalled)
        with pytest.raises(raised):
            train(stopped, sgd(stopped), "epoch", epochs=2, checkpoint=tmp_path)
    assert time.monotonic() - sent[0] < 20
    options = {"checkpoint": tmp_path, "resume": True}
    assert train(resumed, sgd(resumed), "epoch", epochs=2, **options)[0].step_losses == losses
    assert same(resumed, whole)


def test_the_bits_do_not_depend_on_the_ranges(monkeypatch):
    found = []
    for seconds in (1e-9, 10):
        monkeypatch.setattr("plainfit.training.ranges.SECONDS", seconds)
        model = made()
        found.append((train(model, sgd(model), "epoch", epochs=3)[0].step_losses, model))
    assert found[0][0] == found[1][0]
    assert same(found[0][1], found[1][1])


def test_a_loss_that_is_not_finite_stops_before_its_update():
    def trained(compile):
        model = made(dropout=0.5)
        x, y = arrays()
        dl = pf.get_data(TensorDataset(x, y), None, BATCH)[0]
        x[dl.order()[3 * BATCH + 5]] = torch.nan  # read in step 3
        with pytest.raises(NonFiniteError) as caught:
            train(model, sgd(model), compile, dl=dl)
        return str(caught.value), model.conv.weight

    (eager, theirs), (message, ours) = trained(False), trained("epoch")
    assert "epoch 0, step 3" in message
    assert message == eager
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_gradients_that_are_not_finite_stop_before_the_step():
    class Overflow(nn.Module):
        def __init__(self):
            super().__init__()
            self.lin = nn.Linear(3, 2).double()

        def forward(self, xb):
            return self.lin(xb).sqrt()  # at 0, the gradient is infinite

    def trained(compile):
        torch.manual_seed(0)
        model = Overflow()
        nn.init.ones_(model.lin.weight)
        nn.init.zeros_(model.lin.bias)
        x = torch.rand(20, 3, dtype=torch.float64)
        dl = pf.get_data(TensorDataset(x, torch.randint(2, (20,))), None, 2)[0]
        x[dl.order()[9]] = 0
        opt = torch.optim.SGD(model.parameters(), lr=1e-9)
        with pytest.raises(NonFiniteError) as caught:
            train(model, opt, compile, dl=dl, callbacks=[GradientClipping(1.0)])
        return str(caught.value)

    assert trained("epoch") == trained(False)
    assert "epoch 0, step 4" in trained("epoch")


def test_a_batch_without_labels_is_no_reason_to_stop():
    x, y = arrays()
    dl = pf.get_data(TensorDataset(x, y), None, BATCH)[0]
    y[dl.order()[2 * BATCH : 3 * BATCH]] = -100
    rows = []
    for compile in (False, "epoch"):
        model = made()
        dl = pf.get_data(TensorDataset(x, y), None, BATCH)[0]
        rows.append(train(model, sgd(model), compile, dl=dl, epochs=1)[0][-1]["train_loss"])
    assert rows[1] == pytest.approx(rows[0], rel=1e-12)


def test_without_the_guard_it_goes_on():
    model = made()
    x, y = arrays()
    x[0] = torch.nan
    dl = pf.get_data(TensorDataset(x, y), None, BATCH)[0]
    history, notes = train(model, sgd(model), "epoch", dl=dl, epochs=2, check_finite=False)
    assert is_program(notes)
    assert history.step_losses[-1] != history.step_losses[-1]


class EachStep(Callback):
    def on_step_end(self, context):
        pass


class Counts(Net):
    calls = 0

    def forward(self, xb):
        self.calls += 1
        return super().forward(xb)


class Draws(Net):
    def forward(self, xb):
        return super().forward(xb) * random.random()


class Assigns(Net):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, xb):
        out = super().forward(xb)
        self.mean = 0.9 * self.mean + out.detach().mean()
        return out - self.mean


class Keeps(Net):
    def __init__(self):
        super().__init__()
        self.mean = torch.zeros(())

    def forward(self, xb):
        out = super().forward(xb)
        self.mean.mul_(0.9).add_(out.detach().mean())
        return out - self.mean


class Branches(Net):
    def forward(self, xb):
        out = super().forward(xb)
        return out if out.sum() > 0 else -out


class Hidden(Net):
    def __init__(self):
        super().__init__()
        self.weights = [self.double().lin.weight.detach()]

    def forward(self, xb):
        return super().forward(xb) + self.weights[0].sum()


def hooked():
    model = Net()
    model.lin.register_forward_hook(lambda *_: None)
    return model


@pytest.mark.parametrize(
    ("model", "reason", "options"),
    [
        (Net, "EachStep is called in each step", {"callbacks": lambda: [EachStep()]}),
        (hooked, "the layer lin has hooks", {}),
        (Counts, "Counts.calls changes in each step", {}),
        (Assigns, "Assigns.mean changes in each step", {}),
        (Draws, "a step draws random numbers of Python or NumPy", {}),
        (Keeps, "a tensor that is no buffer changes in each step", {}),
        (Hidden, "is trained is used by another name", {}),
        (Branches, "a step depends on the value of a tensor, as by `if` or `item()`", {}),
        (Net, "the optimizer is NAdam", {"opt": torch.optim.NAdam}),
        (Net, "the order of the batches is not known before", {"dl": lambda: list(loaders())}),
    ],
)  # fmt: skip
def test_what_is_no_program_says_why_and_trains_as_before(model, reason, options, monkeypatch):
    monkeypatch.setattr("torch.compile", lambda *_, **__: pytest.fail("as one graph a step"))
    found = []
    for compile in (False, "epoch"):
        torch.manual_seed(0)
        ours = model().double()
        given = {name: make() for name, make in options.items() if name != "opt"}
        opt = options.get("opt", torch.optim.SGD)(ours.parameters(), lr=0.01)
        torch.manual_seed(2)
        random.seed(1)
        ours.train()
        given = {"dl": loaders(), **given}
        history, notes = train(ours, opt, compile, epochs=1, **given)
        found.append((history.step_losses, ours))
        random.seed(1)
    assert notes[-1].startswith("note   the steps of an epoch cannot be one program: ")
    assert reason in notes[-1]
    assert found[0][0] == found[1][0]
    assert same(found[0][1], found[1][1])
    assert getattr(ours, "calls", 6) == 6


def test_a_subclass_that_looks_at_each_step_is_called_in_each():
    class Mine(TimeLimit):
        def on_step_end(self, context):
            seen.append(context.step)

    seen, model = [], made()
    _, notes = train(model, sgd(model), "epoch", epochs=1, callbacks=[Mine(1000)])
    assert "Mine is called in each step" in notes[0]
    assert seen == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("observer", [False, True])
def test_a_step_is_traced_again_in_each_epoch_unless_callbacks_observe(observer, monkeypatch):
    checked = []
    monkeypatch.setattr("plainfit.training.ranges.Program.check", lambda *_: checked.append(1))
    callback = Callback()
    callback.observer = observer
    monkeypatch.setattr(Callback, "__module__", "mine")
    model = made()
    train(model, sgd(model), "epoch", epochs=3, callbacks=[callback])
    assert len(checked) == 2 * (not observer)


@pytest.mark.parametrize("changes", [False, True])
def test_a_step_that_changes_by_epoch_is_no_program(changes, monkeypatch):
    """As where the weight of a part of the loss grows."""
    monkeypatch.setattr("torch.compile", lambda function, **_: function)

    class Grow(Callback):
        def on_epoch_start(self, context):
            context.model.weight = context.epoch * changes

    class Weighted(Net):
        weight = 0

        def forward(self, xb):
            return super().forward(xb) * (1 + self.weight)

    losses = []
    for compile in (False, "epoch"):
        torch.manual_seed(0)
        model = Weighted().double()
        history, notes = train(model, sgd(model), compile, epochs=3, callbacks=[Grow()])
        losses.append(history.step_losses)
    assert any("changes from one epoch to another" in note for note in notes) == changes
    assert losses[1] == pytest.approx(losses[0], rel=1e-12)


def test_checkpoints_are_of_their_step(tmp_path):
    saved = []
    for compile in (False, "epoch"):
        model = made()
        keeper = Checkpointing(tmp_path / f"{compile}", every_steps=4, keep=9)
        train(model, sgd(model), compile, epochs=2, checkpoint=keeper)
        saved.append(sorted(path.name[:12] for path in (tmp_path / f"{compile}").iterdir()))
    assert saved[0] == saved[1]


def test_batches_of_several_shapes_are_no_program(monkeypatch):
    monkeypatch.setattr("torch.compile", lambda function, **_: function)

    class Lengths(torch.utils.data.Dataset):
        def __len__(self):
            return 12

        def __getitem__(self, row):
            return torch.ones(1 + row // 6, 3, dtype=torch.float64), row % 2

    losses = []
    for compile in (False, "epoch"):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 2)).double()
        dl = pf.get_data(Lengths(), None, 2, shuffle=False)[0]
        loss_func = lambda out, yb: F.cross_entropy(out.mean(1), yb)  # noqa: E731
        history, notes = train(
            model, sgd(model, lr=0.5), compile, dl=dl, epochs=2, loss_func=loss_func
        )
        losses.append(history.step_losses)
    assert any("not all batches have the same shape" in note for note in notes)
    assert losses[1] == pytest.approx(losses[0], rel=1e-12)


def test_compile_is_one_of_two_forms():
    model = made()
    with pytest.raises(ConfigError, match="compile unknown form 'epochs'"):
        train(model, sgd(model), "epochs")
