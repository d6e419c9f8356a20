"""Climbing the ladder: run the rungs, compare each with the one before, and copy them."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.resources import files
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from plainfit.common.errors import ConfigError, DataError, plural, unknown_name
from plainfit.data.datasets import ImageDataset
from plainfit.data.splits import DataSplits
from plainfit.ladder.catalog import BITWISE, CHANGED, FIRST, FLOAT64, RUNGS, Rung
from plainfit.ladder.runner import Parameters, Setting, Trace, run_rung
from plainfit.runs.folder import check_free, create_folder, write_output

TUTORIAL_EPOCHS, LEAST_STEPS, BATCH = 2, 400, 64
ON_SCRATCH = range(3, 14)  # the rungs that can run on `scratch`
TOLERANCE, STEPS = 1e-12, 100  # of the relation `float64`
CONVOLUTIONS = 10  # from this rung on `scratch`, which convolves by matmul, rounds differently
LEARNED = 0.75  # of the initial loss: slack for a class that stays dead behind the CNN's last ReLU
NOTEBOOKS = {"en": "what_is_torch_nn.ipynb", "zh-CN": "what_is_torch_nn.zh-CN.ipynb"}
JUPYTER = ("jupyterlab", "notebook")  # modules that open a notebook, the preferred one first
Rerun = Callable[[Trace, Trace], tuple[Trace, Trace]]


@dataclass(frozen=True)
class Comparison:
    trace: Trace
    relation: str
    holds: bool
    measured: str
    difference: float | None = None  # the largest, for the relation `float64`
    slowdown: float | None = None  # seconds on `scratch` over seconds on torch

    def to_dict(self) -> dict[str, Any]:
        rung, trace = self.trace.rung, self.trace
        row = {
            "rung": rung.number,
            "name": rung.name,
            "adds": rung.adds,
            "lines": rung.lines,
            "seconds": trace.seconds,
            "valid_loss": trace.loss,
            "accuracy": trace.accuracy,
            "relation": self.relation,
            "holds": self.holds,
            "measured": self.measured,
            "difference": self.difference,
            "slowdown": self.slowdown,
            "error": trace.error,
        }
        return {name: None if value != value else value for name, value in row.items()}  # NaN


def write_data(data: DataSplits, path: Path) -> None:
    arrays: dict[str, NDArray[Any]] = {}
    shape = data.input_shape
    for part, dataset in (("train", data.train), ("valid", data.valid)):
        if shape != (1, shape[-1], shape[-1]) or not isinstance(dataset, ImageDataset):
            raise DataError(
                "the ladder needs gray, square images that fit in memory, got samples of shape "
                f"{'x'.join(map(str, shape))} in {data.name}; use digits, mnist, "
                "fashion-mnist, or bytes of shape (samples, side, side) in a .npz"
            )
        images, labels = dataset.tensors
        arrays |= {f"x_{part}": images.numpy(), f"y_{part}": labels.numpy()}
    content = BytesIO()
    np.savez(content, allow_pickle=False, **arrays)
    write_output(path, content.getvalue())


def copy_rung(rung: Rung, data: DataSplits, folder: Path, *, replace: bool = False) -> list[Path]:
    """Copy a program, and its data if missing, into a folder; return the two paths."""
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"the copy needs a folder, and {folder} is a file; choose another")
    program = folder / rung.path.name
    arrays = folder / f"{Path(data.name).name.split('.')[0]}.npz"
    check_free(program, replace)
    create_folder(folder)
    if not arrays.exists():
        write_data(data, arrays)
    write_output(program, rung.source.encode())
    return [program, arrays]


def installed_notebook(language: str) -> Path:
    if language not in NOTEBOOKS:
        raise ConfigError(unknown_name("language", language, NOTEBOOKS))
    installed = Path(str(files("plainfit"))) / "notebooks"
    checkout = Path(__file__).parents[3] / "notebooks"  # of an editable installation
    return next(folder for folder in (installed, checkout) if folder.is_dir()) / NOTEBOOKS[language]


def copy_notebook(language: str, folder: Path, *, replace: bool = False) -> tuple[Path, bool]:
    """Copy a notebook into a folder if missing; return its path there, and whether it was."""
    source = installed_notebook(language)
    path = folder / source.name
    if path.exists() and not replace:
        return path, False
    create_folder(folder)
    write_output(path, source.read_bytes())
    return path, True


def usual_epochs(samples: int) -> int:
    """Return the tutorial's two epochs, or as many as make 400 steps on a small dataset."""
    return max(TUTORIAL_EPOCHS, math.ceil(LEAST_STEPS / math.ceil(samples / BATCH)))


def relation_here(rung: Rung) -> str:
    """Return the relation to expect on this machine: an accelerator runs other kernels."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is None or rung.number < 13:
        return rung.relation
    return CHANGED if accelerator.type == "mps" else FLOAT64  # MPS has no float64


def climb(rungs: Sequence[Rung], setting: Setting) -> Iterator[Comparison]:
    """Run rungs from the initial values of the one before, where they fit, and compare the two.

    The one before is run too if it was not selected, and so is a rung with an edit that must change
    no bits.
    """
    before: Trace | None = None
    for rung in rungs:
        if rung.number and (before is None or before.rung.number != rung.number - 1):
            before = run_rung(RUNGS[rung.number - 1], setting)
        after = run_rung(rung, setting, start_of(before))
        result = compare(relation_here(rung), before, after, partial(in_float64, setting))
        if result.holds and rung.alike:
            edited = run_rung(replace(rung, edit=rung.alike), setting.unwatched, start_of(before))
            other = compare(BITWISE, edited, after, partial(in_float64, setting))
            found = "bitwise" if other.holds else other.measured
            measured = f"{result.measured}, {found} with {rung.alike[1]}"
            result = replace(result, holds=other.holds, measured=measured)
        yield result
        before = after


def climb_on_scratch(rungs: Sequence[Rung], setting: Setting) -> Iterator[Comparison]:
    for rung in rungs:
        on_torch = run_rung(rung, setting)
        again = run_rung(rung, setting, start_of(on_torch), on_scratch=True)
        relation = BITWISE if rung.number < CONVOLUTIONS else FLOAT64
        rerun = partial(in_float64, setting, on_scratch=True)
        result = compare(relation, on_torch, again, rerun)
        failed = on_torch.error or again.error
        yield replace(result, slowdown=math.nan if failed else again.seconds / on_torch.seconds)


def in_float64(
    setting: Setting, before: Trace, after: Trace, on_scratch: bool = False
) -> tuple[Trace, Trace]:
    start = start_of(before)
    short = replace(setting.unwatched, dtype=torch.float64, most_steps=STEPS, epochs=STEPS)
    again = run_rung(after.rung, short, start, on_scratch=on_scratch)
    return run_rung(before.rung, short, start), again


def start_of(trace: Trace | None) -> Parameters | None:
    return trace.parameters[0] if trace and trace.parameters else None


def compare(relation: str, before: Trace | None, after: Trace, rerun: Rerun) -> Comparison:
    def result(holds: bool, measured: str, difference: float | None = None) -> Comparison:
        return Comparison(after, relation, holds, measured, difference)

    old, new = before, after
    if before is not None and relation == FLOAT64:
        old, new = rerun(before, after)
    if problem := incomparable(old, new):
        return result(False, problem)
    if relation == FIRST:
        return result(True, "first batch " + "x".join(map(str, new.batch[0].shape)))
    if relation == CHANGED or old is None:
        measured = f"loss {new.loss_before:.2f} to {new.loss:.2f}"
        if new.rung.what_changed:
            measured = f"{new.rung.what_changed}: {measured}"
        return result(len(new.outputs) == 2 and new.loss < LEARNED * new.loss_before, measured)
    steps = plural(len(new.losses), "step")
    if problem := different_form(old, new):
        return result(False, problem)
    if relation == BITWISE:
        problem = first_different_bits(old, new)
        return result(not problem, problem or steps)
    difference = largest_difference(old, new)
    return result(difference <= TOLERANCE, f"{difference:.1e} over {steps}", difference)


def incomparable(before: Trace | None, after: Trace) -> str:
    failed = [trace.rung.label for trace in (before, after) if trace and trace.error]
    if failed:
        return f"rung {' and '.join(failed)} failed"
    if before and not all(map(torch.equal, before.batch, after.batch)):
        return "the first batch differs"
    return ""


def different_form(before: Trace, after: Trace) -> str:
    if len(before.losses) != len(after.losses) or not after.losses:
        return f"{len(before.losses)} and {len(after.losses)} steps"
    shapes = [[tuple(p.shape) for p in trace.parameters[0].values()] for trace in (before, after)]
    if shapes[0] != shapes[1]:
        names = [", ".join(trace.parameters[0]) for trace in (before, after)]
        return f"parameters {names[0]} and {names[1]}"
    return ""


def first_different_bits(before: Trace, after: Trace) -> str:
    for step, losses in enumerate(zip(before.losses, after.losses, strict=True)):
        if not torch.equal(*losses):
            return f"losses differ at step {step}"
    for step, (old, new) in enumerate(zip(before.parameters, after.parameters, strict=True)):
        for name, values in zip(new, zip(old.values(), new.values(), strict=True), strict=True):
            if not torch.equal(*values):
                return f"{name} differs before step {step}"
    return ""


def largest_difference(before: Trace, after: Trace) -> float:
    pairs = list(zip(before.losses, after.losses, strict=True))
    for old, new in zip(before.parameters, after.parameters, strict=True):
        pairs += zip(old.values(), new.values(), strict=True)
    return torch.stack([(a.cpu() - b.cpu()).abs().max() for a, b in pairs]).max().item()
