"""From a run to a script on disk, and the check of it."""

import difflib
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from torch import Tensor

from plainfit.common.errors import ConfigError, EjectError, MismatchError, unknown_name
from plainfit.eject.outcome import Outcome, outcome_of
from plainfit.eject.recipe import Recipe, from_fit, from_folder
from plainfit.eject.rungs import RUNGS, in_float64, lower
from plainfit.eject.script import Script
from plainfit.eject.verify import Verdict, compare, compare_in_float64, run_alone
from plainfit.runs.folder import make_folder, read_record, write_whole
from plainfit.training.fit_call import FitCall

STEPS_IN_FLOAT64 = 100
Say = Callable[[str], None]


@dataclass(frozen=True)
class Ejected:
    """A script that was written."""

    recipe: Recipe
    rung: str
    path: Path


def eject_run(
    folder: Path, path: Path, *, rung: str = "loop", inline: bool = False, force: bool = False
) -> Ejected:
    """Write a run as a plain PyTorch script.

    Args:
        folder: of the run.
        path: of the script; tensors that are in no file are written beside it.
        rung: how far down: one of `RUNGS`.
        inline: write its definitions for the calls there are: arguments that are always the same
            are put in, and layers of one expression stand where the model calls them.
        force: write over files there.

    Raises:
        EjectError: if the run cannot become such a script.
        ConfigError: if there is no such rung, or a file is in the way.
    """
    check(path, rung, force)
    return write(from_folder(folder), path, rung, force, inline=inline)


def eject_fit(
    call: FitCall,
    path: Path,
    *,
    rung: str,
    inline: bool,
    verify: bool,
    force: bool,
    echo: Say | None,
) -> Path:
    """Write a call of `fit` as a script; see `FitCall.eject`."""
    check(path, rung, force)
    ejected = write(from_fit(call), path, rung, force, inline=inline)
    verdict = verified(ejected) if verify else None
    if echo:
        echo(f"script {path}" + (f": {verdict.text}" if verdict else ""))
    if verdict and not verdict.holds:
        raise MismatchError(verdict.text)
    return path


def eject_all(
    folder: Path, into: Path, *, inline: bool = False, force: bool = False
) -> tuple[list[Ejected], str]:
    """Write a run at every rung, and the diffs from each rung to the next.

    Returns:
        What was written, and why the rungs below it were not, if there are some.

    Raises:
        EjectError: if the run cannot become a script at all.
        ConfigError: if a file is in the way.
    """
    recipe = from_folder(folder)
    make_folder(into)
    paths = {rung: into / f"{number}_{rung}.py" for number, rung in enumerate(RUNGS, 1)}
    beside = into / "data.safetensors"  # one for all
    for path in (*paths.values(), beside):
        check(path, "loop", force)
    done: list[Ejected] = []
    reason = ""
    for rung, path in paths.items():
        try:
            done.append(write(fresh(recipe), path, rung, True, beside=beside, inline=inline))
        except EjectError as error:
            if not done:
                raise
            reason = f"no rung {rung}: {error}"
            break
    for before, after in pairwise(done):
        write_diff(before.path, after.path, into / f"{before.rung}_to_{after.rung}.diff")
    return done, reason


def write_diff(before: Path, after: Path, path: Path) -> None:
    """Write what changes from one script to another."""
    old, new = (item.read_text(encoding="utf-8").splitlines() for item in (before, after))
    lines = difflib.unified_diff(old, new, before.name, after.name, lineterm="")
    text = "\n".join([*lines, ""])
    write_whole(path, lambda scratch: scratch.write_text(text, encoding="utf-8"))


def fresh(recipe: Recipe) -> Recipe:
    """Return a recipe without the notes of another script."""
    return replace(recipe, notes=[])


def check(path: Path, rung: str, force: bool) -> None:
    """Check what was asked before anything is read.

    Raises:
        ConfigError: if there is no such rung, or a file is in the way.
    """
    if rung not in RUNGS:
        raise ConfigError(unknown_name("rung", rung, RUNGS))
    if path.is_dir():
        raise ConfigError(
            f"a script is a file, and {path} is a folder; add a name, such as train.py"
        )
    if path.exists() and not force:
        raise ConfigError(f"{path} is there already; --force writes over it")
    if path.stem in {*sys.stdlib_module_names, "numpy", "safetensors", "sklearn", "torch"}:
        raise ConfigError(
            f"a script must not hide a module that it may import, and {path.name} hides "
            f"{path.stem}; choose another name, such as train.py"
        )
    if not path.parent.is_dir():
        raise ConfigError(f"the folder {path.parent} must be there; make it first")


def write(
    recipe: Recipe,
    path: Path,
    rung: str,
    force: bool,
    *,
    beside: Path | None = None,
    inline: bool = False,
) -> Ejected:
    """Write the script of a recipe, and the tensors that it reads beside it."""
    beside = beside or path.with_name(f"{path.stem}-data.safetensors")
    script = Script(recipe, rung, beside.name)
    whole = script.text()
    check_rung(script.limits, rung)
    text = lower(whole, rung, inline=inline)
    if tensors := script.beside():
        from safetensors.torch import save_file

        if beside.exists() and not force:
            raise ConfigError(f"{beside} is there already; --force writes over it")
        write_whole(beside, lambda scratch: save_file(unshared(tensors), scratch))
    write_whole(path, lambda scratch: scratch.write_text(text, encoding="utf-8"))
    return Ejected(recipe, rung, path)


def unshared(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors as a safetensors file takes them: contiguous, each in memory of its own."""
    held: set[int] = set()
    own: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        is_held = tensor.untyped_storage().data_ptr() in held
        own[name] = tensor.contiguous().clone() if is_held else tensor.contiguous()
        held.add(own[name].untyped_storage().data_ptr())
    return own


def check_rung(limits: list[EjectError], rung: str) -> None:
    """Check that a rung has all that the training used.

    Args:
        limits: of what it used, each with the lowest rung that has it.
        rung: one of `RUNGS`.

    Raises:
        EjectError: the one that stops at the highest rung, if that is above this one.
    """
    depth = {limit: RUNGS.index(limit.lowest) if limit.lowest else -1 for limit in limits}
    first = min(limits, key=lambda limit: depth[limit], default=None)
    if first and RUNGS.index(rung) > depth[first]:
        raise first


def verified(ejected: Ejected, steps: int | None = None) -> Verdict:
    """Run a script by itself, and compare every step's loss and the weights with the run.

    Where this machine's bits are others than the recorded ones, a fresh run is compared instead.
    """
    recipe, rung = ejected.recipe, ejected.rung
    if rung == "math":
        return verified_in_float64(ejected)
    given = run_alone(ejected.path, recipe.fingerprint, steps)
    changed = given.differs_from(recipe.fingerprint)
    outcome = run_again(recipe, changed) if changed else recipe.outcome
    verdict = compare(given, outcome, rung, steps, recipe.steps)
    if changed:
        note = f"this machine gives other bits ({changed}), so a fresh run was compared: "
        return Verdict(verdict.holds, note + verdict.text)
    return verdict


def verified_in_float64(ejected: Ejected) -> Verdict:
    """Compare the script with that of rung data, both in double precision."""
    fingerprint = ejected.recipe.fingerprint
    with tempfile.TemporaryDirectory(prefix="plainfit-eject-") as folder:
        upper = write(fresh(ejected.recipe), Path(folder) / "upper.py", "data", force=True).path
        upper.write_text(in_float64(upper.read_text(encoding="utf-8")), encoding="utf-8")
        pair = [run_alone(path, fingerprint, STEPS_IN_FLOAT64) for path in (upper, ejected.path)]
    return compare_in_float64(*pair)


def run_again(recipe: Recipe, changed: str) -> Outcome:
    """Train with the recorded settings on this machine, and return what that gives."""
    if recipe.config is None or recipe.stop is not None:
        raise EjectError(
            f"a script is compared under the fingerprint of its training, and this machine has "
            f"another ({changed}); train again here and eject that"
        )
    from plainfit.runs.train import train

    with tempfile.TemporaryDirectory(prefix="plainfit-eject-") as folder:
        again = Path(folder) / "run"
        threads = recipe.fingerprint["threads"]
        config = replace(recipe.config, out=again, epochs=recipe.epochs, threads=threads)
        train(config, echo=None)
        return outcome_of(again, read_record(again))
