"""Schedules: against torch's own schedulers, at their boundaries."""

import random
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn, optim
from torch.optim import lr_scheduler as torch_s

from plainfit.common.errors import ConfigError
from plainfit.common.plots import Picture
from plainfit.training import schedules as s

EPS = sys.float_info.epsilon
STEPS = [1, 2, 3, 4, 5, 10, 11, 20, 37, 100, 1000]
ONE_OF_EACH = {
    "constant": lambda n: s.Constant(n, 0.5),
    "linear": lambda n: s.Linear(n, 0.25, 1.0),
    "cosine": lambda n: s.Cosine(n, 1.0, 0.01),
    "polynomial": lambda n: s.Polynomial(n, 3.0, 0.1),
    "steps": lambda n: s.Steps(n, 3),
    "warm-up": s.WarmupCosine,
    "one cycle": s.OneCycle,
    "chain": lambda n: s.Chain(s.Constant(2), s.OneCycle(n), s.Cosine(3)),
}


def stepped(make, steps, lr=1.0, kind=optim.SGD, **options):
    """The rate and the momentum of each step, by a scheduler of torch and a real optimizer."""
    parameter = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    opt = kind([parameter], lr=lr, **options)
    scheduler = make(opt)
    rates, momenta = [], []
    for step in range(steps):
        group = opt.param_groups[0]
        rates.append(group["lr"])
        momenta.append(group["betas"][0] if "betas" in group else group.get("momentum"))
        opt.step()
        if step + 1 < steps:
            scheduler.step()
    return rates, momenta


def factors(schedule, steps, lr=1.0):
    return [lr * schedule(step) for step in range(steps)]


# against torch


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("kind", [optim.SGD, optim.Adam])
def test_one_cycle_is_torch_s_bit_for_bit(steps, kind):
    options = {"momentum": 0.9} if kind is optim.SGD else {}
    rates, momenta = stepped(
        lambda opt: torch_s.OneCycleLR(opt, max_lr=1.0, total_steps=steps), steps, 1.0, kind,
        **options,
    )  # fmt: skip
    schedule = s.OneCycle(steps)
    assert factors(schedule, steps) == rates
    assert [schedule.momentum(step) for step in range(steps)] == momenta


@pytest.mark.parametrize("steps", STEPS)
def test_one_cycle_at_another_rate_is_within_an_ulp_of_the_highest_rate(steps):
    # Torch anneals the rates themselves and we their factor, so the products round differently.
    rates, _ = stepped(
        lambda opt: torch_s.OneCycleLR(opt, max_lr=0.003, total_steps=steps), steps, momentum=0.9
    )
    ours = factors(s.OneCycle(steps), steps, 0.003)
    assert max(abs(a - b) for a, b in zip(ours, rates, strict=True)) <= EPS * 0.003


@pytest.mark.parametrize(
    ("rise", "start", "end"), [(0.5, 0.1, 1e-3), (0.0, 0.04, 0.0), (1.0, 1, 1)]
)
def test_one_cycle_with_other_settings(rise, start, end):
    rates, momenta = stepped(
        lambda opt: torch_s.OneCycleLR(
            opt, 1.0, 30, pct_start=rise, div_factor=1 / start,
            final_div_factor=start / end if end else float("inf"),
            max_momentum=0.9, base_momentum=0.5,
        ), 30, momentum=0.9,
    )  # fmt: skip
    schedule = s.OneCycle(30, rise, start, end, 0.9, 0.5)
    assert factors(schedule, 30) == pytest.approx(rates, abs=2 * EPS)
    assert [schedule.momentum(step) for step in range(30)] == pytest.approx(momenta, abs=2 * EPS)


def test_steps_are_step_lr():
    rates, _ = stepped(lambda opt: torch_s.StepLR(opt, 3, 0.5), 100)
    assert factors(s.Steps(100, 3, 0.5), 100) == rates  # powers of 2: exact in torch's product too
    rates, _ = stepped(lambda opt: torch_s.StepLR(opt, 3), 100)
    assert factors(s.Steps(100, 3), 100) == pytest.approx(rates, rel=1e-13, abs=0)


def test_steps_are_the_closed_form_of_step_lr_bit_for_bit():
    parameter = nn.Parameter(torch.zeros(1))
    scheduler = torch_s.StepLR(optim.SGD([parameter], lr=1.0), 7, 0.3)
    wanted = []
    for step in range(50):
        scheduler.last_epoch = step
        wanted += scheduler._get_closed_form_lr()
    assert factors(s.Steps(50, 7, 0.3), 50) == wanted


@pytest.mark.parametrize("steps", [2, 3, 10, 100])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (lambda n: s.Cosine(n, 1, 0.01), lambda o, n: torch_s.CosineAnnealingLR(o, n - 1, 1e-3)),
        (lambda n: s.Linear(n, 0.25, 1.0), lambda o, n: torch_s.LinearLR(o, 0.25, 1.0, n - 1)),
        (s.Polynomial, lambda o, n: torch_s.PolynomialLR(o, n - 1, 2.0)),
        (s.Constant, lambda o, n: torch_s.ConstantLR(o, 1.0, n)),
    ],
    ids=["cosine", "linear", "polynomial", "constant"],
)
def test_schedules_are_torch_s(ours, theirs, steps):
    # Torch goes from each rate to the next, and we compute each anew: the sums round differently.
    rates, _ = stepped(lambda opt: theirs(opt, steps), steps, 0.1)
    assert factors(ours(steps), steps, 0.1) == pytest.approx(rates, rel=0, abs=1e-15)


@pytest.mark.parametrize("steps", [2, 50])
def test_cosine_is_the_closed_form_of_torch_s(steps):
    parameter = nn.Parameter(torch.zeros(1))
    scheduler = torch_s.CosineAnnealingLR(optim.SGD([parameter], lr=1.0), steps - 1, 0.01)
    wanted = []
    for step in range(steps):
        scheduler.last_epoch = step
        wanted += scheduler._get_closed_form_lr()
    assert factors(s.Cosine(steps, 1.0, 0.01), steps) == pytest.approx(wanted, rel=0, abs=EPS)


@pytest.mark.parametrize(("steps", "rise"), [(3, 1), (20, 1), (100, 5), (1000, 50)])
def test_warm_up_and_cosine_are_sequential_lr(steps, rise):
    def make(opt):
        up = torch_s.LinearLR(opt, 1 / (rise + 1), 1.0, rise)
        down = torch_s.CosineAnnealingLR(opt, steps - rise - 1)
        return torch_s.SequentialLR(opt, [up, down], [rise])

    rates, _ = stepped(make, steps)
    schedule = s.WarmupCosine(steps)
    assert factors(schedule, steps) == pytest.approx(rates, rel=0, abs=1e-12)
    assert schedule(rise) == 1.0  # the top
    assert schedule(steps - 1) == 0.0


# boundaries


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_few_steps_give_finite_factors(name, steps):
    schedule = ONE_OF_EACH[name](steps)
    assert all(0 <= schedule(step) <= 1 for step in range(schedule.steps))


def test_first_and_last_steps():
    assert [s.Linear(3, 1, 0)(i) for i in range(5)] == [1, 0.5, 0, 0, 0]
    assert [s.Linear(1, 0.25, 1)(i) for i in range(2)] == [0.25, 1.0]
    assert (s.Cosine(1)(0), s.Polynomial(1)(0), s.WarmupCosine(1)(0)) == (1, 1, 1)
    assert [s.WarmupCosine(2)(i) for i in range(2)] == [0.5, 1.0]
    assert s.WarmupCosine(100, warmup=0)(0) == 1.0
    assert [s.Polynomial(3, 2, 0.2)(i) for i in range(3)] == pytest.approx([1, 0.4, 0.2], abs=EPS)
    assert s.OneCycle(100)(0) == pytest.approx(1 / 25, abs=EPS)
    assert s.OneCycle(100)(29) == 1.0
    assert s.OneCycle(100)(99) == 1 / 250_000
    assert [s.OneCycle(100).momentum(i) for i in (0, 29, 99)] == [0.95, 0.85, 0.95]
    assert s.OneCycle(100, high_momentum=None).momentum(3) is None


@pytest.mark.parametrize("name", sorted(ONE_OF_EACH.keys() - {"steps"}))
def test_after_its_last_step_a_schedule_stays_where_it_is(name):
    schedule = ONE_OF_EACH[name](20)
    last = schedule.steps - 1
    assert [schedule(last + more) for more in (1, 2, 1000)] == [schedule(last)] * 3
    assert schedule.momentum(last + 5) == schedule.momentum(last)


def test_a_chain_gives_each_schedule_its_own_steps():
    chain = s.Chain(s.Constant(2, 0.5), s.Chain(s.Linear(3, 1, 0)), s.Constant(1, 0.25))
    assert chain.steps == 6
    assert [chain(i) for i in range(8)] == [0.5, 0.5, 1, 0.5, 0, 0.25, 0.25, 0.25]
    mixed = s.Chain(s.Constant(2), s.OneCycle(10))
    cycle = s.OneCycle(10)
    assert [mixed.momentum(i) for i in range(4)] == [None, None, 0.95, cycle.momentum(1)]


@settings(deadline=None)
@given(seed=st.integers(0, 100), name=st.sampled_from(sorted(ONE_OF_EACH)))
def test_a_schedule_is_a_pure_function_of_the_step(seed, name):
    schedule = ONE_OF_EACH[name](20)
    steps = list(range(schedule.steps + 3))
    wanted = {step: (schedule(step), schedule.momentum(step)) for step in steps}
    random.Random(seed).shuffle(steps)
    assert {step: (schedule(step), schedule.momentum(step)) for step in steps} == wanted


# names, messages, pictures


def test_every_name_makes_a_schedule():
    made = {name: s.named_schedule(name, 10) for name in s.BY_NAME}
    assert [schedule.steps for schedule in made.values()] == [10] * 6
    assert repr(made["cosine"]) == "Cosine(steps=10, start=1.0, end=0.0)"
    assert repr(made["warmup-cosine"]) == "WarmupCosine(steps=10, warmup=0.05, end=0.0)"
    chain = s.Chain(s.Constant(1), s.Steps(4, 2))
    assert repr(chain) == "Chain(Constant(steps=1, factor=1.0), Steps(steps=4, every=2, gamma=0.1))"


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_a_repr_makes_the_same_schedule_again(name):
    schedule = ONE_OF_EACH[name](20)
    again = eval(repr(schedule), vars(s).copy())
    assert factors(again, schedule.steps) == factors(schedule, schedule.steps)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: s.named_schedule("one-cycel", 5), "unknown schedule 'one-cycel': .* 'one-cycle'?"),
        (lambda: s.named_schedule("xyz", 5), "choose from constant, linear, .*, polynomial$"),
        (lambda: s.Cosine(0), "a schedule must have at least 1 step, got 0"),
        (lambda: s.Steps(5, 0), "at least 1 step, got 0"),
        (lambda: s.Chain(), "at least one schedule, got none"),
        (lambda: s.Chain(s.Cosine(5), abs), "must be schedules, .*, got <built-in function abs>"),
        (lambda: s.WarmupCosine(0), "at least 1 step, got 0"),
        (lambda: s.WarmupCosine(9, warmup=5), "share of a warm-up must be 0 to below 1, got 5"),
        (lambda: s.OneCycle(9, rise=30), "share of steps that rise must be 0 to 1, got 30"),
    ],
)
def test_messages(make, says):
    with pytest.raises(ConfigError, match=says):
        make()


def test_plot_is_a_picture(tmp_path):
    figure = s.OneCycle(20).plot()
    assert isinstance(figure, Picture)
    figure.savefig(tmp_path / "schedule.png")
    assert (tmp_path / "schedule.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_plot_draws_every_step(name):
    schedule = ONE_OF_EACH[name](20)
    figure = schedule.plot()
    drawn = [axis.lines[0].get_ydata().tolist() for axis in figure.axes]
    assert drawn[0] == factors(schedule, schedule.steps)
    moved = {step: schedule.momentum(step) for step in range(schedule.steps)}
    shown = {step: m for step, m in moved.items() if m is not None}
    assert len(drawn) == (2 if shown else 1)
    if shown:  # each at its own step, also where a part of a chain leaves the momentum alone
        assert len(drawn[1]) == schedule.steps
        assert {i: m for i, m in enumerate(drawn[1]) if m == m} == shown
