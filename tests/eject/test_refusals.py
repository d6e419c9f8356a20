"""What cannot become a script says where, why, and what to do."""

import numpy
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn, optim
from torch.nn.utils import parametrizations
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    RandomSampler,
    SubsetRandomSampler,
    TensorDataset,
)

import plainfit as pf
from ejecting import differing, run_here
from plainfit.common.errors import ConfigError, EjectError, PlainfitError
from plainfit.eject.lifting import Lifter
from plainfit.eject.values import expression
from plainfit.training.callbacks import (
    Averaging,
    GradientAccumulation,
    GradientClipping,
    LossScaling,
    TorchScheduler,
)


class Net(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.a = nn.Linear(6, width)
        self.b = nn.Linear(width, 3)

    def forward(self, x):
        return self.b(F.relu(self.a(x)))


class Forgetful(nn.Module):
    """Does not keep what it is made with."""

    def __init__(self, width):
        super().__init__()
        self.a = nn.Linear(6, width)

    def forward(self, x):
        return self.a(x)


class Last(nn.Module):
    def forward(self, x):
        return x[0][:, -1]


class Noisy(Dataset):
    def __init__(self, x, y):
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return self.x[index] + torch.randn(6), self.y[index]


def sets(kind=TensorDataset):
    g = torch.Generator().manual_seed(0)
    return [
        kind(torch.randn(n, 6, generator=g), torch.randint(3, (n,), generator=g)) for n in (20, 8)
    ]


def refused(path, model, *, opt=None, loss=F.cross_entropy, loaders=None, **options):
    """Train, and return why there is no script; nothing is written then."""
    opt = opt or optim.SGD(model.parameters(), lr=0.1)
    loaders = loaders or pf.get_data(*sets(), 8)
    history = pf.fit(1, model, loss, opt, *loaders, echo=None, **options)
    with pytest.raises(PlainfitError) as caught:
        history.run.eject(path, echo=None)
    assert list(path.parent.iterdir()) == []
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "train.py"


def made(target=Net):
    return pf.get_model(target, device="cpu")[0]


def test_hooks_patches_and_surgery(path):
    model = made()
    model.a.register_forward_hook(lambda *_: None)
    message = refused(path, model)
    assert message.startswith(f"{__file__}:")
    assert "a has forward hooks; do it in the class" in message
    model = made()
    model.b.forward = lambda x: x[:, :3]
    assert "the forward of b was replaced" in refused(path, model)
    for wrapped in (torch.compile(made(), backend="eager"), made(), Net()):
        wrapped.a = torch.compile(wrapped.a, backend="eager")
        message = refused(path, wrapped)
        assert message.startswith(f"{__file__}:")
        assert "torch.compile wraps " in message
        assert ", in place of compile='step'; do it in the class, or in a function" in message
    model = made()
    model.a = nn.Sequential(nn.Linear(6, 4))
    assert "the layer 'a.0' is in one of them only" in refused(path, model)
    model = made()
    model.b = nn.Linear(4, 5)
    assert "b.bias has another shape or type" in refused(path, model)
    model = made()
    parametrizations.weight_norm(model.a)
    assert "is in one of them only" in refused(path, model)


def test_a_model_that_was_trained_before(path):
    model = made()
    opt = optim.SGD(model.parameters(), lr=0.1)
    pf.fit(1, model, F.cross_entropy, opt, *pf.get_data(*sets(), 8), echo=None)
    assert "it was trained or changed before" in refused(path, model)


def test_an_optimizer_that_was_used_before(path):
    model = nn.Sequential(nn.Linear(6, 3))
    opt = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    pf.fit(1, model, F.cross_entropy, opt, *pf.get_data(*sets(), 8), echo=None)
    assert "this one had taken steps before; make a new one" in refused(path, model, opt=opt)


def test_lambdas_and_what_has_no_text(path):
    pair = [lambda a, b: (a**2).mean(), lambda a, b: a.mean()]
    assert "this line has 2 that match; define it with def" in refused(path, made(), loss=pair[0])
    names = {"nn": nn, "__name__": "typed_in"}
    exec("class Typed(nn.Linear):\n    pass\n", names)
    assert "define it at the top of a file" in refused(path, made(lambda: names["Typed"](6, 3)))


def test_closures_over_what_cannot_be_written_down(path):
    draws = torch.Generator().manual_seed(0)

    def noisy(out, y):
        return F.cross_entropy(out + torch.randn(out.shape, generator=draws), y)

    assert "cannot write down a Generator" in refused(path, made(), loss=noisy)


def test_tensors_and_any_arguments(path):
    loss = nn.CrossEntropyLoss(weight=torch.ones(3))
    loss.weight = loss.weight.to_sparse()
    with pytest.raises(EjectError, match="can write down a dense tensor, got one of layout"):
        expression(loss, Lifter())
    model = nn.Sequential(nn.Linear(6, 3), nn.Unflatten(1, (1, 3)), nn.RNN(3, 3), Last())
    assert "RNN was made, and it does not keep its argument args" in refused(path, model)


def test_closures_over_numbers_can(path):
    by = 0.25

    def smooth(out, y):
        return F.cross_entropy(out, y, label_smoothing=by)

    model = made()
    opt = optim.SGD(model.parameters(), lr=0.1)
    history = pf.fit(1, model, smooth, opt, *pf.get_data(*sets(), 8), echo=None)
    history.run.eject(path, verify=False, echo=None)
    assert "\nby = 0.25\n" in path.read_text()


def test_a_built_model_that_does_not_keep_its_arguments(path):
    message = refused(path, Forgetful(3))
    assert (
        "it does not keep its argument width; set self.width, or build it in a function" in message
    )


def verified(path, model, loss=F.cross_entropy, **options):
    """Train, and eject at both levels; the scripts give the training's losses."""
    opt = options.pop("opt", None) or optim.SGD(model.parameters(), lr=0.1)
    loaders = pf.get_data(*sets(), 8)
    history = pf.fit(3, model, loss, opt, *loaders, echo=None, **options)
    for level in ("data", "loop"):
        history.run.eject(path, level=level, echo=None, force=True)
        assert run_here(path)[0] == history.step_losses
    return path.read_text()


def test_a_lambda_becomes_a_function(path):
    by = 2.0
    doubled = lambda out, y: F.cross_entropy(out * by, y)  # noqa: E731
    text = verified(path, made(), doubled)
    assert "\nby = 2.0\n" in text
    assert "def doubled(out, y):\n    return F.cross_entropy(out * by, y)\n" in text


class OnlyA(Net):
    """Some layers get no gradients."""

    def forward(self, x):
        return self.a(x)


def test_a_step_without_gradients(path):
    model = made(OnlyA)
    history = pf.fit(
        1, model, F.cross_entropy, optim.SGD(model.b.parameters(), lr=0.1),
        *pf.get_data(*sets(), 8), precision="fp16", echo=None,
    )  # fmt: skip
    history.run.eject(path, echo=None)
    assert run_here(path)[0] == history.step_losses


def half(step):
    return 0.5**step


S = optim.lr_scheduler
SCHEDULERS = {
    "one-cycle": (lambda opt: S.OneCycleLR(opt, 0.2, 9), "OneCycleLR(opt, max_lr=0.2, total_st"),
    "one-cycle, all": (
        lambda opt: S.OneCycleLR(
            opt, [0.2], None, 3, 3, 0.4, "linear", True, 0.8, 0.9, 9, 77, True
        ),
        "max_momentum=0.9,\n    div_factor=9.0,\n    final_div_factor=77.0,\n",
    ),
    "function": (lambda opt: S.LambdaLR(opt, half), "LambdaLR(opt, lr_lambda=half)"),
    "factor": (lambda opt: S.MultiplicativeLR(opt, [half]), "lr_lambda=half)"),
    "restarts": (lambda opt: S.CosineAnnealingWarmRestarts(opt, 2, 2), "(opt, T_0=2, T_mult=2)"),
    "one, then another": (
        lambda opt: S.SequentialLR(
            opt, [S.ConstantLR(opt, 0.3, 2), S.ExponentialLR(opt, 0.9)], [2]
        ),
        "schedulers=[ConstantLR(opt, factor=0.3, total_iters=2), ExponentialLR(opt, gamma=0.9)],",
    ),
    "two at once": (
        lambda opt: S.ChainedScheduler([S.ConstantLR(opt, 0.3, 2), S.ExponentialLR(opt, 0.9)]),
        "schedulers=[ConstantLR(opt, factor=0.3, total_iters=2), ExponentialLR(opt, gamma=0.9)]",
    ),
    "step": (lambda opt: optim.lr_scheduler.StepLR(opt, 2, gamma=0.5), "StepLR(opt, step_size=2"),
    "cosine": (lambda opt: optim.lr_scheduler.CosineAnnealingLR(opt, 3), "T_max=3)"),
    "exponential": (lambda opt: optim.lr_scheduler.ExponentialLR(opt, 0.7), "gamma=0.7)"),
    "several": (lambda opt: optim.lr_scheduler.MultiStepLR(opt, [1, 2]), "milestones=[1, 2])"),
    "linear": (lambda opt: optim.lr_scheduler.LinearLR(opt, 0.5), "start_factor=0.5)"),
}


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("by", ["step", "epoch"])
def test_schedulers_of_torch_stay(name, by, path):
    make, written = SCHEDULERS[name]
    model = made()
    opt = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = TorchScheduler(make(opt), by)
    text = verified(path, model, opt=opt, callbacks=[scheduler])
    assert written in text
    assert "    scheduler.step()\n" in text


@pytest.mark.parametrize("min_lr", [[0.01, 0.04], 0.03])
def test_a_scheduler_by_the_validation_loss_and_groups(min_lr, path):
    model = made()
    opt = optim.Adam([{"params": model.a.parameters()}, {"params": model.b.parameters()}], lr=0.1)
    plateau = S.ReduceLROnPlateau(opt, factor=0.5, patience=0, threshold=0.5, min_lr=min_lr)
    text = verified(path, model, opt=opt, callbacks=[TorchScheduler(plateau)])
    assert f"patience=0, threshold=0.5, min_lr={min_lr})" in text
    assert "    scheduler.step(valid_loss)\n" in text
    assert opt.param_groups[1]["lr"] < 0.1


@pytest.mark.parametrize("groups", [1, 2])
def test_a_schedule_begins_at_the_rate_that_was_set_last(groups, path):
    model = made()
    parts = [model.a.parameters(), model.b.parameters()] if groups == 2 else [model.parameters()]
    opt = optim.SGD([{"params": part} for part in parts], lr=0.1)
    S.StepLR(opt, 2)  # leaves an `initial_lr` of 0.1
    for number, group in enumerate(opt.param_groups):
        group["lr"] = 0.03 * (1 + number)
    assert "LR = 0.1" not in verified(path, model, opt=opt, schedule="cosine")


def test_of_several_limits_the_first_level_that_works_is_named(path):
    model = made()
    opt = optim.SGD(model.parameters(), lr=0.1, fused=True)
    train_dl, valid_dl = DataLoader(sets()[0], 8), pf.get_data(*sets(), 8)[1]
    history = pf.fit(1, model, F.cross_entropy, opt, train_dl, valid_dl, echo=None)
    with pytest.raises(EjectError, match=r"stock DataLoader.*the lowest level that works is loop"):
        history.run.eject(path, level="optim", echo=None)


@pytest.mark.parametrize("fused", [True, False])
def test_what_needs_an_optimizer_of_torch(fused, path):
    model = made()
    opt = optim.SGD(model.parameters(), lr=0.1, fused=fused)
    schedule = None if fused else S.StepLR(opt, 2)
    loaders = pf.get_data(*sets(), 8)
    history = pf.fit(1, model, F.cross_entropy, opt, *loaders, schedule=schedule, echo=None)
    reason = "a fused SGD" if fused else "a scheduler of torch"
    with pytest.raises(EjectError, match=f"{reason}.*the lowest level that works is data"):
        history.run.eject(path, level="optim", echo=None)


def test_optimizers_and_schedulers(path):
    model = made()
    assert "LBFGS evaluates the loss several times in one; train" in refused(
        path, model, opt=optim.LBFGS(model.parameters(), lr=0.1)
    )
    model = made()
    opt = optim.SGD(model.parameters(), lr=0.1)
    message = refused(path, model, opt=opt, schedule=S.CyclicLR(opt, 0.01, 0.1, 2))
    assert "use one of plainfit.training.schedules" in message
    assert TorchScheduler.__name__ not in message
    model = made()
    opt = optim.SGD([*model.parameters(), nn.Parameter(torch.zeros(1))], lr=0.1)
    assert "this one holds others too; make them part of the model" in refused(path, model, opt=opt)


def test_data_that_cannot_be_read_again(path):
    noisy = pf.get_data(*sets(Noisy), 8)
    assert "gives other values the second time" in refused(path, made(), loaders=noisy)
    odd = [DataLoader(part, sampler=[[3, 1], [2]], batch_size=None) for part in sets()]
    assert "this DataLoader does not tell it; serve the data by plainfit.get_data" in refused(
        path, made(), loaders=odd
    )


def test_loaders_that_draw_in_a_way_of_their_own(path):
    train_ds, valid_ds = sets()
    rows = SubsetRandomSampler(numpy.arange(9).astype(object))
    loaders = DataLoader(train_ds, 8, sampler=rows), DataLoader(valid_ds, 8)
    assert "cannot write down a ndarray; use numbers, lists or tensors" in refused(
        path, made(), loaders=loaders
    )
    rows = BatchSampler(range(8), 3, False)
    loaders = DataLoader(train_ds, batch_sampler=rows), DataLoader(valid_ds, 8)
    assert "a DataLoader without a batch_sampler" in refused(path, made(), loaders=loaders)
    uneven = [[train_ds[:3], train_ds[3:9]], [valid_ds[:]]]
    assert "all of one size but the last" in refused(path, made(), loaders=uneven)


@pytest.mark.parametrize("kind", [RandomSampler, SubsetRandomSampler])
def test_a_generator_beside_that_of_the_sampler(kind, path):
    train_ds, valid_ds = sets()
    first, second = (torch.Generator().manual_seed(n) for n in (1, 2))
    sampler = kind(range(20), generator=first)
    loaders = DataLoader(train_ds, 8, sampler=sampler, generator=second), DataLoader(valid_ds, 8)
    assert "this DataLoader does not tell it" in refused(path, made(), loaders=loaders)


class Halve(pf.Callback):
    """Halves the gradients: what no script knows of."""

    def on_backward_end(self, context):
        for parameter in context.model.parameters():
            parameter.grad.mul_(0.5)


class Watch(pf.Callback):
    observer = True

    def on_step_end(self, context):
        self.rate = context.rate()


class Tighter(GradientClipping):
    """A subclass of a callback that a script knows, and it has a step of its own."""

    def on_step_start(self, context):
        self.max_norm /= 2
        super().on_step_start(context)


@pytest.mark.parametrize("callback", [Halve(), Tighter(1.0)])
def test_a_callback_that_may_change_the_training_is_refused(callback, path):
    message = refused(path, made(), callbacks=[callback])
    assert message.startswith(f"{__file__}:")
    assert f"the callback {type(callback).__name__} does to the training" in message
    assert "say so by `observer = True` in its class" in message


def test_an_observer_is_left_out_and_named(path):
    text = verified(path, made(), callbacks=[Watch()])
    assert "Left out, as they only observe: Watch." in " ".join(text.split())


def test_callbacks_in_an_order_that_a_script_does_not_have(path):
    message = refused(path, made(), callbacks=[GradientClipping(1.0), LossScaling()])
    assert "pass LossScaling first" in message
    assert "at most one GradientClipping" in refused(
        path, made(), callbacks=[GradientClipping(1.0), GradientClipping(2.0)]
    )
    verified(path, made(), callbacks=[LossScaling(), GradientClipping(0.5)])


class StopAt(Watch):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, context):
        if context.global_step == self.step:
            context.stop = "the test"


@pytest.mark.parametrize(
    "callback", [Averaging(None), Averaging(0.9, start=1), GradientAccumulation(2)]
)
@pytest.mark.parametrize("step", [1, 2, 5])
def test_a_training_that_stops_before_it_has_an_average(callback, step, path):
    model = made()
    callbacks = [callback, StopAt(step)]
    if isinstance(callback, GradientAccumulation):
        callbacks.append(Averaging(0.9))
    verified(path, model, callbacks=callbacks)
    assert differing(load_file(path.with_name("model.safetensors")), model.state_dict()) == []


@pytest.mark.parametrize("callbacks", [[], [Averaging(0.5)]])
@pytest.mark.parametrize(
    ("validates", "options"),
    [
        (True, {}),
        (True, {"patience": 1}),
        (True, {"monitor": "accuracy"}),
        (True, {"monitor": "train_loss", "mode": "max"}),
        (False, {}),
    ],
)
def test_the_best_weights(callbacks, validates, options, path):
    model = made()
    opt = optim.SGD(model.parameters(), lr=1.0)
    train_dl, valid_dl = pf.get_data(*sets(), 8)
    early = pf.EarlyStopping(**options, restore_best=True)
    history = pf.fit(
        4, model, F.cross_entropy, opt, train_dl, valid_dl if validates else None,
        metrics=[pf.accuracy], callbacks=[*callbacks, early], echo=None,
    )  # fmt: skip
    history.run.eject(path, echo=None)
    assert run_here(path)[0] == history.step_losses
    assert differing(load_file(path.with_name("model.safetensors")), model.state_dict()) == []
    assert early.weights_epoch == history.epochs.index(
        history.best(options.get("monitor"), options.get("mode"))
    )


def test_best_weights_by_what_a_script_does_not_compute_are_refused(path):
    model = made()
    opt = optim.SGD(model.parameters(), lr=0.1)
    train_dl, valid_dl = pf.get_data(*sets(), 8)
    early = pf.EarlyStopping(monitor="seconds", mode="min", restore_best=True)
    history = pf.fit(
        2, model, F.cross_entropy, opt, train_dl, valid_dl, callbacks=[early], echo=None
    )
    with pytest.raises(EjectError, match="by train_loss, valid_loss, and this training did by 'se"):
        history.run.eject(path, echo=None)


def flexible(width=4, **options):
    """A factory that passes on what it is given."""
    return Net(width + options.get("more", 0))


def test_a_factory_with_keywords_of_any_name(path):
    arguments = {"other name": "it's", "more": 2, "width": 3}
    model, _ = pf.get_model(flexible, device="cpu", arguments=arguments)
    text = verified(path, model)
    assert 'model = flexible(width=3, more=2, **{"other name": "it\'s"})' in text


class Odd(nn.Module):
    """Layers whose names are no identifiers."""

    def __init__(self):
        super().__init__()
        for name in ("it's", "class", "9"):
            self.add_module(name, nn.Linear(6, 3))

    def forward(self, x):
        return sum(layer(x) for layer in self.children())


def test_layers_whose_names_are_no_identifiers(path):
    model = made(Odd)
    layers = [*model.children()]
    groups = [{"params": layer.parameters(), "lr": 0.1 + n} for n, layer in enumerate(layers)]
    groups[2]["params"] = [layers[2].bias, layers[2].weight]
    verified(path, model, opt=optim.SGD(groups), metrics=[lambda out, y: out.mean()])


def test_files_are_never_written_over_unasked(path):
    model = made()
    history = pf.fit(1, model, F.cross_entropy, optim.SGD(model.parameters(), lr=0.1),
                     *pf.get_data(*sets(), 8), echo=None)  # fmt: skip
    history.run.eject(path, echo=None)
    before = path.read_text()
    with pytest.raises(
        ConfigError, match=r"force must be set to overwrite .*train\.py, which exists"
    ):
        history.run.eject(path, echo=None)
    path.unlink()
    with pytest.raises(
        ConfigError, match=r"force must be set to overwrite .*train-data\.safetensors"
    ):
        history.run.eject(path, echo=None)
    assert not path.exists()
    history.run.eject(path, echo=None, force=True)
    assert path.read_text() == before
    with pytest.raises(ConfigError, match="did you mean 'layers'"):
        history.run.eject(path, level="layer", echo=None)


def test_lowest_says_the_rung():
    error = EjectError("compile is PyTorch's own work", "loop")
    assert error.lowest == "loop"
    assert str(error) == "compile is PyTorch's own work; the lowest level that works is loop"
