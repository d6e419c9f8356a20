"""Schedules and schedulers of torch, applied by `fit`."""

import warnings
from contextlib import suppress

import pytest
from torch import optim
from torch.optim import lr_scheduler as torch_s

from plainfit.common.errors import ConfigError
from plainfit.training import schedules as s
from plainfit.training.callbacks import GradientAccumulation, TorchScheduler
from plainfit.training.checkpoints import from_bytes, to_bytes
from plainfit.training.hooks import Callback
from small import Rates, batches, fit, network, plain, same, sgd

EPOCHS = 6
SIZES = (6, 6, 6, 2)
BY_EPOCH = {
    "StepLR": lambda opt: torch_s.StepLR(opt, 2),
    "MultiStepLR": lambda opt: torch_s.MultiStepLR(opt, [2, 4, 4]),
    "ExponentialLR": lambda opt: torch_s.ExponentialLR(opt, 0.7),
    "CosineAnnealingLR": lambda opt: torch_s.CosineAnnealingLR(opt, EPOCHS),
    "LambdaLR": lambda opt: torch_s.LambdaLR(opt, lambda epoch: 0.9**epoch),
    "ChainedScheduler": lambda opt: torch_s.ChainedScheduler(
        [torch_s.MultiStepLR(opt, [1, 3]), torch_s.ExponentialLR(opt, 0.9)]
    ),
    "SequentialLR": lambda opt: torch_s.SequentialLR(
        opt, [torch_s.ConstantLR(opt, 0.5, 2), torch_s.MultiStepLR(opt, [1, 2])], [3]
    ),
}
BY_STEP = {
    "OneCycleLR": lambda opt: torch_s.OneCycleLR(opt, 0.5, epochs=EPOCHS, steps_per_epoch=4),
    "CyclicLR": lambda opt: torch_s.CyclicLR(opt, 0.01, 0.3, step_size_up=5),
}


def start():
    model = network()
    return model, sgd(model, momentum=0.9)


# our own schedules


@pytest.mark.parametrize("given_as", ["object", "name", "function"])
def test_fit_multiplies_each_group_s_own_rate_by_the_factor(given_as):
    model, dl = network(), batches(6, 6, 6, 2)
    opt = optim.SGD(
        [{"params": model[0].parameters(), "lr": 0.01}, {"params": model[2].parameters()}], lr=0.3
    )
    cosine = s.Cosine(12)
    schedule = {"object": cosine, "name": "cosine", "function": lambda step: cosine(step)}[given_as]
    rates = Rates()
    fit(model, opt, dl, epochs=3, schedule=schedule, callbacks=[rates])
    assert rates.lr == [[0.01 * cosine(step), 0.3 * cosine(step)] for step in range(12)]


@pytest.mark.parametrize(
    ("kind", "options", "moves"),
    [
        (optim.SGD, {"momentum": 0.9}, True),
        (optim.Adam, {}, True),
        (optim.RMSprop, {"momentum": 0.5}, True),
        (optim.SGD, {}, False),  # plain SGD stays plain
    ],
)
def test_fit_moves_the_momentum_of_those_that_have_one(kind, options, moves):
    model, rates = network(), Rates()
    opt = kind(model.parameters(), lr=0.1, **options)
    cycle = s.OneCycle(10, low_momentum=0.0)
    assert cycle.momentum(2) == 0.0  # it is still a momentum that moves
    fit(model, opt, batches(5, 5, 5, 5, 5), schedule=cycle, callbacks=[rates])
    wanted = [cycle.momentum(step) if moves else 0 for step in range(10)]
    assert [momentum for (momentum,) in rates.momentum] == wanted
    assert rates.lr == [[0.1 * cycle(step)] for step in range(10)]


def test_a_second_training_starts_from_the_optimizer_s_own_rate_again():
    model, rates = network(), Rates()
    opt = sgd(model, lr=0.2)
    for _ in range(2):
        fit(model, opt, batches(10, 10), schedule="linear", callbacks=[rates])
    assert rates.lr[:4] == rates.lr[4:] == [[0.2 * s.Linear(4)(step)] for step in range(4)]


@pytest.mark.parametrize("name", s.BY_NAME)
@pytest.mark.parametrize("epochs", [0, 1])
def test_one_step_or_none_is_enough_for_every_name(name, epochs):
    model = network()
    assert len(fit(model, sgd(model), batches(4), epochs=epochs, schedule=name)) == epochs


@pytest.mark.parametrize(
    ("schedule", "says"),
    [
        ("cosin", "unknown schedule 'cosin': .*; did you mean 'cosine'?"),
        (0.5, "must be a function step -> factor, a name or a torch scheduler, got 0.5"),
        (s.OneCycle, "must be a function step -> factor, .*, got <class .*OneCycle'>"),
    ],
)
def test_fit_says_what_a_schedule_may_be(schedule, says):
    model = network()
    with pytest.raises(ConfigError, match=says):
        fit(model, sgd(model), batches(4), schedule=schedule)


def test_a_name_needs_a_length():
    model = network()
    with pytest.raises(
        ConfigError, match=r"has no length; pass steps_per_epoch or max_steps, or a"
    ):
        fit(model, sgd(model), lambda: iter(batches(4)), schedule="cosine")
    fit(model, sgd(model), lambda: iter(batches(4)), schedule=s.Cosine(steps=10))


# schedulers of torch


def by_fit(make, valid_dl=None, **options):
    model, opt = start()
    rates = Rates()
    history = fit(
        model, opt, batches(*SIZES), valid_dl, epochs=EPOCHS, callbacks=[rates],
        schedule=make(opt), **options,
    )  # fmt: skip
    return model, history, rates.lr


def assert_trained_alike(run, by_hand, losses, rates):
    model, history, ours = run
    assert history.step_losses == losses
    assert ours == rates
    assert len({rate for (rate,) in rates}) > 1
    assert same(model, by_hand)


@pytest.mark.parametrize("name", [*BY_EPOCH, *BY_STEP])
def test_a_scheduler_of_torch_is_stepped_as_torch_documents_it(name):
    make = {**BY_EPOCH, **BY_STEP}[name]
    by_hand, opt = start()
    scheduler, rates = make(opt), []
    losses = plain(
        by_hand, opt, batches(*SIZES), epochs=EPOCHS,
        before_step=lambda: rates.append([opt.param_groups[0]["lr"]]),
        after_step=lambda: scheduler.step() if name in BY_STEP else None,
        after_epoch=lambda _: scheduler.step() if name in BY_EPOCH else None,
    )  # fmt: skip
    assert_trained_alike(by_fit(make), by_hand, losses, rates)


@pytest.mark.parametrize("validated", [True, False])
def test_reduce_on_plateau_is_given_the_validation_loss_or_else_the_training_loss(validated):
    def make(opt):
        return torch_s.ReduceLROnPlateau(opt, patience=0, threshold=0.3, factor=0.5)

    valid_dl = batches(9, 4) if validated else None
    run = by_fit(make, valid_dl)
    figures = [row["valid_loss" if validated else "train_loss"] for row in run[1].epochs]
    by_hand, opt = start()
    scheduler, rates = make(opt), []
    losses = plain(
        by_hand, opt, batches(*SIZES), epochs=EPOCHS,
        before_step=lambda: rates.append([opt.param_groups[0]["lr"]]),
        after_epoch=lambda epoch: scheduler.step(figures[epoch]),
    )  # fmt: skip
    assert_trained_alike(run, by_hand, losses, rates)


def test_a_scheduler_by_step_if_asked():
    model, opt = start()
    rates = Rates()
    scheduler = TorchScheduler(torch_s.ExponentialLR(opt, 0.5), by="step")
    fit(model, opt, batches(5, 5), callbacks=[scheduler, rates])
    assert rates.lr == [[0.1 * 0.5**step] for step in range(4)]


def warmed_up(opt):
    """As transformers makes it: linear warm-up over 3 steps, then linear decay to 0."""
    return torch_s.LambdaLR(opt, lambda i: i / 3 if i < 3 else max(0.0, (12 - i) / 9))


def test_a_scheduler_that_is_made_for_steps():
    by_hand, opt = start()
    scheduler, rates = warmed_up(opt), []
    losses = plain(
        by_hand, opt, batches(*SIZES), epochs=EPOCHS,
        before_step=lambda: rates.append([opt.param_groups[0]["lr"]]), after_step=scheduler.step,
    )  # fmt: skip
    assert_trained_alike(by_fit(warmed_up, schedule_by="step"), by_hand, losses, rates)


def test_a_rate_of_0_for_a_whole_epoch_is_an_error():
    with pytest.raises(ConfigError, match=r"LambdaLR.* gives 0 for epoch 0; .*schedule_by='step'"):
        by_fit(warmed_up)
    with pytest.raises(ConfigError, match="gives 0 for epoch 1; "):
        by_fit(lambda opt: torch_s.LambdaLR(opt, lambda epoch: 1.0 - epoch))


@pytest.mark.parametrize("schedule", [None, "cosine", s.Cosine(steps=10)])
def test_schedules_of_ours_are_always_by_step(schedule):
    model = network()
    with pytest.raises(
        ConfigError, match=r"schedule_by applies to a scheduler of torch, and sched"
    ):
        fit(model, sgd(model), batches(4), schedule=schedule, schedule_by="epoch")


def test_with_accumulation_a_scheduler_moves_with_the_optimizer():
    model, opt = start()
    rates = Rates()
    scheduler = TorchScheduler(torch_s.ExponentialLR(opt, 0.5), by="step")
    callbacks = [GradientAccumulation(2), scheduler, rates]
    fit(model, opt, batches(5, 5, 5, 5), callbacks=callbacks)  # torch would warn of a step too many
    assert rates.lr == [[0.1 * 0.5**step] for step in range(4)]


def test_messages_of_torch_scheduler():
    model, opt = start()
    other = torch_s.StepLR(start()[1], 2)
    with pytest.raises(ConfigError, match="must be made with the optimizer that is passed to fit"):
        fit(model, opt, batches(5), schedule=other)
    with pytest.raises(ConfigError, match="by step or by epoch, got by='batch'"):
        TorchScheduler(other, by="batch")
    plateau = torch_s.ReduceLROnPlateau(opt)
    with pytest.raises(ConfigError, match=r"ReduceLROnPlateau is stepped by epoch, .* by='step'"):
        TorchScheduler(plateau, by="step")


@pytest.mark.parametrize("at", [1, 3, 4])
@pytest.mark.parametrize("name", [*BY_EPOCH, *BY_STEP, "ReduceLROnPlateau"])
def test_a_scheduler_goes_on_from_a_checkpoint_s_bytes(name, at):
    plateau = {"ReduceLROnPlateau": lambda opt: torch_s.ReduceLROnPlateau(opt, patience=1)}
    make = {**BY_EPOCH, **BY_STEP, **plateau}[name]
    figures = (
        [[0.5], [0.4], [0.4], [0.4], [0.4], [0.3], [0.4], [0.4]] if name in plateau else [[]] * 8
    )

    def rates_of(stop_at):
        _, opt = start()
        callback, rates = TorchScheduler(make(opt)), []
        for step, figure in enumerate(figures):
            if step == stop_at:
                saved = {"scheduler": callback.state_dict(), "groups": opt.state_dict()}
                state = from_bytes(to_bytes(saved))
                _, opt = start()
                callback = TorchScheduler(make(opt))
                opt.load_state_dict(state["groups"])
                callback.load_state_dict(state["scheduler"])
            group = opt.param_groups[0]
            rates.append((group["lr"], group["momentum"]))
            opt.step()
            callback.scheduler.step(*figure)
        return rates

    whole = rates_of(None)
    assert len(set(whole)) > 1
    with warnings.catch_warnings():  # the new optimizer has taken no step of its own yet
        warnings.simplefilter("ignore")
        assert rates_of(at) == whole


OWN = {
    optim.SGD: {"lr": 0.2, "momentum": 0.5},
    optim.AdamW: {"lr": 0.2, "betas": (0.7, 0.99)},
}


@pytest.mark.parametrize("kind", OWN)
@pytest.mark.parametrize("ends", ["finished", "stopped", "failed"])
def test_after_a_schedule_the_optimizer_has_its_own_rate_and_momentum(kind, ends):
    class End(Callback):
        def on_step_end(self, context):
            if context.global_step == 3 and ends == "stopped":
                context.stop = "the test"
            if context.global_step == 3 and ends == "failed":
                raise RuntimeError("the test")

    model, own = network(), OWN[kind]
    opt = kind(model.parameters(), **own)
    before = {name: value for name, value in opt.param_groups[0].items() if name != "params"}
    with suppress(RuntimeError):
        fit(model, opt, batches(5, 5, 5), schedule="one-cycle", callbacks=[End()])
    after = {name: value for name, value in opt.param_groups[0].items() if name != "params"}
    assert after == before
    assert own.items() <= after.items()


def test_the_next_training_uses_the_rate_that_was_set_in_between():
    model, rates = network(), Rates()
    opt = sgd(model, lr=0.2, momentum=0.9)
    fit(model, opt, batches(10, 10), schedule="one-cycle")
    opt.param_groups[0].update(lr=0.01, momentum=0.5)
    fit(model, opt, batches(10, 10), schedule="constant", callbacks=[rates])
    assert rates.lr == [[0.01]] * 4
    assert rates.momentum == [[0.5]] * 4


def test_a_schedule_of_torch_made_before_leaves_no_rate_behind():
    model, rates = network(), Rates()
    opt = sgd(model, lr=0.2)
    torch_s.StepLR(opt, 2)  # which notes an initial rate in the optimizer
    opt.param_groups[0]["lr"] = 0.01
    fit(model, opt, batches(10, 10), schedule="constant", callbacks=[rates])
    assert rates.lr == [[0.01]] * 4
