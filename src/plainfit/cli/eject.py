"""From a run to a plain PyTorch script: `eject`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from plainfit.cli.shared import Debug, RunFolder, TrustCode, asking, show
from plainfit.common.errors import ConfigError

if TYPE_CHECKING:
    from plainfit.eject import Ejected

DIFFERS = 1  # the exit code if a script gives other losses or weights


def eject(
    run: RunFolder,
    level: Annotated[
        str, typer.Option(help="How far down: loop, data, optim, layers, tensors or math.")
    ] = "loop",
    out: Annotated[Path, typer.Option("--out", "-o", help="Where to write the script.")] = Path(
        "train.py"
    ),
    all_: Annotated[
        Path | None,
        typer.Option(
            "--all",
            help="Write every level, and the diffs between them, into a folder.",
            metavar="DIR",
        ),
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Run it, and compare losses and weights with the run.")
    ] = False,
    steps: Annotated[
        int | None, typer.Option(min=1, max=10**9, help="Compare only the first N steps.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite existing files.")] = False,
    trust_code: TrustCode = False,
    debug: Debug = False,
) -> None:
    """Write a run as a plain PyTorch script that gives the same bits, without plainfit."""
    if steps is not None and not verify:
        raise ConfigError("needs --verify: it limits the steps that are compared", "steps")
    from plainfit.eject import eject_all, eject_run

    def write(trust: bool) -> "tuple[list[Ejected], str]":
        if all_ is not None:
            return eject_all(run, all_, force=force, trust_code=trust, look=not verify)
        one = eject_run(run, out, level=level, force=force, trust_code=trust, look=not verify)
        return [one], ""

    done, reason = asking(write, trust_code)
    held = [report(ejected, verify, steps) for ejected in done]
    if reason:
        show(f"note   {reason}")
    raise typer.Exit(0 if all(held) else DIFFERS)


def report(ejected: "Ejected", verify: bool, steps: int | None) -> bool:
    lines = len(ejected.path.read_text(encoding="utf-8").splitlines())
    show(f"script {ejected.path}: level {ejected.level}, {lines} lines")
    if not verify:
        return True
    from plainfit.eject import verified

    verdict = verified(ejected, steps)
    show(f"verify {'holds' if verdict.holds else 'DIFFERS'}: {verdict.text}")
    return verdict.holds
