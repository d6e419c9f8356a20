"""From a run to a plain PyTorch script: `eject`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from plainfit.cli.shared import Debug, RunFolder, show
from plainfit.common.errors import ConfigError

if TYPE_CHECKING:
    from plainfit.eject import Ejected

DIFFERS = 1  # exit code where a script gives something else


def eject(
    run: RunFolder,
    rung: Annotated[
        str, typer.Option(help="How far down: loop, data, optim, layers, tensors or math.")
    ] = "loop",
    out: Annotated[Path, typer.Option("--out", "-o", help="Where to write the script.")] = Path(
        "train.py"
    ),
    all_: Annotated[
        Path | None,
        typer.Option("--all", help="Write every rung and the diffs into a folder.", metavar="DIR"),
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Run it, and compare losses and weights with the run.")
    ] = False,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Compare the first so many steps only.")
    ] = None,
    inline: Annotated[
        bool, typer.Option("--inline", help="Put in what is always the same; layers at their use.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Write over files there.")] = False,
    debug: Debug = False,
) -> None:
    """Write a run as a plain PyTorch script that gives the same bits, without plainfit."""
    if steps is not None and not verify:
        raise ConfigError("--steps says how much to compare: add --verify")
    from plainfit.eject import eject_all, eject_run

    reason = ""
    if all_ is not None:
        done, reason = eject_all(run, all_, inline=inline, force=force)
    else:
        done = [eject_run(run, out, rung=rung, inline=inline, force=force)]
    held = [report(ejected, verify, steps) for ejected in done]
    if reason:
        show(f"note   {reason}")
    raise typer.Exit(0 if all(held) else DIFFERS)


def report(ejected: "Ejected", verify: bool, steps: int | None) -> bool:
    """Say what was written and, if that is asked, whether it gives what the run gave."""
    lines = len(ejected.path.read_text(encoding="utf-8").splitlines())
    show(f"script {ejected.path}: rung {ejected.rung}, {lines} lines")
    if not verify:
        return True
    from plainfit.eject import verified

    verdict = verified(ejected, steps)
    show(f"verify {'holds' if verdict.holds else 'DIFFERS'}: {verdict.text}")
    return verdict.holds
