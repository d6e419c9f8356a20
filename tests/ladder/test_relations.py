"""The relations hold, and a fault in any rung breaks one."""

import importlib.util
import math
import sys
from pathlib import Path

import pytest
import torch
from torch import tensor

from plainfit.ladder import catalog, climb
from plainfit.ladder.catalog import BITWISE, FLOAT64, RUNGS, select
from plainfit.ladder.relations import judge
from plainfit.ladder.runner import Setting, Trace, run_rung
from plainfit.models import build
from plainfit.models import networks as models
from plainfit.training import loop


def held(rungs, setting):
    """By rung number: whether the relation holds."""
    return {row.trace.rung.number: row.verdict.holds for row in climb.climb(rungs, setting)}


@pytest.mark.parametrize("seed", [0, 1])
def test_every_relation_holds_on_digits(digits_file, seed):
    rows = list(climb.climb(RUNGS, Setting(digits_file, epochs=20, seed=seed)))
    assert [row.verdict.holds for row in rows] == [True] * 14, [row.verdict for row in rows]
    steps = {len(row.trace.losses) for row in rows}
    assert steps == {20 * math.ceil(1259 / 64)}
    said = [row.verdict.measured for row in rows if row.verdict.relation == "changed"]
    assert [text.split(":")[0] for text in said] == ["the order of the samples", "the model"]
    bitwise = {row.trace.rung.number for row in rows if row.verdict.relation == BITWISE}
    assert bitwise >= {3, 5, 6, 7, 9, 11, 13, 14}


def test_every_relation_holds_on_images_of_mnists_size(large_file):
    rungs = [rung for rung in RUNGS if rung.relation in (BITWISE, FLOAT64)]
    rows = list(climb.climb(rungs, Setting(large_file, epochs=4)))
    assert [row.verdict.holds for row in rows] == [True] * 11, [row.verdict for row in rows]
    assert all(row.verdict.difference <= 1e-12 for row in rows if row.verdict.relation == FLOAT64)


SUM = 'lambda out, yb: F.cross_entropy(out, yb, reduction="sum") / 65'
LOOP = ("start_i = i * bs", "start_i = (n - 1) // bs * bs - i * bs")
SORTED = ("bs, shuffle=True", "bs, shuffle=False")
NO_BIAS = {
    **dict.fromkeys((1, 2), ("@ weights + bias", "@ weights + 0 * bias")),
    3: ("self.weights + self.bias", "self.weights"),
    **dict.fromkeys(range(4, 10), ("Linear(c, classes)", "Linear(c, classes, bias=False)")),
    **dict.fromkeys(
        range(10, 14), ("classes, kernel_size=3,", "classes, kernel_size=3, bias=False,")
    ),
}
# By fault and rung: the text that goes and the text that comes.
FAULTS = {
    "learning rate": dict.fromkeys(range(1, 10), ("lr = 0.5", "lr = 0.49"))
    | dict.fromkeys(range(10, 15), ("lr = 0.1", "lr = 0.099")),
    "reduction": {1: ("target].mean()", "target].sum() / 65")}
    | dict.fromkeys(range(2, 15), ("loss_func = F.cross_entropy", f"loss_func = {SUM}")),
    "order": dict.fromkeys(range(1, 6), LOOP)
    | {
        6: ("train_ds[i * bs : i * bs + bs]", "train_ds[n - i * bs - bs : n - i * bs]"),
        7: ("batch_size=bs)", "batch_size=bs, shuffle=True)"),
        14: ("valid_ds, bs, seed=args.seed", "valid_ds, bs, seed=args.seed + 1"),
    }
    | dict.fromkeys(range(8, 14), SORTED),
    "zero_grad": dict.fromkeys((1, 2), ("weights.grad.zero_()", "pass"))
    | dict.fromkeys((3, 4), ("model.zero_grad()", "pass"))
    | dict.fromkeys(range(5, 14), ("opt.zero_grad()", "pass")),
    "bias": NO_BIAS,
}
CASES = [(fault, number) for fault, where in FAULTS.items() for number in where]


def test_every_fault_is_planted_in_every_rung_that_can_have_it():
    own = {"zero_grad": 14, "bias": 14}  # the library has them for rung 14: see below
    for fault, where in FAULTS.items():
        assert set(where) == set(range(1, 15)) - {own.get(fault)}


@pytest.mark.parametrize(("fault", "number"), CASES)
def test_a_planted_fault_turns_a_verdict_red(fault, number, digits_file, tmp_path, monkeypatch):
    for rung in RUNGS:
        text = rung.source
        if rung.number == number:
            old, new = FAULTS[fault][number]
            assert text.count(old) == 1
            text = text.replace(old, new)
        (tmp_path / rung.path.name).write_text(text, encoding="utf-8")
    monkeypatch.setattr(catalog, "RUNGS_FOLDER", tmp_path)
    neighbours = [n for n in (number, number + 1) if n <= 14 and RUNGS[n - 1].relation != "changed"]
    verdicts = held([RUNGS[n - 1] for n in neighbours], Setting(digits_file, epochs=2))
    if number > 1 and RUNGS[number - 1].relation != "changed":
        assert not verdicts[number]
    if number < 14 and number + 1 in verdicts:
        assert not verdicts[number + 1]
    assert False in verdicts.values()


@pytest.mark.parametrize(
    ("module", "name", "old", "new"),
    [
        (
            loop,
            "loss_batch",
            "opt.zero_grad()\n        watch.loss = detached",
            "pass\n        watch.loss = detached",
        ),
        (models, "MnistCNN", "classes, kernel_size=3,", "classes, kernel_size=3, bias=False,"),
    ],
)
def test_a_fault_in_the_library_turns_rung_14_red(
    module, name, old, new, digits_file, tmp_path, monkeypatch
):
    text = Path(module.__file__).read_text(encoding="utf-8")
    assert text.count(old) == 1
    path = tmp_path / "faulty.py"
    path.write_text(text.replace(old, new), encoding="utf-8")
    spec = importlib.util.spec_from_file_location("faulty", path)
    faulty = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "faulty", faulty)
    spec.loader.exec_module(faulty)
    if module is models:
        monkeypatch.setitem(build.MODELS, "cnn", faulty.MnistCNN)
    else:
        monkeypatch.setattr(loop, name, getattr(faulty, name))
    assert held(select("14"), Setting(digits_file, epochs=2)) == {14: False}


def test_a_rung_that_learns_nothing_is_red(digits_file, tmp_path, monkeypatch):
    for rung in RUNGS:
        slow = rung.source.replace("lr = 0.5", "lr = 2**-30").replace("lr = 0.1", "lr = 2**-30")
        (tmp_path / rung.path.name).write_text(slow, encoding="utf-8")
    monkeypatch.setattr(catalog, "RUNGS_FOLDER", tmp_path)
    verdicts = held(RUNGS, Setting(digits_file, epochs=2))
    assert {number for number, holds in verdicts.items() if not holds} == {1, 8, 10}


def trace(losses, weights, names=("lin.weight",), dtype=torch.float32):
    steps = [dict.fromkeys(names, tensor([[w]], dtype=dtype)) for w in weights]
    return Trace(RUNGS[3], [tensor(loss, dtype=dtype) for loss in losses], steps)


def never(before, after):
    raise AssertionError("only float64 runs again")


NEXT = torch.nextafter(tensor(0.5), tensor(1.0)).item()


@pytest.mark.parametrize(
    ("relation", "losses", "weights", "names", "holds", "measured"),
    [
        (BITWISE, [0.5, 0.5], [1, 2, 3], ["a"], True, "2 steps"),
        (BITWISE, [0.5, NEXT], [1, 2, 3], ["a"], False, "losses differ at step 1"),
        (BITWISE, [0.5, math.nan], [1, 2, 3], ["a"], False, "losses differ at step 1"),
        (BITWISE, [0.5, 0.5], [1, 2, 4], ["a"], False, "a differs before step 2"),
        (BITWISE, [0.5], [1, 2], ["a"], False, "2 and 1 steps"),
        (BITWISE, [0.5, 0.5], [1, 2, 3], ["a", "b"], False, "parameters lin.weight and a, b"),
    ],
)
def test_verdicts(relation, losses, weights, names, holds, measured):
    before = trace([0.5, 0.5], [1, 2, 3])
    verdict = judge(relation, before, trace(losses, weights, names), never)
    assert (verdict.holds, verdict.measured) == (holds, measured)


@pytest.mark.parametrize(
    ("last", "holds", "measured"),
    [
        (3, True, "0.0e+00 over 1 steps"),
        (3 + 1e-13, True, "1.0e-13 over 1 steps"),
        (3 + 1e-11, False, "1.0e-11 over 1 steps"),
        (math.nan, False, "nan over 1 steps"),
    ],
)
def test_the_verdict_in_float64(last, holds, measured):
    pair = [trace([0.5], [1, w], dtype=torch.float64) for w in (3, last)]
    verdict = judge(FLOAT64, *(trace([1.0], [1, 1]) for _ in range(2)), lambda *_: pair)
    assert (verdict.holds, verdict.measured) == (holds, measured)


def test_watching_changes_nothing(digits_file):
    generator, dtype = torch.get_rng_state(), torch.get_default_dtype()
    backward = torch.Tensor.backward
    setting = Setting(digits_file, epochs=100, dtype=torch.float64, most_steps=7)
    trace = run_rung(RUNGS[9], setting)
    assert len(trace.losses) == 7
    assert len(trace.parameters) == 8
    assert trace.losses[0].dtype == torch.float64
    assert torch.equal(torch.get_rng_state(), generator)
    assert torch.get_default_dtype() == dtype
    assert torch.Tensor.backward is backward
