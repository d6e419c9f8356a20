"""From a run to a script on disk, and the check of it."""

import difflib
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import torch.distributed as dist
from safetensors.torch import save

from plainfit.common.devices import differing
from plainfit.common.errors import ConfigError, EjectError, MismatchError, raised_as, unknown_name
from plainfit.eject.lower import in_float64, lower
from plainfit.eject.recipe import Recipe, from_fit, from_folder
from plainfit.eject.replacements import LEVELS
from plainfit.eject.script import Script
from plainfit.eject.verify import (
    Outcome,
    Verdict,
    compare,
    compare_in_float64,
    outcome_of,
    run_alone,
)
from plainfit.runs import folder as runs
from plainfit.runs.prepare import Say
from plainfit.runs.train import train
from plainfit.training.fit_call import FitCall

STEPS_IN_FLOAT64 = 100
STEPS_OF_A_LOOK = 2
A_SCRIPT = "a script repeats a training whose model and data are there"


@dataclass(frozen=True)
class Ejected:
    """A script that was written."""

    recipe: Recipe
    level: str
    path: Path
    beside: Path | None  # its tensors, if they are for it alone


@raised_as(EjectError, A_SCRIPT)
def eject_run(
    folder: Path,
    path: Path,
    *,
    level: str = "loop",
    force: bool = False,
    trust_code: bool = False,
    look: bool = True,
) -> Ejected:
    """Write a run as a plain PyTorch script, and run its first steps.

    Args:
        folder: of the run.
        path: of the script; tensors that are in no file are written beside it.
        level: how far down: one of `LEVELS`.
        force: overwrite existing files.
        trust_code: as for `open_run`.
        look: run two steps and a validation, and remove a script in which that fails.

    Raises:
        EjectError: if the run cannot become such a script.
        ConfigError: if there is no such level, or a file exists already.
    """
    check(path, level, force)
    ejected = write(from_folder(folder, trust_code=trust_code), path, level, force)
    if look:
        look_at(ejected)
    return ejected


@raised_as(EjectError, A_SCRIPT)
def eject_fit(
    call: FitCall, path: Path, *, level: str, verify: bool, force: bool, echo: Say | None
) -> Path:
    check(path, level, force)
    ejected = write(from_fit(call), path, level, force)
    verdict = verified(ejected) if verify else None
    if not verify:
        look_at(ejected)
    if echo:
        echo(f"script {path}" + (f": {verdict.text}" if verdict else ""))
    if verdict and not verdict.holds:
        raise MismatchError(verdict.text)
    return path


@raised_as(EjectError, A_SCRIPT)
def eject_all(
    folder: Path, into: Path, *, force: bool = False, trust_code: bool = False, look: bool = True
) -> tuple[list[Ejected], str]:
    """Write every level and the diffs; return the scripts, and why there are no more."""
    recipe = from_folder(folder, trust_code=trust_code)
    runs.create_folder(into)
    paths = {level: into / f"{number}_{level}.py" for number, level in enumerate(LEVELS, 1)}
    beside = into / "data.safetensors"  # for all levels
    diffs = [into / f"{one}_to_{two}.diff" for one, two in pairwise(LEVELS)]
    for path in (*paths.values(), beside, *diffs):
        check(path, "loop", force)
    done: list[Ejected] = []
    reason = ""
    for level, path in paths.items():
        try:
            ejected = write(recipe, path, level, True, beside=beside)
            if look:
                look_at(ejected)
            done.append(ejected)
        except EjectError as error:
            if not done:
                beside.unlink(missing_ok=True)
                raise
            reason = f"no level {level}: {error}"
            break
    for path in [*[*paths.values()][len(done) :], *diffs[len(done) - 1 :]]:
        path.unlink(missing_ok=True)  # of an earlier eject
    for diff, (one, two) in zip(diffs, pairwise(done), strict=False):
        old, new = (item.path.read_text(encoding="utf-8").splitlines() for item in (one, two))
        lines = difflib.unified_diff(old, new, one.path.name, two.path.name, lineterm="")
        runs.write_output(diff, "\n".join([*lines, ""]).encode())
    return done, reason


def check(path: Path, level: str, force: bool) -> None:
    if level not in LEVELS:
        raise ConfigError(unknown_name("level", level, LEVELS))
    runs.check_new_file(path, force)
    if path.stem in {*sys.stdlib_module_names, "numpy", "safetensors", "sklearn", "torch"}:
        raise ConfigError(
            f"a script must not hide a module that it may import, and {path.name} hides "
            f"{path.stem}; choose another name, such as train.py"
        )


def write(
    recipe: Recipe, path: Path, level: str, force: bool, *, beside: Path | None = None
) -> Ejected:
    is_own = beside is None
    beside = beside or path.with_name(f"{path.stem}-data.safetensors")
    script = Script(recipe, level, beside.name)
    text = script.text()
    depths = [LEVELS.index(limit.lowest) if limit.lowest else -1 for limit in script.limits]
    if depths and LEVELS.index(level) > min(depths):
        raise script.limits[depths.index(min(depths))]
    text = lower(text, level)
    if tensors := script.beside():
        runs.check_free(beside, force)
        # Copies: safetensors takes contiguous tensors that share no memory.
        own = {name: tensor.clone().contiguous() for name, tensor in tensors.items()}
        runs.write_output(beside, save(own))
    runs.write_output(path, text.encode())
    return Ejected(recipe, level, path, beside if tensors and is_own else None)


@contextmanager
def must_run(ejected: Ejected) -> Iterator[None]:
    """Remove a script, and the tensors beside it, if it turns out that it does not run."""
    try:
        yield
    except EjectError:
        for path in filter(None, (ejected.path, ejected.beside)):
            path.unlink(missing_ok=True)
        raise


def look_at(ejected: Ejected) -> None:
    """Run two steps and a validation of a script, and compare the losses; remove one that fails."""
    recipe, level = ejected.recipe, ejected.level
    losses = recipe.outcome.losses
    look = 1 if recipe.compile == "epoch" else STEPS_OF_A_LOOK  # a program takes long to compile
    steps = look if len(losses) > look else None
    with must_run(ejected):
        given = run_alone(ejected.path, recipe.fingerprint, steps)
        if level == "math" or differing(recipe.fingerprint, given.fingerprint):
            return
        verdict = compare(given, recipe.outcome, level, steps, recipe.steps)
        if not verdict.holds:
            raise EjectError(f"a script must give what its training gave: {verdict.text}")


@raised_as(EjectError, A_SCRIPT)
def verified(ejected: Ejected, steps: int | None = None) -> Verdict:
    """Run a script in a process of its own, and compare its losses and weights with the run's."""
    recipe, level = ejected.recipe, ejected.level
    if level == "math":
        return verified_in_float64(ejected, steps or STEPS_IN_FLOAT64)
    if steps is not None and steps >= len(recipe.outcome.losses):
        steps = None
    with must_run(ejected):
        given = run_alone(ejected.path, recipe.fingerprint, steps)
    changed = differing(recipe.fingerprint, given.fingerprint)
    outcome = run_again(recipe, changed) if changed else recipe.outcome
    verdict = compare(given, outcome, level, steps, recipe.steps)
    if verdict.holds and recipe.shards and dist.is_available():
        given = run_alone(ejected.path, recipe.fingerprint, steps, processes=2)
        verdict = compare(given, outcome, level, steps, recipe.steps)
        as_in_one = ", as in one" * verdict.holds
        verdict = Verdict(verdict.holds, f"in two processes{as_in_one}, {verdict.text}")
    if changed:
        note = f"this machine gives other bits ({changed}), so a new run was compared: "
        return Verdict(verdict.holds, note + verdict.text)
    return verdict


def verified_in_float64(ejected: Ejected, steps: int) -> Verdict:
    fingerprint, steps = ejected.recipe.fingerprint, min(steps, STEPS_IN_FLOAT64)
    with must_run(ejected), tempfile.TemporaryDirectory(prefix="plainfit-eject-") as folder:
        upper = write(ejected.recipe, Path(folder) / "upper.py", "data", force=True).path
        runs.write_output(upper, in_float64(upper.read_text(encoding="utf-8")).encode())
        pair = [run_alone(path, fingerprint, steps) for path in (upper, ejected.path)]
    return compare_in_float64(*pair)


def run_again(recipe: Recipe, changed: str) -> Outcome:
    if recipe.config is None or recipe.stop is not None:
        raise EjectError(
            "a script must be compared under the fingerprint of its training, and this machine "
            f"has another ({changed}); train again here and eject that"
        )
    with tempfile.TemporaryDirectory(prefix="plainfit-eject-") as folder:
        again = Path(folder) / "run"
        threads = recipe.fingerprint["threads"]
        config = replace(recipe.config, out=again, epochs=recipe.epochs, threads=threads)
        train(config, echo=None)
        return outcome_of(again, runs.read_record(again))
