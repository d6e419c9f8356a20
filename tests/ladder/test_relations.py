"""The relations hold, and a fault in any rung breaks one."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn, tensor

from plainfit.ladder import climb
from plainfit.ladder.catalog import BITWISE, CHANGED, FIRST, FLOAT64, RUNGS
from plainfit.ladder.climb import compare, start_of
from plainfit.ladder.runner import Setting, Trace, run_rung

FLOAT64_STEPS = 5


def assert_all_hold(rows, count):
    assert [row.holds for row in rows] == [True] * count, [row.measured for row in rows]


def test_every_relation_holds_on_digits(digits_file):
    rows = list(climb.climb(RUNGS, Setting(digits_file, epochs=4)))
    assert_all_hold(rows, 16)
    assert {len(row.trace.losses) for row in rows} == {0, 4 * math.ceil(1259 / 64)}
    by_relation = {kind: [row for row in rows if row.relation == kind] for kind in
                   (FIRST, CHANGED, BITWISE, FLOAT64)}  # fmt: skip
    assert [row.measured for row in by_relation[FIRST]] == ["first batch 64x64"]
    assert [row.measured.split(":")[0] for row in by_relation[CHANGED]] == [
        "a model on the same data", "the order of the samples", "the model",
    ]  # fmt: skip
    numbers = {row.trace.rung.number for row in by_relation[BITWISE]}
    assert numbers >= {3, 5, 6, 7, 9, 11, 13, 14}
    assert all("over 100 steps" in row.measured for row in by_relation[FLOAT64])
    assert rows[15].measured.endswith("over 100 steps, bitwise with processes = 1")


@pytest.mark.soak
@pytest.mark.parametrize("seed", [1, 2])
def test_every_relation_holds_with_other_seeds(digits_file, seed):
    assert_all_hold(list(climb.climb(RUNGS, Setting(digits_file, epochs=20, seed=seed))), 16)


def test_every_relation_holds_on_images_of_mnists_size(large_file, monkeypatch):
    monkeypatch.setattr(climb, "STEPS", 20)
    rungs = [rung for rung in RUNGS if rung.relation in (BITWISE, FLOAT64)]
    rows = list(climb.climb(rungs, Setting(large_file, epochs=2)))
    assert_all_hold(rows, 12)
    assert all(row.difference <= 1e-12 for row in rows if row.relation == FLOAT64)


BY_HAND = [*range(1, 14), 15]
SUM = 'lambda out, yb: F.cross_entropy(out, yb, reduction="sum") / 65'
LOOP = ("start_i = i * bs", "start_i = (n - 1) // bs * bs - i * bs")
SORTED = ("bs, shuffle=True", "bs, shuffle=False")
NO_BIAS = {
    **dict.fromkeys((1, 2), ("@ weights + bias", "@ weights + 0 * bias")),
    3: ("self.weights + self.bias", "self.weights + 0 * self.bias"),
    **dict.fromkeys(range(4, 10), ("Linear(c, classes)", "Linear(c, classes, bias=False)")),
    **dict.fromkeys(
        BY_HAND[9:], ("classes, kernel_size=3,", "classes, kernel_size=3, bias=False,")
    ),
}
# By fault and rung: the text to replace and its replacement.
FAULTS = {
    "learning rate": dict.fromkeys(range(1, 10), ("lr = 0.5", "lr = 0.49"))
    | dict.fromkeys(range(10, 16), ("lr = 0.1", "lr = 0.099")),
    "reduction": {1: ("target].mean()", "target].sum() / 65")}
    | dict.fromkeys(range(2, 16), ("loss_func = F.cross_entropy", f"loss_func = {SUM}")),
    "order": dict.fromkeys(range(1, 6), LOOP)
    | {
        6: ("train_ds[i * bs : i * bs + bs]", "train_ds[n - i * bs - bs : n - i * bs]"),
        7: ("batch_size=bs)", "batch_size=bs, shuffle=True)"),
        14: ("valid_ds, bs, seed=args.seed", "valid_ds, bs, seed=args.seed + 1"),
    }
    | dict.fromkeys(BY_HAND[7:], SORTED),
    "zero_grad": dict.fromkeys((1, 2), ("weights.grad.zero_()", "pass"))
    | dict.fromkeys((3, 4), ("model.zero_grad()", "pass"))
    | dict.fromkeys(BY_HAND[4:], ("opt.zero_grad()", "pass")),
    "bias": NO_BIAS,
    "data": dict.fromkeys(range(16), ("x_train.flatten(1) / 256", "x_train.flatten(1) / 255")),
}
CASES = [(fault, number) for fault, where in FAULTS.items() for number in where]


def test_every_fault_is_planted_in_every_rung_that_can_have_it():
    elsewhere = {"zero_grad": {0, 14}, "bias": {0, 14}, "data": set()}  # 14: see below
    for fault, where in FAULTS.items():
        assert set(where) == set(range(16)) - elsewhere.get(fault, {0})


@pytest.fixture(scope="module")
def setting(digits_file):
    return Setting(digits_file, epochs=1, most_steps=FLOAT64_STEPS)


@pytest.fixture(scope="module")
def healthy(setting):
    """The traces of all rungs for a few steps, and in float64, each with the same start."""
    traces, in_float64 = [], []
    for rung in RUNGS:
        start = start_of(traces[-1]) if traces else None
        traces.append(run_rung(rung, setting, start))
        in_float64.append(run_rung(rung, replace(setting, dtype=torch.float64), start))
    assert [trace.error for trace in traces + in_float64] == [""] * 32
    return traces, in_float64


@pytest.mark.parametrize(("fault", "number"), CASES)
def test_a_planted_fault_breaks_a_relation(fault, number, setting, healthy, own_rungs):
    path, (old, new) = own_rungs / RUNGS[number].path.name, FAULTS[fault][number]
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1
    path.write_text(text.replace(old, new), encoding="utf-8")
    traces, traces64 = healthy
    start = start_of(traces[number - 1]) if number else None
    faulty = run_rung(RUNGS[number], setting, start)

    def in_float64(one, other):
        again = run_rung(RUNGS[number], replace(setting, dtype=torch.float64), start)
        return [again if each is faulty else traces64[each.rung.number] for each in (one, other)]

    pairs = [(number, traces[number - 1], faulty)] if number else []
    if number < 15:
        pairs.append((number + 1, faulty, traces[number + 1]))
    found = 0
    for at, one, other in pairs:
        relation = RUNGS[at].relation
        if relation != CHANGED or fault == "data":
            result = compare(relation, one, other, in_float64)
            assert not result.holds, (at, result.measured)
            assert "failed" not in result.measured
            found += 1
    assert found


def no_zero_grad(monkeypatch):
    monkeypatch.setattr(torch.optim.SGD, "zero_grad", lambda self, set_to_none=True: None)


def no_bias(monkeypatch):
    monkeypatch.setattr(nn, "Conv2d", partial(nn.Conv2d, bias=False))


@pytest.mark.parametrize("plant", [no_zero_grad, no_bias])
def test_a_fault_in_the_library_breaks_rung_14(plant, setting, healthy, monkeypatch):
    before = healthy[0][13]
    with monkeypatch.context() as patch:
        plant(patch)
        faulty = run_rung(RUNGS[14], setting, start_of(before))
    assert faulty.error == ""
    assert not compare(BITWISE, before, faulty, never).holds
    fine = run_rung(RUNGS[14], setting, start_of(before))
    assert compare(BITWISE, before, fine, never).holds


def test_one_piece_in_one_process_has_the_bits_of_rung_14(digits_file, own_rungs):
    path = own_rungs / RUNGS[15].path.name
    one = path.read_text().replace("shards = 2", "shards = 1").replace(*RUNGS[15].alike)
    path.write_text(one)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    before, after = (run_rung(RUNGS[at], Setting(digits_file, epochs=2)) for at in (14, 15))
    torch.set_num_threads(threads)
    assert compare(BITWISE, before, after, never).measured == "40 steps"


def test_four_pieces_need_an_order_of_additions(digits_file, own_rungs):
    path = own_rungs / RUNGS[15].path.name
    path.write_text(path.read_text().replace("shards = 2", "shards = 4"))
    rungs = RUNGS[15], replace(RUNGS[15], edit=RUNGS[15].alike)
    two, one = (run_rung(rung, Setting(digits_file, epochs=1)) for rung in rungs)
    assert two.error == one.error == ""
    assert not compare(BITWISE, one, two, never).holds


@pytest.mark.parametrize("number", [1, 8, 10])
def test_a_rung_that_learns_nothing_breaks_its_relation(number, digits_file, own_rungs):
    path = own_rungs / RUNGS[number].path.name
    slow = path.read_text().replace("lr = 0.5", "lr = 2**-30").replace("lr = 0.1", "lr = 2**-30")
    path.write_text(slow)
    (row,) = climb.climb([RUNGS[number]], Setting(digits_file, epochs=1))
    assert (row.relation, row.holds, row.trace.error) == (CHANGED, False, "")


BATCH = (torch.zeros(2, 3), torch.zeros(2))


def trace(losses, weights, names=("lin.weight",), dtype=torch.float32):
    steps = [dict.fromkeys(names, tensor([[w]], dtype=dtype)) for w in weights]
    return Trace(RUNGS[4], BATCH, [tensor(loss, dtype=dtype) for loss in losses], steps)


def never(before, after):
    raise AssertionError("only float64 runs again")


NEXT = torch.nextafter(tensor(0.5), tensor(1.0)).item()


@pytest.mark.parametrize(
    ("losses", "weights", "names", "holds", "measured"),
    [
        ([0.5, 0.5], [1, 2, 3], ["a"], True, "2 steps"),
        ([0.5, NEXT], [1, 2, 3], ["a"], False, "losses differ at step 1"),
        ([0.5, math.nan], [1, 2, 3], ["a"], False, "losses differ at step 1"),
        ([0.5, 0.5], [1, 2, 4], ["a"], False, "a differs before step 2"),
        ([0.5], [1, 2], ["a"], False, "2 and 1 steps"),
        ([0.5, 0.5], [1, 2, 3], ["a", "b"], False, "parameters lin.weight and a, b"),
    ],
)
def test_bitwise(losses, weights, names, holds, measured):
    before = trace([0.5, 0.5], [1, 2, 3])
    result = compare(BITWISE, before, trace(losses, weights, names), never)
    assert (result.holds, result.measured) == (holds, measured)


@pytest.mark.parametrize("relation", [BITWISE, CHANGED])
def test_other_data_breaks_every_relation(relation):
    before = trace([0.5, 0.5], [1, 2, 3])
    after = replace(before, batch=(torch.ones(2, 3), torch.zeros(2)))
    result = compare(relation, before, after, never)
    assert (result.holds, result.measured) == (False, "the first batch differs")


@pytest.mark.parametrize(
    ("last", "holds", "measured"),
    [
        (3, True, "0.0e+00 over 1 step"),
        (3 + 1e-13, True, "1.0e-13 over 1 step"),
        (3 + 1e-11, False, "1.0e-11 over 1 step"),
        (math.nan, False, "nan over 1 step"),
    ],
)
def test_float64(last, holds, measured):
    pair = [trace([0.5], [1, w], dtype=torch.float64) for w in (3, last)]
    result = compare(FLOAT64, *(trace([1.0], [1, 1]) for _ in range(2)), lambda *_: pair)
    assert (result.holds, result.measured) == (holds, measured)


def test_watching_changes_nothing(digits_file):
    generator, dtype = torch.get_rng_state(), torch.get_default_dtype()
    backward = torch.Tensor.backward
    setting = Setting(digits_file, epochs=100, dtype=torch.float64, most_steps=7)
    trace = run_rung(RUNGS[10], setting)
    assert len(trace.losses) == 7
    assert len(trace.parameters) == 8
    assert trace.losses[0].dtype == torch.float64
    assert torch.equal(torch.get_rng_state(), generator)
    assert torch.get_default_dtype() == dtype
    assert torch.Tensor.backward is backward
